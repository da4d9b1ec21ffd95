"""A study whose simulator fails in a known region and takes longer along one parameter: costs, failures, learning."""

from pathlib import Path

import numpy as np
import pytest

from emulate.feasibility import Feasibility
from emulate.runs import Field, Outputs, Runs
from pipelines import files, hindsight
from pipelines.config import load_study
from pipelines.engine import run as run_stages
from pipelines.report import render
from pipelines.terminal import Terminal
from pipelines.workbench import Workbench
from tests.commands import emulate

STUDY = """
name: steep
seed: 3
parameters:
  a: {uniform: [0, 1], unit: kg}
  b: {uniform: [0, 1]}
simulator:
  use: function
  call: steep_simulator:f
  outputs: [{name: y}]
design: {runs: 48, held_out: 12}
simulate: {require: 0.5}
cluster: {use: serial}
emulators: {gp: {use: gp}, quadratic: {use: polynomial}}
validate: {gradient: {use: finite_difference}}
infer: {likelihood: {use: gaussian, absolute_error: 0.1}}
tracking: {uri: "off"}
"""
SIMULATOR = """
import math, time
def f(p):
    time.sleep(0.002 * math.exp(3 * p["b"]))
    if p["a"] > 0.75:
        raise ValueError("too heavy")
    return math.exp(p["a"]) + p["b"] ** 3
"""


def written(folder: Path) -> Path:
    (folder / "study.yaml").write_text(STUDY)
    (folder / "steep_simulator.py").write_text(SIMULATOR)
    return folder


@pytest.fixture
def fresh(tmp_path) -> Path:
    return written(tmp_path)


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> tuple[Path, str]:
    folder = written(tmp_path_factory.mktemp("done"))
    assert emulate(folder, "design", "study.yaml")[0] == 0
    code, output = emulate(folder, "simulate", "study.yaml")
    assert code == 0, output
    return folder, output


def test_a_plan_without_a_run_says_how_to_learn_its_cost_and_writes_nothing(fresh):
    code, output = emulate(fresh, "simulate", "study.yaml", "--dry-run")
    assert code == 0
    assert "60 runs to do, 0 stored; their cost is not known yet: `emulate costs STUDY --pilot 5`" in output
    assert not (fresh / "runs").exists()


def test_a_pilot_is_runs_of_the_campaign(fresh):
    code, output = emulate(fresh, "costs", "study.yaml", "--pilot", "6")
    assert code == 0
    assert "To do: " in output
    assert "core-seconds (" in output
    summary = files.read_json(fresh / "runs" / "steep" / "costs" / "summary.json")
    assert summary["products"]["y"]["measured"] == 6
    assert summary["products"]["y"]["todo"] == 54
    low, middle, high = (summary["work_seconds"][k] for k in ("low", "middle", "high"))
    assert 0 < low < middle < high
    _, plan = emulate(fresh, "simulate", "study.yaml", "--dry-run")
    assert "54 runs to do, 6 stored; " in plan
    assert " core-seconds (" in plan
    assert " on 1 worker" in plan or " on 2 workers" in plan


def test_costs_of_a_finished_campaign_name_the_parameter_that_costs(done):
    folder, _ = done
    code, output = emulate(folder, "costs", "study.yaml")
    assert code == 0
    assert "most of all b changes it" in output
    assert "Every run is stored; nothing is to do." in output
    summary = files.read_json(folder / "runs" / "steep" / "costs" / "summary.json")
    assert 3 < summary["products"]["y"]["slopes"]["b"] < 40  # e^2.7 = 15 where sleep is exact
    assert (folder / "runs" / "steep" / "costs" / "y.png").read_bytes().startswith(b"\x89PNG")


def test_a_campaign_says_where_its_runs_fail_and_keeps_the_classifier(done):
    folder, output = done
    assert " of 60 runs failed. Failure is likelier than success in " in output
    assert "a above 0.7" in output
    where = Feasibility.load(folder / "runs" / "steep" / "simulate" / "feasibility")
    assert where.probability([[0.5, 0.5], [0.95, 0.5]]).tolist() == pytest.approx([1, 0], abs=0.1)
    listed = {f["name"]: f["caption"] for f in files.read_json(folder / "runs" / "steep" / "simulate" / "figures.json")}
    assert listed["feasibility"].startswith("Where the simulator runs. ")
    assert listed["costs"].startswith("What runs cost. A run takes about ")
    assert 'id="figure-simulate-feasibility"' in render(folder / "runs" / "steep")


