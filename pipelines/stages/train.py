"""train: finished runs -> emulators compared on the same folds, each then fitted to all runs; a search fits the best."""

import shutil
import traceback
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from emulate import conformal
from emulate.comparison import Scores
from emulate.errors import DoubtWarning, EmulateError, InputError
from emulate.runs import Runs
from emulate.transforms import OutputTransform
from pipelines import comparison, files, histories, positive, unvaried
from pipelines.costs import span
from pipelines.terminal import Stopwatch, count
from pipelines.workbench import Workbench

SENTENCE = "compare the emulators on folds of the runs, and fit them"
READS = ("design", "simulate")
WRITES = ("emulators", "train/summary.json", "train/comparison.json")
_LONG = 10.0  # seconds from which on it is said before a fit how long it takes


def forecast(bench: Workbench) -> str:
    """How many fits there are, for the plan."""
    study = bench.study
    n, folds, within = len(study.emulators), study.train.folds, study.train.within
    if not folds:
        return f"fit {count(n, 'emulator')}"
    if within is not None:
        return f"try up to {count(n, 'emulator')} on {count(folds, 'fold')} within {span(within)}, fit the best"
    return f"fit {count(n, 'emulator')} on {count(folds, 'fold')} and to all runs: {n * (folds + 1)} fits"


def run(bench: Workbench) -> str:
    study = bench.study
    runs: Runs = bench.runs_of("training")
    positive.refuse(bench, runs)
    unvaried.tell(bench, runs)
    fidelities = {n: bench.runs_of(n) for r in study.emulators.values() for n in getattr(r, "fidelities", ())}
    scores = comparison.compare(bench, runs, fidelities) if study.train.folds else {}
    if scores:
        comparison.tell(bench, scores)
    else:
        comparison.no_comparison(bench, int(runs.ok.sum()))
    fits = _Fits(bench, runs, fidelities)
    if study.train.within is None:
        for name in study.emulators:
            fits.make(name)
    else:
        _fit_the_best(fits, scores)
    _sweep(bench, fits.made)
    files.write_json(
        bench.folder / "train" / "summary.json",
        {"emulators": fits.made, "failed": {n: str(e) for n, e in fits.failed.items()}},
    )
    _figures(bench, scores, fits.histories)
    _complain(bench, fits)
    if scores:
        name, said = comparison.chosen(study, {n: s for n, s in scores.items() if n not in fits.failed})
        bench.note(said if name else f"{said} Held-out runs will choose.")
    return f"{count(len(fits.made), 'emulator')} from {count(int(runs.ok.sum()), 'run')}"


@dataclass
class _Fits:
    """Emulators fitted to all runs and saved, and those that failed, each with its error."""

    bench: Workbench
    runs: Runs
    fidelities: Mapping[str, Runs]
    made: dict[str, dict[str, Any]] = field(default_factory=dict)
    failed: dict[str, EmulateError] = field(default_factory=dict)
    histories: dict[str, Any] = field(default_factory=dict)

    def make(self, name: str) -> None:
        """Fit and save one. What it raises is kept, with the traceback where it is not one of our sentences."""
        bench, recipe, scope, watch = self.bench, self.bench.study.emulators[name], f"train/{name}", Stopwatch()
        bench.journal.append("scope_start", scope)
        status = "failed"
        try:
            self._fit(name, recipe, watch)
            status = "done"
        except EmulateError as e:
            self.failed[name] = e
        except Exception as e:  # the code of a recipe may be anybody's
            log = bench.folder / "train" / f"{name}.log"
            with files.replacing(log) as temporary:
                temporary.write_text(traceback.format_exc())
            self.failed[name] = InputError(f"{type(e).__name__}: {e}. Where it was raised stands in {log}.")
            self.failed[name].__cause__ = e
        finally:
            bench.journal.append("scope_end", scope, status=status)

    def _fit(self, name: str, recipe: Any, watch: Stopwatch) -> None:
        from emulate.emulator import fit

        bench, scope, n = self.bench, f"train/{name}", int(self.runs.ok.sum())
        bench.journal.append("params", scope, params={"emulator": recipe.entry_name(), **recipe.settings()})
        if said := cost(recipe, self.runs):
            bench.note(f"{name}: {said}")
        with bench.terminal.bar(f"train {name}"), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", DoubtWarning)
            emulator = fit(
                recipe, self.runs, seed=bench.seed(scope), fidelities=self.fidelities, simulator=bench.study.simulator
            )
        for warning in caught:
            if issubclass(warning.category, DoubtWarning):
                bench.terminal.warn(f"{name}: {str(warning.message).split(': ', 1)[1]}")
            else:
                warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
        emulator.save(bench.folder / "emulators" / name)
        told = emulator.provenance.get("privacy")
        self.made[name] = {
            "recipe": {"use": recipe.entry_name(), **recipe.settings()},
            "seconds": watch.seconds,
            "runs": n if told is None else told["runs"],  # how many finished is no part of what is promised
            **({} if told is None else {"privacy": told}),
        }
        bench.journal.append("metrics", scope, metrics={"seconds": watch.seconds, "runs": n})
        if emulator.history:
            self.histories[name] = emulator.history
            histories.training(bench.journal, scope, emulator.history, "training")
        bench.note(f"{name}: {recipe.entry_name()} fitted{_by(emulator)}", watch.seconds)
        if told is not None:
            bench.note(f"{name}: {told['promise']}")
            spent = {k: told[k] for k in ("epsilon", "delta", "noise", "steps") if told[k] is not None}
            bench.journal.append("metrics", scope, metrics={f"privacy.{k}": v for k, v in spent.items()})
            bench.journal.append("tags", scope, tags={"privacy": told["promise"]})


