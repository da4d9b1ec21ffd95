"""`emulate optimise` on a wing whose best shape is known: what it prints, writes, draws and refuses."""

import json
import math

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
    return float(best.x), float(6 / best.x), float(best.fun)


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
        (("--minimise", "drag", "--confirm", "1"), 0, "optimise.gain"),
        (
            ("--minimise", "drag", "--emulator", "gp"),
            2,
            "optimise.emulator: must name an emulator of this study: quadratic",
        ),
        (("--maximise", "lift", "--starts", "8"), 0, "at the edge of the box in angle, length"),
    ],
)
def test_what_it_says_and_returns(folder, told, words, code, said):
    met, output = emulate(folder, "optimise", "study.yaml", *words)
    assert met == code, output
    assert said in output


SECTION = """infer: null
checks: {accuracy: }
optimise: {minimise: drag, subject_to: [lift >= 1.5], starts: 16}
"""
WING = STUDY.replace("infer: {likelihood: {use: gaussian, absolute_error: 0.1}}\n", SECTION).replace(
    "held_out: 4", "held_out: 12"
)
LINE = """
name: line
simulator: linear_gaussian
parameters: {a: {uniform: [0, 1]}, b: {uniform: [0, 2]}}
infer: null
optimise: {maximise: y0 - (a - 0.3)**2 - b**2, by: simulator, starts: 3}
cluster: {use: serial}
tracking: {uri: "off"}
"""


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("asked")
    (folder / "study.yaml").write_text(WING)
    (folder / "wing_simulator.py").write_text(SIMULATOR)
    code, said = emulate(folder, "run", "study.yaml", "--quiet")
    assert code == 0, said
    return folder


def test_a_study_that_asks_for_an_optimum_alone_ends_with_it(asked):
    run = asked / "runs" / "wing"
    found = json.loads((run / "optimise" / "optimum.json").read_text())
    assert [found["theta"][n] for n in ("angle", "length")] == pytest.approx(shape()[:2], abs=2e-3)
    assert found["confirmed"]["gained"]
    told = json.loads((run / "optimise" / "findings.json").read_text())["emulators"]["quadratic"]
    assert [f["name"] for f in told] == ["optimise.feasible", "optimise.agrees", "optimise.gain"]
    assert all(f["passed"] and f["blocking"] for f in told)
    assert not (run / "infer").exists()
    page = render(run)
    assert "Where is drag of the simulator function least, with lift &gt;= 1.5?" in page
    assert "All 5 blocking checks passed." in page
    assert '<h2 id="posterior">' not in page
    assert "Optimum against the true simulator: quadratic (champion)" in page


def test_its_stages_are_those_that_it_needs(asked):
    code, said = emulate(asked, "run", "study.yaml")
    assert code == 0
    assert said.count("skipped, unchanged") == 6
    assert "infer" not in said
    code, said = emulate(asked, "status", "study.yaml")
    assert "optimise" in said
    assert "infer" not in said
    code, said = emulate(asked, "infer", "study.yaml")
    assert code == 2
    assert "Its stages are design, simulate, train, validate, optimise, report, for infer is null; change that." in said
    code, said = emulate(asked, "run", "study.yaml", "--set", "optimise.starts=8", "--dry-run")
    assert "validate skip unchanged" in said
    assert "optimise run its part of the study changed" in said


def test_a_gain_that_is_not_shown_fails_the_run(asked):
    """Held against a shape with less drag that does not lift enough."""
    words = ("optimise", "study.yaml", "--set", "optimise.reference={angle: 2, length: 1}")
    code, said = emulate(asked, *words)
    assert code == 1, said
    assert "no gain is shown" in said
    code, said = emulate(asked, *words, "--maximise", "lift")
    assert code == 0, said
    assert "optimum of quadratic" in said


def test_the_simulator_itself_is_climbed_without_an_emulator(tmp_path):
    """d y0 / da = cos 1: the best a is 0.3 + cos(1) / 2, and b, whose slope is cos 2 - 2 b, lies at its edge."""
    (tmp_path / "study.yaml").write_text(LINE)
    code, said = emulate(tmp_path, "run", "study.yaml")
    assert code == 0, said
    run = tmp_path / "runs" / "line"
    found = json.loads((run / "optimise" / "optimum.json").read_text())
    assert found["theta"] == pytest.approx({"a": 0.3 + math.cos(1) / 2, "b": 0}, abs=1e-5)
    assert found["by"] == "simulator"
    assert found["runs"] > 0
    assert (run / "optimise" / "search.png").stat().st_size > 5_000
    assert sorted(p.name for p in run.iterdir() if p.is_dir()) == ["optimise", "report", "stages", "store"]
    page = render(run)
    assert "PASSED" in page
    assert "The answer comes through its own derivative" in page


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            "optimise.minimise=a",
            "optimise: must have one of minimise and maximise, such as minimise: mean(pk). Got both.",
        ),
        ("optimise.maximise=z", "optimise.maximise: "),
        ("optimise.subject_to=[far]", "optimise.subject_to.0: "),
        ("optimise.reference={a: 0.1}", "optimise.reference: must name every parameter. Missing: b."),
        ("simulator={use: function, call: 'statistics:fmean'}", "optimise.by: must be emulator for function"),
        ("checks={posterior: }", "checks.posterior: must have a posterior to judge, and infer is null in this study."),
        ("simulator.noise=1", None),
        ("optimise.confirm=1", None),
    ],
)
def test_what_an_optimum_needs_is_said_before_the_first_run(tmp_path, change, said):
    (tmp_path / "study.yaml").write_text(LINE.replace("simulator: linear", "simulator:\n  use: linear"))
    code, told = emulate(tmp_path, "run", "study.yaml", "--dry-run", "--set", change)
    assert code == (0 if said is None else 2), told
    assert said is None or said in told


def test_an_emulator_that_was_not_trained_is_asked_for(folder, tmp_path):
    for name in ("study.yaml", "wing_simulator.py"):
        (tmp_path / name).write_text((folder / name).read_text())
    code, said = emulate(tmp_path, *ASKED)
    assert code == 2
    assert "which was not trained in" in said
