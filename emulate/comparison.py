r"""Emulators compared on the same left-out runs: a proper score, the error of the mean, and the error of the gradient.

The finished runs are dealt into K folds by a seeded permutation, the same for every recipe. Each recipe is fitted K
times to all folds but one and judged on that one, so every run is predicted once by an emulator that never saw it:

    log score = mean_i ln p(y_i | theta_i, runs outside the fold of i)

which no emulator improves by stating another error than its own (Gneiting and Raftery 2007). Error bars are
sd(fold means) / K^1/2. Fits share runs, so they are somewhat too short (Bengio and Grandvalet 2004).

The choice: the best log score, unless others are level with it. Level is who loses, fold by fold, no more than one
standard error of the difference (of 1 nat per run at most: without that limit an emulator with one run a thousand of its
own sigmas off would be level, for that run makes the error bar as long as the loss), or less than 0.1 nat per run, a
factor of 1.1 in the density, however sure that is. Among those that are level the gradient decides, where the runs carry
Jacobians: the error of the worst parameter, median over the left-out runs, as the check `gradient` defines it.
"""

import math
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from emulate.checks.gradient import relative_error
from emulate.contracts import Jacobians, Recipe
from emulate.distributions import apart
from emulate.emulator import Emulator, demand, fit
from emulate.errors import DoubtWarning, EmulateError, ExtrapolationWarning, InputError
from emulate.runs import Runs, places
from emulate.scoring import misses

_Z = 1.959963984540054  # the central 95 % of a Gaussian lies within this many standard deviations
_LEVEL = 0.1, 1.0  # nats per run by which an emulator may lose and is level with the best: always, never beyond
_NUMBERS = 2**22  # of the covariances and Jacobians that are held at once
_WORTH = 1.5  # a gradient that is so many times better than that of the emulator chosen is told


def deal(n: int, folds: int, *, seed: int) -> np.ndarray:
    """The fold `[n]` of each of n places, 0 to `folds` - 1, sizes equal to one.

    >>> np.bincount(deal(7, 3, seed=0)).tolist()
    [3, 2, 2]
    """
    if not isinstance(folds, int | np.integer) or not 2 <= folds <= n:
        raise InputError(
            f"folds must be a whole number, at least 2 and at most {n}, the places where runs finished. Got {folds!r}."
        )
    fold = np.empty(n, np.int64)
    fold[np.random.default_rng(seed).permutation(n)] = np.arange(n) % folds
    return fold


def deal_runs(runs: Runs, folds: int, *, seed: int) -> np.ndarray:
    """The fold `[n]` of each run; runs at the same parameters stay together, or one would tell of the other."""
    place = places(runs.theta)
    return deal(int(place.max(initial=-1)) + 1, folds, seed=seed)[place]