def _by(emulator: Any) -> str:
    """By which runs, and what those held out said of its error bars, where a recipe asks for that."""
    widening = emulator.transform.widening
    return " to all runs" if widening is None else f"; {conformal.words(widening, emulator.provenance['held_out'])}"


def cost(recipe: Any, runs: Runs) -> str:
    """`gp: about 40 s and 1.2 GiB for 3000 runs x 8 components`, of a fit that takes long; else nothing."""
    known = runs.finished()
    n, d = known.theta.shape
    if not n or recipe.cost(n, d, 1) is None:
        return ""
    p = OutputTransform.fit(known.outputs, known.y, log=bool(recipe.log), truncation=recipe.truncation).p
    price = recipe.cost(n, d, p)
    if price.seconds < _LONG:
        return ""
    return f"{recipe.entry_name()}: {price} for {count(n, 'run')} x {count(p, 'component')}"


def _fit_the_best(fits: _Fits, scores: Mapping[str, Scores]) -> None:
    """Of a search: the one that is chosen, the next where it fails, and the baseline; all where none was comparable."""
    study = fits.bench.study
    while (left := {n: s for n, s in scores.items() if n not in fits.failed}) and not fits.made:
        name = comparison.chosen(study, left)[0]
        if not name or name in fits.failed:
            break
        fits.make(name)
    if study.train.baseline and study.train.baseline not in fits.made:
        fits.make(study.train.baseline)
    if not scores:
        for name in study.emulators:
            fits.make(name)


def _complain(bench: Workbench, fits: _Fits) -> None:
    """Nothing that failed is dropped in silence; what the study counts on may not fail."""
    study = bench.study
    for name, error in fits.failed.items():
        bench.terminal.warn(f"{name} was not fitted: {error}")
    named = fits.failed.get(study.train.champion)
    left = [n for n in fits.made if n != study.train.baseline or list(study.emulators) == [n]]
    if left and not named:
        return
    if len(study.emulators) == 1:
        raise next(iter(fits.failed.values()))
    error = named or next((e for n, e in fits.failed.items() if n != study.train.baseline), None)
    if error is None:
        raise InputError("no emulator could be compared on the folds, and none was fitted. Raise design.runs, set "
                         "train.folds: 0, or name other emulators.")  # fmt: skip
    where = f"train.champion: {study.train.champion}" if named else "train: every emulator beside the baseline"
    raise type(error)(f"{where} could not be fitted: {error}")


def _figures(bench: Workbench, scores: Mapping[str, Scores], histories: Mapping[str, Any]) -> None:
    from pipelines import figures

    made = {}
    if scores:
        from pipelines.figures.comparison import folds

        k = max(len(s.folds) for s in scores.values())
        made["folds"] = (folds(scores), f"Emulators on the same {count(k, 'fold')} of the training runs, with standard "
                         "errors over the folds; the log score is told as what is lost to the best.")  # fmt: skip
    if histories:
        made["training"] = (figures.training(histories), "Loss by epoch, on the runs seen and on those left out.")
    bench.figures("train", made)  # none too, lest those of other emulators stay


def _sweep(bench: Workbench, made: Mapping[str, Any]) -> None:
    """Remove emulators that are not of this study or failed now, so that the folder says what the study says."""
    folder = bench.folder / "emulators"
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.is_dir() and path.name not in made and (path / "emulator.json").exists():
            shutil.rmtree(path)
