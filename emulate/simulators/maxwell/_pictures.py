"""What people who work with light expect to see: spectra and standing waves of a stack, the field in a device."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from emulate.paper import COLOURS, GREY, INK, PALE, lined
from emulate.simulators.maxwell.truths import transmitted

if TYPE_CHECKING:
    from emulate.simulators.maxwell.simulator import Maxwell
    from emulate.simulators.maxwell_device import MaxwellDevice

_SKY = COLOURS[5]
_SPECTRUM = tuple(round(0.7 + 0.02 * i, 4) for i in range(36))  # wavelengths of the dots


def stack_picture(simulator: "Maxwell", points: Mapping[str, Tensor]) -> Figure:
    """Spectra of all points in one panel; index and standing wave of each in one of its own."""
    named = list(points.items())[: len(COLOURS)]
    figure = Figure(figsize=(7.0, 5.0), layout="constrained", facecolor="white")
    upper, lower = figure.subfigures(2, 1)  # pyright: ignore[reportGeneralTypeIssues]  (of two rows, an array)
    spectrum = lined(upper.subplots())
    wide = replace(simulator, wavelengths=_SPECTRUM, show=("transmission",))
    fine = np.linspace(_SPECTRUM[0], _SPECTRUM[-1], 281)
    panels = np.atleast_1d(lower.subplots(1, len(named), sharey=True))
    for (name, theta), colour, ax in zip(named, COLOURS, panels, strict=False):
        index, thickness = (x.tolist() for x in simulator.stack(theta))
        spectrum.plot(fine, [transmitted(index, thickness, w) for w in fine], color=colour, linewidth=1.5)
        with torch.no_grad():
            spectrum.plot(_SPECTRUM, wide.run(theta), "o", color=colour, markersize=3.5, label=name)
        _wave(lined(ax), simulator, theta, colour)
        ax.set_title(name, fontsize=10, color=INK, loc="left")
    panels[0].set_ylabel(r"$|E|^2$; index $n$ in grey", fontsize=10, color=INK)
    spectrum.axvline(1.0, color=GREY, linewidth=0.8, linestyle=":")
    spectrum.set_xlabel("wavelength [of the design]", fontsize=10, color=INK)
    spectrum.set_ylabel("transmission", fontsize=10, color=INK)
    spectrum.legend(fontsize=9, frameon=False, labelcolor=INK, loc="best")
    return figure


def _wave(ax, simulator: "Maxwell", theta: Tensor, colour: str) -> None:
    one = replace(simulator, wavelengths=(1.0,), show=("transmission",))
    scene, x = one.scene, one.nodes.numpy()
    wave = scene.intensity(one.permittivity(theta.detach()))[:, 0].numpy()
    shown = slice(scene.screens[0], scene.screens[1] + 1)
    index, thickness = (v.tolist() for v in simulator.stack(theta))
    walls = [x[shown][0], 0.0, *np.cumsum(thickness), x[shown][-1]]
    ax.stairs(index, walls, baseline=0, fill=True, color=PALE)
    ax.stairs(index, walls, baseline=None, color=GREY, linewidth=0.8)
    ax.plot(x[shown], wave[shown], color=colour, linewidth=1.5)
    ax.set_ylim(0, 1.1 * max(wave[shown].max(), max(index)))
    ax.set_xlim(walls[0], walls[-1])
    ax.set_xlabel("x [wavelengths]", fontsize=10, color=INK)


def device_picture(device: "MaxwellDevice", points: Mapping[str, Tensor]) -> Figure:
    """A row for each point: the device as it is made, and the intensity in it."""
    named = list(points.items())[:3]
    made = device.made()
    (nx, ny), i, rim = device.scene.lattice.shape, device._corner[0], device.scene.lattice.absorber
    left, low = (device.scene.source - i) / device.cells, -(ny / 2 - rim[1]) / device.cells
    right = (nx - rim[0] - i) / device.cells
    whole = (left, right, low, -low)
    body = (
        0.0,
        device.pixels[0] / device.cells,
        -0.5 * device.pixels[1] / device.cells,
        0.5 * device.pixels[1] / device.cells,
    )
    inside = (slice(device.scene.source, nx - rim[0]), slice(rim[1], ny - rim[1]))
    share = (right - left) / (body[1] - body[0])
    tall = 6.0 / (1 + share) / (body[1] - body[0]) * -2 * low
    figure = Figure(figsize=(7.4, len(named) * (min(tall, 4.0) + 0.55)), layout="constrained", facecolor="white")
    axes = figure.subplots(len(named), 2, squeeze=False, width_ratios=(1, share))
    for (name, theta), (shape, field) in zip(named, axes, strict=True):
        theta = theta.detach()
        with torch.no_grad():
            density, grey, cut = made.density(theta).numpy(), device.run(theta).sum(), made.run(theta).sum()
            light = device.scene.intensity(made.matter(theta)[0])[inside].numpy()
        shape.imshow(density.T, origin="lower", extent=body, cmap="Greys", vmin=0, vmax=1.25, interpolation="nearest")
        shape.set_ylim(low, -low)
        shape.set_title(name, fontsize=10, color=INK, loc="left")
        shown = field.imshow(light.T, origin="lower", extent=whole, cmap="inferno", vmin=0)
        if 0 < density.mean() < 1:
            x, y = (np.linspace(a, b, n, endpoint=False) + 0.5 / device.cells
                    for a, b, n in ((*body[:2], density.shape[0]), (*body[2:], density.shape[1])))  # fmt: skip
            field.contour(x, y, density.T, [0.5], colors="white", linewidths=0.4)
        corners = [(body[k], body[2 + l]) for k, l in ((0, 0), (1, 0), (1, 1), (0, 1), (0, 0))]
        field.plot(*zip(*corners, strict=True), color="white", linewidth=0.6, linestyle=":")
        for height in device.targets:
            at = (device.scene.screens[1] - i) / device.cells
            field.plot(
                [at, at], [height - device.aperture / 2, height + device.aperture / 2], color=_SKY, linewidth=2.5
            )
        field.set_xlim(left, right)
        field.set_ylim(low, -low)
        field.set_title(
            f"{float(cut):.3f} of the power; {float(grey):.3f} before the cut", fontsize=10, color=INK, loc="left"
        )
        bar = figure.colorbar(shown, ax=field, pad=0.02)
        bar.ax.set_ylabel(r"$|E|^2$", fontsize=9, color=INK)
        bar.ax.tick_params(labelsize=8, color=GREY, labelcolor=INK)
        shape.set_ylabel("y [wavelengths]", fontsize=10, color=INK)
        for ax in (shape, field):
            ax.tick_params(labelsize=9, color=GREY, labelcolor=INK)
            ax.set_xlabel("x [wavelengths]", fontsize=10, color=INK)
    return figure
