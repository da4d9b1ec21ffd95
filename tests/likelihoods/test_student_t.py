"""Student-t noise against scipy, by quadrature over the emulator's error, and with an outlier."""

import numpy as np
import pytest
import torch
from scipy import stats

from emulate.distributions import Exact
from emulate.distributions import Gaussian as Predicted
from emulate.errors import InputError
from emulate.likelihoods.gaussian import Gaussian
from emulate.likelihoods.student_t import StudentT

DATA = torch.tensor([10.0, -20.0, 4.0], dtype=torch.float64)
MEAN = torch.tensor([9.0, -26.0, 4.3], dtype=torch.float64)


def test_without_an_error_it_is_scipys():
    like = StudentT(relative_error=0.1, absolute_error=(1.0, 0.5, 0.2), dof=3.5)
    scale = np.hypot(0.1 * DATA.numpy(), [1.0, 0.5, 0.2])
    expected = stats.t(3.5, MEAN.numpy(), scale).logpdf(DATA.numpy()).sum()
    assert float(like.log_prob(Exact(MEAN), DATA)) == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(like.covariance(DATA), np.diag(stats.t(3.5, 0, scale).var()), rtol=1e-12)


def test_many_degrees_of_freedom_are_gaussian():
    prediction = Predicted(MEAN, torch.ones(1).double(), torch.tensor([[0.5, 3.0, 0.1]]).double(), 0 * MEAN + 0.01)
    near = Gaussian(absolute_error=1.0).log_prob(prediction, DATA)
    assert float(StudentT(absolute_error=1.0, dof=1e7).log_prob(prediction, DATA)) == pytest.approx(
        float(near), abs=1e-3
    )


@pytest.mark.parametrize(("sd", "tolerance"), [(0.1, 1e-4), (0.3, 0.003), (0.5, 0.013), (1.0, 0.07), (10.0, 1.0)])
def test_the_error_of_the_emulator_by_quadrature(sd, tolerance):
    """One output, dof = 2.5, in scales of the noise; the tolerances are those of the docstring."""
    off = torch.linspace(0, 30, 41, dtype=torch.float64)[:, None]
    z = np.linspace(-12, 12, 20_001)
    one = torch.ones(41, 1, dtype=torch.float64)
    prediction = Predicted(0 * one, one, sd * torch.eye(1, dtype=torch.float64), 0 * one)
    value = StudentT(absolute_error=1.0, dof=2.5).log_prob(prediction, off)
    density = stats.t(2.5).pdf(off.numpy() - sd * z) * stats.norm.pdf(z)
    np.testing.assert_allclose(value, np.log(np.trapezoid(density, z)), atol=tolerance)


def test_gradients_with_an_outlier():
    def value(mean: torch.Tensor) -> torch.Tensor:
        prediction = Predicted(mean, torch.ones(1).double(), torch.tensor([[0.5, 1.0, 0.3]]).double(), 0 * mean + 0.04)
        return StudentT(absolute_error=1.0, dof=3.0).log_prob(prediction, DATA)

    mean = MEAN.clone().requires_grad_()
    assert torch.autograd.gradcheck(value, mean)
    assert torch.autograd.gradgradcheck(value, mean)


def test_an_outlier_does_not_move_the_fit():
    """Nine of ten numbers around 5, one at 60: the best location stays within the scatter of the nine."""
    data = torch.tensor([5.1, 4.8, 5.3, 4.6, 5.0, 4.9, 5.2, 4.7, 5.4, 60.0], dtype=torch.float64)
    y = torch.linspace(0, 30, 3001, dtype=torch.float64)[:, None].expand(-1, 10)
    best = {k: float(y[v.argmax(), 0]) for k, v in {
        "t": StudentT(absolute_error=0.3, dof=3.0).log_prob(Exact(y), data),
        "normal": Gaussian(absolute_error=0.3).log_prob(Exact(y), data)}.items()}  # fmt: skip
    assert abs(best["t"] - 5.0) < 0.1
    assert best["normal"] == pytest.approx(10.5, abs=0.01)


def test_refusals():
    with pytest.raises(InputError, match=r"^absolute_error must be a finite number of at least 0, or a list of them, one per "
                       r"output\. Got -1\.0\.$"):  # fmt: skip
        StudentT(absolute_error=-1.0)
    with pytest.raises(InputError, match=r"^the observation must have an error in every output\. Got none in output 1 of 2, "
                       r"where the data may be 0; give an absolute_error\.$"):  # fmt: skip
        StudentT(relative_error=0.1).covariance(torch.tensor([1.0, 0.0], dtype=torch.float64))
