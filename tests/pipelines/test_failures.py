"""Failed runs are data: read from the store alone, made again by kind, made up for by more points, tried one by one."""

import csv
import os
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import qmc

from emulate.errors import InputError, RunFailed
from emulate.store import RunStore
from pipelines.config import load_study
from pipelines.failures import visible
from pipelines.limits import Limits, in_words, size
from pipelines.study import Retries
from tests.commands import emulate

LAB = """
import os, signal
from pathlib import Path

def run(theta):
    print("at", theta["a"])
    if theta["a"] < 0.25:
        raise ValueError("a is too \\x1b[31msmall")
    if theta["a"] > 0.9 and not Path("once").exists():
        Path("once").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return [theta["a"], 2 * theta["b"], 3.0, 4.0, 5.0, 6.0]
"""
STUDY = """
name: lab
seed: 3
parameters: {a: {uniform: [0, 1]}, b: {uniform: [0, 1], unit: km}}
simulator: {use: function, call: "faulty_lab:run", outputs: [{name: y, size: 5, unit: kg}, {name: z}]}
design: {runs: 16, held_out: 4}
simulate: {require: 0.5, until: 16}
cluster: {use: serial}
emulators: {quadratic: {use: polynomial}}
validate: {gradient_points: 1}
infer: {observation: {held_out: 0}, likelihood: {use: gaussian, absolute_error: 0.1}}
check: {recovery: 1}
tracking: {uri: "off"}
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """A campaign that ran: a quarter of the points fail, one crashed once and then finished."""
    folder = tmp_path_factory.mktemp("lab")
    (folder / "faulty_lab.py").write_text(LAB)
    (folder / "study.yaml").write_text(STUDY)
    assert emulate(folder, "design", "study.yaml")[0] == 0
    code, output = emulate(folder, "simulate", "study.yaml")
    assert code == 0, output
    return folder


def points(path: Path, which: str) -> np.ndarray:
    return np.array([[float(r["a"]), float(r["b"])] for r in csv.DictReader(path.open()) if r["set"] == which])


def test_the_design_goes_on_until_enough_runs_finished(study):
    """The points tried are the first of one Sobol sequence, and the last of them made the count full."""
    runs = study / "runs" / "lab"
    first, more = (
        points(runs / "design" / "points.csv", "training"),
        points(runs / "simulate" / "extra.csv", "training"),
    )
    rows = [r for r in csv.DictReader((runs / "simulate" / "runs.csv").open()) if r["set"] == "training"]
    tried = np.array([[float(r["a"]), float(r["b"])] for r in rows])
    np.testing.assert_array_equal(tried, np.concatenate([first, more]))
    assert len(first) == 16
    assert sum(r["ok"] == "True" for r in rows) == 16
    assert rows[-1]["ok"] == "True"
    assert [r["ok"] == "True" for r in rows] == (tried[:, 0] >= 0.25).tolist()
    star = qmc.discrepancy(np.concatenate([first, more])[:16], method="CD")
    assert star < 2 * qmc.discrepancy(qmc.Sobol(2, scramble=True, rng=0).random(16), method="CD")


def test_later_stages_train_on_the_added_points_and_a_second_campaign_has_nothing_to_do(study):
    code, output = emulate(study, "train", "study.yaml")
    assert code == 0, output
    assert "16 runs" in output
    _, output = emulate(study, "simulate", "study.yaml")
    assert "skipped, unchanged" in output
    before = (study / "runs" / "lab" / "simulate" / "extra.csv").read_bytes()
    log = sorted(RunStore(study / "runs" / "lab" / "store").keys())
    assert emulate(study, "simulate", "study.yaml", "--force")[0] == 0
    assert (study / "runs" / "lab" / "simulate" / "extra.csv").read_bytes() == before
    assert sorted(RunStore(study / "runs" / "lab" / "store").keys()) == log


@pytest.mark.filterwarnings("ignore:The balance properties of Sobol")
def test_points_where_failure_is_near_certain_are_left_out_and_told(study, tmp_path):
    """Of 40 runs a quarter failed, all with a < 0.25: the design goes on without most of those points."""
    for name in ("faulty_lab.py", "study.yaml"):
        (tmp_path / name).write_text((study / name).read_text())
    given = ("--set", "design.runs=40", "--set", "simulate.until=60", "--set", "simulate.skip=0.2")
    assert emulate(tmp_path, "design", "study.yaml", *given)[0] == 0
    code, output = emulate(tmp_path, "simulate", "study.yaml", *given)
    assert code == 0, output
    runs = tmp_path / "runs" / "lab" / "simulate"
    skipped = list(csv.DictReader((runs / "skipped.csv").open()))
    assert len(skipped) >= 3
    assert f"{len(skipped)} points are left out, where a run finishes with a probability below 0.2" in " ".join(
        output.split()
    )
    assert all(float(r["a"]) < 0.25 and 0 <= float(r["probability"]) < 0.2 for r in skipped)
    tried = np.concatenate(
        [points(tmp_path / "runs/lab/design/points.csv", "training"), points(runs / "extra.csv", "training")]
    )
    left_out = np.array([[float(r["a"]), float(r["b"])] for r in skipped])
    assert not {tuple(t) for t in tried} & {tuple(t) for t in left_out}
    whole = np.concatenate([tried, left_out])  # together the first points of the design
    spread = qmc.discrepancy(whole, method="CD")
    assert spread < 2 * qmc.discrepancy(qmc.Sobol(2, scramble=True, rng=0).random(len(whole)), method="CD")
    again = runs / "extra.csv", runs / "skipped.csv"
    before = [f.read_bytes() for f in again]
    assert emulate(tmp_path, "simulate", "study.yaml", "--force", *given)[0] == 0
    assert [f.read_bytes() for f in again] == before
    region = ("--set", "design.use=feasible", "--set", f"design.inside={runs / 'feasibility'}", "--set", "output=next")
    assert emulate(tmp_path, "design", "study.yaml", *region)[0] == 0
    assert (points(tmp_path / "next" / "design" / "points.csv", "training")[:, 0] > 0.2).all()
    other = ("--set", "parameters.a.uniform=[0, 2]")
    code, output = emulate(tmp_path, "design", "study.yaml", *region, *other)
    assert code == 2
    assert "design.inside: " in output
    assert (
        "must be of the study's parameters a, b with their priors. Got another prior or unit of a; run that" in output
    )
    code, output = emulate(tmp_path, "design", "study.yaml", *region[:2], "--set", "design.inside=nowhere")
    assert code == 2
    assert "design.inside: must be the folder of a feasibility" in output
    code, output = emulate(
        tmp_path, "design", "study.yaml", "--set", "simulate.until=null", "--set", "simulate.skip=0.2"
    )
    assert code == 2
    assert "simulate.skip: is only read with simulate.until" in output


@pytest.mark.parametrize(("words", "said"), [
    (("--only", "0", "--until", "3"), "--only must stand without --until and --dry-run"),
    (("--only", "0", "--dry-run"), "--only must stand without --until and --dry-run"),
])  # fmt: skip
def test_options_that_contradict_each_other_are_refused(study, words, said):
    code, output = emulate(study, "simulate", "study.yaml", *words)
    assert code == 2
    assert said in output


def test_a_cap_that_is_met_falls_short_in_words(study):
    code, output = emulate(study, "simulate", "study.yaml", "--until", "24", "--set", "simulate.most=1")
    assert code == 3
    assert "of 24 training runs finished; the study asks for 24 (simulate.until)" in output
    emulate(study, "simulate", "study.yaml")


def test_a_design_that_cannot_go_on_is_refused(study):
    code, output = emulate(study, "simulate", "study.yaml", "--set", "design.use=latin_hypercube")
    assert code == 2
    assert ("simulate.until: must have a design whose points go on, such as sobol. More points of latin_hypercube are "
            "other points; use another design, or take this out and raise design.runs.") in output  # fmt: skip


def test_status_lists_failures_from_the_store_alone(study, tmp_path):
    """Nothing but the study's file, its module and the store is there: a driver that died left nothing else."""
    (tmp_path / "runs" / "lab").mkdir(parents=True)
    for name in ("faulty_lab.py", "study.yaml"):
        (tmp_path / name).write_text((study / name).read_text())
    (tmp_path / "runs" / "lab" / "store").symlink_to(study / "runs" / "lab" / "store")
    store = RunStore(study / "runs" / "lab" / "store")
    failed = [k for k in store.keys() if store.failed(k)]  # noqa: SIM118
    code, output = emulate(tmp_path, "status", "study.yaml", "--failed")
    assert code == 0, output
    assert f"{len(failed)} failed runs" in output
    assert f"By kind: {len(failed)} error." in output
    for key in failed:
        record = store.read(key)
        assert f"{key[:12]} a={record.theta[0]:.5g}, b={record.theta[1]:.5g} error ValueError" in output
    assert "\x1b" not in output


