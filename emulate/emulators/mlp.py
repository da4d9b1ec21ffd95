"""Deep ensembles of small networks on a polynomial trend."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt
from torch import Tensor
from torch.distributions import Normal

from emulate.contracts import Core, Recipe
from emulate.emulators._kernels import MEANS, basis, determined
from emulate.emulators._threads import calm

_FULL = 2000  # runs up to which every step sees all of them, by L-BFGS; beyond, minibatches by Adam
_BATCH = 256
_INNER = 10  # L-BFGS iterations in one epoch
_BLIND = 2  # folds that a member does not see, so that every run has two members that are blind to it
_SMALL = 0.3  # scale of the first weights: the ensemble starts near its trend


class _Fitted(Core):
    """Mean and variance over the members of trend + network; weights `[members, in, out]` in one batch."""

    def __init__(self, state: dict[str, Tensor]):
        super().__init__()
        for name, value in state.items():
            self.register_buffer(name, value)
        self._layers = sum(name.startswith("weight") for name in state)
        self._trend = MEANS[int(self.trend)]

    def forward(self, u: Tensor) -> Normal:
        flat = u.reshape(-1, u.shape[-1])
        each = self.members(flat)
        mean = each.mean(0)
        sd = (self.inflation * (each.var(0, unbiased=False) + self.residual)).sqrt()
        shape = (*u.shape[:-1], mean.shape[-1])
        return Normal(mean.reshape(shape), sd.reshape(shape), validate_args=False)

    def members(self, u: Tensor) -> Tensor:
        """What each member says at u `[n, d]`: z `[members, n, p]`."""
        layers = [(getattr(self, f"weight{i}"), getattr(self, f"bias{i}")) for i in range(self._layers)]
        return _network(u, layers) * self.scale + basis(u, self._trend) @ self.beta


def _network(u: Tensor, layers: list[tuple[Tensor, Tensor]]) -> Tensor:
    """SiLU network of every member at u `[n, d]`; centred, of about unit variance at the entrance."""
    x = (math.sqrt(12) * (u - 0.5)).expand(len(layers[0][0]), *u.shape)
    for i, (weight, bias) in enumerate(layers):
        x = torch.baddbmm(bias, x, weight)
        x = torch.nn.functional.silu(x) if i + 1 < len(layers) else x
    return x


@dataclass(frozen=True, kw_only=True)
class MLP(Recipe):
    r"""Deep ensemble: smooth networks on a polynomial trend, each blind to two folds of the runs; scales to many runs.

    z = h(u)^T beta + net(u), a least-squares polynomial and a SiLU network of what it leaves, one of each per member
    (Lakshminarayanan, Pritzel and Blundell 2017). Member i minimises the squared error plus `decay` times the squared
    weights over all runs but folds i and i + 1 and keeps the weights that were best on those. Up to 2000 runs by L-BFGS
    on all runs, beyond by Adam in batches of 256 with a one-cycle schedule. Mean and spread are those of the members.

    Every run has two blind members, with errors e and e': mean e e' is the error B that members share, mean e^2 - B
    their own part S, and B + S / members the squared error of the ensemble. The variance is the spread plus what of
    this the spread does not explain; `calibrate` scales it to B + S / members on average.

    On few runs of a smooth simulator a GP is several times more accurate; a network costs the same for many runs.

    >>> MLP(members=4).minimum_runs(2)
    8
    """

    members: Annotated[int, Ge(3)] = 10  # networks, and folds of the runs
    width: Annotated[int, Ge(1)] = 32  # units in a hidden layer
    layers: Annotated[int, Ge(1)] = 2  # hidden layers
    trend: Literal["auto", "constant", "linear", "quadratic"] = "auto"  # auto: the richest that half the runs determine
    decay: Annotated[float, Ge(0)] = 1e-5  # weight of the squared weights against the mean squared error
    epochs: Annotated[int, Ge(1)] = 100  # of ten L-BFGS iterations, or passes over the runs in batches
    rate: Annotated[float, Gt(0)] = 1e-2  # highest learning rate of Adam

    def minimum_runs(self, d: int) -> int:
        return max(2 * self.members, {"linear": 2 * (1 + d), "quadratic": (d + 1) * (d + 2)}.get(self.trend, 0))

    def train(self, u: Tensor, z: Tensor, *, noisy: bool, seed: int) -> Core:
        generator = torch.Generator().manual_seed(seed)
        fold = torch.randperm(len(u), generator=generator) % self.members
        seen = ((fold - torch.arange(self.members)[:, None]) % self.members >= _BLIND).to(u.dtype)  # [members, n]
        trend = self._trend(u, seen)
        h = basis(u, trend)
        solve = torch.linalg.lstsq
        beta = torch.stack(
            [solve(h[s > 0], z[s > 0], driver="gelsd").solution for s in seen]
        )  # the default's bits vary
        rest = z - h @ beta
        scale = ((rest.square() * seen[..., None]).sum(1, keepdim=True) / seen.sum(1)[:, None, None]).sqrt()
        scale = scale.clamp_min(1e-12)
        ensemble = _Ensemble(self, u, rest / scale, seen, generator)
        with calm(len(u) if len(u) <= _FULL else _BATCH):
            history = (ensemble.by_lbfgs if len(u) <= _FULL else ensemble.by_adam)()
        state = {"trend": torch.tensor(MEANS.index(trend)), "beta": beta, "scale": scale, **ensemble.state()}
        ones = torch.ones(z.shape[-1], dtype=u.dtype)
        core = self.rebuild({**state, "residual": ones, "inflation": ones})
        core.residual, core.inflation = _variance(core.members(u), z, seen, calibrate=self.calibrate)
        core.history = history
        return core

    def rebuild(self, state: dict[str, Tensor]) -> Core:
        return _Fitted(state)

    def _trend(self, u: Tensor, seen: Tensor) -> str:
        if self.trend != "auto":
            return self.trend
        fits = [m for m in MEANS if 2 * basis(u[:1], m).shape[-1] <= seen.sum(1).min()]
        return [m for m in fits or MEANS[:1] if m == "constant" or all(determined(u[s > 0], m) for s in seen)][-1]


def _variance(each: Tensor, z: Tensor, seen: Tensor, *, calibrate: bool) -> tuple[Tensor, Tensor]:
    """Residual variance and inflation `[p]` from the errors e, e' of the two members that were blind to each run."""
    blind = 1 - seen[..., None]
    error = (each - z) * blind
    square = error.square().sum(0).mean(0) / _BLIND  # mean e^2 of one member
    common = ((error.sum(0).square() - error.square().sum(0)).mean(0) / (_BLIND * (_BLIND - 1))).clamp_min(
        0
    )  # mean e e'
    own = (square - common).clamp_min(0)
    whole = (common + own / len(each)).clamp_min(0.05 * square).clamp_min(1e-20)
    rest = (whole - own).clamp_min(0.1 * whole)
    return rest, whole / (own + rest) if calibrate else torch.ones_like(rest)


