"""Figure of a Taylor test: what is left of f when the linear model is taken away, against the step."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from emulate.remainders import Ladder, Remainders
from pipelines.figures.sheets import COLOURS, GREY, INK, MARKERS, legend, name_axes, sheet

_SHOWN = 4  # points drawn


def remainders(found: Sequence[Remainders]) -> Figure:
    """At each point the output whose remainder falls at the least order, over its remainder at the longest step, or the
    largest where there is none; filled where it stands above rounding, beside lines of first and second order."""
    h, shown = Ladder.far.numpy(), found[:_SHOWN]
    figure, axes = sheet(1, 1, 3.6, width=6.4)
    (ax,) = axes.flat
    ax.set_xscale("log")
    ax.set_yscale("log")
    for i, r in enumerate(shown):
        j = int(np.argmin(np.nan_to_num(r.order.numpy(), nan=-np.inf)))
        rest, clean = r.rest[:, j].numpy(), r.clean[:, j].numpy()
        whole = rest[0] or rest.max() or 1.0  # of a linear map nothing may be left at the longest step, or at any
        rest = np.where(rest > 0, rest, np.nan) / whole
        style = {"color": COLOURS[i], "marker": MARKERS[i], "markersize": 5, "linestyle": "none"}
        ax.plot(h[clean], rest[clean], **style)
        ax.plot(h[~clean], rest[~clean], fillstyle="none", **style)
    for order, line in ((1, ":"), (2, "--")):
        ax.plot(h, (h / h[0]) ** order, color=GREY, linestyle=line, linewidth=1, zorder=0)
    name_axes(ax, "step h, as a share of v", "remainder, relative")
    handles = [Line2D([], [], color=COLOURS[i], marker=MARKERS[i], linestyle="none") for i in range(len(shown))]
    handles += [Line2D([], [], color=GREY, linestyle=line) for line in (":", "--")]
    handles += [Line2D([], [], color=INK, marker="o", fillstyle="none", linestyle="none")]
    names = [f"point {i}" for i in range(len(shown))]
    legend(figure, handles, [*names, "h: a wrong derivative", "h squared: a right one", "within rounding"])
    return figure
