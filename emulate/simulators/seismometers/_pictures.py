"""Pictures of a network: where it detects, how its stations moved, and the least magnitude that it is sure of."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Patch
from torch import Tensor

from emulate.paper import COLOURS, GREY, INK, PALE
from emulate.simulators.seismometers.simulator import Seismometers

_CELLS, _MARGIN = 81, 0.05  # points along the longer side of a map; of its width beyond stations and epicentres
_STATION = COLOURS[1]
_PATH = "path"  # the name of steps `[s, d]` among the points
_LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)


def network(simulator: Seismometers, points: Mapping[str, Tensor]) -> Figure:
    """Detection at the first and the last of the points, and the least magnitude at the last."""
    named = {name: theta for name, theta in points.items() if theta.ndim == 1}
    shown = list(named)[:1] + list(named)[1:][-1:]
    x, y, grid = _grid(simulator, list(named.values()))
    figure = Figure(figsize=(3.1 * (len(shown) + 1) + 0.6, 4.1), layout="constrained", facecolor="white")
    axes = figure.subplots(1, len(shown) + 1, sharex=True, sharey=True, squeeze=False)[0]
    for ax, name in zip(axes, shown, strict=False):
        p = simulator.detected(named[name], grid).reshape(len(y), len(x)).numpy()
        image = ax.contourf(x, y, p, np.linspace(0, 1, 21), cmap="cividis")
        lines = ax.contour(x, y, p, _LEVELS, colors="white", linewidths=0.6)
        ax.clabel(lines, fmt="%g", fontsize=7)
        share = float(simulator.run(named[name]).mean())
        _title(ax, f"{name}: {100 * share:.1f} % detected")
        if name == shown[-1] and len(shown) > 1:
            _tracks(ax, simulator, named[shown[0]], named[name], points.get(_PATH))
    maps, ticks = list(axes[:-1]), [0, 0.25, 0.5, 0.75, 1]
    bar = figure.colorbar(image, ax=maps, location="bottom", shrink=0.6, aspect=35, ticks=ticks)
    _name(bar, f"P(detected), local magnitude {simulator.magnitude:g}")
    last = shown[-1]
    m = simulator.least_magnitude(named[last], grid).reshape(len(y), len(x)).numpy()
    image = axes[-1].contourf(x, y, m, _steps(m), cmap="viridis_r", extend="max")
    lines = axes[-1].contour(x, y, m, image.levels[::2], colors="white", linewidths=0.6)
    axes[-1].clabel(lines, fmt="%.3g", fontsize=7)
    bar = figure.colorbar(image, ax=axes[-1], location="bottom", aspect=18, ticks=image.levels[::2], format="%.3g")
    _name(bar, "local magnitude")
    _title(axes[-1], f"{last}: least magnitude, {100 * simulator.certainty:g} % sure")
    for ax, name in zip(axes, [*shown, last], strict=True):
        _furnish(ax, simulator, named[name], first=ax is axes[0], dots=ax is not axes[-1])
        ax.set_xlim(x[0], x[-1])
        ax.set_ylim(y[0], y[-1])
    _legend(figure, simulator, len(shown) > 1)
    return figure


def _grid(simulator: Seismometers, thetas: list[Tensor]) -> tuple[np.ndarray, np.ndarray, Tensor]:
    """Coordinates of a map over stations, epicentres and the prior's box, and its points `[y * x, 2]`."""
    ends = torch.stack([*thetas, *(simulator.space.from_unit(u) for u in simulator.space.ends())])
    all_ = torch.cat([simulator.stations(ends).flatten(0, 1), simulator.epicentres])
    low, high = all_.amin(0), all_.amax(0)
    margin = _MARGIN * (high - low).max().clamp_min(1.0)
    low, high = low - margin, high + margin
    step = float((high - low).max()) / (_CELLS - 1)
    x, y = (torch.linspace(float(a), float(b), max(2, round(float(b - a) / step) + 1), dtype=torch.float64)
            for a, b in zip(low, high, strict=True))  # fmt: skip
    return x.numpy(), y.numpy(), torch.cartesian_prod(y, x).flip(-1)


def _steps(m: np.ndarray) -> np.ndarray:
    """Round magnitudes that span most of a map."""
    low, high = m.min(), np.quantile(m, 0.97)
    step = next(s for s in (0.05, 0.1, 0.2, 0.5, 1.0) if (high - low) / s <= 16 or s == 1.0)
    return np.arange(np.floor(low / step), np.ceil(high / step) + 1) * step


def _furnish(ax: Axes, simulator: Seismometers, theta: Tensor, *, first: bool, dots: bool) -> None:
    """Stations, areas and epicentres, over a map with axes in km."""
    if dots:
        ax.plot(
            *simulator.epicentres.T.numpy(), ".", color="white", markersize=4, markeredgecolor=INK, markeredgewidth=0.4
        )
    for area in simulator.forbidden:
        centre = area["x"], area["y"]
        ax.add_patch(Circle(centre, area["radius"], facecolor="#ffffffb0", edgecolor=GREY, hatch="////", linewidth=1))
    for i, (x, y) in enumerate(simulator.stations(theta).tolist()):
        ax.plot(x, y, "^", markersize=8, color=INK if _stands(simulator, i) else _STATION, markeredgecolor="white",
                markeredgewidth=0.8, zorder=5)  # fmt: skip
    ax.set_aspect("equal")
    ax.set_xlabel("x [km]", fontsize=9, color=INK)
    ax.set_ylabel("y [km]" if first else "", fontsize=9, color=INK)
    ax.tick_params(labelsize=8, color=GREY, labelcolor=INK)


def _tracks(ax: Axes, simulator: Seismometers, start: Tensor, end: Tensor, path: Tensor | None) -> None:
    """The way of each station that is placed, in the steps of the ascent where they are known."""
    steps = torch.stack([start, end]) if path is None else path
    for i, way in enumerate(simulator.stations(steps).unbind(-2)):
        if not _stands(simulator, i):
            ax.plot(*way.T.numpy(), color=_STATION, linewidth=0.9, marker=".", markersize=3, zorder=4)
            ax.plot(*way[0].tolist(), "^", markersize=6, markerfacecolor="none", markeredgecolor=_STATION, zorder=4)


def _stands(simulator: Seismometers, i: int) -> bool:
    return {f"x{i + 1}", f"y{i + 1}"} <= set(simulator.fixed)


def _name(bar: Any, text: str) -> None:
    bar.set_label(text, fontsize=9, color=INK)
    bar.ax.tick_params(labelsize=8, color=GREY, labelcolor=INK)


def _title(ax: Axes, text: str) -> None:
    ax.set_title(text, fontsize=9, color=INK, loc="left")


def _legend(figure: Figure, simulator: Seismometers, moved: bool) -> None:
    handles: list[tuple[Line2D | Patch, str]] = [
        (Line2D([], [], marker="^", linestyle="none", color=_STATION, markersize=7), "station that is placed")
    ]
    if simulator.fixed:
        handles.append((Line2D([], [], marker="^", linestyle="none", color=INK, markersize=7), "that stands already"))
    if moved:
        handles.append((Line2D([], [], color=_STATION, marker=".", linewidth=1.3), "its way"))
    handles.append((Line2D([], [], marker=".", linestyle="none", color=GREY), "likely epicentre"))
    if simulator.forbidden:
        handles.append((Patch(facecolor=PALE, edgecolor=GREY, hatch="////"), "forbidden"))
    figure.legend(*zip(*handles, strict=True), loc="outside upper left", ncols=len(handles), fontsize=8, frameon=False,
                  labelcolor=INK)  # fmt: skip
