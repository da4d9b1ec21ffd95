"""`emulate learning-curve --epsilon`: the error of a private emulator against the budget that it may spend."""

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from emulate.errors import CampaignError, InputError
from emulate.runs import Runs
from pipelines import files
from pipelines.learning import chosen, errors
from pipelines.private_rules import private
from pipelines.terminal import count
from pipelines.workbench import Workbench, one_thread

if TYPE_CHECKING:
    from pipelines.study import Study
    from pipelines.terminal import Terminal

_LEVEL, _SDS = 0.95, 1.959963984540054  # of the interval that is counted, and its half width in standard deviations


@dataclass(frozen=True)
class Fit:
    """One fit at a budget, infinite for the same recipe without privacy: errors of the held-out runs, share covered."""

    epsilon: float
    noise: float
    errors: tuple[float, ...]
    coverage: float

    @property
    def median(self) -> float:
        return float(np.median(self.errors))


def command(study: "Study", terminal: "Terminal", *, budgets: str, name: str = "", fits: int = 4) -> int:
    """Fit the private emulator of the study again at each budget, and without privacy; print, draw and keep the errors."""
    from pipelines.figures import privacy as figures

    wanted = _budgets(budgets)
    one_thread()
    with Workbench(study, terminal) as bench:
        name = chosen(bench, name)
        if name not in private(study):
            raise InputError(f"--epsilon asks for an emulator with privacy. Got {name}, which has none; add privacy to its "
                             "recipe.")  # fmt: skip
        training, held_out = bench.runs_of("training"), bench.runs_of("held_out").finished()
        if len(held_out) < 2:
            raise CampaignError(f"an error must have 2 held-out runs at least. Got {len(held_out)} that finished; raise "
                                "design.held_out, or mend the simulator.")  # fmt: skip
        with terminal.bar(f"{name} at {count(len(wanted), 'budget')}", total=len(wanted) * fits + 1) as tick:
            found = trials(
                study.emulators[name], wanted, fits, training, held_out, seed=bench.seed(f"train/{name}"), progress=tick
            )
    rows = [(_word(e), _noise(mine[0]), str(len(mine)), f"{100 * np.mean([f.median for f in mine]):.3g} %",
             f"{100 * np.mean([f.coverage for f in mine]):.3g} %")
            for e in (*wanted, math.inf) if (mine := [f for f in found if f.epsilon == e])]  # fmt: skip
    terminal.table(f"{study.name}: median error of {name} on {count(len(held_out), 'held-out run')}",
                   ("epsilon", "noise", "fits", "median error", "covered by 95 %"), rows)  # fmt: skip
    said = sentence(study.emulators[name].privacy, found)
    terminal.say(said)
    folder = study.folder / "privacy"
    summary = {
        "emulator": name, "sentence": said,
        "fits": [{"epsilon": None if math.isinf(f.epsilon) else f.epsilon, "noise": f.noise, "median": f.median,
                  "coverage": f.coverage} for f in found]}  # fmt: skip
    files.write_json(folder / "summary.json", summary)
    terminal.give(study=study.name, **summary, paths={"folder": str(folder)})
    caption = f"Utility against epsilon: errors of {name} on held-out runs, refitted at each budget. {said}"
    files.write_figures(folder, {"utility": (figures.utility(found, name), caption)})
    terminal.say(f"Figure and numbers in {folder}; `emulate report --force` puts them on the page.")
    return 0


def trials(recipe: Any, budgets: tuple[float, ...], fits: int, training: Runs, held_out: Runs, *, seed: int,
           progress: Any = None) -> tuple[Fit, ...]:  # fmt: skip
    """So many fits at each budget, with the noise that its steps need, and one of the recipe without privacy."""
    from emulate.emulator import fit

    found = []
    for epsilon in budgets:
        again = replace(recipe, privacy=replace(recipe.privacy, epsilon=epsilon, noise=None))
        for _ in range(fits):
            if progress:
                progress(len(found), len(budgets) * fits + 1)
            emulator = fit(again, training, seed=seed)
            found.append(_judged(emulator, held_out, epsilon, emulator.provenance["privacy"]["noise"]))
    plain = fit(replace(recipe, privacy=None), training, seed=seed)
    return (*found, _judged(plain, held_out, math.inf, 0.0))


def sentence(privacy: Any, found: tuple[Fit, ...]) -> str:
    """What these fits would give away together, for each of them looked at the same runs."""
    from emulate.privacy import Release, epsilon

    noisy = [f for f in found if math.isfinite(f.epsilon)]
    releases = [Release(f.noise, privacy.sampling, privacy.steps) for f in noisy]
    sums = [Release(replace(privacy, epsilon=f.epsilon).beside(2), 1.0, 2) for f in noisy]
    together = epsilon([*releases, *sums], privacy.delta, privacy.accountant)
    return (f"Keep this curve to yourself: one of its fits had no privacy, and the {len(noisy)} others would spend epsilon "
            f"{together:.3g} at delta {privacy.delta:g} together. A budget that is chosen by it was chosen by the "
            "runs.")  # fmt: skip


def _judged(emulator: Any, held_out: Runs, epsilon: float, noise: float) -> Fit:
    y = torch.from_numpy(held_out.y)
    with torch.no_grad():
        p = emulator.predict(torch.from_numpy(held_out.theta))
        inside = (p.mean - y).abs() <= _SDS * p.variance.sqrt()
    return Fit(epsilon, noise, tuple(errors(emulator, held_out).tolist()), float(inside.double().mean()))


def _budgets(text: str) -> tuple[float, ...]:
    try:
        found = sorted({float(part) for part in text.split(",")})
    except ValueError:
        found = []
    if not found or not all(0 < e < math.inf for e in found):
        raise InputError(
            f"--epsilon must be budgets above 0 with commas between them, such as 0.5,1,2,4. Got {text!r}."
        )
    return tuple(found)


def _word(epsilon: float) -> str:
    return "without" if math.isinf(epsilon) else f"{epsilon:g}"


def _noise(fit: Fit) -> str:
    return "" if math.isinf(fit.epsilon) else f"{fit.noise:.3g}"
