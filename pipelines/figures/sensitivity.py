"""Figures of what parameters do to outputs: shares of the variance, and elementary effects."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from emulate.indices import Indices
from emulate.runs import Outputs
from emulate.space import Space
from pipelines.figures.sheets import (
    COLOURS,
    DASHES,
    GREY,
    INK,
    MARKERS,
    MOST_PANELS,
    Panel,
    few_ticks,
    left_out,
    legend,
    name_axes,
    panels,
    say,
    sheet,
    symbol,
    title,
    unit_text,
)

_LINES = 6  # parameters drawn along a coordinate, those with the largest shares
_BARS = 12  # parameters with bars, and those with a colour of their own among the effects


def shares(space: Space, outputs: Outputs, sobol: Indices, dgsm: Indices) -> Figure:
    """First-order and total indices with their intervals and the bounds from gradients: of whole fields as bars, and
    along a field's coordinate as lines of the parameters that matter most."""
    parts = panels(outputs)
    figure, axes = sheet(len(parts), 2, 2.6 * len(parts) + 0.6, width_ratios=(1, 1.25), sharey="row")
    figure.suptitle(left_out(outputs).strip(" ()"), fontsize=11, color=INK)
    names = [f"${symbol(p)}$" for p in space.parameters]
    for (left, right), part in zip(axes, parts, strict=True):
        whole = sobol.column(part.name) if part.along and len(part.columns) > 1 else None
        if whole is None and len(part.columns) > 1:
            _side_by_side(left, right, part, sobol, names)
        else:
            column = part.columns[0] if whole is None else whole
            _bars(left, int(column), sobol, dgsm, names)
            title(left, part.name)
            _along(right, part, sobol, names) if whole is not None else right.set_visible(False)
        columns = [*part.columns, *([whole] if whole is not None else [])]
        tops = sobol["total"].high[:, columns], dgsm["bound"].high[:, columns[-1:]]
        left.set_ylim(0, min(1.04, 1.1 * max(np.where(t <= 1, t, 0.0).max() for t in tops) + 1e-3))
    if all(not p.along and len(p.columns) > 1 for p in parts):  # no bars
        return figure
    handles = [Patch(facecolor=COLOURS[0], alpha=0.85), Patch(facecolor="white", edgecolor=COLOURS[0])]
    handles += [Line2D([], [], color=INK, marker="_", markersize=11, linestyle="none")]
    legend(figure, handles, ["alone (first order)", "with others (total)", "total is at most this (gradients)"])
    return figure


