"""`emulate verify` on simulators that are right, wrong by one per cent, kinked, noisy and failing: verdicts and what is kept."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from emulate.store import RunStore
from pipelines.cli import app
from pipelines.config import load_study
from pipelines.engine import _lock
from pipelines.journal import Journal
from pipelines.report import render

STUDY = """
name: proof
seed: 3
simulator: {SIMULATOR}
parameters: {a: {uniform: [0.5, 1]}, b: {log_uniform: [0.1, 10]}}
design: {runs: 8, held_out: 4}
cluster: {use: serial}
emulators: {quadratic: {use: polynomial}}
infer: {likelihood: {use: gaussian, absolute_error: 0.1}}
tracking: {uri: "off"}
"""
CODE = """
import numpy as np
import torch
from dataclasses import dataclass
from typing import ClassVar
from emulate.contracts import Simulator, Truth
from emulate.runs import Field, Outputs

def smooth(p):
    return [np.sin(p["a"]) * p["b"], p["a"] ** 3]

def kinked(p):
    return abs(np.sin(40 * p["a"])) + abs(np.sin(500 * np.log(p["b"]))) + np.floor(3e7 * p["a"]) / 3e5

def noisy(p, seed):
    e = np.random.default_rng(seed).standard_normal(2)
    return [p["a"] * (p["b"] + e[0]), p["a"] + e[1]]

def fails(p):
    raise ValueError("no universe")

@dataclass(frozen=True, kw_only=True)
class Graph(Simulator):
    differentiable: ClassVar[bool] = True
    noise: float = 0.0

    @property
    def outputs(self):
        return Outputs((Field("x"), Field("y")))

    @property
    def stochastic(self):
        return self.noise > 0

    def run(self, theta, *, seed):
        e = torch.randn(2, generator=torch.Generator().manual_seed(seed)).double()
        return torch.stack([torch.sin(theta[0]) * theta[1], theta[0] ** 3]) * (1 + self.noise * e)

@dataclass(frozen=True, kw_only=True)
class Own(Graph):
    share: float = 0.0

    def jacobian(self, theta, *, seed):
        y = self.run(theta, seed=seed)
        J = torch.func.jacrev(lambda t: self.run(t, seed=seed))(theta)
        return y, J * (1 + self.share)

class Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        return 3 * ctx.saved_tensors[0] ** 2 * g

@dataclass(frozen=True, kw_only=True)
class Adjoint(Graph):
    def run(self, theta, *, seed):
        return Cube.apply(theta)

@dataclass(frozen=True, kw_only=True)
class Chaotic(Graph):
    pathologies: ClassVar[tuple[str, ...]] = ("chaos",)

    def run(self, theta, *, seed):  # the logistic map: a small change doubles at every turn
        x = 0.3 + 0.1 * theta / 10
        for _ in range(40):
            x = 4 * x * (1 - x)
        return x

@dataclass(frozen=True, kw_only=True)
class Known(Graph):
    third: float = 0.125

    def truths(self):
        cube = lambda: float(self.run(torch.tensor([0.5, 1.0]).double(), seed=0)[1])
        return Truth("a half cubed", cube, self.third, 1e-9, "Euclid"),
"""


def function(name: str, more: str = "") -> str:
    outputs = {"kinked": "[{name: q}]", "fails": "[{name: q}]"}.get(name, "[{name: q}, {name: r}]")
    return f"{{use: function, call: 'proved:{name}', outputs: {outputs}{more}}}"


@pytest.fixture
def emulate(tmp_path, monkeypatch):
    """A function that writes the study of a simulator and runs `emulate verify` on it: exit code, output."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "proved", raising=False)
    (tmp_path / "proved.py").write_text(CODE)

    def call(simulator: str, *words: str) -> tuple[int, str]:
        Path("study.yaml").write_text(STUDY.replace("{SIMULATOR}", simulator))
        result = CliRunner().invoke(app, ["verify", "study.yaml", *words])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.stdout if "--json" in words else " ".join(
            (result.output + result.stderr).split()
        )

    yield call
    sys.modules.pop("proved", None)


def values(output: str) -> dict[str, dict]:
    return {f["name"]: f for f in json.loads(output)["findings"]}


def test_a_graph_is_held_against_its_own_forward_mode(emulate):
    code, output = emulate("{use: 'proved:Graph'}", "--json", "--points", "2")
    found = values(output)
    assert code == 0
    assert list(found) == ["taylor", "dot_product"]
    assert found["taylor"]["value"] == pytest.approx(2, abs=0.05)
    assert found["dot_product"]["value"] < 1e-14
    assert "J by reverse, at 2 points." in found["taylor"]["sentence"]
    code, output = emulate("{use: 'proved:Graph'}", "--points", "2")
    assert "proof: derivatives of proved:Graph" in output
    assert "dot_product │" in output
    assert "by forward mode and <v, J^T w> by reverse mode agree" in output


def test_an_adjoint_of_its_own_alone_is_held_against_runs(emulate):
    """A backward pass by hand has no forward mode beside it: that is said, and is no failure."""
    code, output = emulate("{use: 'proved:Adjoint'}", "--points", "1")
    assert (code, "taylor │" in output, "dot_product │" in output) == (0, True, False)
    assert "no dot product, for the simulator has an adjoint of its own" in output


def test_what_chaos_hides_is_said_and_fails(emulate):
    code, output = emulate("{use: 'proved:Chaotic'}", "--json", "--points", "1")
    told = values(output)["taylor"]
    assert (code, told["passed"], told["blocking"]) == (1, False, True)
    assert "a right J fails too; try a run short of chaos" in told["sentence"]


