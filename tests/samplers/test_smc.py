"""Sequential Monte Carlo: evidence, moments and weights of modes against closed forms and quadrature, by z-scores."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal, norm

from emulate.distributions import Exact
from emulate.errors import InputError
from emulate.likelihoods.gaussian import Gaussian
from emulate.posterior import Posterior
from emulate.samplers.smc import SMC
from emulate.space import Normal, Parameter, Space

LN_2PI = math.log(2 * math.pi)


def _origin(chains: int, d: int) -> torch.Tensor:
    return torch.zeros(chains, d, dtype=torch.float64)


def _z(values: torch.Tensor, truth: float) -> float:
    """By the scatter of the populations' means; values `[chains, draws]`."""
    each = values.mean(1)
    return float((each.mean() - truth) / each.std() * len(each) ** 0.5)


def _evidence_z(draws, truth: float) -> float:
    return (draws.diagnostics["log_evidence"] - truth) / draws.diagnostics["log_evidence_error"]


def test_evidence_and_moments_of_a_linear_model():
    """y = A theta + noise with a normal prior: y ~ N(0, A A^T + s^2), theta | y by Bishop 2006, eq. 3.50."""
    d, s = 5, 0.3
    generator = torch.Generator().manual_seed(3)
    matrix = torch.randn(8, d, generator=generator, dtype=torch.float64)
    data = matrix @ torch.randn(d, generator=generator, dtype=torch.float64)
    space = Space(tuple(Parameter(f"t{i}", Normal(0.0, 1.0)) for i in range(d)))
    posterior = Posterior(space, lambda t: Exact(t @ matrix.T), Gaussian(absolute_error=s), data)
    truth = multivariate_normal(np.zeros(8), (matrix @ matrix.T + s**2 * torch.eye(8)).numpy()).logpdf(data.numpy())
    covariance = torch.linalg.inv(matrix.T @ matrix / s**2 + torch.eye(d))
    factor = torch.linalg.cholesky(covariance)
    for seed in range(3):
        draws = SMC().draw(posterior.log_density, _origin(32, d), 300, seed=seed)
        assert abs(_evidence_z(draws, truth)) < 3
        assert draws.diagnostics["log_evidence_error"] < 0.1
        assert draws.rhat.max() < 1.01
        rest = (draws.x - covariance @ matrix.T @ data / s**2).reshape(-1, d).T
        white = torch.linalg.solve_triangular(factor, rest, upper=False).T.reshape(draws.x.shape)
        z = [_z(white[..., i], 0.0) for i in range(d)] + [_z(white[..., i].square(), 1.0) for i in range(d)]
        assert max(map(abs, z)) < 3.5  # of ten
    assert draws.diagnostics["correlation"] < 0.1


def test_the_error_of_the_evidence_is_its_scatter():
    """Over 16 seeds ln Z scatters as its error says, about the closed form."""
    density = lambda x: -0.5 * ((x - 1) / 0.1).square().sum(-1) - 0.5 * x.square().sum(-1)  # noqa: E731
    s2 = 1 / (1 + 100)  # the product of N(1, 0.1^2) and N(0, 1), unnormalised
    truth = 2 * (0.5 * LN_2PI + 0.5 * math.log(s2) - 0.5 / 1.01)
    z = [_evidence_z(SMC().draw(density, _origin(16, 2), 64, seed=s), truth) for s in range(16)]
    assert abs(np.mean(z)) < 3 / 16**0.5
    assert 0.6 < np.std(z) < 1.6


