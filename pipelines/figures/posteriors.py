"""Figures of answers: the posterior by the emulator and by the true simulator, and what posteriors recover."""

from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from scipy.stats import binom

from emulate.contracts import Recovery
from emulate.space import LOGARITHMIC, Space
from pipelines.figures.densities import Cloud, levels
from pipelines.figures.sheets import (
    COLOURS,
    GREY,
    INK,
    WIDTH,
    array,
    few_ticks,
    legend,
    name_axes,
    parameter_axis,
    sheet,
    title,
    words,
)

_GRID = 50  # points per side of a density in two dimensions
SURROGATE, TRUE, TRUTH = COLOURS[0], COLOURS[1], COLOURS[2]


def corner(
    space: Space, draws: Any, weighted: tuple[Any, Any] | None = None, truth: Any = None, runs: int = 0
) -> Figure:
    """Every parameter and every pair: 68 and 95 % regions of the surrogate posterior and the true simulator's.

    draws `[n, d]` of the surrogate posterior; weighted: theta `[s, d]` and ln p_true - ln p_surrogate `[s]` at some of
    them, drawn as a posterior of its own, or as single dots where fewer than 8 runs carry the weight; with `runs` the weights
    are those that so many true runs give to every draw; truth `[d]`.
    """
    surrogate = Cloud(_view(space, array(draws)))
    true = Cloud(_view(space, array(weighted[0])), array(weighted[1])) if weighted is not None else None
    truth = None if truth is None else _view(space, array(truth))
    ranges = [_range(space, i, surrogate, true, truth) for i in range(space.d)]
    width = max(WIDTH, 1.5 * space.d)
    figure, axes = sheet(space.d, space.d, width if space.d > 2 else (3.2, 5.5)[space.d - 1], width=width)
    for row in range(space.d):
        for column in range(space.d):
            ax = axes[row, column]
            if column > row:
                ax.set_visible(False)
                continue
            ax.set_xlim(*ranges[column])
            if row == column:
                _one(ax, space, row, ranges[row], surrogate, true)
            else:
                ax.set_ylim(*ranges[row])
                _two(ax, space, (column, row), (ranges[column], ranges[row]), surrogate, true)
            _lines(ax, row, column, truth)
            _name(ax, space, row, column)
    figure.align_labels()
    _corner_legend(figure, true, truth, runs)
    return figure


def _logarithmic(space: Space, i: int) -> bool:
    return isinstance(space.parameters[i].prior, LOGARITHMIC)


def _view(space: Space, theta: np.ndarray) -> np.ndarray:
    """What the axes carry: theta, and its common logarithm where the prior is even in it."""
    return np.stack([np.log10(t) if _logarithmic(space, i) else t for i, t in enumerate(theta.T)], -1)


def _range(space: Space, i: int, surrogate: Cloud, true: Cloud | None, truth: np.ndarray | None) -> tuple[float, float]:
    """Nearly all draws, all that carries weight and the truth, cut at the prior's edges."""
    low, high = np.quantile(surrogate.points[:, i], [0.001, 0.999])
    seen = [low, high]
    if true is not None and len(true.points):
        seen += list(true.points[true.weights > 0.02 * true.weights.max(), i])
    seen += [] if truth is None else [truth[i]]
    margin = 0.12 * (max(seen) - min(seen)) or 0.05 * abs(low) or 1.0
    first, last = _support(space, i)
    return max(min(seen) - margin, first), min(max(seen) + margin, last)


def _support(space: Space, i: int) -> tuple[float, float]:
    prior = space.parameters[i].prior
    if not hasattr(prior, "low"):
        return -np.inf, np.inf
    return tuple(np.log10([prior.low, prior.high]).tolist()) if _logarithmic(space, i) else (prior.low, prior.high)


def _edges(space: Space, i: int, ends: tuple[float, float]) -> tuple[float, float]:
    """The prior's edges where the axis reaches them; a density has no edge elsewhere."""
    low, high = _support(space, i)
    return low if low == ends[0] else -np.inf, high if high == ends[1] else np.inf


def _one(ax, space: Space, i: int, ends: tuple[float, float], surrogate: Cloud, true: Cloud | None) -> None:
    x = np.linspace(*ends, 200)
    edges = (_edges(space, i, ends),)
    theta = torch.from_numpy(10**x if _logarithmic(space, i) else x)
    prior = array(space.parameters[i].prior.log_prob(theta).exp())
    ax.plot(
        x, prior * 10**x * np.log(10) if _logarithmic(space, i) else prior, color=GREY, linestyle=":", linewidth=1.4
    )
    if (density := surrogate.density((i,), (x,), edges)) is not None:
        ax.fill_between(x, density, color=SURROGATE, alpha=0.3, linewidth=0)
        ax.plot(x, density, color=SURROGATE, linewidth=1.4)
    if true is not None and (density := true.density((i,), (x,), edges)) is not None:
        ax.plot(x, density, color=TRUE, linewidth=1.5, linestyle="--")
    ax.set_ylim(bottom=0)


