"""Deep ensembles of small networks on a polynomial trend."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt
from torch import Tensor
from torch.distributions import Normal

from emulate.contracts import Core, Recipe
from emulate.emulators._agreement import doubt
from emulate.emulators._kernels import MEANS, basis, basis_slopes, determined
from emulate.emulators._networks import Chain, hidden, named, new_layers, output, unnamed
from emulate.emulators._places import shuffled
from emulate.emulators._private import Tempo, allow, descend, need, sizes, started
from emulate.emulators._threads import calm
from emulate.emulators._training import Noises, Pace, Values, learn
from emulate.errors import InputError
from emulate.privacy import Ledger, Privacy
from emulate.runs import Runs

_FULL = 5000  # runs up to which every step sees all of them, by L-BFGS; beyond, minibatches by Adam
_BLIND = 2  # folds that a member does not see, so that every run has two members that are blind to it
_CHUNK = 2048  # runs that all members answer together
_BOX = 1024  # points of the box over which the spread of private members is averaged


class _Fitted(Core):
    """Mean and variance over the members of trend + network; weights `[members, in, out]` in one batch."""

    trend: Tensor
    beta: Tensor
    scale: Tensor
    residual: Tensor
    inflation: Tensor

    def __init__(self, state: dict[str, Tensor]):
        super().__init__()
        for name, value in state.items():
            self.register_buffer(name, value)
        self._names = tuple(state)
        self._trend = MEANS[int(self.trend)]
        self._heads = "head_weight0" in state
        self._made: tuple[Tensor, Chain, Chain | None] | None = None

    def forward(self, u: Tensor) -> Normal:
        flat = u.reshape(-1, u.shape[-1])
        each = self.members(flat)
        mean = each.mean(0)
        variance = each.var(0, unbiased=False) + (self._noise(flat).mean(0) if self._heads else self.residual)
        shape = (*u.shape[:-1], mean.shape[-1])
        return Normal(mean.reshape(shape), (self.inflation * variance).sqrt().reshape(shape), validate_args=False)

    def members(self, u: Tensor) -> Tensor:
        """What each member says at u `[n, d]`: z `[members, n, p]`."""
        *inner, last = self._layers()
        return output(hidden(u, inner), last) * self.scale + basis(u, self._trend) @ self.beta

    def slopes(self, u: Tensor) -> tuple[Tensor, Tensor]:
        return self.tangent(u)[1]

    @torch.no_grad()
    def tangent(self, u: Tensor) -> tuple[Normal, tuple[Tensor, Tensor]]:
        """One pass through all members for the values and their slopes."""
        values, noises = self._chains
        rows, p = values.rows, self.beta.shape[-1]
        mean, variance = (u.new_empty(len(u), p) for _ in range(2))
        by_mean, by_variance = (u.new_empty(len(u), values.k, values.q) for _ in range(2))
        room = values.room(u)
        across = -1 if values.back else -2  # where the parameters stand in a slope

        for i in range(0, len(u), rows):
            part = slice(i, i + rows)
            each, slope = values(u[part], room)
            each.baddbmm_(basis(u[part], self._trend).expand(len(each), -1, -1), self.beta)
            torch.mean(each, 0, out=mean[part])
            torch.mean(slope, 0, out=by_mean[part])
            each -= mean[part]
            torch.mean(slope.mul_(each.unsqueeze(across)), 0, out=by_variance[part])
            torch.mean(each.square_(), 0, out=variance[part])
            if noises is None:
                variance[part] += self.residual
            else:
                each, slope = noises(u[part], room)
                each.exp_()
                variance[part] += each.mean(0)
                by_variance[part] += slope.mul_((each / 2).unsqueeze(across)).mean(0)
        by_variance *= 2 * self.inflation.unsqueeze(across)
        told = Normal(mean, (self.inflation * variance).sqrt(), validate_args=False)
        return told, (by_mean, by_variance) if values.back else (by_mean.mT, by_variance.mT)

    @property
    def _chains(self) -> tuple[Chain, Chain | None]:
        """Of the values, scaled and with their trend, and of the heads; made again when the weights move to a device."""
        if self._made is None or self._made[0] is not self.beta:
            *inner, (weight, bias) = self._layers()
            corner = torch.eye(inner[0][0].shape[1], dtype=weight.dtype, device=weight.device)
            corners = torch.cat(
                [torch.zeros_like(corner[:1]), corner]
            )  # slopes of a parabola are affine: these tell all
            c, *h = (basis_slopes(corners, self._trend).mT @ self.beta[:, None]).mT.unbind(1)
            affine = c, torch.stack(h, 1) - c[:, None]
            values = Chain([*inner, (weight * self.scale, bias * self.scale)], affine)
            self._made = self.beta, values, Chain(self._layers("head_")) if self._heads else None
        return self._made[1:]

    def _noise(self, u: Tensor) -> Tensor:
        *inner, last = self._layers("head_")
        return output(hidden(u, inner), last).exp()

    def _layers(self, prefix: str = "") -> list[tuple[Tensor, ...]]:
        return unnamed({name: getattr(self, name) for name in self._names}, prefix)


@dataclass(frozen=True, kw_only=True)
class MLP(Recipe):
    r"""Deep ensemble: smooth networks on a polynomial trend, each blind to two folds of the runs; scales to many runs.

    z = h(u)^T beta + net(u), a least-squares polynomial and a SiLU network of what it leaves, one of each per member
    (Lakshminarayanan, Pritzel and Blundell 2017). Member i minimises the mean squared error over all runs but folds i and
    i + 1, plus `decay` / n times the squared weights of the hidden layers and `ridge` times those of the last, and keeps
    the weights that were best on those folds. Up to 5000 runs by L-BFGS on all runs, beyond by Adam in batches; the last
    layer is in closed form at every step (Golub and Pereyra 1973). Mean and spread are those of the members. Of runs with
    Jacobians the squared error of dz/dx, x = sqrt(12) u, is added with the weight `sobolev` (Czarnecki et al. 2017), in
    the trend too.

    Every run has two blind members, with errors e and e': mean e e' is the error B that members share, mean e^2 - B
    their own part S, and B + S / members the squared error of the ensemble. The variance is the spread plus what of
    this the spread does not explain; `calibrate` scales it to B + S / members on average. With `heads: variance` a second
    ensemble learns where the errors of the blind members are large, so that the noise of a stochastic simulator may depend
    on its parameters; the mean is still that of least squares, which such noise does not pull (Seitzer et al. 2022).

    On few runs of a smooth simulator a GP is more accurate; a network costs the same for many runs.

    With `privacy` one network is trained, by private steps: a quarter of them for the trend (auto: linear), the others for
    what it leaves over its size. The members are averages of its weights over stretches of the last quarter of these, and
    the variance is their spread and its mean over the box, scaled for each field by the sum for `calibrate`. Jacobians are not
    read; of the settings of the search rate, schedule and decay hold.

    >>> MLP(members=4).minimum_runs(2)
    8
    """

    takes: ClassVar[tuple[str, ...]] = ("slopes",)

    members: Annotated[int, Ge(3)] = 10  # networks, and folds of the runs
    width: Annotated[int, Ge(1)] = 64  # units in a hidden layer
    layers: Annotated[int, Ge(1)] = 2  # hidden layers
    activation: Literal["silu", "learned"] = "silu"  # learned: two numbers of each unit shape it, as in CosmoPower
    heads: Literal["mean", "variance"] = "mean"  # variance: the noise depends on the parameters, and is learnt too
    trend: Literal["auto", "constant", "linear", "quadratic"] = "auto"  # auto: the richest that half the runs determine
    decay: Annotated[float, Ge(0)] = 0.1  # of the hidden layers' squared weights against the sum of squared errors
    ridge: Annotated[float, Ge(0)] = 1e-8  # of the last layer's against the mean squared error
    sobolev: Literal["auto"] | Annotated[float, Ge(0)] = "auto"  # weight of errors in slope; auto: 1 if runs carry them
    optimizer: Literal["auto", "lbfgs", "adam"] = "auto"  # auto: L-BFGS on all runs up to 5000, beyond Adam in batches
    epochs: Annotated[int, Ge(1)] = 30  # at most: of ten L-BFGS iterations, or passes over the runs in batches
    patience: Annotated[int, Ge(1)] = 10  # epochs in which no member gets better on its own folds, and training stops
    batch: Annotated[int, Ge(1)] = 256  # runs in a batch of Adam; at least four for each hidden unit are taken
    rate: Annotated[float, Gt(0)] = 1e-2  # highest learning rate of Adam
    schedule: Literal["one_cycle", "cosine", "constant"] = "one_cycle"  # of Adam's learning rate over the epochs
    privacy: Privacy | None = (
        None  # {ranges, epsilon, ...}: what is saved tells of no single run; empty: no such promise
    )

    def __post_init__(self) -> None:
        if self.privacy is not None:
            wrong = {"calibrate": "true" if self.calibrate == "conformal" else "", "log": "true" if self.log == "auto" else "",
                     "heads": "mean" if self.heads != "mean" else "", "sobolev": "0" if self.sobolev not in ("auto", 0) else "",
                     "optimizer": "adam" if self.optimizer == "lbfgs" else ""}  # fmt: skip
            allow("mlp", {key: advice for key, advice in wrong.items() if advice})

    def minimum_runs(self, d: int) -> int:
        return max(2 * self.members, {"linear": 2 * (1 + d), "quadratic": (d + 1) * (d + 2)}.get(self.trend, 0))

    def doubt(self, runs: Runs) -> str:
        return doubt(runs) if runs.jacobian is not None and self.sobolev != 0 else ""

    def train(self, u: Tensor, z: Tensor, *, noisy: bool, seed: int, slopes: Tensor | None = None,
              ledger: Ledger | None = None) -> Core:  # fmt: skip
        if self.privacy is not None:
            return self._private(u, z, need(ledger, "mlp"), seed)
        generator = torch.Generator().manual_seed(seed)
        fold = shuffled(u, generator, least=self.members) % self.members
        seen = ((fold - torch.arange(self.members)[:, None]) % self.members >= _BLIND).to(u.dtype)  # [members, n]
        sobolev = float(slopes is not None) if self.sobolev == "auto" else float(self.sobolev)
        if sobolev and slopes is None:
            raise InputError(f"mlp: sobolev weighs errors in slope and must have runs that carry their Jacobians. Got "
                             f"{sobolev:g} and runs without; set simulate.jacobians to auto, or sobolev to auto.")  # fmt: skip
        slopes = slopes if sobolev else None
        trend = self._trend(u, seen, slopes)
        beta, scale = _trends(u, z, seen, trend, slopes, sobolev)

        def value(u: Tensor, with_slopes: bool) -> tuple[Tensor, Tensor | None]:
            return basis(u, trend) @ beta, basis_slopes(u, trend).movedim(-1, 0) @ beta[
                :, None
            ] if with_slopes else None

        full = self.optimizer == "lbfgs" or (self.optimizer == "auto" and len(u) <= _FULL)
        pace = Pace(self.epochs, self.patience, full, self.batch, self.rate, self.schedule)
        with calm(len(u) if full else self.batch):
            lesson = Values(self._hidden(u, generator), u, z, value, scale, seen, decay=self.decay / len(u), ridge=self.ridge,
                            slopes=slopes, sobolev=sobolev)  # fmt: skip
            layers, history = learn(lesson, pace, generator)
            ones = torch.ones(z.shape[-1], dtype=u.dtype)
            state = {"trend": torch.tensor(MEANS.index(trend)), "beta": beta, "scale": scale, **named(layers)}
            state |= {"residual": ones, "inflation": ones}
            core = _Fitted(state)
            blind = torch.stack([fold, (fold - 1) % self.members])  # the members that never saw a run
            pair = _of_blind(core.members, u, blind) - z
            rest, core.inflation, noise = *_variance(pair, self.members, calibrate=bool(self.calibrate)), None
            core.residual = rest
            if self.heads == "variance":
                core, noise = self._with_heads(core, u, pair, seen, blind, pace, generator)
        shared = pair.mean(0)
        spread = shared.square().mean(0) if noise is None else core.inflation * noise
        core.left_out = Normal(z + shared, spread.clamp_min(1e-20).sqrt().expand_as(z), validate_args=False)
        core.history = history
        return core

    def rebuild(self, state: dict[str, Tensor]) -> Core:
        return _Fitted(state)

    def _private(self, u: Tensor, z: Tensor, ledger: Ledger, seed: int) -> Core:
        ledger.open(sums=1 + bool(self.calibrate))
        generator = torch.Generator().manual_seed(seed)
        trend, p = "linear" if self.trend == "auto" else self.trend, z.shape[-1]
        beta, scale, rest, left = started(basis(u, trend), z, ledger)
        layers = self._hidden(u, generator, members=1)
        layers = named([*layers, (u.new_zeros(1, self.width, p), u.new_zeros(1, 1, p))])

        def loss(weights: tuple[Tensor, ...], u: Tensor, rest: Tensor) -> Tensor:
            *inner, last = unnamed(dict(zip(layers, weights, strict=True)))
            return (output(hidden(u[None], inner), last)[0, 0] - rest).square().mean()

        tempo = Tempo(self.rate, self.schedule, 2 * self.decay / ledger.runs)
        kept = descend(loss, [*layers.values()], (u, rest / scale), ledger, left, tempo, kept=self.members)
        state = {"trend": torch.tensor(MEANS.index(trend)), "beta": beta.expand(self.members, -1, -1).clone(),
                 "scale": scale.expand(self.members, 1, -1).clone()}  # fmt: skip
        state |= {name: torch.cat(each) for name, each in zip(layers, zip(*kept, strict=True), strict=True)}
        core = _Fitted({**state, "residual": scale.square(), "inflation": torch.ones_like(scale)})
        if self.calibrate:
            core.residual, core.inflation = _calibrated(core, u, z, ledger)
        return core

    def _hidden(self, u: Tensor, generator: torch.Generator, members: int | None = None) -> list[tuple[Tensor, ...]]:
        layers = [u.shape[-1], *[self.width] * self.layers]
        return new_layers(layers, members or self.members, learned=self.activation == "learned", generator=generator)

    def _with_heads(self, core: _Fitted, u: Tensor, pair: Tensor, seen: Tensor, blind: Tensor, pace: Pace,
                    generator: torch.Generator) -> tuple[_Fitted, Tensor]:  # fmt: skip
        """The core with variances learnt from the blind members' errors, and those of the runs `[n, p]`."""
        square = pair.mean(0).square()
        level = square.mean(0).clamp_min(1e-20)
        layers, _ = learn(
            Noises(self._hidden(u, generator), u, square / level, seen, decay=self.decay / len(u)), pace, generator
        )
        layers[-1] = (layers[-1][0], layers[-1][1] + level.log())
        core = _Fitted({**core.state_dict(), **named(layers, "head_")})
        own = (pair[0] - pair[1]).square().mean(0) / 2
        noise = _of_blind(core._noise, u, blind).mean(0) + own
        whole = pair[0] * pair[1] + (pair[0] - pair[1]).square() / (2 * self.members)
        core.inflation = (whole / noise).mean(0).clamp_min(0.05) if self.calibrate else torch.ones_like(own)
        return core, noise

    def _trend(self, u: Tensor, seen: Tensor, slopes: Tensor | None) -> str:
        if self.trend != "auto":
            return self.trend
        each = 1 if slopes is None else 1 + u.shape[-1]  # equations that one run gives
        fits = [m for m in MEANS if 2 * basis(u[:1], m).shape[-1] <= each * seen.sum(1).min()]
        if slopes is not None:
            return fits[-1]
        return [m for m in fits or MEANS[:1] if m == "constant" or all(determined(u[s > 0], m) for s in seen)][-1]


