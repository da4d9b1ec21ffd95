"""Figure of a posterior mean that is held against true runs made there."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from emulate.corrections import Correction
from emulate.space import Space
from pipelines.figures.sheets import COLOURS, GREY, INK, array, legend, name_axes, sheet, symbol

_POSTERIOR, _RUNS, _TRUTH = COLOURS[0], COLOURS[1], COLOURS[2]


def confirmation(space: Space, made: Correction, truth: Any = None) -> Figure:
    """Above, the answer by each true run and by all, in posterior standard deviations from the posterior mean, a row for each
    parameter; below, the mean of the runs less the prediction, output by output, in its standard errors as predicted.

    truth `[d]`, the parameters of the observation where they are known: they may lie anywhere in the posterior.
    """
    d, k = space.d, len(made.each)
    figure, axes = sheet(2, 1, 0.45 * d + 3.4, height_ratios=[0.45 * d + 0.7, 1.6])
    upper, lower = axes[:, 0]
    sd, row = array(made.sd), np.arange(d)
    each, delta, error = (array(x) / sd for x in (made.each, made.delta, made.error))
    upper.axvspan(-1, 1, color=_POSTERIOR, alpha=0.2, linewidth=0)
    upper.axvline(0, color=_POSTERIOR, linewidth=1.2)
    upper.scatter(-each, np.broadcast_to(row, each.shape) + 0.22, s=9, color=_RUNS, alpha=0.6, linewidth=0)
    upper.errorbar(-delta, row, xerr=2 * error, fmt="o", color=INK, markersize=5, elinewidth=1.5, capsize=3)
    if truth is not None:
        upper.scatter((array(truth) - array(made.theta)) / sd, row - 0.22, marker="D", s=22, color=_TRUTH)
    upper.set_yticks(row, [f"${symbol(p)}$" for p in space.parameters])
    upper.set_ylim(d - 0.5, -0.5)
    name_axes(upper, "posterior standard deviations from the posterior mean", "parameter")
    lower.axhspan(-2, 2, color=GREY, alpha=0.2, linewidth=0)
    lower.axhline(0, color=INK, linewidth=0.8)
    scatter = array(made.scatter)
    pull = array(made.residual) / np.where(scatter > 0, scatter, 1.0) * k**0.5
    lower.plot(np.arange(len(pull)), pull, "o", color=_RUNS, markersize=4)
    lower.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    name_axes(lower, "output", f"mean of {k} runs less\nprediction [std. errors]")
    handles = [
        Patch(facecolor=_POSTERIOR, alpha=0.3),
        Line2D([], [], color=_RUNS, marker="o", markersize=4, linestyle="none"),
        Line2D([], [], color=INK, marker="o", markersize=5),
    ]
    labels = ["posterior mean ± sd", "corrected by one true run", f"by all {k}, ± 2 standard errors"]
    if truth is not None:
        handles.append(Line2D([], [], color=_TRUTH, marker="D", markersize=4, linestyle="none"))
        labels.append("truth")
    legend(figure, handles, labels, 2)
    return figure
