"""The stage and the command `optimise`: where the objective of a study is best, and what true runs say of that point."""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from emulate.contracts import Finding
from emulate.distributions import Exact
from emulate.errors import CampaignError, InputError
from emulate.optimisation import Optimum, Problem, bounded, confirmed, solved, stand_in
from pipelines import files, pictures
from pipelines.beside import beside, noted
from pipelines.engine import synchronise
from pipelines.learning import chosen
from pipelines.study import MADE
from pipelines.tasks import Tasks
from pipelines.terminal import Stopwatch
from pipelines.workbench import Workbench

if TYPE_CHECKING:
    from emulate.runs import Runs
    from pipelines.study import Study
    from pipelines.terminal import Terminal

SCOPE = "optimise"
SIMULATOR = "simulator"  # whose findings they are, where no emulator stands between
_STEPS, _ROWS = 121, 30  # points of a cut; parameters that are printed
_CONFIRM = 32  # random true runs at the optimum
_LOST = 0.3  # of the gain, at most, in what is made
_AGREES = 3.0  # standard deviations that true runs may lie from the prediction


def overrides(asked: dict[str, Any]) -> list[str]:
    """What the command line says of the section, as `--set` says it; an objective puts the other aside."""
    said = {k: v for k, v in asked.items() if v not in (None, "", [], ())}
    for one, other in (("minimise", "maximise"), ("maximise", "minimise")):
        if one in said and other not in said:
            said[other] = ""
    return [f"optimise.{k}={json.dumps(v)}" for k, v in said.items()]


def command(study: "Study", terminal: "Terminal") -> int:
    """Beside the stages: an optimum that the study itself does not ask for. 1 where a finding that blocks failed."""
    if study.optimise.by == "emulator":
        name = study.optimise.emulator or next(iter(study.emulators))
        if not (study.folder / "emulators" / name).exists():
            raise InputError(f"optimise needs the emulator {name!r}, which was not trained in {study.folder} yet. Run "
                             "`emulate train` first, or `emulate run`.")  # fmt: skip
    with beside(study, terminal) as bench, noted(bench, SCOPE):
        found, findings = solve(bench)
    (terminal.say if found.feasible and not found.thin else terminal.warn)(capital(found.sentence))
    listed = [f.to_dict() for f in findings]
    terminal.findings("", listed)
    folder = study.folder / SCOPE
    terminal.give(study=study.name, passed=all(f.passed for f in findings if f.blocking), findings=listed,
                  optimum=files.read_json(folder / "optimum.json"), paths={"folder": str(folder)})  # fmt: skip
    terminal.say(f"Figures and numbers in {study.folder / SCOPE}; `emulate report --force` puts them on the page.")
    synchronise(study, terminal)
    return 0 if all(f.passed for f in findings if f.blocking) else 1


def solve(bench: Workbench) -> tuple[Optimum, list[Finding]]:
    """Find, confirm, print, draw and keep the optimum that the study's section asks for."""
    study, part, watch = bench.study, bench.study.optimise, Stopwatch()
    direct, seed = part.by == "simulator", bench.seed(SCOPE)
    name = SIMULATOR if direct else chosen(bench, part.emulator)
    stands = stand_in(study.simulator if direct else bench.emulator(name), seed, part.replicates)
    problem = Problem(stands, part.minimise or part.maximise, bounded(study.simulator, part.subject_to),
                      -1.0 if part.maximise else 1.0, part.robust, {}, study.infer.outside, seed)  # fmt: skip
    runs = bench.runs_of("training").finished() if "simulate" in study.stages else None
    reference = _reference(study)
    with bench.terminal.bar(SCOPE, total=1) as tick:
        found = solved(problem, starts=part.starts, method=None if part.method == "auto" else part.method, steps=part.steps,
                       reference=reference, progress=tick)  # fmt: skip
    values = None if runs is None else _values(problem, runs)
    if part.reference is None and values is not None:
        reference = _best(bench, problem, runs, values)
    n = part.confirm if part.confirm is not None else 0 if study.recorded else _CONFIRM
    if n and found.feasible:
        found = _confirm(bench, problem, found, reference, n)
    _print(bench, name, found)
    findings = list(
        _findings(found) if study.simulator_of(MADE) == study.simulator else _made(problem, found, reference)
    )
    bench.findings(SCOPE, {name: [f.to_dict() for f in findings]})
    _keep(bench, name, problem, found, reference, None if runs is None else (torch.from_numpy(runs.theta), values))
    bench.journal.append("metrics", SCOPE, metrics={**_metrics(found), "seconds": watch.seconds})
    return found, findings


