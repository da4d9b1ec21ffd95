r"""Error against number of runs, and how many more runs a target needs: a power law with a floor, with its uncertainty.

    ln e_i = ln(a (n_i^-b + r^-b)) + sigma epsilon_i

e is the error of an emulator fitted to n runs, r the number of runs at which the floor takes over from the power law
(no floor is seen where r lies far beyond the runs). Errors that fall faster than any power, as those of a smooth
function may, are put too high beyond the runs, not too low. Given b and r the model is linear in ln a, so the posterior is a
table over (b, r) times a normal and an inverse gamma distribution: no chain, no start, nothing to converge.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from emulate.errors import CampaignError, InputError

if TYPE_CHECKING:
    from emulate.contracts import Recipe
    from emulate.runs import Runs

_B = np.linspace(0.02, 10.0, 200)  # exponents: 1/2 is Monte Carlo, smooth functions reach several
_STEEP = 3.0  # mean of their prior, which is exponential
_BEYOND = 100.0  # a floor that takes over at this many times the runs is none
_NONE, _FLOORLESS = 80.0, 0.3  # ln r where there is no floor, and how likely that is before the fits are seen
_DRAWS = 4000
_SPREAD, _TRUST = 0.1, 2.0  # prior of sigma: 10 % scatter between fits, worth two fits


@dataclass(frozen=True)
class Trial:
    """One fit to `runs` runs: the error of each held-out run, `errors` `[h]`."""

    runs: int
    errors: tuple[float, ...]

    @property
    def median(self) -> float:
        return float(np.median(self.errors))


def sizes(n: int, least: int) -> tuple[int, ...]:
    """About n/8, n/4, n/2, 3n/4 and n runs, none below `least`.

    >>> sizes(64, 6)
    (8, 16, 32, 48, 64)
    """
    return tuple(sorted({m for share in (8, 4, 2, 4 / 3, 1) if (m := round(n / share)) >= least}))


def stretches(n: int, size: int, most: int) -> tuple[slice, ...]:
    """At most `most` stretches of `size` rows that share none, evenly from the n rows of a design.

    A stretch of a Sobol sequence is itself well spread, as a design of that size would be; rows at random are not, and
    would make few runs look worse than they are.

    >>> stretches(64, 16, 3)
    (slice(0, 16, None), slice(24, 40, None), slice(48, 64, None))
    """
    count = max(1, min(most, n // size))
    starts = [round(i * (n - size) / max(1, count - 1)) for i in range(count)]
    return tuple(slice(s, s + size) for s in starts)


def trials(recipe: "Recipe", runs: "Runs", score: Callable[[Any], Sequence[float]], *, seed: int, most: int = 4,
           progress: Callable[[int, int], None] | None = None) -> tuple[Trial, ...]:  # fmt: skip
    """Refit a recipe to parts of its finished training runs; `score(emulator)` gives the error of each held-out run."""
    from emulate.emulator import fit

    finished = runs.finished()
    n, least = len(finished), recipe.least_runs(runs.space.d)
    parts = [(size, part) for size in sizes(n, least) for part in stretches(n, size, most)]
    if len({size for size, _ in parts}) < 3:
        raise CampaignError(f"a learning curve must have three sizes of at least {least} runs, the least that "
                            f"{recipe.entry_name()} accepts. Got {n} finished runs; run more points.")  # fmt: skip
    found = []
    for i, (size, part) in enumerate(parts):
        if progress:
            progress(i, len(parts))
        errors = score(fit(recipe, finished.select(part), seed=seed))
        found.append(Trial(size, tuple(float(e) for e in errors)))
    return tuple(found)


@dataclass(frozen=True)
class Answer:
    """How many runs reach a target: quantiles at 5, 50 and 95 % (infinite where they do not), and P(never)."""

    target: float
    low: float
    middle: float
    high: float
    never: float


@dataclass(frozen=True)
class LearningCurve:
    """The posterior of the power law, as draws: ln a, b, ln r and sigma `[draws]`; `level` is the standard deviation
    of ln e that is common to all fits, because they are judged by the same held-out runs.

    >>> n = np.array([8, 8, 16, 16, 32, 64])
    >>> curve = LearningCurve.fit(n, 3.0 / n, seed=0)
    >>> low, middle, high = curve.error(128)
    >>> bool(low < 3 / 128 < high)
    True
    """

    runs: np.ndarray  # [fits]
    errors: np.ndarray  # [fits]
    log_a: np.ndarray = field(repr=False)
    b: np.ndarray = field(repr=False)
    log_r: np.ndarray = field(repr=False)
    sigma: np.ndarray = field(repr=False)
    level: np.ndarray = field(repr=False)  # draws of the common error

    @staticmethod
    def fit(runs: Any, errors: Any, *, seed: int, level: float = 0.0) -> "LearningCurve":
        """From the error of each of several fits and the number of runs it was fitted to."""
        n, e = np.asarray(runs, float), np.asarray(errors, float)
        if n.shape != e.shape or n.ndim != 1 or len(set(n.tolist())) < 3:
            raise InputError(f"a learning curve must have errors at three numbers of runs or more. Got {n.size} errors "
                             f"at {len(set(n.ravel().tolist()))}; fit to more subsets.")  # fmt: skip
        if not (np.isfinite(e).all() and (e > 0).all() and (n >= 1).all()):
            raise InputError("errors of a learning curve must be finite and above 0. Got one that is not; an emulator "
                             "without error needs no more runs.")  # fmt: skip
        rng = np.random.default_rng(seed)
        log_r = np.append(np.linspace(math.log(n.min()), math.log(_BEYOND * n.max()), 60), _NONE)
        b, r = (g.ravel() for g in np.meshgrid(_B, log_r, indexing="ij"))
        shape = np.logaddexp(-b[:, None] * np.log(n), -b[:, None] * r[:, None])  # [grid, fits]
        rest = np.log(e) - shape
        centre = rest.mean(1)
        square = ((rest - centre[:, None]) ** 2).sum(1)
        freedom = len(n) - 1 + _TRUST
        scale = square + _TRUST * _SPREAD**2
        odds = np.where(r < _NONE, math.log((1 - _FLOORLESS) / 60), math.log(_FLOORLESS))
        weight = odds - b / _STEEP - 0.5 * freedom * np.log(scale)  # ln a and sigma integrated out
        p = np.exp(weight - weight.max())
        index = rng.choice(len(p), _DRAWS, p=p / p.sum())
        sigma = np.sqrt(scale[index] / rng.chisquare(freedom, _DRAWS))
        log_a = centre[index] + sigma / math.sqrt(len(n)) * rng.standard_normal(_DRAWS)
        jitter = (rng.random((2, _DRAWS)) - 0.5) * np.array([[_B[1] - _B[0]], [log_r[1] - log_r[0]]])
        return LearningCurve(n, e, log_a, np.maximum(b[index] + jitter[0], 0.01), r[index] + jitter[1], sigma,
                             level * rng.standard_normal(_DRAWS))  # fmt: skip

    @staticmethod
    def of(found: Sequence[Trial], *, seed: int) -> "LearningCurve":
        """From trials: the median error of each; the held-out runs are drawn again for the error they share."""
        last = np.log(found[-1].errors)
        h = np.random.default_rng(seed).integers(0, len(last), (400, len(last)))
        level = float(np.median(last[h], axis=1).std())
        return LearningCurve.fit([t.runs for t in found], [t.median for t in found], seed=seed, level=level)

    def error(self, n: Any, *, share: float = 0.9) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Low, middle and high error of an emulator that is fitted to n `[...]` runs, its own scatter included."""
        n = np.asarray(n, float)
        draws = self._curve(n) + self.level + self.sigma * self._scatter
        return tuple(np.exp(np.quantile(draws, [(1 - share) / 2, 0.5, (1 + share) / 2], axis=-1)))

    def answer(self, target: float) -> Answer:
        """How many runs bring the error to `target`, for the curve (not for one lucky fit)."""
        if not target > 0 or not math.isfinite(target):
            raise InputError(f"target must be an error above 0, 0.01 for 1 %. Got {target}.")
        need = math.log(target) - self.log_a - self.level  # ln of what n^-b + r^-b must be
        gap = np.exp(need) - np.exp(-self.b * self.log_r)
        with np.errstate(divide="ignore", over="ignore"):
            n = np.where(gap > 0, np.exp(-np.log(np.maximum(gap, 1e-300)) / self.b), np.inf)
        low, middle, high = np.quantile(n, [0.05, 0.5, 0.95], method="nearest")
        return Answer(target, float(low), float(middle), float(high), float(np.isinf(n).mean()))

    def sentence(self, target: float) -> str:
        """What the answer means for the runs at hand."""
        now, a = int(self.runs.max()), self.answer(target)
        said = f"{100 * target:.3g} %"
        low, here, high = (100 * float(x) for x in self.error(now))
        head = f"With {now} runs the median error is {here:.2g} % ({low:.2g} to {high:.2g} %)"
        if a.middle <= now:
            sure = "" if a.high <= now else f" (or {self._count(a.high)}, at the far end of 90 %)"
            return f"{head}: {said} needs no more runs{sure}."
        if a.never > 0.5 or a.middle > _BEYOND * now:
            doubt = f"with a probability of {a.never:.0%} no number of runs reaches it"
            return f"{head}: {said} needs more than {self._count(min(a.low, _BEYOND * now))}; {doubt}."
        more = f"{self._count(a.middle - now)} more, {self._count(a.middle)} in all"
        return f"{head}: {said} needs about {more} (90 %: {self._count(a.low)} to {self._count(a.high)})."

    def _count(self, n: float) -> str:
        now = self.runs.max()
        if n > _BEYOND * now:
            return f"more than {_BEYOND * now:.0f}"
        return f"{math.ceil(n):d}" if n < 100 else f"{float(f'{n:.2g}'):.0f}"

    @cached_property
    def _scatter(self) -> np.ndarray:
        return np.random.default_rng(len(self.runs)).standard_normal(_DRAWS)

    def _curve(self, n: np.ndarray) -> np.ndarray:
        """ln e `[..., draws]` without scatter."""
        return self.log_a + np.logaddexp(-self.b * np.log(n[..., None]), -self.b * self.log_r)
