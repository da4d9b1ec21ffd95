"""Conditional neural spline flows: p(z | u) of any shape, for stochastic simulators and for samples of events."""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor
from torch.distributions import Distribution

from emulate.contracts import Core, Recipe, rows_of
from emulate.emulators._kernels import MEANS, basis, determined
from emulate.emulators._places import parted
from emulate.emulators._private import Tempo, allow, descend, need, sizes, started
from emulate.emulators._spline import Splines
from emulate.emulators._threads import calm
from emulate.errors import InputError
from emulate.privacy import Ledger, Privacy

_LN_2PI = math.log(2 * math.pi)
_BOX = 5.0  # standard deviations inside which splines bend, at least; beyond, tails are Gaussian
_MARGIN = 3.0  # by which the box exceeds the largest residual: a Gaussian tail costs an outlier tens of nats
_SLOPE = 1e-3  # least and, inverted, greatest slope of a spline
_SMALL = 0.1  # scale of the first weights of the last layers: a flow starts near the Gaussian
_FLOOR = 1e-10  # no direction of z has less than this share of the mean residual variance
_PRIOR = 5.0  # held-out runs that the prior tau = 1 is worth
_PLACES = 10  # places with runs from which whole places are held out
_CLIP = 5.0  # norm that a gradient is cut to
_ROOM = 8.0  # the box of private splines, whatever the runs are
_AT_ONCE = 2**21  # numbers that the splines of one block of nodes may hold


