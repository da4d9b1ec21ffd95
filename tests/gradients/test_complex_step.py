"""The complex step: exact on what is analytic, in torch and numpy, and refused on what is not."""

import numpy as np
import pytest
import torch
from torch.distributions import Normal

from emulate.errors import InputError
from emulate.gradients.complex_step import ComplexStep
from emulate.gradients.reverse import Reverse
from tests.reference.gradients.exact import EULER, ROSENBROCK, decay, rosenbrock

THETA = torch.tensor([0.7, -1.3], dtype=torch.float64)


def test_rosenbrock_and_decay():
    e = ComplexStep().estimate(rosenbrock, -torch.ones(4, dtype=torch.float64), seed=0)
    assert e.value.tolist() == ROSENBROCK[0]
    torch.testing.assert_close(e.gradient, torch.tensor(ROSENBROCK[1], dtype=torch.float64), rtol=1e-15, atol=0)
    assert (
        abs(float(ComplexStep().estimate(decay, torch.ones(1, dtype=torch.float64), seed=0).gradient) - EULER) < 1e-14
    )


def test_the_example_of_squire_and_trapp():
    """F(x) = x^(9/2) at 1.5: their F'(1.5) = 18.600812734259759 (SIAM Review 40, 110, 1998)."""
    e = ComplexStep().estimate(lambda x: x**4.5, torch.tensor([1.5], dtype=torch.float64), seed=0)
    assert float(e.gradient) == pytest.approx(18.600812734259759, rel=1e-15)
    assert e.standard_error.max() == 0


def test_code_in_numpy_is_taken():
    def f(theta):
        return np.exp(theta.numpy()).cumsum()

    other = Reverse().estimate(lambda theta: theta.exp().cumsum(0), THETA, seed=0)
    e = ComplexStep().estimate(f, THETA, seed=0)
    torch.testing.assert_close(e.gradient, other.gradient, rtol=1e-15, atol=0)


def test_a_location_of_named_draws_may_be_complex():
    def f(theta, noise):
        return (theta[0] + noise.draw("z", Normal(0.0, 1.0)) * theta[1]) ** 2

    e, other = (m.estimate(f, THETA, seed=1, n=20) for m in (ComplexStep(), Reverse()))
    torch.testing.assert_close(e.gradient, other.gradient, rtol=1e-13, atol=0)
    torch.testing.assert_close(e.standard_error, other.standard_error, rtol=1e-12, atol=0)


ANALYTIC = (
    r"^complex_step must be given a program that is analytic in theta: no abs, real, conj or comparison on its way\. "
)


@pytest.mark.parametrize(
    ("f", "met"),
    [
        (lambda t: t.real**2, "a real answer of a complex theta"),
        (lambda t: t.abs() * t, r"a slope along one direction that is [\d.e+]+ errors away from a real difference"),
        (lambda t: t * t.conj(), r"a slope along one direction that is [\d.e+]+ errors away from a real difference"),
        (lambda t: np.sqrt(t.numpy() ** 2).real + 0 * t.numpy(), r"a slope along one direction that is .*"),
    ],
)
def test_what_is_not_analytic_is_refused(f, met):
    with pytest.raises(InputError, match=ANALYTIC + rf"Got {met}; use forward, reverse, or common_random_numbers\.$"):
        ComplexStep().estimate(f, THETA, seed=0)


@pytest.mark.parametrize(
    "f", [lambda t: torch.where(t > 0, t, 2 * t), lambda t: torch.ones(2, 2, dtype=torch.float64) @ t]
)
def test_what_does_not_take_complex_numbers_is_refused(f):
    with pytest.raises(InputError, match=r"^complex_step must be given a program that takes complex theta\. Got an operation "
                       r"that does not \(.+\); give its other arguments theta's dtype, or use forward\.$"):  # fmt: skip
        ComplexStep().estimate(f, THETA, seed=0)
