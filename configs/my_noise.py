"""A stochastic simulator of your own whose noise depends on its parameters, drawn from the seed alone; its truth is known."""

import math

import numpy as np


def amplifier(gain: float, drive: float, seed: int) -> float:
    """The voltage (V) behind an amplifier that saturates, measured once."""
    return signal(gain, drive) + noise(gain, drive) * float(np.random.default_rng(seed).standard_normal())


def signal(gain: float, drive: float) -> float:
    """The mean of `amplifier` (V)."""
    return math.tanh(gain * drive)


def noise(gain: float, drive: float) -> float:
    """The standard deviation of `amplifier` (V): hardly any at low gain and drive, nineteen times as much at high."""
    return 0.01 * gain * math.exp(1.2 * drive)
