"""Draws from uniform numbers: scipy's quantiles, and derivatives against differences of them."""

import math

import mpmath
import pytest
import torch
from scipy import stats
from torch import distributions as D
from torch.func import jacfwd, jacrev, vmap

from emulate.families import discrete, inverse
from emulate.noise import Noise
from emulate.replication import each

U = torch.linspace(0.003, 0.997, 41, dtype=torch.float64)
THETA = torch.tensor([1.7, 0.6], dtype=torch.float64)
CONTINUOUS = {
    "normal": (lambda t: D.Normal(t[0], t[1]), lambda a, b: stats.norm(a, b)),
    "uniform": (lambda t: D.Uniform(t[1], t[0]), lambda a, b: stats.uniform(b, a - b)),
    "exponential": (lambda t: D.Exponential(t[0]), lambda a, b: stats.expon(scale=1 / a)),
    "gamma": (lambda t: D.Gamma(t[0], t[1]), lambda a, b: stats.gamma(a, scale=1 / b)),
    "chi2": (lambda t: D.Chi2(t[0]), lambda a, b: stats.chi2(a)),
    "lognormal": (lambda t: D.LogNormal(t[0], t[1]), lambda a, b: stats.lognorm(b, scale=math.exp(a))),
    "weibull": (lambda t: D.Weibull(t[0], t[1]), lambda a, b: stats.weibull_min(b, scale=a)),
    "laplace": (lambda t: D.Laplace(t[0], t[1]), lambda a, b: stats.laplace(a, b)),
    "beta": (lambda t: D.Beta(t[0], t[1]), lambda a, b: stats.beta(a, b)),
    "student": (lambda t: D.StudentT(t[0], 0.3, t[1]), lambda a, b: stats.t(a, 0.3, b)),
    "gumbel": (lambda t: D.Gumbel(t[0], t[1]), lambda a, b: stats.gumbel_r(a, b)),
    "half_normal": (lambda t: D.HalfNormal(t[0]), lambda a, b: stats.halfnorm(scale=a)),
}
DISCRETE = {
    "bernoulli": (lambda t: D.Bernoulli(t[1]), lambda a, b: stats.bernoulli(b)),
    "binomial": (lambda t: D.Binomial(7, t[1]), lambda a, b: stats.binom(7, b)),
    "poisson": (lambda t: D.Poisson(t[0]), lambda a, b: stats.poisson(a)),
    "geometric": (lambda t: D.Geometric(t[1]), lambda a, b: stats.geom(b, loc=-1)),
    "categorical": (lambda t: D.Categorical(torch.stack([t[1] / 2, 1 - t[1], t[1] / 2])),
                    lambda a, b: stats.rv_discrete(values=([0, 1, 2], [b / 2, 1 - b, b / 2]))),
}  # fmt: skip


def of_each(distribution: D.Distribution, u: torch.Tensor) -> torch.Tensor:
    return inverse(distribution.expand(u.shape), u)


@pytest.mark.parametrize("name", [*CONTINUOUS, *DISCRETE])
def test_draws_are_the_quantiles_of_scipy(name):
    make, theirs = (CONTINUOUS | DISCRETE)[name]
    x = of_each(make(THETA), U)
    assert x.dtype == (torch.int64 if name == "categorical" else torch.float64)
    torch.testing.assert_close(
        x.double(), torch.from_numpy(theirs(*THETA.tolist()).ppf(U.numpy())).double(), rtol=1e-9, atol=0
    )
    assert discrete(make(THETA)) == (name in DISCRETE)


@pytest.mark.parametrize("name", CONTINUOUS)
@pytest.mark.parametrize("mode", [jacfwd, jacrev])
def test_derivatives_are_those_of_the_quantile_at_fixed_u(name, mode):
    make, theirs = CONTINUOUS[name]
    slopes = vmap(mode(lambda t, u: inverse(make(t), u)), in_dims=(None, 0))(THETA, U)
    h = 1e-5
    for i in range(2):
        up, down = (
            theirs(*(THETA + s * h * torch.eye(2, dtype=torch.float64)[i]).tolist()).ppf(U.numpy()) for s in (1, -1)
        )
        torch.testing.assert_close(slopes[:, i], torch.from_numpy((up - down) / (2 * h)), rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("name", [*CONTINUOUS, *DISCRETE])
def test_a_batch_draws_what_one_by_one_draws(name):
    make, _ = (CONTINUOUS | DISCRETE)[name]
    made = each(lambda noise: noise.draw("x", make(THETA)), 3, 20)
    assert (made.calls, made.alone) == (21, "")
    together = made.answer
    alone = torch.stack([Noise(3, i).draw("x", make(THETA)) for i in range(20)])
    torch.testing.assert_close(together, alone, rtol=1e-14, atol=0)


def test_correlated_normals_have_their_covariance():
    covariance = torch.tensor([[2.0, 0.6], [0.6, 0.5]], dtype=torch.float64)
    x = each(lambda noise: noise.draw("x", D.MultivariateNormal(THETA, covariance)), 1, 40_000).answer
    torch.testing.assert_close(x.T.cov(), covariance, rtol=0, atol=0.05)
    torch.testing.assert_close(x.mean(0), THETA, rtol=0, atol=0.03)


@pytest.mark.parametrize(("a", "u"), [(2.0, 0.5), (0.3, 0.01), (0.05, 0.2), (40.0, 0.999), (1.0, 1e-6)])
def test_the_slope_of_a_gamma_draw_is_the_implicit_derivative(a, u):
    """dx/da = -(dP/da) / p(x), the derivative of the regularised incomplete gamma function by mpmath in 30 digits."""
    slope = jacrev(lambda t: inverse(D.Gamma(t, torch.ones_like(t)), torch.tensor(u, dtype=torch.float64)))
    x = mpmath.mpf(stats.gamma(a).ppf(u))
    with mpmath.workdps(30):
        by_a = mpmath.diff(lambda b: mpmath.gammainc(b, 0, x, regularized=True), a)
        density = x ** (a - 1) * mpmath.exp(-x) / mpmath.gamma(a)
        truth = float(-by_a / density)
    assert float(slope(torch.tensor(a, dtype=torch.float64))) == pytest.approx(truth, rel=1e-8)
