"""Figures: pure functions from records of the library to a matplotlib `Figure`; nothing is shown, nothing is saved.

By subject: `runs.py` (design, outputs), `emulators.py` (accuracy, calibration, training, scores), `gradients.py`
(gradient), `posteriors.py` (corner, recovery), `confirmations.py` (confirmation), `recoveries.py` (ranks),
`replicas.py` (replicas), `predictions.py` (posterior_prediction), `uncertainty.py` (pit_histogram, coverage_map,
crps_by_emulator, and calibrated: all three with captions); `sheets.py` the paper.
Smallest one to imitate: `training` in `emulators.py`. Tests: `tests/pipelines/test_figures.py`.
Matplotlib is imported with this package, so import it where a figure is drawn, not at the top of a module.
"""

from pipelines.figures.confirmations import confirmation
from pipelines.figures.emulators import accuracy, calibration, scores, training
from pipelines.figures.gradients import gradient
from pipelines.figures.posteriors import corner, recovery
from pipelines.figures.predictions import posterior_prediction
from pipelines.figures.recoveries import ranks
from pipelines.figures.replicas import replicas
from pipelines.figures.runs import design, outputs
from pipelines.figures.uncertainty import calibrated, coverage_map, crps_by_emulator, pit_histogram

__all__ = ["accuracy", "calibrated", "calibration", "confirmation", "corner", "coverage_map", "crps_by_emulator",
           "design", "gradient", "outputs", "pit_histogram", "posterior_prediction", "ranks", "recovery", "replicas",
           "scores", "training"]  # fmt: skip
