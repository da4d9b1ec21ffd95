"""`emulate verify`: whether a simulator's derivatives, and the error bars of those, are what they are said to be, and whether
it meets the facts that it declares as known.

Its runs are made and stored like all others, in processes of their own; of the user's code its `truths`
run here, and, where it shows its inside and tells its derivatives, that.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from emulate.contracts import Finding
from emulate.errors import CampaignError, InputError
from emulate.keys import REPLICATES, run_seed
from emulate.remainders import AGREE, Ladder, worst
from emulate.repeats import CHANCE, covered, scattered
from emulate.side_by_side import finding as agreed
from emulate.tangents import ONE_WAY
from emulate.verification import coarser, directions, generator, mismatch
from pipelines import files, given, side_by_side
from pipelines.beside import beside, noted
from pipelines.derivatives import has_own, inside
from pipelines.engine import synchronise
from pipelines.tasks import Tasks
from pipelines.terminal import Stopwatch, count
from pipelines.workbench import Workbench

if TYPE_CHECKING:
    from emulate.runs import Runs
    from emulate.side_by_side import Side
    from pipelines.study import Study
    from pipelines.terminal import Terminal

_SCOPE = "verify"
_REACH = 0.15  # of the unit cube, that the longest step of a test may go to either side
_PAIRS = 3  # of directions at each point for the dot product
_STEP = 0.05  # of the differences that stochastic runs are held against, as a share of v; twice that too
_FORWARD, _REVERSE = {"use": "emulate.tangents:Tangents"}, {"use": "reverse"}


@dataclass(frozen=True)
class Place:
    """A point of the box, where tests are made: theta `[d]`, v `[k, d]` whose tenth stays in the box, and a seed."""

    theta: Tensor
    v: Tensor
    seed: int


def command(study: "Study", terminal: "Terminal", *, points: int = 3, repeats: int = 24) -> int:
    """Run the simulator at points of the box, judge, print and log; 1 where a blocking finding failed."""
    if repeats < 20:
        raise InputError(f"--repeats must be 20 or more, or nothing can be said of error bars. Got {repeats}.")
    if study.recorded:
        raise InputError(f"verify must run the simulator at points of its own. Got {given.origin(study)}, which holds the only "
                         "runs there are; verify a study of the simulator itself.")  # fmt: skip
    watch = Stopwatch()
    with beside(study, terminal) as bench, noted(bench, _SCOPE):
        found, facts = findings(bench, points, repeats), truths(bench)
        sides = methods(bench) if side_by_side.known(study.simulator) else ()
        if sides:
            found.append(agreed(sides))
        listed = [f.to_dict() for f in found + facts]
        bench.findings(_SCOPE, {"simulator": listed})
        bench.journal.append("params", _SCOPE, params={"points": points, "repeats": repeats})
        bench.journal.append("metrics", _SCOPE, metrics={"seconds": watch.seconds})
        bench.journal.append("artifact", _SCOPE, path=f"{_SCOPE}/findings.json")
    good = all(f.passed for f in found + facts if f.blocking)
    stored = files.read_json(study.folder / _SCOPE / "findings.json")["emulators"]["simulator"]
    terminal.give(study=study.name, passed=good, findings=stored)
    name = study.simulator.entry_name()
    terminal.findings(f"{study.name}: derivatives of {name}", listed[: len(found)])
    for f in found:
        if f.passed or not f.blocking:
            terminal.say(f"{f.name}: {f.sentence}")
    if sides:
        title, rows = side_by_side.table(study.simulator, sides)
        terminal.table(title, side_by_side.HEADER, rows)
    if facts:
        terminal.findings(f"{study.name}: what is known of {name}", listed[len(found) :])
        columns = ("finding", "fact", "expected", "measured", "source")
        told = zip(facts, study.simulator.truths(), strict=True)
        rows = [(f.name, t.says, f"{t.expected:.8g} ± {t.tolerance:.2g}", f"{f.value:.8g}", t.source) for f, t in told]
        terminal.table("", columns, rows)
    synchronise(study, terminal)
    return 0 if good else 1


def findings(bench: Workbench, points: int, repeats: int) -> list[Finding]:
    """What can be asked of this simulator: remainders and transposes where a run has a derivative, remainders of the
    study's differences where it is deterministic, error bars over seeds where it is stochastic."""
    simulator = bench.study.simulator
    derivative = has_own(simulator) or simulator.differentiable
    where = places(bench, points)
    found = []
    if derivative or not simulator.stochastic:
        found.append(remainders(bench, where))
    if simulator.differentiable and (agreement := transposes(bench, where)):
        found.append(agreement)
    if simulator.stochastic:
        found += error_bars(bench, where, repeats)
    return found


def methods(bench: Workbench) -> "tuple[Side, ...]":
    """Every method of the room side by side at the first point, where the simulator's derivatives are known."""
    (place,) = places(bench, 1)
    with bench.terminal.bar("verify: every method side by side"):
        return side_by_side.sides(bench, place.theta, place.seed, _SCOPE)


