"""Gradient, curvature and mode of densities with closed forms."""

import re

import numpy as np
import pytest
import torch
from scipy.optimize import minimize, rosen

from emulate.densities import climb, curvature, value_and_gradient
from emulate.errors import InputError

PRECISION = torch.tensor([[4.0, 1.0], [1.0, 2.0]], dtype=torch.float64)


def gaussian(x: torch.Tensor) -> torch.Tensor:
    return -0.5 * ((x @ PRECISION) * x).sum(-1)


def test_value_and_gradient_of_a_gaussian():
    x = torch.tensor([[1.0, 2.0], [-1.0, 0.5]], dtype=torch.float64)
    with torch.no_grad():
        value, gradient = value_and_gradient(gaussian, x)
    torch.testing.assert_close(value, gaussian(x))
    torch.testing.assert_close(gradient, -x @ PRECISION)


def test_what_is_not_finite_is_impossible():
    x = torch.tensor([[-1.0], [4.0], [0.0]], dtype=torch.float64)
    value, gradient = value_and_gradient(lambda x: torch.sqrt(x).sum(-1), x)
    assert value.tolist() == [-torch.inf, 2.0, -torch.inf]  # NaN, fine, and an infinite gradient
    assert gradient.tolist() == [[0.0], [0.25], [0.0]]


def test_the_curvature_of_a_gaussian_is_its_precision():
    x = torch.tensor([[1.0, 2.0], [-1.0, 0.5]], dtype=torch.float64)
    step = torch.tensor([[0.1, 1e-3], [1.0, 0.01]], dtype=torch.float64)
    torch.testing.assert_close(curvature(gaussian, x, step), PRECISION.expand(2, 2, 2), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("d", [2, 5])
def test_the_mode_of_rosenbrock_is_that_of_scipy(d):
    def density(x: torch.Tensor) -> torch.Tensor:
        return -(100 * (x[..., 1:] - x[..., :-1] ** 2) ** 2 + (1 - x[..., :-1]) ** 2).sum(-1)

    start = np.zeros(d)
    theirs = minimize(rosen, start, method="BFGS").x
    mode = climb(density, torch.zeros(1, d, dtype=torch.float64))
    assert mode.converged.all()
    np.testing.assert_allclose(mode.x[0], theirs, atol=1e-4)


def test_rows_do_not_know_of_each_other():
    """Ten thousandfold scales, one row at its mode already: the answers are those of each row alone."""
    centre = torch.tensor([[0.0, 0.0], [1.0, 1.0], [-2.0, 3.0]], dtype=torch.float64)
    scale = torch.tensor([[1.0], [1e-4], [0.1]], dtype=torch.float64)
    mode = climb(lambda x: -torch.sqrt(1 + ((x - centre) / scale) ** 2).sum(-1), torch.zeros(3, 2, dtype=torch.float64))
    torch.testing.assert_close(mode.x, centre, rtol=0, atol=1e-6)
    torch.testing.assert_close(mode.covariance.diagonal(dim1=-2, dim2=-1), (scale**2).expand(3, 2), rtol=1e-3, atol=0)
    assert mode.converged.all()


def test_a_slope_without_end_does_not_converge():
    mode = climb(lambda x: x.sum(-1), torch.zeros(1, 2, dtype=torch.float64), iterations=10)
    assert not mode.converged.any()
    assert mode.x.isfinite().all()
    assert mode.covariance.isfinite().all()


def test_a_saddle_is_left():
    mode = climb(lambda x: x[..., 0] ** 2 - x[..., 0] ** 4 - x[..., 1] ** 2, torch.full((1, 2), 0.01).double())
    assert float(mode.x[0, 0]) == pytest.approx(0.5**0.5, abs=1e-5)
    assert mode.converged.all()


def test_single_precision_is_enough_to_converge():
    mode = climb(lambda x: gaussian((x.float() * 30).double() - 7), torch.zeros(2, 2, dtype=torch.float64))
    torch.testing.assert_close(mode.x, torch.full((2, 2), 7 / 30, dtype=torch.float64), rtol=1e-4, atol=0)
    assert mode.converged.all()


def test_a_start_where_the_density_vanishes_is_refused():
    said = ("start: the log density and its gradient must be finite at every start. Got 1 rows of 2 where they are not, "
            "first row 1; start where the density is above 0.")  # fmt: skip
    with pytest.raises(InputError, match=f"^{re.escape(said)}$"):
        climb(lambda x: torch.log(x).sum(-1), torch.tensor([[1.0], [-1.0]], dtype=torch.float64))
