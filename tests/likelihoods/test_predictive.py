"""The predictive likelihood against densities of scipy and closed forms, and its refusal word for word."""

import math
import re

import numpy as np
import pytest
import torch
from scipy.stats import laplace, multivariate_normal, norm

from emulate import registry
from emulate.distributions import Exact, Gaussian, apart
from emulate.domain import Widened
from emulate.emulator import fit
from emulate.errors import InputError
from emulate.likelihoods.predictive import Predictive
from emulate.posterior import Posterior
from emulate.pushforward import Pushforward, moved
from emulate.runs import Field, Outputs, Runs
from emulate.simulators.linear_gaussian import LinearGaussian
from emulate.space import Parameter, Space, Uniform

DATA = torch.tensor([10.0, 2.0, 4.0], dtype=torch.float64)
NOISE = 0.5


def test_a_gaussian_prediction_has_its_own_covariance_and_no_other():
    mean, root = np.array([9.0, 1.0, 3.0]), np.array([[0.5, 1.0, 0.2], [0.0, 0.3, -0.4]])
    own = root.T @ root + 0.2 * np.eye(3)
    made = Gaussian(*map(torch.as_tensor, (mean, np.ones(2), root, np.full(3, 0.2))))
    expected = multivariate_normal(mean, own).logpdf(DATA.numpy())
    assert float(Predictive().log_prob(made, DATA)) == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(Predictive().covariance(DATA, made), own, rtol=1e-12)
    wide = Widened(made, torch.tensor(4.0, dtype=torch.float64))
    expected = multivariate_normal(mean, 4 * own).logpdf(DATA.numpy())
    assert float(Predictive().log_prob(wide, DATA)) == pytest.approx(expected, rel=1e-12)


def test_a_prediction_of_logarithms_is_a_density_of_the_data_itself():
    loc = torch.tensor([2.0, 0.5, 1.0], dtype=torch.float64)
    one = torch.full((3,), 0.09, dtype=torch.float64)
    made = Gaussian(loc, one, torch.eye(3, dtype=torch.float64), 0 * one, log=torch.ones(3, dtype=torch.bool))
    expected = (norm(loc.numpy(), 0.3).logpdf(DATA.log().numpy()) - DATA.log().numpy()).sum()
    assert float(Predictive().log_prob(made, DATA)) == pytest.approx(expected, rel=1e-12)


def test_a_density_of_another_shape_is_taken_as_it_is():
    """Its tails count: that of the Gaussian with the same moments is off by units."""
    z = torch.distributions.Independent(torch.distributions.Laplace(torch.zeros(1).double(), 1.0), 1)
    made = Pushforward(z, torch.tensor([3.0]).double(), torch.tensor([[2.0]]).double(), torch.zeros(1).double())
    y = torch.tensor([[3.0], [19.0]]).double()
    found = Predictive().log_prob(made, y)
    np.testing.assert_allclose(found, laplace(3, 2).logpdf(y[:, 0].numpy()), rtol=1e-12)
    assert found[1] > norm(3, 8**0.5).logpdf(19.0) + 4


def test_an_output_that_no_run_varied_leaves_the_posterior_and_its_digits_alone():
    """Whatever is observed there: the log density moves with theta as that of an emulator without the output."""
    rng, space = np.random.default_rng(1), Space((Parameter("a", Uniform(0.0, 1.0)),))
    theta = rng.random((40, 1))
    y = np.hstack([theta + 0.1 * rng.standard_normal((40, 1)), theta**2 + 0.1 * rng.standard_normal((40, 1))])
    at = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)[:, None]
    for recipe in ({"use": "polynomial"}, {"use": "flow", "epochs": 3, "points": 32}):
        found = []
        for names, rows, data in (("yz", y, [0.4, 0.2]), ("yzx", np.hstack([y, 0 * theta]), [0.4, 0.2, 3e-5])):
            outputs = Outputs(tuple(Field(n) for n in names))
            runs = Runs.of(space, outputs, theta, rows, stochastic=True)
            emulator = fit(registry.build("emulators", recipe), runs, seed=0)
            density = Predictive().log_prob(emulator.predict(at), torch.tensor(data, dtype=torch.float64))
            found.append(density - density[0])
        torch.testing.assert_close(found[1], found[0], rtol=1e-6, atol=1e-8)


