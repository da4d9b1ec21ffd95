"""Points that are given: the rows of a table of runs, and a file of the user's."""

import csv
import functools
from pathlib import Path

import numpy as np
import pytest
import torch

import emulate as library
from emulate.errors import InputError
from pipelines import files, given
from pipelines.config import load_study
from pipelines.workbench import Workbench
from tests import commands

emulate = functools.partial(commands.emulate, Path())
N, M = 40, 3
HEAD = "name: noted\nseed: 4\nparameters: {a: {normal: [0, 1]}, b: {normal: [0, 1]}}\n"
TABLE = HEAD + "simulator: {use: table, file: runs.csv, outputs: [{name: y, size: 3, unit: m}]}\n"
LINE = "emulators: {line: {use: polynomial, degree: 1}}\ntracking: {uri: 'off'}\noutput: out\n"
DATA = """\
infer:
  observation: {file: data.txt}
  likelihood: {use: gaussian, absolute_error: 0.3}
  sampler: {use: laplace}
check: {recovery: 4}
"""
FORWARD = np.array([[1.0, 0.5], [-0.5, 1.0], [0.25, 0.25]])  # y = A theta + 1


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A table of a linear map, one run of which failed, and an observation."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(3)
    theta = rng.normal(size=(N, 2))
    y = theta @ FORWARD.T + 1
    with open("runs.csv", "w", newline="") as f:
        rows = csv.writer(f)
        rows.writerow(["a", "b", *(f"y[index={i}]" for i in range(M))])
        rows.writerows(
            [*t.tolist(), *(v.tolist() if i != 7 else ("",) * M)] for i, (t, v) in enumerate(zip(theta, y, strict=True))
        )
    np.savetxt("data.txt", np.array([1.2, 0.9, 1.1]))
    return tmp_path


def study(text, **changes):
    Path("study.yaml").write_text(text)
    return load_study("study.yaml", [f"{k}={v}" for k, v in changes.items()])


def sets(s):
    """theta of each set by the file that the design stage wrote."""
    rows = files.read_csv(s.folder / "design" / "points.csv")
    return {w: [(float(r["a"]), float(r["b"])) for r in rows if r["set"] == w] for w in ("training", "held_out")}


def table():
    rows = files.read_csv(Path("runs.csv"))
    return [(float(r["a"]), float(r["b"])) for r in rows]


def test_a_study_of_a_table_deals_its_rows_and_judges_by_those_held_out(here):
    s = study(TABLE + LINE + "infer: null\n")
    code, said = emulate("run", "study.yaml")
    assert code == 0, said
    assert "40 points: 32 to train on, 8 held out" in said
    assert "39 of 40 runs finished" in said
    dealt = sets(s)
    assert {k: len(v) for k, v in dealt.items()} == {"training": 32, "held_out": 8}
    assert sorted(dealt["training"] + dealt["held_out"]) == sorted(table())
    found = files.read_json(s.folder / "validate" / "findings.json")["emulators"]["line"]
    assert {f["name"].partition(".")[0] for f in found} == {"accuracy", "calibration", "coverage"}
    page = (s.folder / "report" / "index.html").read_text()
    for sentence in (
        "dealt by chance from those of <code>runs.csv</code>",
        "at any a and b of the priors, without a run?",
        "Nobody knows the derivatives of the simulator: its only runs are those of <code>runs.csv</code>",
    ):
        assert page.count(sentence) == 1, sentence
    assert "What runs cost" not in page
    e = library.load(s.folder / "emulators" / "line")
    theta = torch.tensor([[0.3, -0.8]], dtype=torch.float64)
    np.testing.assert_allclose(e.predict(theta).mean.numpy(), theta.numpy() @ FORWARD.T + 1, rtol=1e-6)


def test_all_checks_that_need_no_other_run_are_made_by_default(here):
    assert set(study(TABLE + LINE + "infer: null\n").checks) == {"accuracy", "calibration", "coverage"}
    asked = set(study(TABLE + LINE + DATA).checks)
    assert {"recovery", "tarp", "predictive"} < asked
    assert not asked & {"posterior", "gradient", "fisher", "confirmation"}