def _findings(found: Optimum) -> Iterator[Finding]:
    """Whether the constraints hold, the prediction does, and there is a gain: of true runs alone."""
    true = found.confirmed
    broken = {c.text for c in found.constraints if not c.met} | set(true.broken if true else ())
    said = f"Broken at the optimum: {', '.join(sorted(broken))}." if broken else "Every constraint is met at the optimum" + (
        ", by true runs too." if true else ", by the prediction.")  # fmt: skip
    yield Finding("optimise.feasible", float(len(broken)) if found.feasible else float("nan"), None, 0.0,
                  said if found.feasible else capital(found.sentence))  # fmt: skip
    if true is None:
        return
    yield Finding("optimise.agrees", abs(true.z), None, _AGREES, f"True runs at the optimum lie {true.z:+.2g} standard "
                  f"deviations from what was predicted: {true.value:.6g} for {found.value:.6g}.")  # fmt: skip
    low = max(2 * true.gain_error, 1e-12 * abs(true.reference))
    yield Finding("optimise.gain", true.gain, low, None, f"{capital(true.sentence)}.")


def _made(problem: Problem, found: Optimum, reference: Tensor) -> Iterator[Finding]:
    """The same where true runs are of what is made, which the prediction was not of: by how much the gain falls short."""
    feasible, *rest = _findings(found)
    yield feasible
    if (true := found.confirmed) is None:
        return
    with torch.no_grad():
        (foretold,) = problem.plain().over([problem.objective], problem.u(reference)[None])[0][:, 0].tolist()
    promised = -problem.sign * (found.value - foretold)
    lost = 1 - true.gain / promised if promised > 0 else float("nan")
    yield Finding("optimise.made", lost, None, _LOST, f"Of the gain that was foretold, {promised:.4g}, {lost:.1%} is lost in what "
                  f"is made: {true.value:.6g} for {found.value:.6g}, over {true.reference:.6g} for {foretold:.6g}.")  # fmt: skip
    yield rest[-1]


def _reference(study: "Study") -> Tensor:
    if study.optimise.reference is not None:
        return study.space.pack(study.optimise.reference)
    return study.space.from_unit(torch.full((study.space.d,), 0.5, dtype=torch.float64))


def _best(bench: Workbench, problem: Problem, runs: "Runs", values: Tensor) -> Tensor:
    """The best training run that meets the constraints."""
    known = torch.isfinite(values)
    if not known.any():
        bench.terminal.warn(
            "no training run meets the constraints: the optimum is held against the middle of the prior."
        )
        return _reference(bench.study)
    return torch.from_numpy(runs.theta[int(torch.where(known, problem.sign * values, torch.inf).argmin())])


def _values(problem: Problem, runs: "Runs") -> Tensor:
    """The objective `[n]` of true runs, NaN where one breaks a constraint."""
    theta, y = torch.from_numpy(runs.theta), torch.from_numpy(runs.y)
    value = problem.rated(problem.objective, theta, Exact(y)).clone()
    for rule, equal, size in zip(problem.rules, problem.equality.tolist(), problem.sizes.tolist()):
        left = problem.rated(rule, theta, Exact(y))
        value[(left.abs() if equal else left) > 1e-3 * size] = torch.nan
    return value


def _confirm(bench: Workbench, problem: Problem, found: Optimum, other: Tensor, n: int) -> Optimum:
    """True runs at the optimum and at the reference; of something random n of each, none of them the run by which a training
    run was chosen, which was lucky."""
    simulator = bench.study.simulator_of(MADE)
    n = n if simulator.stochastic else 1
    theta = np.stack([found.theta.numpy(), other.numpy()]).repeat(n, 0)
    replicate = np.tile(np.arange(n) + int(simulator.stochastic), 2)
    seeds = bench.seeds(theta, replicate)
    tasks = Tasks.of(simulator, theta, seeds, np.zeros(len(theta), np.uint8), [("y", None)])
    bench.make(tasks, "true runs at the optimum", MADE)
    made = bench.store.rows(simulator, theta, list(tasks.keys()))
    parts = [torch.from_numpy(made.y[i * n : (i + 1) * n][made.ok[i * n : (i + 1) * n]]) for i in (0, 1)]
    if not all(len(p) for p in parts):
        reason = next((r for r in made.reason if r), "no reason is known")
        raise CampaignError(f"true runs at the optimum must finish. Got none that did, first: {reason}. The optimum lies where "
                            "the simulator fails; constrain it, or mend the simulator.")  # fmt: skip
    return confirmed(problem, found, parts[0], (other, parts[1]), stochastic=simulator.stochastic)


