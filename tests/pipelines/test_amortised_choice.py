"""`infer.method: auto` on simulators of each kind: what it takes, why, and that it costs no run where none is needed."""

import numpy as np
import pytest
import torch

from pipelines import amortised_choice as choice
from pipelines import files
from pipelines.config import load_study
from pipelines.terminal import Terminal
from pipelines.workbench import Workbench
from tests.commands import emulate

STUDY = """\
name: kind
seed: 3
parameters: {{a: {{uniform: [0, 1]}}}}
simulator:
  use: function
  call: kinds:{name}
  argument: keywords
  outputs: [{{name: y, coordinate: t, at: [1, 2, 3]}}]
design: {{runs: 40, held_out: 30}}
cluster: {{use: serial}}
emulators: {{gp: }}
validate: {{gradient_points: 1}}
infer: {{method: auto, observation: {{held_out: 1}}, likelihood: {{use: gaussian, absolute_error: 0.05}}}}
checks: {{accuracy: {{use: accuracy, median: 1.0, p99: 10.0}}}}
tracking: {{uri: 'off'}}
output: out_{name}
"""
KINDS = '''\
"""Simulators of three kinds."""

import numpy as np


def smooth(a):
    return np.sin(np.array([1.0, 2.0, 3.0]) * a)


def stairs(a):
    return np.floor(7 * a + np.array([0.0, 0.3, 0.6])) / 2


def chaotic(a):
    x, seen = 0.3 + 0.1 * a, []
    for step in range(90):
        x = 3.99 * x * (1 - x)
        if step in (70, 80, 89):
            seen.append(x)
    return np.array(seen)


def weather(a, seed):
    x, seen = np.random.default_rng(seed).uniform(0.2, 0.4), []
    for step in range(300):
        x = (3.8 + 0.19 * a) * x * (1 - x)
        seen.append(x)
    seen = np.array(seen[100:])
    return np.array([seen.mean(), seen.var(), (seen[1:] * seen[:-1]).mean()])


def noisy(a, seed):
    return np.sin(np.array([1.0, 2.0, 3.0]) * a) + 0.2 * np.random.default_rng(seed).normal(size=3)
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "kinds.py").write_text(KINDS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _chosen(folder, name: str, *, stochastic: bool = False, error: float = 0.05) -> tuple[dict, int]:
    """What is written of the choice, and how many runs it took."""
    path = folder / f"{name}.yaml"
    text = STUDY.format(name=name).replace("absolute_error: 0.05", f"absolute_error: {error}")
    path.write_text(text.replace("keywords", "keywords\n  stochastic: true") if stochastic else text)
    for stage in ("design", "simulate", "train", "validate"):
        code, output = emulate(folder, stage, path.name)
        assert code in (0, 1), output  # 1: an emulator of chaos fails its checks
    study = load_study(path)
    runs = folder / f"out_{name}" / "store" / "runs"
    before = len(list(runs.glob("*/*")))
    with Workbench(study, Terminal(quiet=True)) as bench:
        taken = choice.choose(bench, torch.from_numpy(bench.runs_of("held_out").y[1]))
    written = files.read_json(folder / f"out_{name}" / "infer" / "method.json")
    assert written["method"] == taken == choice.method(study)
    assert written["asked"] == "auto"
    return written, len(list(runs.glob("*/*"))) - before


def test_a_smooth_simulator_that_is_foretold_keeps_its_likelihood_at_no_run(folder):
    """Its errors are told in units of the observation's."""
    found, runs = _chosen(folder, "smooth")
    assert found["method"] == "likelihood"
    assert "gp foretells held-out runs to" in found["reason"]
    assert runs == 0
    with Workbench(load_study(folder / "smooth.yaml"), Terminal(quiet=True)) as bench:
        held_out = bench.runs_of("held_out")
        mean = bench.emulator("gp").predict(torch.from_numpy(held_out.theta)).mean.detach().numpy()
        missed = choice.misses(bench, torch.from_numpy(held_out.y[1]))
    assert missed == pytest.approx(float(np.sqrt((((mean - held_out.y) / 0.05) ** 2).mean())), rel=1e-9)


@pytest.mark.parametrize(
    ("name", "said"), [("stairs", "jumps in theta"), ("chaotic", "changes as much over a millionth")]
)
def test_no_gradient_leads_through_jumps_and_chaos(folder, monkeypatch, name, said):
    """And where runs are too dear for a diagnosis none is made, and the reason says what to do."""
    found, runs = _chosen(folder, name)
    assert found["method"] == "npe", found
    assert "gp misses held-out runs by" in found["reason"]
    assert said in found["reason"]
    assert 0 < runs <= choice.CALLS
    monkeypatch.setattr(choice, "PATIENCE", 0.0)
    with Workbench(load_study(folder / f"{name}.yaml"), Terminal(quiet=True)) as bench:
        assert choice.choose(bench, torch.from_numpy(bench.runs_of("held_out").y[1])) == "likelihood"
    reason = files.read_json(folder / f"out_{name}" / "infer" / "method.json")["reason"]
    assert "Name npe if its outputs jump or are chaotic" in reason


@pytest.mark.slow
def test_runs_that_scatter_about_what_is_smooth_keep_their_likelihood(folder):
    found, runs = _chosen(folder, "noisy", stochastic=True)
    assert (found["method"], runs) == ("likelihood", 0)
    assert "its mean and variance are averages that are smooth" in found["reason"]


def test_runs_whose_derivatives_grow_as_in_chaos_leave_it(folder):
    """By derivatives that `validate` has made, so that no run is spent on the question; a design that does not follow the
    prior leaves npe out."""
    found, runs = _chosen(folder, "weather", stochastic=True, error=0.001)
    assert (found["method"], runs) == ("npe", 0)
    assert "and gradients are useless: the derivative of a run, followed over one standard deviation of the prior, would move an "\
        "output" in found["reason"]  # fmt: skip
    assert "chaos once runs are longer than its horizon" in found["reason"]
    with Workbench(load_study(folder / "weather.yaml"), Terminal(quiet=True)) as bench:
        assert choice.grows(bench).min() > choice.GROWN
        data = torch.from_numpy(bench.runs_of("held_out").y[1])
    (folder / "weather.yaml").write_text(
        (folder / "weather.yaml").read_text().replace("runs: 40", "use: active, runs: 40")
    )
    with Workbench(load_study(folder / "weather.yaml"), Terminal(quiet=True)) as bench:
        assert choice.choose(bench, data) == "likelihood"


def _loaded(folder, *overrides: str):
    (folder / "x.yaml").write_text(STUDY.format(name="smooth"))
    return load_study(folder / "x.yaml", overrides)


NOISY = (
    "simulator={use: linear_gaussian, noise: 0.5}",
    "parameters={a: {normal: [0, 1]}}",
    "infer.likelihood=predictive",
)


@pytest.mark.parametrize(("emulators", "champion", "taken"), [
    ("{gp: }", "auto", "npe"),
    ("{flow: }", "auto", "nle"),
    ("{flow: , gp: }", "auto", "npe"),
    ("{flow: , gp: }", "flow", "nle"),
    ("{flow: , gp: }", "gp", "npe"),
])  # fmt: skip
def test_a_run_as_observation_needs_a_density_that_is_learnt(folder, emulators, champion, taken):
    study = _loaded(folder, *NOISY, f"emulators={emulators}", f"train.champion={champion}")
    method, why = choice.settled(study)
    assert method == choice.method(study) == taken
    assert why.startswith("the observation is a run")


def test_what_is_named_is_taken_and_what_is_not_known_yet_is_a_likelihood(folder):
    assert choice.settled(_loaded(folder, "infer.method=npe")) == ("npe", "the study names it")
    assert choice.settled(_loaded(folder)) is None
    assert choice.method(_loaded(folder)) == "likelihood"
