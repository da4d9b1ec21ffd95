"""The loop of an active design: the emulator's error by runs, and where the points of its rounds went."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from emulate.importance import TRUSTED
from emulate.space import Space
from pipelines.figures.sheets import COLOURS, GREY, SCALE, log_axis, name_axes, parameter_axis, sheet, title, words


def rounds(space: Space, found: Sequence[Mapping[str, Any]], training: np.ndarray, target: float | None,
           aim: str) -> Figure:  # fmt: skip
    """`found` are the rounds with runs, error and theta; `training` theta `[n, d]` begins with the first design. The two
    parameters are those that the points of the rounds crowd in most."""
    figure, axes = sheet(1, 2, 3.6)
    left, right = axes[0]
    left.plot([r["runs"] for r in found], [r["error"] for r in found], "o-", color=COLOURS[0], markersize=4)
    if target is not None:
        left.axhline(target, color=COLOURS[1], linewidth=1.2)
        left.annotate("target", (1, target), xycoords=("axes fraction", "data"), ha="right", va="bottom", color=COLOURS[1],
                      fontsize=9)  # fmt: skip
    if all(r["error"] > 0 for r in found):
        log_axis(left, "y")
    left.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    name_axes(left, "training runs", f"error over the {aim}")
    title(left, "error by the emulator's own variance")
    first = training[: found[0]["runs"]]
    added = [(r["round"], np.array(r["theta"])) for r in found if r["theta"]]
    order = _crowded(space, np.concatenate([t for _, t in added]) if added else first)
    x, y = sorted(order[:2]) if space.d > 1 else (0, None)
    vertical = np.zeros(len(first)) if y is None else first[:, y]
    right.scatter(first[:, x], vertical, s=16, facecolors="none", edgecolors=GREY, linewidths=0.8)
    for number, theta in added:
        at = np.full(len(theta), number + 1) if y is None else theta[:, y]
        shade = SCALE(1 - number / max(1, len(added) - 1))
        right.scatter(theta[:, x], at, s=20, color=[shade], linewidths=0)
    parameter_axis(right, space.parameters[x], "x")
    if y is not None:
        parameter_axis(right, space.parameters[y], "y")
    name_axes(right, words(space.parameters[x]), "round" if y is None else words(space.parameters[y]))
    title(right, "points of the rounds, later ones darker")
    return figure


def settling(found: Sequence[Mapping[str, Any]]) -> Figure:
    """By how much the posterior moved with each round, and by how much the runs of the round were missed."""
    later = [r for r in found if r.get("moved")]
    runs = [r["runs"] for r in later]
    told = [{**r["moved"], "surprise": r.get("surprise")} for r in later]
    panels = (("shift", "shift of the mean [sd]", None, "shift since the round before"),
              ("width", "sd before over sd", 1.0, "width of the round before"),
              ("pareto_k", "Pareto k", TRUSTED, "weights from one to the next"),
              ("surprise", "error over error told", 1.0, "surprise by the round's runs"))  # fmt: skip
    figure, axes = sheet(2, 2, 4.8, sharex=True)
    for ax, (key, label, line, text) in zip(axes.flat, panels, strict=True):
        values = [np.nan if t[key] is None else t[key] for t in told]
        ax.plot(runs, values, "o-", color=COLOURS[0], markersize=4)
        if line is not None:
            ax.axhline(line, color=COLOURS[1] if key == "pareto_k" else GREY, linewidth=1.0, linestyle="--")
        if key == "shift" and all(v > 0 for v in values):
            log_axis(ax, "y")
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        name_axes(ax, "training runs" if ax in axes[1] else "", label)
        title(ax, text)
    return figure


def _crowded(space: Space, theta: np.ndarray) -> list[int]:
    """The parameters by the spread of these points in the unit cube, the least first."""
    import torch

    return np.argsort(space.to_unit(torch.from_numpy(theta)).numpy().std(0), kind="stable").tolist()
