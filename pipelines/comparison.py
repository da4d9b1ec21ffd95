"""Emulators on folds of the training runs: each fit a file of its own, made here or on the workers of the study.

A fit is keyed by its recipe, runs, fold and seed, so one that was made is never made again: a `train` that was killed
goes on, and a search for which the time was over tries the same recipes when it is run again.
"""

import hashlib
import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from emulate import registry
from emulate.comparison import Fold, Scores, choose, deal_runs, failed, leave_out, too_few
from emulate.errors import EmulateError, InputError, StoreError
from emulate.keys import canonical
from emulate.runs import Outputs, Runs, places
from emulate.space import Space
from pipelines import files
from pipelines.costs import span
from pipelines.study import plain
from pipelines.terminal import count, duration
from pipelines.typeset import with_error

if TYPE_CHECKING:
    from pipelines.workbench import Workbench

FOLDER, SUMMARY = "train/folds", "train/comparison.json"
_SEEN = (0.0, 0.1, 1.0, 10.0)  # seconds that a network disk may need to show what a worker wrote
_DIED = "its fit ended the worker each time"


@dataclass(frozen=True)
class Job:
    """One fit to all runs but those of a fold; plain data, so that a worker can be sent it."""

    folder: str  # absolute, for a worker may stand elsewhere
    runs: str  # name of the table in the folder
    recipe: str  # JSON: use, settings
    fold: int
    folds: int
    deal: int  # seed of the permutation that makes the folds
    seed: int  # of the fit
    code: str  # sha256 of the library, and of a recipe's module that is not of the library: other code fits anew
    fidelities: tuple[tuple[str, str], ...] = ()  # name of each cheaper fidelity, and of its table

    @property
    def path(self) -> Path:
        asked = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "folder"}
        return Path(self.folder) / f"{hashlib.sha256(canonical(asked)).hexdigest()[:32]}.json"

    def stored(self) -> Fold | None:
        """What came of it; None where it is still to be made, which a fit that failed always is."""
        try:
            fold = Fold.from_dict(files.read_json(self.path))
        except (EmulateError, KeyError, TypeError, ValueError):
            return None
        return None if fold.failure else fold


def fit_fold(job: Job) -> bool:
    """Fit, judge and store, on one thread, so that the bits are the same wherever it is done."""
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    try:
        with threadpool_limits(1):
            torch.set_num_threads(1)
            files.write_json(job.path, _made(job).to_dict())
    finally:
        torch.set_num_threads(before)
    return True


def _made(job: Job) -> Fold:
    finished = read_runs(Path(job.folder) / job.runs)
    cheap = {name: read_runs(Path(job.folder) / table) for name, table in job.fidelities}
    out = deal_runs(finished, job.folds, seed=job.deal) == job.fold
    try:
        recipe = registry.build("emulators", json.loads(job.recipe))
    except InputError as e:  # a class that this worker cannot import
        return failed(str(e))
    return leave_out(recipe, finished, out, seed=job.seed, fidelities=cheap)


# -- tables of runs --------------------------------------------------------------------------------------------------


def write_runs(folder: Path, runs: Runs) -> str:
    """Finished runs as one file that is read at once, named by what is in it."""
    from safetensors.torch import save

    names = ("theta", "y", "seed", *(("jacobian", "jacobian_error") if runs.jacobian is not None else ()))
    about = {"space": runs.space.to_dict(), "outputs": runs.outputs.to_dict(), "stochastic": runs.stochastic}
    tensors = {n: torch.from_numpy(np.ascontiguousarray(getattr(runs, n))) for n in names}
    content = save(tensors, {"about": json.dumps(about, sort_keys=True)})
    name = f"runs-{hashlib.sha256(content).hexdigest()[:32]}.safetensors"
    if not (folder / name).exists():
        with files.replacing(folder / name) as temporary:
            temporary.write_bytes(content)
    return name


