"""A scale and an offset that all outputs share, marginalised: against scipy's quadrature over them, likelihood by likelihood."""

import numpy as np
import pytest
import torch
from scipy import stats

from emulate import registry
from emulate.distributions import Exact
from emulate.distributions import Gaussian as Predicted
from emulate.likelihoods.gaussian import Gaussian
from emulate.likelihoods.negative_binomial import NegativeBinomial
from emulate.likelihoods.poisson import Poisson
from emulate.likelihoods.student_t import StudentT

F = torch.tensor([100.0, 140.0, 70.0], dtype=torch.float64)
DATA = torch.tensor([121.0, 152.0, 92.0], dtype=torch.float64)
X = np.linspace(-6, 6, 241)
S, O = (a.ravel() for a in np.meshgrid(X, X))
WEIGHT = stats.norm.pdf(S) * stats.norm.pdf(O) * (X[1] - X[0]) ** 2
LIKELIHOODS = {
    "gaussian": (Gaussian(absolute_error=8.0), lambda y: stats.norm(y, 8.0).pdf(DATA), 1e-7),
    "poisson": (Poisson(), lambda y: stats.poisson.pmf(DATA, np.maximum(y, 0)), 0.05),
    "negative_binomial": (NegativeBinomial(dispersion=0.01),
                          lambda y: stats.nbinom.pmf(DATA, 100, 100 / (100 + np.maximum(y, 0))), 0.05),
    "student_t": (StudentT(absolute_error=8.0, dof=8.0), lambda y: stats.t(8, y, 8.0).pdf(DATA), 0.1),
}  # fmt: skip


@pytest.mark.parametrize("name", LIKELIHOODS)
@pytest.mark.parametrize(("scale", "offset"), [(0.1, 0.0), (0.0, 10.0), (0.07, 7.0)])
def test_a_scale_and_an_offset_are_marginalised(name, scale, offset):
    """The tolerance is that of the approximation; the scale of counts is normal in the judge and lognormal in the house."""
    base, density, tolerance = LIKELIHOODS[name]
    like = registry.build("likelihoods", {"use": name, **base.settings(), "scale_error": scale, "offset_error": offset})
    y = (1 + scale * S)[:, None] * F.numpy() + (offset * O)[:, None]
    expected = np.log(WEIGHT @ density(y).prod(1))
    value = float(like.log_prob(Exact(F), DATA))
    print(name, value - expected, float(base.log_prob(Exact(F), DATA)) - expected)
    assert value == pytest.approx(expected, abs=tolerance)
    assert abs(float(base.log_prob(Exact(F), DATA)) - expected) > 0.3


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_a_correlated_error_of_the_emulator_is_no_noise(name):
    """Three outputs with one common error of 10 %, of counts a lognormal one, by quadrature over it; and it matters."""
    base, density, tolerance = LIKELIHOODS[name]
    z, log, sd = np.linspace(-8, 8, 2001), base.logarithmic, 0.1 * F
    width = np.log1p(0.01) ** 0.5
    factor = np.exp(width * z - width**2 / 2) if log else 1 + 0.1 * z
    expected = np.log(np.trapezoid(density(factor[:, None] * F.numpy()).prod(1) * stats.norm.pdf(z), z))
    one, nothing = torch.ones(1, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    value = float(base.log_prob(Predicted(F, one, sd[None], nothing), DATA))
    print(name, value - expected)
    assert value == pytest.approx(expected, abs=0.002 if log else tolerance)
    alone = float(base.log_prob(Predicted(F, one, 0 * sd[None], sd**2), DATA))
    assert abs(alone - expected) > 2 * abs(value - expected)
    off = registry.build("likelihoods", {"use": name, **base.settings(), "emulator_covariance": False})
    assert float(off.log_prob(Predicted(F, one, sd[None], nothing), DATA)) == float(base.log_prob(Exact(F), DATA))


def test_a_scale_at_the_prediction_does_not_pull_the_fit_down():
    """Two measurements, 1.5 and 1.0, each to 10 % and a common scale to 20 %: with the scale at the prediction the best fit
    lies between them; at the data it would lie at 0.88, below both (Peelle's puzzle; D'Agostini 1994)."""
    data = torch.tensor([1.5, 1.0], dtype=torch.float64)
    like = Gaussian(absolute_error=(0.15, 0.10), scale_error=0.2)
    y = torch.linspace(0.5, 2.0, 3001, dtype=torch.float64)
    best = float(y[like.log_prob(Exact(y[:, None].expand(-1, 2)), data).argmax()])
    naive = Gaussian(absolute_error=(0.15, 0.10)).covariance(data) + 0.04 * torch.outer(data, data)
    weight = torch.linalg.solve(naive, torch.ones(2, dtype=torch.float64))
    assert float(weight @ data / weight.sum()) == pytest.approx(0.88, abs=0.005)
    assert 1.0 < best < 1.5


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_draws_share_one_scale_and_one_offset(name):
    base, _, _ = LIKELIHOODS[name]
    like = registry.build("likelihoods", {"use": name, **base.settings(), "scale_error": 0.15, "offset_error": 10.0})
    r = torch.stack([like.sample(F, seed=i) for i in range(3000)]) - F
    claimed = like.covariance(F, Exact(F))
    whitened = torch.linalg.solve_triangular(torch.linalg.cholesky(claimed), r.T, upper=False)
    assert ((whitened @ whitened.T / 3000 - torch.eye(3)).abs() * 3000**0.5).max() < 8
    assert (whitened.mean(1).abs() * 3000**0.5).max() < 4
