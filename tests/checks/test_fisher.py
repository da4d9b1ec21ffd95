"""The Fisher check on stand-ins that are right in value, and right or wrong in what their derivatives promise."""

import math
from dataclasses import replace

import pytest
import torch

from emulate.checks.fisher import Fisher
from emulate.contracts import Evidence
from emulate.likelihoods.gaussian import Gaussian
from tests.checks.stand_ins import STAND_INS, jacobians

NOISE = Gaussian(relative_error=0.01, absolute_error=0.01)


def _find(kind, known=None, likelihood=NOISE, **settings):
    found = Fisher(**settings).find(Evidence(STAND_INS[kind], jacobians=known or jacobians(), likelihood=likelihood))
    return {f.name.removeprefix("fisher."): f for f in found}


def test_what_is_right_in_value_and_wrong_in_gradient_promises_another_precision():
    for kind in ("honest", "shy", "boastful"):
        found = _find(kind)["width"]
        assert found.passed
        assert found.value == pytest.approx(1, abs=0.005)
    steep = _find("steep")
    assert not steep["width"].passed
    assert steep["width"].value > 1.1
    assert not steep["worst"].blocking
    assert steep["worst"].sentence.startswith("The forecast that differs most is ")


def test_the_factor_is_that_of_the_errors_where_derivatives_are_in_proportion():
    """All derivatives of the simulator smaller by 1.2, and data so good that the prior says nothing."""
    known = jacobians(noise=0.0)
    smaller = replace(known, value=STAND_INS["honest"].jacobian(known.theta) / 1.2)
    found = _find("honest", smaller, Gaussian(relative_error=1e-6, absolute_error=1e-6))
    assert found["width"].value == pytest.approx(1.2, rel=1e-4)
    assert "is narrower, by 0.833, along " in found["worst"].sentence


def test_derivatives_too_noisy_to_tell_do_not_pass():
    found = _find("honest", jacobians(noise=0.2))
    assert math.isnan(found["width"].value)
    assert (
        "Cannot say more: two standard errors of the simulator's derivatives reach a factor of "
        in found["width"].sentence
    )
    assert "+-" in _find("honest", jacobians(noise=0.01))["width"].sentence


def test_false_alarms_are_rare_where_derivatives_are_noisy_and_the_emulator_is_right():
    """Noise of 2 % of a typical derivative: none of 30 studies fails, with value and error as they are told."""
    assert all(_find("honest", jacobians(noise=0.02, seed=seed))["width"].passed for seed in range(30))


def test_too_few_points_and_unknown_errors_say_so():
    known = jacobians()
    two = replace(known, **{k: v[:2] for k, v in vars(known).items()})
    assert _find("honest", two)["width"].sentence == (
        "Cannot say: derivatives at 2 points were given, and the check needs at least 3.")  # fmt: skip
    unsure = known.standard_error.clone()
    unsure[4, 0, 0] = torch.nan
    assert _find("honest", replace(known, standard_error=unsure))["width"].sentence == (
        "Cannot say: at 1 of 12 points the derivatives, their errors or the covariance of the data are not all finite "
        "numbers.")  # fmt: skip


def test_points_at_which_the_likelihood_has_no_covariance_are_left_out():
    """A relative error of an output that is 0 there says nothing; at three other points enough is known."""
    known = jacobians()
    y = known.y.clone()
    y[3:, -1] = 0.0
    relative = Gaussian(relative_error=0.01)
    found = _find("honest", replace(known, y=y), relative)["width"]
    assert found.passed
    assert "(median over 3 points)" in found.sentence
    y[2, -1] = 0.0
    assert _find("honest", replace(known, y=y), relative)["width"].sentence == (
        "Cannot say: derivatives at 12 points were given, and the likelihood has a covariance at 2 of them, and the check needs "
        "at least 3.")  # fmt: skip


def test_where_the_likelihood_adds_no_noise_the_emulator_says_how_data_scatter():
    from emulate.likelihoods.predictive import Predictive

    assert _find("honest", likelihood=Predictive())["width"].passed
