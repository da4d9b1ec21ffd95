"""Unknown settings integrated out: against scipy's quadrature, closed forms of the normal-gamma pair, and draws."""

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from emulate import registry
from emulate.distributions import Exact
from emulate.distributions import Gaussian as Predicted
from emulate.errors import InputError
from emulate.likelihoods.combined import Combined
from emulate.likelihoods.gaussian import Gaussian
from emulate.likelihoods.marginal import Marginal
from emulate.likelihoods.negative_binomial import NegativeBinomial
from emulate.likelihoods.poisson import Poisson
from emulate.likelihoods.predictive import Predictive
from emulate.runs import Field, Outputs

Y = torch.tensor([4.0, 9.0, 6.0, 12.0], dtype=torch.float64)
DATA = torch.tensor([5.0, 7.0, 7.0, 13.0], dtype=torch.float64)


def _ln(density, prior) -> float:
    """ln of the integral of density(s) prior(s), by scipy in u = F(s)."""
    return float(np.log(integrate.quad(lambda u: density(prior.ppf(u)), 0, 1, epsabs=1e-14, epsrel=1e-10)[0]))


@pytest.mark.parametrize(("of", "name", "spec", "prior", "density"), [
    (Gaussian(absolute_error=1.0), "absolute_error", {"log_uniform": [0.5, 5.0]}, stats.loguniform(0.5, 5.0),
     lambda s: stats.norm(Y, s).pdf(DATA).prod()),
    (NegativeBinomial(dispersion=0.1), "dispersion", {"uniform": [0.01, 0.5]}, stats.uniform(0.01, 0.49),
     lambda a: stats.nbinom.pmf(DATA, 1 / a, 1 / (1 + a * Y.numpy())).prod()),
])  # fmt: skip
def test_it_is_the_integral(of, name, spec, prior, density):
    value = float(Marginal(of=of, over={name: spec}).log_prob(Exact(Y), DATA))
    assert value == pytest.approx(_ln(density, prior), abs=1e-8)


def test_two_settings_are_integrated_together():
    like = Marginal(of=Gaussian(absolute_error=1.0), nodes=24, over={"absolute_error": {"uniform": [0.5, 3.0]},
                                                                   "offset_error": {"uniform": [0.1, 2.0]}})  # fmt: skip

    def density(o: float, s: float) -> float:
        return stats.multivariate_normal(Y, s**2 * np.eye(4) + o**2).pdf(DATA) / 2.5 / 1.9

    judge = np.log(integrate.dblquad(density, 0.5, 3.0, 0.1, 2.0, epsabs=1e-14, epsrel=1e-8)[0])
    assert float(like.log_prob(Exact(Y), DATA)) == pytest.approx(judge, abs=1e-6)


def test_an_error_of_unknown_size_is_close_to_a_students_t():
    """With p(s) ~ 1/s over a wide range, p(r) falls off as the t of m degrees of freedom, (sum r^2)^(-m/2)."""
    like = Marginal(of=Gaussian(absolute_error=1.0), over={"absolute_error": {"log_uniform": [1e-3, 1e4]}}, nodes=128)
    near, far = (like.log_prob(Exact(Y), Y + k * (DATA - Y)) for k in (1.0, 7.0))
    assert float(near - far) == pytest.approx(4 * np.log(7.0), abs=1e-4)


def test_a_wider_prior_is_a_fairer_posterior():
    """Data 2.5 times as noisy as stated: intervals of the mean hold the truth as often as they say only if that is unknown."""
    rng, grid = np.random.default_rng(0), torch.linspace(-6, 6, 601, dtype=torch.float64)
    known = Gaussian(absolute_error=1.0)
    unknown = Marginal(of=known, over={"absolute_error": {"log_uniform": [0.5, 8.0]}})
    held = [0, 0]
    for _ in range(200):
        data = torch.from_numpy(2.5 * rng.standard_normal(12))
        for i, like in enumerate((known, unknown)):
            p = torch.softmax(like.log_prob(Exact(grid[:, None].expand(-1, 12)), data), 0).cumsum(0)
            low, high = (float(grid[int((p < q).sum())]) for q in (0.025, 0.975))
            held[i] += low <= 0 <= high
    assert held[0] / 200 < 0.75
    assert abs(held[1] / 200 - 0.95) < 4 * (0.95 * 0.05 / 200) ** 0.5


