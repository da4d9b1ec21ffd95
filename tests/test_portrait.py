"""An emulator in a few lines: every parameter, output and unit is there, and the findings that failed."""

import math

import numpy as np
import pytest

import emulate
from emulate.contracts import Finding
from emulate.loading import keep

SPACE = emulate.Space(
    (emulate.Parameter("a", emulate.Uniform(0, 1), "km/s"), emulate.Parameter("b", emulate.Normal(0, 2)))
)
OUTPUTS = emulate.Outputs(
    (emulate.Field("y", "K"), emulate.Field("pk", "Mpc3", coordinate="k", at=(0.1, 0.25), at_unit="h/Mpc"))
)
ASKED = [
    "parameter a in km/s: Uniform(low=0, high=1)",
    "parameter b: Normal(mean=0, sd=2)",
    "output y in K: a number",
    "output pk in Mpc3: 2 numbers along k = 0.1 to 0.25 h/Mpc",
]


@pytest.fixture
def emulator():
    theta = np.random.default_rng(1).random((20, 2))
    y = np.stack([theta[:, 0], theta[:, 1], theta.prod(1)], 1)
    y[3] = np.nan  # a failed run teaches nothing, and is not counted
    runs = emulate.Runs.of(SPACE, OUTPUTS, theta, y)
    return emulate.fit(emulate.build("emulators", "polynomial"), runs, seed=0)


def test_what_nobody_checked_says_so(emulator):
    assert emulator.extra_repr().splitlines() == [
        "recipe: polynomial, fitted to 19 runs", *ASKED, "checks: none has looked at it"]  # fmt: skip


def test_failed_findings_come_with_their_bounds_and_advice_is_left_out(emulator, tmp_path):
    found = [Finding("accuracy.median", 0.002, None, 0.0005, "."), Finding("posterior.width", math.nan, 0.9, 1.1, "."),
             Finding("coverage.interval", 0.95, 0.9, 0.99, "."),
             Finding("tarp.advice", 9.0, None, 1.0, ".", blocking=False)]  # fmt: skip
    keep(emulator.save(tmp_path / "e"), found, {})
    assert emulate.load(tmp_path / "e").extra_repr().splitlines()[-1] == (
        "checks: 1 of 3 findings passed; accuracy.median is 0.002, and must be <= 0.0005; posterior.width is not known, and "
        "must be 0.9 to 1.1")  # fmt: skip


def test_it_is_what_print_shows(emulator):
    shown = [line.strip() for line in str(emulator).splitlines()]
    assert shown[1:7] == emulator.extra_repr().splitlines()
