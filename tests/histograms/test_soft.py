"""Soft counts against closed forms of smoothed densities: value, slope, order of the bias, ends of the support, limits."""

import itertools
import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from emulate import gradients, registry
from emulate.binning import Binning
from emulate.errors import InputError
from emulate.histograms.hard import Hard
from emulate.histograms.soft import Soft
from tests.reference.histograms import normal_bins as truth

KERNELS = ("gaussian", "logistic", "compact")


def quadrature(low: float, high: float, panels: int = 2000) -> tuple[torch.Tensor, torch.Tensor]:
    """Nodes and weights of Gauss-Legendre panels, narrow beside every kernel."""
    x, w = np.polynomial.legendre.leggauss(10)
    e = np.linspace(low, high, panels + 1)
    half = np.diff(e)[:, None] / 2
    return torch.from_numpy(((e[:-1, None] + e[1:, None]) / 2 + half * x).ravel()), torch.from_numpy((half * w).ravel())


NODES, PANELS = quadrature(-9.0, 9.6)


def expected(soft: Soft, mu: float = truth.MEAN) -> tuple[float, float]:
    """The inner bin's expected share under N(mu, 1), and its derivative: the samples are the nodes of a quadrature."""
    density = torch.exp(-0.5 * (NODES - mu) ** 2) / math.sqrt(2 * math.pi)
    shift = torch.zeros((), dtype=torch.float64, requires_grad=True)
    value = soft.counts(NODES + shift, density * PANELS).inside.sum()
    return float(value.detach()), float(torch.autograd.grad(value, shift)[0])


def soft(h: float, kernel: str = "gaussian", edges=truth.BIN, **more) -> Soft:
    return Soft(edges=edges, bandwidth=h, kernel=kernel, **more)


@pytest.mark.parametrize("h", [0.05, 0.1, 0.2, 0.7])
def test_value_and_slope_of_a_smoothed_normal_density(h):
    value, slope = expected(soft(h))
    assert value == pytest.approx(truth.share(h), abs=1e-12)
    assert slope == pytest.approx(truth.slope(h), abs=1e-11)


@pytest.mark.parametrize("h", truth.BIAS)
def test_the_bias_of_the_gradient_is_the_one_that_is_published(h):
    assert 100 * (expected(soft(h))[1] / truth.slope(0) - 1) == pytest.approx(truth.BIAS[h], abs=6e-4)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(
    ("richardson", "order", "widths"), [(False, 2, (0.0125, 0.025, 0.05)), (True, 4, (0.05, 0.075, 0.1))]
)
def test_the_order_of_the_bias(kernel, richardson, order, widths):
    made = [expected(soft(h, kernel, richardson=richardson)) for h in widths]
    for found, exact in ((0, truth.share(0)), (1, truth.slope(0))):
        bias = np.log([abs(m[found] - exact) for m in made])
        slope = np.polyfit(np.log(widths), bias, 1)[0]
        print(
            f"\n{kernel}, {'extrapolated' if richardson else 'plain'}, {('value', 'slope')[found]}: order {slope:.3f}"
        )
        assert slope == pytest.approx(order, abs=0.05 if order == 2 else 0.12)


def test_what_richardson_leaves():
    """At a bandwidth of 0.2 bins the relative bias of value and slope is under 2e-4 where bins are narrow, a third of the
    density's width here; of a bin as wide as the density itself the closed form leaves 4.3e-3 of the slope."""
    edges = (0.0, 1 / 3, 2 / 3, 1.0)
    for low, high in itertools.pairwise(edges):
        h = 0.2 * (high - low)
        value, slope = expected(soft(h, richardson=True, edges=(low, high)))
        assert abs(value / truth.share(0, low=low, high=high) - 1) < 2e-4
        assert abs(slope / truth.slope(0, low=low, high=high) - 1) < 2e-4
        plain = expected(soft(h, edges=(low, high)))[1]
        assert abs(plain / truth.slope(0, low=low, high=high) - 1) > 2e-3
    wide = 2 * truth.slope(0.2) - truth.slope(0.2 * math.sqrt(2))
    assert expected(soft(0.2, richardson=True))[1] == pytest.approx(wide, abs=1e-11)
    assert wide / truth.slope(0) - 1 == pytest.approx(-4.34e-3, abs=1e-5)


@pytest.mark.parametrize("kernel", KERNELS)
def test_an_end_of_the_support_costs_order_h_without_reflection_and_h_squared_with(kernel):
    x, w = quadrature(0.0, 40.0, 4000)
    w = w * torch.exp(-x)
    widths, exact = (0.01, 0.02, 0.04), 1 - math.exp(-1)
    for support, order in (((None, None), 1), ((0.0, None), 2)):
        values = [float(soft(h, kernel, support=support).counts(x, w).inside) for h in widths]
        slope = np.polyfit(np.log(widths), np.log(np.abs(np.array(values) - exact)), 1)[0]
        print(f"\n{kernel}, support {support}: order {slope:.3f}")
        assert slope == pytest.approx(order, abs=0.05)
        if kernel == "gaussian":
            assert values == pytest.approx([truth.exponential(h, 1.0, order == 2) for h in widths], abs=1e-9)


def test_reflection_at_both_ends_keeps_a_uniform_density_at_any_bandwidth():
    x, w = quadrature(-1.0, 3.0)
    for kernel in KERNELS:
        for h in (0.05, 0.5, 4.0):
            made = soft(h, kernel, edges=(-1.0, 0.0, 2.5, 4.0), support=(-1.0, 3.0)).counts(x, w / 4).values
            torch.testing.assert_close(made, torch.tensor([0.0, 0.25, 0.625, 0.125, 0.0]).double(), rtol=0, atol=1e-7)


