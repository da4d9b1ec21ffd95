"""train on folds: the same bits on any number of workers, nothing dropped, nothing fitted twice, the choice kept."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import PredefinedSplit, cross_val_predict

HERE = Path(__file__).parents[1]
sys.path.append(str(HERE))  # where rivals.py lies, for this process and its workers
import rivals  # noqa: E402, F401

from emulate.comparison import deal  # noqa: E402
from emulate.errors import CampaignError, InputError  # noqa: E402
from pipelines import campaign, comparison, files, report, typeset, yaml12  # noqa: E402
from pipelines.config import load_study  # noqa: E402
from pipelines.schema import schema  # noqa: E402
from pipelines.study import ClusterPart  # noqa: E402
from pipelines.terminal import Terminal  # noqa: E402
from pipelines.workbench import Workbench  # noqa: E402
from tests.commands import emulate  # noqa: E402

STUDY = """
name: rivals
seed: 5
parameters: {a: {uniform: [0, 1]}, b: {uniform: [0, 1]}}
simulator: {use: linear_gaussian, outputs_count: 2, noise: 0.1}
design: {runs: 24, held_out: 8}
simulate: {jacobians: auto}
cluster: {use: serial}
emulators: EMULATORS
infer: {likelihood: {absolute_error: 0.2}}
tracking: {uri: "off"}
output: out
"""
PLAIN = "{line: {use: polynomial, degree: 1}, quadratic: {use: polynomial}}"


def write(folder: Path, emulators: str = PLAIN) -> Path:
    (folder / "study.yaml").write_text(STUDY.replace("EMULATORS", emulators))
    return folder


def trained(folder: Path, *changes: str, force: bool = True) -> tuple[int, str]:
    sets = [w for c in changes for w in ("--set", c)]
    return emulate(folder, "train", "study.yaml", *sets, *(["--force"] if force else []))


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """The runs of the study, made once."""
    folder = write(tmp_path_factory.mktemp("rivals"))
    for stage in ("design", "simulate"):
        code, said = emulate(folder, stage, "study.yaml")
        assert code == 0, said
    return folder


@pytest.fixture
def made(runs, tmp_path):
    """A folder of one's own with these runs, and any emulators."""

    def copy(emulators: str = PLAIN, name: str = "mine") -> Path:
        shutil.copytree(runs, tmp_path / name)
        return write(tmp_path / name, emulators)

    return copy


def found(folder: Path) -> dict:
    return files.read_json(folder / "out" / "train" / "comparison.json")


def bits(folder: Path) -> dict[str, str]:
    """Every fold of every emulator, as it was stored but for its seconds."""
    out = folder / "out" / comparison.FOLDER
    return {f: json.dumps(files.read_json(out / f) | {"seconds": 0})
            for listed in found(folder)["files"].values() for f in listed}  # fmt: skip


def test_errors_of_a_line_are_those_of_scikit_learn_on_the_same_folds(made, monkeypatch):
    folder = made()
    code, said = trained(folder)
    assert code == 0, said
    monkeypatch.chdir(folder)
    study = load_study("study.yaml")
    with Workbench(study, Terminal(quiet=True)) as bench:
        table = bench.runs(bench.points("training"))
        fold = deal(24, 5, seed=bench.seed("train/folds"))
    theirs = cross_val_predict(LinearRegression(), table.theta, table.y, cv=PredefinedSplit(fold))
    spread = np.sqrt(table.y.var(0, ddof=1))
    error = (np.abs(theirs - table.y) / spread).max(1)
    row = found(folder)["emulators"]["line"]
    assert row["median"] == pytest.approx(np.median(error), rel=1e-8)
    each = [np.median(error[fold == k]) for k in range(5)]
    assert row["median_error"] == pytest.approx(np.std(each, ddof=1) / 5**0.5, rel=1e-8)
    assert row["gradient"] < 0.3
    for word in ("log score", "median error", "gradient error", "95 % coverage", "line is chosen"):
        assert word in said


