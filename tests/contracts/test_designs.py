"""Laws of the room of designs: points of the open unit cube, the same for the same seed, spread better than chance."""

import numpy as np
import pytest
from scipy.stats import kstest, qmc

from emulate import registry

NAMES = registry.names("designs")


@pytest.fixture(params=NAMES)
def design(request):
    return registry.build("designs", {"use": request.param, **registry.find("designs", request.param).example})


@pytest.mark.parametrize(("n", "dim"), [(1, 1), (1, 4), (2, 1), (7, 3), (64, 5), (100, 2), (16, 20)])
def test_points_lie_in_the_open_unit_cube(design, n, dim):
    for seed in (0, 1, 2**32 - 1):
        u = design.points(n, dim, seed=seed)
        assert u.shape == (n, dim)
        assert u.dtype == np.float64
        assert ((u > 0) & (u < 1)).all()
        assert len(np.unique(u, axis=0)) == n


def test_same_seed_same_bits_whatever_the_global_generator_holds(design):
    np.random.seed(1)  # noqa: NPY002
    first = design.points(33, 3, seed=7)
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    np.random.seed(2)  # noqa: NPY002
    np.testing.assert_array_equal(design.points(33, 3, seed=7), first)
    assert not np.array_equal(design.points(33, 3, seed=8), first)
    np.random.seed(1)  # noqa: NPY002
    design.points(5, 2, seed=0)
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


def test_more_points_continue_the_sequence_where_it_is_claimed(design):
    for n, dim in ((8, 2), (13, 4)):
        short, long = design.points(n, dim, seed=3), design.points(2 * n, dim, seed=3)
        assert np.array_equal(long[:n], short) == design.extensible


def test_each_parameter_is_uniform(design):
    """Kolmogorov and Smirnov for one point drawn per seed: the seeds are independent, the points of one are not."""
    first = np.array([design.points(4, 2, seed=s)[0] for s in range(400)])
    for column in first.T:
        assert kstest(column, "uniform").pvalue > 1e-4


def test_points_are_spread_better_than_independent_ones(design):
    """Centred discrepancy (Hickernell 1998) below that of every one of 50 sets of independent points."""
    chance = [qmc.discrepancy(np.random.default_rng(s).random((64, 3))) for s in range(50)]
    for seed in range(5):
        assert qmc.discrepancy(design.points(64, 3, seed=seed)) < min(chance)
