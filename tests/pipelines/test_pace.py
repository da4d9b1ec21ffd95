"""The time left against campaigns whose end is known: a list of run lengths on workers that take the next that waits."""

import heapq
import math

import numpy as np
import pytest
from scipy.stats import binom

from pipelines.pace import Remaining, stragglers


def campaign(lengths: np.ndarray, workers: int) -> tuple[np.ndarray, np.ndarray]:
    """When runs end, in order, and how long each of them was."""
    free, ends = [0.0] * workers, []
    for s in lengths:
        ends.append(free[0] + s)
        heapq.heapreplace(free, free[0] + s)
    order = np.argsort(ends)
    return np.array(ends)[order], lengths[order]


def seen(lengths: np.ndarray, workers: int, share: float, *, told: bool = True) -> tuple[Remaining, float]:
    """What a bar knows after a share of the runs, and the seconds that are truly left."""
    ends, each = campaign(lengths, workers)
    remaining = Remaining(workers)
    remaining.saw(0, len(lengths), 0.0)
    for i in range(math.ceil(share * len(lengths))):
        if told:
            remaining.ran([each[i]])
        remaining.saw(i + 1, len(lengths), ends[i])
    return remaining, ends[-1] - ends[i]


@pytest.mark.parametrize(("workers", "scatter", "share"), [(1, 0.3, 0.1), (1, 0.3, 0.5), (4, 0.3, 0.3), (4, 0.6, 0.5),
                                                          (16, 0.3, 0.5)])  # fmt: skip
def test_the_interval_holds_the_end(workers, scatter, share):
    """90 %, for one in eight that are promised to be wrong at most."""
    held = 0
    for seed in range(120):
        lengths = np.exp(scatter * np.random.default_rng(seed).standard_normal(400))
        remaining, truth = seen(lengths, workers, share)
        held += remaining.left.low <= truth <= remaining.left.high
    assert held >= binom.ppf(1e-3, 120, 0.8), held


def test_lengths_that_are_not_told_are_taken_with_caution():
    lengths = np.exp(0.3 * np.random.default_rng(0).standard_normal(400))
    (told, truth), (silent, _) = (seen(lengths, 4, 0.3, told=t) for t in (True, False))
    assert silent.left.high - silent.left.low > told.left.high - told.left.low
    assert silent.left.low <= truth <= silent.left.high


def test_the_last_of_many_workers_is_waited_for():
    """64 runs of 1 to 100 s on 64 workers: the rate alone says nothing of the longest that is under way."""
    lengths = np.geomspace(1.0, 100.0, 64)
    remaining, truth = seen(lengths, 64, 0.5)
    assert remaining.left.high > 0.4 * truth
    assert remaining.left.high > 32 / remaining.left.rate


def test_equal_runs_end_when_they_must():
    remaining, truth = seen(np.full(1000, 2.0), 1, 0.3)
    assert remaining.left.rate == pytest.approx(0.5)
    assert remaining.left.seconds == pytest.approx(truth, rel=0.01)
    assert str(remaining.left).startswith("30 runs/min, 23 min ")


def test_nothing_is_said_before_two_runs_and_at_the_end():
    remaining = Remaining(2)
    assert remaining.left is None
    assert remaining.note(0) == ""
    remaining.saw(5, 10, 0.0)
    remaining.saw(6, 10, 1.0)
    assert remaining.left is None
    assert remaining.note(1) == "1 failed"
    remaining.saw(7, 10, 2.0)
    assert " left (" in remaining.note(0)
    remaining.saw(10, 10, 5.0)
    assert remaining.note(2) == "2 failed"


def test_runs_stored_before_do_not_count_as_rate():
    remaining = Remaining(1)
    for i in range(11):
        remaining.saw(1000 + i, 2000, 10.0 * i)
    assert remaining.left.rate == pytest.approx(0.1)


def test_a_campaign_of_a_million_keeps_little():
    remaining = Remaining(4)
    for i in range(1, 20001, 50):
        remaining.saw(i, 1_000_000, 0.01 * i)
        remaining.ran([0.04] * 50)
    assert len(remaining._lengths) <= 2000
    assert remaining.left.seconds == pytest.approx(9800, rel=0.05)


def test_stragglers_are_those_far_above_the_others():
    seconds = np.exp(0.3 * np.random.default_rng(1).standard_normal(200))
    seconds[[7, 90]] = 20.0, 9.0
    assert stragglers(seconds).tolist() == [7, 90]
    assert stragglers(seconds, elapsed=[1.0, 30.0]).tolist() == [1]
    assert stragglers([1.0, 100.0]).size == 0