@pytest.mark.parametrize("share", [0.01, 0.0])
def test_a_jacobian_of_its_own_that_is_wrong_by_one_per_cent_fails(emulate, share):
    code, output = emulate(f"{{use: 'proved:Own', share: {share}}}", "--json", "--points", "1")
    found = values(output)
    assert code == (1 if share else 0)
    assert [f["passed"] for f in found.values()] == 2 * [share == 0]
    assert json.loads(output)["passed"] == (share == 0)
    if share:
        assert found["taylor"]["value"] == pytest.approx(1, abs=0.1)
        assert "J by simulator" in found["taylor"]["sentence"]
        assert "must agree" in found["dot_product"]["sentence"]


def test_what_is_known_of_a_simulator_stands_beside(emulate):
    code, output = emulate("{use: 'proved:Known'}", "--points", "1")
    assert code == 0, output
    for part in ("what is known of proved:Known", "truth.1", "a half cubed", "0.125 ± 1e-09", "Euclid"):
        assert part in output
    code, output = emulate("{use: 'proved:Known', third: 0.3}", "--json", "--points", "1")
    assert code == 1
    said = values(output)["truth.1"]
    assert said["sentence"] == "a half cubed: 0.125; it must be 0.3 within 1e-09 (Euclid)."
    assert [said["low"], said["high"]] == pytest.approx([0.3, 0.3])


def test_what_can_only_be_run_is_held_against_differences(emulate):
    code, output = emulate(function("smooth"), "--json", "--points", "1")
    found = values(output)
    assert code == 0
    assert list(found) == ["taylor"]
    assert "J by finite_difference" in found["taylor"]["sentence"]
    code, output = emulate(function("kinked"), "--points", "1")
    assert code == 1
    assert "taylor │" in output
    assert "FAILED" in output


def test_error_bars_of_what_is_random(emulate):
    code, output = emulate(function("noisy", ", stochastic: true"), "--json", "--points", "1", "--repeats", "20")
    found = values(output)
    assert code == 0, output
    assert list(found) == ["consistency", "coverage", "spread"]
    assert "over 4 seeds, 20 estimates at 1 point." in found["spread"]["sentence"]


@pytest.mark.slow
def test_a_wrong_derivative_of_what_is_random(emulate):
    code, output = emulate("{use: 'proved:Own', noise: 0.1, share: 0.01}", "--json", "--points", "1", "--repeats", "20")
    found = values(output)
    assert code == 1
    assert list(found) == ["taylor", "dot_product", "consistency", "coverage", "spread"]
    assert [found[n]["passed"] for n in ("taylor", "dot_product", "coverage", "spread")] == [False, False, True, True]


def test_runs_are_made_once_elsewhere_and_the_journal_holds_what_mlflow_shows(emulate):
    emulate("{use: 'proved:Graph'}", "--points", "1")
    folder = Path("runs/proof")
    store = RunStore(folder / "store")
    keys = store.keys()
    assert len(keys) == 17 + 2  # a ladder, and two ways to differentiate at its foot
    assert os.getpid() not in {store.read(k).about["pid"] for k in keys}
    events = [e for _, e in Journal(folder / "journal.jsonl").read()]
    kinds = [e["event"] for e in events]
    inner = ["scope_start", "figure", "finding", "finding", "params", "metrics", "artifact", "scope_end"]
    assert kinds == ["run_start", *inner, "run_end"]
    assert {e["scope"] for e in events[1:-1]} == {"verify"}
    assert events[3]["finding"]["name"] == "taylor"
    assert events[3]["finding"]["passed"] is True
    page = render(folder)
    assert 'id="figure-verify-remainders"' in page
    assert "derivative: The remainder of the linear model falls as h^2.0" in page
    first, times = (folder / "verify/findings.json").read_text(), [store.read(k).about["time"] for k in keys]
    emulate("{use: 'proved:Graph'}", "--points", "1")
    assert [store.read(k).about["time"] for k in keys] == times
    assert (folder / "verify/findings.json").read_text() == first
    assert store.keys() == keys
    # a later one stands in the run that is there
    assert [e["event"] for _, e in Journal(folder / "journal.jsonl").read()].count("run_start") == 1


@pytest.mark.slow
def test_findings_reach_mlflow(emulate, tmp_path):
    code, _ = emulate("{use: 'proved:Graph'}", "--points", "1", "--set", "tracking.uri=sqlite:///mlflow.db")
    assert code == 0
    ask = ("from mlflow.tracking import MlflowClient as C\n"
           "c = C('sqlite:///mlflow.db'); e = c.get_experiment_by_name('proof')\n"
           "print({r.data.tags['emulate.scope']: dict(r.data.metrics) for r in c.search_runs([e.experiment_id])})")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True, cwd=tmp_path)
    metrics = ast.literal_eval(done.stdout.strip().splitlines()[-1])
    assert metrics["verify"]["taylor/passed"] == 1
    assert metrics["verify"]["dot_product/high"] == 1e-12
    assert metrics["/"]["taylor"] == pytest.approx(2, abs=0.05)


def test_what_cannot_be_is_said(emulate):
    code, output = emulate(function("fails"), "--points", "1")
    assert code == 3
    assert (
        "verify needs one point of 1 at which every run finished. Got none, first: error: ValueError: no universe."
        in output
    )
    code, output = emulate(function("smooth"), "--repeats", "3")
    assert code == 2
    assert "--repeats must be 20 or more" in output
    with _lock(load_study(Path("study.yaml")).folder):
        code, output = emulate(function("smooth"))
    assert code == 2
    assert "another `emulate` is at work in" in output
