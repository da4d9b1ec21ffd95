"""Figures of an optimum: the objective along each parameter through it, and on the way to it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from emulate.optimisation import Optimum
from emulate.space import Space
from pipelines.figures.sheets import COLOURS, GREY, INK, array, legend, name_axes, parameter_axis, sheet, words

_EMULATOR, _TRUE, _BEST = COLOURS[0], COLOURS[1], COLOURS[2]


def cuts(space: Space, objective: str, curves: Mapping[str, tuple[np.ndarray, ...]], found: Optimum,
         runs: tuple[Any, Any] | None = None) -> Figure:  # fmt: skip
    """A panel for each parameter, the others at the optimum. curves: values, mean, sd and whether constraints are met,
    each `[n]`, by parameter; runs: theta `[r, d]` and their objective `[r]`, which lie beside the cut, not on it."""
    columns = min(3, space.d)
    rows = -(-space.d // columns)
    figure, axes = sheet(rows, columns, 2.5 * rows + 0.4, sharey=True)
    shown = []
    for i, (ax, parameter) in enumerate(zip(axes.flat, space.parameters)):
        x, mean, sd, met = curves[parameter.name]
        ax.fill_between(x, mean - 2 * sd, mean + 2 * sd, color=_EMULATOR, alpha=0.25, linewidth=0)
        ax.plot(x, mean, color=_EMULATOR, linewidth=1.5)
        shown += [*(mean - 2 * sd), *(mean + 2 * sd)]
        if not met.all():
            ax.fill_between(x, 0, 1, where=~met, transform=ax.get_xaxis_transform(), color=GREY, alpha=0.2, linewidth=0)
        if runs is not None:
            ax.plot(array(runs[0])[:, i], array(runs[1]), ".", color=INK, markersize=3, alpha=0.5)
        ax.axvline(float(found.theta[i]), color=_BEST, linewidth=1.2, linestyle="-.")
        if found.confirmed:
            error = np.nan_to_num(found.confirmed.error)
            ax.errorbar(
                [float(found.theta[i])], [found.confirmed.value], [2 * error], fmt="D", color=_TRUE, markersize=5
            )
            shown.append(found.confirmed.value)
        name_axes(ax, words(parameter), _short(objective) if ax in axes[:, 0] else "")
        parameter_axis(ax, parameter, "x")
    ends = np.array(shown)[np.isfinite(shown)]
    if len(ends):
        margin = 0.08 * (np.ptp(ends) or abs(ends[0]) or 1.0)
        axes.flat[0].set_ylim(ends.min() - margin, ends.max() + margin)
    for ax in axes.flat[space.d :]:
        ax.set_visible(False)
    handles = [
        Line2D([], [], color=_EMULATOR, linewidth=1.5),
        Line2D([], [], color=_BEST, linestyle="-.", linewidth=1.2),
    ]
    labels = ["by the emulator, ± 2 sd", "optimum"]
    if runs is not None:
        handles.append(Line2D([], [], color=INK, marker=".", linestyle="none"))
        labels.append("training runs, anywhere in the box")
    if found.confirmed:
        handles.append(Line2D([], [], color=_TRUE, marker="D", linestyle="none"))
        labels.append("true runs there")
    if found.constraints:
        handles.append(Patch(facecolor=GREY, alpha=0.2))
        labels.append("a constraint is broken")
    legend(figure, handles, labels, 3)
    return figure


def search(objective: str, found: Optimum) -> Figure:
    """The objective at every step, a line for each start; the one that ended best is drawn over the others."""
    figure, axes = sheet(1, 1, 3.4, width=6.4)
    (ax,) = axes.flat
    history = array(found.history)
    step = np.arange(1, len(history) + 1)
    ax.plot(step, history[:, 1:], color=GREY, linewidth=0.8, alpha=0.8)
    ax.plot(step, history[:, 0], color=_EMULATOR, linewidth=1.8)
    handles = [Line2D([], [], color=_EMULATOR, linewidth=1.8), Line2D([], [], color=GREY, linewidth=0.8)]
    labels = ["the start that ended best", "other starts"]
    if true := found.confirmed:
        ax.errorbar([len(history)], [true.value], [2 * np.nan_to_num(true.error)], fmt="D", color=_TRUE, markersize=5)
        ax.axhline(true.reference, color=INK, linewidth=1, linestyle=":")
        handles += [Line2D([], [], color=_TRUE, marker="D", linestyle="none"), Line2D([], [], color=INK, linestyle=":")]
        labels += ["true runs at the optimum", "true runs at the reference"]
    ax.xaxis.get_major_locator().set_params(integer=True)
    name_axes(ax, "step", _short(objective))
    legend(figure, handles, labels, 2)
    return figure


def _short(text: str) -> str:
    return text if len(text) <= 30 else f"{text[:28]} ..."
