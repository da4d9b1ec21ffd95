"""Cheap and costly runs together."""

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge
from torch import Tensor
from torch.distributions import Distribution, MultivariateNormal

from emulate.contracts import Core, Recipe
from emulate.distributions import Correlated
from emulate.emulators import _calibration as calibration
from emulate.emulators._coupling import nodes, regress, triangle
from emulate.emulators._places import dealt
from emulate.emulators.gp import GP
from emulate.errors import CampaignError, InputError

_FOLDS = 5
_TINY = 1e-10  # sd of z that rounding has
_STATE = ("weights", "centre", "scale", "inflation", "mix", "start", "width")


class _Level(torch.nn.Module):
    """z = A x + centre + scale e of components x of the next cheaper fidelity; e learns from u, or from u and leading x."""

    weights: Tensor
    centre: Tensor
    scale: Tensor
    inflation: Tensor
    mix: Tensor
    start: Tensor
    width: Tensor

    def __init__(self, error: Core, state: dict[str, Tensor]):
        super().__init__()
        self.error = error
        for name in _STATE:
            self.register_buffer(name, state[name])

    def given(self, u: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and sd `[..., p]` where x `[..., q]` is known."""
        read = (x[..., : len(self.start)] - self.start) / self.width
        e = self.error(torch.cat([u, read], -1) if len(self.start) else u)
        mean = x @ self.weights.T + self.centre + self.scale * e.mean
        return mean, self.scale * self.inflation * e.variance.sqrt()

    def forward(self, u: Tensor, x: Tensor, root: Tensor) -> tuple[Tensor, Tensor]:
        """Mean `[..., p]` and root of the covariance `[..., p, p]` where x ~ N(x, root root^T)."""
        r = len(self.start)
        spread = self.weights @ root[..., r:]
        if r:
            each, sd = self.given(u.expand(2 * r, *u.shape), nodes(x, root, r))
            mean, sd = each.mean(0), sd.square().mean(0).sqrt()
            spread = torch.cat([spread, ((each - mean) / math.sqrt(2 * r)).movedim(0, -1)], -1)
        else:
            mean, sd = self.given(u, x)
        whole = torch.eye(sd.shape[-1], dtype=sd.dtype, device=sd.device)
        c = len(self.mix)
        whole[:c, :c] = self.mix
        own = sd[..., None] * whole
        return mean, triangle(spread @ spread.mT + own @ own.mT)


class _Fitted(Core):
    """The cheapest fidelity, and one level after the other on it."""

    centre: Tensor
    scale: Tensor

    def __init__(self, low: Core, centre: Tensor, scale: Tensor, levels: Iterable[_Level]):
        super().__init__()
        self.low, self.levels = low, torch.nn.ModuleList(levels)
        self.register_buffer("centre", centre)  # of the components of the cheapest, as those of the study measure them
        self.register_buffer("scale", scale)

    def cheapest(self, p: Distribution) -> tuple[Tensor, Tensor]:
        """Mean and root of the covariance of its components by a prediction of `low`."""
        mean, root = _moments(p)
        return self.centre + self.scale * mean, self.scale[:, None] * root

    def forward(self, u: Tensor) -> MultivariateNormal:
        mean, root = self.cheapest(self.low(u))
        for level in self.levels:
            mean, root = level(u, mean, root)
        return MultivariateNormal(mean, scale_tril=root, validate_args=False)


def _moments(p: Distribution) -> tuple[Tensor, Tensor]:
    """Mean and root of the covariance."""
    if isinstance(p, MultivariateNormal):
        return p.mean, p.scale_tril
    return p.mean, triangle(p.covariance_matrix) if isinstance(p, Correlated) else torch.diag_embed(p.variance.sqrt())


@dataclass(frozen=True, kw_only=True)
class MultiFidelity(Recipe):
    r"""Cheap runs carry the shape and a few costly ones correct it: up to three times less time for the same error.

    The autoregressive model of Kennedy and O'Hagan (2000) in the recursive form of Le Gratiet and Garnier (2014), of all
    components together. From the cheapest of `fidelities` to the study's own simulator, level after level,

        z(u) = A x(u) + e(u),    mean = A m_x + m_e,    covariance = A V_x A^T + V_e

    with x the components of the next cheaper one; its outputs may be others, of any number. `low` learns the cheapest,
    `high` learns each e: a process, or with {use: mlp} a network on the residuals. A is a regression that puts down to
    x only what a smooth e does not explain as well, and e is learnt at runs whose x is known, where designs are nested,
    else from the mean of x. Fidelities with the outputs of the study share its components, and A is then near 1. With
    coupling "nonlinear" e(u, x) reads the leading `inputs` components of x too, as Perdikaris et al. (2017) let it, and
    V_x is carried through by cubature.

    It pays where fidelities correlate, which simulate/fidelities.json tells, and most for a moderate error: P(k) of 64^3
    particles to 0.14 %, from 4 runs and 32 of 32^3, costs a third of what it costs from runs of 64^3 alone; 0.05 % cost
    three fifths, and less than 0.04 % cost more. Those of 32^3 had a third of the steps: that changes P(k) by less than
    the resolution does, and as smoothly. `calibrate` scales V_e by the errors at runs
    of five folds, which neither A nor e has seen, and finds which components err together. `low` and `high` work on the z
    of this recipe: their own `log` and `truncation` have no effect.

    >>> MultiFidelity(fidelities=("coarse",), high=GP(mean="linear")).minimum_runs(2)
    7
    """

    takes: ClassVar[tuple[str, ...]] = ("coarse",)
    example: ClassVar[dict] = {"fidelities": ["coarse"], "low": {"use": "gp", "kernel": "rbf", "starts": 1},
                               "high": {"use": "gp", "kernel": "rbf", "mean": "constant", "starts": 1}}  # fmt: skip

    fidelities: tuple[str, ...] = ()  # of design.fidelities, cheapest first
    low: Recipe = field(default_factory=GP)  # {use: NAME, ...}: what learns the cheapest
    high: Recipe = field(default_factory=GP)  # {use: NAME, ...}: what learns the error of each fidelity by the next
    coupling: Literal["linear", "nonlinear"] = "linear"  # how a fidelity goes with the next
    inputs: Annotated[int, Ge(1)] = 2  # components of the cheaper fidelity that a nonlinear error reads

    def __post_init__(self):
        object.__setattr__(self, "fidelities", tuple(self.fidelities))
        if not self.fidelities or len(set(self.fidelities)) < len(self.fidelities):
            raise InputError("multifidelity.fidelities: must name one fidelity at least, each once, cheapest first. Got "
                             f"{list(self.fidelities)}; name those of design.fidelities.")  # fmt: skip
        for name, recipe in (("low", self.low), ("high", self.high)):
            if "coarse" in recipe.takes or recipe.needs_slopes:
                raise InputError(f"multifidelity.{name}: must be a recipe that needs the runs alone. Got "
                                 f"{recipe.entry_name()!r}, which reads more; choose gp, mlp or polynomial.")  # fmt: skip

    def minimum_runs(self, d: int) -> int:
        reads = self.inputs if self.coupling == "nonlinear" else 0
        least = self.high.minimum_runs(d + reads)
        return next(n for n in itertools.count(least) if n - math.ceil(n / _FOLDS) >= least)  # what a fold leaves

    def train(self, u: Tensor, z: Tensor, *, noisy: bool, seed: int, coarse: tuple[tuple[Tensor, Tensor], ...]) -> Core:
        self._require(coarse, u.shape[1])
        (v, x), *_ = tables = (*coarse, (u, z))
        centre, scale = _spread(x)
        core = _Fitted(_train(self.low, v, (x - centre) / scale, noisy, seed), centre, scale, ())
        told, history = core.cheapest(core.low.left_out or core.low(v)), core.low.history
        for (v, x), (w, y) in itertools.pairwise(tables):
            known, unseen = _at(core, v, x, told, w)
            level, told = self._level(w, y, known, unseen, noisy, seed)
            core.levels.append(level)
            history = level.error.history or core.low.history
        mean, root = told
        core.left_out = MultivariateNormal(mean, scale_tril=root, validate_args=False)
        core.history = history
        return core

    def rebuild(self, state: dict[str, Tensor]) -> Core:
        def part(prefix: str) -> dict[str, Tensor]:
            return {k.removeprefix(prefix): t for k, t in state.items() if k.startswith(prefix)}

        levels = [_Level(self.high.rebuild(part(f"levels.{i}.error.")), part(f"levels.{i}."))
                  for i in range(len(self.fidelities))]  # fmt: skip
        return _Fitted(self.low.rebuild(part("low.")), state["centre"], state["scale"], levels)

    def _require(self, coarse: tuple[tuple[Tensor, Tensor], ...], d: int) -> None:
        for name, (v, _), least in zip(
            self.fidelities, coarse, (self.low.minimum_runs(d), *[self.minimum_runs(d)] * len(coarse)), strict=False
        ):
            if len(v) < least:
                raise CampaignError(f"multifidelity must have at least {least} finished runs of {name} for {d} parameters. "
                                    f"Got {len(v)}; raise design.fidelities.{name}.runs.")  # fmt: skip

    def _level(self, u: Tensor, z: Tensor, known: tuple[Tensor, Tensor], unseen: tuple[Tensor, Tensor], noisy: bool,
               seed: int) -> tuple[_Level, tuple[Tensor, Tensor]]:  # fmt: skip
        """The level, and what it would say of each run had it and those below not seen it."""
        level = self._couple(u, known[0], z, noisy, seed)
        if not self.calibrate:
            with torch.no_grad():
                return level, level(u, *unseen)
        fold, off, sd = dealt(u, _FOLDS), torch.empty_like(z), torch.empty_like(z)
        folds = range(int(fold.max()) + 1)
        mean, root = torch.empty_like(z), z.new_empty(*z.shape, z.shape[1])
        parts = [self._couple(u[fold != i], known[0][fold != i], z[fold != i], noisy, seed) for i in folds]
        with torch.no_grad():
            for i, part in enumerate(parts):
                out = fold == i
                m, s = part.given(u[out], known[0][out])
                through = (part.weights @ known[1][out]).square().sum(-1)
                off[out], sd[out] = z[out] - m, (s.square() + through).clamp_min(_TINY**2).sqrt()
            level.inflation, level.mix = calibration.scale(off / sd), calibration.mix(off / sd)
            for i, part in enumerate(parts):
                part.inflation, part.mix = level.inflation, level.mix
                mean[fold == i], root[fold == i] = part(u[fold == i], *(t[fold == i] for t in unseen))
        return level, (mean, root)

    def _couple(self, u: Tensor, x: Tensor, z: Tensor, noisy: bool, seed: int) -> _Level:
        """A by regression, then `high` on what that leaves."""
        weights, reads = regress(u, x, z), self.inputs if self.coupling == "nonlinear" else 0
        rest = z - x @ weights.T
        centre, scale = _spread(rest)
        start = x[:, :reads].amin(0)
        width = (x[:, :reads].amax(0) - start).clamp_min(_TINY)
        v = torch.cat([u, (x[:, :reads] - start) / width], 1)
        error = _train(replace(self.high, calibrate=self.high.calibrate and not self.calibrate), v,
                       (rest - centre) / scale, noisy, seed)  # fmt: skip
        state = {"weights": weights, "centre": centre, "scale": scale, "inflation": torch.ones_like(scale),
                 "mix": scale.new_zeros(0, 0), "start": start, "width": width}  # fmt: skip
        return _Level(error, state)


def _spread(z: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation `[p]`."""
    centre = z.mean(0)
    return centre, (z - centre).square().mean(0).sqrt().clamp_min(_TINY)


def _train(recipe: Recipe, u: Tensor, z: Tensor, noisy: bool, seed: int) -> Core:
    return recipe.train(u, z, noisy=noisy, seed=seed, **dict.fromkeys(recipe.takes))


@torch.no_grad()
def _at(core: _Fitted, v: Tensor, x: Tensor, told: tuple[Tensor, Tensor], u: Tensor
        ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:  # fmt: skip
    """x and the root of its covariance at u `[n, d]`: as known, by a run at the same place or by its emulator, and as
    told by an emulator that has not seen that run."""
    p = core(u)
    known, unseen = (p.mean.clone(), p.scale_tril.clone()), (p.mean.clone(), p.scale_tril.clone())
    row = {tuple(t): i for i, t in enumerate(v.tolist())}
    pairs = [(i, row[k]) for i, t in enumerate(u.tolist()) if (k := tuple(t)) in row]
    if pairs:
        here, there = map(list, zip(*pairs, strict=True))
        known[0][here], known[1][here] = x[there], 0.0
        unseen[0][here], unseen[1][here] = told[0][there].detach(), told[1][there].detach()
    return known, unseen