def test_where_error_bars_are_widened_that_output_is_left_alone_too():
    """The density of a wide bar is low by ln of its width for every output, which is no output's business that has no bar."""
    rng, space = np.random.default_rng(1), Space((Parameter("a", Uniform(0.0, 1.0)),))
    theta = np.concatenate([rng.uniform(0.0, 0.3, 20), rng.uniform(0.7, 1.0, 20)])[:, None]
    y = theta + 0.1 * rng.standard_normal((40, 1))
    at = torch.tensor([[0.25], [0.5], [0.9]], dtype=torch.float64)
    found = []
    for names, rows in (("y", y), ("yzx", np.hstack([y, 0 * theta, 0 * theta]))):
        runs = Runs.of(space, Outputs(tuple(Field(n) for n in names)), theta, rows, stochastic=True)
        p = fit(registry.build("emulators", {"use": "polynomial"}), runs, seed=0).predict(at, outside="inflate")
        density = Predictive().log_prob(p, torch.full((len(names),), 0.4, dtype=torch.float64))
        found.append(density - density[0])
        assert p.variance[1, 0] > 1.5 * p.variance[0, 0], "between the two clusters the bars are wide"
        spread = p.sample((4000,), generator=torch.Generator().manual_seed(1)).var(0)
        torch.testing.assert_close(spread[:, 0], p.variance[:, 0], rtol=0.15, atol=0.0)
        torch.testing.assert_close(p.covariance_matrix.diagonal(dim1=-2, dim2=-1), p.variance, rtol=1e-9, atol=0.0)
    torch.testing.assert_close(found[1], found[0], rtol=1e-6, atol=1e-8)


def test_what_no_run_varied_is_known_on_every_device_and_costs_a_flow_no_mean(monkeypatch):
    made = Gaussian(DATA, DATA, torch.zeros(3, 3).double(), DATA)
    made.constant = torch.tensor([math.nan, 2.0, math.nan], dtype=torch.float64)
    other = moved(made, torch.device("meta"), torch.device("cpu"))
    assert apart(other, 0 * DATA).tolist() == [0.0, 2.0, 0.0]
    z = torch.distributions.Independent(torch.distributions.Laplace(torch.zeros(1).double(), 1.0), 1)
    flow = Pushforward(z, torch.tensor([3.0]).double(), torch.tensor([[2.0]]).double(), torch.zeros(1).double())
    flow.constant = torch.tensor([5.0], dtype=torch.float64)
    monkeypatch.setattr(Pushforward, "mean", property(lambda _: pytest.fail("a mean over nodes was taken")))
    assert apart(flow, torch.zeros(1).double()).tolist() == [5.0]


def test_fisher_and_mode_are_those_of_a_run_of_known_noise():
    """y = A theta + e with a standard normal prior: information A^T A / s^2, mean V A^T y / s^2 (Bishop 2006, eq. 3.50)."""
    simulator = LinearGaussian(noise=NOISE)
    a = simulator.matrix
    basis = torch.eye(5, dtype=torch.float64)

    def predict(theta):
        y = theta @ a.T
        return Gaussian(y, torch.full_like(y, NOISE**2), basis, torch.zeros_like(y))

    y = simulator.run(torch.tensor([0.4, -0.3], dtype=torch.float64), seed=3)
    posterior = Posterior(simulator.space, predict, Predictive(), Predictive().sample(y, seed=1))
    information = a.T @ a / NOISE**2
    torch.testing.assert_close(posterior.fisher(torch.zeros(2, dtype=torch.float64)), information)
    v = torch.linalg.inv(information + torch.eye(2, dtype=torch.float64))
    mode = posterior.find_map(seed=1)
    torch.testing.assert_close(mode.theta, v @ a.T @ y / NOISE**2, atol=1e-5, rtol=0)
    torch.testing.assert_close(mode.covariance, v, atol=1e-6, rtol=0)


def test_a_true_run_has_no_density():
    sentence = ("predictive must be given a prediction with a density. Got one true run, which is a draw and has none; "
                "predict by an emulator, or use gaussian with the observation's noise.")  # fmt: skip
    with pytest.raises(InputError, match=f"^{re.escape(sentence)}$"):
        Predictive().log_prob(Exact(DATA), DATA)
