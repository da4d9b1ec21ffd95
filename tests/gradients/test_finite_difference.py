"""Central differences: the order that is claimed, steps in the parameters' units, and errors that see rough functions."""

import math
import re

import numpy as np
import pytest
import torch
from scipy.differentiate import jacobian

from emulate.errors import InputError
from emulate.gradients.finite_difference import FiniteDifference

ONE = torch.tensor([1.0], dtype=torch.float64)


def test_the_error_falls_with_the_fourth_power_of_the_step():
    steps = np.array([0.05, 0.1, 0.2])
    errors = [abs(float(FiniteDifference(step=h).estimate(lambda t, s: torch.exp(t), ONE, seed=0).gradient) - math.e)
              for h in steps]  # fmt: skip
    slope = np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert slope == pytest.approx(4, abs=0.05)


def test_a_polynomial_of_degree_four_is_exact_at_any_step():
    e = FiniteDifference(step=0.5).estimate(lambda t, s: t**4 - 2 * t**3 + t, ONE, seed=0)
    assert float(e.gradient) == pytest.approx(4 - 6 + 1, abs=1e-12)


def test_it_agrees_with_scipy():
    theta = torch.tensor([0.3, 1.2, 2.0], dtype=torch.float64)

    def f(t: torch.Tensor) -> torch.Tensor:
        return torch.stack([t[0] * torch.sin(t[1] * t[2]), torch.exp(-t[0]) / t[2]])

    e = FiniteDifference(step=1e-3).estimate(lambda t, s: f(t), theta, seed=0)
    theirs = jacobian(lambda x: f(torch.as_tensor(x)).numpy(), theta.numpy()).df
    np.testing.assert_allclose(e.gradient, theirs, rtol=1e-9, atol=1e-12)


def test_parameters_of_any_size_get_steps_of_their_own():
    """A density of 1e9 and a charge of 1e-19 in one simulator; zero has no size of its own, so its scale is 1."""
    theta = torch.tensor([1e9, 1e-19, 0.0], dtype=torch.float64)
    f = lambda t, s: torch.stack([(t[0] / 1e9) ** 2, torch.sin(t[1] / 1e-19), torch.exp(t[2])])  # noqa: E731
    e = FiniteDifference(step=1e-3).estimate(f, theta, seed=0)
    expected = torch.tensor([2e-9, math.cos(1.0) * 1e19, 1.0], dtype=torch.float64)
    torch.testing.assert_close(e.gradient.diagonal(), expected, rtol=1e-9, atol=0)
    given = FiniteDifference(step=1e-3, scale=(2e9, 3e-19, 0.5)).estimate(f, theta, seed=0)
    assert given.diagnostics["step"] == pytest.approx([2e6, 3e-22, 5e-4])
    torch.testing.assert_close(given.gradient.diagonal(), expected, rtol=1e-8, atol=0)


@pytest.mark.parametrize("scale", [(1.0, 2.0), (0.0,), (-1.0,), (math.inf,)])
def test_a_scale_that_is_none_is_refused(scale):
    said = f"scale must be 1 numbers above 0, one for each parameter. Got {scale}."
    with pytest.raises(InputError, match=f"^{re.escape(said)}$"):
        FiniteDifference(scale=scale).estimate(lambda t, s: t, ONE, seed=0)


def test_common_random_numbers_cancel_noise_that_theta_does_not_touch():
    def f(theta: torch.Tensor, seed: int) -> torch.Tensor:
        return theta**2 + torch.randn(1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    e = FiniteDifference().estimate(f, ONE, seed=0, n=4)
    assert abs(float(e.gradient) - 2) < 1e-9
    assert float(e.standard_error) < 1e-9


def _z_scores(f, slope, d: int) -> np.ndarray:
    """Errors over claimed errors of the slope along the first of d parameters, at 300 points."""
    z = []
    for a in torch.linspace(0.5, 1.5, 300, dtype=torch.float64):
        theta = a * torch.linspace(1.0, 1.3, d, dtype=torch.float64)
        e = FiniteDifference().estimate(lambda t, s: f(t), theta, seed=0)
        z.append(float((e.gradient[0, 0] - slope(a)) / e.standard_error[0, 0]))
    return np.abs(z)


@pytest.mark.parametrize("d", [1, 5])
def test_single_precision_is_seen_in_the_error(d):
    z = _z_scores(lambda t: torch.sin(t.float()).double()[:1], torch.cos, d)
    assert (z > 2).mean() < 0.05
    assert (z > 5).mean() == 0


def test_a_change_below_single_precision_is_not_taken_for_none():
    """f = 1 + 1e-9 theta rounds to 1 in single precision everywhere: slope 0, with an error bar that covers 1e-9."""
    e = FiniteDifference().estimate(lambda t, s: (1 + 1e-9 * t).float().double(), ONE, seed=0)
    assert float(e.gradient) == 0
    assert 1e-9 < float(e.standard_error) < 1e-4


@pytest.mark.parametrize("d", [1, 5])
def test_noise_that_no_seed_controls_is_seen_in_the_error(d):
    """Noise of 1e-3 keyed by the bits of theta, as a chaotic or adaptive simulator makes it."""

    def f(theta: torch.Tensor) -> torch.Tensor:
        e = np.random.default_rng(np.frombuffer(theta.numpy().tobytes(), np.uint32)).standard_normal()
        return theta[:1] ** 2 + 1e-3 * e

    z = _z_scores(f, lambda a: 2 * a, d)
    assert 0.3 < np.median(z) < 1.2
    assert (z > 2).mean() < 0.1
    assert (z > 5).mean() < 0.03


def test_a_kink_is_seen_in_the_error():
    e = FiniteDifference(step=0.1).estimate(lambda t, s: (t - 1.05).abs(), ONE, seed=0)
    assert abs(float(e.gradient) + 1) < 3 * float(e.standard_error)
    assert float(e.standard_error) > 0.1
