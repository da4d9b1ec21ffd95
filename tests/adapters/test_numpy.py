"""ln p of arrays against the linear Gaussian in closed form; emcee, dynesty and scipy reach its answers."""

import math
import pickle

import numpy as np
import pytest
import torch
from scipy import optimize

from emulate import Parameter, Posterior, Space, Uniform
from emulate.adapters.numpy import Density
from emulate.distributions import Exact
from emulate.errors import InputError
from emulate.likelihoods.gaussian import Gaussian
from tests.adapters import line

THETA = np.random.default_rng(1).normal(size=(4, 3, 2))
FLAT = Space((Parameter("a", Uniform(-1, 2)), Parameter("b", Uniform(-1, 1))))


@pytest.fixture(scope="module")
def posterior():
    return line.posterior()


@pytest.fixture(scope="module")
def density(posterior):
    return Density(posterior)


def test_it_is_the_joint_density_of_parameters_and_data(density):
    told = line.answer()
    np.testing.assert_allclose(density(THETA), told.log_density(THETA), rtol=1e-9)
    np.testing.assert_allclose(density.gradient(THETA), told.gradient(THETA), rtol=1e-8, atol=1e-9)


def test_over_x_it_holds_the_jacobian_of_the_map(posterior):
    over_x, x = Density(posterior, "x"), (THETA - line.MEAN) / line.SD
    told = line.answer()
    np.testing.assert_allclose(over_x.theta(x), THETA, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(over_x(x), told.log_density(THETA) + np.log(line.SD).sum(), rtol=1e-9)
    np.testing.assert_allclose(over_x.gradient(x), told.gradient(THETA) * line.SD, rtol=1e-7, atol=1e-9)


def test_one_point_gives_a_number_and_many_give_an_array(density):
    value, gradient = density.value_and_gradient(THETA[0, 0])
    assert isinstance(value, float)
    assert gradient.shape == (2,)
    assert density([0.1, 0.2]) == pytest.approx(density(np.array([[0.1, 0.2]]))[0], rel=1e-14)
    assert density(THETA).shape == (4, 3)
    assert density(np.empty((0, 2))).shape == (0,)
    assert density.value_and_gradient(THETA)[1].shape == THETA.shape


def test_outside_the_prior_it_is_minus_infinity_and_nobody_is_asked():
    asked = []

    def predict(theta):
        asked.append(theta)
        return Exact(theta @ torch.from_numpy(line.A).T)

    density = Density(Posterior(FLAT, predict, Gaussian(absolute_error=1.0), torch.from_numpy(line.DATA)))
    value, gradient = density.value_and_gradient([[0.0, 0.0], [3.0, 0.0], [np.nan, 0.0], [0.0, -np.inf]])
    assert np.isfinite(value).tolist() == [True, False, False, False]
    assert (value[1:] == -np.inf).all()
    assert (gradient[1:] == 0).all()
    assert sum(len(t) for t in asked) == 1


def test_a_prediction_that_is_no_number_is_minus_infinity():

    def predict(theta):
        return Exact(torch.where(theta > 0, theta, torch.nan))

    density = Density(Posterior(FLAT, predict, Gaussian(absolute_error=1.0), torch.zeros(2, dtype=torch.float64)))
    value, gradient = density.value_and_gradient([[0.5, 0.5], [-0.5, 0.5]])
    assert np.isfinite(value[0])
    assert value[1] == -np.inf == density([-0.5, 0.5])
    assert (gradient[1] == 0).all()


def test_the_restriction_of_a_posterior_counts(posterior):
    half = Posterior(
        posterior.space, posterior.predict, posterior.likelihood, posterior.data, lambda t: -(t[..., 0] ** 2)
    )
    less = THETA[..., 0] ** 2
    np.testing.assert_allclose(Density(half)(THETA), Density(posterior)(THETA) - less, rtol=1e-12)
    np.testing.assert_allclose(
        Density(half).log_likelihood(THETA), Density(posterior).log_likelihood(THETA) - less, rtol=1e-12
    )


def test_the_unit_cube_becomes_the_prior():
    density = Density(Posterior(FLAT, Exact, Gaussian(absolute_error=1.0), torch.zeros(2, dtype=torch.float64)))
    np.testing.assert_allclose(density.prior_transform([[0, 0], [0.5, 0.25], [1, 1]]), [[-1, -1], [0.5, -0.5], [2, 1]])
    starts = density.starts(500, seed=1)
    assert np.isfinite(density(starts)).all()
    assert (starts == density.starts(500, seed=1)).all()


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda p: Density(line.emulator()), r"must be made of an emulate.Posterior. Got Emulator"),
        (lambda p: Density(p, "xi"), r"coordinates must be theta or x. Got 'xi'"),
        (lambda p: Density(Posterior(p.space, p.predict, p.likelihood, p.data.expand(2, 3))), r"one observation.*\[2, 3\]"),
        (lambda p: Density(p)([1.0, 2.0, 3.0]), r"theta must have 2 values in its last axis \(a, b\)"),
        (lambda p: Density(Posterior(p.space, lambda t: Exact(t.detach()), Gaussian(absolute_error=1.0), p.data[:2])).gradient(
            [0.0, 0.0]), "a gradient must come through the prediction"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told(posterior, make, sentence):
    with pytest.raises(InputError, match=sentence):
        make(posterior)


def test_it_goes_to_other_processes(density):
    again = pickle.loads(pickle.dumps(density))
    assert (again(THETA) == density(THETA)).all()


def test_scipy_climbs_to_the_mean(density):
    found = optimize.minimize(lambda t: -density(t), line.MEAN, jac=lambda t: -density.gradient(t), method="BFGS")
    np.testing.assert_allclose(found.x, line.answer().mean, atol=1e-5)
    assert -found.fun == pytest.approx(line.answer().log_density(line.answer().mean), abs=1e-8)


def test_emcee_reaches_the_closed_form(density):
    emcee = pytest.importorskip("emcee")
    sampler = emcee.EnsembleSampler(32, 2, density, vectorize=True)
    sampler.random_state = np.random.RandomState(1).get_state()
    sampler.run_mcmc(density.starts(32, seed=1), 500)
    draws, time = sampler.get_chain(discard=100), sampler.get_autocorr_time(discard=100, quiet=True)
    assert np.abs(line.z_scores(draws.reshape(-1, 2), draws[..., 0].size / time)).max() < 4


@pytest.mark.slow
def test_dynesty_finds_the_evidence_of_the_closed_form(density):
    dynesty = pytest.importorskip("dynesty")
    sampler = dynesty.NestedSampler(
        density.log_likelihood, density.prior_transform, 2, nlive=200, rstate=np.random.default_rng(1)
    )
    sampler.run_nested(print_progress=False, dlogz=0.05)
    found = sampler.results
    assert math.isfinite(found.logzerr[-1])
    assert abs(found.logz[-1] - line.answer().log_evidence) < 4 * found.logzerr[-1]