def test_one_run_is_printed_with_its_attempts_and_its_log(study):
    store = RunStore(study / "runs" / "lab" / "store")
    found = {k: store.read(k) for k in store.keys()}  # noqa: SIM118
    (twice,) = [k for k, r in found.items() if r.about["attempts"]]
    assert found[twice].ok
    (first,) = found[twice].about["attempts"]
    assert (first["kind"], first["reason"]) == ("crashed", "the process ended inside the run (signal SIGKILL)")
    code, output = emulate(study, "status", "study.yaml", "--run", twice[:10])
    assert code == 0, output
    a = found[twice].theta[0]
    for said in (twice, "came of it finished", "try 1 crashed: the process ended inside the run (signal SIGKILL)",
                 f"output y {a:.6g}, ", "5 (5 values,", "[kg]", "output z 6", f"log: at {a}"):  # fmt: skip
        assert said in output
    failed = next(k for k in found if store.failed(k))
    _, output = emulate(study, "status", "study.yaml", "--run", failed)
    assert "came of it error: ValueError: a is too \ufffd[31msmall" in output
    assert 'raise ValueError("a is too' in output
    for prefix, met in (("", "22 runs, such as"), ("xyz", "no run")):
        if prefix:
            code, output = emulate(study, "status", "study.yaml", "--run", prefix)
            assert (code, met in output) == (2, True)