def truths(bench: Workbench) -> list[Finding]:
    """Whether the code says what is known without it."""
    known, found = bench.study.simulator.truths(), []
    with bench.terminal.bar("verify: what is known", total=len(known)) as tick:
        for i, truth in enumerate(known, 1):
            found.append(truth.finding(f"truth.{i}"))
            tick(i, None, "")
    return found


def places(bench: Workbench, points: int) -> list[Place]:
    """Points of the inner half of the box, keyed by the study's seed; the first of more are the same."""
    study, found = bench.study, []
    for i in range(points):
        seed = bench.seed(f"verify/{i}")
        u = 0.25 + 0.5 * torch.rand(study.space.d, generator=generator(seed, 2), dtype=torch.float64)
        theta, low, high = (study.space.from_unit(u + shift) for shift in (0.0, -_REACH, _REACH))
        scale = torch.minimum(high - theta, theta - low) / float(Ladder.far[0])
        of = run_seed(study.seed, theta.tolist(), stochastic=study.simulator.stochastic)
        found.append(Place(theta, directions(theta, scale, _PAIRS, seed), of))
    return found


def remainders(bench: Workbench, where: Sequence[Place]) -> Finding:
    """Whether f(theta + h v) - f(theta) - h J v falls as h^2, with J as the study differentiates."""
    spec, ladder, labels = bench.study.gradient_spec("jacobian"), Ladder(), bench.study.simulator.outputs.labels
    slopes = _runs(bench, [(p.theta, p.seed) for p in where], "derivatives", "tangent", spec)
    steps = [0.0, *ladder.steps.tolist()]
    asked = [(p.theta + h * p.v[0], p.seed) for p in where for h in steps]
    values, found = _runs(bench, asked, "runs beside them"), []
    for i, p in enumerate(where):
        mine = slice(i * len(steps), (i + 1) * len(steps))
        if not (slopes.ok[i] and values.ok[mine].all()):
            continue
        y, v = torch.from_numpy(values.y[mine]), p.v[0]
        slope, error = (torch.from_numpy(a[i]) for a in (slopes.jacobian, slopes.jacobian_error))
        found.append(ladder.judge(y[0], y[1:], slope @ v, error @ v.abs()))
    _need(len(found), where, values, slopes)
    f = worst(found, labels)
    from pipelines.figures import verification as figures

    bench.figures(
        _SCOPE, {"remainders": (figures.remainders(found), f"Taylor test of the simulator's derivative: {f.sentence}")}
    )
    f = replace(f, sentence=f"{f.sentence} J by {spec['use']}, at {_met(len(found), where)}.")
    if f.passed or "chaos" not in bench.study.simulator.pathologies:
        return f
    return replace(f, sentence=f"{f.sentence} This simulator declares chaos: where a run is linear over less than the shortest "
                   "step, a right J fails too; try a run short of chaos.")  # fmt: skip


def transposes(bench: Workbench, where: Sequence[Place]) -> Finding | None:
    """Whether the simulator's own Jacobian, else forward mode, agrees with reverse mode: <J v, w> = <v, J^T w>. None where
    the simulator's adjoint is its only way to a derivative."""
    simulator, asked = bench.study.simulator, [(p.theta, p.seed) for p in where]
    own = has_own(simulator)
    one = _runs(bench, asked, "forward mode", "tangent", {"use": "simulator"} if own else _FORWARD)
    if not own and all(ONE_WAY in reason for reason in one.reason):
        bench.terminal.say("verify: no dot product, for the simulator has an adjoint of its own and no forward mode beside it; the "
                           "Taylor test holds it against runs.")  # fmt: skip
        return None
    other = _runs(bench, asked, "reverse mode", "tangent", _REVERSE)
    differences, high = [], AGREE * coarser(simulator)
    for i, p in enumerate(where):
        if not (one.ok[i] and other.ok[i]):
            continue
        a, b = torch.from_numpy(one.jacobian[i]), torch.from_numpy(other.jacobian[i])
        draws = generator(p.seed, 1)
        for v in p.v:
            along = a @ v
            w = torch.randn(len(along), generator=draws, dtype=torch.float64)
            w = w / torch.where(along == 0, 1.0, along.abs())
            differences.append(mismatch(along, b.T @ w, v, w))
    done = int((one.ok & other.ok).sum())
    _need(done, where, one, other)
    value, kind = float(np.max(differences)), "the simulator's own Jacobian" if own else "forward mode"
    verb = "agree" if value <= high else "must agree"
    return Finding("dot_product", value, None, high, f"<J v, w> by {kind} and <v, J^T w> by reverse mode {verb}: they differ "
                   f"by {value:.2g} of their terms in the worst of {len(differences)} pairs, at {_met(done, where)}.")  # fmt: skip


