"""Figure of what a whole chain promises: ranks of truths among draws, and expected coverage, with bands of what chance gives."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from emulate import uniformity
from emulate.contracts import Recovery
from emulate.ranks import Ranks
from emulate.space import Space
from pipelines.figures.sheets import COLOURS, DASHES, GREY, INK, legend, name_axes, say, sheet, symbol

_T = np.linspace(0, 1, 401)


def ranks(recovery: Recovery, space: Space, confidence: float = 0.95) -> Figure:
    """Left, how many truths lie below a share of the draws, less what a calibrated chain gives, a line for each parameter
    (Sailynoja, Buerkner and Vehtari 2022); right, how many truths regions of each level hold, by density and by distance
    from random points. Each line stays in the grey band as a whole in `confidence` of the sets of a calibrated chain."""
    figure, axes = sheet(1, 2, 3.6)
    left, right = axes[0]
    known, q = Ranks(recovery), len(recovery.rank)
    name_axes(left, "rank of the truth among the draws", "share of truths below, less rank")
    name_axes(right, "level of the region", "share of truths inside")
    if not (q and known.sane):
        for ax in (left, right):
            say(ax, "no finite draws")
        return figure
    low, high = uniformity.bands(q, confidence, _T)
    left.fill_between(_T, low - _T, high - _T, color=GREY, alpha=0.18, linewidth=0)
    left.axhline(0, color=INK, linewidth=0.8)
    handles, labels = [Patch(color=GREY, alpha=0.3)], [f"{confidence:.0%} of calibrated chains"]
    for i, parameter in enumerate(space.parameters):
        style = {
            "color": COLOURS[i % len(COLOURS)],
            "linestyle": DASHES[i // len(COLOURS) % len(DASHES)],
            "linewidth": 1.4,
        }
        left.plot(_T, _below(known.parameters[:, i]) - _T, **style)
        handles.append(Line2D([], [], **style))
        labels.append(f"${symbol(parameter)}$")
    right.fill_between(_T, low, high, color=GREY, alpha=0.18, linewidth=0)
    right.plot([0, 1], [0, 1], color=INK, linewidth=0.8)
    for u, style, said in (
        (known.density, "-", "by density"),
        (known.distances(), (0, (4, 1.5)), "by distance (TARP)"),
    ):
        right.plot(_T, _below(u), color=INK, linestyle=style, linewidth=1.6)
        handles.append(Line2D([], [], color=INK, linestyle=style, linewidth=1.6))
        labels.append(said)
    right.set_xlim(0, 1)
    right.set_ylim(0, 1)
    left.set_xlim(0, 1)
    legend(figure, handles, labels, 4)
    return figure


def _below(u: np.ndarray) -> np.ndarray:
    return np.searchsorted(np.sort(u), _T, "right") / len(u)
