"""Scrambled Sobol points."""

import warnings
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from emulate.contracts import Design


@dataclass(frozen=True, kw_only=True)
class Sobol(Design):
    """Scrambled Sobol sequence: even coverage, and more points continue the sequence.

    Owen's scrambling (Owen 1998) of Sobol's digital net (Sobol 1967; direction numbers of Joe and Kuo 2008).

    >>> Sobol().points(4, 2, seed=1).shape
    (4, 2)
    """

    extensible: ClassVar[bool] = True

    def points(self, n: int, dim: int, *, seed: int, emulator: Any | None = None) -> np.ndarray:
        from scipy.stats import qmc  # here, because it is slow to import and most commands draw no design

        sequence = qmc.Sobol(dim, scramble=True, rng=np.random.default_rng(seed))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # balance needs a power of 2; a design may have any size
            u = sequence.random(n)
        return np.clip(u, np.finfo(float).eps, 1 - np.finfo(float).eps)
