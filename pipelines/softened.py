"""What smoothing of the simulator's histograms would do to the answer, if the observation were not smoothed alike."""

import torch
from torch import Tensor

from emulate.contracts import Softening
from emulate.corrections import moved_by
from emulate.emulator import Emulator
from pipelines.workbench import Workbench


def softening(
    bench: Workbench, emulator: Emulator, data: Tensor, theta: Tensor, covariance: Tensor, alike: bool
) -> Softening | None:
    """The shifts about theta `[d]`, with the posterior's covariance `[d, d]` there; None where nothing is smoothed."""
    added_by = getattr(bench.study.simulator, "softening", None)
    if not callable(added_by):
        return None
    with torch.no_grad():
        prediction = emulator.predict(theta)
        added = added_by(prediction.mean)
    if added is None:
        return None
    spread = bench.study.likelihood.covariance(data, prediction).detach()
    moved = moved_by(emulator, theta, covariance, spread, -added[None])[0]
    return Softening((moved / covariance.diagonal().sqrt()).detach(), alike)