@lru_cache(maxsize=4)
def read_runs(path: Path) -> Runs:
    """The runs of `write_runs`; a worker reads them once."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            about = json.loads(file.metadata()["about"])
            arrays = {name: file.get_tensor(name).clone().numpy() for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as e:
        raise StoreError(f"{path} cannot be read: {e}. Workers and this machine must share that folder.") from None
    n = len(arrays["theta"])
    return Runs(Space.from_dict(about["space"]), Outputs.from_dict(about["outputs"]), ok=np.ones(n, bool),
                reason=("",) * n, seconds=np.zeros(n), stochastic=about["stochastic"], **arrays)  # fmt: skip


# -- the comparison --------------------------------------------------------------------------------------------------


def compare(bench: "Workbench", runs: Runs, fidelities: Mapping[str, Runs]) -> dict[str, Scores]:
    """Scores of every emulator of the study on the same folds, by name; those without any have a note that says why."""
    study, finished = bench.study, runs.finished()
    folds = min(study.train.folds, len(set(places(finished.theta).tolist())))
    if folds < 2:
        return {}
    jobs, notes = _jobs(bench, finished, fidelities, folds)
    tried = _search_of(bench, jobs)
    names = [n for n in jobs if n in tried.get("tried", jobs)]
    out_of_time = _fit(bench, {n: jobs[n] for n in names}, study.train.within if not tried else None)
    scores, late = {}, [n for n in jobs if n not in names or n in out_of_time]
    for name in study.emulators:
        if name in late:
            scores[name] = Scores((), f"not tried: the {span(study.train.within)} of train.within were over")
        elif name in notes:
            scores[name] = Scores((), f"not compared: {notes[name]}")
        else:
            scores[name] = Scores.of([Fold.from_dict(files.read_json(j.path)) for j in jobs[name]])
    if study.train.within is not None:
        closed = {"jobs": _all_paths(jobs), "within": study.train.within, "tried": [n for n in jobs if n not in late]}
        files.write_json(bench.folder / FOLDER / "search.json", closed)
    listed = {n: [j.path.name for j in jobs[n]] for n in jobs if n not in late}
    files.write_json(bench.folder / SUMMARY, {
        "folds": folds, "runs": len(finished), "emulators": {n: s.to_dict() for n, s in scores.items()},
        "files": listed})  # fmt: skip
    return scores


def no_comparison(bench: "Workbench", runs: int) -> None:
    """The file of a study that compares nothing."""
    files.write_json(bench.folder / SUMMARY, {"folds": 0, "runs": runs, "emulators": {}, "files": {}})


def read_scores(folder: Path) -> dict[str, Scores]:
    """What `compare` found, by name; nothing where folds are off."""
    summary = files.read_json(folder / SUMMARY)
    found = {n: [Fold.from_dict(files.read_json(folder / FOLDER / f)) for f in listed]
             for n, listed in summary["files"].items()}  # fmt: skip
    notes = {n: row["note"] for n, row in summary["emulators"].items()}
    return {n: Scores.of(found[n]) if n in found else Scores((), notes[n]) for n in notes}


def rivals(study: Any, names: Sequence[str]) -> list[str]:
    """Those that may be chosen: all but the baseline, which is one where nothing else is there."""
    return [n for n in names if n != study.train.baseline] or list(names)


def _jobs(bench: "Workbench", finished: Runs, fidelities: Mapping[str, Runs],
          folds: int) -> tuple[dict[str, list[Job]], dict[str, str]]:  # fmt: skip
    """The fits by emulator, and why others have none."""
    from pipelines.engine import code_digest

    folder, seed, code = (bench.folder / FOLDER).absolute(), bench.seed("train/folds"), code_digest()
    fold = deal_runs(finished, folds, seed=seed)
    table = write_runs(folder, finished)
    cheap = {n: write_runs(folder, r.finished()) for n, r in fidelities.items()}
    jobs, notes = {}, {}
    for name, recipe in bench.study.emulators.items():
        if few := too_few(recipe, finished, fold):
            notes[name] = few
            continue
        reads = tuple((n, cheap[n]) for n in getattr(recipe, "fidelities", ()) if n in cheap)
        spec, own = json.dumps(plain(recipe), sort_keys=True), bench.seed(f"train/{name}")
        source = code + _source_of(recipe)
        jobs[name] = [Job(str(folder), table, spec, k, folds, seed, own, source, reads) for k in range(folds)]
    _sweep(folder, {table, *cheap.values(), "search.json", *_all_paths(jobs)})
    return jobs, notes


def _source_of(recipe: Any) -> str:
    """The digest of a user's module, which may change between two fits."""
    module = sys.modules.get(type(recipe).__module__)
    path = getattr(module, "__file__", None)
    foreign = ":" in recipe.entry_name() and path and Path(path).is_file()
    return files.digest(Path(path)) if foreign else ""


def _all_paths(jobs: Mapping[str, list[Job]]) -> list[str]:
    return sorted(j.path.name for some in jobs.values() for j in some)


def _sweep(folder: Path, kept: set[str]) -> None:
    """Remove fits and tables of runs or recipes that the study no longer has."""
    for path in folder.iterdir():
        if path.name not in kept and path.suffix in (".json", ".safetensors"):
            path.unlink(missing_ok=True)


