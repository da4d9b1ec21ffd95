"""The loop of an active design: simulate, fit, say how far the emulator errs, choose where to run next, until a target.

The points of a round depend on the stored runs, the recipe and the seed alone. They are written before they are run, so
a loop that was killed goes on with the same points, and rounds that are there are not chosen again.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from emulate.feasibility import Feasibility
from emulate.posterior import Posterior
from pipelines import files
from pipelines.stages import infer
from pipelines.terminal import Stopwatch, count, duration, number
from pipelines.workbench import EXTRA, Workbench

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from emulate.lookahead import Lookahead
    from emulate.runs import Runs
    from pipelines.study import Study

ROUNDS = "simulate/rounds.json"
UNITS = {"prior": "of the outputs' spread over the runs", "posterior": "in ln p(data | theta)"}


def kept(study: "Study") -> list[dict[str, Any]]:
    """The rounds that the study's folder holds."""
    path = study.folder / ROUNDS
    return files.read_json(path)["rounds"] if path.exists() else []


def grow(bench: Workbench, theta: np.ndarray) -> np.ndarray:
    """Training points theta `[n, d]`: those given, which have run, and those of all rounds, which have run then too."""
    study, design, designed = bench.study, bench.study.design.entry, len(theta)
    found, stored = [], {r["digest"]: r for r in kept(study)}
    while True:
        more = max(0, min(design.batch, design.budget - len(theta)))
        digest = _digest(bench, theta, more)
        known = stored.get(digest)
        found.append(known or _round(bench, theta, more, len(found), digest))
        latest = found[-1]
        if known is None:
            files.write_json(bench.folder / ROUNDS, {"aim": design.aim, "target": design.target, "rounds": found})
            _log(bench, latest)
        bench.note(_words(study, latest), latest["seconds"])
        if not latest["theta"]:
            break
        theta = np.concatenate([theta, np.array(latest["theta"])])
        bench.write_points(EXTRA, {"training": theta[designed:]}, start=designed)
        bench.campaign({"training": theta}, f"simulate round {latest['round'] + 1}")
    files.write_json(bench.folder / ROUNDS, {"aim": design.aim, "target": design.target, "rounds": found})
    if not bench.terminal.quiet:
        _tell(bench, found)
    return theta


def _tell(bench: Workbench, found: list[dict[str, Any]]) -> None:
    study, design = bench.study, bench.study.design.entry
    bench.terminal.table(f"{study.name}: emulator error over the {design.aim} by {study.guide}",
                         ("round", "runs", "finished", "error", "expected next", "chosen in"),
                         [_row(r) for r in found])  # fmt: skip
    if design.target is not None and found[-1]["error"] > design.target:
        bench.terminal.warn(f"the budget of {count(design.budget, 'training run')} is spent at an error of "
                            f"{number(found[-1]['error'])}, and design.target is {design.target:g}. Raise design.budget; "
                            "the loop goes on from there.")  # fmt: skip


def forecast(bench: Workbench) -> str:
    """`; then rounds of 8 to 64 runs, or to an error of 0.1 in ln p(data | theta)`, and how far that is."""
    study, design = bench.study, bench.study.design.entry
    if not study.guide:
        return ""
    return f"; then rounds of {design.batch} to {_goal(study)}{_progress(study)}"


def status(study: "Study") -> str:
    """One sentence on the loop of the study, nothing where it has none."""
    if not study.guide:
        return ""
    return f"Active design: rounds of {study.design.entry.batch} to {_goal(study)}{_progress(study) or '; none yet'}."


def summary(bench: Workbench) -> dict[str, float]:
    """What the last round says, for the journal."""
    return {"rounds": len(rounds) - 1, "error_of_rounds": rounds[-1]["error"]} if (rounds := kept(bench.study)) else {}


def figures(bench: Workbench) -> dict[str, tuple["Figure", str]]:
    from pipelines.figures.rounds import rounds

    design, found = bench.study.design.entry, kept(bench.study)
    said = f"The emulator's error over the {design.aim}, {UNITS[design.aim]}, by its own variance, after every round."
    return {"rounds": (rounds(bench.study.space, found, bench.points("training"), design.target, design.aim),
                       f"{said} Where the points of the rounds went; circles are the first design.")}  # fmt: skip


