"""Predictions against scipy's multivariate normal, the lognormal's closed form, and torch's gradients of samples."""

import re

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import Independent, Laplace, LowRankMultivariateNormal

from emulate.distributions import Exact, Gaussian
from emulate.domain import Widened
from emulate.errors import InputError
from emulate.pushforward import Pushforward

M, P, Q = 4, 3, 2
LOG = torch.tensor([True, False, True, False])


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.as_tensor(np.random.default_rng(seed).normal(size=shape))


def prediction(
    *, full: bool = False, log: bool = False, batch: tuple[int, ...] = (5,)
) -> tuple[Gaussian, torch.Tensor]:
    """One prediction and its covariance by plain loops: the slow twin."""
    loc, basis, rest = normal(1, *batch, M), 0.3 * normal(2, P, M), 0.1 * normal(3, Q, M)
    diagonal = 0.01 * normal(4, *batch, M).square()
    spread = torch.tril(normal(5, *batch, P, P)) if full else normal(6, *batch, P).square()
    s = spread @ spread.mT if full else torch.diag_embed(spread)
    c = torch.einsum("pi,...pq,qj->...ij", basis, s, basis) + rest.T @ rest + torch.diag_embed(diagonal)
    return Gaussian(loc, spread, basis, diagonal, rest, LOG if log else None), c