def _search_of(bench: "Workbench", jobs: Mapping[str, list[Job]]) -> dict[str, Any]:
    """The search that ended before, when it was this one: what it tried is what is told again."""
    path = bench.folder / FOLDER / "search.json"
    if bench.study.train.within is None or not path.exists():
        return {}
    found = files.read_json(path)
    same = found["jobs"] == _all_paths(jobs) and found["within"] == bench.study.train.within
    return found if same else {}


def _fit(bench: "Workbench", jobs: Mapping[str, list[Job]], within: float | None) -> list[str]:
    """Make what is not stored; the names of those that the time did not reach.

    The first recipe is always tried; a fit under way is not stopped, so the time is exceeded by one fit at most. What
    an earlier process spent on fits that are stored counts.
    """
    each = [j for some in jobs.values() for j in some]
    done = [(j, fold) for j in each if (fold := j.stored())]
    have = {j for j, _ in done}
    todo = [j for j in each if j not in have]
    workers = 1 if bench.study.cluster.use == "serial" else bench.study.cluster.workers
    began = time.monotonic() - sum(fold.seconds for _, fold in done) / workers
    for j in todo:
        j.path.unlink(missing_ok=True)
    if not todo:
        return []
    names = {j: n for n, some in jobs.items() for j in some}
    with bench.terminal.bar("fits on folds of the runs", total=len(each), left=within is None) as tick:
        tick(len(have), len(each))

        def came(job: Job) -> None:
            have.add(job)
            for wait in _SEEN:
                time.sleep(wait)
                if job.path.exists():
                    break
            else:
                raise StoreError(f"a worker wrote {job.path}, which is not here. Workers and this machine must share that "
                                 "folder.")  # fmt: skip
            tick(len(have), len(each), names[job])

        def over() -> bool:
            first = next(iter(jobs.values()))
            return within is not None and time.monotonic() - began > within and have.issuperset(first)

        for job in bench.executor.each(fit_fold, todo, came, over):
            files.write_json(job.path, failed(_DIED).to_dict())
            have.add(job)
    return [n for n, some in jobs.items() if not have.issuperset(some)]


# -- what is told ----------------------------------------------------------------------------------------------------


def tell(bench: "Workbench", scores: Mapping[str, Scores]) -> None:
    """The table, its figure's data and MLflow's numbers; those that cannot be chosen come last, with their note."""
    order = sorted(scores, key=lambda n: (bool(scores[n].note), -_number(scores[n].log_score[0])))
    rows = [(n, *_cells(scores[n])) for n in order]
    header = ("emulator", "log score", "median error", "gradient error", "95 % coverage", "time", "note")
    k = max(len(s.folds) for s in scores.values())
    bench.terminal.table(f"on {count(k, 'fold')} of the training runs", header, rows)
    for name, s in scores.items():
        numbers = {f"folds.{k}": v for k, v in s.to_dict().items() if isinstance(v, float) and math.isfinite(v)}
        recipe, scope = bench.study.emulators[name], f"train/{name}"
        bench.journal.append("params", scope, params={"emulator": recipe.entry_name(), **recipe.settings()})
        bench.journal.append("metrics", scope, metrics=numbers)
        if s.note:
            bench.journal.append("tags", scope, tags={"note": s.note})
        if s.note and s.folds:
            bench.terminal.warn(f"{name} cannot be chosen: {_end(s.note)}")


def _end(note: str) -> str:
    return f"{note.rstrip('.')}."


def _number(x: float) -> float:
    return x if math.isfinite(x) else -math.inf


def _cells(s: Scores) -> tuple[str, ...]:
    percent = (_bar(*(100 * x for x in pair), " %") for pair in (s.median, s.gradient, s.coverage))
    return _bar(*s.log_score), *percent, duration(s.seconds) if s.folds else "", s.note


def _bar(value: float, error: float, unit: str = "") -> str:
    """`35.2 +- 0.4`, nothing where there is no number."""
    return "" if math.isnan(value) else with_error(value, error, unit).replace("±", "+-")


def chosen(study: Any, scores: Mapping[str, Scores]) -> tuple[str, str]:
    """The emulator to use and why: the one the study names, or the choice among the rivals; empty where there is none.

    Raises `InputError` for one that the study names and that failed.
    """
    named = study.train.champion
    if named != "auto":
        if named in scores and any(f.failure for f in scores[named].folds):
            raise InputError(f"train.champion: must name an emulator that can be fitted. {named} {_end(scores[named].note)} Mend "
                             "its recipe, name another emulator, or set train.folds: 0.")  # fmt: skip
        return named, f"{named} is used: the study names it."
    choice = choose({n: scores[n] for n in rivals(study, list(scores))})
    return choice.name, choice.sentence
