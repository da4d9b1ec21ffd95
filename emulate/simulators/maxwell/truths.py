"""What is known of layers and slabs without any of this code: the formula of Airy, and characteristic matrices."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from emulate.contracts import Truth

if TYPE_CHECKING:
    from emulate.simulators.maxwell.simulator import Maxwell
    from emulate.simulators.maxwell_device import MaxwellDevice

__all__ = ["known", "known_of_planes", "transmitted", "within"]

_AIRY = "Airy 1833: T = 1 / (1 + ((n^2 - 1) / 2n)^2 sin^2(2 pi n d)), n = 2, d = 0.3"
_BEAM = {"pixels": (60, 180), "cells": 20, "coarse": 20, "waist": 2.0, "distance": 3.0, "aperture": 0.75, "targets": (0.0,),
         "mirror": True, "periods": 22.0}  # fmt: skip
_MATRICES = "Born & Wolf 1999, sec. 1.6: quarter-wave layers"


def transmitted(index: Sequence[float], thickness: Sequence[float], wavelength: float) -> float:
    """The share of power that passes layers in vacuum, by the product of their characteristic matrices.

    index `[l + 2]`: before, of, and behind the layers; thickness `[l]`, in the unit of the wavelength.

    Reference: Born & Wolf 1999, Principles of Optics, sec. 1.6.

    >>> round(transmitted([1.0, 2.0, 1.0], [0.3], 1.0), 7)
    0.8372832
    """
    whole = np.eye(2, dtype=complex)
    for n, d in zip(index[1:-1], thickness, strict=True):
        phase = 2 * math.pi * n * d / wavelength
        whole = whole @ np.array(
            [[math.cos(phase), 1j * math.sin(phase) / n], [1j * n * math.sin(phase), math.cos(phase)]]
        )
    b, c = whole @ np.array([1.0, index[-1]])
    return float(4 * index[0] * index[-1] / abs(index[0] * b + c) ** 2)


def within(waist: float, distance: float, aperture: float) -> float:
    """The share of the power from a line current exp(-y^2 / waist^2) that passes an aperture on the axis, in two dimensions.

    By its angular spectrum: a plane wave of wave number k across has E in proportion to exp(-k^2 waist^2 / 4) / kz and H to kz
    times as much, kz^2 = (2 pi)^2 - k^2; what does not travel is left out. Lengths in wavelengths.

    Reference: Goodman 2005, Introduction to Fourier Optics, sec. 3.10.

    >>> round(within(2.0, 0.0, 10.0), 4), round(within(3.0, 5.0, 1.0), 3)
    (1.0, 0.258)
    """
    k = 2 * math.pi * np.sin(np.linspace(-math.pi / 2, math.pi / 2, 2001)[1:-1])
    kz = np.sqrt(4 * math.pi**2 - k**2)
    weight = np.gradient(k) * np.exp(-((k * waist / 2) ** 2) + 1j * kz * distance)
    y = np.linspace(-0.5 * aperture, 0.5 * aperture, 401)
    waves = np.exp(1j * np.outer(y, k))
    flux = ((waves @ (weight / kz)) * (waves @ weight).conj()).real
    whole = 2 * math.pi * (np.abs(weight) ** 2 / kz / np.gradient(k)).sum()
    return float(np.trapezoid(flux, y) / whole)


def known(simulator: "Maxwell") -> tuple[Truth, ...]:
    """A slab and its derivative at 40 cells or more to the wavelength in it; energy, a coating and a mirror at 40 in vacuum."""
    one = replace(simulator, space=type(simulator).space, layers=(("n", "d"),), wavelengths=(1.0,), substrate=1.0,
                  show=("transmission", "reflection"), cells=max(simulator.cells, 40),
                  periods=max(simulator.periods, 24.0))  # fmt: skip
    slab = torch.tensor([2.0, 0.3], dtype=torch.float64)
    fine = replace(one, cells=max(simulator.cells, 80))  # the index is 2
    coated = replace(one, substrate=2.25)
    quarter = torch.tensor([1.5, 1 / 6], dtype=torch.float64)
    # the air gap of the parameters is a layer of vacuum: the mirror behind it is fixed
    pair = ((2.3, 0.25 / 2.3), (1.45, 0.25 / 1.45))
    mirror = replace(one, layers=(("n", "d"), *pair * 5), substrate=1.52, periods=max(simulator.periods, 30.0))
    air = torch.tensor([1.0, 0.25], dtype=torch.float64)
    return (
        Truth("share that passes a slab", lambda: fine.run(slab)[0], 0.8372832, 1e-3, _AIRY),
        Truth("its derivative by the index", lambda: fine.jacobian(slab, seed=0)[1][0, 0], -0.9339940, 1e-3, _AIRY),
        Truth("what passes and what comes back", lambda: one.run(slab).sum(), 1.0, 1e-4, "conservation of energy"),
        Truth("share that passes a quarter-wave coating of 1.5 on 2.25", lambda: coated.run(quarter)[0], 1.0, 2e-4,
              "(n^2 - n_s)^2 = 0"),
        Truth("share that five pairs 2.3 / 1.45 on 1.52 send back", lambda: mirror.run(air)[1], 0.97423861, 1e-3, _MATRICES),
    )  # fmt: skip


def known_of_planes(device: "MaxwellDevice") -> tuple[Truth, ...]:
    """A device that is filled evenly, in an even wave between periodic sides, is a slab; in either polarisation."""
    filled = torch.ones(1, dtype=torch.float64)

    def passed(polarisation: str) -> float:
        slab = replace(device, space=type(device).space, pixels=(12, 4), coarse=12, cells=40, mirror=False, index=2.0, waist=0.0,
                       targets=(0.0,), aperture=1e3, distance=0.5, polarisation=polarisation, periods=24.0)  # fmt: skip
        return float(slab.run(filled)[0])

    def spread() -> float:
        free = replace(device, space=type(device).space, **_BEAM)
        return float(free.run(torch.zeros(free.space.d, dtype=torch.float64)))

    away = _BEAM["distance"] + (2 * (_BEAM["cells"] // 4) + _BEAM["pixels"][0]) / _BEAM["cells"]  # from the source
    return (
        *(Truth(f"share that passes a device filled evenly, {of} on the plane", lambda of=of: passed(of), 0.8372832, 1e-3, _AIRY)
          for of in ("Ez", "Hz")),
        Truth("share of a Gaussian beam within an aperture", spread, within(_BEAM["waist"], away, _BEAM["aperture"]), 2e-3,
              "Goodman 2005, sec. 3.10: angular spectrum of a Gaussian current", slow=True),
    )  # fmt: skip
