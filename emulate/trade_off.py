"""Bias against scatter in one plot: what each way to differentiate gets wrong, and how much it scatters."""

import math
from collections.abc import Sequence
from typing import Any

from emulate.paper import COLOURS, GREY, INK
from emulate.side_by_side import Side

_COLOURS = (*COLOURS, INK)
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")


def draw(ax: Any, sides: Sequence[Side], output: int, parameter: int) -> dict[str, dict[str, Any]]:
    """The sides that did not refuse on the axes of a matplotlib figure; colour, marker and size of each method, for a legend.

    Across, the standard deviation of one replicate; up, the bias; both over the derivative that is known. Lines join one
    method at several settings. An arrow leads down from twice the standard error where no bias is seen. Filled: the interval
    of the method says so; hollow: its bias is unknown to it. What has no scatter, or no bias to rounding, stands on the edge.
    """
    rows: list[dict[str, Any]] = [s.row(output, parameter) | {"of": s} for s in sides if s.made is not None]
    scatter = [r["deviation"] for r in rows if r["deviation"] > 1e-9]
    heights = [_height(r)[0] for r in rows if _height(r)[0] > 1e-9]
    left, low = (10.0 ** math.floor(math.log10(min(v, default=1.0) * 0.5)) for v in (scatter, heights))
    handles: dict[str, dict[str, Any]] = {}
    ax.set_xscale("log")
    ax.set_yscale("log")
    for i, method in enumerate(
        dict.fromkeys(s.method for s in sides)
    ):  # those that refused too: a method looks the same anywhere
        style = {"color": _COLOURS[i % len(_COLOURS)], "marker": _MARKERS[i % len(_MARKERS)], "markersize": 7}
        mine = [r for r in rows if r["of"].method == method]
        spots = [(max(r["deviation"], left), max(_height(r)[0], low)) for r in mine]
        if len(mine) > 1:
            ax.plot(*zip(*spots), color=style["color"], linewidth=1.2, alpha=0.7)
        for r, (x, y) in zip(mine, spots):
            known, unseen = r["of"].verdict != "bias unknown", not _height(r)[1] and y > low
            if unseen:
                ax.annotate(
                    "", (x, y / 2), (x, y), arrowprops={"arrowstyle": "->", "color": style["color"], "alpha": 0.6}
                )
            ax.plot(x, y, **style, linestyle="none", fillstyle="full" if known else "none", clip_on=False,
                    alpha=0.6 if unseen else 1.0)  # fmt: skip
            handles[method] = style
    ax.axvline(left, color=GREY, linewidth=0.8, linestyle=":")
    ax.axhline(low, color=GREY, linewidth=0.8, linestyle=":")
    ax.text(left, 1.0, " no scatter", transform=ax.get_xaxis_transform(), ha="left", va="top", fontsize=8, color=GREY)
    ax.text(1.0, low, "no bias ", transform=ax.get_yaxis_transform(), ha="right", va="bottom", fontsize=8, color=GREY)
    return handles


def _height(row: dict[str, Any]) -> tuple[float, bool]:
    """Where a method stands: its bias where one is seen, else what would have been; and which."""
    bias, error = abs(row["bias"]), row["error"]
    if error > 1e-9:
        return (bias, True) if bias > 2 * error else (2 * error, False)
    return (bias if bias > 1e-9 else 0.0, True)
