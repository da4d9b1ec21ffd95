"""Laws of the room of designs: points of the open unit cube, the same for the same seed, spread better than chance."""

import numpy as np
import pytest
from scipy.stats import kstest, qmc

from emulate import registry
from emulate.errors import EmulateError, InputError
from emulate.feasibility import Feasibility
from emulate.runs import Field, Outputs, Runs
from emulate.space import Parameter, Space, Uniform
from tests.entries import entries

SPACE = Space((Parameter("a", Uniform(0.0, 1.0)), Parameter("b", Uniform(0.0, 1.0))))
RADIUS = 0.4
NAMES = entries("designs")


@pytest.fixture(params=NAMES)
def design(request):
    return registry.build("designs", {"use": request.param, **registry.find("designs", request.param).example})


@pytest.fixture(scope="module")
def region(tmp_path_factory):
    """A saved feasibility of a simulator that finishes in a disc."""
    u = registry.build("designs", "sobol").points(256, 2, seed=1)
    y = np.where(((u - 0.5) ** 2).sum(1) < RADIUS**2, 1.0, np.nan)[:, None]
    runs = Runs.of(SPACE, Outputs((Field("y"),)), u, y)
    return Feasibility.fit(runs, seed=0).save(tmp_path_factory.mktemp("region") / "feasibility")


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


def test_a_law_of_all_holds_in_a_region_too(region):
    design = registry.build("designs", {"use": "feasible", "inside": str(region)})
    for n, dim in ((1, 2), (7, 2), (64, 2)):
        u = design.points(n, dim, seed=5)
        assert u.shape == (n, dim)
        assert len(np.unique(u, axis=0)) == n
        np.testing.assert_array_equal(design.points(2 * n, dim, seed=5)[:n], u)
        np.testing.assert_array_equal(design.points(n, dim, seed=5), u)


def test_points_lie_in_the_disc_where_runs_finish_and_cover_it(region):
    """The disc has a quarter of pi of 0.64 of the square: no point outside but for the width of the learned edge."""
    u = registry.build("designs", {"use": "feasible", "inside": str(region)}).points(512, 2, seed=5)
    radius = np.sqrt(((u - 0.5) ** 2).sum(1))
    assert radius.max() < RADIUS + 0.05
    assert kstest(radius**2 / RADIUS**2, "uniform").statistic < 0.06  # uniform over a disc: r^2 is uniform
    base = registry.build("designs", "sobol").points(4096, 2, seed=5)
    assert all((base == x).all(1).any() for x in u[:50]), "they are points of the Sobol sequence"


def test_a_region_that_is_too_small_or_another_study_s_is_refused_in_words(region, tmp_path):
    small = registry.build("designs", {"use": "feasible", "inside": str(region), "least": 1 - 1e-12, "most": 20})
    with pytest.raises(InputError, match=r"the region must hold 50 points. Got \d+ of 1000 candidates, where a run"):
        small.points(50, 2, seed=0)
    design = registry.build("designs", {"use": "feasible", "inside": str(region)})
    with pytest.raises(InputError, match=r"must be of 3 parameters, as the study. Got 2: a, b\."):
        design.points(5, 3, seed=0)
    design.require(SPACE)
    wider = Space((Parameter("a", Uniform(0.0, 2.0)), SPACE.parameters[1]))
    with pytest.raises(InputError, match=r"parameters a, b with their priors. Got another prior or unit of a; run"):
        design.require(wider)
    with pytest.raises(InputError, match=r"parameters c, b with their priors. Got the parameters a, b; run"):
        design.require(Space((Parameter("c", Uniform(0.0, 1.0)), SPACE.parameters[1])))
    with pytest.raises(InputError, match=r"feasible.inside: must be the folder of a feasibility, such as runs/NAME"):
        registry.build("designs", {"use": "feasible", "inside": str(tmp_path / "none")}).points(5, 2, seed=0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(EmulateError):
        registry.build("designs", {"use": "feasible", "inside": str(tmp_path / "empty")}).points(5, 2, seed=0)
