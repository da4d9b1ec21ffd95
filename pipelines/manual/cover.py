"""The picture at the head of README.md, of what the main job left: its error, its derivatives and its posterior.

python -m pipelines.manual.cover configs/quickstart.yaml pipelines/manual/pictures/quickstart.png
"""

import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pipelines import files
from pipelines.config import load_study
from pipelines.figures.densities import Cloud, levels
from pipelines.figures.sheets import (
    COLOURS,
    GREY,
    INK,
    array,
    few_ticks,
    name_axes,
    panels,
    sheet,
    symbol,
    title,
    words,
)
from pipelines.terminal import Terminal
from pipelines.workbench import Workbench

_PAIR = (0, 1)  # the parameters whose posterior is drawn
_GRID = 80


def cover(bench: Workbench) -> Figure:
    """Three panels of a study whose first output is positive and lies along a coordinate."""
    emulator, held_out = bench.emulator(bench.champion), bench.runs_of("held_out").finished()
    figure, (axes,) = sheet(1, 3, 3.3, width=11.0)
    part = panels(emulator.outputs)[0]
    jacobians = files.read_tensors(bench.folder / "validate" / "jacobians.safetensors")
    _value(axes[0], part, emulator, held_out)
    _gradient(axes[1], part, emulator, jacobians)
    _answer(axes[2], bench)
    return figure


def _value(ax, part, emulator, held_out) -> None:
    with torch.no_grad():
        prediction = emulator.predict(torch.from_numpy(held_out.theta))
    mean, sd = array(prediction.mean), np.sqrt(array(prediction.variance))
    error = 100 * (mean / held_out.y - 1)[:, part.columns]
    stated = 100 * 1.96 * np.median(sd / mean, axis=0)[part.columns]
    ax.fill_between(part.x, -stated, stated, color=COLOURS[0], alpha=0.2, linewidth=0, label="stated, 95 %")
    for i, row in enumerate(error):
        ax.plot(part.x, row, color=COLOURS[0], linewidth=0.8, alpha=0.8, label="" if i else "error of a run")
    ax.axhline(0, color=INK, linewidth=0.6)
    part.dress(ax, f"error of ${symbol(part.fields[0])}$ [%]")
    title(ax, f"value: {len(error)} runs it never saw")
    ax.legend(fontsize=8, frameon=False, loc="upper center")


def _gradient(ax, part, emulator, known) -> None:
    theta, y, theirs = known["theta"][:1], array(known["y"])[0], array(known["value"])[0]
    ours = array(emulator.jacobian(theta))[0] / array(emulator.predict(theta).mean)[0][:, None]
    some = slice(None, None, max(1, len(part.x) // 12))
    for i, parameter in enumerate(emulator.space.parameters):
        colour = COLOURS[i % len(COLOURS)]
        ax.plot(part.x, ours[part.columns, i], color=colour, linewidth=1.4, label=f"${symbol(parameter)}$")
        exact = (theirs[:, i] / y)[part.columns]
        ax.plot(part.x[some], exact[some], "o", color=colour, markersize=4.5, markerfacecolor="none")
    part.dress(ax, rf"$\partial \ln {symbol(part.fields[0])} / \partial \theta$")
    title(ax, "gradient: lines; the simulator's own: circles")
    ax.legend(fontsize=8, frameon=False, ncols=2)


def _answer(ax, bench: Workbench) -> None:
    space = bench.study.space
    draws = files.read_tensors(bench.folder / "infer" / "draws.safetensors")["theta"].flatten(0, -2)
    corrected = files.read_tensors(bench.folder / "check" / "corrected.safetensors")
    runs = files.read_json(bench.folder / "check" / "corrected.json")["runs"]
    clouds = Cloud(array(draws)), Cloud(array(corrected["theta"]), array(corrected["log_weight"]))
    ends = [np.quantile(clouds[0].points[:, i], [0.0005, 0.9995]) for i in _PAIR]
    grid = tuple(np.linspace(*e, _GRID) for e in ends)
    free = ((-np.inf, np.inf),) * 2
    inner, outer = levels(density := clouds[0].density(_PAIR, grid, free), (0.68, 0.95))
    ax.contourf(*grid, density.T, [outer, inner, np.inf], colors=[(COLOURS[0], 0.22), (COLOURS[0], 0.5)])
    inner, outer = levels(density := clouds[1].density(_PAIR, grid, free), (0.68, 0.95))
    ax.contour(*grid, density.T, [outer, inner], colors=COLOURS[1], linewidths=1.5, linestyles="--")
    handles = [
        Line2D([], [], color=COLOURS[0], linewidth=6, alpha=0.5),
        Line2D([], [], color=COLOURS[1], linestyle="--"),
    ]
    labels = ["by the emulator", f"as {runs} true runs correct it"]
    found = files.read_json(bench.folder / "infer" / "summary.json")["parameters"]
    truth = [found[space.names[i]].get("truth") for i in _PAIR]
    if None not in truth:
        ax.plot(*truth, "+", color=INK, markersize=11, markeredgewidth=1.6)
        handles.append(Line2D([], [], color=INK, marker="+", linestyle="none", markersize=9))
        labels.append("truth")
    name_axes(ax, *(words(space.parameters[i]) for i in _PAIR))
    few_ticks(ax, "x", 5)
    few_ticks(ax, "y", 5)
    title(ax, "posterior, 68 and 95 %")
    ax.legend(handles, labels, fontsize=8, frameon=True, edgecolor=GREY, framealpha=0.85)


def main(study: str, out: str) -> None:
    with Workbench(load_study(Path(study)), Terminal(quiet=True)) as bench:
        cover(bench).savefig(out, dpi=110)


if __name__ == "__main__":
    main(*sys.argv[1:])
