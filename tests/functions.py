"""Functions of the unit cube on which emulators are compared: u `[n, d]` -> y `[n]`, all positive.

Ranges and formulas as collected by Surjanovic and Bingham, Virtual Library of Simulation Experiments.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from emulate.runs import Field, Outputs, Runs
from emulate.space import Parameter, Space, Uniform


class Function(NamedTuple):
    f: Callable[[np.ndarray], np.ndarray]
    d: int

    def runs(self, n: int, seed: int) -> Runs:
        """n runs at scrambled Sobol points."""
        u = sobol(n, self.d, seed)
        space = Space(tuple(Parameter(f"x{i}", Uniform(0.0, 1.0)) for i in range(self.d)))
        return Runs.of(space, Outputs((Field("y", positive=True),)), u, self.f(u)[:, None])


def sobol(n: int, d: int, seed: int) -> np.ndarray:
    return torch.quasirandom.SobolEngine(d, scramble=True, seed=seed).draw(n, dtype=torch.float64).numpy()


def _in(u: np.ndarray, low: list[float], high: list[float]) -> np.ndarray:
    return (np.array(low) + u * (np.array(high) - np.array(low))).T


def borehole(u: np.ndarray) -> np.ndarray:
    """Flow through a borehole, eight inputs (Harper and Gupta 1983; ranges of Morris, Mitchell and Ylvisaker 1993)."""
    low, high = [0.05, 100, 63070, 990, 63.1, 700, 1120, 9855], [0.15, 50000, 115600, 1110, 116, 820, 1680, 12045]
    rw, r, tu, hu, tl, hl, length, kw = _in(u, low, high)
    ln = np.log(r / rw)
    return 2 * np.pi * tu * (hu - hl) / (ln * (1 + 2 * length * tu / (ln * rw**2 * kw) + tu / tl))


def otl(u: np.ndarray) -> np.ndarray:
    """Midpoint voltage of a push-pull circuit without output transformer, six inputs (Ben-Ari and Steinberg 2007)."""
    b1, b2, f, c1, c2, beta = _in(u, [50, 25, 0.5, 1.2, 0.25, 50], [150, 70, 3, 2.5, 1.2, 300])
    vb, g = 12 * b2 / (b1 + b2), beta * (c2 + 9)
    return (vb + 0.74) * g / (g + f) + 11.35 * f / (g + f) + 0.74 * f * g / ((g + f) * c1)


def piston(u: np.ndarray) -> np.ndarray:
    """Cycle time of a piston, seven inputs (Kenett and Zacks 1998; Ben-Ari and Steinberg 2007)."""
    low, high = [30, 0.005, 0.002, 1000, 90000, 290, 340], [60, 0.020, 0.010, 5000, 110000, 296, 360]
    m, s, v0, k, p0, ta, t0 = _in(u, low, high)
    a = p0 * s + 19.62 * m - k * v0 / s
    v = s / (2 * k) * (np.sqrt(a**2 + 4 * k * p0 * v0 / t0 * ta) - a)
    return 2 * np.pi * np.sqrt(m / (k + s**2 * p0 * v0 / t0 * ta / v**2))


def wing(u: np.ndarray) -> np.ndarray:
    """Weight of the wing of a light aircraft, ten inputs (Forrester, Sobester and Keane 2008)."""
    low, high = [150, 220, 6, -10, 16, 0.5, 0.08, 2.5, 1700, 0.025], [200, 300, 10, 10, 45, 1, 0.18, 6, 2500, 0.08]
    s, fuel, aspect, sweep, q, taper, tc, n, gross, paint = _in(u, low, high)
    cos = np.cos(np.deg2rad(sweep))
    shape = (aspect / cos**2) ** 0.6 * q**0.006 * taper**0.04 * (100 * tc / cos) ** -0.3
    return 0.036 * s**0.758 * fuel**0.0035 * shape * (n * gross) ** 0.49 + s * paint


FUNCTIONS = {"borehole": Function(borehole, 8), "otl": Function(otl, 6), "piston": Function(piston, 7),
             "wing": Function(wing, 10)}  # fmt: skip


def nrmse(prediction: np.ndarray, y: np.ndarray) -> float:
    """Root mean square error over the standard deviation."""
    return float(np.sqrt(np.mean((prediction - y) ** 2)) / y.std())