class _Density(Distribution):
    r"""p(z | u) = 1/M sum_i N(T_i(x; u); 0, diag(tau_i^2)) |dT_i/dx| / |dz/dx|, x the whitened residual of the trend."""

    has_rsample = True

    @property
    def arg_constraints(self) -> dict[str, Any]:
        return {}

    def __init__(self, core: "_Fitted", u: Tensor):
        self.core, self.u = core, u
        super().__init__(u.shape[:-1], core.loc.shape[-1:], validate_args=False)

    @cached_property
    def _trend(self) -> Tensor:
        return basis(self.u, self.core.below) @ self.core.beta

    @cached_property
    def nodes(self) -> Tensor:
        """Equally likely points `[..., K, p]`: the same quasi-random points of the base in every call."""
        core, flat = self.core, self.u.reshape(-1, self.u.shape[-1])
        size = max(1, _AT_ONCE // (core.base.numel() * core.knots))
        parts = (flat,) if torch.compiler.is_compiling() else flat.split(size)
        x = torch.cat([torch.cat([core.pull(i, u[:, None], base) for i, base in enumerate(core.base)], 1)
                       for u in parts])  # fmt: skip
        return self._trend[..., None, :] + core.colour(x).reshape(*self.u.shape[:-1], *x.shape[1:])

    @cached_property
    def mean(self) -> Tensor:
        return self.nodes.mean(-2)

    @cached_property
    def variance(self) -> Tensor:
        return self.nodes.var(-2, unbiased=False)

    @cached_property
    def covariance_matrix(self) -> Tensor:
        off = self.nodes - self.mean[..., None, :]
        return off.mT @ off / off.shape[-2]

    def rsample(self, sample_shape=(), *, generator: torch.Generator | None = None) -> Tensor:
        """Differentiable draws `[*sample_shape, ..., p]`, each by one member."""
        core, shape = self.core, (*sample_shape, *self.batch_shape)
        base = torch.randn((*shape, *self.event_shape), dtype=self.u.dtype, device=self.u.device, generator=generator)
        x = core.pull(0, self.u, base)
        if len(core.base) > 1:
            member = torch.randint(len(core.base), shape, device=self.u.device, generator=generator)
            for i in range(1, len(core.base)):
                x = torch.where((member == i)[..., None], core.pull(i, self.u, base), x)
        return self._trend + core.colour(x)

    def sample(self, sample_shape=(), *, generator: torch.Generator | None = None) -> Tensor:
        with torch.no_grad():
            return self.rsample(sample_shape, generator=generator)

    def icdf(self, value: Tensor) -> Tensor:
        """z `[..., 1]` below which lies the probability value `[..., 1]`, differentiable in both: the draw of a flow of
        one component that belongs to a uniform number."""
        core = self.core
        if len(core.base) * len(core.loc) > 1:
            raise InputError(f"quantiles need a flow of one member and one component. Got {core!r}.")
        base = torch.special.ndtri(value) * core.turn[0].sign()
        return self._trend + core.colour(core.pull(0, self.u, base))

    def log_prob(self, value: Tensor) -> Tensor:
        x = self.core.whiten(value - self._trend)
        each = torch.stack([self.core.log_density(i, self.u, x) for i in range(len(self.core.base))])
        return torch.logsumexp(each, 0) - math.log(len(each)) - self.core.spread.log().sum()


class _Fitted(Core):
    """z = trend(u) + loc + V (spread * x), x by one of M spline flows of tau_i times the base N(0, 1).

    Shapes: beta `[k, p]`, loc and spread `[p]`, turn V `[p, p]`, tau `[M, p]`, base `[M, K, p]`, centre and width `[d]`.
    """

    trend: Tensor  # the place of the mean in MEANS
    beta: Tensor
    centre: Tensor
    width: Tensor
    loc: Tensor
    turn: Tensor
    spread: Tensor
    tau: Tensor
    base: Tensor
    box: Tensor

    def __init__(self, recipe: "Flow", state: dict[str, Tensor]):
        super().__init__()
        for name, value in state.items():
            if "." not in name:
                self.register_buffer(name, value)
        self.knots, self.below, self.bound = 3 * recipe.bins, MEANS[int(self.trend)], float(self.box)
        d, p = len(state["centre"]), len(state["loc"])
        self.flows = torch.nn.ModuleList(_splines(recipe, p, d, self.bound) for _ in self.tau)
        learned = {name: value for name, value in state.items() if "." in name}
        if learned:
            self.flows.load_state_dict({name.removeprefix("flows."): value for name, value in learned.items()})

    def __repr__(self) -> str:  # that of a spline in zuko draws from the global generator
        return f"{len(self.flows)} spline flows of {len(self.loc)} components"

    def forward(self, u: Tensor) -> _Density:
        return _Density(self, u)

    def whiten(self, residual: Tensor) -> Tensor:
        return ((residual - self.loc) @ self.turn) / self.spread

    def colour(self, x: Tensor) -> Tensor:
        return self.loc + (x * self.spread) @ self.turn.mT

    def pull(self, i: int, u: Tensor, base: Tensor) -> Tensor:
        """x of points of the base, by member i."""
        x = self.tau[i] * base
        if len(self.loc) > 1:
            return self.flows[i](self._context(u)).inv(x)
        for spline in reversed(self._alone(i, u, x)):
            x = spline.pull(x[..., 0])[..., None]
        return x

    def push(self, i: int, u: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """T_i(x; u) and ln|dT_i/dx|."""
        if len(self.loc) > 1:
            return self.flows[i](self._context(u)).call_and_ladj(x)
        ladj = torch.zeros(())
        for spline in self._alone(i, u, x):
            y, slope = spline.push(x[..., 0])
            x, ladj = y[..., None], ladj + slope
        return x, ladj

    def _alone(self, i: int, u: Tensor, like: Tensor) -> list[Splines]:
        """The splines of a single component, which depend on u alone, ready for x of the shape of `like`."""
        context = self._context(u)
        context = context.reshape(*(1,) * (like.ndim - u.ndim), *context.shape)
        return [
            Splines(hyper(context).movedim(-1, 0).contiguous(), self.bound, _SLOPE) for hyper in _hypers(self.flows[i])
        ]

    def log_density(self, i: int, u: Tensor, x: Tensor) -> Tensor:
        """ln p(x | u) by member i."""
        if not x.numel():  # zuko cannot sum the slopes of no points
            return x.sum(-1)
        base, slope = self.push(i, u, x)
        return slope + self.log_base(i, base)

    def log_base(self, i: int, base: Tensor) -> Tensor:
        """ln N(base; 0, diag(tau_i^2))."""
        normal = (base / self.tau[i]).square().sum(-1) + 2 * self.tau[i].log().sum() + len(self.loc) * _LN_2PI
        return -0.5 * normal

    def _context(self, u: Tensor) -> Tensor:
        return (u - self.centre) / self.width


class _LogDensity(torch.nn.Module):
    """ln p(x | u) by the first flow of a core, as a module, so that weights can be put in its place."""

    def __init__(self, core: _Fitted):
        super().__init__()
        self.core = core

    def forward(self, u: Tensor, x: Tensor) -> Tensor:
        return self.core.log_density(0, u, x)


def _hypers(flow: torch.nn.Module) -> list[torch.nn.Module]:
    """The networks that give the knots of each transform in turn."""
    return [t.get_submodule("hyper") for t in flow.get_submodule("transforms").children()]


def _splines(recipe: "Flow", p: int, d: int, box: float) -> torch.nn.Module:
    """x -> base given the context: rational-quadratic splines in zuko, their weights from the global generator."""
    from zuko.flows import MAF
    from zuko.transforms import MonotonicRQSTransform

    k = recipe.bins
    coupled = p > 3 if recipe.coupling == "auto" else recipe.coupling
    passes: dict[str, Any] = {"passes": 2} if coupled and p > 1 else {}
    with torch.random.fork_rng(devices=[]):
        flow = MAF(p, d, transforms=recipe.transforms, hidden_features=(recipe.width,) * recipe.layers,
                   activation=torch.nn.SiLU, univariate=partial(MonotonicRQSTransform, bound=box, slope=_SLOPE),
                   shapes=[(k,), (k,), (k - 1,)], **passes)  # fmt: skip
    return flow.transform.double()


@dataclass(frozen=True, kw_only=True)
class Flow(Recipe):
    r"""Conditional neural spline flow: the whole distribution of a stochastic output, or of events, given theta.

    z = trend(u) + V (s x), with x = T^-1(b; u), b ~ N(0, diag(tau^2)): a least-squares polynomial, the principal axes of what
    it leaves, and `transforms` monotone rational-quadratic splines, autoregressive or coupled, whose knots a SiLU network
    reads from u (Durkan et al. 2019, by zuko). It maximises the mean of ln p(z | u) by Adam, on a learning rate that
    falls as a cosine, and keeps the weights that were best on `held_out` runs left out; `calibrate` sets tau^2 to the
    mean square of their base points, its maximum likelihood. Members (a mixture) differ in weights and split.

    Learns from runs that differ in theta, one run or event each: a table with the same theta in many rows is welcome. With
    `slopes` a single component also learns from how each run moves with theta at its own seed, where runs carry Jacobians.
    Mean and variance have no closed form: they are over `points` fixed quasi-random points of the base, so that they
    repeat bit by bit and carry gradients. Good densities may still have poor gradients: check those on their own.

    With `privacy` the trend (auto: linear) is found by a quarter of the private steps and the flow by the others, on what it
    leaves over its size; no runs are held out, the weights are averages over the last quarter of the steps, and `calibrate`
    reads the base points of all runs by one sum. Of the settings of the search `rate` holds.

    >>> Flow(coupling=True).minimum_runs(2)
    10
    """

    transforms: Annotated[int, Ge(1)] = 3  # splines after one another
    bins: Annotated[int, Ge(2)] = 8  # pieces of a spline
    width: Annotated[int, Ge(1)] = 64  # units in a hidden layer
    layers: Annotated[int, Ge(1)] = 2  # hidden layers
    coupling: bool | Literal["auto"] = "auto"  # by halves, not one by one; auto: beyond 3 components
    trend: Literal["auto", "constant", "linear", "quadratic"] = "auto"  # auto: the richest that half the runs determine
    members: Annotated[int, Ge(1)] = 1  # flows whose mixture is the prediction
    epochs: Annotated[int, Ge(1)] = 100  # passes over the runs, at most
    patience: Annotated[int, Ge(1)] = 30  # epochs without a better held-out likelihood after which a member stops
    rate: Annotated[float, Gt(0)] = 1e-3  # first learning rate of Adam
    batch: Annotated[int, Ge(1)] = 256  # runs in a step, at most
    held_out: Annotated[float, Gt(0), Le(0.5)] = 0.2  # share of the runs that decides when to stop
    slopes: Annotated[float, Ge(0)] = 0.0  # weight of Jacobians, where the runs of one component carry them
    points: Annotated[int, Ge(16)] = 1024  # quasi-random points under mean and variance
    privacy: Privacy | None = (
        None  # {ranges, epsilon, ...}: what is saved tells of no single run; empty: no such promise
    )

    takes: ClassVar[tuple[str, ...]] = ("slopes",)
    example: ClassVar[dict] = {"transforms": 2, "width": 32, "epochs": 20, "points": 512}

    def __post_init__(self) -> None:
        if self.privacy is not None:
            wrong = {"calibrate": "true" if self.calibrate == "conformal" else "", "log": "true" if self.log == "auto" else "",
                     "members": "1" if self.members > 1 else "", "slopes": "0" if self.slopes else ""}  # fmt: skip
            allow("flow", {key: advice for key, advice in wrong.items() if advice})

    def minimum_runs(self, d: int) -> int:
        return max(10, {"linear": 2 * (1 + d), "quadratic": (d + 1) * (d + 2)}.get(self.trend, 0))

    def train(self, u: Tensor, z: Tensor, *, noisy: bool, seed: int, slopes: Tensor | None = None,
              place: Tensor | None = None, ledger: Ledger | None = None) -> Core:  # fmt: skip
        """`place` `[n]` numbers the places of rows that are held out together, where u does not tell them."""
        if self.privacy is not None:
            return self._private(u, z, need(ledger, "flow"), seed)
        generator = torch.Generator().manual_seed(seed)
        trend = self._trend(u)
        h = basis(u, trend)
        beta = torch.linalg.lstsq(h, z, driver="gelsd").solution  # the default's bits vary
        width = (u - u.mean(0)).square().mean(0).sqrt()
        state = {"trend": torch.tensor(MEANS.index(trend)), "beta": beta, "centre": u.mean(0),
                 "width": torch.where(width > 0, width, 1.0), **_whitening(z - h @ beta),
                 "tau": torch.ones(self.members, z.shape[-1], dtype=u.dtype), "base": _base(self, z.shape[-1])}  # fmt: skip
        x = _filled(((z - h @ beta - state["loc"]) @ state["turn"]) / state["spread"], generator)
        state["box"] = (_MARGIN * x.abs().max()).clamp_min(_BOX)
        core, history, moved = _Fitted(self, state), [], None
        if self.slopes and slopes is not None:
            if z.shape[-1] > 1:
                raise InputError(f"flow: slopes must be 0 where there are several components. Got {self.slopes} and "
                                 f"{z.shape[-1]} components; Jacobians tell how one number moves, not how several do.")  # fmt: skip
            moved = (
                (slopes[:, 0] - rows_of(lambda v: basis(v, trend) @ beta, u)[:, 0]) * state["turn"][0] / state["spread"]
            )
        with calm(min(self.batch, len(u))):
            for i in range(self.members):
                seen, out = parted(u if place is None else place[:, None], self.held_out, generator, least=_PLACES)
                learner = _Learner(self, core, i, u, x, seen, out, generator, moved)
                history += learner.run()
        core.history = tuple(history)
        return core

    def rebuild(self, state: dict[str, Tensor]) -> Core:
        return _Fitted(self, state)

    def _private(self, u: Tensor, z: Tensor, ledger: Ledger, seed: int) -> Core:
        ledger.open(sums=1 + bool(self.calibrate))
        trend, p, d = "linear" if self.trend == "auto" else self.trend, z.shape[-1], u.shape[-1]
        beta, scale, rest, left = started(basis(u, trend), z, ledger)
        state = {"trend": torch.tensor(MEANS.index(trend)), "beta": beta, "centre": u.new_full((d,), 0.5),
                 "width": u.new_full((d,), 12**-0.5), "loc": torch.zeros_like(scale), "turn": torch.eye(p, dtype=u.dtype),
                 "spread": scale, "tau": u.new_ones(1, p), "base": _base(self, p), "box": u.new_tensor(_ROOM)}  # fmt: skip
        core, x = _Fitted(self, state), rest / scale
        flow = core.flows[0]
        _start(flow, torch.Generator().manual_seed(seed))
        names, weights = zip(*core.named_parameters(), strict=True)

        def loss(weights: tuple[Tensor, ...], u: Tensor, x: Tensor) -> Tensor:
            given = {f"core.{name}": w for name, w in zip(names, weights, strict=True)}
            return -torch.func.functional_call(_LogDensity(core), given, (u[None], x[None]))[0]

        (found,) = descend(loss, weights, (u, x), ledger, left, Tempo(self.rate))
        with torch.no_grad():
            for w, kept in zip(weights, found, strict=True):
                w.copy_(kept)
            if self.calibrate:
                core.tau[0] = sizes(core.push(0, u, x)[0], ledger)
        return core

    def _trend(self, u: Tensor) -> str:
        if self.trend != "auto":
            return self.trend
        fits = [m for m in MEANS if 2 * basis(u[:1], m).shape[-1] <= len(u)]
        return [m for m in fits or MEANS[:1] if m == "constant" or determined(u, m)][-1]


def _whitening(residual: Tensor) -> dict[str, Tensor]:
    """Mean, principal axes and standard deviations along them; less than a floor is raised to it."""
    loc = residual.mean(0)
    values, turn = torch.linalg.eigh((residual - loc).mT @ (residual - loc) / len(residual))
    least = (_FLOOR * values.mean()).clamp_min(1e-24)  # of exact runs of a polynomial rounding is left
    return {"loc": loc, "turn": turn, "spread": values.clamp_min(least).sqrt()}


def _filled(x: Tensor, generator: torch.Generator) -> Tensor:
    """x with noise where the runs vary by less than the floor, so that its variance is 1 along every axis: a flow would
    squeeze what does not vary into a spike."""
    lacking = (1 - x.square().mean(0)).clamp_min(0).sqrt()
    noise = torch.randn(x.shape, generator=generator, dtype=x.dtype)
    return x + torch.where(lacking > 1e-3, lacking, 0.0) * noise


def _base(recipe: Flow, p: int) -> Tensor:
    """Points `[M, K / M, p]` of N(0, 1): Sobol's, with their mirror images, made white where there are enough."""
    k = max(8, recipe.points // (2 * recipe.members))
    made = []
    for i in range(recipe.members):
        u = torch.quasirandom.SobolEngine(p, scramble=True, seed=i).draw(k, dtype=torch.float64)
        x = torch.special.ndtri(u.clamp(1e-9, 1 - 1e-9))
        square = x.mT @ x / k
        if k > 4 * p:
            x = torch.linalg.solve_triangular(torch.linalg.cholesky(square), x.mT, upper=False).mT
        else:
            x = x / square.diagonal().sqrt()
        made.append(torch.cat([x, -x]))
    return torch.stack(made)


class _Learner:
    """One member while it learns from x `[n, p]`, the whitened residuals."""

    def __init__(self, recipe: Flow, core: _Fitted, member: int, u: Tensor, x: Tensor, seen: Tensor, out: Tensor,
                 generator: torch.Generator, moved: Tensor | None):  # fmt: skip
        self.moved = moved  # dx/du [n, d] of each run
        self.scale = torch.ones(()) if moved is None else moved.square().mean(0).clamp_min(_FLOOR)
        self.recipe, self.core, self.member, self.generator = recipe, core, member, generator
        self.u, self.x, self.seen, self.out = u, x, seen, out
        self.flow = core.flows[member]
        self.steps = max(math.ceil(len(seen) / recipe.batch), min(8, len(seen) // 16), 1)
        _start(self.flow, generator)

    def run(self) -> list[dict[str, float]]:
        """One dict per epoch; the flow is left with its best weights."""
        search = torch.optim.Adam(self.flow.parameters(), lr=self.recipe.rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(search, self.recipe.epochs * self.steps)
        best, kept, waited, history = self._held_out(), copy.deepcopy(self.flow.state_dict()), 0, []
        for epoch in range(self.recipe.epochs):
            loss = 0.0
            for rows in self._batches():
                search.zero_grad()
                value = self._loss(rows)
                value.backward()
                torch.nn.utils.clip_grad_norm_(self.flow.parameters(), _CLIP)
                search.step()
                schedule.step()
                loss += value.item() * len(rows) / len(self.seen)
            held_out = self._held_out()
            history.append({"member": self.member, "epoch": epoch, "loss": loss, "held_out_loss": held_out})
            waited += 1
            if held_out < best:  # False for NaN
                best, kept, waited = held_out, copy.deepcopy(self.flow.state_dict()), 0
            if waited >= self.recipe.patience:
                break
        self.flow.load_state_dict(kept)
        if self.recipe.calibrate:
            with torch.no_grad():
                square = torch.cat(
                    [self.core.push(self.member, self.u[r], self.x[r])[0] for r in self._blocks()]
                ).square()
            self.core.tau[self.member] = ((square.sum(0) + _PRIOR) / (len(square) + _PRIOR)).sqrt()
        return history

    def _loss(self, rows: Tensor) -> Tensor:
        """The mean of -ln p, and where runs carry Jacobians that of the squared error of dx/du at the same point of the
        base, relative to its size: of one number, the mean of dx/du over runs that end at x is -(dF/du) / f."""
        if self.moved is None:
            return -self.core.log_density(self.member, self.u[rows], self.x[rows]).mean()
        u = self.u[rows].requires_grad_()
        base, ladj = self.core.push(self.member, u, self.x[rows])
        (of_u,) = torch.autograd.grad(base.sum(), u, create_graph=True)
        off = (of_u / ladj.exp()[:, None] + self.moved[rows]).square().mean(0) / self.scale
        return self.recipe.slopes * off.mean() - (ladj + self.core.log_base(self.member, base)).mean()

    def _batches(self) -> Iterator[Tensor]:
        order = torch.randperm(len(self.seen), generator=self.generator)
        yield from self.seen[order].chunk(self.steps)

    def _blocks(self) -> tuple[Tensor, ...]:
        return self.out.split(4096)

    @torch.no_grad()
    def _held_out(self) -> float:
        total = sum(self.core.log_density(self.member, self.u[r], self.x[r]).sum() for r in self._blocks())
        return -float(total) / len(self.out)


def _start(flow: torch.nn.Module, generator: torch.Generator) -> None:
    """Weights from the generator; a small last layer, so that every spline starts near the identity."""
    with torch.no_grad():
        for hyper in _hypers(flow):
            layers: list[Any] = [m for m in hyper.children() if hasattr(m, "weight")]
            for j, layer in enumerate(layers):
                bound = layer.weight.shape[1] ** -0.5 * (_SMALL if j + 1 == len(layers) else 1.0)
                for w in (layer.weight, layer.bias):
                    w.copy_((2 * torch.rand(w.shape, generator=generator, dtype=w.dtype) - 1) * bound)
