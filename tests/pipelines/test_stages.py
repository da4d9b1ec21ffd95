"""The stages together: what runs, what is skipped and why, and that the verdict is the exit code."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines import engine, files
from pipelines.cli import app
from pipelines.stages import FIND, ORDER, load, of
from tests.commands import LINE
from tests.commands import printed as emulate

STUDY = (
    LINE
    + """\
  sampler: {use: hmc}
  draws: 400
  chains: 4
check: {importance_runs: 100, recovery: 20}
tracking: {uri: "off"}
"""
)


HAD = of(infers=True, optimises="")  # the stages of this study


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    (folder / "study.yaml").write_text(STUDY)
    code, output = emulate(folder, "run", "study.yaml")
    assert "check (quadratic)" in output, output
    (folder / "code").write_text(str(code))
    return folder


def test_the_command_line_names_the_stages_in_order():
    names = [c.name for c in app.registered_commands]
    assert [n for n in names if n in ORDER and n != "optimise"] == [n for n in ORDER if n != "optimise"]
    assert "optimise" in names
    for name in ORDER:
        assert set(load(name).READS) <= set(ORDER[: ORDER.index(name)])
        assert load(name).WRITES


def test_a_study_has_the_stages_that_its_answers_need():
    emulator, posterior = ORDER[:4], ("infer", "check")
    assert of(infers=True, optimises="") == HAD == (*emulator, *posterior, "report")
    assert of(infers=True, optimises="simulator") == of(infers=True, optimises="emulator") == ORDER
    assert of(infers=False, optimises="emulator") == (*emulator, "optimise", "report")
    assert of(infers=False, optimises="") == (*emulator, "report")
    assert of(infers=False, optimises="simulator") == ("optimise", "report")
    assert set(FIND) < set(ORDER)


def test_every_stage_wrote_what_it_promises(study):
    for name in HAD:
        for path in load(name).WRITES:
            assert (study / "runs" / "line" / path).exists(), path


def test_the_posterior_is_the_closed_form(study):
    """V = (A^T A / v + 1)^-1, mean = V A^T y / v for a linear map with standard normal priors (Bishop 2006)."""
    a = np.cos(np.outer(np.arange(1, 5), np.arange(1, 3)))
    y, v = a @ np.array([0.5, -0.5]), 0.04
    cov = np.linalg.inv(a.T @ a / v + np.eye(2))
    mean = cov @ a.T @ y / v
    draws = files.read_tensors(study / "runs" / "line" / "infer" / "draws.safetensors")["theta"].reshape(-1, 2).numpy()
    summary = files.read_json(study / "runs" / "line" / "infer" / "summary.json")["parameters"]
    ess = np.array([summary[n]["ess"] for n in "ab"])
    z = (draws.mean(0) - mean) / np.sqrt(np.diag(cov) / ess)
    assert np.abs(z).max() < 4
    assert np.abs(np.log(draws.std(0) / np.sqrt(np.diag(cov)))).max() < 4 / np.sqrt(2 * ess.min())
    assert [summary[n]["map"] for n in "ab"] == pytest.approx(mean, abs=1e-6)


def test_the_verdict_is_the_exit_code(study):
    found = [files.read_json(study / "runs" / "line" / s / "findings.json")["emulators"]["quadratic"]
             for s in ("validate", "check")]  # fmt: skip
    passed = all(f["passed"] for group in found for f in group if f["blocking"])
    assert int((study / "code").read_text()) == (0 if passed else 1)
    code, _ = emulate(study, "run", "study.yaml", "--set", "checks.accuracy.median=1e-300")
    assert code == 1


def test_what_the_emulator_did_to_the_posterior_is_told_first_and_mended(study):
    """An exact emulator does nothing to it; the corrected posterior is the closed form again."""
    folder = study / "runs" / "line" / "check"
    told = files.read_json(folder / "bias.json")
    assert told["whole"]["value"] < 1e-6
    assert told["sentence"].startswith("The emulator moves the posterior by 0.00 +- 0.00 sigma (most in ")
    made = files.read_json(folder / "corrected.json")
    assert (made["by"], made["runs"], made["failed"]) == ("importance", 100, 0)
    a = np.cos(np.outer(np.arange(1, 5), np.arange(1, 3)))
    sd = np.sqrt(np.diag(np.linalg.inv(a.T @ a / 0.2**2 + np.eye(2))))
    for p, right in zip(made["parameters"].values(), sd, strict=True):
        assert abs(p["corrected_sd"] / right - 1) < 4 * p["corrected_sd_error"] / right + 0.03  # chains are correlated
    drawn = files.read_tensors(folder / "corrected.safetensors")
    assert drawn["theta"].shape == (1600, 2)
    assert float(drawn["log_weight"].exp().sum()) == pytest.approx(1)


def test_a_second_run_skips_everything(study):
    emulate(study, "run", "study.yaml")
    _, output = emulate(study, "run", "study.yaml")
    assert output.count("skipped, unchanged") == len(HAD)


def test_a_change_makes_only_what_depends_on_it_stale(study):
    emulate(study, "run", "study.yaml")
    _, output = emulate(study, "run", "study.yaml", "--set", "infer.draws=401", "--dry-run")
    text = " ".join(output.split())
    assert "train skip" in text
    assert "infer run its part of the study changed" in text
    assert "check run after infer" in text
    _, output = emulate(study, "status", "study.yaml", "--set", "design.runs=17")
    assert "stale" in output


@pytest.mark.parametrize(
    "source", ["emulate/store.py", "pipelines/stages/infer.py", "pipelines/sampling.py", "pipelines/report.html.j2"]
)
def test_stages_know_the_sources_of_all_they_call(tmp_path, source):
    (tmp_path / source).parent.mkdir(parents=True)
    (tmp_path / source).write_text("x = 1\n")
    before = engine.digest_of(tmp_path)
    (tmp_path / source).write_text("x = 2\n")
    assert engine.digest_of(tmp_path) != before
    (tmp_path / source).write_text("x = 1\n")
    assert engine.digest_of(tmp_path) == before


def test_more_points_run_only_the_new_ones(study):
    emulate(study, "run", "study.yaml")
    _, output = emulate(study, "run", "study.yaml", "--set", "design.runs=20", "--dry-run")
    assert "4 runs to do, 36 stored" in " ".join(output.split())


def test_dry_run_writes_nothing(tmp_path):
    (tmp_path / "study.yaml").write_text(STUDY)
    code, output = emulate(tmp_path, "run", "study.yaml", "--dry-run")
    assert code == 0
    assert "36 runs to do, 0 stored" in " ".join(output.split())
    assert [p.name for p in tmp_path.iterdir()] == ["study.yaml"]


def test_the_front_door_opens_what_the_stages_wrote(study):
    import emulate as library

    e = library.load(study / "runs" / "line" / "emulators" / "quadratic")
    theta = torch.tensor([0.2, -0.3], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(e.predict(theta).mean[0], theta)
    assert gradient.tolist() == pytest.approx([np.cos(1), np.cos(2)], rel=1e-6)
    named = e.predict({"b": -0.3, "a": 0.2}).mean
    assert torch.equal(named, e.predict(theta.detach()).mean)


def test_predict_answers_a_csv_with_a_csv(study, tmp_path):
    (tmp_path / "points.csv").write_text("b,a\n0.1,0.2\n0.3,0.4\n")
    out = tmp_path / "out.csv"
    folder = study / "runs" / "line" / "emulators" / "quadratic"
    code, output = emulate(tmp_path, "predict", str(folder), "--csv", "points.csv", "--out", str(out))
    assert code == 0, output
    rows = list(csv.DictReader(out.open()))
    assert float(rows[1]["y0"]) == pytest.approx(0.4 * np.cos(1) + 0.3 * np.cos(2), rel=1e-6)
    assert float(rows[1]["sd(y0)"]) >= 0
