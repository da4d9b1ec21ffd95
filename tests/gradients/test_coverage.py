"""Confidence intervals hold the truth as often as they say: every stochastic method, 1000 repeats.

What scores average has heavy tails (z^2 times f in the width of a normal law): its mean is normal from some hundred
replicates on, so that 600 are taken here.
"""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Normal

from emulate import registry
from emulate.noise import Noise
from tests.gradients.programs import numbers

A, B, P = 0.4, 1.2, 0.3


def program(theta: Tensor, noise: Noise) -> Tensor:
    """sin x + 2 coin x, x of Normal(a, b), the coin of chance p: E = exp(-b^2 / 2) sin a + 2 p a."""
    x = noise.draw("x", Normal(theta[0], theta[1]))
    return torch.sin(x) + 2 * noise.draw("coin", Bernoulli(theta[2])) * x


def continuous(theta: Tensor, noise: Noise) -> Tensor:
    """sin x + 2 y x, y of Normal(p, 1): the same expectation without a discrete draw."""
    x = noise.draw("x", Normal(theta[0], theta[1]))
    return torch.sin(x) + 2 * noise.draw("y", Normal(theta[2], 1.0)) * x


DAMPED = math.exp(-(B**2) / 2)
TRUTH = numbers(DAMPED * math.cos(A) + 2 * P, -B * DAMPED * math.sin(A), 2 * A)
METHODS = [
    ({"use": "common_random_numbers"}, continuous),
    ({"use": "pathwise"}, continuous),
    *[({"use": "score", "baseline": b}, program) for b in ("none", "mean", "leave_one_out", "optimal", "regression")],
    ({"use": "measure_valued"}, program),
    ({"use": "enumerate"}, program),
    ({"use": "mixed"}, program),
]


def _coverage(spec: dict, f, repeats: int, n: int) -> Tensor:
    method = registry.build("gradients", spec)
    held = torch.zeros(3)
    for seed in range(repeats):
        low, high = method.estimate(f, numbers(A, B, P), seed=seed, n=n).interval(0.95)
        held += ((low <= TRUTH) & (high >= TRUTH))[0]
    return held / repeats


@pytest.mark.parametrize(
    ("spec", "f"), METHODS, ids=lambda x: "-".join(map(str, x.values())) if isinstance(x, dict) else ""
)
def test_intervals_cover_roughly(spec, f):
    assert (_coverage(spec, f, 60, 100) > 0.8).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spec", "f"), METHODS, ids=lambda x: "-".join(map(str, x.values())) if isinstance(x, dict) else ""
)
def test_intervals_cover_in_a_thousand_repeats(spec, f):
    share = _coverage(spec, f, 1000, 600)
    print(f"{spec}: 95 % intervals hold the truth in {[round(100 * float(s), 1) for s in share]} % of 1000")
    assert ((share >= 0.92) & (share <= 0.98)).all()
