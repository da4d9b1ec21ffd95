"""Figures of emulators against held-out runs: value, calibration, training, and all of them side by side."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy.stats import binom, norm

from emulate.runs import Runs
from pipelines.figures.sheets import (
    COLOURS,
    DASHES,
    GREY,
    INK,
    MARKERS,
    Panel,
    array,
    left_out,
    legend,
    log_axis,
    name_axes,
    panels,
    say,
    sheet,
    stretched,
    title,
)

if TYPE_CHECKING:
    from emulate.emulator import Emulator

_NOT_DRAWN = ("epoch", "step", "iteration", "seconds", "learning_rate", "lr")
_ERRORS = {"median": "median run", "worst99": "99th percentile", "worst": "worst run"}


def _predict(emulator: "Emulator", runs: Runs) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation `[n, m]` at the parameters of runs."""
    with torch.no_grad():
        prediction = emulator.predict(torch.from_numpy(runs.theta))
        return array(prediction.mean), np.sqrt(np.maximum(array(prediction.variance), 0.0))


def accuracy(emulators: Mapping[str, "Emulator"], held_out: Runs) -> Figure:
    """Predicted against true, and the residual's central 68 and 95 % over runs, for every emulator.

    Residuals are percent of the true value for outputs that are positive by nature, and percent of the spread
    (standard deviation) over the held-out runs for all others.
    """
    runs = held_out.finished()
    parts = panels(held_out.outputs)
    rows = len(parts) * len(emulators)
    figure, axes = sheet(rows, 2, 2.25 * rows + 0.4, width_ratios=(1, 1.7))
    if tail := left_out(held_out.outputs):
        figure.suptitle(tail.strip(" ()"), fontsize=10, color=INK)
    pairs = [(name, part) for part in parts for name in emulators]
    means = {name: _predict(e, runs)[0] for name, e in emulators.items()} if len(runs) else {}
    for (name, part), (left, right) in zip(pairs, axes, strict=True):
        colour = COLOURS[list(emulators).index(name) % len(COLOURS)]
        true = runs.y[:, part.columns]
        title(left, name if len(parts) == 1 else f"{name}: {part.name}")
        part.dress(right, "residual [%]" if part.positive else "residual [% of spread]")
        right.axhline(0, color=GREY, linewidth=0.9)
        if not len(runs):
            name_axes(left, "true", "predicted")
            say(right, "no held-out run finished")
            continue
        predicted = means[name][:, part.columns]
        _scatter(left, part, true, predicted, colour)
        _bands(right, part, 100 * (predicted - true) / _scale(part, true), colour)
    return figure


def _scale(part: Panel, true: np.ndarray) -> np.ndarray:
    """What a residual is a percentage of: the value, or the spread where a value may be zero."""
    if part.positive:
        return np.abs(true)
    spread = true.std(0, ddof=1) if len(true) > 1 else np.abs(true[0])
    return np.where(spread > 0, spread, np.maximum(np.abs(true).max(0), np.finfo(float).tiny))


