"""The parameters at which an emulator is best, with constraints, for predictions that may be wrong, confirmed by true runs.

An emulator's optimum is where its own errors flatter it most, so a value is told with the emulator's error there, and a
gain is claimed only of true runs. `robust` asks for a point that is good although the emulator errs: mean + k sd of the
objective over draws of the prediction (Beyer and Sendhoff 2007), all points with the same draws so that noise chooses none.
"""

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from emulate.contracts import Simulator
from emulate.descent import descend
from emulate.designs.sobol import Sobol
from emulate.direct import Direct
from emulate.distributions import Exact, drawn
from emulate.errors import InputError
from emulate.expressions import Constraint, Expression
from emulate.minimisation import FEASIBLE, LARGEST, Minima, minimise
from emulate.seeds import replicates as seeds

Rule = str | Callable[[Tensor, Distribution], Tensor]  # an expression, or a function of theta and the prediction there

_LOOKED, _DRAWS, _HELD = 512, 512, 2**21  # points of the first look; draws of the prediction, and numbers held at once
_FEWEST, _SETTLED = 8, 64  # points of the first look where each is a run; runs that tell the value of something random
_JITTERS = 32  # draws of parameters within their tolerance
_SAME, _CLOSE = 1e-4, 0.02  # values alike, as a share of the spread over the box; points alike, in box widths
_ACTIVE, _EDGE, _BROKEN = (
    1e-4,
    1e-7,
    1e-3,
)  # of a constraint's spread over the box; of the box; that a true run may break
_KEPT, _SHOWN = 10, 12  # optima that are told; parameters in a sentence


@dataclass(frozen=True)
class Rated:
    """A constraint at the optimum: left - right of `text`, its standard deviation, and df/d(bound), the price of it."""

    text: str
    value: float
    sd: float
    active: bool
    met: bool
    price: float


@dataclass(frozen=True)
class Confirmed:
    """True runs at the optimum, and at the reference: means of the objective with standard errors, NaN for a single run of
    something random. gain: by how much the optimum is better; z: (true - predicted) in standard deviations."""

    runs: int
    value: float
    error: float
    reference: float
    reference_error: float
    gain: float
    gain_error: float
    z: float
    broken: tuple[str, ...]  # constraints that the mean run breaks, by 0.1 % of their spread and two standard errors

    @property
    def gained(self) -> bool:
        """A gain above two standard errors, at a point that breaks no constraint."""
        return not self.broken and self.gain > 2 * (math.inf if math.isnan(self.gain_error) else self.gain_error)

    @property
    def sentence(self) -> str:
        error = f" ± {self.error:.2g}" if self.error > 0 else ""
        runs = "a true run" if self.runs == 1 else f"{self.runs} true runs"
        verb = "gives" if self.runs == 1 else "give"
        off = f", {self.z:+.1f} sd from the prediction" if math.isfinite(self.z) else ""  # of what is made it was none
        said = f"{runs} {verb} {self.value:.6g}{error}{off}"
        by = f"{self.gain:.4g}" + (f" ± {self.gain_error:.2g}" if self.gain_error > 0 else "")
        end = f"a gain of {by} over the reference, {self.reference:.6g}" if self.gained else (
            f"no gain is shown over the reference, {self.reference:.6g} (by {by})")  # fmt: skip
        broken = f"; broken there: {', '.join(self.broken)}" if self.broken else ""
        return f"{said}; {end}{broken}"