def test_what_the_data_say_of_a_setting():
    rng = np.random.default_rng(1)
    data = torch.from_numpy(3.0 * rng.standard_normal(400))
    like = Marginal(of=Gaussian(absolute_error=1.0), over={"absolute_error": {"log_uniform": [1.5, 6.0]}}, nodes=128)
    mean, sd = like.settled(Exact(torch.zeros(400, dtype=torch.float64)), data)["absolute_error"]
    size = float(data.square().mean().sqrt())  # sigma^2 | data is scaled inverse chi^2 of 400 degrees of freedom
    assert sd == pytest.approx(size / 800**0.5, rel=0.01)
    assert mean == pytest.approx(size * (1 + 0.75 / 400), rel=1e-4)


def test_a_peak_between_the_nodes_is_refused():
    data = torch.from_numpy(3.0 * np.random.default_rng(1).standard_normal(600))
    like = Marginal(of=Gaussian(absolute_error=1.0), over={"absolute_error": {"log_uniform": [0.01, 1000.0]}})
    with pytest.raises(InputError, match=r"nodes must resolve what the data say of absolute_error. Got 16, of which one "
                                         r"holds \d+%; raise nodes, or narrow the prior in over.absolute_error."):  # fmt: skip
        like.log_prob(Exact(torch.zeros(600, dtype=torch.float64)), data)


def test_a_setting_within_a_combined_likelihood():
    outputs = Outputs((Field("a", coordinate="k", at=(1.0, 2.0)), Field("n", coordinate="x", at=(1.0, 2.0))))
    both = Combined(parts={"a": Gaussian(absolute_error=1.0), "n": Poisson()})
    like = Marginal(of=both, over={"parts.a.absolute_error": {"uniform": [0.5, 2.0]}}).on(outputs)
    alone = Marginal(of=Gaussian(absolute_error=1.0), over={"absolute_error": {"uniform": [0.5, 2.0]}})
    expected = alone.log_prob(Exact(Y[:2]), DATA[:2]) + Poisson().log_prob(Exact(Y[2:]), DATA[2:])
    assert float(like.log_prob(Exact(Y), DATA)) == pytest.approx(float(expected), abs=1e-10)


def test_an_unsure_emulator_is_inside_every_part():
    one = torch.eye(4, dtype=torch.float64)
    unsure = Predicted(Y, torch.full((4,), 1.5).double(), one, torch.zeros(4, dtype=torch.float64))
    like = Marginal(of=Gaussian(absolute_error=1.0), over={"absolute_error": {"uniform": [0.5, 3.0]}})
    judge = _ln(lambda s: stats.norm(Y, np.hypot(s, 1.5**0.5)).pdf(DATA).prod(), stats.uniform(0.5, 2.5))
    assert float(like.log_prob(unsure, DATA)) == pytest.approx(judge, abs=1e-8)


@pytest.mark.parametrize(("over", "said"), [
    ({"absolut_error": {"uniform": [1, 2]}}, r"over.absolut_error: there is no such setting. Settings are .* Did you mean"),
    ({"absolute_error": {"uniform": [2, 1]}}, r"over.absolute_error: uniform: low must be below high."),
    ({"absolute_error": {"flat": [1, 2]}}, r"over.absolute_error: must be one prior of uniform, .* Got {'flat': .*}."),
    ({"absolute_error": {"uniform": [1]}}, r"over.absolute_error.uniform: must be \[low, high\]. Got \[1\]."),
    ({"absolute_error": 3.0}, r"over.absolute_error: must be a mapping, {key: value}. Got 3.0."),
    ({"absolute_error": {"uniform": [-1, 1]}}, "absolute_error must be a finite number of at least 0"),
    ({"covariance_file": {"uniform": [1, 2]}}, "over.covariance_file: must be a setting that is one number. Got one that is ''."),
    ({}, "over must name at least one setting"),
])  # fmt: skip
def test_priors_that_make_no_sense_are_told(over, said):
    with pytest.raises(InputError, match=said):
        registry.build(
            "likelihoods", {"use": "marginal", "of": {"use": "gaussian", "absolute_error": 1.0}, "over": over}
        )


def test_noise_that_a_run_has_of_its_own_has_no_settings():
    with pytest.raises(
        InputError, match=r"of must be a likelihood of noise around a prediction, such as gaussian. Got pred"
    ):
        Marginal(of=Predictive(), over={"absolute_error": {"uniform": [1, 2]}})
