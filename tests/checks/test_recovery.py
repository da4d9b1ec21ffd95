"""Recovery against counts by brute force, closed forms and its own level."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import binom, chi2

from emulate.checks.recovery import Recovery
from emulate.contracts import Evidence
from tests.checks.stand_ins import STAND_INS, recovery


def _find(material, **settings):
    found = Recovery(**settings).find(Evidence(STAND_INS["honest"], recovery=material))
    return {f.name.removeprefix("recovery."): f for f in found}


def _brute(q: int, level: float, confidence: float) -> tuple[int, int]:
    """The shortest range of counts with enough probability; of equal ones the likeliest."""
    p = [math.comb(q, i) * level**i * (1 - level) ** (q - i) for i in range(q + 1)]
    ranges = [(b - a, -sum(p[a : b + 1]), a, b) for a in range(q + 1) for b in range(a, q + 1)
              if sum(p[a : b + 1]) >= confidence]  # fmt: skip
    return min(ranges)[2:]


@pytest.fixture(scope="module")
def honest():
    """What a calibrated chain gives in 400 sets of 20 observations."""
    return [_find(recovery(0.0, 1.0, seed=i)) for i in range(400)]


@pytest.fixture(scope="module")
def loose():
    """The same at ten times the chance, where 400 sets tell how often it comes."""
    return [_find(recovery(0.0, 1.0, seed=i), chance=0.1) for i in range(400)]


@pytest.mark.parametrize("q", [5, 10, 20, 30, 47, 100])
@pytest.mark.parametrize("level", [0.5, 0.68, 0.95])
def test_the_range_is_the_shortest_that_holds_enough(q, level):
    (low, high), (a, b) = Recovery(level=level).range(q), _brute(q, level, 0.95)
    assert (low, high) == (a, b) or (level == 0.5 and (low, high) == (q - b, q - a))  # a mirror image is as likely


def test_seventeen_to_twenty_of_twenty():
    assert Recovery().range(20) == (17, 20)
    finding = _find(recovery(0.0, 1.0))["inside"]
    assert finding.bound == "17 to 20"
    assert "a calibrated chain gives 17 to 20 with probability 98.4 %." in finding.sentence


def test_a_calibrated_chain_fails_the_verdict_at_most_as_often_as_said(honest):
    assert sum(not found["joint"].passed for found in honest) <= binom.ppf(0.999, 400, Recovery().chance)


@pytest.mark.parametrize("name", ["shift", "chi2", "coverage", "ranks"])
def test_each_part_fails_a_calibrated_chain_with_its_share_of_the_chance(name, loose):
    """10 % of the verdict are 2.5 % of each part."""
    alarms = sum(not found[name].passed for found in loose)
    assert binom.ppf(0.001, 400, 0.02) <= alarms <= binom.ppf(0.999, 400, 0.025)


@pytest.mark.parametrize("name", ["pull.h0", "width.h0", "ranks.h0"])
def test_advice_on_a_parameter_fails_a_calibrated_chain_with_the_chance(name, loose):
    alarms = sum(not found[name].passed for found in loose)
    assert binom.ppf(0.001, 400, 0.1) <= alarms <= binom.ppf(0.999, 400, 0.1)


def test_the_verdict_is_the_worst_of_its_parts(honest):
    for found in [*honest[:50], *(_find(recovery(0.5, 1.0, seed=i)) for i in range(50))]:
        parts = [found[name].passed for name in ("shift", "chi2", "coverage", "ranks")]
        assert found["joint"].passed == all(parts)


def test_ranks_of_a_calibrated_chain_are_uniform(honest):
    """P-values of 400 sets are uniform themselves."""
    for name in ("coverage", "ranks.omega_m"):
        small = np.mean([found[name].value < 0.2 for found in honest])
        assert abs(small - 0.2) < 4 * math.sqrt(0.2 * 0.8 / 400)


def test_a_chain_that_is_too_narrow_too_wide_or_far_off_is_stopped():
    for shift, width in ((0.0, 0.5), (0.0, 2.0), (1.5, 1.0)):
        assert not any(_find(recovery(shift, width, seed=i))["joint"].passed for i in range(20))


def test_half_a_standard_deviation_is_seen_with_a_hundred_observations():
    assert not any(_find(recovery(0.5, 1.0, q=100, seed=i))["joint"].passed for i in range(20))


def test_the_fault_is_named_for_what_it_is():
    narrow, wide, off = (_find(recovery(*fault, q=100)) for fault in ((0.0, 0.5), (0.0, 2.0), (1.0, 1.0)))
    assert narrow["chi2"].sentence.endswith("The posteriors are too narrow, or off.")
    assert wide["chi2"].sentence.endswith("The posteriors are too wide.")
    assert narrow["joint"].sentence.endswith("in 1 % of such sets: the errors' chi2 is off.")
    assert off["joint"].sentence.endswith("in 1 % of such sets: the posteriors lie off the truths.")
    assert off["joint"].sentence.startswith("The truths of 100 held-out observations lie among the draws")


def test_the_shift_is_that_of_the_whole_posterior():
    """(delta^T R^-1 delta)^1/2 for a shift of one of three parameters with correlations of 1/2: R^-1_11 = 3/2."""
    found = _find(recovery(1.0, 1.0, q=2000, s=100))
    chance = 3 / 2000  # what three parameters add to the square
    assert (
        abs(found["shift"].value ** 2 - 1.5 - chance) < 4 * 2 * math.sqrt(1.5 / 2000) + 0.05
    )  # draws are 100: z is cut


def test_chi2_is_that_of_the_errors():
    """Twice as wide: a quarter of the errors' square; exactly right: 1, with the scatter of 1500 numbers."""
    assert abs(_find(recovery(0.0, 2.0, q=500))["chi2"].value - 0.25) < 0.02
    assert abs(_find(recovery(0.0, 1.0, q=500))["chi2"].value - 1) < 4 * math.sqrt(2 / 1500)
    found = _find(recovery(0.0, 1.0))["chi2"]
    assert [found.low, found.high] == pytest.approx(list(chi2.ppf([0.00125, 0.99875], 60) / 60))