LEARNED = """{gp: {use: gp, kernel: rbf, mean: constant}, mlp: {use: mlp, members: 3, epochs: 3}, line: {use: polynomial},
              refuses: {use: "rivals:Troubled", kind: raise, below: 24}}"""


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_any_number_of_workers_stores_the_bits_of_none(made, monkeypatch, workers):
    alone, together = made(LEARNED, "alone"), made(LEARNED, "together")
    assert trained(alone)[0] == 0
    monkeypatch.setattr(campaign, "_ALONE", 0.0)
    code, said = trained(together, "cluster.use=local", f"cluster.workers={workers}")
    assert code == 0, said
    assert len(bits(alone)) == 20
    assert bits(alone) == bits(together)
    keys = ("log_score", "gradient", "note")
    assert [[r[k] for k in keys] for r in found(alone)["emulators"].values()] == [
        [r[k] for k in keys] for r in found(together)["emulators"].values()
    ]


PLANTED = """
  boastful: {use: "rivals:Bent", stated: 0.25}
  raises: {use: "rivals:Troubled"}
  holes: {use: "rivals:Bent", missing: 0.4}
  honest: {use: "rivals:Bent"}
  greedy: {use: polynomial, degree: 5}
  shy: {use: "rivals:Bent", stated: 4.0}
"""


def test_the_honest_one_is_chosen_and_all_others_are_told_with_their_reason(made):
    folder = made(PLANTED)
    code, said = trained(folder)
    assert code == 0, said
    rows = found(folder)["emulators"]
    assert list(rows) == ["boastful", "raises", "holes", "honest", "greedy", "shy"]
    assert rows["raises"]["note"] == "failed on 5 of 5 folds: ZeroDivisionError: seven divided by nothing"
    assert rows["holes"]["note"].startswith("its log density is not a finite number at ")
    assert rows["greedy"]["note"] == "not compared: needs 22 runs, and a fold leaves 19"
    assert "honest is chosen: it has the best log score" in said
    assert "raises was not fitted: ZeroDivisionError: seven divided" in said
    assert "ZeroDivisionError" in (folder / "out" / "train" / "raises.log").read_text()
    assert not (folder / "out" / "emulators" / "raises").exists()
    assert "folds" in [f["name"] for f in files.read_json(folder / "out" / "train" / "figures.json")]
    assert (folder / "out" / "train" / "folds.png").stat().st_size > 5000
    code, said = emulate(folder, "validate", "study.yaml", "--set", "validate.gradient_points=2")
    chosen = files.read_json(folder / "out" / "validate" / "champion.json")
    assert chosen["champion"] == "honest"
    assert "raises" not in files.read_json(folder / "out" / "train" / "scores.json")["emulators"]
    page = report.render(folder / "out")
    assert "ZeroDivisionError: seven divided by nothing" in page
    assert typeset.prose(chosen["why"]) in page


def test_a_champion_that_failed_is_an_error_in_words(made):
    folder = made(PLANTED)
    code, said = trained(folder, "train.champion=raises")
    assert code == 2
    assert "train.champion: raises could not be fitted: ZeroDivisionError: seven divided by nothing" in said
    write(folder, '{partly: {use: "rivals:Troubled", kind: refuse, below: 24}, line: {use: polynomial, degree: 1}}')
    code, said = trained(folder, "train.champion=partly")
    assert code == 2
    assert ("train.champion: must name an emulator that can be fitted. partly failed on 5 of 5 folds: troubled: runs must be "
            "more. Got few. Mend its recipe, name another emulator, or set train.folds: 0.") in said  # fmt: skip
    assert trained(folder, "train.champion=partly", "train.folds=0")[0] == 0
    code, said = trained(folder, "train.champion=auto")
    assert code == 0
    assert "line is chosen: it is the only one that could be compared." in said


def test_when_all_fail_the_stage_does_with_the_first_reason(made):
    folder = made(
        '{one: {use: "rivals:Troubled"}, two: {use: "rivals:Troubled", kind: refuse}, three: {use: polynomial}}'
    )
    code, said = trained(folder, "train.baseline=three")
    assert code == 2
    assert "train: every emulator beside the baseline could not be fitted: ZeroDivisionError" in said
    assert "two was not fitted: troubled: runs must be more." in said


