"""Shares of samples against a dense twin that forms every share of every bin, and places of samples against searchsorted."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from emulate.axes import Axis
from emulate.binning import Binning
from emulate.dual import derivative
from emulate.kernels import Kernel
from emulate.meter import Meter
from emulate.spreading import higher

EDGES = (-1.0, -0.2, 0.0, 0.7, 2.0)
EVEN = tuple(np.linspace(-0.1, 0.3, 13))


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dense(axis: Axis, x: torch.Tensor, p: int = 0) -> torch.Tensor:
    """Every share `[n, bins]`, by differences of F at all edges, images beyond need."""
    e, (low, high) = torch.tensor(axis.edges, dtype=torch.float64), axis.support
    e = e.clamp(low, high) if (low, high) != (None, None) else e
    places = [(e, 1.0, 0.0)]
    if low is not None and high is None:
        places.append((2 * low - e, -1.0, 0.0))
    if high is not None and low is None:
        places.append((2 * high - e, -1.0, 1.0))
    if low is not None and high is not None:
        period = 2 * (high - low)
        places += [(e + k * period, 1.0, 0.0) for k in range(-30, 31) if k]
        places += [(2 * low - e + k * period, -1.0, 0.0) for k in range(-30, 31)]
    f = sum(
        sign * axis.kernel((t - x[:, None]) / axis.h, p) * (-1 / axis.h) ** p + add * (p == 0)
        for t, sign, add in places
    )
    return torch.nn.functional.pad(torch.nn.functional.pad(f, (1, 0)), (0, 1), value=float(p == 0)).diff(dim=1)


AXES = [Axis(edges, kernel, h, support)
        for edges in (EDGES, EVEN)
        for kernel in (Kernel.of("gaussian"), Kernel.of("compact").fourth_order(), Kernel.of("logistic"))
        for h in (0.003, 0.2, 3.0)
        for support in ((None, None), (-4.0, None), (None, 4.0), (-4.0, 4.0), (-0.1, 4.0))]  # fmt: skip


@pytest.mark.parametrize("axis", AXES, ids=lambda a: f"{len(a.edges)}-{a.kernel.terms[0][2]}-{a.h}-{a.support}")
def test_shares_are_those_of_the_twin(axis):
    low, high = (
        (-9.0 if axis.support[0] is None else axis.support[0]),
        (9.0 if axis.support[1] is None else axis.support[1]),
    )
    x, w = normal(60).clamp(low, high), normal(60, seed=1)
    b = Binning((axis,))
    for p in range(4):
        truth = (w[:, None] * dense(axis, x, p)).sum(0)
        size = 1e-12 * float(dense(axis, x, p).abs().sum() + 1)
        torch.testing.assert_close(b.spread(x[:, None], w, (p,)), truth, rtol=0, atol=size)
    assert abs(float(b.spread(x[:, None], w).sum() - w.sum())) < 1e-12


def test_products_and_pairs_are_those_of_the_twin():
    one, two = Axis(EDGES, Kernel.of("gaussian"), 0.3, (-4.0, None)), Axis(EVEN, Kernel.of("compact"), 0.05)
    x, w = normal(80, 2).clamp(-4, 4), normal(3, 80, seed=1)
    for axes, columns in (((one,), x[:, :1]), ((two,), x[:, 1:]), ((one, two), x)):
        b = Binning(axes)
        share = [dense(a, c) for a, c in zip(axes, columns.T, strict=True)]
        slope = [dense(axes[0], columns[:, 0], 1), *share[1:]]
        step = [dense(a, c) for a, c in zip(b.hard.axes, columns.T, strict=True)]
        flat = [f[0] if len(f) == 1 else (f[0][:, :, None] * f[1][:, None, :]).flatten(1) for f in (share, slope, step)]
        up = higher(b.plain)[0]
        made = b.products(columns, w, ((1.0, b, b.plain), (-1.0, b.hard, b.plain)), ((1.0, b, up),))
        torch.testing.assert_close(made, w @ ((flat[0] - flat[2]) * flat[1]))
        torch.testing.assert_close(b.pairs(columns, w[0]), flat[0].T @ (w[0, :, None] * flat[0]))


def test_pairs_of_many_bins_take_the_sparse_way():
    axis = Axis(tuple(np.linspace(-3, 3, 101)), Kernel.of("compact"), 0.02)
    x, w = normal(500), normal(500, seed=1)
    share = dense(axis, x)
    torch.testing.assert_close(
        Binning((axis,)).pairs(x[:, None], w), share.T @ (w[:, None] * share), rtol=0, atol=1e-12
    )


@settings(deadline=None)
@given(st.data())
def test_even_edges_find_every_sample(data):
    low = data.draw(st.floats(-1e6, 1e6))
    width = data.draw(st.floats(1e-6, 1e6))
    axis = Axis(tuple(low + width * np.arange(data.draw(st.integers(2, 30)))), Kernel.of("step"))
    if not (np.diff(axis.edges) > 0).all():
        return
    edges = np.asarray(axis.edges)
    x = np.concatenate([edges, np.nextafter(edges, -np.inf), np.nextafter(edges, np.inf), edges + 0.3 * width])
    found = axis.start(torch.from_numpy(x))
    np.testing.assert_array_equal(found.numpy(), np.searchsorted(edges, x, side="right"))


@pytest.mark.parametrize("support", [(None, None), (-5.0, 5.0)])
def test_derivatives_of_every_mode_and_order(support):
    b = Binning((Axis(EDGES, Kernel.of("gaussian"), 0.4, support), Axis(EVEN[::4], Kernel.of("compact"), 0.2)))
    x, w = (0.5 * normal(2, 3, 2)).requires_grad_(), normal(2, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(b.spread, (x, w), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(b.spread, (x[:1, :2], w[:1, :2]), check_fwd_over_rev=True)
    x, w = x.detach(), w.detach()

    def f(t: torch.Tensor) -> torch.Tensor:
        return b.spread(x * t[0] + t[1], w * torch.exp(t[1])).flatten()

    t = torch.tensor([1.1, -0.2], dtype=torch.float64)
    first = torch.func.jacrev(f)(t)
    torch.testing.assert_close(torch.func.jacfwd(f)(t), first)
    torch.testing.assert_close(derivative(f, t), first)
    second = torch.func.jacfwd(torch.func.jacrev(f))(t)
    torch.testing.assert_close(derivative(lambda u: derivative(f, u), t), second)
    torch.testing.assert_close(torch.func.jacrev(torch.func.jacrev(f))(t), second)


def test_memory_does_not_grow_with_samples_times_bins():
    """200,000 samples by 100 bins with derivatives: a dense matrix of shares alone would hold 160 MB."""
    b = Binning((Axis(tuple(np.linspace(-3, 3, 101)), Kernel.of("compact"), 0.03),))
    x, w = normal(200_000, 1).requires_grad_(), torch.ones(200_000, dtype=torch.float64)
    b.spread(x, w).square().sum().backward()
    with Meter() as meter:
        b.spread(x, w).square().sum().backward()
    if np.isfinite(meter.peak_memory):  # where the system tells it
        assert meter.peak_memory < 40e6