def test_only_tries_one_point_here_and_keeps_what_finished(study, tmp_path):
    for name in ("faulty_lab.py", "study.yaml"):
        (tmp_path / name).write_text((study / name).read_text())
    theta = points(study / "runs" / "lab" / "design" / "points.csv", "training")
    good = int(np.argmax((theta[:, 0] > 0.25) & (theta[:, 0] < 0.9)))
    bad = int(np.argmax(theta[:, 0] < 0.25))
    code, output = emulate(tmp_path, "simulate", "study.yaml", "--only", str(good))
    assert code == 0, output
    for said in (f"training point {good} of 16, seed 0", f"a {theta[good, 0]:.8g}", f"b {theta[good, 1]:.8g} km",
                 f"it said: at {theta[good, 0]}", "MiB", f"y {theta[good, 0]:.6g}, ", "limits: 600 s",
                 "The run is stored; the campaign will not make it again."):  # fmt: skip
        assert said in output
    code, output = emulate(tmp_path, "simulate", "study.yaml", "--only", str(good), "--verbose")
    assert "The store holds this run with the same numbers, bit for bit." in output
    assert f"at {theta[good, 0]}" in output
    code, output = emulate(tmp_path, "simulate", "study.yaml", "--only", str(bad))
    assert code == 3
    assert "ValueError: a is too \ufffd[31msmall" in output
    assert "The store keeps no trace of this try; mend the study and try again." in output
    store = RunStore(tmp_path / "runs" / "lab" / "store")
    assert [store.read(k).theta for k in store.keys()] == [theta[good].tolist()]  # noqa: SIM118
    code, output = emulate(tmp_path, "simulate", "study.yaml", "--only", "16")
    assert (code, "--only must be the number of a training point, 0 to 15. Got 16." in output) == (2, True)


def test_limits_come_from_the_study(study):
    changes = ["simulate.timeout=5", "simulate.memory=1.5 GiB", "simulate.threads=2", "simulate.answer=100 MB",
               "simulate.log_bytes=1000", "simulate.retries={timeout: 2, crashed: 0}"]  # fmt: skip
    before = Path.cwd()
    os.chdir(study)
    try:
        limits = load_study("study.yaml", changes).simulate.limits
        with pytest.raises(InputError, match=r'simulate\.memory: must be a size such as "4 GiB" or "500 MB"\. Got'):
            load_study("study.yaml", ["simulate.memory=lots"])
        with pytest.raises(InputError, match=r"simulate\.retries\.late: this key is not known"):
            load_study("study.yaml", ["simulate.retries={late: 2}"])
    finally:
        os.chdir(before)
    assert (limits.timeout, limits.memory, limits.threads) == (5.0, 3 * 2**29, 2)
    assert (limits.answer_bytes, limits.log_bytes) == (100_000_000, 1000)
    assert [limits.again(k) for k in ("lost", "crashed", "timeout", "error", "oom")] == [1, 0, 2, 0, 0]


@pytest.mark.parametrize(("text", "count"), [("4 GiB", 2**32), ("4GiB", 2**32), (" 1 KB ", 1000), ("7 B", 7), (7, 7)])
def test_sizes(text, count):
    assert size(text) == count
    assert size(in_words(count)) == pytest.approx(count, rel=5e-4)


@pytest.mark.parametrize(
    "text", ["", "4", "4 GB GB", "-1 GB", "0 GB", "1e9 B", "4 gib", "four", 0, -1, True, None, 1.5]
)
def test_what_is_no_size_is_refused(text):
    with pytest.raises(InputError, match=r"^must be a size such as"):
        size(text)


def test_retries_are_for_the_kinds_that_are_named():
    limits = Limits(retries=(("timeout", 3),))
    assert [limits.again(k) for k in ("timeout", "lost", "crashed")] == [3, 1, 0]


def test_every_kind_of_failure_has_its_retries():
    assert {f.name for f in fields(Retries)} == {"lost", *RunFailed.KINDS}


def test_no_byte_of_a_log_commands_a_terminal():
    assert visible("a\x1b]0;evil\x07\x9b\r\u202eb\tc\nd") == "a\ufffd]0;evil\ufffd\ufffd\ufffd\ufffdb\tc\nd"