def test_a_posterior_of_a_table_is_that_of_the_linear_map_and_no_true_run_weighs_it(here):
    s = study(TABLE + LINE + DATA)
    code, said = emulate("run", "study.yaml")
    assert "4 recovered observations, no true run can weigh the posterior, for the runs are a table" in said
    found = {f["name"] for f in files.read_json(s.folder / "check" / "findings.json")["emulators"]["line"]}
    assert "recovery.joint" in found
    assert not [n for n in found if n.startswith(("posterior", "gradient"))]
    precision = np.eye(2) + FORWARD.T @ FORWARD / 0.3**2
    mean = np.linalg.solve(precision, FORWARD.T @ (np.loadtxt("data.txt") - 1) / 0.3**2)
    sd = np.sqrt(np.diag(np.linalg.inv(precision)))
    told = files.read_json(s.folder / "infer" / "summary.json")["parameters"]
    n = s.infer.draws * s.infer.chains
    for name, m, d in zip("ab", mean, sd, strict=True):
        assert told[name]["mean"] == pytest.approx(m, abs=5 * d / n**0.5 + 1e-4)
        assert told[name]["sd"] == pytest.approx(d, rel=5 / (2 * n) ** 0.5 + 1e-3)
    assert code in (0, 1)


def test_more_runs_to_train_on_are_the_same_and_more_and_another_seed_deals_otherwise(here):
    few, more = study(TABLE + LINE, infer="null", **{"design.runs": 20}), study(TABLE + LINE, infer="null")
    sizes = {"training": 20, "held_out": 8}, {"training": 32, "held_out": 8}
    one, two, other = (given.dealt(s.given, n, seed) for s, n, seed in
                       ((few, sizes[0], 1), (more, sizes[1], 1), (more, sizes[1], 2)))  # fmt: skip
    np.testing.assert_array_equal(one["held_out"], two["held_out"])
    np.testing.assert_array_equal(one["training"], two["training"][:20])
    assert not np.array_equal(two["held_out"], other["held_out"])


def test_a_file_of_points_is_run_by_any_simulator(here):
    text = HEAD + "simulator: {use: linear_gaussian, outputs_count: 4}\ndesign: {file: runs.csv, held_out: 10}\n" + LINE
    s = study(text + "infer: null\nvalidate: {gradient_points: 3}\n")
    assert (s.design.runs, s.design.held_out, s.recorded) == (30, 10, False)
    assert "gradient" in s.checks
    for stage in ("design", "simulate"):
        code, said = emulate(stage, "study.yaml", "--set", "cluster.use=serial")
        assert code == 0, said
    dealt = sets(s)
    assert sorted(dealt["training"] + dealt["held_out"]) == sorted(table())
    from pipelines.terminal import Terminal

    with Workbench(s, Terminal(quiet=True)) as bench:
        runs = bench.runs_of("training")
    for t, y in zip(runs.theta, runs.y, strict=True):
        assert y.tolist() == s.simulator.run(torch.from_numpy(t), seed=0).tolist()
    before = s.section("design")
    Path("runs.csv").write_text(Path("runs.csv").read_text() + "0.5,0.5,1,1,1\n")
    assert load_study("study.yaml").section("design") != before, "a file that changed is read again"


