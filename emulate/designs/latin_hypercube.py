"""Latin hypercube points."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from emulate.contracts import Design


@dataclass(frozen=True, kw_only=True)
class LatinHypercube(Design):
    """Latin hypercube: one point in each of n strips of every parameter; more points need a new design.

    McKay, Beckman and Conover (1979). `optimise` improves the spread: "cd" lowers the centred discrepancy by
    exchanges of coordinates, "none" leaves the random hypercube.

    >>> np.sort((LatinHypercube().points(4, 1, seed=1) * 4).astype(int).ravel()).tolist()
    [0, 1, 2, 3]
    """

    optimise: Literal["none", "cd"] = "cd"  # cd lowers the centred discrepancy; none leaves it random

    def points(self, n: int, dim: int, *, seed: int, emulator: Any | None = None) -> np.ndarray:
        from scipy.stats import qmc  # here, because it is slow to import and most commands draw no design

        optimization = None if self.optimise == "none" or n < 2 else "random-cd"
        u = qmc.LatinHypercube(dim, optimization=optimization, rng=np.random.default_rng(seed)).random(n)
        return np.clip(u, np.finfo(float).eps, 1 - np.finfo(float).eps)