@dataclass(frozen=True)
class Optimum:
    """The best point: theta `[d]`, the predicted objective `value` with its standard deviation `sd` by the emulator's error.

    criterion is what was minimised (value, or its robust form, with the sign of the objective); gradient the size of its
    projected gradient over the unit cube; edges the parameters that lie at an edge of the box; agree of `starts` ended
    here; others further optima, `(theta, value)`, best first; remoteness as `Emulator.remoteness`, thin where no run is near.
    runs: how many the search made itself, where no emulator stands between; sd is then the standard error over them.
    history `[steps, starts]`: the objective, with what broken constraints cost, step by step, the best start first; path
    `[s, d]`: the way of that start, of a long one some steps; doubt: the standard error of the gradient where that is random.

    >>> at = torch.tensor([0.5, 2.0], dtype=torch.float64)
    >>> best = Optimum(("a", "b"), at, 1.25, 0.02, 1.25, 0.0, (), (), agree=8, starts=8, converged=True, feasible=True, others=())
    >>> best.at
    {'a': 0.5, 'b': 2.0}
    """

    names: tuple[str, ...]
    theta: Tensor
    value: float
    sd: float
    criterion: float
    gradient: float
    constraints: tuple[Rated, ...]
    edges: tuple[str, ...]
    agree: int
    starts: int
    converged: bool
    feasible: bool
    others: tuple[tuple[Tensor, float], ...]
    remoteness: float = float("nan")
    thin: bool = False
    confirmed: Confirmed | None = None
    runs: int = 0
    history: Tensor | None = None
    path: Tensor | None = None
    doubt: float = 0.0

    @property
    def at(self) -> dict[str, float]:
        """theta by name."""
        return dict(zip(self.names, self.theta.tolist()))

    @property
    def sentence(self) -> str:
        """Where it is, what it is worth and how sure that is, in words."""
        where = ", ".join(f"{n} = {x:.6g}" for n, x in [*self.at.items()][:_SHOWN]) + (
            " ..." if self.names[_SHOWN:] else ""
        )
        source = "its runs" if self.runs else "the emulator"
        parts = [f"{where}: {self.value:.6g}" + (f" ± {self.sd:.2g} by {source}" if self.sd > 0 else "")]
        if not self.feasible:
            broken = ", ".join(f"{c.text} by {c.value:.2g}" for c in self.constraints if not c.met)
            parts = [f"no point was found that meets every constraint; the nearest breaks {broken}: {where}"]
        parts.append(f"{self.agree} of {self.starts} starts ended here")
        if self.edges:
            some = ", ".join(self.edges[:_SHOWN]) + (" ..." if self.edges[_SHOWN:] else "")
            parts.append(f"at the edge of the box in {some}: what lies beyond may be better")
        if held := [c.text for c in self.constraints if c.active]:
            parts.append(f"held by {', '.join(held)}")
        if self.thin:
            parts.append(f"no run is near ({self.remoteness:.2g} times as far as runs are from each other): run the simulator "
                         "there before you believe it")  # fmt: skip
        if self.feasible and not self.converged:
            parts.append(f"the search has not ended (gradient {self.gradient:.1g})")
        elif self.doubt:
            parts.append(f"its gradient, {self.gradient:.1g} ± {self.doubt:.1g}, tells no further progress")
        if self.runs:
            parts.append(f"{self.runs} runs of the simulator were made on the way")
        parts.append(self.confirmed.sentence if self.confirmed else "no true run has confirmed it")
        return "; ".join(parts) + "."

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        confirmed = None if self.confirmed is None else {**vars(self.confirmed), "gained": self.confirmed.gained}
        kept = (
            "value",
            "sd",
            "criterion",
            "gradient",
            "agree",
            "starts",
            "converged",
            "feasible",
            "remoteness",
            "thin",
            "runs",
            "doubt",
        )
        return {"theta": self.at, **{k: getattr(self, k) for k in kept}, "edges": list(self.edges),
                "constraints": [vars(c) for c in self.constraints], "sentence": self.sentence, "confirmed": confirmed,
                "others": [{"theta": dict(zip(self.names, t.tolist())), "value": v} for t, v in self.others]}  # fmt: skip


