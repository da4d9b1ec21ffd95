"""Figure of what privacy costs: errors of held-out runs against the budget."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from pipelines.figures.sheets import COLOURS, INK, legend, log_axis, name_axes, sheet, title


def utility(fits: Sequence[Any], name: str) -> Figure:
    """The median and the middle half of the errors at each epsilon, every fit, and the same recipe without privacy."""
    figure, axes = sheet(1, 1, 3.4)
    ax = axes[0, 0]
    noisy = [f for f in fits if np.isfinite(f.epsilon)]
    plain = [f for f in fits if not np.isfinite(f.epsilon)]
    budgets = sorted({f.epsilon for f in noisy})
    each = [np.concatenate([np.asarray(f.errors) for f in noisy if f.epsilon == e]) for e in budgets]
    low, middle, high = (np.array([100 * np.quantile(x, q) for x in each]) for q in (0.25, 0.5, 0.75))
    ax.fill_between(budgets, low, high, color=COLOURS[0], alpha=0.15, linewidth=0, label="middle half of the runs")
    ax.plot(budgets, middle, color=COLOURS[0], linewidth=1.8, label="median error")
    ax.scatter([f.epsilon for f in noisy], [100 * f.median for f in noisy], s=22, color=INK, zorder=3, linewidths=0,
               label="one fit")  # fmt: skip
    for f in plain:
        ax.axhline(100 * f.median, color=COLOURS[1], linewidth=1.2, label="without privacy")
    name_axes(ax, "epsilon: less is more private", "error of a held-out run [%]")
    title(ax, name)
    log_axis(ax, "x")
    log_axis(ax, "y")
    legend(figure, *ax.get_legend_handles_labels(), columns=4)
    return figure
