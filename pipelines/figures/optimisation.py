"""Figure of an optimum: the objective along each parameter through it."""

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


def _short(text: str) -> str:
    return text if len(text) <= 30 else f"{text[:28]} ..."