def optimise(emulator: Any, objective: Rule, *, seed: int, maximise: bool = False, subject_to: Sequence[Rule] = (),
             robust: float | None = None, tolerance: Mapping[str, float] | None = None, starts: int | None = None,
             method: Literal["bfgs", "adam"] | None = None, steps: int | None = None, replicates: int = 16,
             outside: Literal["warn", "refuse", "inflate", "ignore"] = "warn", simulator: Simulator | None = None,
             confirm: int = 1, reference: Any = None, progress: Callable[[int, int], None] | None = None) -> Optimum:  # fmt: skip
    """The least (or greatest) objective over the emulator's box, from many starts in one batch.

    objective: an expression of parameters and output fields, `"pk[3] / mean(pk) + 0.1 * h"`, or a function of (theta
    `[..., d]`, prediction) that gives `[...]`. subject_to: comparisons, `"sum(pk) <= 3"`, names of the simulator's own
    `constraints` (`spacing` for all of spacing_1_2, spacing_1_3 ...), or functions that must be at most 0. Objective and
    constraints read the predicted mean; with `robust=k` the mean plus (for a maximum minus) k standard deviations of them
    over the emulator's error, k = 0 its expected value. tolerance: standard deviations with which parameters are met, over
    which is averaged too. outside: as in `Emulator.predict`; "refuse" raises where the best point lies where no run is near.
    starts: how many; empty: 64, and 8 where a simulator stands for the emulator. method: `bfgs` or `adam`, at most `steps`
    of them; see `minimise`.

    A simulator that has a derivative may stand in the place of the emulator: its runs are then climbed themselves, from
    `reference` and other starts. Where they are random the objective is its mean over runs: adam draws `replicates` fresh
    ones at every step, and stops where the standard error of the gradient hides all further progress; bfgs keeps as many.

    With a simulator, `confirm` true runs, if any, are made at the optimum and at `reference` (theta; empty: the prior's middle),
    one of each where nothing is random.

    >>> from emulate.runs import Field, Outputs
    >>> from emulate.space import Parameter, Space, Uniform
    >>> class Bowl:
    ...     space = Space((Parameter("a", Uniform(-2, 2)), Parameter("b", Uniform(-2, 2))))
    ...     outputs = Outputs((Field("y"),))
    ...     predict = staticmethod(lambda theta: Exact(theta.square().sum(-1, keepdim=True)))
    >>> best = optimise(Bowl, "y", subject_to=["a + b >= 1"], seed=1)
    >>> best.theta.round(decimals=5), round(best.value, 5), best.constraints[0].active
    (tensor([0.5000, 0.5000], dtype=torch.float64), 0.5, True)
    """
    itself = isinstance(emulator, Simulator)
    simulator = emulator if itself else simulator
    problem = Problem(stand_in(emulator, seed, replicates), objective, bounded(simulator, subject_to),
                      -1.0 if maximise else 1.0, robust, dict(tolerance or {}), outside, seed)  # fmt: skip
    if confirm < 0:
        raise InputError(f"confirm must be a number of true runs, or 0 for none. Got {confirm}.")
    middle = emulator.space.from_unit(torch.full((emulator.space.d,), 0.5, dtype=torch.float64))
    other = middle if reference is None else emulator.space.pack(reference)
    optimum = solved(problem, starts=starts, method=method, steps=steps, reference=other, progress=progress)
    if simulator is None or not confirm:
        return optimum
    simulator = simulator.made()
    n = confirm if simulator.stochastic else 1
    with torch.no_grad():
        runs = [torch.stack([simulator.run(t, seed=s) for s in seeds(seed, n)]) for t in (optimum.theta, other)]
    return confirmed(problem, optimum, runs[0], (other, runs[1]), stochastic=simulator.stochastic)


def stand_in(emulator: Any, seed: int, replicates: int = 16) -> Any:
    """What is asked in the place of an emulator: itself, or the runs of a simulator."""
    if not isinstance(emulator, Simulator):
        return emulator
    if replicates < 2:
        raise InputError(f"replicates must be at least 2, which tell an error. Got {replicates}.")
    return Direct(emulator).reseeded(key(seed, 0), replicates)


def solved(problem: "Problem", *, starts: int | None = None, method: str | None = None, steps: int | None = None,
           reference: Tensor | None = None, progress: Callable[[int, int], None] | None = None) -> Optimum:  # fmt: skip
    """The optimum of a problem, not confirmed yet; see `optimise`. A simulator is climbed from `reference` too."""
    starts = (8 if problem.direct else 64) if starts is None else starts
    method = method or ("adam" if problem.random or problem.space.d > LARGEST else "bfgs")
    if starts < 1 or (steps is not None and steps < 1) or method not in ("bfgs", "adam"):
        raise InputError(
            f"starts and steps must be at least 1, and method bfgs or adam. Got {starts}, {steps} and {method!r}."
        )
    u, scale, sizes = problem.first_look(starts, reference if problem.direct else None)
    trail = _Trail()
    if problem.random and method == "adam":
        found = descend(lambda u, n: problem.drawn(u, n, scale, sizes), u, replicates=len(problem.emulator.seeds),
                        equality=problem.equality, steps=steps, progress=progress, watch=trail)  # fmt: skip
    else:
        joint = _Joint(problem)
        found = minimise(
            lambda u: joint(u)[0] / scale, u, method=method, steps=steps, progress=progress, equality=problem.equality,
            constraints=(lambda u: joint(u)[1] / sizes) if len(sizes) else None, watch=trail,
        )  # fmt: skip
    if problem.random:  # told by runs that chose nothing, and flatter no point
        problem.emulator = problem.emulator.reseeded(key(problem.seed, 1), max(_SETTLED, len(problem.emulator.seeds)))
        with torch.no_grad():
            found = replace(found, value=problem.judged(found.u)[0] / scale)
    optimum = _told(problem, found, scale, sizes, trail)
    if problem.outside == "refuse" and optimum.thin:
        raise InputError(f"the best point must lie where the design is dense. Got {optimum.sentence} Run the simulator there, "
                         "or set outside to warn.")  # fmt: skip
    return optimum


