"""The softening check blocks what may be hard counts, and advises where the observation is smoothed alike."""

import math

import torch

from emulate.checks.softening import Softening
from emulate.contracts import Evidence
from emulate.contracts import Softening as Known
from tests.checks.stand_ins import STAND_INS


def _find(moved, told, **settings):
    known = Known(torch.tensor(moved, dtype=torch.float64), told)
    (found,) = Softening(**settings).find(Evidence(STAND_INS["honest"], softening=known))
    return found


def test_hard_counts_that_would_move_the_answer_block():
    found = _find([0.1, -0.7, 0.0], False)
    assert (found.value, found.blocking, found.passed) == (0.7, True, False)
    assert "would move h0 most, by -0.7 posterior standard deviations. Smooth the observation alike" in found.sentence
    assert _find([0.1, -0.15, 0.0], False).passed


def test_an_observation_that_is_smoothed_alike_is_advice():
    for found in (_find([2.0, 0.0, 0.0], True), _find([2.0, 0.0, 0.0], False, alike=True)):
        assert not found.blocking
        assert found.sentence.endswith("; the observation is smoothed alike.")
    assert _find([2.0, 0.0, 0.0], True, alike=False).blocking


def test_what_is_not_a_number_never_passes():
    found = _find([math.nan, 0.0, 0.0], False)
    assert found.blocking
    assert not found.passed
