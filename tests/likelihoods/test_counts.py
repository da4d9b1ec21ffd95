"""Counts against scipy's mass functions, quadrature over the emulator's error, and a Gamma's closed form."""

import re

import numpy as np
import pytest
import torch
from scipy import stats

from emulate import registry
from emulate.distributions import Exact
from emulate.distributions import Gaussian as Predicted
from emulate.errors import InputError
from emulate.likelihoods.gaussian import Gaussian
from emulate.likelihoods.negative_binomial import NegativeBinomial
from emulate.likelihoods.poisson import Poisson
from emulate.posterior import Posterior
from emulate.samplers.hmc import HMC
from emulate.space import Parameter, Space, Uniform

Z = np.linspace(-9, 9, 8001)
COUNTS = torch.tensor([0.0, 3.0, 1000.0], dtype=torch.float64)
RATES = torch.tensor([0.2, 4.5, 900.0], dtype=torch.float64)
BOTH = pytest.mark.parametrize("like", [Poisson(), NegativeBinomial(dispersion=0.2)], ids=lambda x: x.entry_name())


def _mass(like, n, rate):
    if isinstance(like, Poisson):
        return stats.poisson.pmf(n, rate)
    r = 1 / like.dispersion
    return stats.nbinom.pmf(n, r, r / (r + rate))


def _lognormal(mean: float, share: float) -> Predicted:
    """The prediction of an emulator that works on ln y, for one output: mean and sd = share mean."""
    v = np.log1p(share**2)
    at = lambda x: torch.tensor([x], dtype=torch.float64)  # noqa: E731
    return Predicted(
        at(np.log(mean) - v / 2), at(v), torch.eye(1, dtype=torch.float64), at(0.0), log=torch.tensor([True])
    )


@BOTH
def test_without_an_error_it_is_scipys(like):
    expected = np.log(_mass(like, COUNTS.numpy(), RATES.numpy())).sum()
    assert float(like.log_prob(Exact(RATES), COUNTS)) == pytest.approx(expected, rel=1e-10)
    total = sum(float(like.log_prob(Exact(RATES[1:2]), torch.tensor([float(n)]).double()).exp()) for n in range(200))
    assert total == pytest.approx(1, abs=1e-9)


@BOTH
@pytest.mark.parametrize(("share", "tolerance"), [(0.05, 2e-5), (0.3, 0.002), (1.0, 0.01)])
def test_the_error_of_the_emulator_by_quadrature(like, share, tolerance):
    for mean in (0.1, 1.0, 10.0, 1000.0):
        v = np.log1p(share**2)
        rates, scatter = mean * np.exp(v**0.5 * Z - v / 2), (mean + (share * mean) ** 2) ** 0.5
        for n in {int(max(0, mean + k * scatter)) for k in (-2.5, -1, 0, 1, 2, 4)}:
            expected = np.log(np.trapezoid(_mass(like, n, rates) * stats.norm.pdf(Z), Z))
            value = float(like.log_prob(_lognormal(mean, share), torch.tensor([float(n)], dtype=torch.float64)))
            assert value == pytest.approx(expected, abs=tolerance), (mean, n)