def _two(ax, space: Space, pair, ranges, surrogate: Cloud, true: Cloud | None) -> None:
    x, y = (np.linspace(*r, _GRID) for r in ranges)
    edges = tuple(_edges(space, i, r) for i, r in zip(pair, ranges, strict=True))
    if (density := surrogate.density(pair, (x, y), edges)) is not None:
        inner, outer = levels(density, (0.68, 0.95))
        ax.contourf(x, y, density.T, [outer, inner, np.inf], colors=[(SURROGATE, 0.22), (SURROGATE, 0.5)])
        ax.contour(x, y, density.T, [outer, inner], colors=SURROGATE, linewidths=1.1)
    else:
        ax.scatter(*surrogate.points[:, list(pair)].T, s=6, color=SURROGATE)
    if true is None or not len(true.points):
        return
    if (density := true.density(pair, (x, y), edges)) is not None:
        inner, outer = levels(density, (0.68, 0.95))
        ax.contour(x, y, density.T, [outer, inner], colors=TRUE, linewidths=1.4, linestyles="--")
    else:
        ax.scatter(*true.points[:, list(pair)].T, s=120 * true.weights, color=TRUE, alpha=0.8)


def _lines(ax, row: int, column: int, truth: np.ndarray | None) -> None:
    if truth is not None:
        ax.axvline(truth[column], color=TRUTH, linewidth=1.2, linestyle="-.")
        if row != column:
            ax.axhline(truth[row], color=TRUTH, linewidth=1.2, linestyle="-.")


def _name(ax, space: Space, row: int, column: int) -> None:
    """Numbers and names at the left and the bottom only."""
    last, first = row == space.d - 1, column == 0
    said = [("lg " if _logarithmic(space, i) else "") + words(p) for i, p in enumerate(space.parameters)]
    density = "density" if space.d == 1 else ""
    name_axes(ax, said[column] if last else "", (said[row] if row else density) if first else "")
    few_ticks(ax, "x", 4 if space.d > 2 else 6)
    few_ticks(ax, "y", 4 if space.d > 2 else 6)
    ax.tick_params(axis="x", labelbottom=last, labelrotation=40 if space.d > 2 else 0)
    if row == column:
        ax.tick_params(axis="y", left=False, labelleft=space.d == 1)
        ax.spines["left"].set_visible(space.d == 1)
        ax.grid(False)
    else:
        ax.tick_params(axis="y", labelleft=first)


def _corner_legend(figure: Figure, true: Cloud | None, truth: np.ndarray | None, runs: int) -> None:
    handles = [Patch(facecolor=SURROGATE, alpha=0.5), Line2D([], [], color=GREY, linestyle=":", linewidth=1.4)]
    labels = ["posterior by the emulator (68, 95 %)", "prior"]
    if true is not None and true.smooth:
        handles.append(Line2D([], [], color=TRUE, linestyle="--", linewidth=1.5))
        labels.append(f"as {runs} true runs correct it" if runs else
                      f"by the true simulator ({true.effective:.0f} effective of {true.size} runs)")  # fmt: skip
    elif true is not None:
        handles.append(Line2D([], [], color=TRUE, marker="o", linestyle="none"))
        labels.append(f"true simulator's weight: {true.effective:.1f} effective of {true.size} runs, too few to draw")
    if truth is not None:
        handles.append(Line2D([], [], color=TRUTH, linestyle="-.", linewidth=1.2))
        labels.append("truth")
    legend(figure, handles, labels, 2)


def recovery(recovery: Recovery, space: Space) -> Figure:
    """Posterior mean and sd against the truth for every parameter, and the histogram of the truth's rank.

    The rank is uniform where posteriors are honest; the band holds 95 % of the bins then (binomial).
    """
    columns = min(3, space.d + 1)
    rows = -(-(space.d + 1) // columns)
    figure, axes = sheet(rows, columns, 2.5 * rows + 0.2)
    truth, mean, sd = array(recovery.truth), array(recovery.mean), array(recovery.sd)
    for i, (ax, parameter) in enumerate(zip(axes.flat, space.parameters, strict=False)):
        x = truth[:, i]
        ax.errorbar(x, mean[:, i], sd[:, i], fmt="o", color=SURROGATE, markersize=3.5, elinewidth=1, alpha=0.85)
        ends = [x.min(), x.max()] if len(x) else [0, 1]
        ax.plot(ends, ends, color=INK, linewidth=0.9)
        name_axes(ax, f"true {words(parameter)}", "posterior mean ± sd")
        parameter_axis(ax, parameter, "x")
        parameter_axis(ax, parameter, "y")
    _ranks(axes.flat[space.d], array(recovery.rank))
    for ax in axes.flat[space.d + 1 :]:
        ax.set_visible(False)
    return figure


def _ranks(ax, rank: np.ndarray) -> None:
    q = len(rank)
    bins = int(np.clip(q // 5, 4, 10))
    low, high = (binom.ppf(p, max(q, 1), 1 / bins) for p in (0.025, 0.975))
    ax.axhspan(low, high, color=GREY, alpha=0.18, linewidth=0)
    ax.axhline(q / bins, color=INK, linewidth=0.8)
    ax.hist(rank, np.linspace(0, 1, bins + 1), color=SURROGATE, alpha=0.65, edgecolor="white")
    name_axes(ax, "rank of the truth", f"observations (of {q})")
    title(ax, "grey: 95 % if honest")
    ax.title.set_fontsize(8.5)
