"""Figures: pure functions from records of the library to a matplotlib `Figure`; nothing is shown, nothing is saved.

By subject: `runs.py` (design, outputs), `emulators.py` (accuracy, calibration, training, scores), `gradients.py`
(gradient), `posteriors.py` (corner, recovery), `predictions.py` (posterior_prediction); `sheets.py` the paper.
Smallest one to imitate: `training` in `emulators.py`. Tests: `tests/pipelines/test_figures.py`.
Matplotlib is imported with this package, so import it where a figure is drawn, not at the top of a module.
"""

from pipelines.figures.emulators import accuracy, calibration, scores, training
from pipelines.figures.gradients import gradient
from pipelines.figures.posteriors import corner, recovery
from pipelines.figures.predictions import posterior_prediction
from pipelines.figures.runs import design, outputs

__all__ = ["accuracy", "calibration", "corner", "design", "gradient", "outputs", "posterior_prediction", "recovery",
           "scores", "training"]  # fmt: skip
