"""A posterior that leans on where the simulator fails: what the check stage makes of true runs that fail."""

import re

import pytest

from pipelines import files
from tests.pipelines.test_stages import emulate

SIMULATOR = """
def disc(theta):
    a, b = theta["a"], theta["b"]
    if (a - 0.5) ** 2 + (b - 0.5) ** 2 > 0.16:
        raise ValueError("the solver diverged")
    return [a + 0.3 * b, a * b, a - b * b]
"""
pytestmark = pytest.mark.slow
STUDY = """
name: disc
seed: 3
parameters: {a: {uniform: [0, 1]}, b: {uniform: [0, 1]}}
simulator: {use: function, call: "disc_of_the_checks:disc", outputs: [{name: y, coordinate: i, at: [1, 2, 3]}]}
design: {runs: 64, held_out: 20}
simulate: {require: 0.3}
cluster: {use: serial}
emulators: {quadratic: {use: polynomial}}
train: {champion: quadratic, baseline: null}
validate: {gradient: {use: finite_difference}, gradient_points: 3}
infer:
  observation: {parameters: {a: 0.88, b: 0.5}, noise: false}
  likelihood: {use: gaussian, absolute_error: 0.05}
  sampler: {use: laplace}
  draws: 200
  chains: 8
check: {importance_runs: 100, recovery: 10}
tracking: {uri: "off"}
"""


@pytest.fixture(scope="module")
def findings(tmp_path_factory):
    """Findings of the check stage by name, where a failure says nothing and where it speaks against the parameters."""
    folder = tmp_path_factory.mktemp("disc")
    (folder / "disc_of_the_checks.py").write_text(SIMULATOR)
    (folder / "study.yaml").write_text(STUDY)
    made = {}
    for feasible in ("false", "true"):
        code, output = emulate(folder, "run", "study.yaml", "--set", f"infer.feasible={feasible}")
        assert code == 1, output
        stored = files.read_json(folder / "runs" / "disc" / "check" / "findings.json")
        made[feasible] = {f["name"]: f for f in stored["emulators"]["quadratic"]}
    return made


def test_the_mass_where_no_run_finishes_fails_the_study(findings):
    """The emulator is exact; the share is that of the 100 true runs which failed, to three standard errors."""
    found = findings["false"]["feasible.share"]
    assert found["blocking"]
    assert not found["passed"]
    failed = int(re.search(r"(\d+) true runs failed", findings["false"]["posterior.shift"]["sentence"])[1]) / 100
    assert failed > 0.1
    assert found["value"] == pytest.approx(failed, abs=3 * (failed * (1 - failed) / 100) ** 0.5)
    assert findings["true"]["feasible.share"]["value"] < found["value"]


def test_a_failure_that_says_nothing_is_left_out_and_one_that_speaks_against_is_not(findings):
    shift = findings["false"]["posterior.shift"]
    assert abs(shift["value"]) < 1e-6
    assert "expected from where earlier runs failed) and are left out on both sides (a = " in shift["sentence"]
    assert findings["false"]["posterior.ess"]["value"] == pytest.approx(1, abs=1e-6)
    assert "and carry no weight (a = " in findings["true"]["posterior.shift"]["sentence"]


def test_recovery_says_of_how_many_held_out_runs_no_observation_was_made(findings):
    said = findings["false"]["recovery.joint"]["sentence"]
    assert "of 8 held-out observations" in said
    assert " 12 true runs failed (" in said
    assert said.endswith(" expected from where earlier runs failed) and made no observation.")