def _trends(u: Tensor, z: Tensor, seen: Tensor, trend: str, slopes: Tensor | None,
            sobolev: float) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Coefficients `[members, k, p]` and the root mean square of what they leave `[members, 1, p]`."""
    h, beta, scale, weight = basis(u, trend), [], [], (sobolev / 12) ** 0.5
    steep = None if slopes is None else weight * basis_slopes(u, trend).movedim(-1, 0)  # [d, n, k]
    for mask in seen > 0:
        rows, values = h[mask], z[mask]
        left, right = rows, values
        if steep is not None and slopes is not None:
            left = torch.cat([rows, steep[:, mask].flatten(0, 1)])
            right = torch.cat([values, weight * slopes[mask].permute(2, 0, 1).flatten(0, 1)])
        beta.append(torch.linalg.lstsq(left, right, driver="gelsd").solution)  # the default's bits vary
        scale.append((values - rows @ beta[-1]).square().mean(0, keepdim=True).sqrt())
    return torch.stack(beta), torch.stack(scale).clamp_min(1e-12)


@torch.no_grad()
def _calibrated(core: _Fitted, u: Tensor, z: Tensor, ledger: Ledger) -> tuple[Tensor, Tensor]:
    """Residual variance and inflation `[p]` of private members by one sum: the mean of their spread over the box, and what
    makes intervals as wide as the errors are."""
    box = torch.quasirandom.SobolEngine(u.shape[-1]).draw(_BOX, dtype=u.dtype)
    level = core.members(box).var(0, unbiased=False).mean(0).clamp_min(1e-20)
    each = [core.members(part) for part in u.split(_CHUNK)]
    mean, spread = (torch.cat([f(e) for e in each]) for f in (lambda e: e.mean(0), lambda e: e.var(0, unbiased=False)))
    shape = ((spread + level) / (2 * level)).sqrt()
    return level, sizes((z - mean) / shape, ledger).square() / (2 * level)


@torch.no_grad()
def _of_blind(each, u: Tensor, blind: Tensor) -> Tensor:
    """What the two members that never saw a run say of it, `[2, n, p]`."""
    rows = torch.arange(len(u)).split(_CHUNK)
    return torch.cat([each(u[r])[blind[:, r], torch.arange(len(r))] for r in rows], 1)


def _variance(pair: Tensor, members: int, *, calibrate: bool) -> tuple[Tensor, Tensor]:
    """Residual variance and inflation `[p]` from the errors e, e' `[2, n, p]` of the two members blind to each run."""
    square = pair.square().mean((0, 1))  # mean e^2 of one member
    common = (pair[0] * pair[1]).mean(0).clamp_min(0)  # mean e e'
    own = (square - common).clamp_min(0)
    whole = (common + own / members).clamp_min(0.05 * square).clamp_min(1e-20)
    rest = (whole - own).clamp_min(0.1 * whole)
    return rest, whole / (own + rest) if calibrate else torch.ones_like(rest)