def test_two_modes_of_unequal_weight():
    """y = theta_0^2 of theta_0 = 0.3 + x_0: two modes, of which the prior prefers one; by quadrature."""
    space = Space((Parameter("a", Normal(0.3, 1.0)), Parameter("b", Normal(0.0, 1.0))))
    data = torch.tensor([1.0, 0.5], dtype=torch.float64)
    predict = lambda t: Exact(torch.stack([t[..., 0] ** 2, t[..., 1]], -1))  # noqa: E731
    posterior = Posterior(space, predict, Gaussian(absolute_error=0.03), data)
    a = np.linspace(-4, 4, 400_001)
    p = norm.pdf(a, 0.3, 1) * norm.pdf(a**2, 1.0, 0.03)
    total = p.sum()
    evidence = math.log(total * (a[1] - a[0])) + norm.logpdf(0.5, 0, math.hypot(1, 0.03))
    left, mean, square = ((p * f).sum() / total for f in (a < 0, a, a**2))
    assert 0.3 < left < 0.4
    for seed in range(4):
        draws = SMC().draw(posterior.log_density, _origin(32, 2), 300, seed=seed)
        found = posterior.theta(draws.x)[..., 0]
        assert abs(_z((found < 0).double(), left)) < 3
        assert abs(_z(found, mean)) < 3
        assert abs(_z(found.square(), square)) < 3
        assert abs(_evidence_z(draws, evidence)) < 3
        assert draws.rhat.max() < 1.01


def test_a_mode_of_two_per_cent_is_not_lost():
    """Modes 28 of their widths apart, in shares 0.98 and 0.02."""

    def density(x: torch.Tensor) -> torch.Tensor:
        each = torch.stack([-0.5 * ((x - m) / 0.1).square().sum(-1) for m in (-1.0, 1.0)], -1)
        return torch.logsumexp(each + torch.tensor([0.98, 0.02], dtype=torch.float64).log(), -1)

    for seed in range(3):
        draws = SMC().draw(density, _origin(32, 3), 300, seed=seed)
        assert abs(_z((draws.x[..., 0] > 0).double(), 0.02)) < 3
        assert abs(_evidence_z(draws, 1.5 * LN_2PI + 3 * math.log(0.1))) < 3


def test_a_banana():
    """The prior times exp(-(x_1 - 0.7 (x_0^2 - 1))^2 / (2 0.2^2)), by quadrature."""

    def density(x: torch.Tensor) -> torch.Tensor:
        return -0.5 * x.square().sum(-1) - LN_2PI - 12.5 * (x[..., 1] - 0.7 * (x[..., 0] ** 2 - 1)) ** 2

    grid = torch.linspace(-7, 7, 2801, dtype=torch.float64)
    x = torch.stack(torch.meshgrid(grid, grid, indexing="ij"), -1)
    p = density(x).exp()

    def features(x: torch.Tensor) -> list[torch.Tensor]:
        a, b = x.unbind(-1)
        return [a, b, a**2, b**2, a * b, (b > 1).double(), (a.abs() > 1.5).double()]

    truths = [float((p * f).sum() / p.sum()) for f in features(x)]
    for seed in range(3):
        draws = SMC().draw(density, _origin(32, 2), 300, seed=seed)
        assert max(abs(_z(f, t)) for f, t in zip(features(draws.x), truths, strict=True)) < 3
        assert abs(_evidence_z(draws, math.log(float(p.sum()) * 0.005**2))) < 3
        assert draws.rhat.max() < 1.01


def test_one_chain_has_an_error_bar_too_and_too_few_draws_have_none():
    normal = lambda x: -0.5 * x.square().sum(-1) - 2 * x.sum(-1)  # noqa: E731
    one = SMC().draw(normal, _origin(1, 2), 803, seed=1)
    assert one.x.shape == (1, 803, 2)
    assert abs(_evidence_z(one, LN_2PI + 4)) < 4  # 8 populations
    assert SMC().draw(normal, _origin(1, 2), 20, seed=1).diagnostics["log_evidence_error"] == math.inf


def test_no_gradient_is_asked():
    class Blind(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return -0.5 * x.square().sum(-1)

        @staticmethod
        def backward(ctx, grad):
            raise RuntimeError("there is no gradient")

    assert SMC().draw(Blind.apply, _origin(8, 2), 50, seed=1).rhat.max() < 1.1


def test_a_density_that_is_zero_all_over_the_prior_is_said():
    far = lambda x: torch.where((x > 30).all(-1), 0.0, -torch.inf)  # noqa: E731
    with pytest.raises(
        InputError, match=r"^the likelihood must be above 0 somewhere in the prior\. Got 0 at every one of 400"
    ):
        SMC().draw(far, torch.full((4, 2), 31.0, dtype=torch.float64), 100, seed=1)
