"""Posterior against Gaussians of known shift, width and distance; the errors of its numbers are held in test_importance.py."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import genpareto

from emulate.checks.posterior import Posterior
from emulate.contracts import Evidence
from tests.checks.stand_ins import STAND_INS, weighted


def _find(material, **settings):
    found = Posterior(**settings).find(Evidence(STAND_INS["honest"], weighted=material))
    return {f.name.removeprefix("posterior."): f for f in found}


def test_the_exact_surrogate_has_no_noise_at_all():
    found = _find(weighted(0.0, 1.0))
    assert found["shift"].value == pytest.approx(0, abs=1e-12)
    assert found["width"].value == pytest.approx(1, abs=1e-12)
    assert found["ess"].value == pytest.approx(1)
    assert found["pareto_k"].value == 0
    assert all(f.passed for f in found.values())


@pytest.mark.parametrize(("shift", "width", "what"), [(0.6, 1.0, "shift"), (0.0, 1.35, "width"), (0.0, 0.75, "width")])
def test_the_fault_is_named_for_what_it_is(shift, width, what):
    finding = _find(weighted(shift, width, s=400))[what]
    assert not finding.passed
    assert np.isfinite(finding.value)


def test_the_effective_share_follows_the_closed_form():
    """For a Gaussian shifted by a: E[w]^2 / E[w^2] = exp(-a^2)."""
    shares = [_find(weighted(0.5, 1.0, s=300, seed=i))["ess"].value for i in range(20)]
    assert abs(np.mean(shares) - math.exp(-0.25)) < 4 * np.std(shares) / math.sqrt(20) + 0.01


def test_too_few_true_runs_cannot_settle_it_and_say_how_many_would():
    material = weighted(0.0, 1.0, s=40)
    rough = torch.as_tensor(np.random.default_rng(0).standard_normal(40))
    found = _find(replace(material, log_weight=material.log_weight + rough))
    assert math.isnan(found["width"].value)
    assert "Cannot say more: for" in found["width"].sentence
    assert found["width"].sentence.endswith("times as many true runs would settle it.")


def test_failed_true_runs_are_counted_and_named():
    material = weighted(0.02, 1.01)
    log_weight = material.log_weight.clone()
    log_weight[[3, 50, 51, 52, 53]] = -math.inf
    found = _find(replace(material, log_weight=log_weight))
    at = f"(omega_m = {float(material.theta[3, 0]):.4g}, h0 = {float(material.theta[3, 1]):.4g} km/s/Mpc,"
    assert f" 5 true runs failed and carry no weight {at}" in found["ess"].sentence
    assert found["ess"].value == pytest.approx(0.999, abs=0.002)  # of the 195 that finished
    assert found["ess"].sentence.startswith("The 195 true runs are worth 195 independent draws")
    assert found["shift"].passed


def test_what_was_expected_to_fail_is_said_beside_what_failed():
    material = weighted(0.02, 1.01)
    log_weight = material.log_weight.clone()
    log_weight[:2] = -math.inf
    expected = torch.full((200,), 0.985, dtype=torch.float64)
    found = _find(replace(material, log_weight=log_weight, expected=expected))
    assert (
        " 2 true runs failed (3 expected from where earlier runs failed) and carry no weight " in found["ess"].sentence
    )
    assert "failed" not in _find(replace(material, expected=expected))["ess"].sentence


def test_failures_that_say_nothing_of_the_parameters_change_no_verdict():
    """True runs fail above one sd: with those draws left out on both sides a right surrogate stays right."""
    material = weighted(0.0, 1.0, s=400)
    edge = float(material.draws[:, 0].mean() + material.draws[:, 0].std())
    ran = material.theta[:, 0] < edge
    found = _find(replace(material, theta=material.theta[ran], log_weight=material.log_weight[ran],
                          failed=material.theta[~ran]))  # fmt: skip
    assert abs(found["shift"].value) < 1e-9
    assert found["width"].value == pytest.approx(1, abs=1e-9)
    assert f" {int((~ran).sum())} true runs failed and are left out on both sides (omega_m" in found["shift"].sentence
    against = _find(replace(material, log_weight=material.log_weight.where(ran, -math.inf)))
    assert against["shift"].value > 0.2  # where a failure excludes the parameters, the same draws are wrong


def test_a_campaign_that_failed_says_nothing():
    material = weighted(0.0, 1.0, s=60)
    log_weight = torch.full((60,), -math.inf, dtype=torch.float64)
    log_weight[7] = 0.0
    found = _find(replace(material, log_weight=log_weight))
    assert {f.sentence for f in found.values()} == {"Cannot say: 1 true run finished, and the check needs 20."}
    assert not any(f.passed for f in found.values())


@pytest.mark.parametrize(("shift", "width"), [(0.15, 1.0), (0.0, 1.2), (0.3, 0.95)])
def test_the_distance_is_the_closed_form(shift, width):
    """Of N(0, 1)^3 from N(shift, width^2) x N(0, width^2)^2; their classifier by its definition on a million draws."""
    found = _find(weighted(shift, width, s=300))
    kl = 3 * (math.log(width) + 0.5 / width**2 - 0.5) + 0.5 * (shift / width) ** 2
    assert found["kl"].value == pytest.approx(kl, abs=0.02)
    assert found["distance"].value == pytest.approx(math.sqrt(2 * kl), abs=0.03)
    assert found["distance"].passed == (math.sqrt(2 * kl) < 0.3)
    x = np.random.default_rng(0).standard_normal((10**6, 3))
    centre = np.array([shift, 0, 0])
    ratio = np.exp(0.5 * (x**2).sum(1) - 0.5 * (((x - centre) / width) ** 2).sum(1)) / width**3
    assert found["c2st"].value == pytest.approx(0.5 + np.abs(1 - ratio).mean() / 4, abs=0.004)
    assert not found["kl"].blocking
    assert not found["c2st"].blocking


def test_many_small_shifts_make_a_distance_that_no_single_one_shows():
    """Every parameter is off by 0.18 sd of the true posterior, in three of them: 0.31 in all."""
    material = weighted(0.0, 1.0, s=200)
    x = (material.theta - material.draws.mean(0)) / material.draws.std(0)
    found = _find(replace(material, log_weight=0.18 * x.sum(1)))
    assert found["shift"].passed
    assert not found["distance"].passed
    assert found["distance"].value == pytest.approx(0.18 * math.sqrt(3), abs=0.02)


def test_an_honest_surrogate_fails_in_fewer_than_one_study_of_two_hundred():
    """ln w scatters by 0.2 about the truth at 128 runs, which is a distance of 0.2: 40 studies, none fails."""
    failed = 0
    for seed in range(40):
        material = weighted(0.0, 1.0, s=128, t=2000, seed=seed)
        rough = 0.2 * torch.as_tensor(np.random.default_rng(seed + 10**6).standard_normal(128))
        failed += any(f.blocking and not f.passed for f in _find(replace(material, log_weight=rough)).values())
    assert failed == 0


def test_a_posterior_that_does_not_move_says_so():
    material = weighted(0.0, 1.0)
    still = replace(material, theta=material.theta[:1].expand(200, 3), draws=material.theta[:1].expand(4000, 3))
    assert {f.sentence for f in _find(still).values()} == {
        "Cannot say: all draws of the surrogate posterior are the same."
    }


def test_weights_that_are_nearly_even_carry_no_warning():
    """A tail of shape 0.8 on weights of which none is a tenth above their mean."""
    material = weighted(0.0, 1.0, s=200)
    tail = torch.as_tensor(genpareto.rvs(0.8, size=200, random_state=np.random.default_rng(3)))
    found = _find(replace(material, log_weight=0.1 * tail / tail.max()))["pareto_k"]
    assert found.passed
    assert found.high is None
    assert "but none is more than 1.1 times" in found.sentence
    uneven = _find(replace(material, log_weight=4 * tail / tail.max()))["pareto_k"]
    assert not uneven.passed