def error_bars(bench: Workbench, where: Sequence[Place], repeats: int) -> list[Finding]:
    """Estimates of dE[y]/dtheta under many seeds: whether they agree with differences of runs, whether their intervals
    hold the mean of the others, and whether their errors are their scatter."""
    from emulate import registry

    study, spec = bench.study, bench.study.gradient_spec("jacobian")
    averaged = REPLICATES * (getattr(study.simulator, "replicates", 1) if inside(study.simulator) else 1)
    exact = spec["use"] == "simulator" or registry.find("gradients", spec["use"]).exact
    seeds = [[run_seed(study.seed, p.theta.tolist(), replicate=i) for i in range(repeats)] for p in where]
    asked = [(p.theta, s) for p, of in zip(where, seeds) for s in of]
    slopes = _runs(bench, asked, "estimates of the gradient", "jacobian", spec)
    moves = [h * _STEP for h in (1, -1, 2, -2)]
    beside = [(p.theta + h * p.v[0], s) for p, of in zip(where, seeds) for s in of for h in moves]
    values = _runs(bench, beside, "runs beside them")
    used, z, held, slope, error = [], [], [], [], []
    for i, p in enumerate(where):
        mine, y_mine = slice(i * repeats, (i + 1) * repeats), slice(4 * i * repeats, 4 * (i + 1) * repeats)
        if not (slopes.ok[mine].all() and values.ok[y_mine].all()):
            continue
        used.append(p)
        J, se = slopes.jacobian[mine], slopes.jacobian_error[mine]  # [r, m, d]
        z.append(_gap(values.y[y_mine].reshape(repeats, 4, -1), J @ p.v[0].numpy()))
        held.append(_held(J, se, averaged).reshape(repeats, -1))
        slope.append(J.reshape(repeats, -1))
        error.append(se.reshape(repeats, -1))
    _need(len(used), where, slopes, values)
    met = f" J by {spec['use']} over {REPLICATES} seeds, {count(repeats, 'estimate')} at {_met(len(used), where)}."
    cover = covered("coverage", sum(h.sum(0) for h in held), repeats * len(used), 0.95, wide=not exact)
    spread = scattered("spread", np.concatenate(slope, 1), np.concatenate(error, 1), wide=not exact)
    return [replace(f, sentence=f.sentence + met) for f in (_consistency(np.array(z), repeats), cover, spread)]


def _consistency(z: np.ndarray, repeats: int) -> Finding:
    value, high = float(z.max()), float(stats.t.ppf(1 - CHANCE / (2 * z.size), repeats - 1))
    word = "agrees" if value <= high else "must agree"
    return Finding("consistency", value, None, high, f"The gradient {word} with differences of runs that share their seeds: "
                   f"they lie {value:.2f} standard errors apart in the worst output.")  # fmt: skip


def _gap(y: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """Standard errors `[m]` between the slope along v from runs y `[r, 4, m]` at +-h and +-2h, and J v `[r, m]`.

    The error is the scatter of both, the rounding of the runs, and a tenth of what doubling the step changes.
    """
    r = len(y)
    near, far = (y[:, 0] - y[:, 1]) / (2 * _STEP), (y[:, 2] - y[:, 3]) / (4 * _STEP)
    along = (4 * near - far) / 3
    scatter = (along.var(0, ddof=1) + slope.var(0, ddof=1)) / r
    own = 0.1 * np.abs((near - far).mean(0)) + 1e-10 * np.abs(y).max((0, 1)) / _STEP
    error = np.sqrt(scatter + own**2)
    return np.abs(along.mean(0) - slope.mean(0)) / np.maximum(error, np.finfo(float).tiny)


def _held(J: np.ndarray, error: np.ndarray, averaged: int) -> np.ndarray:
    """Which 95 % intervals hold the mean of the others, whose own error is added; J and error `[r, m, d]`, each of so many
    replicates."""
    r = len(J)
    others = (J.sum(0) - J) / (r - 1)
    both = np.sqrt(error**2 + (error**2).mean(0) / (r - 1))
    slack = 1e-12 * np.abs(others)
    return np.abs(J - others) <= stats.t.ppf(0.975, averaged - 1) * both + slack


def _runs(bench: Workbench, asked: Sequence[tuple[Tensor, int]], what: str, product: str = "y",
          spec: dict[str, Any] | None = None) -> "Runs":  # fmt: skip
    """The stored runs of these points and seeds, made where they are missing."""
    theta = np.stack([t.numpy() for t, _ in asked])
    seeds = np.array([s for _, s in asked], np.int64)
    simulator = bench.study.simulator
    tasks = Tasks.of(simulator, theta, seeds, np.zeros(len(theta), np.uint8), [(product, spec)])
    bench.make(tasks, f"verify: {what}")
    return bench.store.rows(simulator, theta, list(tasks.keys()))


def _need(done: int, where: Sequence[Place], *runs: "Runs") -> None:
    if not done:
        reason = next(reason for r in runs for reason in r.reason if reason)
        raise CampaignError(f"verify needs one point of {len(where)} at which every run finished. Got none, first: {reason}. "
                            "Mend the simulator, or try other points with --points.")  # fmt: skip


def _met(done: int, where: Sequence[Place]) -> str:
    return count(done, "point") + ("" if done == len(where) else f" of {len(where)}, for runs failed at the others")
