"""design: parameter space -> points to run, training and held out."""

from typing import TYPE_CHECKING

import numpy as np
import torch

from pipelines import given
from pipelines.terminal import count
from pipelines.workbench import FIDELITIES, SETS, Workbench

if TYPE_CHECKING:
    from pipelines.study import Study

SENTENCE = "choose the points to run"
READS = ()
WRITES = ("design/points.csv",)


def points(bench: Workbench) -> dict[str, np.ndarray]:
    """theta `[n, d]` by set; held-out points are a design of their own, keyed by another seed."""
    sizes = dict(zip(SETS, (bench.study.design.runs, bench.study.design.held_out), strict=True))
    if (theta := bench.study.given) is not None:
        return given.dealt(theta, sizes, bench.seed("design/given"))
    return {which: first(bench, which, n) for which, n in sizes.items() if n}


def first(bench: Workbench, which: str, n: int) -> np.ndarray:
    """theta `[n, d]` of a set. A design that is extensible goes on: the first of more points are these points."""
    study = bench.study
    if (theta := study.given) is not None:
        sizes = {"training": study.design.runs, "held_out": study.design.held_out, which: n}
        return given.dealt(theta, sizes, bench.seed("design/given"))[which]
    u = study.design.entry.points(n, study.space.d, seed=bench.seed(f"design/{which}"))
    return study.space.from_unit(torch.from_numpy(u)).numpy()


def fidelities(bench: Workbench) -> dict[str, np.ndarray]:
    """theta `[n, d]` of every fidelity: the design of the training points, so that the first points are those, and the
    fidelities are nested (Kennedy and O'Hagan 2000; Le Gratiet and Garnier 2014).

    A design whose points do not go on gives the training points, then the tail of a longer design. Its fidelities share
    the training points alone, and more runs of one are at other points.
    """
    study = bench.study
    if not study.fidelities:
        return {}
    if study.design.entry.extensible:
        longest = first(bench, "training", max(f.runs for f in study.fidelities.values()))
        return {name: longest[: f.runs] for name, f in study.fidelities.items()}
    shared = first(bench, "training", study.design.runs)
    tails = {
        n: first(bench, "training", n)[len(shared) :] for f in study.fidelities.values() if (n := f.runs) > len(shared)
    }
    return {
        name: np.concatenate([shared[: f.runs], tails.get(f.runs, shared[:0])]) for name, f in study.fidelities.items()
    }


def run(bench: Workbench) -> str:
    from emulate.runs import Runs
    from pipelines import figures

    study = bench.study
    sets = points(bench)
    written = bench.write_points("design/points.csv", sets)
    if study.fidelities:
        bench.write_points(FIDELITIES, fidelities(bench))
        if not study.design.entry.extensible:
            bench.note(f"points of {study.design.entry.entry_name()} do not go on: fidelities share those to train on "
                       "alone, and more runs of a fidelity are at other points")  # fmt: skip
    else:
        (bench.folder / FIDELITIES).unlink(missing_ok=True)
    blank = [
        Runs.of(study.space, study.simulator.outputs, t, np.zeros((len(t), study.simulator.outputs.size)))
        for t in (sets["training"], sets.get("held_out", np.empty((0, study.space.d))))
    ]
    bench.figures(
        "design",
        {
            "design": (
                figures.design(*blank),
                "The design: points to train on and points held out. Gaps are where emulators know least.",
            )
        },
    )
    design = study.design.entry
    bench.journal.append(
        "params",
        "design",
        params={
            "design": design.entry_name() if study.given is None else given.origin(study),
            "runs": study.design.runs,
            "held_out": study.design.held_out,
            **({"replicates": study.design.replicates} if study.design.replicates > 1 else {}),
            "seed": study.seed,
            **{f"runs_{name}": f.runs for name, f in study.fidelities.items()},
        },
    )
    said = f"{written} points: {study.design.runs} to train on{times(study, 'training')}"
    said += f", {study.design.held_out} held out"
    return said + "".join(f", {f.runs} of {name}{times(study, name)}" for name, f in study.fidelities.items())


def times(study: "Study", which: str) -> str:
    """` x 4 replicates`, where the points of a set are run more than once."""
    return f" x {r} replicates" if (r := study.replicates_of(which)) > 1 else ""


def total(study: "Study") -> str:
    """`64 points x 4 replicates and 16 held out: 272 runs`, for a study that repeats its points; else nothing."""
    if study.design.replicates == 1:
        return ""
    sizes = {"training": study.design.runs, "held_out": study.design.held_out}
    sizes |= {name: f.runs for name, f in study.fidelities.items()}
    parts = [f"{count(sizes['training'], 'point')}{times(study, 'training')}", f"{sizes['held_out']} held out",
             *(f"{sizes[name]} of {name}{times(study, name)}" for name in study.fidelities)]  # fmt: skip
    runs = sum(n * study.replicates_of(which) for which, n in sizes.items())
    return f"{', '.join(parts[:-1])} and {parts[-1]}: {count(runs, 'run')}"