@pytest.mark.parametrize("full", [False, True])
def test_density_and_moments_are_those_of_scipy(full):
    p, c = prediction(full=full)
    y = normal(7, 5, M)
    expected = [stats.multivariate_normal(m, s).logpdf(x) for m, s, x in zip(p.loc, c, y, strict=True)]
    torch.testing.assert_close(p.log_prob(y), torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(p.covariance_matrix, c)
    torch.testing.assert_close(p.variance, c.diagonal(dim1=-2, dim2=-1))


def test_the_density_is_that_of_torch_without_a_rest():
    p, _ = prediction()
    p = Gaussian(p.loc, p.spread, p.basis, p.diagonal)
    twin = LowRankMultivariateNormal(p.loc, (p.spread.sqrt()[..., None] * p.basis).mT, p.diagonal)
    y = p.sample((3,), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(p.log_prob(y), twin.log_prob(y), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("full", [False, True])
def test_moments_of_logarithms_are_those_of_the_samples(full):
    p, _ = prediction(full=full, log=True, batch=())
    n = 400_000
    y = p.sample((n,), generator=torch.Generator().manual_seed(2))
    assert ((y.mean(0) - p.mean) / (y.std(0) / n**0.5)).abs().max() < 4.5
    x = y - p.mean
    product = x[:, :, None] * x[:, None, :]
    assert ((product.mean(0) - p.covariance_matrix) / (product.std(0) / n**0.5)).abs().max() < 4.5
    torch.testing.assert_close(p.variance, p.covariance_matrix.diagonal())


def test_one_positive_output_is_scipys_lognormal():
    one = torch.ones(1, dtype=torch.float64)
    p = Gaussian(0.3 * one, 0.25 * one, torch.eye(1, dtype=torch.float64), 0 * one, None, one > 0)
    twin = stats.lognorm(s=0.5, scale=np.exp(0.3))
    assert float(p.mean) == pytest.approx(twin.mean(), rel=1e-14)
    assert float(p.variance) == pytest.approx(twin.var(), rel=1e-14)
    for y in (0.1, 1.0, 7.0):
        assert float(p.log_prob(y * one)) == pytest.approx(twin.logpdf(y), rel=1e-13)


def test_a_positive_output_at_or_below_zero_has_no_density_and_no_nan():
    p, _ = prediction(log=True, batch=())
    y = torch.tensor([[1.0, 1.0, 1.0, 1.0], [0.0, 1.0, 1.0, 1.0], [1.0, 1.0, -3.0, 1.0]], dtype=torch.float64)
    y.requires_grad_()
    density = p.log_prob(y)
    assert torch.isfinite(density[0])
    assert (density[1:] == -np.inf).all()
    density[0].backward()
    assert torch.isfinite(y.grad).all()


def test_outputs_twenty_decades_apart_have_a_density():
    scale = torch.tensor([1.0, 1e-20, 1e10], dtype=torch.float64)
    p = Gaussian(scale, torch.ones(3).double(), torch.diag(scale), 0 * scale)
    expected = 3 * stats.norm().logpdf(0) - float(scale.log().sum())
    assert float(p.log_prob(scale)) == pytest.approx(expected, rel=1e-12)


def test_draws_repeat_by_their_generator_and_carry_gradients():
    p, _ = prediction(log=True)
    a, b = (p.rsample((2,), generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(a, b)
    assert a.shape == (2, 5, M)
    loc = p.loc.clone().requires_grad_()
    q = Gaussian(loc, p.spread, p.basis, p.diagonal, p.rest)
    q.rsample((2,)).sum().backward()
    torch.testing.assert_close(loc.grad, torch.full_like(loc, 2.0))
    assert not p.sample((2,)).requires_grad


def test_the_gaussian_of_the_same_moments():
    for p in (prediction(log=True)[0], Exact(normal(1, 5, M))):
        mean, covariance = p.gaussian()
        assert torch.equal(mean, p.mean)
        assert torch.equal(covariance, p.covariance_matrix)
        assert covariance.shape == (5, M, M)


def test_an_exact_prediction_is_its_value():
    y = normal(1, 5, M).requires_grad_()
    p = Exact(y)
    assert (p.batch_shape, p.event_shape) == ((5,), (M,))
    assert torch.equal(p.mean, y)
    assert (p.variance == 0).all()
    assert (p.covariance_matrix == 0).all()
    assert torch.equal(p.rsample((3,)), y.expand(3, 5, M))
    assert not p.sample((3,)).requires_grad
    with pytest.raises(InputError) as caught:
        p.log_prob(y)
    assert str(caught.value) == ("an exact prediction has no density: its variance is 0. Use a likelihood, which adds the "
                                 "observation's noise.")  # fmt: skip


@pytest.mark.parametrize("kind", ["gaussian", "pushforward", "widened"])
def test_a_value_of_another_shape_is_told_the_shapes_that_are_allowed(kind):
    p, _ = prediction(batch=(2, 5))
    if kind == "widened":
        p = Widened(p, torch.ones(2, 5, dtype=torch.float64))
    if kind == "pushforward":
        z = Independent(Laplace(normal(1, 2, 5, P), 1.0), 1)
        p = Pushforward(z, normal(2, M), normal(3, P, M), torch.ones(M, dtype=torch.float64))
    for shape in ((), (3,), (5, 1), (3, M), (2, 4, M), (7, 1, 5, 3)):
        with pytest.raises(InputError) as caught:
            p.log_prob(normal(0, *shape))
        assert str(caught.value) == (
            "log_prob must be given outputs of shape [..., 2, 5, 4], the 4 outputs last, after the shape of the points "
            f"that were predicted. Got {list(shape)}."
        )
    for shape in ((M,), (1, M), (5, M), (2, 1, M), (2, 5, M), (7, 2, 5, M)):
        y = normal(0, *shape)
        torch.testing.assert_close(p.log_prob(y), p.log_prob(y.expand(*shape[:-3], 2, 5, M).contiguous()))


def test_a_value_that_is_no_tensor_is_told_what_to_give():
    p, _ = prediction()
    truths = torch.ones(5, M, dtype=torch.bool)
    for value, met in ((np.zeros(M), "ndarray"), ([0.0] * M, "list"), ("y", "str"), (truths, "a tensor of torch.bool")):
        with pytest.raises(InputError) as caught:
            p.log_prob(value)
        assert str(caught.value) == (
            f"log_prob must be given a tensor of numbers. Got {met}; make one by torch.as_tensor(y, dtype=torch.float64)."
        )


@pytest.mark.parametrize(
    ("name", "advice"), [("cdf", "Call emulate.pit(prediction, y)"), ("icdf", "Call emulate.scoring.interval")]
)
def test_functions_of_one_number_say_where_those_of_each_output_are(name, advice):
    for p in (prediction()[0], Exact(normal(0, 5, M))):
        with pytest.raises(InputError, match=f"^a prediction of all outputs has no .*{re.escape(advice)}"):
            getattr(p, name)(normal(0, 5, M))