def _keep(bench: Workbench, name: str, problem: Problem, found: Optimum, reference: Tensor, known: Any) -> None:
    """The numbers as a file, and the figures: cuts where an emulator gives them at once, else the way of the search."""
    from pipelines.figures import optimisation as figures

    part = bench.study.optimise
    objective, goal = part.minimise or part.maximise, "maximise" if part.maximise else "minimise"
    asked = {"emulator": name, "objective": objective, "goal": goal, "subject_to": list(part.subject_to),
             "robust": part.robust, "starts": found.starts, "by": part.by}  # fmt: skip
    told = {**asked, **found.to_dict(), "reference": dict(zip(found.names, reference.tolist()))}
    files.write_json(bench.folder / SCOPE / "optimum.json", told)
    drawn = {}
    if not problem.direct:
        which = ", where they meet the constraints" if part.subject_to else ""
        caption = (f"The objective along each parameter through the optimum, by {name} with two standard deviations of its "
                   f"error; dots are the runs that it learned from{which}. {capital(found.sentence)}")  # fmt: skip
        drawn["cuts"] = (figures.cuts(bench.study.space, objective, _cuts(problem, found), found, known), caption)
    else:
        caption = f"The objective at every step of the search, from {found.starts} starts. {capital(found.sentence)}"
        drawn["search"] = (figures.search(objective, found), caption)
    way = {"path": found.path} if bench.study.simulator.tracks else {}
    drawn |= pictures.picture(bench, {"reference": reference, "optimum": found.theta, **way})
    bench.figures(SCOPE, drawn)
    bench.journal.append("params", SCOPE, params={k: str(v) for k, v in asked.items() if v not in (None, [])})
    bench.journal.append("artifact", SCOPE, path=f"{SCOPE}/optimum.json")


def _cuts(problem: Problem, found: Optimum) -> dict[str, tuple[np.ndarray, ...]]:
    """By parameter: its values `[n]`, mean and standard deviation of the objective, and whether all constraints are met."""
    plain, cuts = problem.plain(), {}
    for i, name in enumerate(problem.space.names):
        u = torch.linspace(float(problem.low[i]), float(problem.high[i]), _STEPS, dtype=torch.float64)
        theta = found.theta.repeat(_STEPS, 1)
        theta[:, i] = problem.space.from_unit(u[:, None].expand(-1, problem.space.d))[:, i]
        with torch.no_grad():
            prediction = plain.predict(theta)
            mean = plain.rated(plain.objective, theta, prediction)
            met = torch.ones(_STEPS, dtype=torch.bool)
            for rule, equal, size in zip(plain.rules, plain.equality.tolist(), problem.sizes.tolist()):
                left = plain.rated(rule, theta, prediction)
                met &= (left.abs() if equal else left) <= 1e-3 * size
            try:
                y = plain.draws(prediction)
                sd = _spread(plain, theta, y)
            except InputError:  # a prediction that gives no repeatable draws
                sd = torch.zeros(_STEPS, dtype=torch.float64)
        cuts[name] = tuple(x.numpy() for x in (theta[:, i], mean, sd, met))
    return cuts


def _spread(problem: Problem, theta: Tensor, y: Tensor) -> Tensor:
    each = problem.rated(problem.objective, theta.expand(*y.shape[:-1], problem.space.d), Exact(y))
    return each.std(0, correction=0)


def _print(bench: Workbench, name: str, found: Optimum) -> None:
    space = bench.study.space
    low, high = (space.from_unit(end) for end in space.ends())
    rows = [(p.name, f"{x:.6g}", f"{float(a):.4g} to {float(b):.4g}", p.unit, "at the edge" if p.name in found.edges else "")
            for p, x, a, b in zip(space.parameters[:_ROWS], found.theta.tolist(), low, high)]  # fmt: skip
    bench.terminal.table(
        f"{bench.study.name}: optimum of {'the ' * (name == SIMULATOR)}{name}",
        ("parameter", "best", "box", "unit", ""),
        rows,
    )
    if found.constraints:
        rows = [(c.text, f"{c.value:.3g}" + (f" ± {c.sd:.2g}" if c.sd > 0 else ""), "broken" if not c.met else "active" if c.active
                 else "met", f"{c.price:.3g}" if c.active else "") for c in found.constraints]  # fmt: skip
        bench.terminal.table("constraints", ("constraint", "left - right", "", "price of a unit"), rows)


def _metrics(found: Optimum) -> dict[str, float]:
    told: dict[str, Any] = {"value": found.value, "sd": found.sd, "gradient": found.gradient, "agree": found.agree,
                            "remoteness": found.remoteness, **{f"best/{n}": x for n, x in [*found.at.items()][:_ROWS]}}  # fmt: skip
    if found.confirmed:
        told |= {
            f"true/{k}": getattr(found.confirmed, k) for k in ("value", "error", "gain", "gain_error", "z", "runs")
        }
    return {k: float(v) for k, v in told.items() if np.isfinite(v)}


def capital(sentence: str) -> str:
    """A sentence that begins with a word begins with a capital; names of parameters are left as they are."""
    return sentence[:1].upper() + sentence[1:] if sentence.startswith("no ") else sentence
