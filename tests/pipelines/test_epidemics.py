"""The epidemic in configs: a hundred runs in rounds give the posterior that long Markov chains on the simulator give."""

import json
from pathlib import Path

import numpy as np
import pytest

from emulate.simulators.lotka_volterra import LotkaVolterra
from emulate.simulators.sir import SIR
from pipelines import engine, files, rounds
from pipelines.config import load_study
from pipelines.terminal import Terminal

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "tests" / "reference" / "epidemics"
STAGES = ["design", "simulate", "train", "validate", "infer", "check"]
QUIET = Terminal(quiet=True)


@pytest.mark.parametrize(("name", "simulator"), [("sir", SIR()), ("lotka_volterra", LotkaVolterra())])
def test_the_studies_in_configs_are_the_tasks_and_say_how_many_runs_they_take(name, simulator):
    study = load_study(ROOT / "configs" / f"{name}.yaml")
    assert study.space == simulator.space
    assert study.simulator.settings() == simulator.settings()
    most = (
        study.design.entry.budget
        + study.design.held_out
        + study.check.importance_runs
        + study.validate.gradient_points
        + 1
    )
    assert f"at most {most}" in (ROOT / "configs" / f"{name}.yaml").read_text().replace("\n# ", " ")
    assert most <= 300


@pytest.mark.slow
def test_the_posterior_of_an_epidemic_is_that_of_chains_on_the_simulator(tmp_path):
    kept = json.loads((REFERENCE / "sir.json").read_text())[1]
    data = tmp_path / "data.csv"
    data.write_text("\n".join(map(repr, kept["data"])) + "\n")
    study = load_study(ROOT / "configs" / "sir.yaml", [
        f"output={tmp_path / 'out'}", "tracking.uri=off", "cluster.use=serial", f"infer.observation={{file: {data}}}"])  # fmt: skip
    engine.run(study, STAGES, QUIET)
    theta = files.read_tensors(tmp_path / "out" / "infer" / "draws.safetensors")["theta"].flatten(0, 1).numpy()
    exact = np.array(kept["mean"]), np.array(kept["sd"])
    assert np.abs((theta.mean(0) - exact[0]) / exact[1]).max() < 0.1
    assert theta.std(0) / exact[1] == pytest.approx(np.ones(2), abs=0.06)
    found = rounds.kept(study)
    assert found[-1]["error"] <= study.design.entry.target
    assert found[-1]["moved"]["shift"] < 0.5
    findings = files.read_json(tmp_path / "out" / "check" / "findings.json")["emulators"]["gp"]
    assert all(f["passed"] for f in findings if f["blocking"])
