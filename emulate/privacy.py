r"""Differential privacy of a training: what it promises, what it spends, and the noise that keeps the promise.

Two tables of runs are neighbours where one run of the one has failed in the other, so that it teaches nothing. A training M
is (epsilon, delta)-private where for neighbours A and B and every set S of emulators

    P(M(A) in S) <= exp(epsilon) P(M(B) in S) + delta

The number of runs is public, and with it what divides a sum. What is said of adding or removing a record holds for these
neighbours too, for the noise and the sampling are the same (Ponomareva et al. 2023, "How to DP-fy ML", section 2.1). `Ledger`
is the one door by which runs reach a private training: each sum over runs leaves it cut run by run, with its noise, and booked.
"""

import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor

from emulate.errors import InputError
from emulate.runs import Outputs
from emulate.transforms import OutputTransform

UNIT = "one run of the simulator: its parameters, its answer and its seed"
NEIGHBOURS = "two tables of as many runs, of which one run of the one has failed in the other"
UNCOVERED = (
    "runs that it was not trained on, such as those held out, and what is computed of them: the findings in its folder",
    "the rest of a study's folder and its MLflow experiment: the runs themselves, scores, figures and the report",
    "settings that were chosen by looking at these runs, ranges, clip, steps and epsilon among them",
    "what another training on the same runs gives away: each spends a budget of its own, and budgets add up",
    "k runs that tell of the same secret: for them epsilon is k times as large, and delta more than k times; one run in the "
    "place of another counts as two",
    "the number of runs and the box of the parameters, which are public",
    "how long the training took, and the rounding of float64, in which the noise is drawn",
)
_FINEST = 1e-3  # relative, to which the least noise is found
_MOST = 1e5  # noise multiplier beyond which a budget is not worth a training
_DRAWS = (
    4  # normals whose sum is one: the last bits of a single one tell its generator's grid (Holohan and Braghin 2021)
)
_GRID = 2.0**-53
_SHARE, _RELEASE = (
    0.2,
    10.0,
)  # of epsilon that the sums beside the steps spend alone; their multiplier without an epsilon


@dataclass(frozen=True)
class Release:
    """`count` sums over runs, each run taken with probability `sampling`: the standard deviation of the noise is `noise`
    times the greatest length of a run's share."""

    noise: float
    sampling: float = 1.0
    count: int = 1


def epsilon(releases: Sequence[Release], delta: float, accountant: Literal["rdp", "pld"] = "rdp") -> float:
    """What sums spend together, an upper bound; infinite where one of them has no noise.

    rdp: Renyi divergences (Mironov 2017; Mironov, Talwar and Zhang 2019), quick; pld: privacy loss distributions (Koskela et
    al. 2020; Doroshenko et al. 2022), closer and slower. Both by dp-accounting.

    >>> epsilon([Release(noise=0.0)], 1e-5)
    inf
    """
    booked = [r for r in releases if r.count]
    if not booked:
        return 0.0
    if any(r.noise == 0 for r in booked):
        return math.inf
    dp = _accounting()
    book = dp.rdp.RdpAccountant() if accountant == "rdp" else dp.pld.PLDAccountant()
    with _quiet():
        for r in booked:
            event = dp.GaussianDpEvent(r.noise)
            book.compose(dp.PoissonSampledDpEvent(r.sampling, event) if r.sampling < 1 else event, r.count)
        return float(book.get_epsilon(delta))


