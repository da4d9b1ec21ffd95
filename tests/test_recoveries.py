"""Recovery of a linear-Gaussian study: posteriors in closed form, ranks that are even, and faults that are found."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import kstest, norm, truncnorm
from torch.distributions import Distribution

from emulate import uniformity
from emulate.checks.recovery import Recovery
from emulate.checks.tarp import Tarp
from emulate.contracts import Evidence, Sampler
from emulate.contracts import Recovery as Known
from emulate.distributions import Exact
from emulate.likelihoods.gaussian import Gaussian
from emulate.posterior import Posterior
from emulate.ranks import Ranks, even
from emulate.recoveries import recover
from emulate.samplers.ensemble import Ensemble
from emulate.samplers.hmc import HMC
from emulate.samplers.laplace import Laplace
from emulate.simulators.linear_gaussian import LinearGaussian
from emulate.space import Parameter, Space, Uniform
from tests.checks.stand_ins import recovery

NOISE = 0.2  # as in configs/linear.yaml
SIMULATOR = LinearGaussian(outputs_count=5)


class Off:
    """An emulator of the linear map: it errs by N(0, error^2) in every output of every run, states `stated` times that and
    the noise as variance, and its mean is `shift` posterior standard deviations of the first parameter too high."""

    def __init__(self, error: float = 0.1, stated: float = 1.0, shift: float = 0.0):
        variance = stated * (error**2 + NOISE**2)
        self.error, self.likelihood = error, Gaussian(absolute_error=math.sqrt(variance))
        covariance = torch.linalg.inv(SIMULATOR.matrix.T @ SIMULATOR.matrix / variance + torch.eye(2))
        self.offset = torch.tensor([shift * covariance[0, 0].sqrt(), 0.0]).double()
        self.covariance = covariance

    def predict(self, theta: torch.Tensor) -> Distribution:
        return Exact((theta - self.offset) @ SIMULATOR.matrix.T)

    def recovered(self, q: int, sampler: Sampler, seed: int):
        rng = np.random.default_rng(seed)
        truth = SIMULATOR.space.from_unit(torch.as_tensor(rng.random((q, 2))))
        wrong = torch.as_tensor(math.hypot(self.error, NOISE) * rng.standard_normal((q, 5)))
        posterior = Posterior(SIMULATOR.space, self.predict, self.likelihood, truth @ SIMULATOR.matrix.T + wrong)
        return posterior, recover(posterior, truth, sampler, seed=seed)


def _failed(known) -> dict[str, bool]:
    material = Evidence(SIMULATOR, recovery=known)  # of the emulator the parameters' names are read alone
    return {f.name: not f.passed for c in (Recovery(), Tarp()) for f in c.find(material)}


@pytest.mark.parametrize("sampler", [HMC(), Ensemble()], ids=["hmc", "ensemble"])
def test_posteriors_and_ranks_are_those_of_the_closed_form(sampler):
    honest = Off()
    posterior, known = honest.recovered(40, sampler, seed=3)
    variance = honest.likelihood.absolute_error**2
    mean = (posterior.data @ SIMULATOR.matrix / variance) @ honest.covariance
    sd = honest.covariance.diagonal().sqrt()
    z = (known.mean - mean) / sd * known.ess[:, None].sqrt()
    assert float(z.abs().max()) < 4.5  # 80 of them
    assert float((known.sd / sd).log().abs().max()) < 4.5 / math.sqrt(2 * float(known.ess.min()))
    exact = norm.cdf((known.truth - mean) / sd)
    error = np.sqrt(exact * (1 - exact) / known.ess[:, None].numpy()) + 1 / known.ess[:, None].numpy()
    assert (np.abs(Ranks(known).parameters - exact) < 5 * error).all()
    assert float((known.draws.mean(1) - known.mean).abs().max()) < 1e-9  # x is theta under a standard normal prior
    rho = float(honest.covariance[0, 1] / sd.prod())
    assert Ranks(known).correlation[0, 1] == pytest.approx(rho, abs=4 / math.sqrt(float(known.ess.sum())))


@pytest.mark.parametrize("sampler", [HMC(), Ensemble()], ids=["hmc", "ensemble"])
def test_truths_at_the_walls_of_the_prior_have_truncated_normal_posteriors(sampler):
    """Parameters in [0, 1] that are measured themselves, to 0.03, at and beyond the walls: scipy's truncated normal."""
    space = Space(tuple(Parameter(n, Uniform(0.0, 1.0)) for n in ("a", "b")))
    sd, data = (
        0.03,
        torch.tensor([[0.01, 0.5], [-0.02, 0.97], [1.03, 1.0], [0.02, 0.03], [0.4, -0.01]], dtype=torch.float64),
    )
    posterior = Posterior(space, Exact, Gaussian(absolute_error=sd), data)
    known = recover(posterior, data.clamp(0.005, 0.995), sampler, seed=2)
    m = data.numpy()
    exact = truncnorm(-m / sd, (1 - m) / sd, loc=m, scale=sd)
    z = (known.mean.numpy() - exact.mean()) / exact.std() * known.ess[:, None].sqrt().numpy()
    assert np.abs(z).max() < 4.0  # 10 of them
    assert np.abs(np.log(known.sd.numpy() / exact.std())).max() < 5.0 / math.sqrt(float(known.ess.min()))
    assert float(known.ess.min()) > 60