def test_without_folds_held_out_runs_choose_as_they_did(made):
    folder = made(PLANTED)
    assert trained(folder, "train.folds=0")[0] == 0
    assert found(folder) == {"folds": 0, "runs": 24, "emulators": {}, "files": {}}
    assert not (folder / "out" / "train" / "folds").exists()
    _, said = emulate(folder, "validate", "study.yaml", "--set", "validate.gradient_points=2", "--set", "train.folds=0")
    scores = files.read_json(folder / "out" / "train" / "scores.json")
    able = {n: r["log_score"] for n, r in scores["emulators"].items() if r["log_score"] is not None}
    assert scores["champion"] == max(able, key=able.get)
    assert "it has the best log score on held-out runs" in said


def test_what_is_stored_is_not_fitted_again_and_what_is_gone_is(made):
    folder = made(PLAIN)
    trained(folder)
    before, out = bits(folder), folder / "out" / comparison.FOLDER
    times = {f: (out / f).stat().st_mtime_ns for f in before}
    gone = found(folder)["files"]["line"][3]
    (out / gone).unlink()
    torn = found(folder)["files"]["quadratic"][1]
    (out / torn).write_text("{")
    trained(folder)
    assert bits(folder) == before
    assert {f for f in before if (out / f).stat().st_mtime_ns != times[f]} == {gone, torn}
    write(folder, PLAIN.replace("degree: 1", "degree: 1, calibrate: false"))
    trained(folder)
    after = bits(folder)
    assert len(set(after) & set(before)) == 5  # those of the other emulator
    assert {p.name for p in out.glob("*.json")} == set(after)


KILLS = """{line: {use: polynomial, degree: 1}, kills: {use: "rivals:Troubled", kind: kill, below: 24, once: ONCE}}"""


@pytest.mark.slow
def test_a_train_that_is_killed_goes_on_where_it_was(made, tmp_path):
    folder = made(KILLS.replace("ONCE", str(tmp_path / "once")))
    code = "import sys; sys.argv = sys.argv[1:]; from pipelines.cli import main; main()"
    words = [sys.executable, "-c", code, "emulate", "train", "study.yaml", "--force"]
    environment = {**os.environ, "PYTHONPATH": f"{HERE}:{HERE.parent}"}
    assert subprocess.run(words, cwd=folder, env=environment, capture_output=True).returncode == -signal.SIGKILL
    out = folder / "out" / comparison.FOLDER
    times = {p: p.stat().st_mtime_ns for p in out.glob("*.json")}
    assert len(times) == 5  # of the line
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(bits(folder)) == 10
    assert {p: p.stat().st_mtime_ns for p in times} == times
    assert found(folder)["emulators"]["kills"]["note"] == ""


@pytest.mark.slow
def test_a_fit_whose_worker_is_lost_is_made_again_and_one_that_ends_each_is_a_failure(made, tmp_path, monkeypatch):
    monkeypatch.setattr(campaign, "_ALONE", 0.0)
    always = ', always: {use: "rivals:Troubled", kind: kill, below: 24}}'
    folder = made(KILLS.replace("ONCE", str(tmp_path / "once"))[:-1] + always)
    code, said = trained(folder, "cluster.use=local", "cluster.workers=2", "train.folds=2")
    assert code == 0, said
    assert (tmp_path / "once").exists()
    notes = {n: r["note"] for n, r in found(folder)["emulators"].items()}
    assert notes == {"line": "", "kills": "", "always": "failed on 2 of 2 folds: its fit ended the worker each time"}
    assert (folder / "out" / "emulators" / "always").exists()  # of all runs it made one


SLOW = """{slow: {use: "rivals:Troubled", kind: slow, lasts: 0.1}, next: {use: "rivals:Troubled", kind: slow, lasts: 0.1},
           late: {use: polynomial, degree: 1}}"""