def bounded(simulator: Simulator | None, subject_to: Sequence[Rule]) -> tuple[Rule, ...]:
    """The rules, with the simulator's own `constraints` in the place of their names."""
    own = simulator.constraints() if isinstance(simulator, Simulator) else {}

    def named(name: str) -> Rule:
        def rule(theta: Tensor, prediction: Distribution) -> Tensor:
            return own[name](theta).expand(prediction.mean.shape[:-1])

        rule.__name__ = name
        return rule

    families = [family(own, r) if isinstance(r, str) else [] for r in subject_to]
    return tuple(
        x for r, names in zip(subject_to, families, strict=True) for x in (map(named, names) if names else [r])
    )


def family(own: Iterable[str], text: str) -> list[str]:
    """The simulator's own constraints that a text names: one by its name, or all of a family by what their names begin with.

    >>> family(["spacing_1_2", "spacing_1_3", "cost"], "spacing"), family(["cost"], "cost + x <= 1")
    (['spacing_1_2', 'spacing_1_3'], [])
    """
    text, own = text.strip(), list(own)
    return [text] if text in own else [name for name in own if name.startswith(f"{text}_")]


def key(seed: int, *purpose: int) -> int:
    """A seed for a purpose of its own."""
    return int(np.random.SeedSequence([seed, 2**32 - 1, *purpose]).generate_state(1)[0])


