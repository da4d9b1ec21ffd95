"""`emulate identifiability`: what it says before and after inference, its files, figures, and its place in the report."""

import csv
import re
from pathlib import Path

import matplotlib
import pytest

from pipelines import files
from pipelines.config import load_study
from pipelines.engine import run as run_stages
from pipelines.journal import Journal
from pipelines.report import render
from pipelines.terminal import Terminal
from tests.commands import emulate

matplotlib.use("Agg")
STUDY = """
name: product
seed: 3
parameters:
  a: {uniform: [1, 3], label: '\\alpha'}
  b: {uniform: [1, 3]}
  c: {normal: [0, 1]}
  d: {uniform: [0, 1]}
simulator:
  use: function
  call: product_simulator:f
  outputs: [{name: y, coordinate: t, at: [1, 2, 3, 4, 5]}]
design: {runs: 64, held_out: 8}
cluster: {use: serial}
emulators: {quadratic: {use: polynomial}}
train: {champion: quadratic, baseline: null}
infer:
  observation: {parameters: {a: 2, b: 2, c: 0, d: 0.5}, noise: false}
  likelihood: {use: gaussian, absolute_error: 1.0}
  draws: 50
  chains: 4
tracking: {uri: "off"}
"""
SIMULATOR = """
def f(p):
    return [p["a"] * p["b"] * t + p["c"] for t in (1, 2, 3, 4, 5)]
"""
HES1 = """
name: hes1
simulator: {use: gene_regulation, observed: [mrna], times: [40, 80, 120, 160, 200, 240], step: 2}
cluster: {use: serial}
infer: {observation: {parameters: {tau_m: 9, tau_p: 15, mu_m: 0.03, p0: 100}}, likelihood: {use: log_normal, error: 0.1}}
tracking: {uri: "off"}
"""


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> tuple[Path, str]:
    """The folder, and what the command says before any stage."""
    folder = tmp_path_factory.mktemp("product")
    (folder / "study.yaml").write_text(STUDY)
    (folder / "product_simulator.py").write_text(SIMULATOR)
    code, said = emulate(folder, "identifiability", "study.yaml")
    assert code == 0, said
    return folder, said


@pytest.fixture(scope="module")
def done(alone) -> tuple[Path, str]:
    """The folder, and what the command says after inference."""
    folder, _ = alone
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        stages = ("design", "simulate", "train", "validate", "infer")
        run_stages(load_study(Path("study.yaml")), stages, Terminal(quiet=True))
    code, said = emulate(folder, "identifiability", "study.yaml", "--points", "2")
    assert code == 0, said
    return folder, said


def test_the_verdict_needs_no_emulator_and_reaches_the_report(alone):
    folder, said = alone
    assert "Of a and b only a * b is told: what one of them does to the data the others undo" in said
    assert "d does nothing to the data." in said
    assert "c is told less well than by the prior: c to 1" in said
    assert "product: identifiability" in said
    assert "profile" not in said
    out = folder / "runs" / "product"
    listed = {f["name"]: f["caption"] for f in files.read_json(out / "identifiability" / "figures.json")}
    assert set(listed) >= {"sensitivities", "collinearity"}
    page = render(out)
    assert re.search(r'<h2 id="identifiability">\d+ Identifiability</h2>', page)
    assert page.count("only a * b is told") >= 2  # the sentence, and the caption
    code, said = emulate(
        folder, "identifiability", "study.yaml", "--emulator", "quadratic", "--set", "output=elsewhere"
    )
    assert code == 2
    assert "identifiability needs the emulator 'quadratic', which was not trained in elsewhere yet. Run" in said


@pytest.mark.slow
def test_profiles_follow_inference_and_bear_it_out(done):
    folder, after = done
    assert "by the profile likelihoods, at 95% confidence, bounded on both sides:" in after.lower()
    assert "a * b 3." in after
    assert after.split("Not bounded within the box, so that the prior bounds it:")[1].split(".")[0].strip() == "d"
    intervals = files.read_json(folder / "runs" / "product" / "identifiability" / "verdict.json")["intervals"]
    assert set(intervals) == {"a", "b", "c", "d", "a * b"}
    last = intervals["a * b"][-1]
    assert 3 < last["low"] < 4 < last["high"] < 5  # 4 +- 1.96 / sqrt(10): the slope of five data at 1 to 5
    assert last["high"] - last["low"] == pytest.approx(2 * 1.96 / 10**0.5, rel=0.05)


@pytest.mark.slow
def test_the_files_hold_the_sensitivities(done):
    folder, _ = done
    out = folder / "runs" / "product" / "identifiability"
    body = files.read_json(out / "verdict.json")
    assert body["first_point"] == "the parameters of the observation"
    assert body["combinations"][0]["members"] == ["a", "b"]
    assert body["parameters"]["d"]["verdict"] == "not seen"
    with open(out / "sensitivities.csv", newline="") as f:
        rows = list(csv.DictReader(f))
    assert float(rows[4]["a"]) == pytest.approx(
        5 * 2 * 0.6827, rel=1e-3
    )  # t b over the error, times half of 68 % of the prior
    assert float(rows[4]["c"]) == pytest.approx(1.0, rel=1e-3)
    said = {
        e["event"]
        for _, e in Journal(folder / "runs" / "product" / "journal.jsonl").read()
        if e.get("scope") == "identifiability"
    }
    assert {"figure", "metrics", "artifact"} <= said


@pytest.mark.slow
def test_the_profiles_reach_the_report(done):
    folder, _ = done
    out = folder / "runs" / "product"
    assert "profiles" in {f["name"] for f in files.read_json(out / "identifiability" / "figures.json")}
    assert render(out).count("figure-identifiability-") >= 3


@pytest.mark.slow
def test_an_emulator_may_give_the_derivatives(done):
    folder, _ = done
    code, said = emulate(folder, "identifiability", "study.yaml", "--emulator", "quadratic", "--points", "2")
    assert code == 0, said
    assert "only a * b is told" in said


def test_mrna_alone_tells_the_sum_of_two_delays(tmp_path):
    (tmp_path / "study.yaml").write_text(HES1)
    code, said = emulate(tmp_path, "identifiability", "study.yaml", "--points", "2")
    assert code == 0, said
    assert "Of tau_m and tau_p only tau_m + tau_p is told" in said
    body = files.read_json(tmp_path / "runs" / "hes1" / "identifiability" / "verdict.json")
    assert body["combinations"][0]["one_minus_cos"] < 1e-10
    assert "only tau_m + tau_p is told" in render(tmp_path / "runs" / "hes1")
