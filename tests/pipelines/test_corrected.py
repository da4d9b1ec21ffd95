"""A plane through runs of a curved simulator: what true runs say of its posterior, and mend, against quadrature."""

import json
import math

import numpy as np
import pytest
import torch

from emulate.contracts import Weighted
from emulate.importance import reweigh
from emulate.space import Normal, Parameter, Space
from pipelines import files, report
from pipelines.corrected import beyond
from pipelines.typeset import prose
from tests.commands import printed as emulate

MODULE = "def bent(a, b):\n    return [a + 0.5 * a * a, b + 0.4 * a * b, a - b]\n"
STUDY = """
name: bent
seed: 4
parameters:
  a: {uniform: [0, 1]}
  b: {uniform: [0, 1]}
simulator:
  {use: function, call: "bent_lab_of_the_checks:bent", argument: keywords, outputs: [{name: y, coordinate: i, at: [1, 2, 3]}]}
design: {runs: 24, held_out: 8}
cluster: {use: serial}
emulators: {plane: {use: polynomial, degree: 1}}
train: {champion: plane, baseline: null, folds: 0}
validate: {gradient: {use: finite_difference}, gradient_points: 3}
infer:
  observation: {parameters: {a: 0.6, b: 0.45}, noise: false}
  likelihood: {use: gaussian, absolute_error: 0.12}
  draws: 500
  chains: 8
check: {importance_runs: 128, recovery: 4}
checks: {posterior: , recovery: , fisher: }
tracking: {uri: "off"}
output: out
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bent")
    (folder / "study.yaml").write_text(STUDY)
    (folder / "bent_lab_of_the_checks.py").write_text(MODULE)
    code, output = emulate(folder, "run", "study.yaml")
    return folder / "out", code, output


def _truth():
    """Mean and sd of the true posterior on a grid of a million points."""
    x = (np.arange(1000) + 0.5) / 1000
    a, b = np.meshgrid(x, x, indexing="ij")
    y = np.stack([a + 0.5 * a * a, b + 0.4 * a * b, a - b])
    at = np.array([0.6 + 0.18, 0.45 + 0.108, 0.15])
    w = np.exp(-0.5 * (((y - at[:, None, None]) / 0.12) ** 2).sum(0))
    w /= w.sum()
    mean = np.array([(w * t).sum() for t in (a, b)])
    return mean, np.array([math.sqrt((w * (t - m) ** 2).sum()) for t, m in zip((a, b), mean, strict=True)])


def test_the_corrected_posterior_is_that_of_the_simulator(study):
    folder, *_ = study
    made = files.read_json(folder / "check" / "corrected.json")
    assert made["by"] == "importance"
    assert made["pareto_k"] < 0.7
    for p, mean, sd in zip(made["parameters"].values(), *_truth(), strict=True):
        assert abs(p["corrected"] - mean) < 0.1 * sd
        assert abs(p["corrected_sd"] / sd - 1) < 0.1
        assert abs(p["corrected"] - mean) < 4 * p["error"]
        assert p["low"] < mean < p["high"]


def test_the_one_number_is_what_was_moved(study):
    """The shift of the emulator's draws from the quadrature's mean, in its sd; first of all that is printed of the verdict."""
    folder, code, output = study
    told = files.read_json(folder / "check" / "bias.json")
    draws = files.read_tensors(folder / "infer" / "draws.safetensors")["theta"].reshape(-1, 2)
    mean, sd = _truth()
    shift = np.abs((draws.mean(0).numpy() - mean) / sd)
    assert told["most"]["parameter"] == "ab"[int(shift.argmax())]
    assert told["most"]["value"] == pytest.approx(shift.max(), abs=0.1)
    assert told["whole"]["value"] > 4 * told["whole"]["error"]
    found = {f["name"]: f for f in files.read_json(folder / "check" / "findings.json")["emulators"]["plane"]}
    assert found["posterior.distance"]["value"] == pytest.approx(told["whole"]["value"])
    assert code == 1, "a plane is not good enough, and the exit code says so"
    lines = " ".join(output.split())
    assert lines.index(told["sentence"]) < lines.index("validate (plane)") < lines.index("check (plane)")
    page = report.render(folder).partition("<body")[2]
    assert page.index(prose(told["sentence"])) < page.index("blocking checks")
    assert "The posterior as 128 true runs correct it, by their weights at draws of it." in page


def test_a_tracker_gets_the_number_with_its_error(study):
    folder, *_ = study
    events = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    metrics = {
        k: v for e in events if e["event"] == "metrics" and e["scope"] == "check" for k, v in e["metrics"].items()
    }
    told = files.read_json(folder / "check" / "bias.json")
    assert (metrics["bias"], metrics["bias_error"]) == (told["whole"]["value"], told["whole"]["error"])
    assert {"bias/move", "bias/move_error", "bias/factor", "bias/factor_error", "a/corrected", "b/delta"} <= set(
        metrics
    )


def test_too_few_true_runs_correct_nothing_and_say_what_would(study):
    folder, *_ = study
    _, output = emulate(folder.parent, "check", "study.yaml", "--set", "check.importance_runs=8")
    told = files.read_json(folder / "check" / "bias.json")
    assert told["beyond"] in " ".join(output.split())
    assert told["beyond"].startswith(
        ("The true runs cannot correct the posterior: ", "The true runs do not correct the posterior: ")
    )
    assert "Raise check.importance_runs, or run the simulator where the posterior lies" in told["beyond"]
    assert not (folder / "check" / "corrected.json").exists()
    assert not (folder / "check" / "corrected.safetensors").exists()
    assert torch.is_tensor(files.read_tensors(folder / "check" / "evidence.safetensors")["weighted.theta"])


def test_a_random_simulator_is_not_told_to_make_more_runs():
    """Weights of single runs whose noise moves ln w by four are mended by no number of them."""
    rng = np.random.default_rng(1)
    draws = torch.from_numpy(rng.normal(size=(2000, 1)))
    wild = Weighted(draws[:128], torch.from_numpy(4 * rng.normal(size=128)), draws)
    made = reweigh(wild, Space((Parameter("a", Normal(0.0, 10.0)),)))
    assert beyond(made, stochastic=True) == (
        "The true runs cannot correct the posterior: the simulator is random, and the single run that weighs a draw has noise of "
        "its own. Name the check confirmation in place of posterior, and let a run be as long as the data."
    )
    assert "Raise check.importance_runs, or run the simulator" in beyond(made, stochastic=False)
