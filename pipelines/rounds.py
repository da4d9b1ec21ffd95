"""The loop of an active design: simulate, fit, say how far the emulator errs, choose where to run next, until a target.

The points of a round depend on the stored runs, the recipe and the seed alone. They are written before they are run, so
a loop that was killed goes on with the same points, and rounds that are there are not chosen again.

What a round says beside the emulator's own error costs no further run: `surprise`, by how much the runs of the round
before were missed, in standard deviations that their emulator gave itself (1 where it was honest); and over a posterior
`moved`, by how much that went from one round to the next, see `emulate.settling`.
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
from emulate.settling import missed, step
from pipelines import files, observations
from pipelines.stages import infer
from pipelines.terminal import Stopwatch, count, duration, number
from pipelines.workbench import EXTRA, Workbench

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from emulate.lookahead import Lookahead
    from emulate.runs import Runs
    from pipelines.study import Study

ROUNDS = "simulate/rounds.json"
MOVED = {"shift": "moved by", "width": "width", "pareto_k": "Pareto k"}  # of a round, in words
UNITS = {"prior": "of the outputs' spread over the runs", "posterior": "in ln p(data | theta)"}


def kept(study: "Study") -> list[dict[str, Any]]:
    """The rounds that the study's folder holds."""
    path = study.folder / ROUNDS
    return files.read_json(path)["rounds"] if path.exists() else []


def grow(bench: Workbench, theta: np.ndarray) -> np.ndarray:
    """Training points theta `[n, d]`: those given, which have run, and those of all rounds, which have run then too."""
    study, design, designed = bench.study, bench.study.design.entry, len(theta)
    found, stored, before = [], {r["digest"]: r for r in kept(study)}, None
    while True:
        more = max(0, min(design.batch, design.budget - len(theta)))
        digest = _digest(bench, theta, more)
        known = stored.get(digest)
        made, before = (known, None) if known else _round(bench, theta, more, found, digest, before)
        found.append(made)
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
                         ("round", "runs", "finished", "error", "expected next", "surprise", *MOVED.values(), "chosen in"),
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
    if not (found := kept(bench.study)):
        return {}
    told = {f"{k}_of_rounds": v for k, v in _told(found[-1]).items() if k != "runs"}
    return {"rounds": len(found) - 1, **told}


def figures(bench: Workbench) -> dict[str, tuple["Figure", str]]:
    from pipelines.figures.rounds import rounds, settling

    design, found = bench.study.design.entry, kept(bench.study)
    said = f"The emulator's error over the {design.aim}, {UNITS[design.aim]}, by its own variance, after every round."
    made = {"rounds": (rounds(bench.study.space, found, bench.points("training"), design.target, design.aim),
                       f"{said} Where the points of the rounds went; circles are the first design.")}  # fmt: skip
    if any(r.get("moved") for r in found):
        made["settling"] = (settling(found), "By how much the posterior moved with every round, and how well the emulator before "
                            "foretold the round's runs. It says whether the answer has settled, not whether it is right: that "
                            "is what true runs tell in the stage check.")  # fmt: skip
    return made


def _round(bench: Workbench, theta: np.ndarray, more: int, found: list[dict[str, Any]], digest: str,
           before: "Lookahead | None") -> "tuple[dict[str, Any], Lookahead]":  # fmt: skip
    """What the round says, and its emulator with its posterior, which the next is held against."""
    watch, design, k = Stopwatch(), bench.study.design.entry, len(found)
    runs = bench.runs({"training": theta})
    with bench.terminal.bar(f"round {k}: fit and choose"):
        if before is None and found:  # of a loop that goes on
            before = _look(bench, bench.runs({"training": theta[: found[-1]["runs"]]}))
        ahead = _look(bench, runs)
        error, chosen, expected = ahead.error, np.empty((0, bench.study.space.d)), None
        if more and not (design.target is not None and error <= design.target):
            u, errors = ahead.choose(more)
            chosen, expected = bench.study.space.from_unit(torch.from_numpy(u)).numpy(), float(errors[-1])
        last = (
            {}
            if before is None
            else _since(before, ahead, bench.runs(np.array(found[-1]["theta"])), bench.study.space.names)
        )
    return {"round": k, "runs": len(theta), "finished": int(runs.ok.sum()), "error": error, "expected": expected, **last,
            "theta": chosen.tolist(), "seconds": watch.seconds, "digest": digest}, ahead  # fmt: skip


def _since(before: "Lookahead", ahead: "Lookahead", made: "Runs", names: tuple[str, ...]) -> dict[str, Any]:
    """By how much the runs of a round were missed, and the posterior moved."""
    made, moved = made.finished(), None
    surprise = missed(before.emulator, made) if len(made) else None
    if before.draws is not None:
        found = step(before.posterior, before.draws, ahead.posterior, ahead.draws)
        pairs = {
            n: {"shift": float(s), "width": float(w)} for n, s, w in zip(names, found.shift, found.width, strict=True)
        }
        moved = {"shift": float(found.shift.abs().max()), "width": float(found.width[(found.width.log().abs()).argmax()]),
                 "pareto_k": found.pareto_k, "parameters": pairs}  # fmt: skip
    return {"surprise": surprise, "moved": moved}


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
                              observations.named(bench).data, limit)  # fmt: skip
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

    said = {
        f"round/{k}": v
        for k, v in {**_told(latest), "finished": latest["finished"], "seconds": latest["seconds"]}.items()
    }
    bench.journal.append("metrics", "simulate", metrics=said, step=latest["round"])
    synchronise(bench.study, bench.terminal)


def _words(study: "Study", r: Mapping[str, Any]) -> str:
    design, told = study.design.entry, _told(r)
    head = f"round {r['round']}: {count(r['runs'], 'run')}, error {number(r['error'])}"
    if "shift" in told:
        head += f", the posterior moved by {number(told['shift'])} sigma"
    if r["theta"]:
        return f"{head}; {count(len(r['theta']), 'more point')}, {number(r['expected'])} expected"
    reached = design.target is not None and r["error"] <= design.target
    return f"{head}; the {'target is reached' if reached else 'budget is spent'}"


def _row(r: Mapping[str, Any]) -> tuple[str, ...]:
    expected = "" if r["expected"] is None else number(r["expected"])
    told = (number(v) if (v := _told(r).get(k)) is not None else "" for k in ("surprise", *MOVED))
    return (
        str(r["round"]),
        str(r["runs"]),
        str(r["finished"]),
        number(r["error"]),
        expected,
        *told,
        duration(r["seconds"]),
    )


def _told(r: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a round by name, those that are finite."""
    moved = r.get("moved") or {}
    every = {"error": r["error"], "runs": r["runs"], "surprise": r.get("surprise"), **{k: moved.get(k) for k in MOVED}}
    return {k: v for k, v in every.items() if v is not None and math.isfinite(v)}


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
