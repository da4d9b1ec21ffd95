"""Studies whose posterior is learnt by flows: npe, nle, rounds of runs, what cannot be asked of them, and what auto takes."""

import shutil

import numpy as np
import pytest
import torch

from emulate.amortised import Amortised
from emulate.errors import InputError
from emulate.store import RunStore
from pipelines import files
from pipelines.config import load_study
from pipelines.terminal import Terminal
from pipelines.workbench import Workbench
from tests.commands import emulate

NOISE = 0.5
STUDY = """\
name: line
seed: 4
simulator: {use: linear_gaussian}
design: {runs: 200, held_out: 40}
cluster: {use: serial}
emulators: {line: {use: polynomial, degree: 1}}
train: {champion: line, baseline: null}
validate: {gradient_points: 1}
infer:
  method: npe
  observation: {parameters: {a: 0.4, b: -0.3}}
  likelihood: {use: gaussian, absolute_error: 0.5}
  npe: {flow: {use: flow, coupling: false, epochs: 40, width: 24, rate: 0.005}, noise: 4}
  draws: 250
  chains: 8
check: {importance_runs: 150}
tracking: {uri: 'off'}
output: out
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The study's folder and what was printed."""
    folder = tmp_path_factory.mktemp("line")
    (folder / "study.yaml").write_text(STUDY)
    code, output = emulate(folder, "run", "study.yaml")
    assert code == 0, output
    return folder, output


def _copied(study, tmp_path):
    shutil.copytree(study[0], here := tmp_path / "x")
    return here


