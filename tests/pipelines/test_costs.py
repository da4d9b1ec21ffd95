"""Costs against runs whose law is known: intervals of totals and of the wall, the parameter that costs, the schedule."""

import itertools

import numpy as np
import pytest
import torch
from scipy.stats import binom

from emulate.errors import InputError
from emulate.space import LogUniform, Normal, Parameter, Space, Uniform
from pipelines.costs import Bill, CostModel, Interval, bill, schedule, span

SPACE = Space((Parameter("a", Uniform(0, 1)), Parameter("b", LogUniform(1, 100)), Parameter("c", Normal(0, 1))))
LAWS = {
    "equal": lambda t: 0 * t[:, 0],
    "steep": lambda t: 2 + 1.5 * t[:, 0],
    "curved": lambda t: 2 * (t[:, 0] - 0.5) ** 2 + 0.3 * np.log(t[:, 1]),
}


def points(n: int, seed: int) -> np.ndarray:
    u = torch.quasirandom.SobolEngine(3, scramble=True, seed=seed).draw(n, dtype=torch.float64)
    return SPACE.from_unit(u.clamp(1e-6, 1 - 1e-6)).numpy()


def runs(law: str, theta: np.ndarray, scatter: float, seed: int) -> np.ndarray:
    return np.exp(LAWS[law](theta) + scatter * np.random.default_rng(seed).standard_normal(len(theta)))


@pytest.mark.parametrize(("n", "law", "scatter"), [(3, "steep", 0.8), (5, "equal", 0.1), (10, "curved", 0.8),
                                                  (30, "steep", 0.1), (100, "curved", 0.8)])  # fmt: skip
def test_intervals_of_a_pilot_hold_what_the_campaign_takes(n, law, scatter):
    work = wall = 0
    for seed in range(40):
        theta, todo = points(n, seed), points(200, 1000 + seed)
        model = CostModel.fit(SPACE, theta, runs(law, theta, scatter, seed))
        truth, said = runs(law, todo, scatter, 500 + seed), bill([(model, todo)], 4, seed=seed)
        work += said.work.low <= truth.sum() <= said.work.high
        wall += said.wall.low <= schedule(truth, 4) <= said.wall.high
    least = binom.ppf(1e-3, 40, 0.87)
    assert work >= least, work
    assert wall >= least, wall


def test_a_law_that_costs_is_read_off_and_said():
    theta = points(64, 1)
    model = CostModel.fit(SPACE, theta, runs("steep", theta, 0.05, 1))
    assert model.degree == 1
    assert model.seconds(theta) == pytest.approx(np.exp(LAWS["steep"](theta)), rel=0.1)
    assert model.slopes()["a"] == pytest.approx(np.exp(0.9 * 1.5), rel=0.05)
    assert model.sentence().endswith("most of all a changes it, 3.9 times longer at its high end.")
    even = CostModel.fit(SPACE, theta, runs("equal", theta, 0.3, 1))
    assert even.degree == 0
    assert even.sentence().endswith("; no parameter changes that.")


def test_one_run_says_how_little_it_knows():
    model = CostModel.fit(SPACE, points(1, 1), [10.0])
    said = bill([(model, points(50, 2))], 1, seed=0).work
    assert said.low < 500 < said.high
    assert said.high / said.low > 4


def test_runs_without_seconds_are_left_out_and_none_is_refused():
    model = CostModel.fit(SPACE, points(3, 1), [1.0, np.nan, 1.0])
    assert model.runs == 2
    with pytest.raises(InputError, match=r"costs need at least one run that is stored with its seconds. Got none"):
        CostModel.fit(SPACE, points(1, 1), [np.nan])


def test_points_at_one_place_do_not_make_a_slope():
    model = CostModel.fit(SPACE, np.repeat(points(1, 1), 20, 0), np.linspace(1, 2, 20))
    assert model.degree == 0


def test_a_large_campaign_is_summed_over_a_part():
    theta = points(50, 1)
    model = CostModel.fit(SPACE, theta, runs("equal", theta, 0.1, 1))
    said = bill([(model, points(50_000, 2))], 10, seed=0)
    assert said.work.middle == pytest.approx(50_000, rel=0.1)
    assert said.wall.middle == pytest.approx(5_000, rel=0.1)


def test_two_kinds_of_runs_are_added():
    cheap, dear = (CostModel.fit(SPACE, points(30, 1), np.full(30, s)) for s in (1.0, 9.0))
    both = bill([(cheap, points(100, 2)), (dear, points(100, 3))], 2, seed=0)
    assert isinstance(both, Bill)
    assert both.work.low < 1000 < both.work.high
    assert bill([], 2, seed=0).work == Interval(0.0, 0.0, 0.0)


@pytest.mark.parametrize("workers", [1, 2, 3, 9])
def test_the_schedule_is_that_of_a_slow_twin(workers):
    """Step through time: whenever a worker is free it takes the next run."""
    seconds = [3, 1, 4, 1, 5, 9, 2, 6]
    waiting, busy = list(seconds), []
    for now in itertools.count():
        busy = [end for end in busy if end > now]
        while waiting and len(busy) < workers:
            busy.append(now + waiting.pop(0))
        if not waiting and not busy:
            break
    assert schedule(seconds, workers) == now


def test_short_times_keep_two_digits():
    assert [span(x) for x in (0.00123, 0.5, 3.21, 75)] == ["0.0012 s", "0.5 s", "3.2 s", "1 min 15 s"]