def _round(bench: Workbench, theta: np.ndarray, more: int, k: int, digest: str) -> dict[str, Any]:
    watch, design = Stopwatch(), bench.study.design.entry
    runs = bench.runs({"training": theta})
    with bench.terminal.bar(f"round {k}: fit and choose"):
        ahead = _look(bench, runs)
        error, chosen, expected = ahead.error, np.empty((0, bench.study.space.d)), None
        if more and not (design.target is not None and error <= design.target):
            u, errors = ahead.choose(more)
            chosen, expected = bench.study.space.from_unit(torch.from_numpy(u)).numpy(), float(errors[-1])
    return {"round": k, "runs": len(theta), "finished": int(runs.ok.sum()), "error": error, "expected": expected,
            "theta": chosen.tolist(), "seconds": watch.seconds, "digest": digest}  # fmt: skip


def _look(bench: Workbench, runs: "Runs") -> "Lookahead":
    """The study's emulator of the runs so far, and what may be learned where."""
    from emulate.emulator import fit

    study, design = bench.study, bench.study.design.entry
    where = None if runs.ok.all() else Feasibility.fit(runs, seed=bench.seed("feasibility"))
    where = None if where is None or where.classifier is None else where
    emulator = fit(study.emulators[study.guide], runs, seed=bench.seed(f"active/{study.guide}"))
    posterior = None
    if design.aim == "posterior":
        limit = where.log_prob if where is not None and study.infer.feasible else None
        posterior = Posterior(study.space, infer.surrogate(bench, emulator), study.likelihood,
                              infer.observation(bench).data, limit)  # fmt: skip
    return design.look(emulator, seed=bench.seed(f"active/{len(runs)}"), posterior=posterior, feasibility=where)


def _digest(bench: Workbench, theta: np.ndarray, more: int) -> str:
    """Of all that the points of a round depend on. The code is left out: points once chosen stay where they are."""
    asked = bench.study.section("simulate")["active"]
    asked = asked | {"design": {k: v for k, v in asked["design"].items() if k not in ("budget", "batch")}}
    runs = [(t.key, bench.store.failed(t.key)) for t in bench.tasks({"training": theta})]
    material = json.dumps([bench.study.seed, asked, more, runs], sort_keys=True, default=str)
    return hashlib.sha256(material.encode()).hexdigest()


def _log(bench: Workbench, latest: Mapping[str, Any]) -> None:
    from pipelines.engine import synchronise

    said = {"round/error": latest["error"], "round/runs": latest["runs"], "round/finished": latest["finished"],
            "round/seconds": latest["seconds"]}  # fmt: skip
    bench.journal.append("metrics", "simulate", metrics=said, step=latest["round"])
    synchronise(bench.study, bench.terminal)


def _words(study: "Study", r: Mapping[str, Any]) -> str:
    design, head = study.design.entry, f"round {r['round']}: {count(r['runs'], 'run')}, error {number(r['error'])}"
    if r["theta"]:
        return f"{head}; {count(len(r['theta']), 'more point')}, {number(r['expected'])} expected"
    reached = design.target is not None and r["error"] <= design.target
    return f"{head}; the {'target is reached' if reached else 'budget is spent'}"


def _row(r: Mapping[str, Any]) -> tuple[str, ...]:
    expected = "" if r["expected"] is None else number(r["expected"])
    return str(r["round"]), str(r["runs"]), str(r["finished"]), number(r["error"]), expected, duration(r["seconds"])


def _goal(study: "Study") -> str:
    design = study.design.entry
    end = f", or to an error of {design.target:g} {UNITS[design.aim]}" if design.target is not None else ""
    rounds = math.ceil(max(0, design.budget - study.design.runs) / design.batch)
    return f"{design.budget} training runs ({count(rounds, 'round')}){end}"


def _progress(study: "Study") -> str:
    if not (found := kept(study)):
        return ""
    latest = found[-1]
    return f"; {count(len(found), 'round')} chosen, the error is {number(latest['error'])} at {count(latest['runs'], 'run')}"
