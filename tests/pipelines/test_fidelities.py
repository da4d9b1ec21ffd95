"""Fidelities of one simulator: nested points, runs in one store, and what they are worth, against closed forms."""

import csv
import functools
import json
import os
from pathlib import Path

import numpy as np
import pytest
import xarray

from emulate.errors import CampaignError, InputError
from emulate.export import groups
from emulate.runs import Field, Outputs, Runs
from emulate.space import Parameter, Space, Uniform
from emulate.store import RunStore
from pipelines import engine, fidelities, files, shard
from pipelines.config import load_study
from pipelines.report import render
from pipelines.stages import design, simulate
from pipelines.terminal import Terminal
from pipelines.workbench import Workbench
from tests import commands
from tests.stored import content, where

ROOT = Path(__file__).parents[2]
QUIET = Terminal(quiet=True)
LAB = """
import math
TIMES = [0.5 * n for n in range(1, 6)]
def fine(p):
    return {"mass": math.exp(p["a"]) + 2 * p["b"], "tilt": p["a"] - p["b"], "x": [p["a"] * math.cos(t * p["b"]) for t in TIMES]}
def coarse(p):
    y = fine(p)
    return {"mass": y["mass"] / 1.25, "tilt": 3 - 2 * y["tilt"], "x": y["x"][:3]}
def rough(p):
    if p["a"] > 0.75:
        raise ValueError("too heavy for so few steps")
    return coarse(p)
"""
FIELDS = "{name: mass, unit: kg, positive: true}, {name: tilt}, {name: x, unit: m, coordinate: t, at: [%s], at_unit: s}"
STUDY = f"""
name: two
parameters:
  a: {{uniform: [0, 1]}}
  b: {{uniform: [0.5, 2]}}
simulator:
  use: function
  call: fidelities_lab:fine
  outputs: [{FIELDS % "0.5, 1, 1.5, 2, 2.5"}]
design:
  runs: 8
  held_out: 4
  fidelities:
    coarse: {{runs: 16, with: {{call: 'fidelities_lab:coarse', outputs: [{FIELDS % "0.5, 1, 1.5"}]}}}}
    few: {{runs: 5, with: {{revision: second}}}}
cluster: {{use: serial}}
emulators: {{quadratic: {{use: polynomial}}}}
validate: {{gradient: {{use: finite_difference}}}}
infer: {{likelihood: {{use: gaussian, absolute_error: 0.1}}}}
tracking: {{uri: 'off'}}
output: out
"""
ROUGH = "design.fidelities={coarse: {runs: 16, with: {call: 'fidelities_lab:rough', outputs: [%s]}}}" % (
    FIELDS % "0.5, 1, 1.5"
)
LINE = """\
name: line
simulator: {use: linear_gaussian, noise: 0.5}
design:
  runs: 16
  fidelities:
    coarse: {runs: 32, with: {outputs_count: 3}}
    noisy: {runs: 4, with: {noise: 2}}
cluster: {use: serial}
emulators: {quadratic: {use: polynomial}}
infer: {likelihood: {use: gaussian, absolute_error: 1}}
tracking: {uri: 'off'}
output: out
"""


emulate = functools.partial(commands.emulate, Path())  # where a test stands