def test_a_campaign_whose_failures_are_mended_forgets_where_it_failed(fresh, monkeypatch):
    monkeypatch.chdir(fresh)
    u = np.linspace(0.02, 0.98, 20)[:, None].repeat(2, 1)
    outputs = Outputs((Field("y"),))
    with Workbench(load_study(fresh / "study.yaml", [f"output={fresh / 'out'}"]), Terminal(quiet=True)) as bench:
        space = bench.study.space
        failing, mended = (Runs.of(space, outputs, u, np.where(u[:, :1] < edge, u[:, :1], np.nan)) for edge in (0.6, 2))
        assert set(hindsight.figures(bench, failing, failing)) == {"feasibility"}  # nobody took the time of these runs
        assert (fresh / "out" / "simulate" / "feasibility").exists()
        assert hindsight.restriction(bench) is None  # nobody asked for it
        asking = load_study(fresh / "study.yaml", [f"output={fresh / 'out'}", "infer.feasible=true"])
        with Workbench(asking, Terminal(quiet=True)) as other:
            assert hindsight.restriction(other)(space.pack([[0.9, 0.9]])).exp() < 0.1
        assert hindsight.figures(bench, mended, mended) == {}
        assert not (fresh / "out" / "simulate" / "feasibility").exists()
        hindsight.figures(bench, failing.failed(), failing.failed())
        assert not (fresh / "out" / "simulate" / "feasibility").exists()


def test_a_learning_curve_of_the_study(done):
    folder, _ = done
    code, output = emulate(folder, "learning-curve", "study.yaml", "--target", "1e-9", "--fits", "1")
    assert code == 0, output
    assert "median error of gp on " in output
    assert "to be run" in output
    assert " % needs " in output
    summary = files.read_json(folder / "runs" / "steep" / "learning_curve" / "summary.json")
    by_size = {n: np.mean([f["median"] for f in summary["fits"] if f["runs"] == n]) for n in
               {f["runs"] for f in summary["fits"]}}  # fmt: skip
    assert len(by_size) >= 3
    assert by_size[max(by_size)] < by_size[min(by_size)]
    assert summary["exponent"]["middle"] > 1  # a GP on a smooth function
    assert (folder / "runs" / "steep" / "learning_curve" / "learning_curve.png").exists()
    assert 'id="figure-learning_curve-learning_curve"' in render(folder / "runs" / "steep")


def test_a_learning_curve_of_another_emulator(done):
    folder, _ = done
    code, output = emulate(folder, "learning-curve", "study.yaml", "--emulator", "quadratic", "--target", "0.5")
    assert code == 0, output
    assert "median error of quadratic on " in output
    assert "50 % needs no more runs" in output


@pytest.mark.parametrize(
    ("words", "said"),
    [(("--emulator", "quadratc"), "--emulator must be one of gp, quadratic. Got 'quadratc'. Did you mean \"quadratic\"?"),
     (("--target", "0"), "--target must be an error above 0, 0.01 for 1 %. Got 0.0.")],
)  # fmt: skip
def test_a_wrong_option_is_said(done, words, said):
    code, output = emulate(done[0], "learning-curve", "study.yaml", *words)
    assert code == 2
    assert said in output


def test_a_learning_curve_before_the_runs_says_what_to_do(fresh):
    code, output = emulate(fresh, "learning-curve", "study.yaml")
    assert code == 2
    assert "points.csv is missing" in output


@pytest.mark.slow
def test_a_posterior_keeps_to_where_the_simulator_runs(fresh):
    """Data that any `a` explains: without the failed runs the posterior fills the box, with them it ends at 0.75."""
    shares = {}
    for feasible in ("false", "true"):
        changes = [f"infer.feasible={feasible}", "infer.likelihood.absolute_error=1000", "infer.draws=200",
                   "infer.observation.parameters={a: 0.4, b: 0.5}", "train.champion=quadratic"]  # fmt: skip
        words = [w for c in changes for w in ("--set", c)]
        for stage in ("design", "simulate", "train", "validate", "infer"):
            code, output = emulate(fresh, stage, "study.yaml", *words)
            assert code in (0, 1), output
        draws = files.read_tensors(fresh / "runs" / "steep" / "infer" / "draws.safetensors")["theta"]
        shares[feasible] = float((draws[..., 0] > 0.8).double().mean())
    assert shares["false"] == pytest.approx(0.2, abs=0.06)
    assert shares["true"] < 0.03


def test_runs_with_a_jacobian_are_costed_by_themselves(tmp_path):
    text = "name: line\nsimulator: {use: linear_gaussian, outputs_count: 3}\ndesign: {runs: 8, held_out: 4}\n"
    text += "simulate: {jacobians: auto}\ncluster: {use: serial}\nemulators: {quadratic: {use: polynomial}}\n"
    text += "infer: {likelihood: {use: gaussian, absolute_error: 0.2}}\ntracking: {uri: 'off'}\n"
    (tmp_path / "study.yaml").write_text(text)
    study = load_study(tmp_path / "study.yaml", [f"output={tmp_path / 'out'}"])
    run_stages(study, ["design"], Terminal(quiet=True))
    code, output = emulate(tmp_path, "costs", "study.yaml", "--pilot", "2", "--set", f"output={tmp_path / 'out'}")
    assert code == 0, output
    products = files.read_json(tmp_path / "out" / "costs" / "summary.json")["products"]
    assert {k: (v["measured"], v["todo"]) for k, v in products.items()} == {"tangent": (2, 6), "y": (2, 2)}
