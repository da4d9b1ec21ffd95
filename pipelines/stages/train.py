"""train: finished runs -> one fitted emulator per recipe of the study."""

import shutil

from emulate.runs import Runs
from pipelines import files
from pipelines.terminal import Stopwatch, count
from pipelines.workbench import Workbench

SENTENCE = "fit the emulators"
READS = ("design", "simulate")
WRITES = ("emulators", "train/summary.json")


def run(bench: Workbench) -> str:
    from emulate.emulator import fit
    from pipelines import figures

    study = bench.study
    runs: Runs = bench.runs(bench.points("training"))
    summary, histories = {}, {}
    for name, recipe in study.emulators.items():
        scope, watch = f"train/{name}", Stopwatch()
        bench.journal.append("scope_start", scope)
        with bench.terminal.bar(f"train {name}"):
            emulator = fit(recipe, runs, seed=bench.seed(scope))
        emulator.save(bench.folder / "emulators" / name)
        summary[name] = {
            "recipe": {"use": recipe.entry_name(), **recipe.settings()},
            "seconds": watch.seconds,
            "runs": int(runs.ok.sum()),
        }
        bench.journal.append("params", scope, params={"emulator": recipe.entry_name(), **recipe.settings()})
        bench.journal.append("metrics", scope, metrics={"seconds": watch.seconds, "runs": int(runs.ok.sum())})
        if emulator.history:
            histories[name] = emulator.history
            for key in emulator.history[0]:
                bench.journal.append("series", scope, name=key, values=[epoch[key] for epoch in emulator.history])
        bench.journal.append("scope_end", scope, status="done")
        bench.note(f"{name}: {recipe.entry_name()} fitted", watch.seconds)
    _sweep(bench)
    files.write_json(bench.folder / "train" / "summary.json", {"emulators": summary})
    if histories:
        bench.figures(
            "train",
            {"training": (figures.training(histories), "Loss by epoch, on the runs seen and on those left out.")},
        )
    return f"{count(len(summary), 'emulator')} from {count(int(runs.ok.sum()), 'run')}"


def _sweep(bench: Workbench) -> None:
    """Remove emulators that the study no longer names, so that the folder says what the study says."""
    for path in (bench.folder / "emulators").iterdir():
        if path.is_dir() and path.name not in bench.study.emulators and (path / "emulator.json").exists():
            shutil.rmtree(path)
