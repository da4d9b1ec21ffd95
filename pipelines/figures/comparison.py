"""How emulators compare on folds of the training runs."""

import math
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from emulate.comparison import Scores
from pipelines.figures.sheets import COLOURS, GREY, INK, log_axis, name_axes, say, sheet, stretched


def folds(scores: Mapping[str, Scores]) -> Figure:
    """What is lost in log score to the best, fold by fold, median error and error of the gradient, each with its standard
    error, one row per emulator. The note of one that cannot be chosen stands in its row."""
    figure, ((left, middle, right),) = sheet(1, 3, 0.42 * max(len(scores), 2) + 1.3, sharey=True)
    able = [s for s in scores.values() if not s.note]
    best = max(able, key=lambda s: s.log_score[0], default=None)
    none = (math.nan, math.nan)
    behind = [none if s.note else s.behind(best) for s in scores.values()]
    _dots(left, behind, "loss to the best [nats]", 0)
    _dots(middle, [_percent(s.median) for s in scores.values()], "median error [%]", 1)
    _dots(right, [_percent(s.gradient) for s in scores.values()], "gradient error [%]", 2)
    left.set_zorder(2)  # notes run on over the other panels
    left.set_ylabel("emulator", fontsize=10, color=INK)
    left.set_yticks(range(len(scores)), list(scores))
    left.set_ylim(max(len(scores), 1) - 0.5, -0.5)
    for row, s in enumerate(scores.values()):
        if s.note:
            at = {"xycoords": ("axes fraction", "data"), "va": "center", "annotation_clip": False}
            left.annotate(_short(s.note), (0.03, row - 0.25), **at, fontsize=7.5, color=GREY).set_in_layout(False)
    return figure


def _percent(bar: tuple[float, float]) -> tuple[float, float]:
    return 100 * bar[0], 100 * bar[1]


def _short(note: str) -> str:
    return note if len(note) <= 90 else f"{note[:86]} ..."


def _dots(ax: Axes, bars: list[tuple[float, float]], what: str, i: int) -> None:
    name_axes(ax, what, "")
    found = [(row, v, e if math.isfinite(e) else 0.0) for row, (v, e) in enumerate(bars) if math.isfinite(v)]
    if not found:
        say(ax, "no number")
        return
    rows, values, errors = map(np.array, zip(*found, strict=True))
    ax.errorbar(values, rows, xerr=errors, fmt="o", color=COLOURS[i], elinewidth=1.3, capsize=2.5, markersize=5)
    if i and stretched(values):
        log_axis(ax, "x", 4)
    elif not i and len(values) > 2 and values.max() > 100:
        ax.set_xscale("symlog", linthresh=1.0)
    else:
        ax.set_xlim(left=min(0.0, float((values - errors).min())))
