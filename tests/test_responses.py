"""Responses of rows to parameters, judged by closed forms: normal rows around a polynomial that is known."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from emulate import polynomials, responses
from emulate.errors import InputError

N = 12_000
ROOT = torch.tensor([[0.5, 0.0], [0.3, 0.4]], dtype=torch.float64)  # of the rows' covariance at the middle


def mean(u):
    x, y = (2 * u - 1).unbind(1)
    return torch.stack((1 + 0.3 * x - 0.2 * x * y, 0.5 * y + 0.1 * x**2), 1)


def events(n, seed, *, offset=0.0):
    """Rows and scores: normal, of a width that grows with the first coordinate; `offset` is a part of u alone in the score."""
    generator = torch.Generator().manual_seed(seed)
    u = torch.rand(n, 2, generator=generator, dtype=torch.float64)
    e = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    u.requires_grad_()
    width = torch.exp(0.4 * (u[:, 0] - 0.5))
    rows = (mean(u) + width[:, None] * (e @ ROOT.T)).detach()
    z = torch.linalg.solve_triangular(ROOT, ((rows - mean(u)) / width[:, None]).T, upper=False)
    log_prob = -0.5 * z.square().sum(0) - 2 * torch.log(width)
    (scores,) = torch.autograd.grad(log_prob.sum(), u)
    return u.detach(), rows, scores + offset * torch.sin(3 * u.detach())


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_slopes_are_those_of_the_basis(d, degree, seed):
    u = torch.rand(5, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    products = polynomials.terms(d, degree)
    assert len(products) == math.comb(d + degree, d)
    told = polynomials.slopes(u, products)
    exact = torch.func.vmap(torch.func.jacrev(lambda x: polynomials.basis(x, products)))(u)
    torch.testing.assert_close(told, exact.permute(2, 0, 1))


@pytest.mark.parametrize("offset", [0.0, 2.0])
def test_coefficients_scatter_as_the_response_says(offset):
    """Of 40 samples, the mean at three points: by z-scores of the mean and the variance against what is told."""
    at = torch.tensor([[0.5, 0.5], [0.1, 0.8], [1.0, 0.0]], dtype=torch.float64)
    found, told = [], []
    for seed in range(40):
        fit = responses.fit(*events(N, seed, offset=offset), degree=2)
        average, root = fit.of(at, math.inf)
        found.append(average)
        told.append((root @ root.mT).diagonal(dim1=-2, dim2=-1))
    off, variance = torch.stack(found) - mean(at), torch.stack(told).mean(0)
    assert float((off.mean(0) / (variance / len(off)).sqrt()).abs().max()) < 4
    ratio = off.square().mean(0) / variance
    assert float(ratio.min()) > 0.4, ratio  # of 40 squares
    assert float(ratio.max()) < 2.0, ratio


def test_scores_are_worth_many_events():
    u, rows, scores = events(N, 1)
    with_scores, alone = (responses.fit(u, rows, s, degree=4) for s in (scores, None))
    at = torch.rand(200, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    errors = [(fit.mean(at) - mean(at)).square().mean() for fit in (with_scores, alone)]
    assert float(errors[0] / errors[1]) < 0.7


def test_the_covariance_of_a_row_is_found_where_it_changes():
    fit = responses.fit(*events(60_000, 3), degree=2)
    for x in (0.1, 0.5, 0.9):
        root = fit.root(torch.tensor([x, 0.4], dtype=torch.float64))
        truth = ROOT @ ROOT.T * math.exp(0.8 * (x - 0.5))
        torch.testing.assert_close(root @ root.T, truth, rtol=0.06, atol=0.01)
    assert 0.7 < fit.misfit < 1.4


def test_a_degree_that_is_too_low_is_seen():
    u, rows, scores = events(N, 4)
    bent = torch.sin(6 * u[:, :1])
    slope = 6 * torch.cos(6 * u[:, :1]) * torch.tensor([1.0, 0.0], dtype=torch.float64)
    width = torch.exp(0.4 * (u[:, 0] - 0.5))[:, None]
    inverse = torch.linalg.inv(ROOT @ ROOT.T)
    pull = ((rows - mean(u)) / width**2) @ inverse @ torch.ones(2, dtype=torch.float64)
    fit = responses.fit(u, rows + bent, scores + pull[:, None] * slope, degree=2)
    assert fit.misfit > 3


def test_events_that_are_too_few_are_refused():
    with pytest.raises(InputError, match=r"at least \d+ events, for degree 2 in 2 parameters and 2 columns. Got 100"):
        responses.fit(*events(100, 0), degree=2)


def test_the_error_of_an_average_adds_to_that_of_the_response():
    fit, at = responses.fit(*events(N, 5), degree=2), torch.tensor([0.3, 0.3], dtype=torch.float64)
    exact, one = (float(fit.of(at, n)[1][0, 0] ** 2) for n in (math.inf, 100))
    row = float(fit.root(at)[0, 0] ** 2)
    np.testing.assert_allclose(one, exact + row / 100, rtol=1e-12)


@pytest.mark.parametrize("off", [0.0, 0.1])
def test_true_means_correct_a_response_that_is_off(off):
    """By z-scores over 30 campaigns of 24 means of 2,000 true events each: a plane is added where there is one to add."""
    fit = responses.fit(*events(60_000, 5), degree=2)
    wrong = replace(fit, coefficients=fit.coefficients.clone())
    wrong.coefficients[-1, 0] += off  # the constant
    at = torch.tensor([[0.3, 0.6]], dtype=torch.float64)
    z, biases = [], []
    for seed in range(30):
        generator = torch.Generator().manual_seed(100 + seed)
        u = torch.rand(24, 2, generator=generator, dtype=torch.float64)
        noise = torch.randn(24, 2, 1, generator=generator, dtype=torch.float64)
        means = mean(u) + (fit.root(u) @ noise)[:, :, 0] / 2000**0.5
        better, bias = responses.corrected(wrong, u, means, 2000)
        average, root = better.of(at, math.inf, float(bias))
        z.append(torch.linalg.solve_triangular(root, (average - mean(at))[..., None], upper=False).flatten())
        biases.append(float(bias))
    z = torch.stack(z)
    assert float(z.square().mean()) < 2.5, "what is left is within the error that is told"
    assert float(z[:, 0].abs().mean()) < 1.5
    assert np.median(biases) < 0.3 / 2000
