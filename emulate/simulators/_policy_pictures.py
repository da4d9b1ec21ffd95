"""A policy as those who build controllers look at it: trajectories in phase space, its cost, and what an emulator makes of it."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from emulate.paper import COLOURS, GREY, INK, lined
from emulate.seeds import replicates

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from emulate.simulators.policy import Policy

_SHOWN, _ROLLOUTS, _RUNS = 8, 64, 4  # trajectories; rollouts that a curve averages over; runs by which a cost is known
_ALONG = 5  # points between the first and the last of those that are named
_SEED = 20_26


def picture(policy: "Policy", points: Mapping[str, Tensor]) -> "Figure":
    """Phase space; the mean cost step by step; and cost in the emulator against cost in the environment, where there is one."""
    from matplotlib.figure import Figure

    panels = 1 + (not policy.returns) + bool(policy.emulator)
    figure = Figure(figsize=(2.6 + 2.9 * panels, 3.4), layout="constrained", facecolor="white")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    real = policy.made()
    _phases(axes[0], real, points)
    if not policy.returns:
        _costs(axes[1], policy, real, points)
    if policy.emulator:
        _agreement(axes[2], policy, real, points)
    for ax in axes:
        lined(ax)
    return figure


def _phases(ax: "Axes", real: "Policy", points: Mapping[str, Tensor]) -> None:
    """The last two states, of episodes that begin alike for all policies."""
    i, j = len(real.real.states) - 2, len(real.real.states) - 1
    i = max(i, 0)
    start = _starts(real)
    for colour, (name, theta) in zip(COLOURS, points.items()):
        x = real.rollout(theta, seed=_SEED, start=start)["states"]
        for n in range(x.shape[1]):
            ax.plot(x[:, n, i], x[:, n, j], color=colour, linewidth=0.8, alpha=0.7, label=name if n == 0 else None)
    ax.plot(start[:, i], start[:, j], "o", color=INK, markersize=3, label="start", zorder=3)
    ax.set(
        xlabel=_word(real.real.states[i]), ylabel=_word(real.real.states[j]), title="trajectories in the environment"
    )
    low, high = ax.get_ylim()
    ax.set_ylim(low, high + 0.2 * (high - low))  # room for the legend
    ax.legend(frameon=False, fontsize=8, loc="upper center", ncols=3, columnspacing=1.0)


def _starts(real: "Policy") -> Tensor:
    """Where trajectories begin: around the origin, where all episodes begin at one state, else where they begin."""
    from emulate.noise import Noise

    if real.real.scattered:
        return real.real.initial(Noise(_SEED), _SHOWN)
    angle = torch.arange(_SHOWN, dtype=torch.float64) * (2 * math.pi / _SHOWN)
    x = torch.zeros(_SHOWN, len(real.real.states), dtype=torch.float64)
    x[:, -2:] = 1.5 * torch.stack((angle.cos(), angle.sin()), -1)[:, -x.shape[1] :][:, :2]
    return x


def _costs(ax: "Axes", policy: "Policy", real: "Policy", points: Mapping[str, Tensor]) -> None:
    from dataclasses import replace

    for colour, (name, theta) in zip(COLOURS, points.items()):
        for one, style in ((real, "-"), (policy, (0, (4, 2)))) if policy.emulator else ((real, "-"),):
            many = (
                replace(one, episodes=_ROLLOUTS) if one.real.smooth or one.emulator else replace(one, episodes=_SHOWN)
            )
            mean = many.rollout(theta, seed=_SEED)["costs"].mean(1)
            where = " in the emulator" if one.emulator else ""
            ax.plot(range(len(mean)), mean, color=colour, linewidth=1.2, linestyle=style, label=f"{name}{where}")
    ax.set(xlabel="step", ylabel="mean cost of a step", title="cost")
    ax.set_ylim(bottom=0)
    ax.legend(frameon=False, fontsize=8)


def _agreement(ax: "Axes", policy: "Policy", real: "Policy", points: Mapping[str, Tensor]) -> None:
    """Costs along the line from the first to the last point, and at all of them."""
    ends = list(points.values())
    line = [ends[0] + (ends[-1] - ends[0]) * k / (_ALONG - 1) for k in range(_ALONG)] if len(ends) > 1 else ends
    told = [[_told(one, t) for t in line] for one in (policy, real)]
    ax.errorbar([v for v, _ in told[0]], [v for v, _ in told[1]], xerr=[e for _, e in told[0]], yerr=[e for _, e in told[1]],
                color=GREY, fmt="-", linewidth=1, elinewidth=0.8, label="between" if len(ends) > 1 else None)  # fmt: skip
    for colour, (name, theta) in zip(COLOURS, points.items()):
        (x, dx), (y, dy) = _told(policy, theta), _told(real, theta)
        ax.errorbar([x], [y], xerr=[dx], yerr=[dy], fmt="o", color=colour, markersize=5, label=name, zorder=3)
    low, high = (f(v for side in told for v, _ in side) for f in (min, max))
    pad = 0.1 * (high - low) or 0.1 * abs(high) or 0.1
    ax.plot([low - pad, high + pad], [low - pad, high + pad], color=INK, linewidth=0.8, linestyle=(0, (1.5, 1.5)))
    ax.set(xlabel="cost in the emulator", ylabel="cost in the environment", title="the emulator's word")
    ax.legend(frameon=False, fontsize=8)


def _told(policy: "Policy", theta: Tensor) -> tuple[float, float]:
    """The output at theta with two standard errors."""
    n = _RUNS if policy.stochastic else 1
    with torch.no_grad():
        y = torch.stack([policy.run(theta, seed=s) for s in replicates(_SEED, n)])[:, 0]
    return float(y.mean()), 2 * float(y.std()) / n**0.5 if n > 1 else 0.0


def _word(name: Any) -> str:
    return str(name).replace("_", " ")
