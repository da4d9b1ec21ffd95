"""simulate: points -> finished and failed runs in the store."""

import math

import numpy as np

from emulate import outlook
from emulate.errors import CampaignError, InputError
from emulate.runs import Runs
from pipelines import fidelities, files, forecasts, hindsight, positive, rounds, tables
from pipelines.stages import design
from pipelines.workbench import EXTRA, SETS, Workbench, warn_of_unread, with_jacobians

SENTENCE = "run the simulator"
READS = ("design",)
WRITES = ("simulate/runs.csv", "simulate/summary.json", EXTRA)
SKIPPED = (
    "simulate/skipped.csv"  # points of the design that were not worth a run, with the probability that it finishes
)
_LOOKS = 10  # points that are looked at for each that may be tried


def forecast(bench: Workbench) -> str:
    """How many runs are to do and how many are stored, without writing anything."""
    sets = design.points(bench)
    asked = {t.key: t for t in bench.tasks(sets)}
    todo = bench.missing(asked.values())
    said = f"{len(todo)} runs to do{with_jacobians(todo)}, {len(asked) - len(todo)} stored" + fidelities.forecast(bench)
    said += rounds.forecast(bench)
    said += f" ({whole})" if (whole := design.total(bench.study)) else ""
    return said + forecasts.sentence(bench, {"": asked.values(), **forecasts.of_fidelities(bench)})


def run(bench: Workbench) -> str:
    from pipelines import figures

    study = bench.study
    for name in study.fidelities:
        bench.points(name)  # what is missing is said before the first run
    if study.simulate.retry_failed:
        _forget(bench)
    warn_of_unread(study, bench.terminal)
    bench.write_points(EXTRA, {})
    (bench.folder / SKIPPED).unlink(missing_ok=True)
    sets = {which: bench.points(which) for which in SETS}
    _apart(bench, sets)
    bench.campaign(sets, "simulate")
    if study.simulate.until is not None:
        sets["training"] = _more(bench, sets["training"])
    if study.guide:
        sets["training"] = rounds.grow(bench, sets["training"])
    both = bench.runs(sets)
    positive.tell(bench, both)
    by_set = _by_set(bench, sets, both)
    _write(bench, by_set)
    short = _short(bench, by_set)
    others = {} if short else fidelities.campaigns(bench)  # none where a mistake shows already
    alike, quick = (both, both) if study.simulate.jacobians is None else (by_set["training"], by_set["held_out"])
    bench.figures(
        "simulate",
        {
            "points": (figures.design(*by_set.values()), "The runs: where they finished, and where they failed."),
            "outputs": (figures.outputs(both), "Every finished run, coloured by the first parameter."),
            **hindsight.figures(bench, both, alike),
            **fidelities.keep(bench, by_set["training"], quick, others),
            **(rounds.figures(bench) if study.guide else {}),
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
            "jacobians": tables.jacobians(by_set["training"]),
            "seconds_per_run": float(np.nanmedian(both.seconds)),
            "seconds_of_runs": float(np.nansum(both.seconds)),
            **(rounds.summary(bench) if study.guide else {}),
        },
    )
    bench.journal.append(
        "dataset",
        "simulate",
        name=f"{study.name}-runs",
        path="simulate/runs.csv",
        rows=len(both),
        digest=files.digest(bench.folder / "simulate" / "runs.csv"),
        columns=tables.columns(both),
    )
    if short:
        raise CampaignError(short)
    fidelities.require(bench, others)
    with_jacobian = f", {n} with a Jacobian" if (n := tables.jacobians(by_set["training"])) else ""
    return f"{both.ok.sum()} of {len(both)} runs finished{with_jacobian}, {np.nanmedian(both.seconds):.2g} s each"


def _apart(bench: Workbench, sets: dict[str, np.ndarray]) -> None:
    """Complain about a point of both sets: its first run would be trained on and held out."""
    if both := set(map(tuple, sets["training"].tolist())).intersection(map(tuple, sets["held_out"].tolist())):
        at = ", ".join(f"{n} = {x:.6g}" for n, x in zip(bench.study.space.names, min(both), strict=True))
        raise InputError(f"{bench.folder / 'design' / 'points.csv'} must hold out other points than those to train on. Got "
                         f"{at} in both; take it out of one, or run `emulate design --force`.")  # fmt: skip


def _forget(bench: Workbench) -> None:
    """Take failed runs out of the store, so that they are made again."""
    for tasks in (bench.tasks({which: bench.points(which) for which in SETS}),
                  *(bench.tasks({name: bench.points(name)}) for name in bench.study.fidelities)):  # fmt: skip
        for task in tasks:
            if bench.store.failed(task.key):
                bench.store.forget(task.key)


