"""Corrections by true runs on a linear simulator with Gaussian noise, where every posterior is known in closed form."""

import numpy as np
import pytest
import torch
from scipy.stats import chi2, kstest, t

from emulate.contracts import Confirmation
from emulate.corrections import correct
from emulate.distributions import Gaussian
from emulate.simulators.linear_gaussian import LinearGaussian

NOISE, RUNS = 0.5, 16
SIMULATOR = LinearGaussian(noise=NOISE)
A, M = SIMULATOR.matrix, 5


class Linear:
    """y = A theta + bias with noise of `stated` times the true standard deviation."""

    space = SIMULATOR.space

    def __init__(self, bias: torch.Tensor, stated: float = 1.0):
        self.bias, self.sd = bias, stated * NOISE

    def predict(self, theta: torch.Tensor) -> Gaussian:
        y = theta @ A.T + self.bias
        return Gaussian(y, torch.full_like(y, self.sd**2), torch.eye(M, dtype=torch.float64), torch.zeros_like(y))

    def jacobian(self, theta: torch.Tensor) -> torch.Tensor:
        return A.expand(*theta.shape[:-1], *A.shape)

    def posterior(self, data: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and covariance with standard normal priors (Bishop 2006, eq. 3.50)."""
        v = torch.linalg.inv(A.T @ A / self.sd**2 + torch.eye(2, dtype=torch.float64))
        return v @ A.T @ (data - self.bias) / self.sd**2, v


def _confirmed(emulator: Linear, seed: int, k: int = RUNS):
    """The correction for the observation of this seed, and the mean of the posterior by an emulator without bias."""
    theta = torch.tensor([0.4, -0.3], dtype=torch.float64)
    data = SIMULATOR.run(theta, seed=10_000 * seed)
    mean, v = emulator.posterior(data)
    y = torch.stack([SIMULATOR.run(mean, seed=10_000 * seed + i) for i in range(1, k + 1)])
    spread = emulator.sd**2 * torch.eye(M, dtype=torch.float64)
    return correct(emulator, Confirmation(mean, v, y, spread)), Linear(0 * emulator.bias).posterior(data)[0]


def test_the_closed_form_of_the_shift():
    """V J^T C^-1 b with V of the posterior is exactly the difference of two posterior means."""
    bias = torch.tensor([0.3, -0.1, 0.2, 0.0, 0.4], dtype=torch.float64)
    emulator, data = Linear(bias), torch.arange(M, dtype=torch.float64)
    (mean, v), true = emulator.posterior(data), Linear(0 * bias).posterior(data)[0]
    y = (A @ mean).expand(3, M)
    made = correct(emulator, Confirmation(mean, v, y, NOISE**2 * torch.eye(M, dtype=torch.float64)))
    torch.testing.assert_close(made.corrected, true, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(made.error, torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(made.residual, -bias, rtol=0, atol=1e-12)


@pytest.mark.parametrize("offset", [0.0, 0.5, 3.0])
def test_the_correction_brings_a_biased_answer_back_within_its_error(offset):
    """(corrected - answer without bias) / error over 300 seeds is Student's with k - 1 degrees of freedom, whatever the bias,
    and the error is k^-1/2 posterior standard deviations, less what the prior knows."""
    bias = offset * NOISE * torch.tensor([1.0, -0.5, 0.7, 0.2, -1.0], dtype=torch.float64)
    made = [_confirmed(Linear(bias), seed) for seed in range(300)]
    z = torch.stack([(c.corrected - true) / c.error for c, true in made]).numpy()
    assert min(kstest(z[:, i], t(RUNS - 1).cdf).pvalue for i in range(2)) > 0.005
    gain = torch.linalg.inv(A.T @ A / NOISE**2 + torch.eye(2, dtype=torch.float64)) @ A.T / NOISE
    known = (gain @ gain.T).diagonal().sqrt() / RUNS**0.5
    square = torch.stack([(c.error / known).square() for c, _ in made]).mean(0)
    assert ((square - 1).abs() < 4 * (2 / (RUNS - 1) / 300) ** 0.5).all()
    before = torch.stack([(c.theta - true) / c.sd for c, true in made])
    assert before.std(0).max() < 1e-9, "the shift is the same for every observation"
    assert (before.abs().max() > 0.1) == (offset > 0)


def test_chi2_has_its_law():
    z = np.array([_confirmed(Linear(torch.zeros(M, dtype=torch.float64)), seed)[0].chi2 for seed in range(300)])
    assert kstest(z, chi2(RUNS * M).cdf).pvalue > 0.005
    wide = _confirmed(Linear(torch.zeros(M, dtype=torch.float64), stated=2.0), 0)[0]
    assert (wide.numbers, wide.chi2) == (RUNS * M, pytest.approx(z[0] / 4, rel=0.05))


def test_outputs_that_never_move_and_are_rightly_predicted_count_for_nothing():
    """A histogram's empty bin: constant in all runs, and the emulator's tiny variance about it is no evidence."""

    class Padded(Linear):
        def predict(self, theta):
            inner = super().predict(theta)
            y, tiny = torch.nn.functional.pad(inner.mean, (0, 1)), 1e-24
            v = torch.nn.functional.pad(inner.variance, (0, 1), value=tiny)
            return Gaussian(y, v, torch.eye(M + 1, dtype=torch.float64), torch.zeros_like(y))

        def jacobian(self, theta):
            return torch.nn.functional.pad(super().jacobian(theta), (0, 0, 0, 1))

    zero = torch.zeros(M, dtype=torch.float64)
    plain, _ = _confirmed(Linear(zero), 3)
    padded = Padded(zero)
    mean, v = padded.posterior(SIMULATOR.run(torch.tensor([0.4, -0.3], dtype=torch.float64), seed=30_000))
    y = torch.stack([SIMULATOR.run(mean, seed=30_000 + i) for i in range(1, RUNS + 1)])
    spread = padded.predict(mean).gaussian()[1]
    made = correct(padded, Confirmation(mean, v, torch.nn.functional.pad(y, (0, 1)), spread))
    assert (made.numbers, made.chi2) == (plain.numbers, pytest.approx(plain.chi2, rel=1e-12))
    torch.testing.assert_close(made.delta, plain.delta)


def test_a_covariance_that_is_none_gives_no_number():
    emulator = Linear(torch.zeros(M, dtype=torch.float64))
    y = torch.stack([SIMULATOR.run(torch.zeros(2, dtype=torch.float64), seed=i) for i in range(6)])
    eye = torch.eye(2, dtype=torch.float64)
    made = correct(
        emulator, Confirmation(torch.zeros(2, dtype=torch.float64), eye, y, -torch.eye(M, dtype=torch.float64))
    )
    assert not made.finite