def effects(space: Space, outputs: Outputs, morris: Indices) -> Figure:
    """mu_star against sigma of every parameter, an axes for each field: right is strong, high is uneven or shared."""
    shown = [(f.name if f.size > 1 else outputs.labels[outputs.slices[f.name].start], f) for f in outputs.fields]
    shown = shown[:MOST_PANELS]
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    figure, axes = sheet(rows, columns, 2.5 * rows + 0.5 if columns > 1 else 3.4)
    if len(outputs.fields) > MOST_PANELS:
        figure.suptitle(f"first {MOST_PANELS} of {len(outputs.fields)} outputs", fontsize=11, color=INK)
    marked = _strongest(morris, [output for output, _ in shown])
    for k, ax in enumerate(axes.flat):
        if k >= len(shown):
            ax.set_visible(False)
            continue
        output, field = shown[k]
        title(ax, field.name)
        relative = field.size > 1 and field.positive
        unit = " / mean" if relative else unit_text(field.unit)
        name_axes(ax, f"effect, $\\mu^*${unit}", f"its spread, $\\sigma${unit}")
        if output in morris.undefined:
            say(ax, "does not vary")
            continue
        star, sigma, j = morris["mu_star"], morris["sigma"], morris.column(output)
        x, y = star.value[:, j], sigma.value[:, j]
        top = 1.15 * max(star.high[:, j].max(), sigma.high[:, j].max())
        ax.plot([0, top], [0, top], color=GREY, linewidth=0.9, linestyle=(0, (4, 3)), label="spread = effect")
        for i in [*(i for i in range(space.d) if i not in marked), *marked]:
            style = {"color": GREY, "marker": "."}
            if i in marked:
                rank = marked.index(i)  # six colours, then the same six with other markers
                style = {"color": COLOURS[rank % 6], "marker": MARKERS[(rank + rank // 6) % 6], "markersize": 5}
                style["label"] = f"${symbol(space.parameters[i])}$"
            reach = [[[v - m.low[i, j]], [m.high[i, j] - v]] for v, m in ((x[i], star), (y[i], sigma))]
            ax.errorbar(x[i], y[i], xerr=reach[0], yerr=reach[1], elinewidth=1, linestyle="none", **style)
        ax.set_xlim(0, 1.15 * star.high[:, j].max())
        high = max(1.15 * sigma.high[:, j].max(), 0.3 * top)
        ax.set_ylim(-0.04 * high, high)  # no spread at all is a whole marker
        few_ticks(ax, "x")
        few_ticks(ax, "y")
    entries = next((ax.get_legend_handles_labels() for ax in axes.flat if ax.get_legend_handles_labels()[0]), ([], []))
    if entries[0]:
        if space.d > _BARS:
            entries = ([*entries[0], Line2D([], [], color=GREY, marker=".", linestyle="none")],
                       [*entries[1], f"{space.d - _BARS} others"])  # fmt: skip
        legend(figure, *entries, columns=7)
    return figure


def _strongest(morris: Indices, outputs: list[str]) -> list[int]:
    """The parameters that move any of the outputs most, relative to what moves it most, in their order."""
    columns = [morris.column(o) for o in outputs if o not in morris.undefined]
    if not columns:
        return []
    x = morris["mu_star"].value[:, columns]
    return sorted(np.argsort(-(x / np.maximum(x.max(0), 1e-300)).max(1), kind="stable")[:_BARS].tolist())


def _bars(ax: Axes, j: int, sobol: Indices, dgsm: Indices, names: list[str]) -> None:
    first, total, bound = sobol["first"], sobol["total"], dgsm["bound"]
    if not np.isfinite(total.value[:, j]).all():
        say(ax, "does not vary")
        return
    order = np.arange(len(names))
    if len(names) > _BARS:  # the strongest, in their order
        order = np.sort(np.argsort(-total.value[:, j], kind="stable")[:_BARS])
    x = np.arange(len(order))
    for m, shift, style in ((first, -0.2, {"alpha": 0.85}), (total, 0.2, {"fill": False, "edgecolor": COLOURS[0]})):
        value = m.value[order, j]
        ax.bar(x + shift, value, 0.36, **({"color": COLOURS[0]} | style))
        ax.errorbar(x + shift, value, [value - m.low[order, j], m.high[order, j] - value], color=INK, elinewidth=1.1,
                    capsize=2.5, linestyle="none")  # fmt: skip
    seen = bound.high[order, j] <= 1
    ax.plot(x[seen] + 0.2, bound.high[order, j][seen], color=INK, marker="_", markersize=11, linestyle="none")
    turn = 35 if len(order) > 6 else 0
    ax.set_xticks(x, [names[i] for i in order], rotation=turn, ha="right" if turn else "center")
    ax.grid(False, axis="x")
    most = f" (strongest {_BARS} of {len(names)})" if len(names) > _BARS else ""
    name_axes(ax, f"parameter{most}", "share of the variance")


def _along(ax: Axes, part: Panel, sobol: Indices, names: list[str]) -> None:
    first, total = sobol["first"], sobol["total"]
    c = part.columns
    strongest = np.argsort(-np.nan_to_num(total.value[:, c]).max(1), kind="stable")[:_LINES]
    for rank, i in enumerate(np.sort(strongest)):
        colour = COLOURS[rank % len(COLOURS)]
        ax.fill_between(part.x, total.low[i, c], total.high[i, c], color=colour, alpha=0.18, linewidth=0)
        ax.plot(part.x, total.value[i, c], color=colour, linewidth=1.8, linestyle=DASHES[rank % len(DASHES)],
                marker=part.marker and MARKERS[rank % len(MARKERS)], markersize=4, label=names[i])  # fmt: skip
        ax.plot(part.x, first.value[i, c], color=colour, linewidth=0.9, linestyle=DASHES[rank % len(DASHES)])
    ax.legend(fontsize=9, labelcolor=INK, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    part.dress(ax, "")
    title(ax, "total (thick, with its interval) and first order (thin)")


def _side_by_side(left: Axes, right: Axes, part: Panel, sobol: Indices, names: list[str]) -> None:
    """Numbers of a run: first order on the left, total on the right, one point per parameter above each number."""
    strongest = np.sort(
        np.argsort(-np.nan_to_num(sobol["total"].value[:, part.columns]).max(1), kind="stable")[:_LINES]
    )
    for ax, measure, said in ((left, "first", "alone (first order)"), (right, "total", "with others (total)")):
        m, c = sobol[measure], part.columns
        for rank, i in enumerate(strongest):
            x = part.x + 0.6 * ((rank + 0.5) / len(strongest) - 0.5)
            value = m.value[i, c]
            ax.errorbar(x, value, [value - m.low[i, c], m.high[i, c] - value], color=COLOURS[rank % len(COLOURS)],
                        marker=MARKERS[rank % len(MARKERS)], markersize=5, elinewidth=1.1, linestyle="none",
                        label=names[i])  # fmt: skip
        part.dress(ax, "share of the variance" if ax is left else "")
        title(ax, said)
    right.legend(fontsize=9, labelcolor=INK, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
