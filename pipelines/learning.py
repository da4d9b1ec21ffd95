"""`emulate learning-curve`: refit the emulator that is used to parts of the training runs, and say what more would buy."""

from typing import TYPE_CHECKING

import numpy as np
import torch

from emulate.errors import CampaignError, InputError, nearest
from emulate.learning_curve import LearningCurve, trials
from emulate.runs import Runs
from pipelines import files
from pipelines.terminal import count
from pipelines.workbench import Workbench, one_thread

if TYPE_CHECKING:
    from emulate.emulator import Emulator
    from pipelines.study import Study
    from pipelines.terminal import Terminal


def command(study: "Study", terminal: "Terminal", *, target: float, name: str = "", parts: int = 4) -> int:
    """Print, draw and keep the learning curve of an emulator of the study; only files of simulate are read."""
    from pipelines.figures import campaigns

    if not 0 < target < float("inf"):
        raise InputError(f"--target must be an error above 0, 0.01 for 1 %. Got {target}.")
    one_thread()
    with Workbench(study, terminal) as bench:
        name = chosen(bench, name)
        training, held_out = map(bench.runs_of, ("training", "held_out"))
        held_out = held_out.finished()
        if len(held_out) < 2:
            raise CampaignError(f"a learning curve must have 2 held-out runs at least. Got {len(held_out)} that finished;"
                                " raise design.held_out, or mend the simulator.")  # fmt: skip
        recipe, seed = study.emulators[name], bench.seed(f"train/{name}")
        with terminal.bar(f"learning curve of {name}", total=1) as tick:
            found = trials(recipe, training, lambda e: errors(e, held_out), seed=seed, most=parts, progress=tick)
    curve = LearningCurve.of(found, seed=seed)
    sizes = sorted({t.runs for t in found})
    rows, missing = [], "needs more rows" if study.recorded else "to be run"
    for n in (*sizes, 2 * sizes[-1], 4 * sizes[-1]):
        mine = [t.median for t in found if t.runs == n]
        low, middle, high = (f"{100 * float(x):.3g} %" for x in curve.error(n))
        measured = f"{100 * np.mean(mine):.3g} %" if mine else missing
        rows.append((str(n), measured, str(len(mine) or ""), middle, f"{low} to {high}"))
    terminal.table(f"{study.name}: median error of {name} on {count(len(held_out), 'held-out run')}",
                   ("training runs", "measured", "fits", "law", "90 %"), rows)  # fmt: skip
    terminal.say(said := curve.sentence(target))
    folder = study.folder / "learning_curve"
    summary = {
        "emulator": name, "sentence": said, "answer": vars(curve.answer(target)),
        "exponent": {q: float(np.quantile(curve.b, x)) for q, x in (("low", 0.05), ("middle", 0.5), ("high", 0.95))},
        "fits": [{"runs": t.runs, "median": t.median, "errors": list(t.errors)} for t in found]}  # fmt: skip
    files.write_json(folder / "summary.json", summary)
    terminal.give(study=study.name, **summary, paths={"folder": str(folder)})
    caption = f"Learning curve: errors of {name} fitted to parts of the runs, and what more would buy. {said}"
    files.write_figures(folder, {"learning_curve": (campaigns.learning_curve(curve, target, name), caption)})
    terminal.say(f"Figure and numbers in {folder}; `emulate report --force` puts them on the page.")
    return 0


def errors(emulator: "Emulator", held_out: Runs) -> np.ndarray:
    """The largest error of each held-out run `[h]`: of its value for positive outputs, of the standard deviation over
    the held-out runs for others; what the accuracy check bounds."""
    with torch.no_grad():
        mean = emulator.predict(torch.from_numpy(held_out.theta)).mean.numpy()
    y = held_out.y
    spread = np.sqrt([y.var(0, ddof=1)[part].mean() for part in held_out.outputs.slices.values()])
    spread = np.repeat(spread, [f.size for f in held_out.outputs.fields])
    scale = np.where(held_out.outputs.positive, np.abs(y), spread)
    tiny = np.finfo(float).tiny
    return np.maximum(np.abs(mean - y) / np.maximum(scale, tiny), 1e-15).max(1)


def chosen(bench: Workbench, name: str) -> str:
    """The emulator asked for, else the champion, else the first that is not the baseline."""
    known = bench.study.emulators
    if name and name not in known:
        raise InputError(f"--emulator must be one of {', '.join(known)}. Got {name!r}.{nearest(name, known)}")
    if name:
        return name
    if (bench.folder / "validate" / "champion.json").exists() and bench.champion in known:
        return bench.champion
    return next((n for n in known if n != bench.study.train.baseline), next(iter(known)))
