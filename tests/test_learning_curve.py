"""The learning curve against laws that are known: how often its intervals hold the truth, and what it says."""

import math

import numpy as np
import pytest
from scipy.stats import binom

from emulate.emulators.polynomial import Polynomial
from emulate.errors import CampaignError, InputError
from emulate.learning_curve import LearningCurve, Trial, sizes, stretches, trials
from tests import laws

RUNS = np.repeat([8.0, 16, 32, 48, 64], [4, 4, 2, 1, 1])


def law(n, b: float, r: float, a: float = 2.0):
    return a * (n**-b + (0 if math.isinf(r) else r**-b))


def curve(b: float, r: float, sigma: float, seed: int) -> LearningCurve:
    noise = np.random.default_rng([seed, 1]).standard_normal(len(RUNS))
    return LearningCurve.fit(RUNS, law(RUNS, b, r) * np.exp(sigma * noise), seed=seed)


def test_intervals_hold_laws_drawn_from_the_prior_as_often_as_they_say():
    """90 % intervals of the error at 2, 4 and 16 times the runs, and of the runs to a target, over 200 laws."""
    held = {128: 0, 256: 0, 1024: 0, "answer": 0}
    for seed in range(200):
        rng = np.random.default_rng([seed, 2])
        b, floor = 0.02 + min(rng.exponential(3.0), 9.9), rng.uniform() > 0.3
        r = math.exp(rng.uniform(math.log(8), math.log(6400))) if floor else math.inf
        sigma = 0.1 * math.sqrt(2 / rng.chisquare(2))
        c = curve(b, r, sigma, seed)
        for n in (128, 256, 1024):
            low, _, high = c.error(n)
            held[n] += low < law(n, b, r) * math.exp(sigma * rng.standard_normal()) < high
        a = c.answer(law(200.0, b, r))
        held["answer"] += a.low <= 200 <= a.high
    low, high = binom.ppf([1e-4, 1 - 1e-4], 200, 0.9)
    assert all(low <= count <= high for count in held.values()), held


@pytest.mark.parametrize(("b", "r", "least"), [(0.5, math.inf, 75), (1.0, math.inf, 75), (2.5, math.inf, 75),
                                              (1.0, 20.0, 70), (1.5, 200.0, 70), (1.0, 64.0, 65)])  # fmt: skip
def test_intervals_hold_each_law_by_itself(b, r, least):
    """The last: a floor that begins where the runs end is the hardest to see."""
    held = 0
    for seed in range(100):
        low, _, high = curve(b, r, 0.1, seed).error(256)
        held += low < law(256, b, r) < high
    assert held >= least


def test_a_clean_power_law_is_read_off():
    c = LearningCurve.fit(RUNS, 2 / RUNS, seed=0)
    assert np.median(c.b) == pytest.approx(1.0, abs=0.1)
    a = c.answer(0.02)
    assert a.low <= 100 <= a.high
    assert a.middle == pytest.approx(100, rel=0.2)
    assert c.sentence(0.02).startswith("With 64 runs the median error is 3.1 % (2.")
    assert " more, " in c.sentence(0.02)


def test_a_floor_is_never_reached_below():
    c = LearningCurve.fit(RUNS, np.full(len(RUNS), 0.05), seed=0)
    a = c.answer(0.01)
    assert a.never > 0.5
    assert math.isinf(a.high)
    assert "1 % needs more than" in c.sentence(0.01)
    assert c.answer(0.2).middle <= 64
    assert "20 % needs no more runs" in c.sentence(0.2)


def test_the_error_all_fits_share_widens_the_answer():
    e = 2 / RUNS
    sharp, blurred = (LearningCurve.fit(RUNS, e, seed=0, level=s).answer(0.02) for s in (0.0, 0.4))
    assert blurred.high / blurred.low > 1.5 * sharp.high / sharp.low


def test_trials_of_one_run_each_share_the_noise_of_their_few_held_out_runs():
    few = LearningCurve.of([Trial(n, tuple(x / n for x in (0.5, 1, 2))) for n in (8, 16, 32)], seed=0)
    assert few.level.std() > 0.2


@pytest.mark.parametrize(
    ("runs", "errors", "said"),
    [([8, 8, 16], [1, 1, 1], "Got 3 errors at 2; fit to more subsets."),
     ([8, 16, 32], [1, 0, 1], "must be finite and above 0"), ([8, 16, 32], [1, np.nan, 1], "must be finite")],
)  # fmt: skip
def test_what_cannot_be_fitted_is_refused(runs, errors, said):
    with pytest.raises(InputError, match=said):
        LearningCurve.fit(runs, errors, seed=0)


@pytest.mark.parametrize("target", [0.0, -1.0, math.nan, math.inf])
def test_a_target_must_be_an_error(target):
    with pytest.raises(InputError, match=r"target must be an error above 0, 0.01 for 1 %. Got "):
        LearningCurve.fit(RUNS, 2 / RUNS, seed=0).answer(target)


def test_parts_are_nested_in_the_design_and_share_no_run():
    assert sizes(100, 6) == (12, 25, 50, 75, 100)
    assert sizes(20, 6) == (10, 15, 20)
    for n, size, most in ((100, 12, 4), (100, 50, 4), (100, 75, 4), (64, 16, 4), (7, 7, 4)):
        parts = [set(range(n)[s]) for s in stretches(n, size, most)]
        assert all(len(p) == size for p in parts)
        assert len(set().union(*parts)) == size * len(parts)
    assert len(stretches(100, 12, 4)) == 4


def test_a_recipe_is_refitted_to_parts_of_its_runs():
    """A quadratic polynomial on a cubic function: the error falls, then stays at what no quadratic can follow."""
    runs, held = laws.runs(64), laws.runs(16, seed=5)
    scale = held.y.std(0)
    seen = []

    def score(e):
        return (np.abs(e.predict(held.theta).mean.numpy() - held.y) / scale).max(1)

    found = trials(Polynomial(), runs, score, seed=0, progress=lambda i, n: seen.append((i, n)))
    assert {t.runs for t in found} == {16, 32, 48, 64}
    assert seen == [(i, len(found)) for i in range(len(found))]
    assert len(found[0].errors) == 16
    c = LearningCurve.of(found, seed=0)
    low, _, high = c.error(64)
    assert low < found[-1].median < high


def test_too_few_runs_for_three_sizes_are_refused():
    with pytest.raises(CampaignError, match=r"must have three sizes of at least 11 runs.* Got 12 finished runs"):
        trials(Polynomial(), laws.runs(12), lambda e: [1.0], seed=0)
