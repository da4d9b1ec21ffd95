"""TARP against its own level, from 5 to 500 observations, and on faults that it should see."""

import numpy as np
import pytest
from scipy.stats import binom

from emulate.checks.tarp import Tarp
from emulate.contracts import Evidence
from tests.checks.stand_ins import STAND_INS, recovery


def _find(material, **settings):
    (found,) = Tarp(**settings).find(Evidence(STAND_INS["honest"], recovery=material))
    return found


@pytest.mark.parametrize(("q", "s", "sets"), [(5, 100, 400), (20, 300, 400), (100, 100, 200), (500, 60, 60)])
def test_a_calibrated_chain_fails_as_often_as_said(q, s, sets):
    alarms = sum(not _find(recovery(0.0, 1.0, q=q, s=s, seed=i), chance=0.1).passed for i in range(sets))
    assert binom.ppf(0.001, sets, 0.1) <= alarms <= binom.ppf(0.999, sets, 0.1)


def test_widths_are_seen_and_more_observations_see_more():
    for width in (0.5, 2.0):
        share = [
            np.mean([not _find(recovery(0.0, width, q=q, s=100, seed=i)).passed for i in range(20)]) for q in (20, 60)
        ]
        assert share[0] >= 0.2
        assert share[1] == 1


def test_points_are_those_of_the_seed():
    known = recovery(0.0, 1.0)
    assert _find(known) == _find(known)
    assert _find(known).value != _find(known, seed=1).value


def test_few_observations_say_nothing():
    found = _find(recovery(0.0, 1.0, q=4))
    assert found.sentence == "Cannot say: 4 observations were recovered, and the check needs at least 5."
    assert not found.passed


def test_the_level_that_is_off_most_is_told():
    found = _find(recovery(0.0, 0.3, q=100))
    assert not found.passed
    assert "is off most and holds" in found.sentence
    assert found.sentence.endswith(" The posteriors are too narrow, too wide or off, or miss a part of themselves.")
