"""Regions by counting points, and what chance allows by the binomial law and by simulation."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from emulate.regions import allowance, chance, corners, regions, share_and_error
from emulate.space import LogUniform, Normal, Parameter, Space, Uniform

SPACE = Space((Parameter("a", Uniform(-1.0, 3.0)), Parameter("b", LogUniform(1.0, 100.0)),
               Parameter("c", Normal(0.0, 2.0))))  # fmt: skip
N = 20_000


def _theta(d: int = 3) -> torch.Tensor:
    return Space(SPACE.parameters[:d]).from_unit(torch.as_tensor(np.random.default_rng(0).random((N, d))))


@pytest.mark.parametrize("d", [1, 2, 3])
def test_every_half_holds_half_of_the_prior(d):
    parts = regions(Space(SPACE.parameters[:d]), _theta(d))
    assert len(parts) == 3 + 2 * d
    assert [float(p.rows.double().mean()) for p in parts] == pytest.approx(
        [1.0] + [0.5] * (2 + 2 * d), abs=4 * 0.5 / N**0.5
    )
    for one, other in zip(parts[1::2], parts[2::2], strict=True):
        assert (one.rows ^ other.rows).all()


def test_the_halves_are_where_they_say():
    theta = torch.tensor([[0.9, 9.0, -0.1], [1.1, 11.0, 0.1]], dtype=torch.float64)  # either side of every median
    rows = {p.name: p.rows.tolist() for p in regions(SPACE, theta)}
    assert rows["the inner half of the box"] == [True, True]
    for name in "abc":
        assert rows[f"the lower half of {name}"] == [True, False]
        assert rows[f"the upper half of {name}"] == [False, True]


def test_the_quarters_of_each_pair_are_a_partition():
    parts = corners(SPACE, _theta())
    assert len(parts) == 12
    assert len({p.name for p in parts}) == 12
    for four in zip(*[iter(parts)] * 4, strict=True):
        assert (torch.stack([p.rows for p in four]).sum(0) == 1).all()
        assert [float(p.rows.double().mean()) for p in four] == pytest.approx([0.25] * 4, abs=4 * 0.44 / N**0.5)
    assert corners(Space(SPACE.parameters[:1]), _theta(1)) == ()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 200), st.floats(0.01, 0.5), st.data())
def test_whole_misses_have_the_binomial_tail(n, share, data):
    k = data.draw(st.integers(0, n))
    assert chance(n, float(k), share) == pytest.approx(binom.sf(k - 1, n, share), rel=1e-9, abs=1e-300)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 200), st.floats(0.01, 0.5), st.floats(1e-6, 0.2))
def test_the_allowance_is_where_chance_ends(n, share, p):
    k = allowance(n, share, p)
    assert 0 < k <= n
    if k < n:
        assert chance(n, k, share) == pytest.approx(p, rel=1e-6)
    else:
        assert share**n >= p * (1 - 1e-9)  # even n misses of n would not surprise


@pytest.mark.parametrize("together", [1.0, 0.5, 0.0])
def test_an_honest_region_goes_beyond_its_allowance_no_more_often_than_it_should(together):
    """8 outputs of a run that miss as one, half the time as one, or each by itself."""
    rng, n, share, trials = np.random.default_rng(0), 25, 0.05, 4000
    as_one = rng.random((trials, n, 1)) < together
    miss = np.where(as_one, rng.random((trials, n, 1)) < share, rng.random((trials, n, 8)) < share)
    for p in (0.05, 0.005):
        beyond = (miss.mean(2).sum(1) > allowance(n, share, p)).mean()
        assert beyond < p + 4 * np.sqrt(p / trials)


def test_the_error_is_that_of_runs():
    inside = np.array([1.0, 0.5, 1.0, 0.0])
    assert share_and_error(inside) == (0.625, pytest.approx(np.sqrt(0.625 * 0.375 / 4)))
