"""simulate: points -> finished and failed runs in the store."""

import math

import numpy as np

from emulate.errors import CampaignError, InputError
from emulate.runs import Runs
from pipelines import files, forecasts, hindsight
from pipelines.stages import design
from pipelines.workbench import EXTRA, SETS, Workbench, with_jacobians

SENTENCE = "run the simulator"
READS = ("design",)
WRITES = ("simulate/runs.csv", "simulate/summary.json", EXTRA)


def forecast(bench: Workbench) -> str:
    """How many runs are to do and how many are stored, without writing anything."""
    sets = design.points(bench)
    asked = {t.key: t for t in bench.tasks(np.concatenate(list(sets.values())), training=sets["training"])}
    todo = bench.missing(asked.values())
    said = f"{len(todo)} runs to do{with_jacobians(todo)}, {len(asked) - len(todo)} stored"
    return said + forecasts.sentence(bench, asked.values())


def run(bench: Workbench) -> str:
    from pipelines import figures

    study = bench.study
    if study.simulate.retry_failed:
        for task in bench.tasks(np.concatenate([bench.points(which) for which in SETS])):
            if bench.store.failed(task.key):
                bench.store.forget(task.key)
    bench.write_points(EXTRA, {})
    sets = {which: bench.points(which) for which in SETS}
    theta = np.concatenate(list(sets.values()))
    bench.campaign(theta, "simulate")
    if study.simulate.until is not None:
        sets["training"] = _more(bench, sets["training"])
        theta = np.concatenate(list(sets.values()))
    both = bench.runs(theta)
    tables = _tables(bench, sets, both)
    _write(bench, tables)
    bench.figures(
        "simulate",
        {
            "points": (figures.design(*tables.values()), "The runs: where they finished, and where they failed."),
            "outputs": (figures.outputs(both), "Every finished run, coloured by the first parameter."),
            **hindsight.figures(bench, both, both if study.simulate.jacobians is None else tables["training"]),
        },
    )
    spec = {k: v for k, v in study.simulator_spec.items() if k != "space"}
    bench.journal.append("params", "simulate", params={**spec, "version": study.simulator.version})
    bench.journal.append(
        "metrics",
        "simulate",
        metrics={
            "planned": len(both),
            "finished": int(both.ok.sum()),
            "failed": int((~both.ok).sum()),
            "jacobians": _jacobians(tables["training"]),
            "seconds_per_run": float(np.nanmedian(both.seconds)),
            "seconds_of_runs": float(np.nansum(both.seconds)),
        },
    )
    bench.journal.append(
        "dataset",
        "simulate",
        name=f"{study.name}-runs",
        path="simulate/runs.csv",
        rows=len(both),
        digest=files.digest(bench.folder / "simulate" / "runs.csv"),
    )
    _require(bench, tables)
    with_jacobian = f", {n} with a Jacobian" if (n := _jacobians(tables["training"])) else ""
    return f"{both.ok.sum()} of {len(both)} runs finished{with_jacobian}, {np.nanmedian(both.seconds):.2g} s each"


def _more(bench: Workbench, theta: np.ndarray) -> np.ndarray:
    """Go on with the design until enough training runs finished, or the most points were tried; all points `[n, d]`.

    The points are the same for the same failures, however the runs are made. They are written before they are run, so
    that the same command goes on from there.
    """
    simulate, designed = bench.study.simulate, len(theta)
    most = math.ceil(simulate.most * max(simulate.until, designed))
    while True:
        tried = len(theta)
        missing = simulate.until - sum(not bench.store.failed(t.key) for t in bench.tasks(theta))
        more = min(missing, most - tried)
        if more <= 0:
            return theta
        longer = design.first(bench, "training", tried + more)
        if not np.array_equal(longer[:tried], theta):
            raise InputError(f"{bench.folder / 'design' / 'points.csv'} must hold the points of the study's design, for "
                             "simulate.until goes on with them. Run `emulate design --force`, or take simulate.until "
                             "out.")  # fmt: skip
        bench.note(f"{missing} more runs are to finish: {more} more points, {tried + more} in all, at most {most}")
        theta = longer
        bench.write_points(EXTRA, {"training": theta[designed:]}, start=designed)
        bench.campaign(theta, "simulate more points")


