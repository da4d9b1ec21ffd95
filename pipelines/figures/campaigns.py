"""Figures of a campaign's price and promise: seconds by parameter, where runs fail, error against number of runs."""

from typing import Any

import numpy as np
import torch
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from emulate.feasibility import Feasibility
from emulate.learning_curve import LearningCurve
from emulate.runs import Runs
from pipelines.costs import CostModel
from pipelines.figures.sheets import (
    COLOURS,
    GREY,
    INK,
    WIDTH,
    legend,
    log_axis,
    name_axes,
    parameter_axis,
    say,
    sheet,
    title,
    words,
)

_GRID, _OTHERS = 24, 8  # cells per axis of a map; points over which the parameters that it does not show are averaged
_PAIRS = 5  # parameters that are paired; with more, those that matter most
_SHARES = LinearSegmentedColormap.from_list("shares", ["#D55E00", "#f4c9a8", "#ffffff"])  # P(finishes) from 0 to 1


def costs(theta: np.ndarray, seconds: np.ndarray, model: CostModel) -> Figure:
    """Seconds of every run against each parameter, and what the fit expects with the others in the middle."""
    space = model.space
    columns = min(3, space.d)
    rows = -(-space.d // columns)
    figure, axes = sheet(rows, columns, 2.4 * rows + 0.5, width=max(WIDTH, 2.3 * columns), sharey=True)
    line = torch.full((60, space.d), 0.5, dtype=torch.float64)
    for i, ax in enumerate(axes.flat):
        if i >= space.d:
            ax.set_visible(False)
            continue
        u = line.clone()
        u[:, i] = torch.linspace(0.01, 0.99, 60, dtype=torch.float64)
        at = space.from_unit(u).numpy()
        low, high = np.quantile(model.draws(at, seed=1), [0.05, 0.95], axis=0)
        ax.fill_between(at[:, i], low, high, color=COLOURS[0], alpha=0.15, linewidth=0, label="90 % of runs there")
        ax.plot(at[:, i], model.seconds(at), color=COLOURS[0], linewidth=1.6, label="fit, others in the middle")
        ax.scatter(theta[:, i], seconds, s=12, color=INK, alpha=0.6, linewidths=0, label="runs")
        name_axes(ax, words(space.parameters[i]), "time of a run [s]" if i % columns == 0 else "")
        parameter_axis(ax, space.parameters[i], "x")
        log_axis(ax, "y")
    legend(figure, *axes[0, 0].get_legend_handles_labels())
    return figure


def feasibility(where: Feasibility, runs: Runs) -> Figure:
    """P(a run finishes) over pairs of parameters, the others averaged over the prior; runs that finished and failed.

    The line is where failure becomes likelier than success. With many parameters the pairs are of those that separate
    finished from failed runs best.
    """
    space = where.space
    if space.d == 1:
        return _along(where, runs)
    shown = _telling(runs)
    side = len(shown) - 1
    width = max(WIDTH, 1.6 * side)
    figure, axes = sheet(side, side, min(width, max(4.2, 2.2 * side)) + 0.4, width=width, sharex="col", sharey="row")
    ok, bad = runs.finished().theta, runs.failed().theta
    for row, column in np.ndindex(side, side):
        ax = axes[row, column]
        if column > row:
            ax.set_visible(False)
            continue
        i, j = shown[column], shown[row + 1]
        x, y, p = _map(where, i, j)
        mesh = ax.pcolormesh(x, y, p, cmap=_SHARES, vmin=0, vmax=1, shading="nearest", rasterized=True)
        if p.min() < 0.5 < p.max():
            ax.contour(x, y, p, levels=[0.5], colors=[COLOURS[1]], linewidths=1.4)
        ax.scatter(ok[:, i], ok[:, j], s=7, color=COLOURS[0], linewidths=0, label=f"finished ({len(ok)})")
        ax.scatter(bad[:, i], bad[:, j], s=26, color=INK, marker="x", linewidths=1.1, label=f"failed ({len(bad)})")
        ax.grid(False)
        a, b = space.parameters[i], space.parameters[j]
        name_axes(ax, words(a) if row == side - 1 else "", words(b) if column == 0 else "")
        parameter_axis(ax, a, "x")
        parameter_axis(ax, b, "y")
    bar = figure.colorbar(mesh, ax=axes.ravel().tolist(), aspect=30, pad=0.02)
    bar.set_label("probability that a run finishes", fontsize=10, color=INK)
    bar.outline.set_visible(False)
    legend(figure, *axes[0, 0].get_legend_handles_labels())
    return figure


def learning_curve(curve: LearningCurve, target: float, name: str) -> Figure:
    """Median error of held-out runs against the number of training runs, the fitted law with its 90 %, the target."""
    figure, axes = sheet(1, 1, 3.6)
    ax = axes[0, 0]
    now = curve.runs.max()
    answer = curve.answer(target)
    far = min(max(4 * now, 1.5 * answer.middle if np.isfinite(answer.middle) else 0), 100 * now)
    n = np.geomspace(0.8 * curve.runs.min(), far, 120)
    low, middle, high = curve.error(n)
    seen = n <= now
    ax.fill_between(n, 100 * low, 100 * high, color=COLOURS[0], alpha=0.15, linewidth=0, label="90 %")
    ax.plot(n[seen], 100 * middle[seen], color=COLOURS[0], linewidth=1.8, label="power law with a floor")
    ax.plot(n[~seen], 100 * middle[~seen], color=COLOURS[0], linewidth=1.8, linestyle=(0, (4, 2)), label="extrapolated")
    ax.scatter(
        curve.runs, 100 * curve.errors, s=22, color=INK, zorder=3, linewidths=0, label="fits to parts of the runs"
    )
    ax.axhline(100 * target, color=COLOURS[1], linewidth=1.2, label=f"target, {100 * target:.3g} %")
    if n[0] < answer.middle < far:
        ends = np.clip([answer.low, answer.high], n[0], far)
        ax.plot(ends, [100 * target] * 2, color=COLOURS[1], linewidth=5, alpha=0.45, solid_capstyle="butt")
        ax.scatter([answer.middle], [100 * target], s=40, color=COLOURS[1], zorder=4)
    name_axes(ax, "training runs", "median error [%]")
    title(ax, name)
    log_axis(ax, "x")
    log_axis(ax, "y")
    legend(figure, *ax.get_legend_handles_labels(), columns=3)
    return figure


def _along(where: Feasibility, runs: Runs) -> Figure:
    figure, axes = sheet(1, 1, 2.6)
    ax = axes[0, 0]
    space = where.space
    u = torch.linspace(0.002, 0.998, 300, dtype=torch.float64)[:, None]
    theta = space.from_unit(u)
    with torch.no_grad():
        ax.plot(theta[:, 0], where.probability(theta), color=COLOURS[0], linewidth=1.8, label="probability")
    for table, level, colour, marker, word in ((runs.finished(), 1.0, COLOURS[0], "o", "finished"),
                                               (runs.failed(), 0.0, INK, "x", "failed")):  # fmt: skip
        ax.scatter(table.theta[:, 0], np.full(len(table), level), s=18, color=colour, marker=marker,
                   label=f"{word} ({len(table)})")  # fmt: skip
    ax.axhline(0.5, color=GREY, linewidth=0.9)
    name_axes(ax, words(space.parameters[0]), "a run finishes with")
    parameter_axis(ax, space.parameters[0], "x")
    if not len(runs):
        say(ax, "no run was made")
    legend(figure, *ax.get_legend_handles_labels())
    return figure


def _telling(runs: Runs) -> list[int]:
    """The parameters to pair, in their order: all, or those whose failed runs lie most unlike the finished ones."""
    d = runs.space.d
    if d <= _PAIRS or not runs.ok.any() or runs.ok.all():
        return list(range(min(d, _PAIRS)))
    from scipy.stats import ks_2samp

    ok, bad = runs.finished().theta, runs.failed().theta
    apart = [ks_2samp(ok[:, i], bad[:, i]).statistic for i in range(d)]
    return sorted(np.argsort(apart)[::-1][:_PAIRS].tolist())


def _map(where: Feasibility, i: int, j: int) -> tuple[Any, Any, np.ndarray]:
    """Values of the two parameters along the axes, and P averaged over the others `[grid, grid]`."""
    edge = (torch.arange(_GRID, dtype=torch.float64) + 0.5) / _GRID
    d = where.space.d
    others = torch.quasirandom.SobolEngine(d, scramble=True, seed=3).draw(_OTHERS if d > 2 else 1, dtype=torch.float64)
    u = others.clamp(0.01, 0.99).repeat(_GRID, _GRID, 1, 1)
    u[..., i], u[..., j] = edge[None, :, None], edge[:, None, None]
    theta = where.space.from_unit(u)
    with torch.no_grad():
        p = where.probability(theta).mean(-1).numpy()
    return theta[0, :, 0, i].numpy(), theta[:, 0, 0, j].numpy(), p
