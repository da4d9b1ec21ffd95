"""`emulate optimise`: where an emulator of the study is best, and what true runs say of that point."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from emulate.errors import CampaignError, InputError
from emulate.optimisation import Optimum, Problem, confirmed, optimise
from pipelines import files
from pipelines.beside import beside, noted
from pipelines.engine import synchronise
from pipelines.learning import chosen
from pipelines.tasks import Tasks
from pipelines.terminal import Stopwatch
from pipelines.workbench import Workbench

if TYPE_CHECKING:
    from emulate.runs import Runs
    from pipelines.study import Study
    from pipelines.terminal import Terminal

_SCOPE = "optimise"
_STEPS = 121  # points of a cut


def command(study: "Study", terminal: "Terminal", *, minimise: str = "", maximise: str = "", subject_to: Sequence[str] = (),
            robust: float | None = None, confirm: int = 0, starts: int = 64, name: str = "") -> int:  # fmt: skip
    """Print, draw and keep the optimum of an emulator of the study, with true runs at it where they are asked for."""
    from pipelines.figures import optimisation as figures

    if bool(minimise) == bool(maximise):
        raise InputError("optimise must be told one of --minimise and --maximise, such as --minimise \"mean(pk)\". Got "
                         f"{'both' if minimise else 'none'}.")  # fmt: skip
    objective, sign, watch = minimise or maximise, -1.0 if maximise else 1.0, Stopwatch()
    with beside(study, terminal) as bench:
        name = chosen(bench, name)
        if not (bench.folder / "emulators" / name).exists():
            raise InputError(f"optimise needs the emulator {name!r}, which was not trained in {study.folder} yet. Run "
                             "`emulate train` first, or `emulate run`.")  # fmt: skip
        emulator, seed, outside = bench.emulator(name), bench.seed(_SCOPE), study.infer.outside
        problem = Problem(emulator, objective, tuple(subject_to), sign, robust, {}, outside, seed)
        with terminal.bar("optimise", total=1) as tick:
            found = optimise(emulator, objective, maximise=bool(maximise), subject_to=subject_to, robust=robust, starts=starts,
                             outside=outside, seed=seed, progress=tick)  # fmt: skip
        problem.first_look(1)  # the spread of the constraints, against which true runs are held
        runs = bench.runs_of("training").finished()
        values = _values(problem, runs)
        if confirm and found.feasible:
            found = _confirm(bench, problem, found, runs, values, confirm)
        _print(bench, name, found)
        (terminal.say if found.feasible and not found.thin else terminal.warn)(_capital(found.sentence))
        asked = {"emulator": name, "objective": objective, "goal": "maximise" if maximise else "minimise",
                 "subject_to": list(subject_to), "robust": robust, "starts": starts}  # fmt: skip
        folder = bench.folder / _SCOPE
        files.write_json(folder / "optimum.json", {**asked, **found.to_dict()})
        with noted(bench, _SCOPE):
            known = torch.from_numpy(runs.theta), values
            picture = figures.cuts(emulator.space, objective, _cuts(problem, found), found, known)
            which = ", where they meet the constraints" if subject_to else ""
            caption = (f"The objective along each parameter through the optimum, by {name} with two standard deviations of its "
                       f"error; dots are the runs that it learned from{which}. {_capital(found.sentence)}")  # fmt: skip
            bench.figures(_SCOPE, {"cuts": (picture, caption)})
            bench.journal.append("params", _SCOPE, params={k: str(v) for k, v in asked.items() if v not in (None, [])})
            bench.journal.append("metrics", _SCOPE, metrics={**_metrics(found), "seconds": watch.seconds})
            bench.journal.append("artifact", _SCOPE, path=f"{_SCOPE}/optimum.json")
    terminal.say(f"Figure and numbers in {folder}; `emulate report --force` puts them on the page.")
    synchronise(study, terminal)
    return 0 if found.feasible and not (found.confirmed and found.confirmed.broken) else 1


def _values(problem: Problem, runs: "Runs") -> Tensor:
    """The objective `[n]` of true runs, NaN where one breaks a constraint."""
    from emulate.distributions import Exact

    theta, y = torch.from_numpy(runs.theta), torch.from_numpy(runs.y)
    value = problem.rated(problem.objective, theta, Exact(y)).clone()
    for rule, equal, size in zip(problem.rules, problem.equality.tolist(), problem.sizes.tolist()):
        left = problem.rated(rule, theta, Exact(y))
        value[(left.abs() if equal else left) > 1e-3 * size] = torch.nan
    return value


def _confirm(bench: Workbench, problem: Problem, found: Optimum, runs: "Runs", values: Tensor, n: int) -> Optimum:
    """True runs at the optimum and at the best training run that meets the constraints; of something random n of each, none
    of them the run by which that was chosen, which was lucky."""
    simulator = bench.study.simulator
    n = n if simulator.stochastic else 1
    known = torch.isfinite(values)
    if known.any():
        best = int(torch.where(known, problem.sign * values, torch.inf).argmin())
        other = torch.from_numpy(runs.theta[best])
    else:
        bench.terminal.warn(
            "no training run meets the constraints: the optimum is held against the middle of the prior."
        )
        other = bench.study.space.from_unit(torch.full((bench.study.space.d,), 0.5, dtype=torch.float64))
    theta = np.stack([found.theta.numpy(), other.numpy()]).repeat(n, 0)
    replicate = np.tile(np.arange(n) + int(simulator.stochastic), 2)
    seeds = bench.seeds(theta, replicate)
    tasks = Tasks.of(simulator, theta, seeds, np.zeros(len(theta), np.uint8), [("y", None)])
    bench.make(tasks, "true runs at the optimum")
    made = bench.store.rows(simulator, theta, list(tasks.keys()))
    parts = [torch.from_numpy(made.y[i * n : (i + 1) * n][made.ok[i * n : (i + 1) * n]]) for i in (0, 1)]
    if not all(len(p) for p in parts):
        reason = next((r for r in made.reason if r), "no reason is known")
        raise CampaignError(f"true runs at the optimum must finish. Got none that did, first: {reason}. The optimum lies where "
                            "the simulator fails; constrain it, or mend the simulator.")  # fmt: skip
    return confirmed(problem, found, parts[0], (other, parts[1]), stochastic=simulator.stochastic)


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
    from emulate.distributions import Exact

    each = problem.rated(problem.objective, theta.expand(*y.shape[:-1], problem.space.d), Exact(y))
    return each.std(0, correction=0)


def _print(bench: Workbench, name: str, found: Optimum) -> None:
    space = bench.study.space
    low, high = (space.from_unit(end) for end in space.ends())
    rows = [(p.name, f"{x:.6g}", f"{float(a):.4g} to {float(b):.4g}", p.unit, "at the edge" if p.name in found.edges else "")
            for p, x, a, b in zip(space.parameters, found.theta.tolist(), low, high)]  # fmt: skip
    bench.terminal.table(f"{bench.study.name}: optimum of {name}", ("parameter", "best", "box", "unit", ""), rows)
    if found.constraints:
        rows = [(c.text, f"{c.value:.3g}" + (f" ± {c.sd:.2g}" if c.sd > 0 else ""), "broken" if not c.met else "active" if c.active
                 else "met", f"{c.price:.3g}" if c.active else "") for c in found.constraints]  # fmt: skip
        bench.terminal.table("constraints", ("constraint", "left - right", "", "price of a unit"), rows)


def _metrics(found: Optimum) -> dict[str, float]:
    told: dict[str, Any] = {"value": found.value, "sd": found.sd, "gradient": found.gradient, "agree": found.agree,
                            "remoteness": found.remoteness, **{f"best/{n}": x for n, x in found.at.items()}}  # fmt: skip
    if found.confirmed:
        told |= {
            f"true/{k}": getattr(found.confirmed, k) for k in ("value", "error", "gain", "gain_error", "z", "runs")
        }
    return {k: float(v) for k, v in told.items() if np.isfinite(v)}


def _capital(sentence: str) -> str:
    """A sentence that begins with a word begins with a capital; names of parameters are left as they are."""
    return sentence[:1].upper() + sentence[1:] if sentence.startswith("no ") else sentence