def test_a_search_ends_with_its_time_tells_what_it_left_and_comes_out_the_same_again(made):
    folder = made(SLOW)
    code, said = trained(folder, "train.within=0.8")
    assert code == 0, said
    rows = found(folder)["emulators"]
    assert rows["slow"]["note"] == ""
    assert rows["late"]["note"] == "not tried: the 0.8 s of train.within were over"
    (only,) = (folder / "out" / "emulators").iterdir()
    emulate(folder, "validate", "study.yaml", "--set", "validate.gradient_points=2", "--set", "train.within=0.8")
    champion = files.read_json(folder / "out" / "validate" / "champion.json")
    assert champion["champion"] == only.name
    assert champion["why"] in said
    search = files.read_json(folder / "out" / comparison.FOLDER / "search.json")
    again, said = trained(folder, "train.within=0.8")
    assert again == 0, said
    assert found(folder)["emulators"] == rows
    assert files.read_json(folder / "out" / comparison.FOLDER / "search.json") == search
    code, said = trained(folder, "train.within=60")
    assert {r["note"] for r in found(folder)["emulators"].values()} == {""}


def test_auto_tries_recipes_that_the_runs_allow_and_fits_the_best(made):
    folder = made("auto")
    study = load_study(folder / "study.yaml")
    assert (study.train.within, study.train.folds) == (300.0, 5)
    names = list(study.emulators)
    assert names[:2] == ["polynomial-1", "polynomial-2"]
    assert "gp" in names
    assert "polynomial-6" not in names
    code, said = trained(folder, "train.within=1")
    assert code == 0, said
    rows = found(folder)["emulators"]
    assert list(rows) == names
    assert any(r["note"].startswith("not tried") for r in rows.values())
    (only,) = (folder / "out" / "emulators").iterdir()
    assert f"{only.name} is chosen" in said
    _, plan = emulate(folder, "train", "study.yaml", "--force", "--dry-run")
    assert f"try up to {len(names)} emulators on 5 folds within 5 min 00 s, fit the best" in plan


@pytest.mark.parametrize(("emulators", "more"), [
    ("auto", ("train.within=0.001",)),  # the first is tried, the others are not
    pytest.param('{bad: {use: "rivals:Troubled", kind: raise}, line: {use: polynomial, degree: 1}}', ("train.folds=2",),
                 marks=pytest.mark.slow),
])  # fmt: skip
def test_all_stages_run_where_an_emulator_was_not_fitted(made, emulators, more):
    folder = made(emulators)
    small = (
        "infer.draws=8",
        "infer.chains=2",
        "check.importance_runs=2",
        "check.recovery=1",
        "validate.gradient_points=2",
    )
    code, said = emulate(folder, "run", "study.yaml", *(w for c in (*small, *more) for w in ("--set", c)))
    assert code == 1, said  # so few draws tell nothing
    assert "report: write the report" in said
    fitted = files.read_json(folder / "out" / "train" / "summary.json")["emulators"]
    assert len(fitted) < len(found(folder)["emulators"])
    if "train.within=0.001" in more:
        notes = {r["note"] for r in found(folder)["emulators"].values()}
        assert notes == {"", "not tried: the 0.001 s of train.within were over"}


def test_the_plan_counts_the_fits(made):
    folder = made(PLAIN)
    assert "fit 2 emulators on 5 folds and to all runs: 12 fits" in emulate(
        folder, "train", "study.yaml", "--force", "--dry-run")[1]  # fmt: skip
    assert "try up to 2 emulators on 5 folds within 0.001 s, fit the best" in emulate(
        folder, "train", "study.yaml", "--force", "--dry-run", "--set", "train.within=0.001")[1]  # fmt: skip


