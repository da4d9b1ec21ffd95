"""The fragmentation function against quadrature, mpmath's Tricomi function, and differences."""

import itertools
import math

import mpmath
import numpy as np
import pytest
import torch
from scipy import integrate

from emulate.errors import InputError
from emulate.lund.fragmentation import log_density, log_normaliser, moments, scores

A, C = [0.0, 0.1, 0.68, 1.0, 2.0, 5.0, 10.0], [1e-4, 1e-3, 0.02, 0.1, 0.5, 1.0, 3.0, 10.0, 60.0, 1e3, 2e4]
PAIRS = [(a, c) for a in A for c in C]


def real(x):
    return torch.tensor(x, dtype=torch.float64)


@pytest.fixture(scope="module")
def found():
    a, c = real(PAIRS).T
    return [x.tolist() for x in (log_normaliser(a, c), *moments(a, c))]


def test_normaliser_and_mean_of_one_over_z_are_those_of_tricomi_s_function(found):
    """Z = exp(-c) Gamma(a + 1) U(a + 1, 1, c), E[1/z] = 1 + (a + 1) U(a + 2, 2, c) / U(a + 1, 1, c), in 30 digits."""
    worst = 0.0
    with mpmath.workdps(30):
        for (a, c), log_z, _, _, t in zip(PAIRS, *found, strict=True):
            u = mpmath.hyperu(a + 1, 1, c)
            exact = mpmath.log(mpmath.gamma(a + 1) * u) - mpmath.mpf(c)
            mean = (a + 1) * mpmath.hyperu(a + 2, 2, c) / u
            worst = max(worst, abs(log_z - float(exact)), abs(t / float(mean) - 1), abs((1 + t) / float(1 + mean) - 1))
    assert worst < 1e-11


@pytest.mark.parametrize(
    ("a", "c"), [(0.0, 0.02), (0.3, 0.1), (0.68, 0.018), (0.68, 0.5), (1.0, 1.0), (2.0, 3.0), (5.0, 0.3)]
)
def test_normaliser_and_moments_are_those_of_quadrature(a, c):
    """f in z itself, cut where it peaks, by scipy's adaptive rule."""

    def integral(g):
        cuts = [0.0, c / 20, c / 4, min(0.5, c), 0.7, 0.95, 1.0]
        cuts = sorted({min(x, 1.0) for x in cuts})
        return sum(integrate.quad(lambda z: g(z) * (1 - z) ** a / z * math.exp(-c / z), x, y, epsabs=0, epsrel=1e-12,
                                  limit=500)[0] for x, y in itertools.pairwise(cuts))  # fmt: skip

    z = integral(lambda z: 1.0)
    _, log_rest, t = moments(real(a), real(c))
    assert float(log_normaliser(real(a), real(c)).exp()) == pytest.approx(z, rel=1e-9)
    assert float(1 + t) == pytest.approx(integral(lambda z: 1 / z) / z, rel=1e-9)
    assert float(log_rest) == pytest.approx(integral(lambda z: math.log1p(-z) if z < 1 else 0.0) / z, rel=1e-9)


def test_scores_are_the_slopes_of_the_log_density_and_average_to_nothing():
    generator = np.random.default_rng(0)
    a, c, z = (real(generator.uniform(*ends, 200)) for ends in ((0.05, 3.0), (0.02, 2.0), (0.01, 0.99)))
    of_a, of_c = scores(z, a, c)
    h = 1e-5
    torch.testing.assert_close(
        of_a, (log_density(z, a + h, c) - log_density(z, a - h, c)) / (2 * h), rtol=1e-6, atol=1e-8
    )
    torch.testing.assert_close(
        of_c, (log_density(z, a, c + h) - log_density(z, a, c - h)) / (2 * h), rtol=1e-6, atol=1e-6
    )
    leaf_a, leaf_c = a.clone().requires_grad_(), c.clone().requires_grad_()
    by_graph = torch.autograd.grad(log_density(z, leaf_a, leaf_c).sum(), (leaf_a, leaf_c))
    torch.testing.assert_close(by_graph, (of_a, of_c), rtol=1e-11, atol=1e-11)
    nodes, weights = (real(x) for x in np.polynomial.legendre.leggauss(400))
    z = torch.exp(-12 * (0.5 + 0.5 * nodes))  # in ln z, where f is smooth
    density = torch.exp(log_density(z, real(0.68), real(0.1))) * z * weights * 6
    assert float(density.sum()) == pytest.approx(1, abs=1e-6)
    for score in scores(z, real(0.68), real(0.1)):
        assert float((density * score).sum()) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize(
    ("a", "c", "said"),
    [(-0.1, 0.1, "lund: a must be from 0 to 10. Got -0.1."), (11.0, 0.1, "lund: a must be from 0 to 10. Got 11."),
     (math.nan, 0.1, "lund: a must be from 0 to 10. Got nan."), (0.5, -1.0, r"b mT\^2 must be from 0.0001 to 20000. Got -1;"),
     (0.5, 0.0, r"b mT\^2 must be"), (0.5, 3e4, r"b mT\^2 must be")],
)  # fmt: skip
def test_what_has_no_exact_normaliser_is_refused(a, c, said):
    with pytest.raises(InputError, match=said):
        log_density(real([0.5]), real([a]), real([c]))
