"""Splines with knots first against those of zuko: values, slopes, inverse and derivatives."""

import math

import pytest
import torch
from zuko.transforms import MonotonicRQSTransform

from emulate.emulators._spline import Splines

BOUND, SLOPE, K = 7.0, 1e-3, 6


@pytest.fixture(scope="module")
def given():
    g = torch.Generator().manual_seed(1)
    phi = 3 * torch.randn(400, 3 * K - 1, generator=g, dtype=torch.float64)
    return phi, 4 * torch.randn(400, generator=g, dtype=torch.float64)


def zukos(phi):
    return MonotonicRQSTransform(*phi.split((K, K, K - 1), -1), bound=BOUND, slope=SLOPE)


def test_values_slopes_and_inverse_are_those_of_zuko(given):
    phi, x = given
    y, ladj = Splines(phi.T, BOUND, SLOPE).push(x)
    torch.testing.assert_close((y, ladj), zukos(phi).call_and_ladj(x), rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(Splines(phi.T, BOUND, SLOPE).pull(y), x, rtol=1e-10, atol=1e-10)
    outside = x.abs() > BOUND
    assert outside.any()
    assert torch.equal(y[outside], x[outside])


def test_derivatives_are_those_of_zuko(given):
    phi, x = given
    found = []
    for ours in (True, False):
        p, v = phi.clone().requires_grad_(), x.clone().requires_grad_()
        y, ladj = Splines(p.T, BOUND, SLOPE).push(v) if ours else zukos(p).call_and_ladj(v)
        back = Splines(p.T, BOUND, SLOPE).pull(v) if ours else zukos(p).inv(v)
        found.append(torch.autograd.grad((y.square() - 3 * ladj + back.sin()).sum(), (p, v)))
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-9)


def test_parameters_and_numbers_broadcast(given):
    phi, x = given[0][:5].T[:, None], given[1][:60].view(12, 5)
    whole = Splines(phi.expand(-1, 12, 5), BOUND, SLOPE)
    torch.testing.assert_close(Splines(phi, BOUND, SLOPE).push(x), whole.push(x), rtol=0, atol=0)
    torch.testing.assert_close(Splines(phi, BOUND, SLOPE).pull(x), whole.pull(x), rtol=0, atol=0)


@pytest.mark.parametrize("x", [-BOUND, BOUND, math.nextafter(-BOUND, 0), math.nextafter(BOUND, 0), 0.0])
def test_edges_keep_finite_values_and_gradients(given, x):
    phi, v = given[0].clone().requires_grad_(), torch.full((400,), x, dtype=torch.float64, requires_grad=True)
    y, ladj = Splines(phi.T, BOUND, SLOPE).push(v)
    back = Splines(phi.T, BOUND, SLOPE).pull(v)
    slopes = torch.autograd.grad((y + ladj + back).sum(), (phi, v))
    assert all(bool(t.isfinite().all()) for t in (y, ladj, back, *slopes))
    if abs(x) > 1:
        torch.testing.assert_close(y, v, rtol=1e-9, atol=1e-9)
