"""The picture of an antenna: where its wires are, where it radiates, and how wide its band is."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from emulate.paper import COLOURS

_GREY = "#808080"
_FLOOR, _BAND, _OHM = -20.0, 0.06, 50.0  # dBi of the middle of the pattern; to either side; of the line that feeds it


def draw(antenna: Any, points: Mapping[str, Tensor]) -> Figure:
    """Four panels: geometry, pattern, gain and reflection over frequency."""
    figure = Figure(figsize=(9.0, 6.4), layout="constrained")
    wires, pattern = figure.add_subplot(2, 2, 1), figure.add_subplot(2, 2, 2, projection="polar")
    gain, match = figure.add_subplot(2, 2, 3), figure.add_subplot(2, 2, 4)
    phi, scale = torch.linspace(0, 2 * math.pi, 361, dtype=torch.float64), np.linspace(1 - _BAND, 1 + _BAND, 25)
    for i, ((name, theta), colour) in enumerate(zip(points.items(), COLOURS)):
        with torch.no_grad():
            built = antenna._built(theta)
            current = built.current(antenna.radius)
            level = 10 * torch.log10(built.directivity(current, phi).clamp_min(1e-6))
            band = [_scaled(antenna, theta, f) for f in scale]
        line = "-" if i == 0 else "--"
        for j, (x, length) in enumerate(zip(built.place.tolist(), built.length.tolist())):
            wires.plot([x, x], [-length / 2, length / 2], color=colour, linewidth=3 if j == 1 else 1.5,
                       alpha=0.9, linestyle=line, label=name if j == 0 else None)  # fmt: skip
        wires.plot([0], [0], marker="o", color=colour, markersize=5)
        pattern.plot(phi, level.clamp_min(_FLOOR), color=colour, label=name, linestyle=line)
        gain.plot(scale, [b[0] for b in band], color=colour, linestyle=line, label=name)
        match.plot(scale, [b[1] for b in band], color=colour, linestyle=line, label=name)
    wires.axhline(0, color=_GREY, linewidth=0.8, zorder=0)
    wires.set(
        xlabel="along the boom [wavelengths]", ylabel="along the wires [wavelengths]", title="wires; a dot is the feed"
    )
    wires.margins(x=0.15)
    pattern.set(rlim=(_FLOOR, 12), rticks=[-20, -10, 0, 10], xlabel="gain across the wires [dBi]",
                theta_zero_location="E")  # fmt: skip
    for ax in (gain, match):
        ax.axvline(1, color=_GREY, linewidth=0.8, linestyle=":", zorder=0)
        ax.grid(alpha=0.3)
    gain.set(xlabel="frequency / that of the design", ylabel="gain ahead [dBi]")
    match.set(xlabel="frequency / that of the design", ylabel=f"reflection, {_OHM:g} ohm line [dB]")
    figure.legend(*gain.get_legend_handles_labels(), loc="outside upper center", ncols=len(points), frameon=False)
    return figure


def _scaled(antenna: Any, theta: Tensor, f: float) -> tuple[float, float]:
    """Gain in dBi and reflection in dB where all is f times as long in wavelengths."""
    built = antenna._built(theta)
    built = type(built)(f * built.length, f * built.place, built.fed, built.each)
    current = built.current(f * antenna.radius)
    z = complex(1 / current[built.feed])
    ahead = built.directivity(current, torch.zeros(1, dtype=torch.float64))
    return float(10 * torch.log10(ahead[0])), 20 * math.log10(max(abs((z - _OHM) / (z + _OHM)), 1e-4))
