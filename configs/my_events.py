"""A stochastic simulator of your own: one event per run, its noise drawn from the seed alone."""

import numpy as np


def decay(mass: float, mixing: float, seed: int) -> float:
    """The energy (MeV) of one decay, by one of two channels: a narrow line at mass / 2, or one at mass with a long tail."""
    rng = np.random.default_rng(seed)
    first = rng.random() < mixing
    return 0.5 * mass + rng.normal(0.0, 0.1) if first else mass + rng.exponential(0.3)
