"""`emulate optimise` on a wing whose best shape is known: what it prints, writes, draws and refuses."""

import json

import matplotlib
import pytest
from scipy.optimize import minimize_scalar

from pipelines.journal import Journal
from pipelines.report import render
from tests.commands import emulate

matplotlib.use("Agg")
STUDY = """
name: wing
seed: 3
parameters:
  angle: {uniform: [0, 10], unit: deg, label: '\\alpha'}
  length: {uniform: [1, 3], unit: m}
simulator:
  use: function
  call: wing_simulator:fly
  outputs: [{name: drag, unit: N}, {name: lift, unit: N}]
design: {runs: 24, held_out: 4}
cluster: {use: serial}
emulators: {quadratic: {use: polynomial}}
validate: {gradient: {use: finite_difference}, gradient_points: 2}
infer: {likelihood: {use: gaussian, absolute_error: 0.1}}
tracking: {uri: "off"}
"""
SIMULATOR = """
def fly(p):
    a, l = p["angle"], p["length"]
    return [0.5 + 0.05 * (a - 2) ** 2 + 0.3 * l, a * l / 4]
"""
ASKED = ("optimise", "study.yaml", "--minimise", "drag", "--subject-to", "lift >= 1.5")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wing")
    (folder / "study.yaml").write_text(STUDY)
    (folder / "wing_simulator.py").write_text(SIMULATOR)
    for stage in ("design", "simulate", "train"):
        code, said = emulate(folder, stage, "study.yaml", "--quiet")
        assert code == 0, said
    return folder


@pytest.fixture(scope="module")
def told(folder):
    code, said = emulate(folder, *ASKED, "--confirm", "2")
    assert code == 0, said
    return said


def shape() -> tuple[float, float, float]:
    """Least drag with a lift of 1.5: length 6 / angle, along which a bounded search goes."""
    drag = lambda a: 0.5 + 0.05 * (a - 2) ** 2 + 0.3 * 6 / a  # noqa: E731
    best = minimize_scalar(drag, bounds=(2, 6), method="bounded", options={"xatol": 1e-9})
    return best.x, 6 / best.x, best.fun


def test_the_best_shape_is_found_and_confirmed_by_a_true_run(folder, told):
    angle, length, drag = shape()
    found = json.loads((folder / "runs" / "wing" / "optimise" / "optimum.json").read_text())
    assert found["theta"]["angle"] == pytest.approx(angle, abs=2e-3)
    assert found["theta"]["length"] == pytest.approx(length, abs=2e-3)
    assert found["value"] == pytest.approx(drag, abs=1e-4)
    assert found["constraints"][0]["active"]
    assert found["confirmed"]["runs"] == 1  # nothing is random: a second run would say the same
    assert found["confirmed"]["value"] == pytest.approx(drag, abs=1e-4)
    assert found["confirmed"]["gained"]
    assert found["confirmed"]["reference"] > drag
    assert found["goal"] == "minimise"
    for part in (
        "wing: optimum of quadratic",
        "lift >= 1.5",
        "active",
        "held by lift >= 1.5",
        "a true run gives",
        "a gain of",
    ):
        assert part in told


def test_the_figure_and_the_numbers_are_kept_and_logged(folder, told):
    run = folder / "runs" / "wing"
    assert (run / "optimise" / "cuts.png").stat().st_size > 10_000
    events = [e for _, e in Journal(run / "journal.jsonl").read() if e.get("scope") == "optimise"]
    assert {"scope_start", "params", "metrics", "figure", "artifact", "scope_end"} <= {e["event"] for e in events}
    page = render(run)
    assert '<h2 id="optimum">' in page
    assert "dots are the runs that it learned from" in page


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--minimise", "drag", "--maximise", "lift"), 2, "one of --minimise and --maximise"),
        ((), 2, "one of --minimise and --maximise"),
        (("--minimise", "drug"), 2, 'Did you mean "drag"?'),
        (("--minimise", "drag", "--subject-to", "lift"), 2, "must compare two sides"),
        (("--minimise", "drag", "--subject-to", "lift >= 99"), 1, "No point was found that meets every constraint"),
        (("--minimise", "drag", "--emulator", "gp"), 2, "--emulator must be one of quadratic"),
        (("--maximise", "lift", "--starts", "8"), 0, "at the edge of the box in angle, length"),
    ],
)
def test_what_it_says_and_returns(folder, told, words, code, said):
    met, output = emulate(folder, "optimise", "study.yaml", *words)
    assert met == code, output
    assert said in output


def test_an_emulator_that_was_not_trained_is_asked_for(folder, tmp_path):
    for name in ("study.yaml", "wing_simulator.py"):
        (tmp_path / name).write_text((folder / name).read_text())
    code, said = emulate(tmp_path, *ASKED)
    assert code == 2
    assert "which was not trained in" in said