@pytest.mark.parametrize(("changes", "said"), [
    ({"design.runs": 100}, "design.runs: must be at most 32, for runs.csv has 40 points and design.held_out is 8. Got 100"),
    ({"design.use": "latin_hypercube"}, "design.use: must be left out where points are given. Got latin_hypercube"),
    ({"design.file": "runs.csv"}, "design.file: must be left out where the runs are there already"),
    ({"simulate.until": 5}, "simulate.until: must be left out where points are given, for runs.csv does not go on"),
    ({"simulate.jacobians": "auto"}, "simulate.jacobians: must be none, for runs.csv holds the only runs there are"),
    ({"validate.gradient": "auto"}, "validate.gradient: must be left out, for runs.csv holds the only runs"),
    ({"checks": "{gradient: }"}, "checks.gradient: must not ask for runs or derivatives beside those of the table"),
    ({"optimise.minimise": "mean(y)", "optimise.confirm": 2}, "optimise.confirm: must be 0, for runs.csv"),
    ({"optimise.minimise": "mean(y)", "optimise.by": "simulator"}, "optimise.by: must be emulator"),
    ({"design.fidelities": "{low: {runs: 5, with: {stochastic: true}}}"}, "design.fidelities: must be left out"),
    ({"simulator.file": "none.csv"}, "simulator.file: must be a table. Got 'none.csv', which is not there; paths start"),
    ({"design.held_out": 40}, "design.held_out: must be below 40, for runs.csv has so many points"),
    ({"design.replicates": 2}, "design.replicates: must be 1, for runs.csv holds the only runs there are, one at each point"),
    ({"parameters.a": "{uniform: [0, 1]}"}, "simulator: must lie in the priors. Got a = "),
])  # fmt: skip
def test_what_a_table_cannot_give_is_refused_with_its_key(here, changes, said):
    with pytest.raises(InputError) as met:
        study(TABLE + LINE + "infer: null\n", **changes)
    assert said in str(met.value)


@pytest.mark.parametrize(("changes", "said"), [
    ({"infer.method": "npe"}, "infer.method: must be likelihood"),
    ({"infer.observation": "{parameters: {a: 0, b: 0}}"}, "infer.observation.parameters: must be left out"),
    ({"check.delayed_acceptance": 20}, "check.delayed_acceptance: must be 0"),
    ({"checks": "{posterior: }"}, "checks.posterior: must not ask for runs"),
])  # fmt: skip
def test_what_a_posterior_of_a_table_cannot_have_is_refused(here, changes, said):
    with pytest.raises(InputError) as met:
        study(TABLE + LINE + DATA, **changes)
    assert said in str(met.value)


@pytest.mark.parametrize(("rows", "said"), [
    ("a,b\n1,2\n1,2\n", "must have each point once. Got the same in lines 2 and 3"),
    ("a,c\n1,2\n", "must have a column 'b'"),
    ("a,b\n1,\n", "line 2, column b: must be a finite number. Got ''"),
])  # fmt: skip
def test_a_file_of_points_that_cannot_be_one_is_refused(here, rows, said):
    Path("points.csv").write_text(rows)
    with pytest.raises(InputError) as met:
        study(HEAD + "simulator: linear_gaussian\ndesign: {file: points.csv}\n" + LINE + "infer: null\n")
    assert "design.file: " in str(met.value)
    assert said in str(met.value)


@pytest.mark.parametrize(("command", "sentence"), [
    ("verify", "verify must run the simulator at points of its own. Got runs.csv"),
    ("costs", "costs must be those of runs that are made. Got runs.csv"),
])  # fmt: skip
def test_commands_that_need_other_runs_say_why_not(here, command, sentence):
    study(TABLE + LINE + "infer: null\n")
    code, said = emulate(command, "study.yaml")
    assert code == 2
    assert sentence in said


def test_only_the_file_of_points_is_wrong_where_the_runs_are_there(here):
    Path("points.csv").write_text("a,b\n" + "\n".join(f"{0.1 * i},0.5" for i in range(9)))
    with pytest.raises(InputError) as met:
        study(TABLE + LINE + "infer: null\n", **{"design.file": "points.csv", "design.held_out": 2})
    assert str(met.value).count("\n") == 0
    assert "design.file: must be left out" in str(met.value)


def test_figures_of_emulators_that_are_gone_do_not_stay_on_the_page(here):
    """Two emulators are compared on folds, then one alone is trained, which has no such figure."""
    both = LINE.replace("{line", "{square: {use: polynomial, degree: 2}, line")
    pages = []
    for emulators in (both, LINE):
        s = study(TABLE + emulators + "infer: null\n")
        code, said = emulate("run", "study.yaml")
        assert code == 0, said
        pages.append((s.folder / "report" / "index.html").read_text())
    assert ["folds of the training runs" in page for page in pages] == [True, False]