class _Ensemble:
    """The networks while they learn what the trend leaves, r `[members, n, p]`."""

    def __init__(self, recipe: MLP, u: Tensor, r: Tensor, seen: Tensor, generator: torch.Generator):
        self.recipe, self.u, self.r, self.seen, self.generator = recipe, u, r, seen, generator
        sizes = [u.shape[-1], *[recipe.width] * recipe.layers, r.shape[-1]]
        m = recipe.members

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=u.dtype)

        self.layers = [
            (_SMALL / math.sqrt(a) * normal(m, a, b), 0.5 * normal(m, 1, b)) for a, b in itertools.pairwise(sizes)
        ]
        self.weights = [t.requires_grad_() for layer in self.layers for t in layer]
        self.best = torch.full((m,), math.inf, dtype=u.dtype)
        self.kept = [w.detach().clone() for w in self.weights]
        self.history: list[dict[str, float]] = []

    def by_lbfgs(self) -> tuple[dict[str, float], ...]:
        search = torch.optim.LBFGS(self.weights, max_iter=_INNER, history_size=50, line_search_fn="strong_wolfe",
                                   tolerance_change=0.0)  # fmt: skip
        rows = torch.arange(len(self.u))
        for _ in range(self.recipe.epochs):
            search.step(self._closure(search, rows))
            self._look()
        return tuple(self.history)

    def by_adam(self) -> tuple[dict[str, float], ...]:
        steps = math.ceil(len(self.u) / _BATCH)
        search = torch.optim.Adam(self.weights, lr=self.recipe.rate)
        schedule = torch.optim.lr_scheduler.OneCycleLR(search, self.recipe.rate, total_steps=self.recipe.epochs * steps)
        for _ in range(self.recipe.epochs):
            for rows in torch.randperm(len(self.u), generator=self.generator).chunk(steps):
                search.step(self._closure(search, rows))
                schedule.step()
            self._look()
        return tuple(self.history)

    def state(self) -> dict[str, Tensor]:
        """The weights that were best on each member's own fold."""
        names = [f"{kind}{i}" for i in range(len(self.layers)) for kind in ("weight", "bias")]
        return dict(zip(names, self.kept, strict=True))

    def _error(self, rows: Tensor, weight: Tensor) -> Tensor:
        """Mean squared error `[members]` over the rows that `weight` `[members, n]` marks."""
        square = (_network(self.u[rows], self.layers) - self.r[:, rows]).square().mean(-1)
        marked = weight[:, rows]
        return (square * marked).sum(1) / marked.sum(1).clamp_min(1)

    def _closure(self, search: torch.optim.Optimizer, rows: Tensor) -> Callable[[], Tensor]:
        def closure() -> Tensor:
            search.zero_grad()
            size = sum(w.square().sum() for w, _ in self.layers)
            loss = self._error(rows, self.seen).sum() + self.recipe.decay * size
            loss.backward()
            return loss

        return closure

    @torch.no_grad()
    def _look(self) -> None:
        rows = torch.arange(len(self.u))
        train, held_out = self._error(rows, self.seen), self._error(rows, 1 - self.seen)
        better = held_out < self.best  # False for NaN
        self.best = torch.where(better, held_out, self.best)
        for kept, now in zip(self.kept, self.weights, strict=True):
            kept[better] = now[better].detach()
        self.history.append({"loss": float(train.mean()), "held_out_loss": float(held_out.mean())})
