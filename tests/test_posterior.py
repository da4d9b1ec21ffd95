"""The posterior against closed forms: Bishop's linear Gaussian, flat priors by quadrature, Fisher by hand."""

import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import multivariate_normal, norm

from emulate.distributions import Exact
from emulate.distributions import Gaussian as Predicted
from emulate.errors import InputError
from emulate.likelihoods.gaussian import Gaussian
from emulate.likelihoods.predictive import Predictive
from emulate.posterior import Posterior
from emulate.samplers.hmc import HMC
from emulate.simulators.linear_gaussian import LinearGaussian
from emulate.space import LogUniform, Normal, Parameter, Space, TruncatedNormal, Uniform

PRIORS = Space((Parameter("a", Uniform(0.2, 0.4)), Parameter("b", LogUniform(1e-3, 10.0)),
                Parameter("c", Normal(3.0, 0.5)), Parameter("e", TruncatedNormal(0.0, 1.0, -0.5, 2.0))))  # fmt: skip
LINEAR = Space((Parameter("a", Normal(1.0, 2.0)), Parameter("b", Normal(-1.0, 0.5))))
A = torch.tensor([[1.0, 2.0], [0.5, -1.0], [3.0, 0.1]], dtype=torch.float64)
NOISE = Gaussian(absolute_error=(0.5, 1.0, 2.0))
DATA = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)


def _linear(data: torch.Tensor = DATA) -> Posterior:
    return Posterior(LINEAR, lambda t: Exact(t @ A.T), NOISE, data)


