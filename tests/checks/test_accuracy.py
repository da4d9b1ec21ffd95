"""Accuracy against a slow twin and numbers that a hand can check."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from emulate.checks.accuracy import Accuracy
from emulate.contracts import Evidence
from emulate.errors import InputError
from emulate.runs import Field, Outputs, Runs
from emulate.space import Parameter, Space, Uniform
from tests.checks.stand_ins import STAND_INS, Prediction, StandIn, held_out

SPACE = Space((Parameter("a", Uniform(0.0, 1.0), "Mpc"),))
OUTPUTS = Outputs((Field("pk", "", True, "k", (0.1, 0.2), "h/Mpc"), Field("slope")))


class Wrong:
    """y = (1, 2, a), off by given amounts: `[n, 3]`."""

    space, outputs = SPACE, OUTPUTS

    def __init__(self, off):
        self.off = torch.as_tensor(off, dtype=torch.float64)

    def predict(self, theta):
        y = torch.cat([torch.ones_like(theta), 2 * torch.ones_like(theta), theta], 1)
        return Prediction(y + self.off, torch.zeros(len(theta), 3, 3, dtype=torch.float64))


def _runs(n: int = 5, outputs: Outputs = OUTPUTS) -> Runs:
    a = np.linspace(0, 1, n)[:, None]
    return Runs.of(SPACE, outputs, a, np.concatenate([0 * a + 1, 0 * a + 2, a], 1))


def _names(findings):
    return {f.name: f for f in findings}


def test_a_run_counts_with_its_largest_error_as_a_fraction_or_in_standard_deviations_of_the_field():
    s = np.std(np.linspace(0, 1, 5), ddof=1)
    off = [[0.001, 0, 0], [0, -0.004, 0], [0, 0, 0.003 * s], [0.01, 0, 0], [0, 0, -0.05 * s]]
    found = _names(Accuracy().find(Evidence(Wrong(off), _runs())))
    assert found["accuracy.median"].value == pytest.approx(0.003)  # of 0.001, 0.002, 0.003, 0.01, 0.05
    assert found["accuracy.p99"].value == pytest.approx(0.05 - 0.04 * 0.04)  # 96 % of the way from the last but one
    assert found["accuracy.p99"].sentence.endswith(
        "The worst error of all is 0.05 standard deviations of its field: slope, in the run at a = 1 Mpc.")  # fmt: skip


def test_the_worst_place_is_named_with_its_coordinate_and_unit():
    off = np.zeros((6, 3))
    off[2, 1] = 0.02
    found = _names(Accuracy().find(Evidence(Wrong(off), _runs(6))))
    said = "The worst error of all is 1 %: pk at k = 0.2 h/Mpc, in the run at a = 0.4 Mpc."
    assert said in found["accuracy.p99"].sentence


def test_agrees_with_a_slow_twin():
    runs, emulator = held_out(), STAND_INS["biased"]
    worst = []
    for theta, y in zip(runs.theta, runs.y):
        mean = emulator.predict(torch.as_tensor(theta)[None]).mean[0].numpy()
        errors = [abs(mean[j] / y[j] - 1) for j in range(8)] + [abs(mean[8] - y[8]) / np.std(runs.y[:, 8], ddof=1)]
        worst.append(max(errors))
    found = _names(Accuracy().find(Evidence(emulator, runs)))
    assert found["accuracy.median"].value == pytest.approx(np.median(worst), rel=1e-9)
    assert found["accuracy.p99"].value == pytest.approx(np.percentile(worst, 99), rel=1e-9)


def test_fields_that_are_not_named_do_not_count():
    off = np.zeros((5, 3))
    off[:, 0] = 0.5
    found = Accuracy(fields=("slope",)).find(Evidence(Wrong(off), _runs()))
    assert [(f.name, f.value, f.passed) for f in found] == [
        ("accuracy.slope.median", 0.0, True), ("accuracy.slope.p99", 0.0, True)]  # fmt: skip
    assert "0 standard deviations of its field or better" in found[0].sentence


def test_an_unknown_field_is_answered_with_the_known_ones():
    expected = "there is no output 'slop'; there are pk, slope. Did you mean \"slope\"?"
    with pytest.raises(InputError, match=f"^{re.escape(expected)}$"):
        Accuracy(fields=("slop",)).find(Evidence(Wrong(np.zeros((5, 3))), _runs()))


def test_a_constant_field_that_is_matched_exactly_has_no_error():
    runs = _runs()
    runs = Runs.of(SPACE, OUTPUTS, runs.theta, np.ones((5, 3)))
    off = np.stack([0 * runs.theta[:, 0], 0 * runs.theta[:, 0] - 1, 1 - runs.theta[:, 0]], 1)
    assert [f.value for f in Accuracy().find(Evidence(Wrong(off), runs))] == [0.0, 0.0]


def test_the_baseline_stands_beside():
    evidence = Evidence(STAND_INS["honest"], held_out(), baseline=StandIn(error=0.0, bias=np.log(1.02)))
    for f in Accuracy().find(evidence):
        assert "The baseline emulator reaches 2 %" in f.sentence
        assert f.passed


def test_few_runs_say_nothing():
    for f in Accuracy().find(Evidence(Wrong(np.zeros((4, 3))), _runs(4))):
        assert f.sentence == "Cannot say: 4 held-out runs finished, and the check needs at least 5."
        assert not f.passed


def test_failed_runs_and_noise_are_told():
    runs = _runs(6)
    y = runs.y.copy()
    y[3] = np.nan
    runs = replace(Runs.of(SPACE, OUTPUTS, runs.theta, y), stochastic=True)
    said = Accuracy().find(Evidence(Wrong(np.zeros((5, 3))), runs))[0].sentence
    assert said.endswith("1 held-out run failed and is not counted. The simulator is stochastic: its own scatter is "
                         "part of these errors. Give this check bounds above it, or name checks without it; coverage and "
                         "calibration judge the noise.")  # fmt: skip


def test_a_curve_of_either_sign_is_measured_by_the_spread_of_the_whole_curve():
    outputs = Outputs((Field("xi", "", False, "r", (1.0, 2.0, 3.0), "Mpc"),))
    a = np.linspace(0, 1, 5)[:, None]
    runs = Runs.of(SPACE, outputs, a, a * [1.0, 10.0, 0.0])
    spread = np.sqrt((np.var(a, ddof=1) * (1 + 100 + 0)) / 3)

    class Off:
        space = SPACE

        def predict(self, theta):
            return Prediction(theta * torch.tensor([1.0, 10.0, 0.0]).double() + 0.01, None)

    assert Accuracy().find(Evidence(Off(), runs))[0].value == pytest.approx(0.01 / spread)