@dataclass(frozen=True)
class Fold:
    """What an emulator says of n runs that it never saw; `failure` is why it says nothing.

    Shapes: log_density, error (the largest of a run, of the value of positive outputs and of the field's standard
    deviation for the others) and inside (share of the outputs in the central 95 % interval) `[n]`, gradient `[n, d]`
    (relative, by parameter) or None where the runs carry no Jacobians.
    """

    log_density: np.ndarray
    error: np.ndarray
    inside: np.ndarray
    gradient: np.ndarray | None = None
    seconds: float = 0.0
    failure: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON, from which `from_dict` makes the same bits; a number that is not finite becomes text."""
        arrays = {k: _spelled(v) for k, v in vars(self).items() if isinstance(v, np.ndarray)}
        return {**arrays, "seconds": self.seconds, "failure": self.failure}

    @staticmethod
    def from_dict(record: Mapping[str, Any]) -> "Fold":
        names = [n for n in ("log_density", "error", "inside", "gradient") if n in record]
        return Fold(**{n: np.array(record[n], np.float64) for n in names}, seconds=float(record["seconds"]),
                    failure=str(record["failure"]))  # fmt: skip


def _spelled(a: np.ndarray) -> list:
    return [_spelled(row) for row in a] if a.ndim > 1 else [float(x) if math.isfinite(x) else str(x) for x in a]


def failed(sentence: str, seconds: float = 0.0) -> Fold:
    """A fold that was not judged."""
    none = np.empty(0)
    return Fold(none, none, none, None, seconds, sentence)


def judge(emulator: Emulator, left_out: Runs, over: Runs) -> Fold:
    """Scores of finished runs that the emulator never saw; spreads of outputs and of derivatives are those of `over`."""
    m, d = left_out.outputs.size, left_out.space.d
    parts = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExtrapolationWarning)  # a left-out run may lie beyond the others
        for rows in _blocks(len(left_out), m * m):
            y = torch.from_numpy(left_out.y[rows])
            with torch.no_grad():
                prediction = emulator.predict(torch.from_numpy(left_out.theta[rows]))
                mean, sd, density = (
                    prediction.mean,
                    prediction.variance.sqrt(),
                    prediction.log_prob(apart(prediction, y)),
                )
            inside = ((mean - y).abs() <= _Z * sd).double().where(mean.isfinite() & sd.isfinite(), torch.nan)
            parts.append((density, misses(mean, y, over).amax(-1), inside.mean(-1)))
        slopes = None
        if over.jacobian is not None:
            known, every = _jacobians(left_out), _jacobians(over)
            blocks = [
                Jacobians(**{k: t[rows] for k, t in vars(known).items()}) for rows in _blocks(len(left_out), 8 * m * d)
            ]
            slopes = torch.cat([relative_error(emulator, some, every) for some in blocks]).numpy()
    density, error, inside = (torch.cat(p).numpy() for p in zip(*parts, strict=True))
    return Fold(density, error, inside, slopes)


def _jacobians(runs: Runs) -> Jacobians:
    return Jacobians(*map(torch.from_numpy, (runs.theta, runs.y, runs.jacobian, runs.jacobian_error)))


def _blocks(n: int, width: int) -> Iterator[slice]:
    rows = max(1, _NUMBERS // width)
    return (slice(start, start + rows) for start in range(0, n, rows))


def leave_out(recipe: Recipe, finished: Runs, out: np.ndarray, *, seed: int,
              fidelities: Mapping[str, Runs] | None = None) -> Fold:  # fmt: skip
    """Fit to the finished runs but those of the mask `out` `[n]`, judge on these.

    Cheaper runs at the parameters of a left-out run are left out too: a new point has none. Whatever the recipe raises
    is the failure of the fold, in its own words; the code of a recipe may be anybody's.
    """
    began = time.monotonic()
    try:
        hidden = set(map(tuple, finished.theta[out].tolist()))
        cheap = {name: runs.select(np.array([tuple(t) not in hidden for t in runs.theta.tolist()], bool))
                 for name, runs in (fidelities or {}).items()}  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DoubtWarning)  # the fit to all runs says it
            emulator = fit(recipe, finished.select(~out), seed=seed, fidelities=cheap)
        seconds = time.monotonic() - began
        return replace(judge(emulator, finished.select(out), finished), seconds=seconds)
    except Exception as e:
        said = str(e) if isinstance(e, EmulateError) else f"{type(e).__name__}: {e}"
        return failed(" ".join(said.split()), time.monotonic() - began)


@dataclass(frozen=True)
class Scores:
    """One emulator over all folds. `note` says why it cannot be chosen; it is empty where it can."""

    folds: tuple[Fold, ...]
    note: str = ""

    @staticmethod
    def of(folds: Collection[Fold]) -> "Scores":
        """With the note of what went wrong: folds that failed, densities that are no numbers."""
        failures = [f.failure for f in folds if f.failure]
        if failures:
            return Scores(tuple(folds), f"failed on {len(failures)} of {len(folds)} folds: {failures[0]}")
        density = np.concatenate([f.log_density for f in folds])
        lost = int((~np.isfinite(density)).sum())
        odd = f"its log density is not a finite number at {lost} of {len(density)} left-out runs" if lost else ""
        return Scores(tuple(folds), odd)

    @cached_property
    def judged(self) -> tuple[Fold, ...]:
        return tuple(f for f in self.folds if not f.failure)

    @property
    def log_score(self) -> tuple[float, float]:
        """Mean log density of a left-out run in nats, and its standard error over folds."""
        return self._bar(lambda folds: float(np.concatenate([f.log_density for f in folds]).mean()))

    @property
    def median(self) -> tuple[float, float]:
        """Median over the runs of the largest error, and its standard error over folds."""
        return self._bar(lambda folds: float(np.median(np.concatenate([f.error for f in folds]))))

    @property
    def coverage(self) -> tuple[float, float]:
        """Share of the outputs in the central 95 % interval."""
        return self._bar(lambda folds: float(np.concatenate([f.inside for f in folds]).mean()))

    @property
    def gradient(self) -> tuple[float, float]:
        """Error of the derivative with respect to the worst parameter, median over runs; NaN without Jacobians."""
        if not self.judged or self.judged[0].gradient is None:
            return math.nan, math.nan
        return self._bar(
            lambda folds: float(
                np.median(np.concatenate([f.gradient for f in folds if f.gradient is not None]), 0).max()
            )
        )

    @property
    def seconds(self) -> float:
        """Of all fits."""
        return sum(f.seconds for f in self.folds)

    def _bar(self, statistic: Callable[[tuple[Fold, ...]], float]) -> tuple[float, float]:
        """A statistic over all runs, and the standard deviation over folds by K^1/2."""
        if not self.judged:
            return math.nan, math.nan
        each = [statistic((f,)) for f in self.judged]
        with np.errstate(invalid="ignore"):  # of a score that is infinite the error is NaN
            error = float(np.std(each, ddof=1)) / len(each) ** 0.5 if len(each) > 1 else math.nan
        return statistic(self.judged), error

    def behind(self, best: "Scores") -> tuple[float, float]:
        """By how many nats per run it loses to another, fold by fold, and the standard error of that."""
        means = np.array([[f.log_density.mean() for f in s.folds] for s in (best, self)])
        error = float(np.std(means[0] - means[1], ddof=1)) / means.shape[1] ** 0.5
        return best.log_score[0] - self.log_score[0], error

    def to_dict(self) -> dict[str, Any]:
        """The numbers of a table, each with its error bar."""
        bars = {k: getattr(self, k) for k in ("log_score", "median", "coverage", "gradient")}
        return {**{k: b[0] for k, b in bars.items()}, **{f"{k}_error": b[1] for k, b in bars.items()},
                "seconds": self.seconds, "folds": len(self.folds), "note": self.note}  # fmt: skip


@dataclass(frozen=True)
class Choice:
    """The emulator that was chosen, empty where none could be, and why."""

    name: str
    sentence: str


def choose(scores: Mapping[str, Scores]) -> Choice:
    """The emulator to use, by the rule above; those with a note are not eligible.

    Ties go to the one that comes first.
    """
    able = {n: s for n, s in scores.items() if not s.note}
    if not able:
        return Choice("", "No emulator could be compared on folds of the training runs.")
    best = max(able, key=lambda n: able[n].log_score[0])
    gaps = {n: s.behind(able[best]) for n, s in able.items() if n != best}
    always, never = _LEVEL
    level = [n for n in able if n == best or gaps[n][0] <= max(always, min(gaps[n][1], never))]
    error = {n: s.gradient[0] for n, s in able.items()}
    ranked = sorted(level, key=lambda n: error[n] if math.isfinite(error[n]) else math.inf)  # stable: NaN counts last
    known = [n for n in ranked if math.isfinite(error[n])]
    name = ranked[0] if len(level) > 1 and known else best
    if len(able) == 1:
        return Choice(name, f"{name} is chosen: it is the only one that could be compared.")
    if len(level) == 1:
        second = min(gaps, key=lambda n: gaps[n][0])
        said = f"{name} is chosen: it has the best log score, {_said(gaps[second])} nats per run before {second}."
    elif not known:
        rest = _listed(n for n in level if n != name)
        said = f"{name} is chosen: it has the best log score, level with that of {rest}."
    else:
        others = ", ".join(f"{_percent(error[n])} of {n}" for n in ranked if n != name)
        said = (f"{name} is chosen: the log scores of {_listed(level)} are level, and its gradient is off by "
                f"{_percent(error[name])}, against {others}.")  # fmt: skip
    finer = min(able, key=lambda n: error[n] if math.isfinite(error[n]) else math.inf)
    if finer != name and error[finer] * _WORTH < error[name]:
        said += f" The gradient of {finer} is better: off by {_percent(error[finer])}, against {_percent(error[name])}."
    if not any(map(math.isfinite, error.values())):
        said += " The runs carry no Jacobians, so gradients had no say."
    return Choice(name, said)


@dataclass(frozen=True)
class Comparison:
    """Scores by name, in the order given, and the choice among them."""

    scores: dict[str, Scores]

    @property
    def choice(self) -> Choice:
        return choose(self.scores)

    def to_pandas(self) -> Any:
        """One row per emulator; columns ending in `_error` are standard errors over folds."""
        import pandas

        return pandas.DataFrame({n: s.to_dict() for n, s in self.scores.items()}).T


def too_few(recipe: Recipe, finished: Runs, fold: np.ndarray) -> str:
    """Why a recipe cannot be fitted without the largest fold, or nothing."""
    least, left = recipe.least_runs(finished.space.d), len(finished) - int(np.bincount(fold).max())
    return f"needs {least} runs, and a fold leaves {left}" if left < least else ""


def compare(recipes: Mapping[str, Recipe], runs: Runs, *, folds: int = 5, seed: int = 0,
            fidelities: Mapping[str, Runs] | None = None,
            progress: Callable[[int, int], None] | None = None) -> Comparison:  # fmt: skip
    """Fit every recipe on the same folds of the finished runs; nothing that failed is dropped, each has its note.

    `recipes` by a name of your choice; `fidelities` are cheaper runs by name, for recipes that read them;
    `progress(fits done, fits in all)` is called before every fit. Raises `InputError` when there are fewer finished
    runs than folds.

    >>> from emulate.emulators.polynomial import Polynomial
    >>> from emulate.runs import Field, Outputs
    >>> from emulate.space import Parameter, Space, Uniform
    >>> x = np.linspace(0, 1, 20)[:, None]
    >>> runs = Runs.of(Space((Parameter("a", Uniform(0, 1)),)), Outputs((Field("y"),)), x, np.sin(3 * x))
    >>> found = compare({"line": Polynomial(degree=1), "cubic": Polynomial(degree=3)}, runs)
    >>> found.choice.name
    'cubic'
    """
    if not isinstance(recipes, Mapping):
        raise InputError(f"recipes must stand under names, such as {{'gp': GP()}}. Got {type(recipes).__name__}.")
    for recipe in recipes.values():
        demand(recipe, runs, seed)
    finished = runs.finished()
    fold = deal_runs(finished, folds, seed=seed)
    found: dict[str, list[Fold]] = {name: [] for name in recipes}
    notes = {name: too_few(r, finished, fold) for name, r in recipes.items()}
    todo = [(name, k) for name in recipes if not notes[name] for k in range(folds)]
    for i, (name, k) in enumerate(todo):
        if progress:
            progress(i, len(todo))
        found[name].append(leave_out(recipes[name], finished, fold == k, seed=seed, fidelities=fidelities))
    return Comparison({n: Scores((), notes[n]) if notes[n] else Scores.of(found[n]) for n in recipes})


def _said(gap: tuple[float, float]) -> str:
    return f"{gap[0]:.3g} +- {gap[1]:.2g}"


def _percent(x: float) -> str:
    return f"{100 * x:.3g} %" if math.isfinite(x) else "not a number"


def _listed(names: Any) -> str:
    names = list(names)
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)