def test_gradients_at_counts_far_from_the_emulator():
    """The mode of ln y lies far from the prediction: the two steps after the search still carry the derivative."""
    spread = torch.tensor([[0.4, 0.1, 0.3]], dtype=torch.float64)
    data = torch.tensor([0.0, 40.0, 300.0], dtype=torch.float64)

    def value(loc: torch.Tensor, like) -> torch.Tensor:
        one, log = torch.ones(1, dtype=torch.float64), torch.ones(3, dtype=torch.bool)
        return like.log_prob(Predicted(loc, one, spread, 0 * loc + 0.09, log=log), data)

    loc = torch.tensor([2.0, 0.5, 4.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: value(x, Poisson()), loc)
    assert torch.autograd.gradgradcheck(lambda x: value(x, Poisson()), loc)
    assert torch.autograd.gradcheck(lambda x: value(x, NegativeBinomial(dispersion=0.3)), loc)


def test_many_counts_are_gaussian():
    """Counts of a million with an emulator that is sure to 0.1 %, by the central limit theorem."""
    mean = torch.tensor([1e6, 2e6], dtype=torch.float64)
    prediction = Predicted(mean, torch.ones(1, dtype=torch.float64), 1e-3 * mean[None], 0 * mean)
    data = torch.tensor([1001500.0, 2002000.0], dtype=torch.float64)
    judge = Gaussian(absolute_error=tuple(mean.sqrt().tolist())).log_prob(prediction, data)
    assert float(Poisson().log_prob(prediction, data)) == pytest.approx(float(judge), abs=0.01)


@BOTH
def test_an_expected_count_that_is_not_positive_is_impossible(like):
    rates = torch.tensor([[1.0, 0.0], [1.0, -3.0], [1.0, 2.0]], dtype=torch.float64, requires_grad=True)
    value = like.log_prob(Exact(rates), torch.tensor([1.0, 0.0], dtype=torch.float64))
    assert value[:2].tolist() == [-torch.inf, -torch.inf]
    assert value[2] > -10
    value[2].backward()
    assert rates.grad.isfinite().all()
    emulated = Predicted(rates.detach(), torch.ones(2).double(), torch.eye(2).double(), torch.zeros(3, 2).double())
    assert like.log_prob(emulated, COUNTS[:2])[:2].tolist() == [-torch.inf, -torch.inf]


@BOTH
def test_what_is_no_count_is_refused(like):
    with pytest.raises(InputError, match=r"^counts must be whole numbers of at least 0\. Got 2\.5; weighted or scaled counts "
                       r"have errors of their own: use gaussian\.$"):  # fmt: skip
        like.log_prob(Exact(RATES), torch.tensor([1.0, 2.5, 3.0], dtype=torch.float64))
    with pytest.raises(InputError, match=r"^expected counts must be above 0\. Got 0 in output 1 of 2; leave the output out, "
                       r"or merge bins\.$"):  # fmt: skip
        like.sample(torch.tensor([1.0, 0.0], dtype=torch.float64), seed=1)


@BOTH
def test_draws_are_counts_of_that_law(like):
    rate = torch.tensor([4.5], dtype=torch.float64)
    n = np.array([float(like.sample(rate, seed=i)) for i in range(3000)])
    edges = [*range(10)]
    seen = np.array([(n == k).sum() for k in edges] + [(n > 9).sum()])
    p = _mass(like, np.arange(10), 4.5)
    assert stats.chisquare(seen, 3000 * np.array([*p, 1 - p.sum()])).pvalue > 0.001


def test_dispersion_is_checked():
    said = ("dispersion must be a finite number above 0, or a list of them, one per output. Got 0.0; without it the counts "
            "are poisson.")  # fmt: skip
    with pytest.raises(InputError, match=f"^{re.escape(said)}$"):
        NegativeBinomial(dispersion=0.0)
    with pytest.raises(
        InputError, match=r"^dispersion must be one number, or a list of 3, one per output\. Got 2 numbers\.$"
    ):
        NegativeBinomial(dispersion=(0.1, 0.2)).log_prob(Exact(RATES), COUNTS)
    with pytest.raises(InputError, match="this key is missing"):
        registry.build("likelihoods", "negative_binomial")


def test_a_posterior_of_counts_is_the_gamma_it_must_be():
    """n_j ~ Poisson(rate), flat prior: Gamma(sum n + 1, m); HMC's mean and variance, the mode over x, and Fisher m / rate."""
    space = Space((Parameter("rate", Uniform(0.0, 60.0)),))
    data = torch.tensor([17.0, 25.0, 19.0, 22.0], dtype=torch.float64)
    posterior = Posterior(space, lambda t: Exact(t.expand(*t.shape[:-1], 4)), Poisson(), data)
    draws = HMC().draw(posterior.log_density, 0.3 * torch.randn(32, 1, generator=torch.Generator().manual_seed(1),
                       dtype=torch.float64), 200, seed=2)  # fmt: skip
    rate = posterior.theta(draws.x).flatten()
    truth, ess = stats.gamma(84, scale=1 / 4), float(draws.ess.min())
    assert abs(float(rate.mean()) - truth.mean()) < 4 * truth.std() / ess**0.5
    assert abs(float(rate.std()) / truth.std() - 1) < 4 / (2 * ess) ** 0.5
    at = torch.tensor([20.0], dtype=torch.float64)
    assert float(posterior.fisher(at)) == pytest.approx(4 / 20)
    assert posterior.find_map(seed=1).converged
