"""Points that are worth a run: known regions, order of the runs, and campaigns that go on after an interruption."""

import numpy as np
import pytest

from emulate.designs.sobol import Sobol
from emulate.errors import InputError
from emulate.outlook import worthwhile
from emulate.runs import Field, Outputs, Runs
from emulate.space import Parameter, Space, Uniform

SPACE = Space((Parameter("a", Uniform(0.0, 1.0)), Parameter("b", Uniform(0.0, 1.0))))


def sequence(n: int) -> np.ndarray:
    return Sobol().points(n, 2, seed=1) if n else np.empty((0, 2))


def runs(theta: np.ndarray, works=lambda u: u[:, 0] < 0.5) -> Runs:
    y = np.where(works(theta)[:, None], 1.0, np.nan)
    return Runs.of(SPACE, Outputs((Field("y"),)), theta, y)


def test_half_of_the_space_is_lost_and_no_run_is_spent_on_it():
    table = runs(sequence(128))
    found = worthwhile(sequence, 128, 64, table, most=1000, seed=0)
    assert len(found.theta) == 64
    assert found.theta[:, 0].max() < 0.53  # the boundary and a little more
    assert found.skipped[:, 0].min() > 0.5
    assert (found.probability < 0.05).all()
    assert len(found.theta) + len(found.skipped) == found.looked - 128 == pytest.approx(128, abs=8)
    decided = np.concatenate([found.theta, found.skipped])
    assert {tuple(x) for x in decided} == {tuple(x) for x in sequence(found.looked)[128:]}  # each is run or told
    assert runs(found.theta).ok.mean() > 0.9


def test_the_same_points_in_whatever_order_the_runs_came():
    theta = sequence(800)  # more than the classifier keeps
    shuffled = theta[np.random.default_rng(3).permutation(800)]
    one, other = (worthwhile(sequence, 800, 64, runs(t), most=2000, seed=4) for t in (theta, shuffled))
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("works", [lambda u: u[:, 0] < 2, lambda u: u[:, 0] > 2], ids=["no failure", "nothing else"])
def test_where_no_boundary_is_known_nothing_is_left_out(works):
    found = worthwhile(sequence, 16, 8, runs(sequence(16), works), most=100, seed=0)
    np.testing.assert_array_equal(found.theta, sequence(24)[16:])
    assert (len(found.skipped), found.looked) == (0, 24)


def test_failures_at_random_leave_nothing_out():
    broken = np.random.default_rng(4).random(128) < 0.2
    found = worthwhile(sequence, 128, 64, runs(sequence(128), lambda u: ~broken), most=1000, seed=0)
    assert (len(found.theta), len(found.skipped)) == (64, 0)


def test_it_stops_at_the_end_of_what_may_be_looked_at():
    found = worthwhile(sequence, 128, 64, runs(sequence(128)), most=160, seed=0)
    assert found.looked == 160
    assert 10 < len(found.theta) < 22
    again = worthwhile(sequence, 160, 64, runs(sequence(128)), most=160, seed=0)
    assert (len(again.theta), again.looked) == (0, 160)


def test_a_campaign_that_goes_on_in_steps_decides_on_every_point_once():
    theta, looked, told = sequence(64), 64, []
    for _ in range(4):
        step = worthwhile(sequence, looked, 16, runs(theta), most=1000, seed=0)
        theta, looked = np.concatenate([theta, step.theta]), step.looked
        told.append(step.skipped)
    assert len(theta) == 128
    assert len(np.unique(np.concatenate([theta, *told]), axis=0)) == looked


def test_a_threshold_must_be_a_probability():
    with pytest.raises(InputError, match=r"at least 0 and below 1\. Got 1; 0 leaves nothing out"):
        worthwhile(sequence, 4, 4, runs(sequence(4)), least=1, most=10, seed=0)
