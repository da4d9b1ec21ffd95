"""A mistake of the user's is answered with a sentence and an exit code, never with a traceback."""

import contextlib
import errno
import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipelines import cli, files, observed
from pipelines.config import load_study
from pipelines.terminal import Terminal
from tests import commands

STUDY = """
name: small
seed: 3
parameters:
  a: {uniform: [-1, 1]}
  b: {uniform: [-1, 1]}
simulator: {use: linear_gaussian, outputs_count: 4}
design: {use: sobol, runs: 16, held_out: 8}
cluster: {use: serial}
emulators:
  quadratic: {use: polynomial}
train: {champion: quadratic, baseline: null}
validate: {gradient: {use: reverse}, gradient_points: 3}
infer:
  observation: {held_out: 0}
  likelihood: {use: gaussian, absolute_error: 0.1}
  sampler: {use: laplace}
  draws: 50
  chains: 2
check: {importance_runs: 20, recovery: 8}
tracking: {uri: "off"}
"""

SIMULATOR = """
import math, time
def fine(theta): return [theta["a"], theta["b"]]
def raises(theta): raise RuntimeError("the mesh tangled")
def sometimes(theta):
    if theta["a"] > 0: raise RuntimeError("a is above zero")
    return [theta["a"], theta["b"]]
def nan(theta): return [theta["a"], math.nan]
def wrong(theta): return [theta["a"]]
def changes(theta): return [1.0] * (2 if theta["a"] < 0 else 3)
def slow(theta):
    time.sleep(0.3)
    return [theta["a"], theta["b"]]
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if "pytest-of" not in p])  # no module of an earlier test
    monkeypatch.delitem(sys.modules, "my_simulator", raising=False)
    (tmp_path / "study.yaml").write_text(STUDY)
    (tmp_path / "my_simulator.py").write_text(SIMULATOR)
    return tmp_path


emulate = functools.partial(commands.emulate, Path())  # where a test stands


def with_function(call: str) -> list[str]:
    """The study with one of the simulators above instead."""
    text = STUDY.replace(
        "{use: linear_gaussian, outputs_count: 4}",
        f"{{use: function, call: 'my_simulator:{call}', outputs: [{{name: y, size: 2}}]}}",
    ).replace("{use: reverse}", "{use: finite_difference}")
    Path("study.yaml").write_text(text)
    return ["study.yaml"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("seed: 3", "seeed: 3", ["seeed", "not known", 'Did you mean "seed"']),
        ("outputs_count: 4", "output_count: 4", ["simulator.output_count", 'Did you mean "outputs_count"']),
        ("use: sobol", "use: sobel", ["design", "sobel", 'Did you mean "sobol"', "latin_hypercube"]),
        ("a: {uniform: [-1, 1]}", "a: {uniform: [1, -1]}", ["parameters.a", "low must be below high", "1"]),
        ("a: {uniform: [-1, 1]}", "b: {uniform: [-1, 1]}", ["b", "twice"]),
        ("a: {uniform: [-1, 1]}", "a: {normal: [0, -1]}", ["parameters.a", "sd must be positive", "-1"]),
        ("absolute_error: 0.1", "absolute_error: -0.1", ["infer.likelihood", "-0.1"]),
        ("runs: 16", "runs: many", ["design.runs", "many"]),
        ("held_out: 0}", "held_out: 99}", ["infer.observation.held_out", "99", "8"]),
        ("champion: quadratic", "champion: quadratik", ["train.champion", 'Did you mean "quadratic"']),
        ("seed: 3", "seed: [3", ["study.yaml", "YAML", "line"]),
        ("seed: 3", "seed: 3\nseed: 4", ["seed", "twice"]),
    ],
)
def test_a_wrong_study_is_answered_with_its_path(here, old, new, said):
    assert old in STUDY
    (here / "study.yaml").write_text(STUDY.replace(old, new, 1))
    code, output = emulate("run", "study.yaml")
    assert code == 2
    for words in said:
        assert words in output
    assert not (here / "runs").exists()


def test_a_missing_study_is_named(here):
    code, output = emulate("run", "studdy.yaml")
    assert code == 2
    assert "studdy.yaml" in output
    assert "study.yaml" in output  # what is near


def test_an_override_of_an_unknown_key_is_refused(here):
    code, output = emulate("run", "study.yaml", "--set", "design.rums=3")
    assert code == 2
    assert "design.rums" in output


@pytest.mark.parametrize(
    ("call", "kind", "said"),
    [
        ("raises", "error", "the mesh tangled"),
        ("nan", "nonfinite", "1 of 2 values of y are not finite"),
        ("wrong", "badshape", "2"),
    ],
)
def test_every_run_failing_ends_the_campaign_in_words(here, call, kind, said):
    code, output = emulate("run", *with_function(call))
    assert code == 3
    assert "0 of 24 runs finished" in output
    assert kind in output
    assert said in output
    assert "--retry-failed" in output
    code, output = emulate("status", "study.yaml", "--failed")
    assert code == 0
    assert output.count(kind) >= 24


def test_a_simulator_that_changes_shape_fails_those_runs_only(here):
    study = with_function("changes")
    code, output = emulate("simulate", *study)
    assert code == 2  # simulate alone says what it needs first
    assert "emulate design" in output
    emulate("design", *study)
    code, output = emulate("simulate", *study, "--set", "simulate.require=0.3")
    assert code == 0
    summary = files.read_json(here / "runs" / "small" / "simulate" / "summary.json")
    assert summary["finished"] == 8
    assert {f["kind"] for f in summary["failures"]} == {"badshape"}


def test_too_few_finished_runs_are_counted(here):
    study = with_function("sometimes")
    code, output = emulate("run", *study)
    assert code == 3
    assert "12 of 24 runs finished" in output
    code, output = emulate("run", *study, "--set", "simulate.require=0.1", "--set", "design.runs=8")
    assert code == 3
    assert "must have at least 7 finished runs for 2 parameters" in output  # a quadratic has 6 coefficients


def test_failed_runs_are_kept_and_run_again_on_request(here):
    study = with_function("sometimes")
    emulate("design", *study)
    emulate("simulate", *study)
    sys.modules.pop("my_simulator")
    (here / "my_simulator.py").write_text(SIMULATOR.replace('> 0: raise RuntimeError("a is above zero")', "> 9: pass"))
    code, output = emulate("simulate", *study)
    assert code == 0  # other code, other runs: the callable's source is part of the key
    assert "24 of 24" in output


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    (folder / "study.yaml").write_text(STUDY)
    before = Path.cwd()
    os.chdir(folder)
    try:
        code, output = emulate("run", "study.yaml")
    finally:
        os.chdir(before)
    assert code in (0, 1), output
    return folder


def predict(folder: Path, *words: str) -> tuple[int, str]:
    return emulate("predict", str(folder / "runs" / "small" / "emulators" / "quadratic"), *words)


def test_theta_with_wrong_names_or_size(finished):
    code, output = predict(finished, "--set", "a=0.1")
    assert (code, "Missing: b" in output) == (2, True)
    code, output = predict(finished, "--set", "a=0.1", "--set", "c=0.1")
    assert code == 2
    assert "no parameter 'c'" in output
    code, output = predict(finished, "--set", "a=x", "--set", "b=1")
    assert code == 2
    assert "finite number" in output


def test_a_point_outside_warns_and_strict_refuses(finished):
    code, output = predict(finished, "--set", "a=1.5", "--set", "b=0")
    assert code == 0
    assert "Warning" in output
    assert "0.25" in output  # box widths beyond
    code, output = predict(finished, "--set", "a=1.5", "--set", "b=0", "--strict")
    assert code == 2
    assert "outside" in output


def test_no_emulator_there(finished):
    code, output = emulate("predict", str(finished / "nothing"), "--set", "a=1")
    assert code == 2
    assert "nothing" in output


def test_a_server_that_does_not_answer_costs_a_warning_only(here):
    uri = "http://someone:secret@127.0.0.1:9"
    start = time.monotonic()
    code, output = emulate("run", "study.yaml", "--set", f"tracking.uri={uri}")
    assert code in (0, 1)
    assert "did not answer" in output
    assert "emulate sync" in output
    assert "secret" not in output
    assert (here / "runs" / "small" / "report" / "index.html").exists()
    assert time.monotonic() - start < 300


def test_a_store_of_another_version(here):
    emulate("design", "study.yaml")
    emulate("simulate", "study.yaml")
    path = here / "runs" / "small" / "store" / "store.json"
    files.write_json(path, {**files.read_json(path), "schema": 999})
    code, output = emulate("simulate", "study.yaml", "--force")
    assert code == 2
    assert "999" in output
    assert "version" in output


def test_a_full_disk(here, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "replace", full)
    code, output = emulate("run", "study.yaml")
    assert code == 2
    assert "disk is full" in output
    monkeypatch.undo()
    with contextlib.chdir(here):
        assert emulate("run", "study.yaml")[0] in (0, 1)


def test_a_folder_that_cannot_be_written(here):
    (here / "occupied").write_text("a file")
    code, output = emulate("run", "study.yaml", "--set", "output=occupied/below")
    assert code == 2
    assert "cannot be written" in output
    assert "output" in output


def test_ctrl_c_says_how_to_go_on(here):
    study = with_function("slow")
    command = [sys.executable, "-c", "from pipelines.cli import main; main()", "run", *study]
    process = subprocess.Popen(command, cwd=here, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    store = here / "runs" / "small" / "store" / "runs"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and len(list(store.glob("*/*"))) < 3:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert "the same command goes on" in " ".join(errors.split())
    kept = {p.name for p in store.glob("*/*")}
    assert 3 <= len(kept) < 24
    code, output = emulate("simulate", *study)
    assert code == 0
    assert "24 of 24" in output
    assert kept <= {p.name for p in store.glob("*/*")}


@pytest.mark.slow
def test_ctrl_c_that_fell_into_a_callback_comes_again():
    cli._press_again(pytest.fail, SimpleNamespace(exc_type=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        time.sleep(30)
    said = []
    cli._press_again(said.append, SimpleNamespace(exc_type=ValueError))
    assert said == [SimpleNamespace(exc_type=ValueError)]


def test_a_stage_does_not_read_what_an_earlier_one_left_when_it_failed(here):
    study = with_function("sometimes")
    assert emulate("design", *study)[0] == 0
    assert emulate("simulate", *study)[0] == 3
    code, output = emulate("train", *study)
    assert code == 2
    assert "train needs the files of simulate, which failed: " in output
    assert "runs finished; the study asks for 90%" in output


def test_a_stage_names_the_old_files_that_it_reads(here):
    (here / "study.yaml").write_text(STUDY)
    for stage in ("design", "simulate"):
        assert emulate(stage, "study.yaml")[0] == 0
    code, output = emulate("train", "study.yaml", "--set", "simulate.require=0.5")
    assert code == 0
    assert (
        "train reads files that are not up to date: simulate (its part of the study changed). `emulate run`" in output
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1\n2\n", "must hold 4 numbers, one for each of y0 to y3, all finite. Got 2."),
        ("1\n2\nnan\n4\n", "Got: seen.csv, line 3: must be a finite number. Got 'nan'; mend it, "),
        ("low,high,value\n0,1,1\n1,2,2\n2,3,3\n", "must hold 4 numbers, one for each of y0 to y3, all finite. Got 3."),
        ("low;high;counts\n0;1;1\n", "Got: seen.csv must have a column 'value', or one column alone. It has low, high, counts; "),
        ("y0,y1,y2,y3\n1,2,,4\n", "Got: could not convert string to float: ''"),
        ("# k P\n0.1 1\n0.2 2\n0.3 3\n0.4 4\n", "Got 2 columns without names; write names above them."),
    ],
)  # fmt: skip
def test_a_wrong_observation_is_named_before_anything_runs(here, text, said):
    (here / "seen.csv").write_text(text)
    (here / "seen.yaml").write_text(STUDY.replace("{held_out: 0}", "{file: seen.csv}"))
    code, output = emulate("run", "seen.yaml")
    assert code == 2
    assert said in " ".join(output.split())
    assert not (here / "runs").exists()


@pytest.mark.parametrize(
    "text", ["# counts of the survey\n1\n2\n\n3\n4\n", "# of the survey\nk value\n0.1 1\n0.2 2\n0.3 3\n0.4 4\n"]
)
def test_comments_of_an_observation_are_left_out(here, text):
    (here / "seen.csv").write_text(text)
    (here / "seen.yaml").write_text(STUDY.replace("{held_out: 0}", "{file: seen.csv}"))
    assert observed.read(load_study("seen.yaml")).tolist() == [1, 2, 3, 4]


def test_an_observation_that_nothing_explains_is_said(finished, monkeypatch):
    monkeypatch.chdir(finished)
    (finished / "far.csv").write_text("1e4\n2\n3\n4\n")
    (finished / "far.yaml").write_text(STUDY.replace("{held_out: 0}", "{file: far.csv}"))
    code, output = emulate("infer", "far.yaml")
    assert code == 0
    assert "no point of the box explains the observation: chi2 of the best fit is " in output


def test_predict_prints_labels_with_brackets(capsys):
    Terminal().table("[title]", ("[x]",), [("pk[k=0.1]",)])
    shown = capsys.readouterr().out
    assert "[title]" in shown
    assert "[x]" in shown
    assert "pk[k=0.1]" in shown


def test_more_runs_than_fit_are_refused(here):
    (here / "study.yaml").write_text(STUDY)
    code, output = emulate("run", "study.yaml", "--dry-run", "--set", "design.runs=1e9")
    assert code == 2
    assert "design.runs: must be at most 1000000. Got 1000000000." in output


def test_a_port_that_cannot_be(here):
    code, output = emulate("ui", "--port", "99999")
    assert code == 2
    assert "65535" in output
