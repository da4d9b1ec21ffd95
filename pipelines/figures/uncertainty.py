"""Figures of calibration: the histogram of the PIT, coverage over the box, and the CRPS of all emulators."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from matplotlib.colors import LinearSegmentedColormap, TwoSlopeNorm
from matplotlib.figure import Figure
from scipy.stats import binom

from emulate.regions import corners, regions
from emulate.runs import Runs
from emulate.scoring import climatology, crps, pit
from pipelines.figures.sheets import COLOURS, GREY, INK, MARKERS, WIDTH, legend, log_axis, name_axes, say, sheet, title

if TYPE_CHECKING:
    from emulate.emulator import Emulator

_LEVEL = 0.95
_SHARES = LinearSegmentedColormap.from_list("kept", ["#D55E00", "#ffffff", "#7db9dc"])  # too few, as promised, all
_MOST = 8  # parameters drawn; with more, those whose halves and quarters hold least


def calibrated(emulators: Mapping[str, "Emulator"], champion: str, held_out: Runs) -> dict[str, tuple[Figure, str]]:
    """The three figures of this file by the name that findings call them, with their captions."""
    return {
        "pit": (pit_histogram(emulators, held_out),
                "Where held-out outputs lie in the predicted distribution: flat when it is right, a hill when the error bars "
                "are too wide, a valley when they are too narrow, a slope when the mean is off."),
        "regions": (coverage_map(champion, emulators[champion], held_out),
                    f"Share of held-out outputs inside the 95 % interval of {champion}, by region of the box."),
        "crps": (crps_by_emulator(emulators, held_out),
                 "Continuous ranked probability score of held-out runs, in percent of predicting each by all the others."),
    }  # fmt: skip


def pit_histogram(emulators: Mapping[str, "Emulator"], held_out: Runs) -> Figure:
    """Histogram of the PIT of held-out outputs, flat where the predicted distribution is right, for every emulator.

    The band holds 95 % of the bars of an honest emulator, were a run one trial (binomial): outputs of a run err together.
    """
    runs = held_out.finished()
    columns = min(3, max(1, len(emulators))) if len(runs) else 1
    rows = max(1, -(-len(emulators) // columns)) if len(runs) else 1
    figure, axes = sheet(rows, columns, 2.5 * rows + 0.5, sharex=True, sharey=True)
    for ax in axes.flat[max(1, len(emulators)) :]:
        ax.set_visible(False)
    if not len(runs):
        name_axes(axes[0, 0], "PIT", "density")
        say(axes[0, 0], "no held-out run finished")
        return figure
    bins = int(np.clip(len(runs) // 4, 4, 20))
    low, high = (binom.ppf(q, len(runs), 1 / bins) * bins / len(runs) for q in (0.025, 0.975))
    for i, ((name, emulator), ax) in enumerate(zip(emulators.items(), axes.flat, strict=False)):
        density, edges = np.histogram(_pit(emulator, runs), bins, (0, 1), density=True)
        ax.stairs(density, edges, color=COLOURS[i % len(COLOURS)], fill=True, alpha=0.6)
        band = ax.axhspan(low, high, color=GREY, alpha=0.25, linewidth=0)
        flat = ax.axhline(1, color=INK, linewidth=0.9)
        title(ax, name)
        name_axes(ax, "PIT" if i + columns >= len(emulators) else "", "" if i % columns else "density")
        ax.set_xlim(0, 1)
        ax.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "", "0.5", "", "1"])
        ax.tick_params(labelbottom=i + columns >= len(emulators))
    legend(figure, [flat, band], ["flat: what is promised", f"95 % of an honest emulator's bars ({len(runs)} runs)"])
    return figure


def coverage_map(name: str, emulator: "Emulator", held_out: Runs) -> Figure:
    """Share of held-out outputs inside the central 95 % interval, by region of the box.

    Left: the whole box, its inner and outer half, and the halves of every parameter, with the 68 % interval of Wilson
    (1927) in which a run is one trial. Right: the quarters that two parameters cut out, and on the diagonal the halves.
    """
    runs = held_out.finished()
    pairs = runs.space.d > 1 and len(runs) > 0
    figure, axes = sheet(1, 1 + pairs, 4.2, width=WIDTH + pairs, **({"width_ratios": (1, 1.4)} if pairs else {}))
    left = axes[0, 0]
    name_axes(left, "inside the 95 % interval [%]", "region")
    if not len(runs):
        say(left, "no held-out run finished")
        return figure
    theta = torch.from_numpy(runs.theta)
    v = _pit(emulator, runs)
    inside = (np.abs(2 * v - 1) <= _LEVEL).mean(1)
    whole = {p.name: _shares(inside, p.rows) for p in regions(runs.space, theta)}
    quarters = {p.name: _shares(inside, p.rows) for p in corners(runs.space, theta)}
    names = _drawn(runs.space.names, whole, quarters)
    _forest(left, name, names, whole)
    figure.set_figheight(max(3.6 if pairs else 2.6, 0.4 * len(names) + 2.2))
    if pairs:
        _matrix(figure, axes[0, 1], names, whole, quarters)
    return figure


def crps_by_emulator(emulators: Mapping[str, "Emulator"], held_out: Runs) -> Figure:
    """CRPS of every emulator in percent of that of predicting each held-out run by the others, one row per emulator.

    Of a run the mean over its outputs; the median run, the 99th percentile and the worst, and the mean that is compared.
    """
    runs = held_out.finished()
    figure, ((ax,),) = sheet(1, 1, 0.45 * max(len(emulators), 1) + 1.5)
    name_axes(ax, "CRPS of a run [% of that without an emulator]", "emulator")
    ax.set_yticks(range(len(emulators)), list(emulators))
    ax.set_ylim(max(len(emulators), 1) - 0.5, -0.6)
    y = torch.from_numpy(runs.y)
    known = climatology(y)
    changing = known > 0
    if not changing.any():
        say(ax, "no scores")
        return figure
    handles = {}
    for row, emulator in enumerate(emulators.values()):
        with torch.no_grad():
            score = crps(emulator.predict(torch.from_numpy(runs.theta)), y)
        score = 100 * (score / known)[:, changing].mean(1).numpy()
        found = {"median run": np.median(score), "mean": score.mean(), "99th percentile": np.quantile(score, 0.99),
                 "worst run": score.max()}  # fmt: skip
        found = {k: float(x) for k, x in found.items() if np.isfinite(x) and x > 0}
        if found:
            ax.plot(list(found.values()), [row] * len(found), color=GREY, linewidth=1.2, zorder=1)
        for i, (label, x) in enumerate(found.items()):
            handles[label] = ax.scatter(x, row, s=46, color=COLOURS[i], marker=MARKERS[i], zorder=2)
        if "mean" in found:
            ax.annotate(f"{found['mean']:.2g} %", (found["mean"], row), (0, 8), textcoords="offset points", ha="center",
                        fontsize=8.5, color=INK)  # fmt: skip
    if handles:
        log_axis(ax, "x")
        legend(figure, list(handles.values()), list(handles))
    else:
        say(ax, "no scores")
    return figure


def _pit(emulator: "Emulator", runs: Runs) -> np.ndarray:
    """The PIT `[n, m]` at the parameters of runs."""
    with torch.no_grad():
        return pit(emulator.predict(torch.from_numpy(runs.theta)), torch.from_numpy(runs.y)).numpy()


def _shares(inside: np.ndarray, rows: torch.Tensor) -> tuple[float, float, float, int]:
    """Share inside, both ends of its Wilson interval, and the number of runs; NaN where there are none."""
    some = inside[rows.numpy()]
    n = len(some)
    if not n:
        return float("nan"), float("nan"), float("nan"), 0
    p = float(some.mean())
    middle, half = (p + 0.5 / n) / (1 + 1 / n), np.sqrt(p * (1 - p) / n + 0.25 / n**2) / (1 + 1 / n)
    return p, middle - half, middle + half, n


def _drawn(names: tuple[str, ...], whole: dict, quarters: dict) -> tuple[str, ...]:
    if len(names) <= _MOST:
        return names
    least = {n: min((s[0] for k, s in (whole | quarters).items() if n in k.split()), default=1.0) for n in names}
    kept = sorted(names, key=lambda n: least[n])[:_MOST]
    return tuple(n for n in names if n in kept)


def _forest(ax, name: str, names: tuple[str, ...], whole: dict) -> None:
    rows = ["the whole box", "the inner half of the box", "the outer half of the box",
            *(f"the {half} half of {n}" for n in names for half in ("lower", "upper"))]  # fmt: skip
    for i, region in enumerate(rows):
        share, low, high, n = whole[region]
        ax.hlines(i, 100 * low, 100 * high, color=COLOURS[0], linewidth=1.4)
        ax.plot(100 * share, i, "o", color=COLOURS[0], markersize=5)
        ax.annotate(str(n), (1.0, i), (4, 0), xycoords=("axes fraction", "data"), textcoords="offset points", va="center",
                    fontsize=8.5, color=GREY)  # fmt: skip
    ax.axvline(100 * _LEVEL, color=INK, linewidth=0.9)
    ax.set_yticks(range(len(rows)), [r.removeprefix("the ").replace(" half of the box", " half") for r in rows])
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.set_title("runs", fontsize=8.5, color=GREY, loc="right")
    title(ax, name)


def _matrix(figure: Figure, ax, names: tuple[str, ...], whole: dict, quarters: dict) -> None:
    """Coverage of low and high of one parameter (row) with low and high of another (column)."""
    halves = [(kind, n) for n in names for kind in ("low", "high")]
    k = len(halves)
    share = np.full((k, k), np.nan)
    for i, (kind, one) in enumerate(halves):
        for j, (other, two) in enumerate(halves[: i + 1]):
            if i == j:
                share[i, j] = whole[f"the {'lower' if kind == 'low' else 'upper'} half of {one}"][0]
            elif one != two:
                both = (
                    f"the quarter of {other} {two} and {kind} {one}",
                    f"the quarter of {kind} {one} and {other} {two}",
                )
                share[i, j] = next(quarters[b][0] for b in both if b in quarters)
    worst = min(0.8, float(np.nanmin(share))) if np.isfinite(share).any() else 0.8
    scale = TwoSlopeNorm(_LEVEL, worst, 1.0)
    mesh = ax.imshow(share, cmap=_SHARES, norm=scale, aspect="equal")
    ax.grid(False)
    for i, j in zip(*np.nonzero(np.isfinite(share)), strict=True):
        if k <= 10:
            dark = share[i, j] < worst + 0.35 * (_LEVEL - worst)
            ax.text(j, i, f"{100 * share[i, j]:.0f}", ha="center", va="center", fontsize=8.5 if k <= 6 else 7.5,
                    color="white" if dark else INK)  # fmt: skip
    ax.set_title("halves, and quarters of two parameters", fontsize=8.5, color=GREY, loc="right")
    said = [f"{kind} {n}" for kind, n in halves]
    name_axes(ax, "half of one parameter", "and of another")
    ax.set_xticks(range(k), said, rotation=90)
    ax.set_yticks(range(k), said)
    ax.tick_params(length=0, labelsize=8.5)
    ax.spines[["left", "bottom"]].set_visible(False)
    for edge in np.arange(1.5, k - 1, 2):
        ax.axhline(edge, color="white", linewidth=2)
        ax.axvline(edge, color="white", linewidth=2)
    bar = figure.colorbar(mesh, cax=ax.inset_axes([0.55, 0.93, 0.42, 0.03]), orientation="horizontal")
    bar.set_ticks([worst, _LEVEL, 1.0], labels=[f"{100 * x:.0f}" for x in (worst, _LEVEL, 1.0)])
    bar.ax.tick_params(labelsize=8.5, length=0)
    bar.set_label("inside [%]", fontsize=8.5, color=INK)
    bar.outline.set_visible(False)
