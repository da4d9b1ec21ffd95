"""What the Monte Carlo estimators of this room share: draws that follow a path or are counted by their density, and an
eye on whatever reads theta where no derivative passes."""

import itertools
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

_STEPS = {"argmax", "argmin", "argsort", "bool", "bucketize", "ceil", "eq", "floor", "floor_divide", "floordiv", "fmod",
          "frac", "ge", "greater", "greater_equal", "gt", "heaviside", "histc", "isclose", "le", "less", "less_equal", "lt",
          "mod", "ne", "not_equal", "remainder", "round", "searchsorted", "sgn", "sign", "signbit", "trunc"}  # fmt: skip
_LOSSES = {"detach", "float", "index", "int", "item", "new_tensor", "numpy", "tensor", "tolist"}
_READS = _STEPS | _LOSSES
_OURS = ("torch.distributions", "emulate.noise", "emulate.families", "emulate.gradients")


class Reads:
    """What programs ask of numbers that carry a derivative, where none comes back: `float` and `detach`, which lose it, and
    `>`, `if`, `round` ..., which may jump. Those that read the same numbers in every replicate do not: they read theta
    alone, as a check of an argument does, and jump at another theta or nowhere."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self._first: dict[Any, list[tuple]] = {}

    def __bool__(self) -> bool:
        return bool(self.names)

    def told(self, key: Any, met: list[tuple]) -> None:
        """What one run of a kind asked, in order."""
        first = self._first.setdefault(key, met)
        apart = [pair for pair in itertools.zip_longest(first, met) if pair[0] != pair[1]]
        self.names |= {one[0] for pair in apart for one in pair if one}


class Watch(TorchFunctionMode):
    """Sees what a run asks of what carries a derivative. What distributions ask of their own arguments does not count."""

    def __init__(self, reads: Reads, key: Any = None) -> None:
        super().__init__()
        self.reads, self.key = reads, key
        self.met: list[tuple] = []
        self.batched = False

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        name = getattr(func, "__name__", "").strip("_")
        if name in _READS and any(carries(a) for a in args):
            asked_by = sys._getframe(1).f_globals.get("__name__", "")
            if not asked_by.startswith(_OURS):
                self._meet(name, args)
        return func(*args, **(kwargs or {}))

    def _meet(self, name: str, args: tuple) -> None:
        try:
            read = tuple(float(a.detach().double().sum()) for a in args if isinstance(a, Tensor))
        except RuntimeError:  # of a batch of replicates no single number can be read: it differs between them
            read, self.batched = (), True
        if name in _LOSSES or not read:
            self.reads.names.add(name)
        self.met.append((name, read))

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        if self.met and not self.batched:
            self.reads.told(self.key, self.met)


class Counted(Treatment):
    """Draws follow the path where `path(distribution)`; all others are numbers, whose log density is counted."""

    def __init__(self, method: str, path: Callable[[Distribution], bool], key: Any = "",
                 number: Callable[[Place, Distribution, Tensor], Tensor] | None = None) -> None:  # fmt: skip
        self.log_prob = torch.zeros((), dtype=torch.float64)
        self.method, self.path, self.key = method, path, key
        self.number = number or (lambda place, distribution, u: inverse(distribution, u).detach())

    def draw(self, place: Place, distribution: Distribution, u: Tensor) -> Tensor:
        if self.path(distribution):
            return inverse(distribution, u)
        x = self.number(place, distribution, u)
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


def terms(f: Program, theta: Tensor, noise: Noise, treatment: Counted, seen: Reads) -> Terms:
    """One replicate of f under the treatment; in `seen` what of theta no derivative passed."""

    def run(t: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        treatment.log_prob = torch.zeros((), dtype=torch.float64)
        with Watch(seen, treatment.key):
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


def unknown(seen: Reads, like: Tensor) -> Tensor | None:
    """The bias bound `[m, d]`: none where all that reads what moves with theta has a derivative, else NaN."""
    return torch.full_like(like, torch.nan) if seen else None
