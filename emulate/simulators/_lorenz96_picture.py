"""What is expected to be seen of Lorenz's weather: its waves, its exponents, and how long a derivative is of use."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from emulate.paper import COLOURS, GREY, INK, lined
from emulate.simulators import _lorenz96_facts as facts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from emulate.simulators.lorenz96 import Lorenz96

_WAVES, _GROWN, _MEMBERS = 10.0, 4.0, 50  # time of waves, time that derivatives are carried along, members
_SHOWN = 3  # points, at most


def drawn(simulator: "Lorenz96", points: Mapping[str, Tensor]) -> "Figure":
    """The waves at each of the points, and below their exponents and derivatives."""
    from matplotlib.figure import Figure

    points = dict(list(points.items())[:_SHOWN])
    figure = Figure(figsize=(7.0, 6.4), layout="constrained", facecolor="white")
    grid = figure.add_gridspec(2, 2 * len(points), height_ratios=(1.15, 1.0))
    first = None
    for i, (name, theta) in enumerate(points.items()):
        first = figure.add_subplot(grid[0, 2 * i : 2 * i + 2], sharey=first)
        image = _waves(first, simulator, name, theta, left=i == 0)
    figure.colorbar(image, ax=figure.axes, label="x", shrink=0.9)
    _exponents(figure.add_subplot(grid[1, : len(points)]), simulator, points)
    _derivatives(figure.add_subplot(grid[1, len(points) :]), simulator, points)
    return figure


def _waves(ax: "Axes", simulator: "Lorenz96", name: str, theta: Tensor, *, left: bool) -> Any:
    with torch.no_grad():
        states = simulator.states(theta, simulator.starts(1, seed=1)[0], _WAVES, simulator.spinup)
        x = torch.stack(list(states)).numpy()
    image = ax.imshow(x, aspect="auto", origin="lower", cmap="RdBu_r", vmin=-12, vmax=12, interpolation="bilinear",
                      extent=(0, simulator.sites, 0, _WAVES))  # fmt: skip
    told = ", ".join(
        f"{p.label or p.name} = {v:.3g}" for p, v in zip(simulator.space.parameters, theta.tolist(), strict=True)
    )
    ax.set_title(f"{name}: ${told.replace(', ', '$, $')}$", fontsize=10, color=INK, loc="left")
    ax.set_xlabel("site", fontsize=10)
    if left:
        ax.set_ylabel("time", fontsize=10)
    ax.tick_params(labelsize=9, labelleft=left)
    return image


def _exponents(ax: "Axes", simulator: "Lorenz96", points: Mapping[str, Tensor]) -> None:
    for colour, (name, theta) in zip(COLOURS, points.items()):
        found = facts.spectrum(simulator, theta, time=2.0, members=6)
        largest = facts.spectrum(simulator, theta, time=6.0, members=100, count=1).largest
        ax.plot(np.arange(1, simulator.sites + 1), found.values, color=colour, linewidth=1.6,
                label=f"{name}: largest {largest:.2f}")  # fmt: skip
    ax.axhline(0, color=GREY, linewidth=0.8)
    ax.set_xlabel("number", fontsize=10)
    ax.set_ylabel("Lyapunov exponent, 1 / time", fontsize=10)
    _dressed(ax)


def _derivatives(ax: "Axes", simulator: "Lorenz96", points: Mapping[str, Tensor]) -> None:
    """By the first parameter."""
    for colour, (name, theta) in zip(COLOURS, points.items()):
        found = facts.slopes(simulator, theta, time=_GROWN, members=_MEMBERS).averaged()
        signal = facts.response(simulator, theta, members=300, time=8.0, count=1)
        ax.semilogy(found.time, found.scatter[:, 0, 0], color=colour, linewidth=1.6, label=f"{name}: scatter of a run")
        ax.axhline(float(signal.abs()), color=colour, linewidth=1.2, linestyle=(0, (5, 2)))
        horizon = found.measured(signal.expand(1, len(theta)))[0, :1]
        if horizon.isfinite():
            ax.plot(horizon, signal.abs(), "o", color=colour, markersize=5)
    ax.plot([], [], color=GREY, linewidth=1.2, linestyle=(0, (5, 2)), label="slope of the average")
    of = simulator.space.parameters[0]
    ax.set_xlabel("length of the run", fontsize=10)
    ax.set_ylabel(rf"$|\mathrm{{d}}\langle x\rangle / \mathrm{{d}}{of.label or of.name}|$", fontsize=10)
    _dressed(ax)


def _dressed(ax: "Axes") -> None:
    lined(ax).legend(fontsize=8.5, frameon=False)
