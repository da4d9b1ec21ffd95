"""The tune in configs, small: a flow of one emission, the response that it teaches, the fit, and true runs that confirm it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import emulate
from emulate.emissions import FlowEmission
from emulate.lund import generate
from emulate.runs import Runs
from emulate.simulators.lund import Lund
from pipelines import engine
from pipelines.config import load_study
from pipelines.terminal import Terminal

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
SMALL = ["tracking.uri=off", "cluster.use=serial", "simulator.events=2000", "design.runs=6", "design.held_out=5",
         "emulators.tune.events=30000", "emulators.tune.degree=3", "emulators.tune.draws=8192", "emulators.tune.flow.epochs=8",
         "emulators.tune.flow.batch=256", "emulators.professor.degree=1", "validate.gradient_points=1", "infer.sampler=laplace",
         "infer.chains=4", "infer.draws=50", "check.recovery=5", "check.confirm=8"]  # fmt: skip
TRUTH = {"a": 0.68, "b": 0.98, "sigma": 0.335}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("hadronization")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        study = load_study("configs/hadronization.yaml", [f"output={out}", *SMALL])
        engine.run(study, study.stages, Terminal(quiet=True))
    return out


def test_the_parameters_come_back(folder):
    found = json.loads((folder / "infer" / "summary.json").read_text())["parameters"]
    for name, truth in TRUTH.items():
        assert abs(found[name]["mean"] - truth) < 4.5 * found[name]["sd"], found[name]
    assert found["sigma"]["sd"] < 0.004, "2,000 events know sigma to 0.002"


def test_true_runs_confirm_it(folder):
    found = json.loads((folder / "check" / "findings.json").read_text())["emulators"]["tune"]
    shift = next(f for f in found if f["name"] == "confirmation.shift")
    assert "true run" in shift["sentence"] or "true runs" in shift["sentence"], shift
    assert {f["name"] for f in found} >= {f"confirmation.shift.{n}" for n in TRUTH}


def test_what_smoothing_would_do_is_advice_where_the_observation_is_smoothed_alike(folder):
    found = json.loads((folder / "check" / "findings.json").read_text())["emulators"]["tune"]
    said = next(f for f in found if f["name"] == "softening.shift")
    assert said["value"] > 0
    assert not said["blocking"]
    assert said["sentence"].endswith("the observation is smoothed alike.")


def test_the_flow_that_it_learnt_makes_events(folder):
    flow = emulate.load(folder / "emulators" / "tune").core.flow
    events = generate(torch.tensor([*TRUTH.values()], dtype=torch.float64), 500, seed=1, emission=FlowEmission(flow))
    assert 5 < float(events.sum(events.charged.double()).mean()) < 9


def test_a_saved_response_builds_no_simulator(tmp_path):
    """A file tells which simulator a recipe learnt from, and must not choose what is made or imported."""
    lund = Lund(events=400, output="means")
    theta = lund.space.from_unit(torch.rand(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    y = torch.stack([lund.run(t, seed=i) for i, t in enumerate(theta)])
    runs = Runs.of(lund.space, lund.outputs, theta.numpy(), y.numpy(), stochastic=True)
    recipe = emulate.build("emulators", {"use": "response", "events": 4000, "degree": 2})
    emulator = emulate.fit(replace(recipe, simulator=lund), runs, seed=0)
    again = emulate.load(emulator.save(tmp_path / "response"))
    assert again.recipe.simulator is None
    assert again.provenance["recipe"]["simulator"]["use"] == "lund"
    assert torch.equal(again.predict(theta).mean, emulator.predict(theta).mean)
