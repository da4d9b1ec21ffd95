"""Gradient against derivatives that are wrong by a known amount."""

import math
import re

import numpy as np
import pytest
import torch

from emulate.checks.gradient import Gradient
from emulate.contracts import Evidence, Jacobians
from emulate.runs import Field, Outputs
from emulate.space import LogUniform, Parameter, Space, Uniform
from tests.checks.stand_ins import STAND_INS, Prediction, jacobians

A, B = Parameter("a", Uniform(0.0, 1.0)), Parameter("b", Uniform(10.0, 30.0))
SPACE = Space((A, B, Parameter("c", LogUniform(1, 10))))
OUTPUTS = Outputs((Field("pk", "", True, "k", (0.1, 0.2, 0.3)), Field("slope")))


class Given:
    """An emulator with given values `[g, m]` and derivatives `[g, m, d]`."""

    space, outputs = SPACE, OUTPUTS

    def __init__(self, y, j):
        self.y, self.j = y, j

    def predict(self, theta):
        return Prediction(self.y, torch.zeros(len(theta), 4, 4, dtype=torch.float64))

    def jacobian(self, theta):
        return self.j


def _case(g: int, *, wrong=0.0, noise=0.0, seed=0):
    """The emulator's derivative is 1 + wrong times the truth; `noise` is a share of its rms over the outputs."""
    rng = np.random.default_rng(seed)
    theta = SPACE.from_unit(torch.as_tensor(rng.random((g, 3))))
    y = torch.as_tensor(np.exp(rng.standard_normal((g, 4))))
    exact = torch.as_tensor(rng.standard_normal((g, 4, 3)))
    unit = torch.cat([y[:, :3], torch.ones(g, 1)], 1)[:, :, None]
    error = noise * unit * (exact / unit).square().mean(1, keepdim=True).sqrt()
    measured = exact + error * torch.as_tensor(rng.standard_normal(exact.shape))
    return Evidence(Given(y, exact * (1 + wrong)), jacobians=Jacobians(theta, y, measured, error))


def _names(findings):
    return {f.name: f for f in findings}


@pytest.mark.parametrize("wrong", [0.003, -0.03, 1.0])
def test_an_exact_simulator_shows_the_error_as_it_is(wrong):
    found = _names(Gradient().find(_case(5, wrong=wrong)))
    for name in ("", ".a", ".b", ".c"):
        assert found[f"gradient.error{name}"].value == pytest.approx(abs(wrong), rel=1e-9)
    assert found["gradient.cosine"].value == pytest.approx(1, abs=1e-12)  # parallel, only too long
    assert found["gradient.error"].passed is (abs(wrong) <= 0.01)


def test_noise_of_the_simulator_never_flatters():
    """As much noise as error, seen through four outputs: between the error and the root of their squares' sum."""
    finding = Gradient(error=0.1).find(_case(400, wrong=0.05, noise=0.05))[0]
    assert 0.05 < finding.value < 0.05 * math.sqrt(2) * 1.05
    assert re.search(r"; the simulator's own standard error of 4\.\d+ % is part of it\)\.$", finding.sentence)


def test_noise_above_the_bound_never_passes_and_asks_for_more_runs():
    evidence = _case(50)
    exact = evidence.jacobians
    blurred = Jacobians(exact.theta, exact.y, exact.value, 0.03 * exact.value.abs())
    finding = Gradient().find(Evidence(evidence.emulator, jacobians=blurred))[0]
    assert math.isnan(finding.value)  # no difference was seen, but none could have been
    assert not finding.passed
    assert finding.sentence.endswith("above the bound of 1 %; more runs are needed.")
    assert "Cannot say more: with respect to a, b and c the standard error" in finding.sentence


def test_an_error_beyond_the_noise_fails_with_its_size():
    finding = Gradient().find(_case(50, wrong=0.5, noise=0.03))[0]
    assert finding.value == pytest.approx(0.5, rel=0.05)
    assert not finding.passed


def test_the_cosine_is_of_the_worst_point():
    evidence = _case(6)
    j = evidence.emulator.j.clone()
    j[4] = -j[4]
    evidence = Evidence(Given(evidence.emulator.y, j), jacobians=evidence.jacobians)
    found = _names(Gradient().find(evidence))
    assert found["gradient.error"].value == 0  # five of six points are right
    assert found["gradient.cosine"].value == pytest.approx(-1)
    assert f"a = {float(evidence.jacobians.theta[4, 0]):.4g}" in found["gradient.cosine"].sentence


def test_units_of_a_parameter_do_not_matter():
    """The same derivative in other units, and a logarithmic prior in place of a flat one in the logarithm."""
    evidence = _case(7, wrong=0.0, seed=2)
    known, wrong = evidence.jacobians, evidence.emulator.j.clone()
    wrong[:, :, 0] *= 1.2
    first = _names(Gradient().find(Evidence(Given(known.y, wrong), jacobians=known)))

    space = Space((Parameter("a", Uniform(0.0, 1000.0)), B, Parameter("c", Uniform(0.0, math.log(10)))))
    scale = torch.tensor([1e-3, 1.0, 1.0], dtype=torch.float64).expand(7, 1, 3).clone()
    scale[:, 0, 2] = known.theta[:, 2]  # dy/d ln c = c dy/dc
    theta = torch.stack([known.theta[:, 0] * 1000, known.theta[:, 1], known.theta[:, 2].log()], 1)
    other = Given(known.y, wrong * scale)
    other.space = space
    known = Jacobians(theta, known.y, known.value * scale, known.standard_error * scale)
    second = _names(Gradient().find(Evidence(other, jacobians=known)))
    for name, f in first.items():
        assert second[name].value == pytest.approx(f.value, rel=1e-9)


def test_a_parameter_that_hardly_moves_the_outputs_is_measured_against_the_whole():
    evidence = _case(5)
    known = evidence.jacobians
    value, ours = known.value.clone(), known.value.clone()
    value[:, :, 1] *= 1e-9
    ours[:, :, 1] *= 3e-9
    known = Jacobians(known.theta, known.y, value, known.standard_error)
    finding = _names(Gradient().find(Evidence(Given(known.y, ours), jacobians=known)))["gradient.error.b"]
    assert 0 < finding.value < 1e-5
    said = "At 5 of them it hardly moves the outputs, and the error is relative to 1 % of the whole derivative."
    assert finding.sentence.endswith(said)


def test_right_in_value_is_not_right_in_gradient():
    finding = Gradient().find(Evidence(STAND_INS["wrong_gradient"], jacobians=jacobians()))[0]
    assert finding.value > 0.02
    assert "is worst with respect to omega_m: off by" in finding.sentence


def test_few_points_say_nothing():
    for f in Gradient().find(_case(2)):
        assert f.sentence == "Cannot say: derivatives at 2 points were given, and the check needs at least 3."
        assert not f.passed


def test_a_constant_factor_in_value_is_no_error_of_a_logarithmic_derivative():
    evidence = _case(5)
    known = evidence.jacobians
    factor = torch.tensor([1.1, 1.1, 1.1, 1.0], dtype=torch.float64)  # of the positive field only
    finding = Gradient().find(Evidence(Given(known.y * factor, known.value * factor[:, None]), jacobians=known))[0]
    assert finding.value == pytest.approx(0, abs=1e-12)