def _more(bench: Workbench, theta: np.ndarray) -> np.ndarray:
    """Go on with the design until enough training runs finished, or the most points were tried; all points `[n, d]`.

    A new point brings as many runs as the study repeats a point. The points are the same for the same failures, however
    the runs are made. They are written before they are run, so that the same command goes on from there.
    """
    simulate, designed, passed = bench.study.simulate, len(theta), []
    each = bench.study.replicates_of("training")
    most, looked = math.ceil(simulate.most * max(math.ceil(simulate.until / each), designed)), designed
    while True:
        tried = len(theta)
        missing = simulate.until - sum(not bench.store.failed(t.key) for t in bench.tasks({"training": theta}))
        more = min(math.ceil(missing / each), most - tried)
        if more <= 0:
            return theta
        if not np.array_equal(design.first(bench, "training", designed), theta[:designed]):
            raise InputError(f"{bench.folder / 'design' / 'points.csv'} must hold the points of the study's design, for "
                             "simulate.until goes on with them. Run `emulate design --force`, or take simulate.until "
                             "out.")  # fmt: skip
        step = _next(bench, theta, looked, more, most)
        passed += [[*map(float, t), float(p)] for t, p in zip(step.skipped, step.probability, strict=True)]
        if simulate.skip:
            files.write_csv(bench.folder / SKIPPED, [*bench.study.space.names, "probability"], passed)
            bench.note(f"{len(passed)} points are left out, where a run finishes with a probability below "
                       f"{simulate.skip:g}: {bench.folder / SKIPPED}")  # fmt: skip
        if not len(step.theta):
            return theta
        bench.note(f"{missing} more runs are to finish: {len(step.theta)} more points, {tried + len(step.theta)} in all, "
                   f"at most {most}")  # fmt: skip
        theta, looked = np.concatenate([theta, step.theta]), step.looked
        bench.write_points(EXTRA, {"training": theta[designed:]}, start=designed)
        bench.campaign({"training": theta}, "simulate more points")


def _next(bench: Workbench, theta: np.ndarray, looked: int, more: int, most: int) -> outlook.Next:
    """The next points of the design, without those at which failure is near certain where the study says so."""

    def sequence(n: int) -> np.ndarray:
        return design.first(bench, "training", n)

    if not (least := bench.study.simulate.skip):
        return outlook.Next(sequence(looked + more)[looked:], theta[:0], np.empty(0), looked + more)
    return outlook.worthwhile(sequence, looked, more, bench.runs({"training": theta}), least=least, most=_LOOKS * most,
                              seed=bench.seed("feasibility"))  # fmt: skip


def _by_set(bench: Workbench, sets: dict[str, np.ndarray], both: Runs) -> dict[str, Runs]:
    """The runs by set; read again only where one set carries Jacobians, which a table has for all its runs or none."""
    if bench.study.simulate.jacobians is not None:
        return {which: bench.runs({which: t}) for which, t in sets.items()}
    sizes = [len(t) * bench.study.replicates_of(which) for which, t in sets.items()]
    rows = np.split(np.arange(len(both)), np.cumsum(sizes)[:-1])
    return {which: both.select(r) for which, r in zip(sets, rows, strict=True)}


def _write(bench: Workbench, by_set: dict[str, Runs]) -> None:
    """The table of numbers, the same bytes however the runs were made; wall times go to the summary."""
    tables.write(bench.folder / "simulate" / "runs.csv", by_set)
    summary = {which: tables.summary(r) for which, r in by_set.items()}
    files.write_json(
        bench.folder / "simulate" / "summary.json", {**summary["training"], "held_out": summary["held_out"]}
    )


def _short(bench: Workbench, by_set: dict[str, Runs]) -> str:
    """Fall short in words: how many finished, how many the study asks for, and the most frequent reason; or nothing."""
    ok = np.concatenate([r.ok for r in by_set.values()])
    need, asked, met = bench.study.simulate.require, "", f"{ok.sum()} of {len(ok)} runs"
    if ok.mean() < need or not ok.any():
        asked = f"{need:.0%} (simulate.require)"
    if (until := bench.study.simulate.until) is not None:  # failed training runs are made up for
        training, held_out = (by_set[which].ok for which in SETS)
        asked = f"{need:.0%} (simulate.require)" if held_out.mean() < need else ""
        met = f"{held_out.sum()} of {len(held_out)} held-out runs"
        if training.sum() < until:
            met, asked = f"{training.sum()} of {len(training)} training runs", f"{until} (simulate.until)"
    if not asked:
        return ""
    mend = (
        "mend the table and run again"
        if bench.study.recorded
        else "mend the simulator and run again with --retry-failed"
    )
    return (
        f"{met} finished; the study asks for {asked}. {tables.most_frequent(by_set.values())} All failures stand in "
        f"{bench.folder / 'simulate' / 'summary.json'} (`emulate status --failed`); {mend}, or lower simulate.require."
    )
