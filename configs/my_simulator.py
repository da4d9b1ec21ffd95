"""A simulator of your own: a function from named parameters to numbers, here a damped wave at eight times."""

import math


def wave(theta: dict[str, float]) -> list[float]:
    """x(t) = amplitude exp(-damping t) cos(frequency t)."""
    times = [0.5 * n for n in range(1, 9)]
    return [theta["amplitude"] * math.exp(-theta["damping"] * t) * math.cos(theta["frequency"] * t) for t in times]
