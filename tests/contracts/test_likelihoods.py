"""Laws of the room of likelihoods: batches are loops, noise is what it says, the emulator's error counts.

One that adds no noise has none of its own in `covariance` and `sample`, and needs predictions with a density.
"""

import pytest
import torch

from emulate import registry
from emulate.distributions import Exact, Gaussian
from emulate.runs import Field, Outputs
from tests.entries import entries

M = 4
OUTPUTS = Outputs((Field("pk", coordinate="k", at=(0.1, 0.2)), Field("counts", coordinate="x", at=(1.0, 2.0))))
NAMES = entries("likelihoods")


@pytest.fixture(params=NAMES)
def likelihood(request):
    example = registry.find("likelihoods", request.param).example
    return registry.build("likelihoods", {"use": request.param, **example}).on(OUTPUTS)


def _normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _data(likelihood, *shape: int) -> torch.Tensor:
    """Observations `[*shape, 4]` that the likelihood can make: counts are whole numbers."""
    truth = 5 + _normal(*shape, M, seed=1)
    rows = [likelihood.sample(y, seed=i) for i, y in enumerate(truth.reshape(-1, M))]
    return torch.stack(rows).reshape(truth.shape)


def _emulated(mean: torch.Tensor, sd: float) -> Gaussian:
    basis = torch.eye(mean.shape[-1], dtype=torch.float64)
    return Gaussian(mean, torch.full_like(mean, sd**2), basis, torch.zeros_like(mean))


def _sure(likelihood, y: torch.Tensor):
    """The surest prediction of y that a likelihood takes."""
    return Exact(y) if likelihood.adds_noise else _emulated(y, 0.1)


def test_a_batch_is_a_loop(likelihood):
    means, data = 5 + _normal(7, M), _data(likelihood, 7)
    loop = torch.stack([likelihood.log_prob(_emulated(a, 0.3), b) for a, b in zip(means, data, strict=True)])
    torch.testing.assert_close(likelihood.log_prob(_emulated(means, 0.3), data), loop)
    one = torch.stack([likelihood.log_prob(_emulated(a, 0.3), data[0]) for a in means])
    torch.testing.assert_close(likelihood.log_prob(_emulated(means, 0.3), data[0]), one)
    grid = likelihood.log_prob(_emulated(means[:, None], 0.3), data)
    assert grid.shape == (7, 7)
    torch.testing.assert_close(grid[:, 0], one)


def test_the_gradient_is_that_of_differences(likelihood):
    mean, data = 5 + _normal(M), _data(likelihood)
    assert torch.autograd.gradcheck(lambda y: likelihood.log_prob(_emulated(y, 0.3), data), mean.requires_grad_())


def test_covariances_are_symmetric_and_positive_definite(likelihood):
    data = 5 + _normal(3, M)
    noise = likelihood.covariance(data)
    assert noise.shape == (3, M, M)
    torch.testing.assert_close(noise, noise.mT)
    if likelihood.adds_noise:
        assert (torch.linalg.eigvalsh(noise) > 0).all()
    else:
        assert (noise == 0).all()
    more = likelihood.covariance(data, _emulated(data, 0.3)) - noise
    torch.testing.assert_close(more, 0.09 * torch.eye(M, dtype=torch.float64).expand(3, M, M))


def test_noise_has_the_covariance_that_is_claimed(likelihood):
    truth, n = 5 + _normal(M), 4000
    samples = torch.stack([likelihood.sample(truth, seed=s) for s in range(n)])
    claimed = likelihood.covariance(truth)
    if not likelihood.adds_noise:
        assert torch.equal(samples, truth.expand(n, M))
        return
    whitened = torch.linalg.solve_triangular(torch.linalg.cholesky(claimed), (samples - truth).T, upper=False).T
    second = whitened.T @ whitened / n
    assert (whitened.mean(0) * n**0.5).abs().max() < 4
    sd = torch.full((M, M), n**-0.5, dtype=torch.float64) * (1 + (2**0.5 - 1) * torch.eye(M))
    assert ((second - torch.eye(M)) / sd).abs().max() < 4


def test_noise_is_keyed_by_its_seed(likelihood):
    truth, state = 5 + _normal(M), torch.get_rng_state()
    assert torch.equal(likelihood.sample(truth, seed=3), likelihood.sample(truth, seed=3))
    other = likelihood.sample(truth, seed=4)
    assert torch.equal(likelihood.sample(truth, seed=3), other) != likelihood.adds_noise
    assert torch.equal(torch.get_rng_state(), state)


def test_the_truth_is_preferred(likelihood):
    truth = 5 + _normal(M)
    data = torch.stack([likelihood.sample(truth, seed=s) for s in range(200)])
    right, wrong = (likelihood.log_prob(_sure(likelihood, y), data) for y in (truth, truth + 1.0))
    assert right.mean() > wrong.mean()


def test_the_error_of_the_emulator_makes_outliers_less_surprising(likelihood):
    truth = (5 + _normal(M)).round()
    near, far = truth, truth + 6
    sure, unsure = (
        [likelihood.log_prob(p, d) for d in (near, far)] for p in (_sure(likelihood, truth), _emulated(truth, 1.0))
    )
    assert sure[0] > unsure[0]
    assert sure[1] < unsure[1]


def test_a_prediction_that_is_not_finite_is_impossible_not_nan(likelihood):
    y = torch.full((M,), torch.nan, dtype=torch.float64)
    assert float(likelihood.log_prob(_sure(likelihood, y), _data(likelihood))) == -torch.inf
    some = torch.stack([y, 5 + _normal(M)])
    assert likelihood.log_prob(_sure(likelihood, some), _data(likelihood)).isfinite().tolist() == [False, True]


def test_settings_build_the_same_entry(likelihood):
    again = registry.build("likelihoods", {"use": likelihood.entry_name(), **likelihood.settings()}).on(OUTPUTS)
    data = _data(likelihood)
    prediction = _emulated(data + 1, 0.3)
    assert again.settings() == likelihood.settings()
    assert float(again.log_prob(prediction, data)) == float(likelihood.log_prob(prediction, data))


def test_the_emulators_covariance_can_be_switched_off(likelihood):
    if not likelihood.adds_noise:
        return  # the prediction's own spread is the noise: there is nothing to switch
    spec = {"use": likelihood.entry_name(), **likelihood.settings(), "emulator_covariance": False}
    off, data = registry.build("likelihoods", spec).on(OUTPUTS), _data(likelihood)
    prediction, exact = _emulated(data + 1, 0.5), Exact(data + 1)
    assert float(off.log_prob(prediction, data)) == pytest.approx(float(likelihood.log_prob(exact, data)))
    torch.testing.assert_close(off.covariance(data, prediction), likelihood.covariance(data, exact))
