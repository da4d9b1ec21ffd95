"""What a trader and a numerical analyst expect to see of options."""

import importlib
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from emulate.paper import COLOURS, DASHES, GREY, lined

if TYPE_CHECKING:
    from emulate.simulators.option.simulator import Option

_TIMES = (1.0, 0.25, 0.05)  # of the time to expiry


def picture(simulator: "Option", points: Mapping[str, Tensor]) -> Figure | None:
    """See `Option.picture`."""
    if not points:
        return None
    drawn = importlib.import_module("emulate.trade_off")
    figure = Figure(figsize=(9.0, 7.6), layout="constrained", facecolor="white")
    (prices, deltas), below = figure.subplots(2, 2)
    for ax in (prices, deltas, *below):
        lined(ax)
    _prices(prices, simulator, points)
    theta = next(iter(points.values()))
    _deltas(deltas, simulator, theta)
    middle = simulator.strikes[len(simulator.strikes) // 2]
    (one, at), looks = simulator.of_spot(theta, middle), {}
    kin = [one] if one.vanilla() == one else [one, one.vanilla()]
    for ax, of in zip(below, kin):
        looks |= drawn.draw(ax, of.sides(at), 0, 0)
        ax.set_title(f"delta of the {_words(of)}, strike {middle:g}", fontsize=10, loc="left")
        ax.set_xlabel("standard deviation of one path, over the truth", fontsize=9)
        ax.set_ylabel("bias, over the truth", fontsize=9)
    below[-1].set_visible(len(kin) > 1)
    handles = [Line2D([], [], linestyle="none", **look) for look in looks.values()]
    figure.legend(handles, list(looks), loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    return figure


def _prices(ax, simulator: "Option", points: Mapping[str, Tensor]) -> None:
    low, high = min(simulator.strikes), max(simulator.strikes)
    strikes = torch.linspace(0.9 * low, 1.1 * high, 120).tolist()
    for i, (name, theta) in enumerate(points.items()):
        colour, dash = COLOURS[i % len(COLOURS)], DASHES[i % len(DASHES)]
        ax.plot(
            strikes,
            replace(simulator, strikes=tuple(strikes)).greeks(theta).price,
            color=colour,
            linestyle=dash,
            label=name,
        )
        ax.plot(simulator.strikes, simulator.greeks(theta).price, "o", color=colour, markersize=4)
    ax.set_title(f"{_words(simulator)}: price today", fontsize=10, loc="left")
    ax.set_xlabel("strike", fontsize=9)
    ax.set_ylabel("price", fontsize=9)
    ax.legend(fontsize=8, frameon=False)


def _deltas(ax, simulator: "Option", theta: Tensor) -> None:
    strike = simulator.strikes[len(simulator.strikes) // 2]
    spots = torch.linspace(0.6 * strike, 1.4 * strike, 400, dtype=torch.float64)
    market = {k: v.expand(len(spots)) for k, v in simulator.market(theta).items()}
    for i, share in enumerate(_TIMES):
        time = share * market["time"]
        greek = simulator.closed_form(
            {**market, "spot": spots, "time": time}, torch.tensor(strike, dtype=torch.float64)
        )
        ax.plot(spots, greek.delta, color=COLOURS[i], linestyle=DASHES[i], label=f"{float(time[0]):.3g} yr to expiry")
    ax.axvline(strike, color=GREY, linewidth=0.8, linestyle=":")
    ax.set_title(f"delta, strike {strike:g}", fontsize=10, loc="left")
    ax.set_xlabel("price of the asset today", fontsize=9)
    ax.set_ylabel("d price / d spot", fontsize=9)
    ax.legend(fontsize=8, frameon=False)


def _words(simulator: "Option") -> str:
    return simulator.payoff.replace("_", " ")
