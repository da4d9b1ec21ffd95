"""After a campaign: where its runs fail, and what they took as a function of their parameters."""

import shutil
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from emulate.feasibility import Feasibility
from emulate.runs import Runs
from pipelines.costs import CostModel
from pipelines.workbench import Workbench

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FEASIBILITY = "simulate/feasibility"  # folder of the classifier, there when at least one run failed and one finished
_FEW = 5  # runs with known seconds, below which there is no law to draw


def figures(bench: Workbench, runs: Runs, alike: Runs) -> dict[str, tuple["Figure", str]]:
    """Figures with captions for the simulate stage. `runs` are all of the campaign, `alike` those of one product, for a
    run with its Jacobian takes longer. Writes the classifier of failures, and says where runs fail."""
    return {**_feasibility(bench, runs), **({} if bench.study.recorded else _costs(bench, alike))}


def restriction(bench: Workbench) -> Callable[[Tensor], Tensor] | None:
    """ln P(a run finishes) as a factor of the prior, where the study asks for it and a run has failed."""
    folder = bench.folder / FEASIBILITY
    return Feasibility.load(folder).log_prob if bench.study.infer.feasible and folder.exists() else None


def _feasibility(bench: Workbench, runs: Runs) -> dict[str, tuple["Figure", str]]:
    folder = bench.folder / FEASIBILITY
    if runs.ok.all():
        shutil.rmtree(folder, ignore_errors=True)  # of a campaign whose failures have been mended
        return {}
    from pipelines.figures import campaigns

    where = Feasibility.fit(runs, seed=bench.seed("feasibility"))
    bench.note(said := where.sentence())
    if where.classifier is None:
        shutil.rmtree(folder, ignore_errors=True)
        return {}
    where.save(folder)
    return {"feasibility": (campaigns.feasibility(where, runs), f"Where the simulator runs. {said}")}


def _costs(bench: Workbench, runs: Runs) -> dict[str, tuple["Figure", str]]:
    known = np.isfinite(runs.seconds)
    if known.sum() < _FEW:
        return {}
    from pipelines.figures import campaigns

    theta, seconds = runs.theta[known], runs.seconds[known]
    model = CostModel.fit(runs.space, theta, seconds)
    hours = float(seconds.sum()) * bench.study.simulate.threads / 3600
    caption = f"What runs cost. {model.sentence()} These {len(seconds)} runs took {hours:.2g} core-hours."
    return {"costs": (campaigns.costs(theta, seconds, model), caption)}
