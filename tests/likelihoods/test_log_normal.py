"""Noise in ln y against scipy's density, quadrature over the emulator's error, and a Gaussian on logarithms."""

import pytest
import torch
from scipy import stats

from emulate.distributions import Exact
from emulate.distributions import Gaussian as Predicted
from emulate.errors import InputError
from emulate.likelihoods._laplace import evidence
from emulate.likelihoods.gaussian import Gaussian
from emulate.likelihoods.log_normal import LogNormal

Y, DATA = torch.tensor([30.0, 0.02, 7.0]).double(), torch.tensor([28.0, 0.03, 7.5]).double()
BASIS = torch.tensor([[0.3, 0.1, -0.2], [0.0, 0.2, 0.4]]).double()


def prediction(loc):
    """Of an emulator on ln y with errors that correlate."""
    return Predicted(loc, torch.ones(2).double(), BASIS, 0 * loc + 0.01, log=torch.ones(3, dtype=torch.bool))


def test_without_an_error_it_is_scipys():
    judge = stats.lognorm.logpdf(DATA.numpy(), 0.1, scale=Y.numpy()).sum()
    assert float(LogNormal(error=0.1).log_prob(Exact(Y), DATA)) == pytest.approx(judge, rel=1e-10)
    each = stats.lognorm.logpdf(DATA.numpy(), [0.1, 0.4, 0.2], scale=Y.numpy()).sum()
    assert float(LogNormal(error=(0.1, 0.4, 0.2)).log_prob(Exact(Y), DATA)) == pytest.approx(each, rel=1e-10)


def test_the_error_of_the_emulator_is_that_of_a_gaussian_on_logarithms():
    """Jacobian included; by Laplace's method, which is exact here, the same."""
    on_logs = Predicted(Y.log(), torch.ones(2).double(), BASIS, 0 * Y + 0.01)
    judge = Gaussian(absolute_error=0.1).log_prob(on_logs, DATA.log()) - DATA.log().sum()
    noise = LogNormal(error=0.1)
    assert float(noise.log_prob(prediction(Y.log()), DATA)) == pytest.approx(float(judge), rel=1e-9)
    assert float(evidence(noise, prediction(Y.log()), DATA)) == pytest.approx(float(judge), rel=1e-6)


def test_an_emulator_that_is_unsure_by_hundreds_of_decades_gives_no_nan():
    loc = torch.tensor([[3.0, -4.0, 2.0], [800.0, 0.0, 0.0], [-800.0, 0.0, 0.0]], dtype=torch.float64)
    wide = Predicted(loc, 300 * torch.ones(2).double(), BASIS, 0 * loc + 500, log=torch.ones(3, dtype=torch.bool))
    value = LogNormal(error=0.1).log_prob(wide, DATA)
    assert not value.isnan().any()
    assert (value < torch.inf).all()


def test_draws_are_of_that_law():
    noise = LogNormal(error=(0.1, 0.3, 1.0))
    draws = torch.stack([noise.sample(Y, seed=i) for i in range(2000)])
    for x, y, s in zip(draws.T.numpy(), Y.tolist(), noise.error, strict=True):
        assert stats.kstest(x, stats.lognorm(s, scale=y).cdf).pvalue > 1e-3
    assert noise.covariance(Y).diagonal().tolist() == pytest.approx(
        (Y**2 * torch.expm1(torch.tensor(noise.error) ** 2)).tolist()
    )


def test_what_does_not_fit_is_said():
    with pytest.raises(
        InputError, match=r"^data of noise in ln y must be above 0\. Got 0; use gaussian where there are zeros\.$"
    ):
        LogNormal(error=0.1).log_prob(Exact(Y), 0 * DATA)
    with pytest.raises(
        InputError, match=r"^error must be a finite number above 0, or a list of them, one per output\. Got 0\.0\.$"
    ):
        LogNormal(error=0.0)
