"""Chaotic weather in configs: inference leaves gradients by itself, says why, and finds held-out parameters again."""

from pathlib import Path

import pytest

from emulate.simulators.lorenz96 import Lorenz96
from pipelines import files
from pipelines.config import load_study
from tests.commands import emulate

CONFIG = Path(__file__).parents[2] / "configs" / "lorenz96.yaml"


def test_the_study_is_the_simulator_as_it_stands_and_names_no_method():
    study = load_study(CONFIG)
    assert study.simulator == Lorenz96()
    assert study.infer.method == "auto"


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_weather_is_handed_over_and_recovered(tmp_path):
    """Exit code 0, npe by the derivatives of runs, and 128 truths among the draws of their posteriors as they should lie."""
    code, output = emulate(tmp_path, "run", str(CONFIG), "--set", f"output={tmp_path / 'out'}", "--set", "tracking.uri=off",
                           "--set", "cluster.use=serial")  # fmt: skip
    assert code == 0, output
    chosen = files.read_json(tmp_path / "out" / "infer" / "method.json")
    assert [chosen["asked"], chosen["method"]] == ["auto", "npe"]
    assert "gradients are useless: the derivative of a run" in chosen["reason"]
    assert f"infer.method: auto takes npe: {chosen['reason']}" in output
    found = {
        f["name"]: f for f in files.read_json(tmp_path / "out" / "check" / "findings.json")["emulators"]["average"]
    }
    assert found["recovery.joint"]["passed"], found["recovery.joint"]["sentence"]
    assert found["recovery.joint"]["blocking"]
    parameters = files.read_json(tmp_path / "out" / "infer" / "summary.json")["parameters"]
    for name, truth in (("forcing", 8.0), ("damping", 1.0)):
        assert abs(parameters[name]["mean"] - truth) < 4 * parameters[name]["sd"]
    assert (tmp_path / "out" / "infer" / "picture.png").exists()