def _tables(bench: Workbench, sets: dict[str, np.ndarray], both: Runs) -> dict[str, Runs]:
    """The runs by set; read again only where one set carries Jacobians, which a table has for all its runs or none."""
    if bench.study.simulate.jacobians is not None:
        return {which: bench.runs(t) for which, t in sets.items()}
    rows = np.split(np.arange(len(both)), np.cumsum([len(t) for t in sets.values()])[:-1])
    return {which: both.select(r) for which, r in zip(sets, rows, strict=True)}


def _write(bench: Workbench, tables: dict[str, Runs]) -> None:
    """The table of numbers, the same bytes however the runs were made; wall times go to the summary."""
    runs = tables["training"]
    header = ["set", *bench.study.space.names, *runs.outputs.labels, "seed", "ok", "reason", "key"]
    rows = [
        [which, *map(float, r.theta[i]), *map(float, r.y[i]), int(r.seed[i]), bool(r.ok[i]), r.reason[i], r.key[i]]
        for which, r in tables.items()
        for i in range(len(r))
    ]
    files.write_csv(bench.folder / "simulate" / "runs.csv", header, rows)
    summary = {which: _summary(r) for which, r in tables.items()}
    files.write_json(
        bench.folder / "simulate" / "summary.json", {**summary["training"], "held_out": summary["held_out"]}
    )


def _summary(runs: Runs) -> dict:
    failed = runs.failed()
    seconds = runs.seconds[np.isfinite(runs.seconds)]
    return {
        "planned": len(runs),
        "finished": int(runs.ok.sum()),
        "failed": len(failed),
        "jacobians": _jacobians(runs),
        "seconds": {"median": float(np.median(seconds)) if len(seconds) else None, "total": float(seconds.sum())},
        "failures": [
            {
                "parameters": dict(zip(runs.space.names, map(float, t), strict=True)),
                "kind": r.partition(":")[0],
                "reason": r.partition(":")[2].strip(),
            }
            for t, r in zip(failed.theta, failed.reason, strict=True)
        ],
    }


def _jacobians(runs: Runs) -> int:
    """How many runs carry one."""
    return 0 if runs.jacobian is None else int(runs.ok.sum())


def _require(bench: Workbench, tables: dict[str, Runs]) -> None:
    """Fall short in words: how many finished, how many the study asks for, and the most frequent reason."""
    ok = np.concatenate([r.ok for r in tables.values()])
    need, asked, met = bench.study.simulate.require, "", f"{ok.sum()} of {len(ok)} runs"
    if ok.mean() < need or not ok.any():
        asked = f"{need:.0%} (simulate.require)"
    if (until := bench.study.simulate.until) is not None:  # failed training runs are made up for
        training, held_out = (tables[which].ok for which in SETS)
        asked = f"{need:.0%} (simulate.require)" if held_out.mean() < need else ""
        met = f"{held_out.sum()} of {len(held_out)} held-out runs"
        if training.sum() < until:
            met, asked = f"{training.sum()} of {len(training)} training runs", f"{until} (simulate.until)"
    if not asked:
        return
    reasons = [x for r in tables.values() for x, good in zip(r.reason, r.ok, strict=True) if not good]
    worst = max(set(reasons), key=reasons.count)
    raise CampaignError(
        f"{met} finished; the study asks for {asked}. "
        f"The most frequent reason, {reasons.count(worst)} times: {worst}. All failures stand in "
        f"{bench.folder / 'simulate' / 'summary.json'} (`emulate status --failed`); mend the simulator and run again "
        "with --retry-failed, or lower simulate.require."
    )