@pytest.mark.parametrize(
    ("emulators", "more", "folds", "within"),
    [
        ("{polynomial: }", "", 0, None),
        (PLAIN, "", 5, None),
        (PLAIN, "{folds: 0}", 0, None),
        ("{polynomial: }", "{folds: 3}", 3, None),
        (PLAIN, "{folds: 24, within: 2.5}", 24, 2.5),
        ("auto", "{within: 10}", 5, 10),
    ],
)
def test_folds_have_a_default_that_costs_nothing_where_there_is_no_choice(tmp_path, emulators, more, folds, within):
    path = write(tmp_path, emulators) / "study.yaml"
    if more:
        path.write_text(path.read_text() + f"train: {more}\n")
    study = load_study(path)
    assert (study.train.folds, study.train.within) == (folds, within)
    data = study.to_dict()
    judge = Draft202012Validator(json.loads(json.dumps(schema())))
    assert [e.message for e in judge.iter_errors(data)] == []
    assert [e.message for e in judge.iter_errors(yaml12.read(path).data)] == []
    (tmp_path / "again.yaml").write_text(json.dumps(data))
    assert load_study(tmp_path / "again.yaml").to_dict() == data


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (
            "{folds: 1}",
            "train.folds: must be 0, which compares on held-out runs, or 2 to design.runs = 24. Got 1; change one",
        ),
        (
            "{folds: 25}",
            "train.folds: must be 0, which compares on held-out runs, or 2 to design.runs = 24. Got 25; change",
        ),
        (
            "{folds: 0, within: 3}",
            "train.within: is only read with folds. Got train.folds: 0; raise it, or take this out.",
        ),
        ("{within: 0}", "train.within: must be greater than 0. Got 0."),
        ("{folds: yes}", "train.folds: must be a whole number"),
    ],
)
def test_bad_folds_are_told(tmp_path, more, sentence):
    path = write(tmp_path) / "study.yaml"
    path.write_text(path.read_text() + f"train: {more}\n")
    with pytest.raises(InputError) as e:
        load_study(path)
    assert sentence in str(e.value)


def test_few_runs_that_finished_make_fewer_folds(made, monkeypatch):
    """3 runs allow 3 folds, whatever the study asks for; a line then has a note, and the study still has an emulator."""
    folder = made(PLAIN.replace("quadratic: {use: polynomial}", "gp: {use: gp, mean: constant, kernel: rbf}"))
    monkeypatch.chdir(folder)
    study = load_study("study.yaml")
    with Workbench(study, Terminal(quiet=True)) as bench:
        table = bench.runs(bench.points("training"))
        few = comparison.compare(bench, table.select(slice(0, 3)), {})
        assert {n: s.note for n, s in few.items()} == {
            "line": "not compared: needs 4 runs, and a fold leaves 2",
            "gp": "not compared: needs 3 runs, and a fold leaves 2",
        }
        assert comparison.compare(bench, table.select(slice(0, 1)), {}) == {}
        assert comparison.chosen(study, few)[0] == ""


class Pool:
    """A cluster whose calls are done at once; `lost` are the numbers of the results with which it is lost."""

    def __init__(self, lost=()):
        self.lost, self.asked, self.restarts = set(lost), 0, 0

    def workers(self):
        return 2

    def submit(self, function, *arguments):
        return function, arguments

    def ended(self, futures):
        return futures[:1]

    def result(self, future):
        self.asked += 1
        if self.asked in self.lost:
            raise campaign.Lost("it went away")
        function, arguments = future
        return function(*arguments)

    def restart(self, why):
        self.restarts += 1


@pytest.mark.parametrize("lost", [(), (1,), (3, 5, 7)])
def test_every_item_comes_once_whatever_becomes_of_the_cluster(lost):
    pool, came = Pool(lost), []
    executor = campaign.Executor(ClusterPart(use="local"))
    executor._pool = pool
    assert executor.each(bool, tuple(range(1, 9)), came.append) == []
    assert sorted(came) == list(range(1, 9))
    assert pool.restarts == len(lost)


def test_a_cluster_that_is_lost_twice_without_a_result_is_an_error_and_time_ends_the_calls():
    executor, came = campaign.Executor(ClusterPart(use="local")), []
    executor._pool = Pool((2, 3))
    with pytest.raises(CampaignError, match=r"lost twice without a result between: it went away\. What was stored is"):
        executor.each(bool, (1, 2, 3), came.append)
    assert came == [1]
    executor._pool = Pool()
    executor.each(bool, tuple(range(1, 9)), came.append, lambda: len(came) >= 4)
    assert 4 <= len(came) <= 6  # those under way are waited for