class Problem:
    """An objective with its constraints over the unit cube of an emulator's space."""

    def __init__(self, emulator: Any, objective: Rule, subject_to: tuple[Rule, ...], sign: float, robust: float | None,
                 tolerance: dict[str, float], outside: str, seed: int):  # fmt: skip
        self.emulator, self.space, self.sign, self.robust, self.seed = emulator, emulator.space, sign, robust, seed
        self.outside, self.direct = outside, isinstance(emulator, Direct)
        self.random = self.direct and emulator.simulator.stochastic  # the objective is a mean over runs
        self.fields = {f.name: f.size if f.at else None for f in emulator.outputs.fields}
        known = self.fields | dict.fromkeys(self.space.names)
        if both := set(self.fields) & set(self.space.names):
            raise InputError(
                f"a name must be that of a parameter or of an output. Got {', '.join(sorted(both))} for both."
            )
        if self.random and (robust is not None or tolerance):
            raise InputError("robust and tolerance must be left out where a random simulator is optimised itself: its mean is. Got "
                             f"robust = {robust} and tolerance = {tolerance}; optimise an emulator of it.")  # fmt: skip
        if robust is not None and not 0 <= robust < 100:
            raise InputError(f"robust must be a number of standard deviations, 0 or more. Got {robust}.")
        if odd := [n for n, sd in tolerance.items() if n not in self.space.names or not sd >= 0]:
            raise InputError(
                f"tolerance must be standard deviations of parameters, {', '.join(self.space.names)}. Got {odd[0]}."
            )
        self.objective = Expression.read(objective, known) if isinstance(objective, str) else objective
        rules = [(r.text, r, r.equality) for s in subject_to if isinstance(s, str) for r in Constraint.read(s, known)]
        rules += [(getattr(s, "__name__", "constraint"), s, False) for s in subject_to if not isinstance(s, str)]
        self.texts, self.rules = [r[0] for r in rules], [r[1] for r in rules]
        self.equality = torch.tensor([r[2] for r in rules], dtype=torch.bool)
        self.sizes = torch.zeros(len(rules), dtype=torch.float64)  # their spread over the box, after the first look
        self.low, self.high = self.space.ends()
        self.sd = torch.tensor([tolerance.get(n, 0.0) for n in self.space.names], dtype=torch.float64)
        jitter = torch.from_numpy(Sobol().points(_JITTERS, self.space.d, seed=seed))
        self.jitter = torch.special.ndtri(jitter)[:, None, :] * self.sd if self.sd.any() else None

    def theta(self, u: Tensor) -> Tensor:
        """No clamp here: at an edge it would hide the gradient that says on which side of it the optimum lies."""
        return self.space.from_unit(self.low + (self.high - self.low) * u)

    def u(self, theta: Tensor) -> Tensor:
        """Where in the box theta `[..., d]` lies."""
        return ((self.space.to_unit(theta) - self.low) / (self.high - self.low)).clamp(0, 1)

    def plain(self) -> "Problem":
        """The same problem, of the predicted mean at parameters that are met exactly."""
        other = copy.copy(self)
        other.robust, other.jitter = None, None
        return other

    def predict(self, theta: Tensor) -> Distribution:
        inflated = {"outside": "inflate"} if self.outside == "inflate" else {}
        return self.emulator.predict(theta, **inflated)

    def rated(self, rule: Any, theta: Tensor, prediction: Distribution) -> Tensor:
        """A rule `[...]` at theta, of the prediction's mean."""
        if not isinstance(rule, Expression | Constraint):
            value = rule(theta, prediction)
            if value.shape != prediction.mean.shape[:-1]:
                raise InputError(f"an objective or a constraint must give one number for each point. Got shape "
                                 f"{tuple(value.shape)} for points of shape {tuple(prediction.mean.shape[:-1])}.")  # fmt: skip
            return value
        y, slices = prediction.mean, self.emulator.outputs.slices
        values = {
            n: y[..., slices[n]] if size is not None else y[..., slices[n].start] for n, size in self.fields.items()
        }
        return rule(values | self.space.unpack(theta)).expand(y.shape[:-1])

    def over(self, rules: Sequence[Any], u: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation `[rows, rules]` over the emulator's error and the tolerance of the parameters."""
        rows, theta = len(u), self.theta(u)
        if self.jitter is not None:
            u = self.space.to_unit(theta + self.jitter)
            theta = self.space.from_unit(torch.minimum(torch.maximum(u, self.low), self.high))
        prediction = self.predict(theta)
        if self.robust is not None:
            prediction = Exact(self.draws(prediction))
        theta = theta.expand(*prediction.mean.shape[:-1], self.space.d)
        found = torch.stack([self.rated(r, theta, prediction) for r in rules], -1).reshape(-1, rows, len(rules))
        mean = found.mean(0)
        spread = (found - mean).square().mean(0)
        return mean, torch.where(spread > 0, spread.where(spread > 0, 1.0).sqrt(), 0.0)  # a root has no gradient at 0

    def draws(self, prediction: Distribution) -> Tensor:
        """Outputs `[draws, ..., m]` with one noise for all points."""
        if isinstance(prediction, Exact):
            return prediction.mean[None]
        n = max(32, min(_DRAWS, _HELD // max(1, prediction.mean.numel())))
        return drawn(prediction, (n,), seed=self.seed, common=True)

    def judged(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """What is minimised `[rows]`, and left - right of the constraints `[rows, c]`; of a robust problem the objective with
        k standard deviations added, and inequalities that hold k standard deviations away too."""
        mean, sd = self.over([self.objective, *self.rules], u)
        k = self.robust or 0.0
        rules = (
            mean[:, 1:] if self.robust is None else torch.where(self.equality, mean[:, 1:], mean[:, 1:] + k * sd[:, 1:])
        )
        return self.sign * mean[:, 0] + k * sd[:, 0], rules

    def drawn(self, u: Tensor, n: int, scale: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Objective `[r, rows]` and constraints `[r, rows, c]` of one random run at each point `[r, rows, d]`, the same noise
        in a row of points, new noise for every number n."""
        fresh, theta = self.emulator.reseeded(key(self.seed, 2, n), len(u)), self.theta(u)
        y = Exact(torch.stack([fresh.runs(t, s) for t, s in zip(theta, fresh.seeds, strict=True)]))
        found = torch.stack([self.rated(r, theta, y) for r in (self.objective, *self.rules)], -1)
        return self.sign * found[..., 0] / scale, found[..., 1:] / sizes

    def first_look(self, starts: int, reference: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Starts `[starts, d]`, the reference and half of the others the best of many points, and the spread of objective
        and constraints."""
        many = max(_FEWEST if self.direct else _LOOKED, starts)
        look = torch.from_numpy(Sobol().points(many, self.space.d, seed=self.seed))
        with torch.no_grad():
            parts = [self.judged(part) for part in look.split(256)]
        value, rules = (torch.cat([p[i] for p in parts]) for i in (0, 1))
        good = torch.isfinite(value) & torch.isfinite(rules).all(-1)
        if not good.any():
            runs = f" The runs say: {self.emulator.reason[0]}." if self.direct and self.emulator.reason[0] else ""
            raise InputError("the objective and the constraints must be finite somewhere in the box. Got NaN or infinity at "
                             f"{len(look)} points; look at their roots, logarithms and divisions.{runs}")  # fmt: skip
        look, value, rules = look[good], value[good], rules[good]
        scale, sizes = _size(value[:, None])[0], _size(rules)
        broken = torch.where(self.equality, rules.abs(), rules.clamp_min(0)) / sizes
        merit, self.sizes = value / scale + 10 * broken.sum(-1), sizes
        first = look[:0] if reference is None else self.u(reference)[None]
        starts -= len(first)
        best = merit.argsort()[: starts // 2]
        rest = [i for i in range(len(look)) if i not in set(best.tolist())][: starts - len(best)]
        return torch.cat([first, look[[*best.tolist(), *rest]]]), scale, sizes


class _Joint:
    """Objective and constraints of one prediction, for the two functions that are asked for them at the same points."""

    def __init__(self, problem: Problem):
        self.problem, self.at, self.found = problem, None, (torch.empty(0), torch.empty(0))

    def __call__(self, u: Tensor) -> tuple[Tensor, Tensor]:
        if self.at is not u:
            self.at, self.found = u, self.problem.judged(u)
        return self.found


def _size(x: Tensor) -> Tensor:
    """About how much each column varies, never 0."""
    if not x.shape[1]:
        return x.new_ones(0)
    spread = x.std(0, correction=0)
    return torch.where(torch.isfinite(spread) & (spread > 1e-12 * (1e-300 + x.abs().amax(0))), spread,
                       x.abs().amax(0).clamp_min(1e-300))  # fmt: skip


class _Trail:
    """The way of all rows; of a long one every second step, every fourth ... so that it takes little memory."""

    def __init__(self):
        self.kept, self.met, self.every = [], 0, 1

    def __call__(self, u: Tensor) -> None:
        if self.met % self.every == 0:
            self.kept.append(u.detach().clone())
        self.met += 1
        if len(self.kept) > 16 and len(self.kept) * u.numel() > _HELD:
            self.kept, self.every = self.kept[::2], 2 * self.every

    def of(self, row: int, end: Tensor) -> Tensor:
        """u `[s, d]` of a row up to its end, without the steps that stood still."""
        steps = torch.stack([*(u[row] for u in self.kept), end])
        moved = (steps[1:] != steps[:-1]).any(-1)
        return torch.cat([steps[:1], steps[1:][moved]])


def _told(problem: Problem, found: Minima, scale: Tensor, sizes: Tensor, trail: _Trail) -> Optimum:
    space, met = problem.space, found.violation <= FEASIBLE
    merit = torch.where(torch.isfinite(found.value), found.value, torch.inf)
    order = torch.argsort(torch.where(met, merit, merit.amax().clamp(max=1e9) + 1 + 1e3 * found.violation))
    best, kept = int(order[0]), []
    theta = problem.theta(found.u)
    for i in order.tolist():
        if met[i] and torch.isfinite(merit[i]) and all((found.u[i] - found.u[j]).abs().amax() > _CLOSE for j in kept):
            kept.append(i)
    with torch.no_grad():
        values = problem.plain().over([problem.objective], found.u[[best, *kept[1:_KEPT]]])[0][:, 0].tolist()
    same, close = (torch.inf, 2 * _CLOSE) if problem.random else (_SAME, _CLOSE)
    agree = ((found.value - found.value[best]).abs() < same) & ((found.u - found.u[best]).abs().amax(-1) < close)
    sd, rated = _errors(problem, found, best, scale, sizes)
    guard = getattr(problem.emulator, "guard", None)
    here = theta[best].detach()
    edges = tuple(n for n, x in zip(space.names, found.u[best].tolist()) if not _EDGE < x < 1 - _EDGE)
    return Optimum(
        space.names, here, values[0], sd, float(found.value[best] * scale), float(found.gradient[best]), rated, edges,
        int((agree & met).sum()) or 1, len(found.u), bool(found.converged[best]), bool(met[best]),
        tuple((theta[i].detach(), v) for i, v in zip(kept[1:_KEPT], values[1:])),
        float("nan") if guard is None or guard.design is None else float(guard.remoteness(here[None])[0]),
        False if guard is None or guard.design is None or problem.outside == "ignore" else bool(guard.thin(here[None])[0]),
        runs=problem.emulator.calls[0] if problem.direct else 0, history=problem.sign * found.history[:, order] * scale,
        path=problem.theta(trail.of(best, found.u[best])).detach(), doubt=0.0 if found.error is None else float(found.error[best]),
    )  # fmt: skip


def _errors(
    problem: Problem, found: Minima, best: int, scale: Tensor, sizes: Tensor
) -> tuple[float, tuple[Rated, ...]]:
    """The emulator's standard deviation of the objective, and the constraints with theirs; NaN where no draws can be made."""
    u, plain = found.u[best][None], problem.plain()
    with torch.no_grad():
        mean, _ = plain.over([problem.objective, *problem.rules], u)
        theta = problem.theta(u)
        prediction = problem.predict(theta)
        try:
            y = problem.draws(prediction)
            drawn_ = torch.stack([problem.rated(r, theta.expand(*y.shape[:-1], problem.space.d), Exact(y))
                                  for r in (problem.objective, *problem.rules)], -1)  # fmt: skip
            drawn_ = drawn_.reshape(-1, drawn_.shape[-1])
            sd = drawn_.std(0) if len(drawn_) > 1 else torch.zeros(drawn_.shape[1])
            sd = sd / len(drawn_) ** 0.5 if problem.random else sd  # a mean over runs
        except InputError:
            sd = torch.full((1 + len(problem.rules),), torch.nan)
        held = problem.judged(u)[1][0] / sizes if problem.rules else sizes
    rated = []
    for j, text in enumerate(problem.texts):
        price = float(found.multiplier[best, j] * scale / sizes[j])
        equal = bool(problem.equality[j])
        broken = abs(float(held[j])) if equal else float(held[j])
        broken -= 2 * float(sd[1 + j]) / float(sizes[j]) if problem.random else 0.0
        rated.append(Rated(text, float(mean[0, 1 + j]), float(sd[1 + j]), equal or abs(float(held[j])) < _ACTIVE,
                           broken <= FEASIBLE, price))  # fmt: skip
    return float(sd[0]), tuple(rated)


def confirmed(problem: Problem, optimum: Optimum, runs: Tensor, reference: tuple[Tensor, Tensor], *,
              stochastic: bool) -> Optimum:  # fmt: skip
    """The optimum with true runs `[n, m]` at it, held against those at a reference (theta `[d]`, runs `[n, m]`)."""
    told = [_scored(problem, problem.objective, t, y, stochastic) for t, y in ((optimum.theta, runs), reference)]
    (value, error), (other, other_error) = told
    gain = -problem.sign * (value - other)
    sd = float(torch.tensor([optimum.sd, error], dtype=torch.float64).nan_to_num().norm())
    broken = []
    for text, rule, equal, size in zip(problem.texts, problem.rules, problem.equality.tolist(), problem.sizes.tolist()):
        left, noise = _scored(problem, rule, optimum.theta, runs, stochastic)
        if (abs(left) if equal else left) > _BROKEN * size + 2 * (0.0 if math.isnan(noise) else noise):
            broken.append(text)
    same = math.isclose(value, optimum.value, rel_tol=1e-9)  # where the emulator is exact its error is rounding too
    z = 0.0 if same else (value - optimum.value) / sd if sd > 0 else math.inf
    return replace(optimum, confirmed=Confirmed(len(runs), value, error, other, other_error, gain,
                                                (error**2 + other_error**2) ** 0.5, z, tuple(broken)))  # fmt: skip


def _scored(problem: Problem, rule: Any, theta: Tensor, y: Tensor, stochastic: bool) -> tuple[float, float]:
    """Mean and standard error of a rule over true runs y `[n, m]` at theta; NaN of one random run, 0 where none is random."""
    found = problem.rated(rule, theta.expand(len(y), problem.space.d), Exact(y))
    error = 0.0 if not stochastic else math.nan if len(y) < 2 else float(found.std()) / len(y) ** 0.5
    return float(found.mean()), error
