"""One recipe on what another leaves."""

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Normal

from emulate.contracts import Core, Recipe
from emulate.emulators._places import dealt
from emulate.emulators.flow import Flow
from emulate.emulators.gp import GP
from emulate.emulators.mlp import MLP
from emulate.errors import InputError

_FOLDS = 5
_TINY = 1e-20  # variance of z that rounding has


class _Fitted(Core):
    """mean = m1 + share scale m2, variance = inflation (v1 + [share scale]^2 v2)."""

    weight: Tensor
    inflation: Tensor

    def __init__(self, first: Core, then: Core, weight: Tensor, inflation: Tensor):
        super().__init__()
        self.first, self.then, self.closed = first, then, first.closed and then.closed
        self.register_buffer("weight", weight)  # share scale [p]
        self.register_buffer("inflation", inflation)

    def forward(self, u: Tensor) -> Normal:
        a, b = self.first(u), self.then(u)
        return _sum(a, b, self.weight, self.inflation)

    def slopes(self, u: Tensor) -> tuple[Tensor, Tensor]:
        return self.tangent(u)[1]

    def tangent(self, u: Tensor) -> tuple[Normal, tuple[Tensor, Tensor]]:
        (a, first), (b, then) = self.first.tangent(u), self.then.tangent(u)
        (mean, variance), (rest, noise) = first or self.first.slopes(u), then or self.then.slopes(u)
        w = self.weight[:, None]
        slopes = mean + w * rest, self.inflation[:, None] * (variance + w.square() * noise)
        return _sum(a, b, self.weight, self.inflation), slopes


def _sum(a, b, weight: Tensor, inflation: Tensor) -> Normal:
    variance = inflation * (a.variance + weight.square() * b.variance)
    return Normal(a.mean + weight * b.mean, variance.clamp_min(_TINY).sqrt(), validate_args=False)


@dataclass(frozen=True, kw_only=True)
class Residual(Recipe):
    r"""A network on what a Gaussian process leaves, or any recipe on what another leaves.

    m(u) = m1(u) + w m2(u): `then` learns the errors that `first` makes on runs it has not seen, of its own left-out
    predictions where training knows them, else of five folds; what a process leaves of its own runs is nothing. Per
    component, w is the share of m2, between 0 and 1, that has the least squared error on runs that `then` has not seen
    either: where nothing is left to learn, w = 0 and the first recipe stays as it is. The variance is v1 + w^2 v2;
    `calibrate` scales it to the mean squared error of those runs where w > 0. Both recipes work on the z of this one: their
    own `log` and `truncation` have no effect, and their `calibrate: conformal` counts as true.

    >>> Residual(first=GP(mean="linear"), then=MLP(members=4)).minimum_runs(2)
    10
    """

    example: ClassVar[dict] = {"first": {"use": "polynomial"}, "then": {"use": "mlp", "members": 5, "epochs": 10}}

    first: Recipe = field(default_factory=GP)  # {use: NAME, ...}: what is fitted first
    then: Recipe = field(default_factory=MLP)  # {use: NAME, ...}: what learns its errors

    def __post_init__(self):
        for name, recipe in (("first", self.first), ("then", self.then)):
            if not isinstance(recipe, Recipe):
                raise InputError(f"residual.{name}: must be a recipe, such as GP(). Got {recipe!r}; build it first: "
                                 'emulate.build("emulators", ...).')  # fmt: skip
            if "coarse" in recipe.takes or recipe.needs_slopes:
                raise InputError(f"residual.{name}: must be a recipe that needs the runs alone. Got "
                                 f"{recipe.entry_name()!r}, which reads more; choose gp, mlp or polynomial.")  # fmt: skip
            if isinstance(recipe, Flow):
                raise InputError(f"residual.{name}: must be a recipe that is told by its mean and variance, which are all that is "
                                 "kept. Got 'flow', whose shape would be lost and whose mean takes a thousand points each "
                                 "time; choose gp, mlp or polynomial, or a flow of its own.")  # fmt: skip

    def minimum_runs(self, d: int) -> int:
        # the folds leave four fifths of the runs to the first
        return max(math.ceil(1.25 * self.first.minimum_runs(d)) + 1, self.then.minimum_runs(d), 2 * _FOLDS)

    def train(self, u: Tensor, z: Tensor, *, noisy: bool, seed: int) -> Core:
        first = _train(self.first, u, z, noisy, seed)
        seen = _left_out(self.first, first, u, z, noisy, seed)
        rest = z - seen.mean
        scale = rest.square().mean(0).clamp_min(_TINY).sqrt()
        then = _train(self.then, u, rest / scale, noisy, seed)
        told = _left_out(self.then, then, u, rest / scale, noisy, seed)
        share = ((rest / scale * told.mean).sum(0) / told.mean.square().sum(0).clamp_min(_TINY)).clamp(0, 1)
        gain = (rest / scale).square() - (rest / scale - share * told.mean).square()
        sure = gain.mean(0) > 2 * gain.std(0) / len(u) ** 0.5  # what chance alone would give is not taken
        weight = torch.where(sure, share, 0.0) * scale
        inflation = torch.ones_like(weight)
        both = _sum(seen, told, weight, inflation)
        if self.calibrate:
            inflation = torch.where(sure, ((z - both.mean).square() / both.variance).mean(0).clamp_min(1e-3), 1.0)
        core = _Fitted(first, then, weight, inflation)
        core.left_out = _sum(seen, told, weight, inflation)
        core.history = then.history or first.history
        return core

    def rebuild(self, state: dict[str, Tensor]) -> Core:
        parts = {name: {k.removeprefix(f"{name}."): t for k, t in state.items() if k.startswith(f"{name}.")}
                 for name in ("first", "then")}  # fmt: skip
        return _Fitted(self.first.rebuild(parts["first"]), self.then.rebuild(parts["then"]), state["weight"],
                       state["inflation"])  # fmt: skip


def _train(recipe: Recipe, u: Tensor, z: Tensor, noisy: bool, seed: int) -> Core:
    return recipe.train(u, z, noisy=noisy, seed=seed, **dict.fromkeys(recipe.takes))


@torch.no_grad()
def _left_out(recipe: Recipe, core: Core, u: Tensor, z: Tensor, noisy: bool, seed: int) -> Normal:
    """p(z) of each run by a fit that has not seen it."""
    if core.left_out is not None:
        return Normal(core.left_out.mean.detach(), core.left_out.variance.sqrt().detach(), validate_args=False)
    mean, variance, fold = torch.zeros_like(z), torch.ones_like(z), dealt(u, _FOLDS)
    for i in fold.unique():
        out = fold == i
        with torch.enable_grad():
            part = _train(recipe, u[~out], z[~out], noisy, seed)
        p = part(u[out])
        mean[out], variance[out] = p.mean, p.variance
    return Normal(mean, variance.sqrt(), validate_args=False)
