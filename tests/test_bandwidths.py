"""Automatic bandwidths against the best there is: the summed squared error under a known density, by quadrature."""

import math
import re

import numpy as np
import pytest
import torch
from scipy import stats

from emulate.binning import Binning
from emulate.errors import InputError
from emulate.histograms.soft import Soft
from tests.histograms.test_soft import quadrature

EDGES = tuple(np.linspace(-3, 3, 21))


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


NODES, PANELS = quadrature(-7.0, 7.0, 400)
DENSITY = PANELS * torch.exp(-0.5 * NODES**2) / math.sqrt(2 * math.pi)


def error(soft: Soft, h: float, n: int) -> float:
    """The summed squared error per sample of the inner bins, of their share or of its slope in the mean, for n of N(0, 1)."""
    b = Binning(soft._axes(h))
    p = (int(soft.target == "gradient"),)
    one = ((1.0, b, p),)
    mean = b.products(NODES[:, None], DENSITY[None], one)[0, 1:-1].numpy()
    square = b.products(NODES[:, None], DENSITY[None], one, one)[0, 1:-1].numpy()
    exact = -np.diff(stats.norm.pdf(EDGES)) if p[0] else np.diff(stats.norm.cdf(EDGES))
    return float(((mean - exact) ** 2 + (square - mean**2) / n).sum())


@pytest.mark.parametrize("target", ["value", "gradient"])
@pytest.mark.parametrize("richardson", [False, True])
@pytest.mark.parametrize("n", [300, 10_000])
def test_the_error_is_near_the_least(target, richardson, n):
    soft = Soft(edges=EDGES, target=target, richardson=richardson)
    least = min(error(soft, h, n) for h in np.geomspace(0.03, 1.2, 25))
    ratios = [error(soft, soft.settled(normal(n, seed=seed)).bandwidth, n) / least for seed in range(3)]
    print(
        f"\n{target}, richardson {richardson}, {n} samples: error over the least {np.mean(ratios):.2f}, worst {max(ratios):.2f}"
    )
    assert np.mean(ratios) < 1.25
    assert max(ratios) < 1.6


def test_units_do_not_matter():
    x = normal(1000)
    one = Soft(edges=EDGES).settled(x).bandwidth
    other = Soft(edges=tuple(1e6 * np.array(EDGES))).settled(1e6 * x).bandwidth
    assert other == pytest.approx(1e6 * one, rel=1e-9)
    v = torch.stack([torch.ones(1000), x], 1)
    both = Soft(edges=EDGES).settled(x, velocities=v).bandwidth
    assert Soft(edges=EDGES).settled(x, velocities=v * torch.tensor([1e9, 1e-9])).bandwidth == pytest.approx(
        both, rel=1e-9
    )


def test_two_axes_have_a_bandwidth_each():
    x = normal(5000, 2) * torch.tensor([1.0, 100.0])
    edges = (EDGES, tuple(100 * np.array(EDGES)))
    a, b = Soft(edges=edges).settled(x).bandwidth
    assert b / a == pytest.approx(100, rel=0.3)
    assert a > Soft(edges=EDGES).settled(x[:, 0]).bandwidth * 0.9  # a slab has fewer samples than all


def test_counts_use_it_and_tell_it():
    soft, x = Soft(edges=EDGES, target="value"), normal(500)
    settled = soft.settled(x)
    assert settled.settled(x) is settled
    counts = soft.counts(x)
    assert torch.equal(counts.values, settled.counts(x).values)
    assert counts.binning == settled.binning(x)
    assert f"{settled.bandwidth:.6g}" in counts.binning.label
    rows = soft.counts(x.reshape(5, 100))
    assert rows.values.shape == (5, 22)
    assert 1.1 < rows.binning.axes[0].h / settled.bandwidth < 3  # a fifth of the samples in each


def test_a_support_is_respected():
    """Exponential density: its end is no edge that anything passes, so the bandwidth may be as wide as behind it."""
    x = -torch.log(torch.rand(20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    edges = tuple(np.linspace(0, 3, 13))
    reflected, open_ = (Soft(edges=edges, target="value", support=s).settled(x) for s in ((0.0, None), (None, None)))
    assert reflected.bandwidth > 1.2 * open_.bandwidth


def test_what_is_infinite_says_nothing():
    x = normal(500)
    more = torch.cat([x, torch.full((3,), math.inf)])
    assert Soft(edges=EDGES).settled(more).bandwidth == pytest.approx(Soft(edges=EDGES).settled(x).bandwidth, rel=0.2)


@pytest.mark.parametrize(
    ("x", "w", "sentence"),
    [
        ([0.3], None, "an automatic bandwidth must have at least 2 finite samples, and weights with a sum above 0. Got 1 samples "
         "and 1; give a number."),
        ([0.3, 0.4], [1.0, -1.0], "an automatic bandwidth must have at least 2 finite samples, and weights with a sum above 0. "
         "Got 2 samples and 0; give a number."),
        ([0.3, 0.3, 0.3], None, "an automatic bandwidth must have samples that differ. Got 3 with a standard deviation of 0; give "
         "a number."),
    ],
)  # fmt: skip
def test_refusals(x, w, sentence):
    with pytest.raises(InputError, match=f"^{re.escape(sentence)}$"):
        Soft(edges=EDGES).settled(x, w)


def test_it_cannot_be_found_under_vmap():
    with pytest.raises(
        InputError, match=r"^an automatic bandwidth must see numbers, and not a batch under vmap. Settle it before"
    ):
        torch.func.vmap(lambda x: Soft(edges=EDGES).counts(x).values)(normal(3, 10))
    with pytest.raises(
        InputError, match=re.escape("velocities must be finite and of shape [n, d], or [n, 2, d] of two axes, for")
    ):
        Soft(edges=EDGES).settled(normal(10), velocities=torch.ones(4, 2))