@dataclass(frozen=True, kw_only=True)
class Privacy:
    r"""How a network learns so that no single run can be told from what is saved of it: DP-SGD (Abadi et al. 2016).

    A step takes each run with probability `sampling`, cuts the gradient of each to the length `clip`, adds noise of standard
    deviation `noise` x `clip` to their sum, and divides by `sampling` x runs; whatever is made of that, Adam and averages of
    weights among it, costs nothing more. Standardisation reads `ranges`, which must be known without a look at the runs, and
    no principal components are found; the scale of what is learnt and the error bars take one sum each, with the noise
    multiplier `release`, found so that they spend a fifth of epsilon alone; where their noise hides the errors, error
    bars lean to the wide side. The file of the emulator holds no run, no place of one, no hash and no loss.

    With `epsilon` alone the noise is found that lets `steps` steps spend no more than that; with `noise` beside it training
    stops before the step that would spend more; with `noise` alone the epsilon is what comes out.

    >>> Privacy(ranges={"y": (0.0, 1.0)}, noise=0.0, clip=None).plan(sums=2)
    (0.0, 1000)
    """

    __pydantic_config__: ClassVar[dict] = {"extra": "forbid", "allow_inf_nan": False}

    ranges: dict[str, tuple[float, float]]  # [low, high] of each field, known without these runs; values beyond are cut
    epsilon: Annotated[float, Gt(0)] | None = None  # that is never exceeded; empty: what the noise gives
    delta: Annotated[float, Gt(0), Lt(1)] = 1e-5  # probability that the promise may fail; well below one over the runs
    noise: Annotated[float, Ge(0)] | None = (
        None  # its standard deviation over clip; empty: the least that keeps epsilon
    )
    clip: Annotated[float, Gt(0)] | None = (
        1.0  # length that the gradient of a run is cut to; null: not, without a promise
    )
    sampling: Annotated[float, Gt(0), Le(1)] = 0.05  # probability of each run to be in a batch
    steps: Annotated[int, Ge(2), Le(10_000_000)] = 1000  # at most
    release: Annotated[float, Gt(0)] | None = (
        None  # noise multiplier of the sums beside the steps; empty: a fifth of epsilon
    )
    accountant: Literal["rdp", "pld"] = "rdp"  # what adds up: Renyi divergences, or loss distributions: closer, slower
    randomness: Literal["system", "seed"] = "system"  # of noise and batches; seed: repeats itself, without a promise

    def __post_init__(self) -> None:
        if self.epsilon is None and self.noise is None:
            raise InputError("privacy must have an epsilon, a noise multiplier, or both. Got neither; add epsilon: 3, for "
                             "example.")  # fmt: skip
        if self.clip is None and self.noise != 0:
            raise InputError("privacy.clip must be a length, for the noise is a multiple of it. Got null; set a number, or noise: "
                             "0 beside it for a training without a promise.")  # fmt: skip
        if self.epsilon is not None and self.noise == 0:
            raise InputError(f"privacy.noise must be above 0 to keep epsilon = {self.epsilon:g}. Got 0, which keeps none; take one "
                             "of them out.")  # fmt: skip

    def settings(self) -> dict[str, Any]:
        """The fields by name, as plain JSON."""
        return {**vars(self), "ranges": {name: list(ends) for name, ends in self.ranges.items()}}

    @property
    def promises(self) -> bool:
        """Whether anything is promised: noise that nobody can take off again, on gradients of a bounded length."""
        return self.noise != 0 and self.clip is not None and self.randomness == "system"

    def spent(self, steps: int, *, sums: int = 0, noise: float | None = None) -> float:
        """Epsilon of so many steps, and sums beside them."""
        noise = (self.noise or 0.0) if noise is None else noise
        beside = Release(self.beside(sums) if noise else 0.0, 1.0, sums)
        return epsilon([Release(noise, self.sampling, steps), beside], self.delta, self.accountant)

    def beside(self, sums: int) -> float:
        """The noise multiplier of the sums beside the steps."""
        if self.release is not None:
            return self.release
        if self.epsilon is None or not sums:
            return _RELEASE
        most = _SHARE * self.epsilon
        return _least(lambda r: epsilon([Release(r, 1.0, sums)], self.delta) <= most) or _MOST

    def plan(self, *, sums: int) -> tuple[float, int]:
        """The noise multiplier, and the steps that it allows within the budget with so many sums beside them."""
        if (budget := self.epsilon) is None:
            return self.noise or 0.0, self.steps
        if (alone := self.spent(0, sums=sums, noise=1.0)) >= budget:
            raise InputError(f"privacy.epsilon must leave something for the steps: {sums} sums of multiplier "
                             f"{self.beside(sums):g} spend {alone:.4g} alone. Got {self.epsilon:g}; raise it, or raise "
                             "privacy.release.")  # fmt: skip
        own = replace(self, release=self.beside(sums))  # found once
        if self.noise is None:
            noise = _least(lambda x: own.spent(self.steps, sums=sums, noise=x) <= budget)
            if noise is None:
                raise InputError(f"privacy.epsilon must allow {self.steps} steps with noise up to {_MOST:g}. Got "
                                 f"{self.epsilon:g}; raise it, or lower privacy.steps or privacy.sampling.")  # fmt: skip
            return noise, self.steps
        allowed = _last(lambda k: own.spent(k, sums=sums) <= budget, self.steps)
        if allowed < 2:
            raise InputError(f"privacy.noise must be larger, for two steps of {self.noise:g} spend more than epsilon = "
                             f"{self.epsilon:g}. Raise it, lower privacy.sampling, or leave noise out.")  # fmt: skip
        return self.noise, allowed

    def transform(self, outputs: Outputs, *, log: bool) -> OutputTransform:
        """Each output as a component of its own between -1 and 1, by the ranges alone.

        >>> from emulate.runs import Field
        >>> t = Privacy(ranges={"y": (0.0, 4.0)}, epsilon=1.0).transform(Outputs((Field("y"),)), log=True)
        >>> t.to_z(torch.tensor([[0.0], [3.0]], dtype=torch.float64)).tolist()
        [[-1.0], [0.5]]
        """
        low, high = self._ends(outputs)
        logs = torch.as_tensor(outputs.positive & log)
        if (bad := logs & (low <= 0)).any():
            name = outputs.labels[int(bad.nonzero()[0])]
            raise InputError(f"privacy.ranges: the low end of {name}, which is positive, must be above 0, for its logarithm is "
                             f"learnt. Got {float(low[bad][0]):g}; raise it, or set log: false in the recipe.")  # fmt: skip
        low, high = (torch.where(logs, torch.where(logs, end, 1.0).log(), end) for end in (low, high))
        scale, one = (high - low) / 2, torch.eye(len(low), dtype=low.dtype)
        return OutputTransform({"log": logs, "centre": (low + high) / 2, "scale": scale, "basis": one * scale, "inverse": one,
                                "rest": one[:0], "unseen": torch.zeros_like(low)})  # fmt: skip

    def inside(self, outputs: Outputs, y: Tensor) -> Tensor:
        """y `[n, m]` cut to the ranges, run by run."""
        return y.clamp(*self._ends(outputs))

    def _ends(self, outputs: Outputs) -> tuple[Tensor, Tensor]:
        names = [f.name for f in outputs.fields]
        if set(self.ranges) != set(names):
            raise InputError(f"privacy.ranges must give low and high of every field of the outputs: {', '.join(names)}. Got "
                             f"{', '.join(self.ranges) or 'none'}.")  # fmt: skip
        for name, (low, high) in self.ranges.items():
            if not low < high:
                raise InputError(f"privacy.ranges.{name} must rise, [low, high]. Got [{low:g}, {high:g}].")
        ends = [self.ranges[f.name] for f in outputs.fields for _ in range(f.size)]
        low, high = torch.tensor(ends, dtype=torch.float64).unbind(-1)
        return low, high


