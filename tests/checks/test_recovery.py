"""Recovery against counts by brute force and published acceptance ranges."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

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


def test_a_calibrated_chain_passes_as_often_as_it_says():
    passed = [_find(recovery(0.0, 1.0, seed=i))["inside"].passed for i in range(300)]
    assert abs(np.mean(passed) - 0.984) < 4 * math.sqrt(0.984 * 0.016 / 300)


def test_a_chain_that_is_too_narrow_or_shifted_is_stopped():
    for shift, width in ((0.0, 0.4), (2.5, 1.0)):
        passed = [_find(recovery(shift, width, seed=i))["inside"].passed for i in range(20)]
        assert not any(passed)


def test_a_chain_that_is_too_wide_is_seen_in_its_ranks():
    found = _find(recovery(0.0, 3.0))
    assert found["inside"].passed  # 20 of 20 lie inside: the count cannot tell
    assert not found["ranks"].passed
    assert not found["ranks"].blocking


def test_a_shift_is_named_by_its_parameter_in_standard_deviations():
    found = _find(recovery(1.0, 1.0, q=100))
    assert abs(found["z.omega_m"].value - 1) < 4 / math.sqrt(100)
    assert not found["z.omega_m"].passed
    assert "posterior mean of omega_m lies 0.969 +- 0.1 posterior" in found["z.omega_m"].sentence  # above the truth
    assert found["z.h0"].passed
    assert found["z.h0"].high == pytest.approx(0.3)  # three standard errors of 100 observations


def test_ranks_of_a_calibrated_chain_are_uniform():
    small = [_find(recovery(0.0, 1.0, seed=i))["ranks"].value < 0.2 for i in range(300)]
    assert abs(np.mean(small) - 0.2) < 4 * math.sqrt(0.2 * 0.8 / 300)


def test_few_observations_say_nothing():
    found = _find(recovery(0.0, 1.0, q=4))
    assert list(found) == ["inside"]
    assert found["inside"].sentence == "Cannot say: 4 observations were recovered, and the check needs at least 5."
    assert not found["inside"].passed


def test_held_out_runs_that_failed_are_counted_and_change_no_verdict():
    whole = recovery(0.0, 1.0)
    lost = replace(whole, failed=whole.truth[:3], expected=torch.cat([torch.ones(20), torch.full((3,), 0.25)]).double())
    said = " 3 true runs failed (2.25 expected from where earlier runs failed) and made no observation."
    found, before = _find(lost), _find(whole)
    assert found["inside"].sentence == before["inside"].sentence + said
    assert [f.value for f in found.values()] == [f.value for f in before.values()]
