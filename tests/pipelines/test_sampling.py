"""The infer stage with other samplers: what they know beside the draws is told, stored and logged."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from pipelines import files, sampling
from pipelines.journal import NAME, Journal
from tests.commands import LINE, emulate

STUDY = (
    LINE
    + """\
  sampler: {use: smc}
  draws: 200
  chains: 8
check: {importance_runs: 100, recovery: 20}
tracking: {uri: "off"}
"""
)
MATRIX = np.cos(np.outer(np.arange(1, 5), np.arange(1, 3)))


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("study")
    (folder / "study.yaml").write_text(STUDY)
    for stage in ("design", "simulate", "train", "validate", "infer"):
        code, output = emulate(folder, stage, "study.yaml")
        assert code == 0 or stage == "validate", output
    return folder, output


def test_the_evidence_is_told_stored_and_logged(study):
    """y ~ N(0, A A^T + s^2) at y = A (0.5, -0.5)."""
    folder, output = study
    out = folder / "runs" / "line"
    truth = multivariate_normal(np.zeros(4), MATRIX @ MATRIX.T + 0.04 * np.eye(4)).logpdf(MATRIX @ [0.5, -0.5])
    told = files.read_json(out / "infer" / "summary.json")["sampler"]
    value, error = told["log_evidence"], told["log_evidence_error"]
    assert 0 < error < 0.2
    assert abs(value - truth) < 4 * error  # by 8 populations
    assert f"ln evidence {value:.5g} +- {error:.2g}" in output
    events = [e for _, e in Journal(out / NAME).read() if e["event"] == "metrics" and e["scope"] == "infer"]
    logged = [e["metrics"] for e in events if "log_evidence" in e["metrics"]]
    assert logged[-1]["log_evidence"] == value
    assert logged[-1]["log_evidence_error"] == error


def _draws(folder: Path) -> torch.Tensor:
    return files.read_tensors(folder / "runs" / "line" / "infer" / "draws.safetensors")["x"]


@pytest.fixture
def again(study, tmp_path) -> Path:
    """A copy of the study up to its validation, sampled by hmc."""
    shutil.copytree(study[0], tmp_path / "study")
    shutil.rmtree(tmp_path / "study" / "runs" / "line" / "infer")
    return tmp_path / "study"


HMC = ("--set", "infer.sampler={use: hmc, warmup: 60}")


def test_more_draws_continue_those_there_are(again):
    _, output = emulate(again, "infer", "study.yaml", *HMC, "--set", "infer.draws=30")
    assert "continued" not in output
    few = _draws(again)
    _, output = emulate(again, "infer", "study.yaml", *HMC, "--set", "infer.draws=50")
    assert "continued from 30 draws" in output
    assert torch.equal(_draws(again)[:, :30], few)
    (again / "runs" / "line" / "infer" / "state.safetensors").unlink()
    more = _draws(again)
    _, output = emulate(again, "infer", "study.yaml", *HMC, "--set", "infer.draws=50", "--force")
    assert "continued" not in output
    assert torch.equal(_draws(again), more)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:-100]), "state.safetensors is damaged and was not used"),
        (lambda p: files.write_tensors(p, {"x": torch.zeros(3)}), "state.safetensors is damaged and was not used"),
        (
            lambda p: files.write_tensors(p, {**files.read_tensors(p), "digest": torch.zeros(64, dtype=torch.uint8)}),
            "state.safetensors is of other settings, runs or code and was not used",
        ),
    ],
)
def test_a_state_that_is_damaged_or_foreign_is_left_alone(again, harm, said):
    emulate(again, "infer", "study.yaml", *HMC, "--set", "infer.draws=20")
    before = _draws(again)
    harm(again / "runs" / "line" / "infer" / "state.safetensors")
    code, output = emulate(again, "infer", "study.yaml", *HMC, "--set", "infer.draws=20", "--force")
    assert code == 0
    assert said in output
    assert torch.equal(_draws(again), before)


@pytest.mark.parametrize("change", ["infer.likelihood.absolute_error=0.3", "seed=6"])
def test_other_settings_start_anew(again, change):
    emulate(again, "infer", "study.yaml", *HMC, "--set", "infer.draws=20")
    code, output = emulate(again, "infer", "study.yaml", *HMC, "--set", "infer.draws=30", "--set", change)
    assert code == 0
    assert "all draws were made anew" in output


def test_a_run_that_is_killed_goes_on(again, monkeypatch):
    """Killed as the 45th draw is told; the next command makes the rest, and all are those of a run without a fault."""
    monkeypatch.setattr(sampling, "_EVERY", 0.0)
    save = sampling.Kept.save

    def killed(self, state):
        save(self, state)
        if len(state["x"]) > 40:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sampling.Kept, "save", killed)
        code, _ = emulate(again, "infer", "study.yaml", *HMC, "--set", "infer.draws=80")
        assert code != 0
    _, output = emulate(again, "infer", "study.yaml", *HMC, "--set", "infer.draws=80")
    assert "continued from 50 draws" in output
    found = _draws(again)
    (again / "runs" / "line" / "infer" / "state.safetensors").unlink()
    emulate(again, "infer", "study.yaml", *HMC, "--set", "infer.draws=80", "--force")
    assert torch.equal(_draws(again), found)


def test_an_emulator_without_a_gradient_is_served(tmp_path):
    """Its posterior is the closed form; hmc is refused with the samplers that can do it."""
    (tmp_path / "study.yaml").write_text(
        STUDY.replace("quadratic: {use: polynomial}", "blind: {use: 'tests.blind:Blind'}")
        .replace("champion: quadratic", "champion: blind")
        .replace("{use: smc}", "{use: hmc}")
        .replace("reverse}", "finite_difference}")
    )
    for stage in ("design", "simulate", "train", "validate"):
        emulate(tmp_path, stage, "study.yaml")
    code, output = emulate(tmp_path, "infer", "study.yaml")
    assert code == 2
    assert ("infer.sampler.use: hmc must have a posterior with a gradient, and that through blind has none. Use ensemble, or "
            "smc where it may have several modes.") in output  # fmt: skip
    code, output = emulate(tmp_path, "infer", "study.yaml", "--set", "infer.sampler={use: ensemble, warmup: 300}")
    assert code == 0, output
    assert "has no gradient: its best fit was searched for by particles, and the Fisher matrix is left out" in output
    covariance = np.linalg.inv(MATRIX.T @ MATRIX / 0.04 + np.eye(2))
    mean = covariance @ MATRIX.T @ MATRIX @ [0.5, -0.5] / 0.04
    summary = files.read_json(tmp_path / "runs" / "line" / "infer" / "summary.json")
    told = summary["parameters"]
    for i, n in enumerate("ab"):
        sd = covariance[i, i] ** 0.5
        assert abs(told[n]["mean"] - mean[i]) < 4 * sd / told[n]["ess"] ** 0.5
        assert abs(told[n]["map"] - mean[i]) < 0.02 * sd
        assert told[n]["sd"] == pytest.approx(sd, rel=0.12)
    assert summary["map_converged"]