@settings(deadline=None)
@given(x=st.lists(st.floats(-2, 2), max_size=20), kernel=st.sampled_from(KERNELS), richardson=st.booleans())
def test_a_vanishing_bandwidth_is_the_hard_histogram(x, kernel, richardson):
    edges = (-1.0, 0.0, 0.3, 1.0)
    x = [v for v in x if min(abs(v - e) for e in edges) > 1e-6]
    made = Soft(edges=edges, bandwidth=1e-8, kernel=kernel, richardson=richardson).counts(x).values
    torch.testing.assert_close(made, Hard(edges=edges).counts(x).values, rtol=0, atol=1e-12)


@settings(deadline=None)
@given(x=st.lists(st.floats(0, 2), max_size=20), h=st.floats(1e-3, 2.0), kernel=st.sampled_from(KERNELS),
       support=st.sampled_from([(0.0, None), (None, 2.0), (0.0, 2.0), (-1.0, 5.0)]), richardson=st.booleans())  # fmt: skip
def test_reflection_loses_nothing_and_leaves_nothing_outside(x, h, kernel, support, richardson):
    edges = (-1.0, 0.0, 0.5, 2.0, 3.0)
    made = Soft(edges=edges, bandwidth=h, kernel=kernel, support=support, richardson=richardson).counts(x).values
    assert abs(float(made.sum()) - len(x)) <= 1e-12 * max(1, len(x)) * (3 if richardson else 1)
    if support[0] == 0.0:
        assert float(made[:2].abs().sum()) == 0
    if support[1] == 2.0:
        assert float(made[4:].abs().sum()) <= 1e-13 * len(x)
    if not richardson:
        assert float(made.min()) >= -1e-15 * max(1, len(x))


def test_any_program_can_be_differentiated_through_it():
    """The slope of the expected soft count through the room of gradients, against the closed form."""
    from torch.distributions import Normal

    one = torch.zeros(100, dtype=torch.float64)

    def f(theta: torch.Tensor, noise) -> torch.Tensor:
        return soft(0.5).counts(noise.draw("x", Normal(theta[0] + one, 1.0))).inside / 100

    for method in ("pathwise", "forward", "reverse"):
        e = gradients.estimate(f, [truth.MEAN], method=method, n=200, seed=1)
        assert float((e.gradient - truth.slope(0.5)).abs() / e.standard_error) < 4
        assert float(e.bias_bound) == 0


def test_a_study_may_name_it():
    made = registry.build("histograms", {"use": "soft", "edges": [[0, 1], [0, 1, 2]], "bandwidth": [0.1, 0.2],
                                         "support": [[0, None], [None, None]]})  # fmt: skip
    assert made == Soft(edges=((0.0, 1.0), (0.0, 1.0, 2.0)), bandwidth=(0.1, 0.2), support=((0.0, None), (None, None)))
    assert isinstance(made.binning(None), Binning)
    assert made.binning(None).label == "1 compact(0.1) within [0.0, None]; 1 compact(0.2)"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"bandwidth": 0.0}, "bandwidth must be a finite number above 0, one for each axis, or auto. Got 0.0; hard bins are the "
         "histogram hard."),
        ({"bandwidth": (0.1, 0.2)}, "bandwidth must be a finite number above 0, one for each axis, or auto. Got (0.1, 0.2); hard "
         "bins are the histogram hard."),
        ({"bandwidth": math.nan}, "bandwidth must be a finite number above 0, one for each axis, or auto. Got nan; hard bins are "
         "the histogram hard."),
        ({"bandwidth": True}, "bandwidth must be a finite number above 0, one for each axis, or auto. Got true; hard bins are the "
         "histogram hard."),
        ({"support": (0.0, math.inf)}, "support must be [low, high] with low < high, null for an open end, of two axes a list for "
         "each. Got (0.0, inf)."),
        ({"support": ("a", 1.0)}, "support must be [low, high] with low < high, null for an open end, of two axes a list for each. "
         "Got ('a', 1.0)."),
        ({"kernel": "normal"}, "kernel must be gaussian, logistic or compact. Got 'normal'."),
        ({"target": "both"}, "target must be value or gradient. Got 'both'."),
        ({"support": (0.0, 1.0), "bandwidth": 2.0}, "bandwidth must be at most the width of the support, 1. Got 2, which leaves "
         "nothing of the samples' places."),
        ({"support": (1.0, 0.0)}, "support must be [low, high] with low < high, null for an open end, of two axes a list for "
         "each. Got (1.0, 0.0)."),
    ],
)  # fmt: skip
def test_refusals(change, sentence):
    with pytest.raises(InputError, match=f"^{re.escape(sentence)}$"):
        Soft(**{"edges": (0.0, 1.0), "bandwidth": 0.1, **change})


def test_one_bandwidth_serves_two_axes():
    edges = ((0.0, 1.0), (0.0, 1.0))
    both = [Soft(edges=edges, bandwidth=b).binning(None) for b in (0.2, (0.2,), [0.2, 0.2])]
    assert both[0] == both[1] == both[2]


def test_a_sample_outside_the_support_is_refused():
    inside = Soft(edges=(0.0, 1.0), bandwidth=0.1, support=(0.0, None))
    sentence = ("samples must lie in the support [0.0, None] of axis 0. Got 2 that do not, by up to 0.5; mend the support, or "
                "leave that end open.")  # fmt: skip
    with pytest.raises(InputError, match=f"^{re.escape(sentence)}$"):
        inside.counts([-0.5, 0.0, -0.1, 2.0])
