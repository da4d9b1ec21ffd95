"""What an engineer and a numerical analyst expect to see of heat in a rod."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from emulate.paper import COLOURS, DASHES, GREY, PALE, lined
from emulate.simulators.heat.series import temperature

if TYPE_CHECKING:
    from emulate.simulators.heat.simulator import Heat

_COUNTS = {"euler": (20, 40, 80), "rk4": (12, 24, 48)}
_KINDS = {
    "adjoint": "discretise, then differentiate",
    "continuous": "differentiate, then discretise",
    "gap": "their distance",
}


def picture(simulator: "Heat", points: Mapping[str, Tensor]) -> Figure | None:
    """See `Heat.picture`."""
    if not points:
        return None
    figure = Figure(figsize=(9.0, 7.6), layout="constrained", facecolor="white")
    (profiles, slopes), (plot, table) = figure.subplots(2, 2)
    for ax in (profiles, slopes, plot):
        lined(ax)
    _profiles(profiles, simulator, points)
    theta = next(iter(points.values()))
    _slopes(slopes, simulator, theta)
    coarse = replace(simulator, cells=5, sensors=(0.4 * simulator.length, 0.8 * simulator.length))
    rows = {
        scheme: replace(coarse, scheme=scheme).orders(theta, counts)
        for scheme, counts in _counts(coarse, theta).items()
    }
    _plot(plot, rows)
    _table(table, rows)
    return figure


def _counts(simulator: "Heat", theta: Tensor) -> dict[str, tuple[int, ...]]:
    """Steps at which both schemes are well inside what they can take."""
    found = {}
    for scheme, counts in _COUNTS.items():
        least = replace(simulator, scheme=scheme).least_steps(theta)
        first = max(counts[0], least + least // 4)
        found[scheme] = tuple(first * 2**i for i in range(len(counts)))
    return found


def _profiles(ax, simulator: "Heat", points: Mapping[str, Tensor]) -> None:
    x = torch.linspace(0.0, simulator.length, 201, dtype=torch.float64)
    for i, (name, theta) in enumerate(points.items()):
        colour, dash = COLOURS[i % len(COLOURS)], DASHES[i % len(DASHES)]
        for share in (0.25, 1.0):
            u = simulator.peak * temperature(
                *simulator.named(theta), x, length=simulator.length, time=share * simulator.time
            )
            ax.plot(
                x,
                u,
                color=colour,
                linestyle=dash,
                label=name if share == 1.0 else None,
                alpha=1.0 if share == 1.0 else 0.45,
            )
        ax.plot(simulator.sensors, simulator.series(theta)[0], "o", color=colour, markersize=4)
    ax.plot(x, simulator.peak * torch.sin(torch.pi * x / simulator.length), color=GREY, linewidth=1, label="start")
    ax.set_title(f"temperature at 0, {simulator.time / 4:g} and {simulator.time:g} s", fontsize=10, loc="left")
    ax.set_xlabel("x [mm]", fontsize=9)
    ax.set_ylabel("temperature above the ends [K]", fontsize=9)
    ax.legend(fontsize=8, frameon=False)


def _slopes(ax, simulator: "Heat", theta: Tensor) -> None:
    x = torch.linspace(0.0, simulator.length, 201, dtype=torch.float64)

    def along(t: Tensor) -> Tensor:
        return simulator.peak * temperature(*simulator.named(t), x, length=simulator.length, time=simulator.time)

    slope, steps = torch.func.jacfwd(along)(theta), simulator.series(theta)[1]
    for i, parameter in enumerate(simulator.space.parameters):
        unit = 0.01 * theta[i]
        ax.plot(x, unit * slope[:, i], color=COLOURS[i], label=parameter.name)
        ax.plot(simulator.sensors, unit * steps[:, i], "o", color=COLOURS[i], markersize=4)
    ax.axhline(0, color=GREY, linewidth=0.8)
    ax.set_title(f"change at {simulator.time:g} s for one per cent of a parameter", fontsize=10, loc="left")
    ax.set_xlabel("x [mm]", fontsize=9)
    ax.set_ylabel("temperature [K]", fontsize=9)
    ax.legend(fontsize=8, frameon=False)


def _plot(ax, rows: Mapping[str, Sequence]) -> None:
    for scheme, dash in zip(rows, DASHES):
        counts = [row.steps for row in rows[scheme]]
        for which, colour, marker in zip(_KINDS, COLOURS, ("o", "s", "^")):
            errors = [getattr(row, which) for row in rows[scheme]]
            ax.loglog(counts, errors, marker, linestyle=dash, color=colour, markersize=5, linewidth=1.2)
    handles = [Line2D([], [], color=colour, marker=marker) for colour, marker in zip(COLOURS, ("o", "s", "^"))][
        : len(_KINDS)
    ]
    handles += [Line2D([], [], color=GREY, linestyle=dash) for _, dash in zip(rows, DASHES)]
    ax.legend(handles, [*_KINDS.values(), *rows], fontsize=8, frameon=False, loc="center right")
    ticks = sorted({row.steps for of in rows.values() for row in of})
    ax.set_xticks(ticks, [str(k) for k in ticks])
    ax.minorticks_off()
    ax.set_title("what derivatives are wrong by", fontsize=10, loc="left")
    ax.set_xlabel("steps", fontsize=9)
    ax.set_ylabel("error, over the largest derivative", fontsize=9)


def _table(ax, rows: Mapping[str, Sequence]) -> None:
    from emulate.simulators.heat.simulator import order

    ax.axis("off")
    cells = []
    for scheme, of in rows.items():
        cells += [[scheme, str(row.steps), *(f"{getattr(row, which):.1e}" for which in _KINDS)] for row in of]
        counts = [row.steps for row in of]
        cells += [["", "order", *(f"{order(counts, [getattr(row, which) for row in of]):.2f}" for which in _KINDS)]]
    table = ax.table(cells, colLabels=["scheme", "steps", "discretise\nfirst", "differentiate\nfirst", "apart"],
                     loc="center", cellLoc="right", edges="horizontal")  # fmt: skip
    table.auto_set_font_size(False)
    table.set_fontsize(9)
    table.scale(1.0, 1.6)
    for (r, _), cell in table.get_celld().items():
        cell.set_edgecolor(PALE)
        if r == 0:
            cell.set_height(2 * cell.get_height())
    ax.set_title("the same as a table", fontsize=10, loc="left")
