"""The infer stage with other samplers: what they know beside the draws is told, stored and logged."""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from pipelines import files
from pipelines.journal import NAME, Journal
from tests.commands import emulate

STUDY = """
name: line
seed: 5
parameters:
  a: {normal: [0, 1]}
  b: {normal: [0, 1]}
simulator: {use: linear_gaussian, outputs_count: 4}
design: {use: sobol, runs: 16, held_out: 20}
cluster: {use: serial}
emulators:
  quadratic: {use: polynomial}
train: {champion: quadratic, baseline: null}
validate: {gradient: {use: reverse}, gradient_points: 4}
infer:
  observation: {parameters: {a: 0.5, b: -0.5}, noise: false}
  likelihood: {use: gaussian, absolute_error: 0.2}
  sampler: {use: smc}
  draws: 200
  chains: 8
check: {importance_runs: 100, recovery: 20}
tracking: {uri: "off"}
"""
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
