"""Posterior against Gaussians of known shift and width; standard errors by z-scores, Pareto k by scipy."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import genpareto

from emulate.checks.posterior import Posterior, _compare, _pareto_k
from emulate.contracts import Evidence
from tests.checks.stand_ins import STAND_INS, weighted


def _find(material, **settings):
    found = Posterior(**settings).find(Evidence(STAND_INS["honest"], weighted=material))
    return {f.name.removeprefix("posterior."): f for f in found}


def _many(shift, width, *, s, t=3000, d=3, repeats=200):
    rows = []
    for seed in range(repeats):
        m = weighted(shift, width, s=s, t=t, d=d, seed=1000 + seed)
        (value, error), (ratio, off) = _compare(m.theta.numpy(), m.log_weight.exp().numpy(), m.draws.numpy())
        rows.append([value[0] - shift, error[0], ratio[0] - width, off[0]])
    return np.array(rows)


@pytest.mark.parametrize(("shift", "width", "s"), [(0.2, 1.0, 100), (0.1, 1.1, 60), (0.2, 1.1, 200), (0.0, 1.3, 100)])
def test_standard_errors_cover_the_truth(shift, width, s):
    off, error, ratio, scatter = _many(shift, width, s=s).T
    for miss, stated in ((off, error), (ratio, scatter)):
        inside = (np.abs(miss) < 2 * stated).mean()
        assert inside > 0.95 - 4 * math.sqrt(0.05 * 0.95 / 200)
        assert np.abs(miss.mean()) < 0.5 * stated.mean()  # the bias of a ratio is of order 1 / s
        assert 0.7 < stated.mean() / miss.std() < 1.5


def test_pairing_beats_the_difference_of_two_means():
    """The same true runs, without pairing: the noise is at least four times as large at a shift on the bound."""
    paired, plain = _many(0.2, 1.05, s=100, d=2)[:, 0], []
    for seed in range(200):
        m = weighted(0.2, 1.05, s=100, t=3000, seed=1000 + seed, d=2)
        w = m.log_weight.exp()
        mean = (w[:, None] * m.theta).sum(0) / w.sum()
        plain.append(float((m.draws.mean(0) - mean)[0]))
    assert paired.std() < 0.25 * np.std(plain)


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
    found = _find(replace(material, log_weight=material.log_weight + 0.7 * rough))
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


@pytest.mark.parametrize("k", [0.2, 0.5, 0.9])
def test_pareto_k_is_the_shape_of_the_tail(k):
    w = genpareto.rvs(k, loc=1, size=20000, random_state=np.random.default_rng(1))
    tail = np.sort(w)[-round(3 * math.sqrt(20000)) :]
    judge = genpareto.fit(tail - tail[0], floc=0)[0]  # maximum likelihood on the same tail
    assert abs(_pareto_k(np.log(w)) - k) < 4 * (1 + k) / math.sqrt(len(tail))
    assert abs(_pareto_k(np.log(w)) - judge) < 0.1


def test_pareto_k_sees_the_tail_past_failed_runs():
    log_weight = weighted(0.5, 1.0, s=300).log_weight.numpy()
    failed = np.where(np.arange(300) % 50 == 0, -np.inf, log_weight)
    assert np.isfinite(_pareto_k(failed))
    assert abs(_pareto_k(failed) - _pareto_k(log_weight)) < 0.2
