"""Figures of a campaign: where the simulator was asked, and what it answered."""

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from emulate.runs import Runs
from emulate.space import LOGARITHMIC
from pipelines.figures.sheets import (
    COLOURS,
    INK,
    SCALE,
    WIDTH,
    left_out,
    legend,
    log_axis,
    name_axes,
    panels,
    parameter_axis,
    say,
    sheet,
    stretched,
    words,
)

_KINDS = {  # name: marker, colour, face, size
    "training": ("o", COLOURS[0], COLOURS[0], 12),
    "held out": ("s", COLOURS[4], "none", 20),
    "failed": ("x", COLOURS[1], COLOURS[1], 34),
}


def design(training: Runs, held_out: Runs) -> Figure:
    """The points of the design, every pair of parameters; a failed run is crossed out."""
    space = training.space
    theta = {"training": training.finished().theta, "held out": held_out.finished().theta,
             "failed": np.concatenate([training.failed().theta, held_out.failed().theta])}  # fmt: skip
    shown = {kind: points for kind, points in theta.items() if len(points)}
    side = max(1, space.d - 1)
    if space.d == 1:
        figure, axes = sheet(1, 1, 1.8)
        axes[0, 0].set_yticks(range(len(shown)), list(shown))
        axes[0, 0].set_ylim(-0.6, max(len(shown), 1) - 0.4)
        name_axes(axes[0, 0], words(space.parameters[0]), "set of runs")
        parameter_axis(axes[0, 0], space.parameters[0], "x")
    else:
        width = max(WIDTH, 1.4 * side)
        height = min(width, max(4.0, 2.3 * side)) + 0.3
        figure, axes = sheet(side, side, height, width=width, sharex="col", sharey="row")
    for row in range(side):
        for column in range(side):
            ax = axes[row, column]
            if column > row:
                ax.set_visible(False)
                continue
            for level, (kind, points) in enumerate(shown.items()):
                marker, colour, face, size = _KINDS[kind]
                y = points[:, row + 1] if space.d > 1 else np.full(len(points), level)
                style = {"c": colour} if marker == "x" else {"edgecolors": colour, "facecolors": face}
                ax.scatter(points[:, column], y, s=size, marker=marker, linewidths=1.2, label=kind, **style)
            if space.d > 1:
                x, y = space.parameters[column], space.parameters[row + 1]
                name_axes(ax, words(x) if row == side - 1 else "", words(y) if column == 0 else "")
                parameter_axis(ax, x, "x", 5 if side < 4 else 3)  # narrow panels have room for no more
                parameter_axis(ax, y, "y")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    if labels:
        legend(figure, handles, [f"{k} ({len(shown[k])})" for k in labels])
    return figure


def outputs(runs: Runs) -> Figure:
    """The output of every finished run along its coordinate, coloured by the first parameter."""
    finished = runs.finished()
    parts = panels(runs.outputs)
    first = runs.space.parameters[0]
    strips = sum(len(p.columns) for p in parts if not p.along)
    curves = sum(p.along for p in parts)
    ratios = [2.9] * curves + [0.95 if curves + strips > 1 else 1.8] * strips
    figure, axes = sheet(len(ratios), 1, sum(ratios) + 0.5, height_ratios=ratios)
    figure.suptitle(f"{len(finished)} of {len(runs)} runs finished, {len(runs) - len(finished)} failed"
                    + left_out(runs.outputs), fontsize=11, color=INK)  # fmt: skip
    hue = finished.theta[:, 0] if len(finished) else np.array([0.0, 1.0])
    norm = LogNorm if isinstance(first.prior, LOGARITHMIC) and len(finished) else Normalize
    colours = ScalarMappable(norm(hue.min(), hue.max()), SCALE)
    rows = iter(axes[:, 0])
    for part in parts:
        y = finished.y[:, part.columns]
        if part.along:
            _curves(next(rows), part, y, colours.to_rgba(hue))
        else:
            for f, values in zip(part.fields, y.T, strict=True):
                _strip(next(rows), f, values, colours.to_rgba(hue))
    if len(finished):
        bar = figure.colorbar(colours, ax=axes.ravel().tolist(), aspect=30, pad=0.02)
        bar.set_label(words(first), fontsize=10, color=INK)
        bar.ax.tick_params(labelsize=9)
        bar.outline.set_visible(False)
    return figure


def _curves(ax, part, y, colours) -> None:
    if not len(y):
        part.dress(ax, part.value)
        return say(ax, "no run finished")
    lines = [np.column_stack([part.x, v]) for v in y]
    faint = float(np.clip(40 / len(y), 0.25, 0.9))
    ax.add_collection(LineCollection(lines, colors=colours, linewidths=1.0, alpha=faint))
    if part.marker:
        ax.scatter(np.tile(part.x, len(y)), y.ravel(), s=10, c=np.repeat(colours, len(part.x), axis=0))
    ax.autoscale_view()
    part.dress(ax, part.value)
    if part.positive and stretched(y.ravel()):
        log_axis(ax, "y")
    return None


def _strip(ax, f, values, colours) -> None:
    """One dot per run; the height only keeps dots apart (steps of the golden ratio, the same at every drawing)."""
    ax.scatter(values, (np.arange(len(values)) * 0.618034) % 1, s=14, c=colours[: len(values)], linewidths=0)
    ax.set_ylim(-0.3, 1.3)
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)
    name_axes(ax, words(f), "")
    if f.positive and stretched(values):
        log_axis(ax, "x")
    if not len(values):
        say(ax, "no run finished")