def test_every_observation_is_recovered_by_chains_of_its_own():
    """The order of the draws: neighbours are of different chains, and all of an observation stay with it."""
    posterior, known = Off().recovered(5, HMC(), seed=4)
    assert known.draws.shape == (5, 600, 2)
    halves = known.draws[:, ::2].mean(1), known.draws[:, 1::2].mean(1)
    assert float((halves[0] - halves[1]).abs().max()) < 6 * float(known.sd.max()) / math.sqrt(
        float(known.ess.min()) / 2
    )
    one = posterior.data[2:3]
    alone = recover(
        Posterior(posterior.space, posterior.predict, posterior.likelihood, one), known.truth[2:3], HMC(), seed=9
    )
    off = (alone.mean - known.mean[2]) / known.sd[2] * math.sqrt(float(known.ess[2]) / 2)
    assert float(off.abs().max()) < 4.5


@pytest.mark.parametrize("independent", [True, False])
def test_ranks_are_even_and_pulls_normal_however_correlated_the_draws(independent):
    """AR(1) chains of correlation 0.8: 600 draws are worth 67, and the ranks of 3000 truths are as even as with 600."""
    rng, q, s, rho = np.random.default_rng(8), 3000, 600, 0.8
    z = rng.standard_normal((q, s + 1))
    if not independent:
        for i in range(2, s + 1):
            z[:, i] = rho * z[:, i - 1] + math.sqrt(1 - rho**2) * z[:, i]
    worth = np.full(q, s if independent else s * (1 - rho) / (1 + rho))
    u = even((z[:, 1:] < z[:, :1]).mean(1), worth, 1)
    assert uniformity.p_value(u) > 0.001
    assert kstest(norm.ppf(u), "norm").pvalue > 0.001


def test_counting_draws_without_what_they_are_worth_is_not_even():
    rng, q, rho = np.random.default_rng(8), 3000, 0.95
    z = rng.standard_normal((q, 101))
    for i in range(2, 101):
        z[:, i] = rho * z[:, i - 1] + math.sqrt(1 - rho**2) * z[:, i]
    share = (z[:, 1:] < z[:, :1]).mean(1)
    assert uniformity.p_value(even(share, np.full(q, 100.0), 1)) < 1e-6


def test_distances_do_not_change_under_stretching_and_turning():
    known = recovery(0.0, 1.0)
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))[0]
    moved = Known(**{**vars(known), "x": 7 * known.x @ turn + 1, "draws": 7 * known.draws @ turn + 1})
    ours, theirs = Ranks(known).distances(), Ranks(moved).distances()
    assert abs(uniformity.p_value(ours) - 0.5) <= 0.5
    assert np.sort(ours)[0] >= 0
    assert np.sort(theirs)[-1] <= 1
    assert kstest(ours, theirs).pvalue > 0.01


def test_a_mode_that_the_sampler_missed_is_seen_by_distances():
    """Truths in one of two modes, draws in the first only: every draw near its own truth half of the time."""
    rng, q, s = np.random.default_rng(2), 100, 200
    mode = rng.integers(0, 2, q) * 8.0
    x = torch.as_tensor(rng.standard_normal((q, 2)))
    x[:, 0] += torch.as_tensor(mode)
    draws = torch.as_tensor(rng.standard_normal((q, s, 2)))
    known = Known(torch.rand(q), x, draws.mean(1), draws.std(1), draws, x, torch.full((q,), float(s)))
    found = _failed(known)
    assert found["tarp.coverage"]


@pytest.mark.slow
@pytest.mark.parametrize("fault", [{}, {"stated": 0.25}, {"shift": 0.5}], ids=["honest", "boastful", "shifted"])
def test_five_hundred_repetitions_of_the_linear_study(fault):
    """20 seeds of SBC over 500 observations: faults fail in each, and what is honest in no more than chance gives."""
    seeds = [_failed(Off(**fault).recovered(500, Laplace(), seed=s)[1]) for s in range(20)]
    failed = {name: sum(one[name] for one in seeds) for name in ("recovery.joint", "tarp.coverage")}
    print(fault, failed)
    if fault:
        assert failed["recovery.joint"] == 20
    else:
        assert failed["recovery.joint"] <= 1
        assert failed["tarp.coverage"] <= 1


@pytest.mark.slow
def test_five_hundred_repetitions_through_the_sampler_of_the_study():
    assert not any(_failed(Off().recovered(500, HMC(), seed=1)[1])[n] for n in ("recovery.joint", "tarp.coverage"))