def test_a_shift_is_named_by_its_parameter_in_standard_deviations():
    found = _find(recovery(1.0, 1.0, q=100))
    assert abs(found["pull.omega_m"].value - 1) < 4 / math.sqrt(100)
    assert not found["pull.omega_m"].passed
    assert found["pull.omega_m"].sentence.endswith("+- 0.1 posterior standard deviations above the truth on average.")
    assert found["pull.h0"].passed
    assert found["pull.h0"].high == pytest.approx(2.5758 / 10, rel=1e-3)
    below = _find(recovery(-1.0, 1.0, q=100))["pull.omega_m"]
    assert below.sentence.endswith("below the truth on average.")


def test_widths_are_told_by_parameter():
    found = _find(recovery(0.0, 2.0, q=200))
    assert abs(found["width.h0"].value - 0.5) < 4 * 0.5 / math.sqrt(400)
    assert not found["width.h0"].passed


def test_few_observations_say_nothing():
    found = _find(recovery(0.0, 1.0, q=4))
    assert list(found) == ["joint"]
    assert found["joint"].sentence == "Cannot say: 4 observations were recovered, and the check needs at least 5."
    assert not found["joint"].passed


def test_held_out_runs_that_failed_are_counted_and_change_no_verdict():
    whole = recovery(0.0, 1.0)
    lost = replace(whole, failed=whole.truth[:3], expected=torch.cat([torch.ones(20), torch.full((3,), 0.25)]).double())
    said = " 3 true runs failed (2.25 expected from where earlier runs failed) and made no observation."
    found, before = _find(lost), _find(whole)
    assert found["joint"].sentence == before["joint"].sentence + said
    assert [f.value for f in found.values()] == [f.value for f in before.values()]