def _closed_form(data: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and covariance of theta given data (Bishop 2006, eq. 3.50)."""
    weight = torch.diag(torch.tensor([4.0, 1.0, 0.25], dtype=torch.float64))
    prior = torch.diag(torch.tensor([0.25, 4.0], dtype=torch.float64))
    mean = torch.tensor([1.0, -1.0], dtype=torch.float64)
    covariance = torch.linalg.inv(A.T @ weight @ A + prior)
    return (data @ weight @ A + prior @ mean) @ covariance, covariance


def _normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_log_density_is_the_joint_density_of_data_and_x():
    """For normal priors theta = mean + sd x, so p(data, x) = N(data; A theta, C) N(x; 0, 1), by scipy."""
    x = _normal(5, 2)
    theta = np.array([1.0, -1.0]) + np.array([2.0, 0.5]) * x.numpy()
    expected = [multivariate_normal(A.numpy() @ t, np.diag([0.25, 1.0, 4.0])).logpdf(DATA.numpy())
                + norm.logpdf(z).sum() for t, z in zip(theta, x.numpy(), strict=True)]  # fmt: skip
    np.testing.assert_allclose(_linear().log_density(x), expected, rtol=1e-10)


def test_the_evidence_of_a_flat_prior_is_its_integral():
    """The integral of p(data, x) over x equals that of the likelihood over the prior, by two quadratures."""
    space = Space((Parameter("a", Uniform(-1.0, 2.0)),))
    posterior = Posterior(space, lambda t: Exact(t**2), Gaussian(absolute_error=0.3), DATA[:1])
    over_x = quad(lambda x: math.exp(posterior.log_density(torch.tensor([x], dtype=torch.float64))), -8, 8)[0]
    over_theta = quad(lambda t: norm.pdf(1.0, t**2, 0.3) / 3, -1, 2)[0]
    assert over_x == pytest.approx(over_theta, rel=1e-7)


def test_draws_of_x_without_data_are_draws_of_the_prior():
    posterior = Posterior(PRIORS, Exact, Gaussian(absolute_error=1.0), torch.zeros(4, dtype=torch.float64))
    u = PRIORS.to_unit(posterior.theta(_normal(20_000, 4)))
    assert ((u.mean(0) - 0.5).abs() * math.sqrt(12 * 20_000) < 4).all()
    assert ((u.square().mean(0) - 1 / 3).abs() * math.sqrt(45 / 4 * 20_000) < 4).all()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-6, 6), min_size=4, max_size=4))
def test_x_and_theta_are_inverse(x):
    posterior = Posterior(PRIORS, Exact, Gaussian(absolute_error=1.0), torch.zeros(4, dtype=torch.float64))
    x = torch.tensor(x, dtype=torch.float64)
    torch.testing.assert_close(posterior.x(posterior.theta(x)), x, rtol=0, atol=1e-6)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False, min_value=-1e150, max_value=1e150), min_size=4,
                max_size=4))  # fmt: skip
def test_every_finite_x_has_a_finite_density_gradient_and_theta_inside(x):
    posterior = Posterior(PRIORS, Exact, Gaussian(absolute_error=1.0), torch.zeros(4, dtype=torch.float64))
    x = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    value = posterior.log_density(x)
    (gradient,) = torch.autograd.grad(value, x)
    assert value.isfinite()
    assert gradient.isfinite().all()
    theta = posterior.theta(x)
    assert theta.isfinite().all()
    u = PRIORS.to_unit(theta)
    assert ((u >= -1e-15) & (u <= 1 + 1e-15)).all()


def test_the_map_of_a_linear_gaussian_is_its_mean():
    best = _linear().find_map(seed=1)
    mean, covariance = _closed_form(DATA)
    torch.testing.assert_close(best.theta, mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(best.covariance, covariance, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(best.log_density, _linear().log_density(best.x))
    assert best.converged
    assert best.sentence == "1 of 1 modes converged; 8 of 8 starts or more reached the highest."


def test_many_observations_climb_to_modes_of_their_own():
    data = DATA + _normal(6, 3, seed=2)
    best = _linear(data).find_map(seed=1)
    for i in range(6):
        mean, covariance = _closed_form(data[i])
        torch.testing.assert_close(best.theta[i], mean, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(best.covariance[i], covariance, rtol=1e-5, atol=1e-7)
    assert best.converged
    assert best.starts(10, seed=1).shape == (10, 6, 2)


def test_a_sharp_curved_posterior_far_from_the_median_is_found():
    """y = (100 (b - a^2), a - 1) known to 0.1 per cent: Rosenbrock's valley; the mode is (1, 1), the prior flat."""
    space = Space((Parameter("a", Uniform(-3.0, 3.0)), Parameter("b", Uniform(-3.0, 3.0))))

    def predict(t: torch.Tensor) -> Exact:
        a, b = t.unbind(-1)
        return Exact(torch.stack([100 * (b - a**2), a - 1], -1))

    data = torch.zeros(2, dtype=torch.float64)
    best = Posterior(space, predict, Gaussian(absolute_error=0.001), data).find_map(seed=1)
    assert best.converged
    torch.testing.assert_close(best.theta, torch.ones(2, dtype=torch.float64), rtol=1e-4, atol=0)
    jacobian = torch.tensor([[-200.0, 100.0], [1.0, 0.0]], dtype=torch.float64) / 0.001
    torch.testing.assert_close(best.covariance, torch.linalg.inv(jacobian.T @ jacobian), rtol=1e-2, atol=0)


def test_the_higher_of_two_modes_wins():
    """y = a^2 seen as 4 with a ~ N(0.5, 1): modes near -2 and 2, of which the prior prefers the second."""
    space = Space((Parameter("a", Normal(0.5, 1.0)),))
    data = torch.tensor([4.0], dtype=torch.float64)
    best = Posterior(space, lambda t: Exact(t**2), Gaussian(absolute_error=0.5), data).find_map(seed=3, restarts=12)
    assert 1.8 < float(best.theta) < 2.0
    assert best.converged
    reached = int(re.search(r"; (\d+) of 12", best.sentence)[1])
    assert 0 < reached < 12


def test_starts_are_spread_like_the_posterior():
    starts = _linear().find_map(seed=1).starts(4000, seed=2, spread=1.0)
    mean, covariance = _closed_form(DATA)
    theta = _linear().theta(starts)
    torch.testing.assert_close(torch.cov(theta.T), covariance, rtol=0.15, atol=0.01)
    assert ((theta.mean(0) - mean) / (covariance.diagonal() / 4000).sqrt()).abs().max() < 4


def test_fisher_is_the_inverse_covariance_without_the_prior():
    _, covariance = _closed_form(DATA)
    theta = torch.tensor([0.3, 0.4], dtype=torch.float64)
    fisher = _linear().fisher(theta)
    prior = torch.diag(torch.tensor([0.25, 4.0], dtype=torch.float64))
    torch.testing.assert_close(fisher + prior, torch.linalg.inv(covariance))
    torch.testing.assert_close(_linear().fisher(theta, prior=True), torch.linalg.inv(covariance))


def test_fisher_counts_the_error_of_the_emulator():
    """A scalar y = 3 a with noise 1 and emulator error 2: F = 9 / (1 + 4)."""
    space = Space((Parameter("a", Uniform(0.0, 1.0)),))
    one = torch.ones(1, dtype=torch.float64)
    predict = lambda t: Predicted(3 * t, 4 + 0 * t, torch.ones(1, 1).double(), 0 * t)  # noqa: E731
    for counted, expected in ((True, 9 / 5), (False, 9.0)):
        likelihood = Gaussian(absolute_error=1.0, emulator_covariance=counted)
        assert float(Posterior(space, predict, likelihood, one).fisher(0.5 * one)) == pytest.approx(expected)


def test_what_the_error_of_the_emulator_widens():
    """The same scalar with a prior of sd 0.5: (9 / 5 + 4)^-1/2 over (9 + 4)^-1/2; nothing where it cannot be left out."""
    space = Space((Parameter("a", Normal(0.0, 0.5)),))
    one = torch.ones(1, dtype=torch.float64)
    predict = lambda t: Predicted(3 * t, 4 + 0 * t, torch.ones(1, 1).double(), 0 * t)  # noqa: E731
    factor = Posterior(space, predict, Gaussian(absolute_error=1.0), one).widened(0.2 * one)
    assert float(factor) == pytest.approx(((9 + 4) / (9 / 5 + 4)) ** 0.5)
    assert Posterior(space, predict, Predictive(), one).widened(0.2 * one) is None


def test_hmc_draws_the_closed_form():
    posterior = _linear()
    best = posterior.find_map(seed=1)
    draws = HMC().draw(posterior.log_density, best.starts(16, seed=2), 600, seed=3)
    theta = posterior.theta(draws.x).reshape(-1, 2)
    mean, covariance = _closed_form(DATA)
    z = (theta.mean(0) - mean) / covariance.diagonal().sqrt() * draws.ess.sqrt()
    assert z.abs().max() < 4
    torch.testing.assert_close(torch.cov(theta.T), covariance, rtol=0.1, atol=0.01)


def test_the_simulator_itself_gives_the_same_posterior():
    simulator = LinearGaussian(outputs_count=3, noise=0.0)
    likelihood = Gaussian(absolute_error=1.0)
    itself = Posterior.for_simulator(simulator, likelihood, DATA, seed=1)
    stand_in = Posterior(simulator.space, lambda t: Exact(t @ simulator.matrix.T), likelihood, DATA)
    x = _normal(2, 3, 2)
    torch.testing.assert_close(itself.log_density(x), stand_in.log_density(x))
    torch.testing.assert_close(itself.find_map(seed=1, restarts=2).theta, stand_in.find_map(seed=1).theta)


def test_a_point_outside_the_prior_is_refused_by_name():
    posterior = Posterior(PRIORS, Exact, Gaussian(absolute_error=1.0), torch.zeros(4, dtype=torch.float64))
    with pytest.raises(InputError, match=r"^theta must lie inside the prior\. Got values outside for a, e; widen the "
                       r"prior or move the point\.$"):  # fmt: skip
        posterior.x(torch.tensor([0.5, 1.0, 3.0, 2.5], dtype=torch.float64))


@pytest.mark.parametrize("data", [torch.tensor(1.0), torch.tensor([1.0, math.nan])])
def test_data_that_is_no_vector_of_numbers_is_refused(data):
    said = (f"data must be finite numbers of shape [m] or [..., m]. Got shape {tuple(data.shape)} with "
            f"{int(data.isnan().sum())} numbers that are not finite.")  # fmt: skip
    with pytest.raises(InputError, match=f"^{re.escape(said)}$"):
        Posterior(PRIORS, Exact, NOISE, data)


@pytest.mark.parametrize("m", [1, 3, 6])
def test_data_of_another_length_than_the_prediction_is_refused(m):
    d = len(PRIORS.names)
    posterior = Posterior(PRIORS, Exact, Gaussian(absolute_error=1.0), torch.ones(m, dtype=torch.float64))
    order = "give the observation in the order of the outputs."
    said = f"data must have a number for each of the {d} predicted outputs. Got {m}; {order}"
    with pytest.raises(InputError, match=f"^{re.escape(said)}$"):
        posterior.log_density(torch.zeros(d, dtype=torch.float64))
