"""Variance of a central difference against its step: what common random numbers buy, and what a jump costs."""

import numpy as np
import pytest
import torch
from torch.distributions import Normal

from emulate.gradients.common_random_numbers import CommonRandomNumbers
from tests.gradients.programs import numbers
from tests.reference.gradients.expectations import without_common_noise

STEPS = (0.01, 0.03, 0.1, 0.3)


def square(theta, noise):
    return (theta[0] + noise.draw("z", Normal(0.0, 1.0))) ** 2


def unsynchronised(theta, noise):
    """Every theta has noise of its own, as where a program draws another number of times."""
    return (theta[0] + noise.draw(f"z at {float(theta[0])}", Normal(0.0, 1.0))) ** 2


def jump(theta, noise):
    return (theta[0] + noise.draw("z", Normal(0.0, 1.0)) > 1).double()


def _variances(f, n: int) -> np.ndarray:
    """Var of one replicate at each step, theta = 1."""
    return np.array([
        n * float(CommonRandomNumbers(step=h, bias=False).estimate(f, numbers(1.0), seed=5, n=n).standard_error) ** 2
        for h in STEPS
    ])  # fmt: skip


def _slope(variances: np.ndarray) -> float:
    return float(np.polyfit(np.log(STEPS), np.log(variances), 1)[0])


@pytest.mark.parametrize(("n", "rel"), [(40_000, 0.1), pytest.param(400_000, 0.05, marks=pytest.mark.slow)])
def test_the_variance_of_a_difference_against_its_step(n, rel):
    common, apart, jumping = (_variances(f, n) for f in (square, unsynchronised, jump))
    closed = np.array([without_common_noise(1.0, h) for h in STEPS])
    print(f"n = {n}: variance with common noise {common.round(3)} against 4; over the closed form without: "
          f"{(apart / closed).round(3)}; slopes {_slope(common):.3f}, {_slope(jumping):.3f}, {_slope(apart):.3f}, against 0, "
          "-1, -2")  # fmt: skip
    np.testing.assert_allclose(common, 4, rtol=rel)
    np.testing.assert_allclose(apart, closed, rtol=rel)
    assert abs(_slope(common)) < 0.1
    assert _slope(jumping) == pytest.approx(-1, abs=0.1)
    assert _slope(apart) == pytest.approx(-2, abs=0.1)


def test_the_derivative_is_two_with_or_without_common_noise():
    for f in (square, unsynchronised):
        e = CommonRandomNumbers(step=0.3).estimate(f, numbers(1.0), seed=5, n=20_000)
        assert abs(float(e.gradient) - 2) < 4 * float(e.standard_error) + float(e.bias_bound)


def test_a_jump_that_no_replicate_met_is_bounded():
    e = CommonRandomNumbers(step=1e-5).estimate(jump, numbers(1.0), seed=5, n=100)
    assert float(e.gradient) == 0
    low, high = e.interval()
    assert float(low) < 0.39894 < float(high)
    assert torch.isfinite(high).all()