def _scatter(ax, part: Panel, true: np.ndarray, predicted: np.ndarray, colour: str) -> None:
    value = part.value
    if len(part.fields) > 1:  # unlike numbers share an axis only in units of their own spread
        centre, spread = true.mean(0), np.where(true.std(0) > 0, true.std(0), 1.0)
        true, predicted, value = (true - centre) / spread, (predicted - centre) / spread, "value in sd from its mean"
    x, y = true.ravel(), predicted.ravel()
    some = slice(None, None, max(1, len(x) // 4000))
    ax.scatter(x[some], y[some], s=9, color=colour, alpha=0.45, linewidths=0)
    ends = np.array([min(x.min(), y.min()), max(x.max(), y.max())])
    ax.plot(ends, ends, color=INK, linewidth=0.8)
    name_axes(ax, f"true {value}", "predicted")
    if part.positive and len(part.fields) == 1 and stretched(np.concatenate([x, y])):
        log_axis(ax, "x", 4)
        log_axis(ax, "y", 5)


def _bands(ax, part: Panel, residual: np.ndarray, colour: str) -> None:
    q = np.quantile(residual, [0.025, 0.16, 0.5, 0.84, 0.975], axis=0)
    if part.along and len(part.x) > 1:
        ax.fill_between(part.x, q[0], q[4], color=colour, alpha=0.2, linewidth=0)
        ax.fill_between(part.x, q[1], q[3], color=colour, alpha=0.4, linewidth=0)
        ax.plot(part.x, q[2], color=colour, linewidth=1.4, marker=part.marker, markersize=3)
    else:
        ax.vlines(part.x, q[0], q[4], color=colour, linewidth=2, alpha=0.45)
        ax.vlines(part.x, q[1], q[3], color=colour, linewidth=6, alpha=0.5)
        ax.plot(part.x, q[2], "o", color=colour, markersize=5)
    typical, bad = np.quantile(np.abs(residual).max(1), [0.5, 0.99])
    ax.set_title(
        f"largest of a run: median {typical:.2g} %, 99th percentile {bad:.2g} %", fontsize=8.5, color=INK, loc="right"
    )


def calibration(emulators: Mapping[str, "Emulator"], held_out: Runs) -> Figure:
    """Share of true values inside the central interval against the share that was promised, and (y - mean) / sd.

    The band holds 95 % of honest emulators, were a run one trial (binomial): outputs of a run err together.
    """
    runs = held_out.finished()
    figure, ((left, right),) = sheet(1, 2, 3.6)
    name_axes(left, "promised coverage [%]", "observed coverage [%]")
    name_axes(right, "residual in predicted sd", "density")
    levels = np.linspace(0.01, 0.99, 99)
    left.plot([0, 100], [0, 100], color=INK, linewidth=0.8)
    if not len(runs):
        say(left, "no held-out run finished")
        return figure
    low, high = (100 * binom.ppf(p, len(runs), levels) / len(runs) for p in (0.025, 0.975))
    band = left.fill_between(100 * levels, low, high, color=GREY, alpha=0.18, linewidth=0)
    handles, labels = [band], [f"95 % of honest emulators ({len(runs)} runs)"]
    edges = np.linspace(-5, 5, 41)
    for i, (name, emulator) in enumerate(emulators.items()):
        mean, sd = _predict(emulator, runs)
        error = runs.y - mean
        with np.errstate(divide="ignore", invalid="ignore"):
            score = np.where(error == 0, 0.0, error / sd).ravel()
        inside = [(np.abs(score) <= norm.ppf((1 + p) / 2)).mean() for p in levels]
        style = {"color": COLOURS[i % len(COLOURS)], "linestyle": DASHES[i % len(DASHES)], "linewidth": 1.6}
        handles += left.plot(100 * levels, 100 * np.array(inside), **style)
        labels.append(name)
        density, _ = np.histogram(np.clip(score, -5, 5), edges, density=True)
        right.stairs(density, edges, **style)
    x = np.linspace(-5, 5, 201)
    handles += right.plot(x, norm.pdf(x), color=INK, linewidth=0.9)
    labels.append("normal, what is promised")
    right.set_title("beyond ±5: in the last bin", fontsize=8.5, color=GREY, loc="right")
    legend(figure, handles, labels, 3)
    return figure


def training(histories: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure:
    """The loss of every emulator by epoch."""
    columns = min(2, max(1, len(histories)))
    rows = max(1, -(-len(histories) // columns))
    figure, axes = sheet(rows, columns, 2.7 * rows + 0.2)
    for ax in axes.flat[max(1, len(histories)) :]:
        ax.set_visible(False)
    for ax, (name, history) in zip(axes.flat, histories.items(), strict=False):
        curves = {k: np.array([epoch.get(k, np.nan) for epoch in history], dtype=float)
                  for k in dict.fromkeys(k for epoch in history for k in epoch) if k not in _NOT_DRAWN}  # fmt: skip
        for i, (key, values) in enumerate(curves.items()):
            style = {"color": COLOURS[i % 6], "marker": MARKERS[i % 6], "linestyle": DASHES[i % 6], "linewidth": 1.4}
            ax.plot(np.arange(1, len(values) + 1), values, label=key, markersize=0 if len(values) > 20 else 4, **style)
        title(ax, name)
        name_axes(ax, "epoch", "loss" if len(curves) != 1 else next(iter(curves)).replace("_", " "))
        if len(curves) > 1:
            ax.legend(fontsize=8.5, frameon=False)
        if curves and stretched(np.concatenate(list(curves.values()))):
            log_axis(ax, "y", 6)
    if not histories:
        name_axes(axes[0, 0], "epoch", "loss")
        say(axes[0, 0], "no emulator was trained by epochs")
    return figure


def scores(table: Mapping[str, Mapping[str, float]]) -> Figure:
    """Errors over held-out runs: of the median run, the 99th percentile and the worst, one row per emulator."""
    figure, ((ax,),) = sheet(1, 1, 0.45 * max(len(table), 1) + 1.5)
    name_axes(ax, "largest error of a run [%]", "emulator")
    ax.set_yticks(range(len(table)), list(table))
    ax.set_ylim(max(len(table), 1) - 0.5, -0.6)
    handles = {}
    for row, values in enumerate(table.values()):
        found = {k: 100 * float(values[k]) for k in _ERRORS if values.get(k) is not None}
        found = {k: v for k, v in found.items() if np.isfinite(v) and v > 0}
        if found:
            ax.plot(list(found.values()), [row] * len(found), color=GREY, linewidth=1.2, zorder=1)
        for i, (key, label) in enumerate(_ERRORS.items()):
            if key in found:
                handles[label] = ax.scatter(found[key], row, s=46, color=COLOURS[i], marker=MARKERS[i], zorder=2)
        if "median" in found:
            ax.annotate(f"{found['median']:.2g} %", (found["median"], row), (0, 8), textcoords="offset points",
                        ha="center", fontsize=8.5, color=INK)  # fmt: skip
    if handles:
        log_axis(ax, "x")
        legend(figure, list(handles.values()), list(handles))
    else:
        say(ax, "no scores")
    return figure
