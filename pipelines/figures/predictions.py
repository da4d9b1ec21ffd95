"""Figure of an observation and what the posterior predicts for it."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from emulate.runs import Outputs
from pipelines.figures.sheets import COLOURS, INK, Panel, array, legend, log_axis, panels, sheet, stretched, title

_POSTERIOR, _TRUTH = COLOURS[0], COLOURS[2]


def posterior_prediction(outputs: Outputs, data: Any, sigma: Any, draws_prediction: Any, truth: Any = None) -> Figure:
    """The observation with its error bars and the posterior's prediction, above; the residual in sigmas, below.

    data and sigma `[m]`, draws_prediction `[t, m]`, truth `[m]`: the noise-free output where it is known.
    """
    data, sigma, drawn = array(data), array(sigma), array(draws_prediction)
    truth = None if truth is None else array(truth)
    parts = panels(outputs)
    ratios = [r for p in parts for r in ((2.2, 1.1) if p.along or len(parts) == 1 == len(p.fields) else (1.8,))]
    figure, axes = sheet(len(ratios), 1, 1.15 * sum(ratios) + 0.5, height_ratios=ratios)
    free = iter(axes[:, 0])
    for part in parts:
        c = part.columns
        case = (data[c], sigma[c], np.quantile(drawn[:, c], [0.025, 0.16, 0.5, 0.84, 0.975], axis=0))
        if part.along or len(parts) == 1 == len(part.fields):
            upper = next(free)
            _prediction(upper, part, *case, None if truth is None else truth[c])
            upper.set_xlabel("")
            upper.tick_params(axis="x", labelbottom=False)
            title(upper, part.name if len(parts) > 1 else "")
        _residual(next(free), part, *case, None if truth is None else truth[c])
    handles = [
        Line2D([], [], color=INK, marker="o", markersize=4, linestyle="none"),
        Patch(facecolor=_POSTERIOR, alpha=0.5),
    ]
    labels = [r"observation $\pm\,1\sigma$", "prediction (68, 95 % of posterior draws)"]
    if truth is not None:
        handles.append(Line2D([], [], color=_TRUTH, linestyle="-.", linewidth=1.4))
        labels.append("truth")
    legend(figure, handles, labels, 3)
    return figure


def _prediction(ax, part: Panel, data, sigma, q, truth) -> None:
    _band(ax, part, q)
    ax.errorbar(part.x, data, sigma, fmt="o", color=INK, markersize=3.5, elinewidth=1, zorder=3)
    if truth is not None:
        _truth(ax, part, truth)
    part.dress(ax, part.value)
    if part.positive and stretched(np.concatenate([data, q[2]])) and (data > sigma).all():
        log_axis(ax, "y", 6)


def _residual(ax, part: Panel, data, sigma, q, truth) -> None:
    unit = np.where(sigma > 0, sigma, 1.0)
    _band(ax, part, (q - data) / unit)
    ax.errorbar(part.x, np.zeros_like(data), np.ones_like(data), fmt="o", color=INK, markersize=3,
                elinewidth=0.8, zorder=3)  # fmt: skip
    if truth is not None:
        _truth(ax, part, (truth - data) / unit)
    part.dress(ax, r"residual [$\sigma$]")


def _truth(ax, part: Panel, values) -> None:
    joined = part.along and len(part.x) > 1
    ax.plot(part.x, values, color=_TRUTH, linewidth=1.4, linestyle="-." if joined else "none",
            marker="" if joined else "D", markersize=4)  # fmt: skip


def _band(ax, part: Panel, q) -> None:
    if part.along and len(part.x) > 1:
        ax.fill_between(part.x, q[0], q[4], color=_POSTERIOR, alpha=0.25, linewidth=0)
        ax.fill_between(part.x, q[1], q[3], color=_POSTERIOR, alpha=0.45, linewidth=0)
        ax.plot(part.x, q[2], color=_POSTERIOR, linewidth=1.2)
    else:
        ax.vlines(part.x, q[0], q[4], color=_POSTERIOR, linewidth=5, alpha=0.3)
        ax.vlines(part.x, q[1], q[3], color=_POSTERIOR, linewidth=9, alpha=0.45)