@dataclass
class Ledger:
    """What a private training may see of n runs: sums with their noise, each booked. Made anew for every training.

    `groups` `[p]` numbers the field that each component belongs to; `runs` counts all, failed ones too.

    >>> ledger = Ledger(Privacy(ranges={"y": (0.0, 1.0)}, noise=0.0, clip=1.0, sampling=1.0, steps=2), 4, torch.zeros(1), seed=1)
    >>> ledger.open(sums=0)
    >>> ledger.step(torch.tensor([[3.0], [0.5], [-0.5], [float("nan")]], dtype=torch.float64))
    tensor([0.2500], dtype=torch.float64)
    """

    privacy: Privacy
    runs: int
    groups: Tensor
    seed: int
    noise: float = 0.0  # noise multiplier of a step
    steps: int = 0  # that the budget allows
    sums: int = 0  # allowed beside them
    release: float = 0.0  # noise multiplier of those
    booked: dict[str, int] = field(default_factory=lambda: {"steps": 0, "sums": 0})

    def __post_init__(self) -> None:
        if self.privacy.promises and self.privacy.delta * self.runs >= 1:
            raise InputError(f"privacy.delta must be well below one over the runs, for 1 / {self.runs} allows to publish one of "
                             f"them as it is. Got {self.privacy.delta:g}; lower it.")  # fmt: skip
        self._source = _Uniform(self.seed if self.privacy.randomness == "seed" else None)

    def open(self, *, sums: int) -> None:
        """Settle the noise and the steps, given how many sums there will be beside the steps."""
        self.noise, self.steps = self.privacy.plan(sums=sums)
        self.sums, self.release = sums, self.privacy.beside(sums)

    def batch(self, n: int) -> Tensor:
        """The numbers of the runs of a step, of n that finished: each with probability `sampling`, none or all perhaps."""
        if self.privacy.sampling == 1:
            return torch.arange(n)
        return (self._source(n) < self.privacy.sampling).nonzero()[:, 0]

    def step(self, gradients: Tensor) -> Tensor:
        """The gradient `[k]` of a step from those of the runs of its batch, `[b, k]`."""
        self._book("steps", self.steps)
        total = self._noisy(gradients, self.privacy.clip, self.noise)
        return total / (self.privacy.sampling * self.runs)

    def total(self, shares: Tensor, bound: float) -> Tensor:
        """The sum `[k]` of what all runs give, `[n, k]`, each no longer than `bound`."""
        self._book("sums", self.sums)
        return self._noisy(shares, bound, self.release if self.noise else 0.0)

    def statement(self) -> dict[str, Any]:
        """What was spent and promised, as plain JSON for whoever gets the emulator."""
        p, steps, sums = self.privacy, self.booked["steps"], self.booked["sums"]
        made = [Release(self.noise, p.sampling, steps), Release(self.release, 1.0, sums)]
        spent = epsilon(made, p.delta, p.accountant) if p.promises else math.inf
        told = {"unit": UNIT, "neighbours": NEIGHBOURS,
                "epsilon": spent if math.isfinite(spent) else None, "delta": p.delta, "noise": self.noise,
                "clip": p.clip, "sampling": p.sampling, "steps": steps, "stopped": steps < p.steps, "sums": sums,
                "release": self.release, "runs": self.runs, "accountant": p.accountant}  # fmt: skip
        if math.isfinite(spent):
            told["accounting"] = f"dp-accounting {version('dp-accounting')}"
        return {**told, "promise": promise(told, p), "not_covered": list(UNCOVERED)}

    def _book(self, kind: str, allowed: int) -> None:
        if self.booked[kind] >= allowed:
            raise InputError(f"the privacy budget allows {allowed} {kind}, and all are spent. Raise privacy.epsilon, or lower what "
                             "is asked.")  # fmt: skip
        self.booked[kind] += 1

    def _noisy(self, rows: Tensor, bound: float | None, noise: float) -> Tensor:
        """A row that is no number counts as none, so that no single run can spoil a sum."""
        length = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
        share = 1.0 if bound is None else bound / length.clamp_min(bound)
        total = torch.where(length.isfinite(), rows * share, 0.0).sum(0)
        return total if noise == 0 or bound is None else total + noise * bound * self._source.normal(len(total))


