"""The ensemble against closed forms and quadrature, on densities that have no gradient to ask."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import kstest, norm

from emulate.diagnostics import diagnose
from emulate.samplers.ensemble import Ensemble


def _normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _z(values: torch.Tensor, truth: float) -> float:
    """By the scatter of the chains' means; values `[chains, draws]`."""
    each = values.mean(1)
    return float((each.mean() - truth) / each.std() * len(each) ** 0.5)


class Blind(torch.autograd.Function):
    """A twisted normal whose gradient raises: x_0 = 3 e_0, x_1 = e_1 + 0.2 (x_0^2 - 9), x_2 = e_2 / 100."""

    @staticmethod
    def forward(ctx, x):
        bent = x[..., 1] - 0.2 * (x[..., 0] ** 2 - 9)
        return -0.5 * ((x[..., 0] / 3) ** 2 + bent**2 + (100 * x[..., 2]) ** 2)

    @staticmethod
    def backward(ctx, grad):
        raise RuntimeError("there is no gradient")


def test_moments_of_a_density_whose_gradient_raises():
    draws = Ensemble().draw(Blind.apply, _normal(32, 3), 400, seed=1)
    a, b, c = draws.x.unbind(-1)
    bent = b - 0.2 * (a**2 - 9)
    assert draws.rhat.max() < 1.01
    # x_1 has mean 0 and variance 1 + 0.2^2 * 2 * 81
    for values, truth in ((a, 0.0), (a**2, 9.0), (b, 0.0), (b**2, 7.48), (c, 0.0), (c**2, 1e-4), (bent, 0.0), (bent**2, 1.0),
                          ((a.abs() > 6) * 1.0, 2 * norm.sf(2)), (a * bent, 0.0)):  # fmt: skip
        assert abs(_z(values, truth)) < 3


def test_two_modes_of_unequal_weight():
    """0.7 N(-1, 0.1^2) + 0.3 N(1, 0.2^2), all chains started between them."""
    scale, weight = torch.tensor([0.1, 0.2], dtype=torch.float64), torch.tensor([0.7, 0.3], dtype=torch.float64)

    def density(x: torch.Tensor) -> torch.Tensor:
        each = -0.5 * ((x[..., None] - torch.tensor([-1.0, 1.0])) / scale).square().sum(-2) - x.shape[-1] * scale.log()
        return torch.logsumexp(each + weight.log(), -1)

    for seed in range(3):
        draws = Ensemble().draw(density, 0.3 * _normal(32, 2, seed=seed), 300, seed=seed)
        x = draws.x[..., 0]
        assert draws.rhat.max() < 1.01
        assert abs(_z((x > 0).double(), 0.3)) < 3
        assert abs(_z(x, -0.4)) < 3
        assert abs(_z(x**2, 0.7 * 1.01 + 0.3 * 1.04)) < 3


def test_exact_draws_stay_exact():
    """A thousand chains that start in equilibrium are in equilibrium after it (Geweke 2004's test of a kernel)."""
    density = lambda x: -0.5 * x[..., 0] ** 2 - 2 * (x[..., 1] - x[..., 0] ** 2) ** 2  # noqa: E731
    e = _normal(1000, 2, seed=3)
    start = torch.stack([e[:, 0], e[:, 0] ** 2 + 0.5 * e[:, 1]], -1)
    draws = Ensemble(warmup=64, cycles=3).draw(density, start, 6, seed=1)
    a, b = draws.x[:, -1].unbind(-1)
    assert kstest(a, norm.cdf).pvalue > 1e-3
    assert kstest(2 * (b - a**2), norm.cdf).pvalue > 1e-3


def test_chains_that_start_at_one_point_spread_and_one_chain_learns_from_its_past():
    narrow = lambda x: -0.5 * ((x - 0.5) / 0.01).square().sum(-1)  # noqa: E731
    for chains, n in ((8, 300), (1, 2000)):
        draws = Ensemble().draw(narrow, torch.zeros(chains, 2, dtype=torch.float64), n, seed=1)
        white = (draws.x - 0.5) / 0.01
        assert draws.rhat.max() < 1.02
        assert ((white**2).mean((0, 1)) - 1).mul((diagnose(white**2)[1] / 2).sqrt()).abs().max() < 4


def test_the_counted_evaluations_are_the_points_asked():
    asked = []

    def counted(x: torch.Tensor) -> torch.Tensor:
        asked.append(len(x))
        return -0.5 * x.square().sum(-1)

    draws = Ensemble(warmup=64).draw(counted, _normal(6, 2), 20, seed=1)
    assert set(asked) == {6}
    assert sum(asked) == draws.diagnostics["warmup_evaluations"] + draws.diagnostics["evaluations"]


@pytest.mark.slow
def test_twenty_parameters_of_a_linear_model():
    """y = A theta + noise: the posterior is normal with precision A^T A / s^2 + 1 (Bishop 2006, eq. 3.50)."""
    matrix, d = _normal(30, 20, seed=3) * torch.logspace(-1, 1, 20, dtype=torch.float64), 20
    data = matrix @ _normal(d, seed=4) + 0.5 * _normal(30, seed=5)
    covariance = torch.linalg.inv(matrix.T @ matrix / 0.25 + torch.eye(d, dtype=torch.float64))
    mean, factor = covariance @ matrix.T @ data / 0.25, torch.linalg.cholesky(covariance)
    target = lambda x: -2 * (data - x @ matrix.T).square().sum(-1) - 0.5 * x.square().sum(-1)  # noqa: E731
    draws = Ensemble().draw(target, _normal(64, d, seed=6), 600, seed=1)
    white = torch.linalg.solve_triangular(factor, (draws.x - mean).flatten(0, 1).T, upper=False).T.reshape(
        draws.x.shape
    )
    z = np.array([[_z(white[..., i], 0.0), _z(white[..., i] ** 2, 1.0)] for i in range(d)])
    assert draws.rhat.max() < 1.01
    assert np.abs(z).max() < 3.5  # of 40
    assert math.sqrt(np.mean(z**2)) == pytest.approx(1, abs=0.35)
