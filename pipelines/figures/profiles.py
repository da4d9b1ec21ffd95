"""Figure of profile likelihoods beside the posterior's marginals: what the data say, and what the prior and volume add."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from emulate.profiles import Profile
from pipelines.figures.densities import Cloud
from pipelines.figures.sheets import COLOURS, INK, array, few_ticks, legend, name_axes, sheet, words

_POSTERIOR, _PROFILE, _TRUTH = COLOURS[0], COLOURS[1], COLOURS[2]


def profiles(found: Mapping[str, Profile], things: Mapping[str, Any], draws: Mapping[str, Any],
             truth: Mapping[str, float] | None = None) -> Figure:  # fmt: skip
    """A panel for each parameter: L_p / L_max against the marginal posterior, both 1 at their highest.

    things: the parameter or derived parameter of each name, for its words; draws `[n]` of the posterior by name. The bars
    below are the confidence intervals, an arrow where one is open.
    """
    columns = min(3, len(found))
    rows = -(-len(found) // columns)
    figure, axes = sheet(rows, columns, 2.4 * rows + 0.4)
    for ax, (name, p) in zip(axes.flat, found.items()):
        value, ratio = array(p.value), np.exp(array(p.log_ratio))
        x = np.linspace(value[0], value[-1], 200)
        drawn = array(draws[name])
        drawn = drawn[np.isfinite(drawn)]
        if (density := Cloud(drawn[:, None]).density((0,), (x,), (p.edges,))) is not None:
            ax.fill_between(x, density / density.max(), color=_POSTERIOR, alpha=0.3, linewidth=0)
            ax.plot(x, density / density.max(), color=_POSTERIOR, linewidth=1.2)
        ax.plot(value, ratio, color=_PROFILE, linewidth=1.5)
        for i, interval in enumerate(p.intervals):
            height = -0.07 * (1 + i)
            ax.plot(
                [interval.low, interval.high], [height, height], color=_PROFILE, linewidth=3 - i, solid_capstyle="butt"
            )
            for end, open_, mark in ((interval.low, interval.low_open, "<"), (interval.high, interval.high_open, ">")):
                if open_:
                    ax.plot([end], [height], marker=mark, color=_PROFILE, markersize=5)
        if truth and np.isfinite(truth.get(name, np.nan)):
            ax.axvline(truth[name], color=_TRUTH, linewidth=1.2, linestyle="-.")
        ax.axhline(0, color=INK, linewidth=0.6)
        ax.set_ylim(-0.07 * (len(p.intervals) + 0.8), 1.08)
        name_axes(ax, words(things[name]), "share of the highest" if ax in axes[:, 0] else "")
        few_ticks(ax, "x", 5)
    for ax in axes.flat[len(found) :]:
        ax.set_visible(False)
    handles = [Line2D([], [], color=_PROFILE, linewidth=1.5), Patch(facecolor=_POSTERIOR, alpha=0.3)]
    labels = ["profile likelihood; bars: its confidence intervals", "marginal posterior"]
    if truth:
        handles.append(Line2D([], [], color=_TRUTH, linestyle="-.", linewidth=1.2))
        labels.append("truth")
    legend(figure, handles, labels, 3)
    return figure
