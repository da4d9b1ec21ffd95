"""What the Monte Carlo estimators of this room share: draws that follow a path or are counted by their density, and an
eye on whatever reads theta where no derivative passes."""

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.overrides import TorchFunctionMode

from emulate.errors import InputError
from emulate.families import carries, inverse
from emulate.noise import Noise, Place, Treatment
from emulate.replication import Program

_STEPS = {"argmax", "argmin", "argsort", "bucketize", "ceil", "eq", "floor", "floor_divide", "fmod", "frac", "ge",
          "greater", "greater_equal", "gt", "heaviside", "histc", "isclose", "item", "le", "less", "less_equal", "lt", "ne",
          "not_equal", "numpy", "remainder", "round", "searchsorted", "sgn", "sign", "signbit", "tolist", "trunc",
          "bool", "float", "index", "int", "mod", "floordiv", "detach", "tensor", "new_tensor"}  # fmt: skip
_OURS = ("torch.distributions", "emulate.noise", "emulate.families", "emulate.gradients")


class Watch(TorchFunctionMode):
    """Notes in `seen` what a program asks of a number that carries a derivative, and that has none to give: `>`, `if`,
    `float`, `round`, `detach` ... What distributions ask of their own arguments does not count."""

    def __init__(self, seen: set[str]) -> None:
        super().__init__()
        self.seen = seen

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        name = getattr(func, "__name__", "").strip("_")
        if name in _STEPS and any(carries(a) for a in args):
            asked_by = sys._getframe(1).f_globals.get("__name__", "")
            if not asked_by.startswith(_OURS):
                self.seen.add(name)
        return func(*args, **(kwargs or {}))


class Counted(Treatment):
    """Draws follow the path where `path(distribution)`; all others are numbers, whose log density is counted."""

    def __init__(self, method: str, path: Callable[[Distribution], bool]) -> None:
        self.log_prob = torch.zeros((), dtype=torch.float64)
        self.method, self.path = method, path

    def draw(self, place: Place, distribution: Distribution, u: Tensor) -> Tensor:
        if self.path(distribution):
            return inverse(distribution, u)
        x = inverse(distribution, u).detach()
        self.log_prob = self.log_prob + distribution.log_prob(x).sum()
        return x

    def above(self, place: Place, margin: Tensor) -> Tensor:
        if carries(margin):
            raise InputError(f"{self.method} must have hard decisions on draws alone. Got one at the site {place} that reads "
                             "theta itself, past all draws; draw what is decided on, or use conditional, smooth or "
                             "common_random_numbers.")  # fmt: skip
        return super().above(place, margin)


class Terms(NamedTuple):
    """Of each replicate: y `[m]`, dy/dtheta `[m, d]` at the draws that are numbers, and the score `[d]` of those."""

    y: Tensor
    direct: Tensor
    score: Tensor

    def of(self, some: slice) -> "Terms":
        """Some of the replicates."""
        return Terms(*(part[some] for part in self))


def terms(f: Program, theta: Tensor, noise: Noise, treatment: Counted, seen: set[str]) -> Terms:
    """One replicate of f under the treatment; in `seen` what of theta no derivative passed."""

    def run(t: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        treatment.log_prob = torch.zeros((), dtype=torch.float64)
        with Watch(seen):
            y = f(t, noise.again(treatment))
        return (y, treatment.log_prob), y

    (direct, score), y = torch.func.jacrev(run, has_aux=True)(theta)
    return Terms(y, direct, score)


def folds(n: int) -> list[tuple[slice, slice]]:
    """Each third of n replicates, and the next third, which coefficients for the first are learnt from.

    In a ring of three no two thirds learn from each other, so that all terms are uncorrelated, and their sample variance
    is unbiased whatever is learnt: given the other two thirds, a third has the right mean. Two halves are correlated.
    """
    k = min(3, n)
    return [(slice(i, None, k), slice((i + 1) % k, None, k)) for i in range(k)]


def unknown(seen: set[str], like: Tensor) -> Tensor | None:
    """The bias bound `[m, d]`: none where all that reads theta has a derivative, else NaN."""
    return torch.full_like(like, torch.nan) if seen else None
