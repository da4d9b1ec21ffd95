"""Positives among trials against scipy's mass function and quadrature over the emulator's error."""

import numpy as np
import pytest
import torch
from scipy import stats

from emulate import registry
from emulate.distributions import Exact
from emulate.distributions import Gaussian as Predicted
from emulate.errors import InputError
from emulate.likelihoods.binomial import Binomial
from emulate.likelihoods.poisson import Poisson
from emulate.runs import Field, Outputs

Z = np.linspace(-9, 9, 8001)
COUNTS, EXPECTED = torch.tensor([0.0, 3.0, 20.0, 11.0]).double(), torch.tensor([0.2, 4.5, 19.5, 16.0]).double()


def lognormal(mean, share):
    """The prediction of an emulator that works on ln y, for one output: mean and sd = share mean."""
    v, at = np.log1p(share**2), lambda x: torch.tensor([x], dtype=torch.float64)
    return Predicted(
        at(np.log(mean) - v / 2), at(v), torch.eye(1, dtype=torch.float64), at(0.0), log=torch.tensor([True])
    )


def test_without_an_error_it_is_scipys():
    judge = stats.binom.logpmf(COUNTS.numpy(), 20, EXPECTED.numpy() / 20).sum()
    assert float(Binomial(trials=20).log_prob(Exact(EXPECTED), COUNTS)) == pytest.approx(judge, rel=1e-10)
    all_k = torch.arange(21).double()[:, None]
    total = Binomial(trials=20).log_prob(Exact(torch.tensor([7.3]).double()), all_k).exp().sum()
    assert float(total) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(("share", "tolerance"), [(0.05, 2e-4), (0.3, 0.004)])
def test_the_error_of_the_emulator_by_quadrature(share, tolerance):
    """Where its lognormal hardly reaches the trials: half of them are six of its standard deviations off."""
    for mean in (0.1, 2.0, 30.0, 200.0):
        v = np.log1p(share**2)
        y = mean * np.exp(v**0.5 * Z - v / 2)
        scatter = (mean + (share * mean) ** 2) ** 0.5
        for k in {int(max(0, mean + x * scatter)) for x in (-2.5, -1, 0, 1, 2)}:
            mass = np.where(y < 1000, stats.binom.pmf(k, 1000, np.minimum(y / 1000, 1)), 0)
            judge = np.log(np.trapezoid(mass * stats.norm.pdf(Z), Z))
            value = Binomial(trials=1000).log_prob(lognormal(mean, share), torch.tensor([float(k)]).double())
            assert float(value) == pytest.approx(judge, abs=tolerance), (mean, k)


def test_few_of_very_many_trials_are_poisson():
    counts = COUNTS.clamp(max=12)
    judge = Poisson().log_prob(Exact(EXPECTED), counts)
    assert float(Binomial(trials=10**7).log_prob(Exact(EXPECTED), counts)) == pytest.approx(float(judge), abs=1e-4)


def test_a_prediction_beyond_the_trials_is_unlikely_and_finite_with_its_gradient():
    y = torch.tensor([[19.9], [20.0], [21.0], [25.0]], dtype=torch.float64, requires_grad=True)
    for k in (0.0, 10.0, 20.0):
        value = Binomial(trials=20).log_prob(Exact(y), torch.tensor([k]).double())
        assert (value.diff() < 0).all()
        assert (torch.autograd.grad(value.sum(), y)[0] < 0).all()
        unsure = Binomial(trials=20).log_prob(
            Predicted(y, torch.ones(1).double(), torch.ones(1, 1).double(), 0 * y), torch.tensor([k]).double()
        )
        assert unsure.isfinite().all()
        assert (unsure < 0.02).all(), "a probability stays below 1"


def test_gradients_far_from_the_emulator():
    spread, one = torch.tensor([[0.3, 0.1]], dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    data, log = torch.tensor([0.0, 19.0], dtype=torch.float64), torch.ones(2, dtype=torch.bool)

    def value(loc):
        return Binomial(trials=20).log_prob(Predicted(loc, one, spread, 0 * loc + 0.04, log=log), data)

    loc = torch.tensor([2.0, 1.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(value, loc)
    assert torch.autograd.gradgradcheck(value, loc)


def test_draws_are_of_that_law():
    truth = torch.tensor([4.5], dtype=torch.float64)
    k = np.array([float(Binomial(trials=12).sample(truth, seed=i)) for i in range(3000)])
    p = stats.binom.pmf(np.arange(10), 12, 4.5 / 12)
    seen = np.array([(k == i).sum() for i in range(10)] + [(k > 9).sum()])
    assert stats.chisquare(seen, 3000 * np.array([*p, 1 - p.sum()])).pvalue > 0.001


@pytest.mark.parametrize(("data", "said"), [
    (21.0, "positives must be at most the 20 trials. Got 21; the data are numbers of positives and no shares."),
    (2.5, "counts must be whole numbers of at least 0. Got 2.5; weighted or scaled counts have errors of their own: use gaussian."),
])  # fmt: skip
def test_what_cannot_be_counted_is_refused(data, said):
    with pytest.raises(InputError) as caught:
        Binomial(trials=20).log_prob(Exact(EXPECTED[:1]), torch.tensor([data]).double())
    assert str(caught.value) == said
    with pytest.raises(InputError, match=r"^expected positives must be at most the 20 trials\. Got 30; the outputs are numbers of "
                       r"positives and no shares\.$"):  # fmt: skip
        Binomial(trials=20).sample(torch.tensor([30.0]).double(), seed=0)


def test_it_combines_with_noise_in_logarithms():
    """Of a sure prediction the density is the sum of both."""
    outputs = Outputs((Field("positives"), Field("prey")))
    spec = {"positives": {"use": "binomial", "trials": 20}, "prey": {"use": "log_normal", "error": 0.1}}
    both = registry.build("likelihoods", {"use": "combined", "parts": spec}).on(outputs)
    y, data = torch.tensor([4.5, 30.0]).double(), torch.tensor([3.0, 28.0]).double()
    alone = [registry.build("likelihoods", spec[f.name]).log_prob(Exact(y[i : i + 1]), data[i : i + 1])
             for i, f in enumerate(outputs.fields)]  # fmt: skip
    assert float(both.log_prob(Exact(y), data)) == pytest.approx(float(sum(alone)), rel=1e-9)
