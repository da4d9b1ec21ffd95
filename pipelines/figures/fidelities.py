"""Figure of what other fidelities of a simulator are worth: their outputs beside the study's own at the same points."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from pipelines.figures.sheets import (
    COLOURS,
    DASHES,
    GREY,
    INK,
    MARKERS,
    left_out,
    legend,
    log_axis,
    panels,
    sheet,
    title,
)

if TYPE_CHECKING:
    from pipelines.fidelities import Agreement


_LEAST = 1e-9  # of 1 - correlation, less is rounding


def fidelities(met: Mapping[str, "Agreement"]) -> Figure:
    """Own output over a fidelity's (median, 5 to 95 % of the points) and how far their correlation is from 1, along
    each field's coordinate; outputs that may be negative by their difference in standard deviations."""
    outputs = next(iter(met.values())).outputs
    shown = [p for p in panels(outputs) if any(np.isin(a.columns, p.columns).any() for a in met.values())]
    figure, axes = sheet(len(shown), 2, 2.6 * len(shown) + 0.6, sharex="row")
    figure.suptitle(left_out(outputs).strip(" ()"), fontsize=11, color=INK)
    for (left, right), part in zip(axes, shown, strict=True):
        for i, (name, a) in enumerate(met.items()):
            own = np.flatnonzero(np.isin(a.columns, part.columns))
            if not len(own):
                continue
            x = part.x[np.searchsorted(part.columns, a.columns[own])]
            if not part.along:  # side by side
                x = x + 0.12 * (i - (len(met) - 1) / 2)
            style = {"color": COLOURS[i % len(COLOURS)], "linewidth": 1.6,
                     "linestyle": DASHES[i % len(DASHES)] if part.along else "none",
                     "marker": MARKERS[i % len(MARKERS)] if part.marker else "", "markersize": 4}  # fmt: skip
            low, middle, high = a.middle[:, own]
            if part.along:
                left.fill_between(x, low, high, color=style["color"], alpha=0.18, linewidth=0)
            else:
                left.vlines(x, low, high, color=style["color"], alpha=0.4, linewidth=4)
            left.plot(x, middle, label=f"{name} ({len(a.own)} points)", **style)
            right.plot(x, np.maximum(1 - a.correlation[own], _LEAST), **style)
        left.axhline(1.0 if part.positive else 0.0, color=GREY, linewidth=0.9)
        left.margins(x=0.05)
        log_axis(right, "y")
        part.dress(left, "own / fidelity" if part.positive else "(own - fidelity) / sd")
        part.dress(right, "1 - correlation")
        title(left, part.name if part.along else "")
    entries = {
        label: handle for ax in axes[::-1, 0] for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    legend(figure, list(entries.values()), list(entries))
    return figure