def promise(told: dict[str, Any], privacy: Privacy) -> str:
    """The promise in one sentence, or why there is none."""
    if told["epsilon"] is None:
        why = ("its noise comes from the seed, and whoever knows that can take it off" if privacy.randomness == "seed"
               else "it learnt without noise")  # fmt: skip
        return f"No privacy is promised: {why}."
    stopped = ", where the budget stopped it" if told["stopped"] else ""
    beside = f", and {told['sums']} sums over all of them of multiplier {told['release']:g}" if told["sums"] else ""
    return (f"Differentially private with epsilon {math.ceil(1e4 * told['epsilon']) / 1e4:.4f} at delta {told['delta']:g}; what is "
            f"protected is {UNIT}. By {told['steps']} steps of noise multiplier {told['noise']:.4g}{stopped}, each on a batch that "
            f"has any of {told['runs']} runs with probability {told['sampling']:g}{beside}.")  # fmt: skip


class _Uniform:
    """Numbers in (0, 1) from the operating system, which nobody can repeat; from a seed where one is given."""

    def __init__(self, seed: int | None):
        self._generator = None if seed is None else torch.Generator().manual_seed(seed)

    def __call__(self, n: int) -> Tensor:
        if self._generator is not None:
            return torch.rand(n, generator=self._generator, dtype=torch.float64).clamp_min(_GRID / 2)
        bits = np.frombuffer(os.urandom(8 * n), np.uint64) >> np.uint64(11)
        return torch.from_numpy((bits.astype(np.float64) + 0.5) * _GRID).clamp_max(1 - _GRID)

    def normal(self, n: int) -> Tensor:
        return torch.special.ndtri(self(_DRAWS * n)).reshape(_DRAWS, n).sum(0) / math.sqrt(_DRAWS)


def _least(fits: Callable[[float], bool]) -> float | None:
    """The least noise multiplier that fits, by bisection of its logarithm, rounded up to what is printed of it."""
    low, high = 0.05, 1.0
    while not fits(high):
        low, high = high, 2 * high
        if high > _MOST:
            return None
    while high / low > 1 + _FINEST:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if fits(middle) else (middle, high)
    digits = 3 - math.floor(math.log10(high))
    return math.ceil(high * 10**digits) / 10**digits


def _last(fits: Callable[[int], bool], most: int) -> int:
    """The largest k up to `most` that fits, where all below one that fits do."""
    low, high = 0, most + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


@contextmanager
def _quiet() -> Iterator[None]:
    """Orders of a divergence that do not converge are left out, which only raises the bound, and said a hundred times."""
    logger = logging.getLogger("absl")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def missing() -> str:
    """What to install before a private training, known before any run is made; nothing where it is there."""
    try:
        there = find_spec("dp_accounting") is not None
    except (ImportError, ValueError):  # ValueError: what stands in sys.modules in its place is no module
        there = False
    return "" if there else ("privacy needs the package dp-accounting, which adds up what is spent, and it is not installed. "
                             "Install the extra: pip install emulate[dp].")  # fmt: skip


@cache
def _accounting() -> Any:
    if said := missing():
        raise InputError(said)
    import dp_accounting

    return dp_accounting