def _closed(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of the posterior of the linear map whose truth the simulator's docstring gives."""
    a = np.cos(np.outer(np.arange(1, 6), np.arange(1, 3)))
    v = np.linalg.inv(a.T @ a / NOISE**2 + np.eye(2))
    return v @ a.T @ y / NOISE**2, v


def _apart(folder) -> float:
    """The largest distance of a posterior mean from the closed form, in standard deviations."""
    y = np.array(files.read_json(folder / "out" / "infer" / "observation.json")["data"])
    mean, v = _closed(y)
    found = files.read_json(folder / "out" / "infer" / "summary.json")["parameters"]
    sd = np.sqrt(np.diag(v))
    assert np.abs(np.log([found[n]["sd"] for n in "ab"] / sd)).max() < 0.25
    return float(np.abs(([found[n]["mean"] for n in "ab"] - mean) / sd).max())


def test_the_posterior_is_the_closed_form(study):
    folder, output = study
    assert _apart(folder) < 0.5
    summary = files.read_json(folder / "out" / "infer" / "summary.json")
    assert summary["method"] == "npe"
    assert summary["npe"]["rows"] == 4 * 200
    assert not summary["npe"]["outside"]
    assert "2000 independent draws of a posterior learnt from 200 runs" in output
    draws = files.read_tensors(folder / "out" / "infer" / "draws.safetensors")
    assert draws["theta"].shape == (8, 250, 2)
    q = Amortised.load(folder / "out" / "infer" / "npe" / "0")
    data = files.read_json(folder / "out" / "infer" / "observation.json")["data"]
    torch.testing.assert_close(q.log_density(draws["x"], data), draws["log_density"], rtol=1e-9, atol=1e-9)
    assert files.read_json(folder / "out" / "infer" / "method.json")["method"] == "npe"


def test_true_runs_weigh_the_draws_and_all_held_out_runs_are_recovered(study):
    """ln w = ln p(y | theta) + ln p(x) - ln q(x), by hand; x is theta here, for the priors are standard normal."""
    folder, output = study
    stored = files.read_tensors(folder / "out" / "check" / "evidence.safetensors")
    y = np.array(files.read_json(folder / "out" / "infer" / "observation.json")["data"])
    theta = stored["weighted.theta"]
    q = Amortised.load(folder / "out" / "infer" / "npe" / "0")
    mean, v = _closed(y)
    exact = torch.distributions.MultivariateNormal(torch.from_numpy(mean), torch.from_numpy(v)).log_prob(theta)
    off = stored["weighted.log_weight"] - (exact - q.log_prob(theta, y))
    assert len(theta) == 150
    assert float(off.std()) < 1e-6, "the weights are those of the closed form, up to the evidence"
    assert len(stored["recovery.rank"]) == 40
    assert "150 true runs at draws of the posterior, 40 recovered observations" in output
    names = {f["name"] for f in files.read_json(folder / "out" / "check" / "findings.json")["emulators"]["line"]}
    assert any(n.startswith("posterior.") for n in names)
    assert any(n.startswith("recovery.") for n in names)
    assert not any(n.startswith("domain.") for n in names)
    assert "domain is left out: " in output


def test_findings_on_an_emulator_that_nobody_asks_are_advice(study):
    """A constant emulator fails its own checks, and the verdict is that of the posterior."""
    folder, _ = study
    code, output = emulate(
        folder, "validate", "study.yaml", "--set", "checks={accuracy: {median: 1.0e-30}, recovery: }"
    )
    assert "accuracy.median" in output
    assert "FAILED" not in output
    assert code == 0


def test_the_same_study_gives_the_same_bits(study, tmp_path):
    here = _copied(study, tmp_path)
    emulate(here, "infer", "study.yaml", "--force")
    one, other = (files.read_tensors(f / "out" / "infer" / "draws.safetensors")["x"] for f in (study[0], here))
    assert torch.equal(one, other)


def test_an_observation_unlike_all_runs_is_said_or_refused(study, tmp_path):
    here = _copied(study, tmp_path)
    (here / "y.txt").write_text("40\n-40\n40\n-40\n40\n")
    file = ("--set", "infer.observation={file: y.txt}")
    code, output = emulate(here, "infer", "study.yaml", *file)
    assert code == 0
    assert "the observation lies outside the data of all 200 runs" in output
    assert files.read_json(here / "out" / "infer" / "summary.json")["npe"]["outside"] is True
    code, output = emulate(here, "infer", "study.yaml", *file, "--set", "infer.outside=refuse")
    assert code == 3
    assert "infer.outside is refuse" in output


@pytest.mark.slow
def test_rounds_are_aimed_written_before_they_run_and_go_on(study, tmp_path):
    """The points lie where the posterior is; a second command makes no run and chooses no point again, also after a stop
    between writing and running."""
    here, rounds = _copied(study, tmp_path), ("--set", "infer.rounds=2", "--set", "infer.round_runs=60")
    _, plan = emulate(here, "infer", "study.yaml", *rounds, "--dry-run")
    assert "up to 60 runs aimed at it, in rounds" in " ".join(plan.split())
    code, output = emulate(here, "infer", "study.yaml", *rounds)
    assert code == 0, output
    assert "rounds aimed at the observation" in output
    made = files.read_json(here / "out" / "infer" / "rounds.json")["rounds"]
    assert [r["runs"] for r in made] == [200, 260]
    assert [len(r["theta"]) for r in made] == [60, 0]
    assert all(0.5 <= r["c2st"] <= 1 for r in made[1:])
    y = np.array(files.read_json(here / "out" / "infer" / "observation.json")["data"])
    mean, v = _closed(y)
    off = np.array(made[0]["theta"]) - mean
    assert (np.einsum("ni,ij,nj->n", off, np.linalg.inv(v), off) < 40).all(), (
        "the truncated prior is where the posterior is"
    )
    assert _apart(here) < 0.5
    runs = set(here.glob("out/store/runs/*/*"))
    lost = np.array(made[0]["theta"])[:20].tolist()
    files.write_json(here / "out" / "infer" / "rounds.json", {"rounds": made[:1]})
    loaded = load_study(here / "study.yaml")
    store = RunStore(here / "out" / "store")
    with Workbench(loaded, Terminal(quiet=True)) as bench:
        for task in bench.tasks(np.array(lost)):
            shutil.rmtree(store.folder(task.key))
    code, output = emulate(here, "infer", "study.yaml", *rounds, "--force")
    again = files.read_json(here / "out" / "infer" / "rounds.json")["rounds"]
    assert [r["theta"] for r in again] == [r["theta"] for r in made]
    assert set(here.glob("out/store/runs/*/*")) == runs
    code, output = emulate(here, "check", "study.yaml", *rounds)
    assert "recovery is left out: after rounds q is aimed at one observation" in output
    assert "rounds leave nothing to recover" in output


NLE = ("--set", "infer.method=nle", "--set", "infer.npe={noise: 4}", "--set", "train.champion=flow", "--set",
       "emulators={flow: {use: flow, epochs: 40, rate: 0.005, width: 24, transforms: 2, coupling: true}}", "--set",
       "infer.sampler=laplace", "--set", "check.recovery=6", "--set", "checks={recovery: , posterior: }")  # fmt: skip


@pytest.mark.slow
def test_nle_learns_the_data_as_they_are_observed(study, tmp_path):
    """The flow of noisy data gives the closed form with no noise added again; true runs keep the study's own likelihood."""
    here = _copied(study, tmp_path)
    for stage in ("train", "validate", "infer", "check"):
        code, output = emulate(here, stage, "study.yaml", *NLE)
        assert code in (0, 1), output
    assert _apart(here) < 0.6
    stored = files.read_tensors(here / "out" / "check" / "evidence.safetensors")
    assert float(stored["weighted.log_weight"].std()) < 1
    assert (here / "out" / "infer" / "nle" / "emulator.json").exists()


@pytest.mark.slow
def test_nle_goes_on_where_the_posterior_is(study, tmp_path):
    here = _copied(study, tmp_path)
    for stage in ("train", "validate"):
        emulate(here, stage, "study.yaml", *NLE)
    code, output = emulate(here, "infer", "study.yaml", *NLE, "--set", "infer.rounds=2", "--set", "infer.round_runs=40")
    assert code == 0, output
    made = files.read_json(here / "out" / "infer" / "rounds.json")["rounds"]
    assert [r["runs"] for r in made] == [200, 240]
    assert made[1]["ess"] > 10
    assert 0.5 <= made[1]["c2st"] < 0.8
    assert _apart(here) < 0.6


def _loaded(tmp_path, *overrides: str):
    (tmp_path / "study.yaml").write_text(STUDY)
    return load_study(tmp_path / "study.yaml", overrides)


def test_a_study_reads_as_it_was_written(tmp_path):
    made = _loaded(tmp_path)
    assert (made.infer.method, made.infer.rounds, made.infer.npe.noise) == ("npe", 1, 4)
    told = made.to_dict()["infer"]
    assert told["npe"]["flow"]["use"] == "flow"
    assert "npe" not in _loaded(tmp_path, "infer.npe=null", "infer.method=likelihood").to_dict()["infer"]


@pytest.mark.parametrize(("overrides", "said"), [
    (("infer.method=likelihood",), "infer.npe: is only read with infer.method npe, nle or auto. Got method: likelihood; take it "
     "out, or change the method."),
    (("infer.method=likelihood", "infer.npe=null", "infer.rounds=2"), "infer.rounds: is only read with infer.method npe, nle or "
     "auto. Got method: likelihood; take it out, or change the method."),
    (("infer.round_runs=20",), "infer.round_runs: is only read with infer.rounds above 1. Got 20; raise rounds, or take it out."),
    (("infer.outside=inflate",), "infer.outside: must be warn, refuse or ignore where infer.method is npe: a posterior has no "
     "variance of a prediction to inflate. Got inflate."),
    (("infer.method=nle",), "infer.method: nle must have a flow as the emulator that is used, for it learns the density of the "
     "data. Got train.champion: line among line; name a flow, such as emulators: {flow: }, or use npe."),
    (("infer.method=nle", "emulators={flow: }", "train.champion=flow", "design={use: active, budget: 300, aim: posterior}"),
     "design.aim: must be prior where infer.method is nle and the likelihood adds noise, for the flow that guides the design has "
     "not learnt that noise. Got posterior; aim by infer.rounds."),
    (("design={use: active, runs: 50, budget: 60}",), "infer.method: npe must have points that are spread as the prior, for it "
     "learns the prior with the runs. Got the design active, which chooses others; use sobol, and aim runs by infer.rounds."),
    (("design.runs=5",), "design.runs: must be at least 10 for infer.method npe. Got 5; run more points."),
    (("infer.npe=3",), "infer.npe: must be settings, such as {noise: 16}. Got 3."),
    (("infer.npe={flow: {use: gp}}",), "infer.npe: npe.flow: must be a recipe of the flow, such as {use: flow, members: 2}. Got "),
    (("infer.npe={nois: 3}",), "infer.npe.nois: this key is not known. Keys allowed here: flow, noise, components, log"),
    (("infer.method=snpe",), "infer.method: must be 'likelihood', 'npe', 'nle' or 'auto'. Got 'snpe'."),
])  # fmt: skip
def test_what_cannot_be_is_refused_in_a_sentence(tmp_path, overrides, said):
    with pytest.raises(InputError) as caught:
        _loaded(tmp_path, *overrides)
    assert any(f": {said}" in line for line in str(caught.value).splitlines()), str(caught.value)
