"""design: parameter space -> points to run, training and held out."""

import numpy as np
import torch

from pipelines.workbench import SETS, Workbench

SENTENCE = "choose the points to run"
READS = ()
WRITES = ("design/points.csv",)


def points(bench: Workbench) -> dict[str, np.ndarray]:
    """theta `[n, d]` by set; held-out points are a design of their own, keyed by another seed."""
    sizes = dict(zip(SETS, (bench.study.design.runs, bench.study.design.held_out), strict=True))
    return {which: first(bench, which, n) for which, n in sizes.items() if n}


def first(bench: Workbench, which: str, n: int) -> np.ndarray:
    """theta `[n, d]` of a set. A design that is extensible goes on: the first of more points are these points."""
    study = bench.study
    u = study.design.entry.points(n, study.space.d, seed=bench.seed(f"design/{which}"))
    return study.space.from_unit(torch.from_numpy(u)).numpy()


def run(bench: Workbench) -> str:
    from emulate.runs import Runs
    from pipelines import figures

    study = bench.study
    sets = points(bench)
    written = bench.write_points("design/points.csv", sets)
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
            "design": design.entry_name(),
            "runs": study.design.runs,
            "held_out": study.design.held_out,
            "seed": study.seed,
        },
    )
    return f"{written} points: {study.design.runs} to train on, {study.design.held_out} held out"