def written(folder: Path) -> Path:
    (folder / "study.yaml").write_text(STUDY)
    (folder / "line.yaml").write_text(LINE)
    (folder / "fidelities_lab.py").write_text(LAB)
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return written(tmp_path)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A study whose design and runs are made."""
    folder, before = written(tmp_path_factory.mktemp("done")), Path.cwd()
    os.chdir(folder)
    try:
        engine.run(load_study("study.yaml"), ["design", "simulate"], QUIET)
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def there(done, monkeypatch):
    monkeypatch.chdir(done)
    return done


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as f:
        return list(csv.DictReader(f))


def mass(a, b):
    return np.exp(a) + 2 * b


# -- points ----------------------------------------------------------------------------------------------------------


def test_points_of_a_design_that_goes_on_are_nested(there):
    study = load_study("study.yaml", ["design.fidelities.few.runs=40"])
    made = design.fidelities(Workbench(study, QUIET))
    training = design.points(Workbench(study, QUIET))["training"]
    assert {n: len(t) for n, t in made.items()} == {"coarse": 16, "few": 40}
    np.testing.assert_array_equal(made["coarse"][:8], training)
    np.testing.assert_array_equal(made["few"][:16], made["coarse"])


def test_points_of_a_design_that_does_not_go_on_share_those_to_train_on(there):
    study = load_study("study.yaml", ["design.use=latin_hypercube"])
    training, made = design.points(Workbench(study, QUIET))["training"], design.fidelities(Workbench(study, QUIET))
    np.testing.assert_array_equal(made["coarse"][:8], training)
    np.testing.assert_array_equal(made["few"], training[:5])
    assert len(np.unique(made["coarse"], axis=0)) == 16
    alone = load_study("study.yaml", ["design.use=latin_hypercube", "design.fidelities.few.runs=12"])
    again = design.fidelities(Workbench(alone, QUIET))
    np.testing.assert_array_equal(again["coarse"], made["coarse"])  # another fidelity moves no point
    np.testing.assert_array_equal(again["few"][:8], training)


def test_the_design_stage_says_where_points_are_not_nested(here, capsys):
    for design_, said in (("latin_hypercube", True), ("sobol", False)):
        engine.run(load_study("line.yaml", [f"design.use={design_}"]), ["design"], Terminal())
        text = " ".join(capsys.readouterr().out.split())
        assert ("points of latin_hypercube do not go on: fidelities share those to train on alone, and" in text) == said


def test_the_design_stage_writes_the_points_of_each_with_its_name(there):
    listed = rows(there / "out" / "design" / "fidelities.csv")
    assert [r["set"] for r in listed] == ["coarse"] * 16 + ["few"] * 5
    own = [r for r in rows(there / "out" / "design" / "points.csv") if r["set"] == "training"]
    assert [(r["a"], r["b"]) for r in listed[:8]] == [(r["a"], r["b"]) for r in own]


# -- runs ------------------------------------------------------------------------------------------------------------


def test_the_runs_are_the_closed_form_and_the_tables_are_typed(there):
    with Workbench(load_study("study.yaml"), QUIET) as bench:
        own, coarse = bench.runs_of("training"), bench.runs_of("coarse")
        with pytest.raises(
            InputError, match=r"^runs must be those of training, held_out, coarse, few\. Got 'course'\. Di"
        ):
            bench.runs_of("course")
    assert isinstance(coarse, Runs)
    assert (own.y.shape, coarse.y.shape) == ((8, 7), (16, 5))
    a, b = coarse.theta.T
    np.testing.assert_allclose(coarse.y[:, 0], mass(a, b) / 1.25, rtol=1e-14)
    np.testing.assert_allclose(coarse.y[:, 1], 3 - 2 * (a - b), rtol=1e-14)
    np.testing.assert_array_equal(coarse.y[:8, 2:], own.y[:, 2:5])
    table = rows(there / "out" / "simulate" / "runs_coarse.csv")
    assert [float(r["mass"]) for r in table] == coarse.y[:, 0].tolist()
    assert {r["set"] for r in table} == {"coarse"}
    assert list(table[0])[3:8] == ["mass", "tilt", "x[t=0.5]", "x[t=1]", "x[t=1.5]"]


def test_the_summary_says_what_each_is_worth(there):
    told = files.read_json(there / "out" / "simulate" / "fidelities.json")
    assert list(told) == ["coarse", "few"]
    coarse = told["coarse"]
    assert (coarse["planned"], coarse["finished"], coarse["failed"]) == (16, 16, 0)
    assert coarse["settings"]["call"] == "fidelities_lab:coarse"
    assert coarse["seconds"]["total"] >= coarse["seconds"]["median"] > 0
    own = files.read_json(there / "out" / "simulate" / "summary.json")["seconds"]["median"]
    assert 0.1 < coarse["speed"] * coarse["seconds"]["median"] / own < 10  # the median of held-out runs is in it too
    met = coarse["agreement"]
    assert met["points"] == 8
    assert list(met["outputs"]) == ["mass", "tilt", "x[t=0.5]", "x[t=1]", "x[t=1.5]"]
    assert list(met["outputs"]["mass"]["ratio"].values()) == pytest.approx([1.25] * 3)
    assert [o["correlation"] for o in met["outputs"].values()] == pytest.approx([1, -1, 1, 1, 1])
    with Workbench(load_study("study.yaml"), QUIET) as bench:
        tilt = bench.runs_of("training").y[:, 1]
    expected = np.quantile((tilt - (3 - 2 * tilt)) / tilt.std(), [0.05, 0.5, 0.95])
    assert list(met["outputs"]["tilt"]["difference"].values()) == pytest.approx(expected.tolist())
    assert told["few"]["agreement"]["points"] == 5
    figure = {f["name"]: f for f in files.read_json(there / "out" / "simulate" / "figures.json")}["fidelities"]
    assert "coarse: 16 of 16 runs finished, " in figure["caption"]
    assert "; outputs of both correlate by -1 to 1 at 8 points." in figure["caption"]
    assert (there / "out" / "simulate" / "fidelities.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("speed", "each", "said"),
    [
        (1 / 667.2, 0.15, "coarse: 9 of 10 runs finished, 0.15 s each, 667 times slower than the study's own."),
        (5.55, 0.15, "coarse: 9 of 10 runs finished, 0.15 s each, 5.5 times faster than the study's own."),
        (123456.0, 1e-5, "coarse: 9 of 10 runs finished, 1e-05 s each, 123456 times faster than the study's own."),
        (None, None, "coarse: 9 of 10 runs finished."),
    ],
)
def test_what_a_fidelity_took_in_words(speed, each, said):
    part = {"planned": 10, "finished": 9, "seconds": {"median": each}, "speed": speed, "agreement": None}
    assert fidelities.sentence("coarse", part) == said
    nothing = {"points": 5, "outputs": {"y": {"correlation": float("nan")}}}
    assert fidelities.sentence("coarse", {**part, "agreement": nothing}) == (
        f"{said[:-1]}; outputs do not vary at 5 points.")  # fmt: skip


def test_the_report_lists_fidelities(there):
    page = render(there / "out")
    assert "<td>coarse</td>" in page
    assert 'id="figure-simulate-fidelities"' in page


@pytest.mark.slow
def test_nothing_is_run_twice_when_a_fidelity_grows_or_comes_to_it(here, capsys):
    changes = ["design.fidelities.coarse.runs=4"]
    study = load_study("study.yaml", changes)
    engine.run(study, ["design", "simulate", "train"], Terminal())
    store = RunStore(study.folder / "store")
    first = where(store)
    assert len(first) == 8 + 4 + 4 + 5
    code, output = emulate("simulate", "study.yaml", "--dry-run", "--set", "design.fidelities.coarse.runs=10")
    assert code == 0
    assert "0 runs to do, 12 stored; coarse: 6 to do, 4 stored; few: 0 to do, 5 stored; " in output
    capsys.readouterr()
    more = ["design.fidelities.coarse.runs=10", "design.fidelities.third={runs: 3, with: {revision: third}}"]
    engine.run(load_study("study.yaml", more), ["design", "simulate", "train"], Terminal())
    said = capsys.readouterr().out
    assert "train: skipped, unchanged" in said  # no emulator reads them yet
    assert "design: skipped" not in said
    now = where(store)
    assert len(now) == len(first) + 6 + 3
    assert first.items() <= now.items()
    engine.run(load_study("study.yaml", ["design.fidelities={few: {runs: 5, with: {revision: second}}}"]),
               ["design", "simulate"], QUIET)  # fmt: skip
    assert [p.name for p in (study.folder / "simulate").glob("runs_*")] == ["runs_few.csv"]
    assert len(store.keys()) == len(now)


def test_a_section_holds_what_its_stage_depends_on(here):
    def sections(*changes):
        study = load_study("line.yaml", changes)
        return {s: json.dumps(study.section(s), sort_keys=True) for s in ("design", "simulate", "train", "check")}

    def touched(*changes):
        return {s for s, text in sections(*changes).items() if text != sections()[s]}

    assert touched("design.fidelities.more={runs: 3, with: {noise: 3}}") == {"design", "simulate"}
    assert touched("design.fidelities.noisy.runs=5") == {"design", "simulate"}
    assert touched("design.fidelities.noisy.with.noise=3") == {"simulate"}
    (here / "plain.yaml").write_text(LINE[: LINE.index("  fidelities")] + LINE[LINE.index("cluster") :])
    assert "fidelities" not in json.dumps([load_study("plain.yaml").section(s) for s in ("design", "simulate")])
    assert "fidelities" not in json.dumps(load_study("plain.yaml").to_dict())


def test_a_training_run_has_its_jacobian_and_a_fidelity_none(here):
    study = load_study("line.yaml", ["simulate.jacobians=auto", "design.fidelities.coarse.runs=3"])
    engine.run(study, ["design"], QUIET)
    with Workbench(study, QUIET) as bench:
        own = bench.tasks(bench.points("training"))
        coarse = bench.tasks(bench.points("coarse"), fidelity="coarse")
    assert {t.product for t in own} == {"tangent"}
    assert {t.product for t in coarse} == {"y"}
    assert [t.seed for t in own[:3]] == [0] * 3 or [t.seed for t in coarse] == [t.seed for t in own[:3]]


def test_runs_at_one_point_have_one_seed_at_every_fidelity(here):
    study = load_study("line.yaml")
    engine.run(study, ["design"], QUIET)
    with Workbench(study, QUIET) as bench:
        seeds = {n: [t.seed for t in bench.tasks(bench.points(n), fidelity=n)] for n in study.fidelities}
        own = [t.seed for t in bench.tasks(bench.points("training"))]
    assert seeds["coarse"][:16] == own
    assert seeds["noisy"] == own[:4]
    assert len(set(own)) == 16


# -- failures --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_fidelity_that_falls_short_is_named_with_its_failures(here):
    engine.run(load_study("study.yaml", [ROUGH]), ["design"], QUIET)
    code, output = emulate("simulate", "study.yaml", "--set", ROUGH)
    assert code == 3
    assert "12 of 16 runs of coarse finished; the study asks for 90% (simulate.require). The most frequent reason, 4 " in (
        output)  # fmt: skip
    assert "lower simulate.require, or take design.fidelities.coarse out." in output
    assert files.read_json(here / "out" / "simulate" / "summary.json")["failed"] == 0
    told = files.read_json(here / "out" / "simulate" / "fidelities.json")["coarse"]
    assert (told["failed"], len(told["failures"])) == (4, 4)
    assert told["failures"][0]["parameters"]["a"] > 0.75
    assert told["agreement"]["points"] < 8
    code, output = emulate("status", "study.yaml", "--failed", "--set", ROUGH)
    assert code == 0
    assert output.count(" coarse a=") == 4
    assert "By kind: 4 error." in output
    store = RunStore(here / "out" / "store")
    failed = [k for k in store.keys() if store.failed(k)]  # noqa: SIM118
    code, output = emulate("status", "study.yaml", "--run", failed[0], "--set", ROUGH)
    assert "fidelity coarse" in output
    code, output = emulate("simulate", "study.yaml", "--retry-failed", "--set", ROUGH, "--set", "simulate.require=0.5")
    assert code == 0, output
    assert len(list((here / "out" / "store" / "forgotten").iterdir())) == 4


def test_no_fidelity_is_run_where_the_study_itself_falls_short(here):
    (here / "fidelities_lab3.py").write_text("def wrong(p):\n    raise ValueError('a mistake')\n")
    study = load_study("study.yaml", ["simulator.call=fidelities_lab3:wrong"])
    engine.run(study, ["design"], QUIET)
    with pytest.raises(
        CampaignError, match=r"^0 of 12 runs finished; the study asks for 90% \(simulate\.require\)\. The"
    ):
        engine.run(study, ["simulate"], QUIET)
    assert len(RunStore(study.folder / "store").keys()) == 12


def test_points_that_are_not_there_are_asked_for(here):
    engine.run(load_study("line.yaml"), ["design"], QUIET)
    with (
        Workbench(load_study("line.yaml", ["design.fidelities.third={runs: 3, with: {noise: 3}}"]), QUIET) as bench,
        pytest.raises(InputError, match=r"must have the points of third\. Got none; run `emulate design` first, or"),
    ):
        bench.runs_of("third")
    with pytest.raises(InputError, match=r"must have the points of third\. Got none; run `emulate design` first, or"):
        engine.run(
            load_study("line.yaml", ["design.fidelities.third={runs: 3, with: {noise: 3}}"]), ["simulate"], QUIET
        )
    assert not (here / "out" / "store").exists()  # it is said before the first run


# -- executors and commands ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_shares_and_workers_make_the_same_bytes(here):
    only = "design.fidelities={coarse: {runs: 20, with: {outputs_count: 3}}}"
    studies = [load_study("line.yaml", [f"output={n}", f"cluster.use={use}", only])
               for n, use in (("shares", "serial"), ("two", "local"))]  # fmt: skip
    for study in studies:
        with Workbench(study, QUIET) as bench:
            bench.write_points("design/points.csv", design.points(bench))
            bench.write_points("design/fidelities.csv", design.fidelities(bench))
    for i in (2, 1):
        assert shard.run(studies[0], (i, 2), QUIET) == 0
    assert len(RunStore(here / "shares" / "store").keys()) == 16 + 20 + 20
    noted = [g.outputs.size for g in groups(RunStore(here / "shares" / "store"))]
    assert sorted(noted) == [3, 5]  # shares note names and units too
    for study in studies:
        with Workbench(study, QUIET) as bench:
            simulate.run(bench)
    shares, two = here / "shares", here / "two"
    assert content(shares / "store") == content(two / "store")
    for name in ("runs.csv", "runs_coarse.csv"):
        assert (shares / "simulate" / name).read_bytes() == (two / "simulate" / name).read_bytes()


@pytest.mark.slow
def test_costs_are_told_by_fidelity(here):
    code, output = emulate("costs", "line.yaml", "--pilot", "3")
    assert code == 0, output
    assert "runs of coarse 3 29 " in output
    assert "runs of noisy 3 1 " in output
    assert "To do: " in output
    told = files.read_json(here / "out" / "costs" / "summary.json")
    assert {k: (v["measured"], v["todo"]) for k, v in told["fidelities"].items()} == {
        "coarse": (3, 29),
        "noisy": (3, 1),
    }
    assert told["products"]["y"]["measured"] == 3
    assert (here / "out" / "costs" / "y_coarse.png").exists()
    code, output = emulate("simulate", "line.yaml", "--dry-run")
    assert "33 runs to do, 3 stored; coarse: 29 to do, 3 stored; noisy: 1 to do, 3 stored; " in output
    assert " core-seconds (" in output


def test_prune_keeps_the_runs_of_fidelities(there):
    store = RunStore(there / "out" / "store")
    before = store.keys()
    code, output = emulate("store", "prune", "study.yaml", "--unused", "study.yaml", "--yes")
    assert (code, output) == (0, f"There is nothing to remove in {store.path}.")
    assert store.keys() == before


def test_an_export_holds_every_fidelity_by_its_name(there):
    code, output = emulate("store", "export", "study.yaml", "runs.nc")
    assert code == 0, output
    assert "runs.nc, group own: function version " in output
    with xarray.open_datatree("runs.nc", engine="h5netcdf") as tree:
        assert list(tree.children) == ["own", "coarse", "few"]
        assert {n: tree[n].sizes["run"] for n in tree.children} == {"own": 12, "coarse": 16, "few": 5}
        assert json.loads(tree["coarse"].attrs["settings"])["call"] == "fidelities_lab:coarse"
        assert tree["coarse"].attrs["fidelity"] == "coarse"
        assert (tree["own"].sizes["x_t"], tree["coarse"].sizes["x_t"], tree["coarse"]["x"].units) == (5, 3, "m")
    code, output = emulate("store", "export", "study.yaml", "runs.csv", "--group", "coarse")
    assert code == 0, output
    assert {r["fidelity"] for r in rows(there / "runs.csv")} == {"coarse"}
    study = load_study("study.yaml")
    (few,) = [g for g in groups(RunStore("out/store")) if g.who["settings"]["revision"] == "second"]
    table = few.to_runs(study.space)
    np.testing.assert_allclose(table.y[:, 0], mass(*table.theta.T), rtol=1e-14)
    assert few.outputs == study.simulator.outputs


def test_agreement_is_of_fields_with_one_name_at_the_coordinates_of_both():
    space, theta = Space((Parameter("a", Uniform(0, 1)),)), np.array([[0.1], [0.2], [0.4], [0.8]])
    own = Outputs((Field("t"), Field("pk", "m", True, "k", (0.1, 0.2, 0.3)), Field("z")))
    other = Outputs((Field("pk", "m", True, "k", (0.2, 0.3 * (1 + 1e-12), 0.4)), Field("t", "s")))
    y = np.hstack([theta, 3 * theta, 4 * theta, 5 * theta, theta])
    y_other = np.hstack([2 * theta, theta**2, theta, theta])
    y_other[3] = np.nan
    met = fidelities.agreement(Runs.of(space, own, theta, y), Runs.of(space, other, theta, y_other))
    assert [own.labels[c] for c in met.columns] == ["pk[k=0.2]", "pk[k=0.3]"]  # `t` has another unit
    assert len(met.own) == 3  # the fourth point failed in one of them
    assert met.middle[1].tolist() == pytest.approx([2.0, 5 / 0.2])
    known = np.corrcoef(5 * theta[:3, 0], theta[:3, 0] ** 2)[0, 1]
    assert met.correlation.tolist() == pytest.approx([1.0, known])
    assert fidelities.agreement(Runs.of(space, own, theta[:2], y[:2]), Runs.of(space, other, theta, y_other)) is None
    alone = Outputs((Field("else"),))
    assert fidelities.agreement(Runs.of(space, own, theta, y), Runs.of(space, alone, theta, theta)) is None
    flat = Runs.of(space, alone, theta, np.ones((4, 1)))
    assert np.isnan(fidelities.agreement(flat, flat).correlation).all()


# -- what a user types -----------------------------------------------------------------------------------------------


COARSE = "    coarse: {runs: 32, with: {outputs_count: 3}}"
SAID = "must be settings of the simulator that replace the study's, {key: value}. "


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (LINE[LINE.index("    coarse") : LINE.index("cluster")], "    3\n", "5: design.fidelities: must be names with runs "
         "and settings, such as {coarse: {runs: 256, with: {particles: 16}}}. Got 3."),
        ("coarse:", "2nd:", "6: design.fidelities.2nd: must be a word of letters, digits and _ (at most 60) that begins "
         "with no digit. Got '2nd'; rename it."),
        ("coarse:", "a-b:", "6: design.fidelities.a-b: must be a word of letters, digits and _ (at most 60) that begins "
         "with no digit. Got 'a-b'; rename it."),
        ("coarse:", "training:", "6: design.fidelities.training: must be a name that stands for nothing else. It is "
         "that of a set of runs; rename it."),
        ("coarse:", "Noisy:", "7: design.fidelities.noisy: must be a name that stands for nothing else. It is that "
         "of the fidelity Noisy; rename it."),
        (COARSE, "    coarse: 32", "6: design.fidelities.coarse: must be runs and settings, such as {runs: 256, with: "
         "{particles: 16}}. Got 32."),
        ("runs: 32", "rums: 32", "6: design.fidelities.coarse.rums: this key is not known. Keys allowed here: runs, with. "
         'Did you mean "runs"?'),
        ("runs: 32, ", "", "6: design.fidelities.coarse.runs: this key is missing. Add it."),
        ("runs: 32", "runs: 0", "6: design.fidelities.coarse.runs: must be at least 1. Got 0."),
        ("runs: 32", "runs: many", "6: design.fidelities.coarse.runs: must be a whole number. Got 'many'."),
        (", with: {outputs_count: 3}", "", f"6: design.fidelities.coarse.with: {SAID}Got nothing; name at least one."),
        ("{outputs_count: 3}", "{}", f"6: design.fidelities.coarse.with: {SAID}Got {{}}; name at least one."),
        ("{outputs_count: 3}", "fast", f"6: design.fidelities.coarse.with: {SAID}Got 'fast'; name at least one."),
        ("{outputs_count: 3}", "{outputs_cont: 3}", "6: design.fidelities.coarse.with.outputs_cont: this key is not known. "
         'Keys allowed here: outputs_count, noise. Did you mean "outputs_count"?'),
        ("{outputs_count: 3}", "{outputs_count: 0}", "6: design.fidelities.coarse.with.outputs_count: must be at least 1. "
         "Got 0."),
        ("{outputs_count: 3}", "{use: nbody}", "6: design.fidelities.coarse.with.use: a fidelity is the same simulator over "
         "the same parameters, with other settings. Take it out."),
        ("{outputs_count: 3}", "{space: []}", "6: design.fidelities.coarse.with.space: a fidelity is the same simulator "
         "over the same parameters, with other settings. Take it out."),
        ("{outputs_count: 3}", "{noise: 0.5}", "6: design.fidelities.coarse.with: must change what the simulator answers. "
         "With {'noise': 0.5} it is the study's own simulator; change a setting, or raise the runs of that."),
        ("{outputs_count: 3}", "{noise: 2.0}", "7: design.fidelities.noisy.with: must change what the simulator answers. "
         "With {'noise': 2} it is the fidelity coarse; change a setting, or raise the runs of that."),
    ],
)  # fmt: skip
def test_mistakes_are_answered_with_key_and_line(here, old, new, said):
    assert LINE.count(old) == 1
    (here / "line.yaml").write_text(LINE.replace(old, new))
    with pytest.raises(InputError) as caught:
        load_study("line.yaml")
    assert str(caught.value) == f"line.yaml:{said}"


def test_settings_that_change_the_parameters_or_break_the_simulator_are_refused(here, monkeypatch):
    (here / "fidelities_lab2.py").write_text(
        "from dataclasses import dataclass\nfrom emulate.simulators.linear_gaussian import LinearGaussian\n"
        "from emulate.space import Normal, Parameter, Space\nfrom emulate.errors import InputError\n"
        "@dataclass(frozen=True, kw_only=True)\nclass Odd(LinearGaussian):\n    names: str = 'ab'\n"
        "    def __post_init__(self):\n"
        "        object.__setattr__(self, 'space', Space(tuple(Parameter(n, Normal(0, 1)) for n in self.names)))\n"
        "    @property\n    def outputs(self):\n"
        "        if self.noise == 3:\n            raise InputError('there is no table of that noise')\n"
        "        if self.noise == 4:\n            raise ZeroDivisionError('noise')\n"
        "        return super().outputs\n"
    )
    monkeypatch.syspath_prepend(str(here))
    text = LINE.replace("linear_gaussian", "'fidelities_lab2:Odd'")
    met = {"{names: abc}": "must keep the parameters of the study, a, b, with their priors. These settings make them a, b, "
                           "c; take that setting out.",
           "{noise: 3}": "there is no table of that noise",
           "{noise: 4}": "cannot be imported: ZeroDivisionError: noise. Mend its module."}  # fmt: skip
    for settings, said in met.items():
        (here / "odd.yaml").write_text(text.replace("{outputs_count: 3}", settings))
        with pytest.raises(InputError) as caught:
            load_study("odd.yaml")
        assert str(caught.value) == f"odd.yaml:6: design.fidelities.coarse.with: {said}"


def test_the_resolved_study_reads_as_itself(here):
    whole = load_study("study.yaml").to_dict()
    assert whole["design"]["fidelities"]["few"] == {"runs": 5, "with": {"revision": "second"}}
    (here / "again.yaml").write_text(json.dumps(whole))
    assert load_study("again.yaml").to_dict() == whole


# -- the study in configs --------------------------------------------------------------------------------------------


def test_the_config_asks_for_cheaper_runs_at_more_points_of_the_same_box(monkeypatch):
    monkeypatch.chdir(ROOT)
    study = load_study("configs/fidelities.yaml")
    sizes = [study.simulator_of(n).particles for n in ("", *study.fidelities)]
    runs = [study.design.runs, *(f.runs for f in study.fidelities.values())]
    assert sizes == sorted(sizes, reverse=True)
    assert runs == sorted(runs)
    assert {study.simulator_of(n).box for n in ("", *study.fidelities)} == {study.simulator.box}


@pytest.mark.slow
def test_the_coarse_universe_of_the_config_is_close_to_the_fine_one(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    changes = [f"output={tmp_path}", "tracking.uri=off", "cluster.use=serial", "design.runs=16",
               "design.fidelities.coarse.runs=20", "design.fidelities.coarser.runs=20"]  # fmt: skip
    engine.run(load_study("configs/fidelities.yaml", changes), ["design", "simulate"], QUIET)
    told = files.read_json(tmp_path / "simulate" / "fidelities.json")
    met = told["coarse"]["agreement"]["outputs"]
    assert len(met) == 4  # the wavenumbers that 16^3 particles resolve
    assert all(1.0 < o["ratio"]["median"] < 1.1 for o in met.values())
    assert min(o["correlation"] for o in met.values()) > 0.999
    coarser = told["coarser"]["agreement"]["outputs"]["pk[k=0.05475]"]
    assert coarser["ratio"]["median"] > met["pk[k=0.05475]"]["ratio"]["median"]


def test_an_emulator_that_names_an_unknown_fidelity_is_refused_before_the_first_run(there):
    with pytest.raises(InputError, match=r"emulators\.both\.fidelities: must be among those of design\.fidelities, "
                       r'coarse, few\. Got "?\'?coars"?\'?; add it there, or mend the name\. Did you mean "coarse"\?'):  # fmt: skip
        load_study("study.yaml", ["emulators={both: {use: multifidelity, fidelities: [coars]}}"])


def test_an_emulator_learns_from_the_fidelities_that_it_names(here):
    """`coarse` is the simulator over 1.25, or 3 - 2 y: on folds and on all runs, and another list is another fit."""
    process = "{use: gp, kernel: rbf, mean: constant, starts: 1}"
    change = f"emulators={{both: {{use: multifidelity, fidelities: [coarse], low: {process}, high: {process}}}}}"
    study = load_study("study.yaml", [change, "train.folds=2"])
    engine.run(study, ["design", "simulate", "train"], QUIET)
    assert files.read_json(study.folder / "train" / "comparison.json")["emulators"]["both"]["note"] == ""
    bench = Workbench(study, QUIET)
    emulator, held_out = bench.emulator("both"), bench.runs_of("held_out")
    assert emulator.provenance["recipe"]["fidelities"] == ["coarse"]
    off = np.abs(emulator.predict(held_out.theta).mean.numpy() - held_out.y)[:, 0] / held_out.y[:, 0]
    assert np.median(off) < 0.06  # 8 runs of its own
    assert study.section("train") != load_study("study.yaml", [change.replace("[coarse]", "[few]")]).section("train")
