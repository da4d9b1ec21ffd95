"""The loop of an active design: where it ends, what it keeps when it is killed, and what it says."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from emulate.errors import InputError
from pipelines import engine, rounds
from pipelines.config import load_study
from pipelines.report import render
from pipelines.stages import simulate
from pipelines.terminal import Terminal
from pipelines.workbench import Workbench

ROOT = Path(__file__).parents[2]
QUIET = Terminal(quiet=True)
LAB = """
import math, time
TIMES = [0.5, 1.0, 1.5, 2.0]
def wave(p):
    return [math.exp(-p["g"] * t) * math.cos(p["w"] * t) for t in TIMES]
def slow(p):
    time.sleep(0.3)
    return wave(p)
def fragile(p):
    if p["w"] > 2.2:
        raise ValueError("too fast")
    return wave(p)
"""
STUDY = """
name: waves
parameters:
  w: {uniform: [0.5, 3]}
  g: {uniform: [0, 1]}
simulator:
  use: function
  call: rounds_lab:wave
  outputs: [{name: x, coordinate: t, at: [0.5, 1, 1.5, 2]}]
design: {use: active, aim: posterior, runs: 10, held_out: 4, batch: 4, budget: 20, candidates: 128}
cluster: {use: serial}
emulators: {gp: {use: gp, kernel: rbf, mean: constant, starts: 1, calibrate: false, log: false}}
validate: {gradient: {use: finite_difference}}
infer:
  observation: {parameters: {w: 1.5, g: 0.3}}
  likelihood: {use: gaussian, absolute_error: 0.02}
tracking: {uri: 'off'}
output: out
"""
STAGES = ["design", "simulate"]


@pytest.fixture(autouse=True)
def laboratory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("rounds_lab.py").write_text(LAB)
    Path("study.yaml").write_text(STUDY)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "rounds_lab", raising=False)


def run(*changes: str, output: str = "out"):
    study = load_study("study.yaml", [f"output={output}", *changes])
    engine.run(study, STAGES, QUIET)
    return study


@pytest.fixture
def unseen(monkeypatch):
    """No figure is saved where none is looked at."""
    monkeypatch.setattr(Workbench, "figures", lambda self, stage, figures: None)


def points(output: str) -> bytes:
    return Path(output, "simulate", "extra.csv").read_bytes()


def test_the_budget_is_spent_and_a_finished_loop_is_skipped():
    study = run()
    found = rounds.kept(study)
    assert [(r["round"], r["runs"], r["finished"], len(r["theta"])) for r in found] == [
        (0, 10, 10, 4), (1, 14, 14, 4), (2, 18, 18, 2), (3, 20, 20, 0)]  # fmt: skip
    assert found[-1]["error"] < 0.5 * found[0]["error"]
    with Workbench(study, QUIET) as bench:
        training = bench.points("training")
        assert bench.runs(training).ok.all()
        assert len(np.unique(training, axis=0)) == 20
        assert "then rounds of 4 to 20 training runs (3 rounds); 4 rounds chosen, the error is" in simulate.forecast(
            bench
        )
    assert engine.state(study, "simulate").status == "done"
    assert rounds.status(study).startswith("Active design: rounds of 4 to 20 training runs (3 rounds); 4 rounds chosen")
    events = [e for _, e in bench.journal.read() if e["event"] == "metrics" and "round/error" in e["metrics"]]
    assert [e["step"] for e in events] == [0, 1, 2, 3]
    assert [e["metrics"]["round/error"] for e in events] == [r["error"] for r in found]
    assert found[0].get("moved") is None
    for r, e in zip(found[1:], events[1:], strict=True):
        assert set(r["moved"]["parameters"]) == {"w", "g"}
        assert r["moved"]["shift"] == max(abs(p["shift"]) for p in r["moved"]["parameters"].values())
        assert e["metrics"]["round/shift"] == r["moved"]["shift"]
        assert e["metrics"]["round/width"] == r["moved"]["width"]
        assert 0 < e["metrics"]["round/surprise"] == r["surprise"] < 10
    assert found[-1]["moved"]["shift"] < found[1]["moved"]["shift"]
    assert (study.folder / "simulate" / "settling.png").stat().st_size > 10_000
    page = render(study.folder)
    assert "Rounds of the active design" in page
    assert "moved by [\u03c3]" in page
    assert "whether the answer has settled" in page
    assert "Where the points of the rounds went" in page
    assert (study.folder / "simulate" / "rounds.png").stat().st_size > 10_000


@pytest.mark.usefixtures("unseen")
@pytest.mark.slow
def test_a_loop_that_was_stopped_anywhere_goes_on_with_the_same_points(monkeypatch):
    run(output="whole")
    campaign, calls = Workbench.campaign, []

    def stopped(self, points, what, *args, **more):
        calls.append(what)
        if what == "simulate round 2":
            campaign(
                self, {"training": points["training"][:-1]}, what, *args, **more
            )  # one run of the batch is not made
            raise KeyboardInterrupt
        campaign(self, points, what, *args, **more)

    monkeypatch.setattr(Workbench, "campaign", stopped)
    with pytest.raises(KeyboardInterrupt):
        run()
    assert calls.count("simulate round 1") == 1
    study = load_study("study.yaml")
    assert len(rounds.kept(study)) == 2
    monkeypatch.setattr(Workbench, "campaign", campaign)
    looked = []
    look = rounds._look
    monkeypatch.setattr(rounds, "_look", lambda bench, runs: looked.append(len(runs)) or look(bench, runs))
    run()
    assert points("out") == points("whole")
    assert looked == [14, 18, 20], "rounds that were chosen are not chosen again; the last is fitted to tell what moved"
    Path("out/simulate/rounds.json").unlink()
    engine.run(load_study("study.yaml"), ["simulate"], QUIET, force=True)
    assert points("out") == points("whole"), "without the record the same points are found again"


@pytest.mark.slow
@pytest.mark.usefixtures("unseen")
def test_a_raised_budget_goes_on_and_a_target_ends_the_loop():
    run("design.budget=14")
    before = points("out")
    study = run("design.budget=18")
    assert points("out").startswith(before)
    errors = [r["error"] for r in rounds.kept(study)]
    assert [r["runs"] for r in rounds.kept(study)] == [10, 14, 18]
    target = 0.5 * (errors[0] + errors[1])
    ended = run("design.budget=18", f"design.target={target}")
    assert [r["runs"] for r in rounds.kept(ended)] == [10, 14]
    assert points("out") == before
    assert f"or to an error of {target:g} in ln p(data | theta)" in rounds.status(ended)
    at_once = run("design.target=1000", "design.aim=prior", output="other")
    assert [len(r["theta"]) for r in rounds.kept(at_once)] == [0]
    assert "error of 1000 of the outputs' spread over the runs" in rounds.status(at_once)


@pytest.mark.usefixtures("unseen")
def test_what_a_round_depends_on_makes_the_stage_stale_and_nothing_else():
    study = run("design.budget=14", "design.aim=prior")
    for change, status in (("infer.likelihood.absolute_error=0.1", "done"), ("emulators.gp.kernel=matern52", "stale"),
                           ("design.target=0.5", "stale"), ("infer.draws=100", "done")):  # fmt: skip
        changed = load_study("study.yaml", ["design.budget=14", "design.aim=prior", change])
        assert engine.state(changed, "simulate").status == status, change
    assert engine.state(study, "simulate").status == "done"
    aimed = [load_study("study.yaml", c).section("simulate") for c in ([], ["infer.likelihood.absolute_error=0.1"])]
    assert aimed[0] != aimed[1]


@pytest.mark.usefixtures("unseen")
def test_runs_that_would_fail_are_left_out():
    lost = {}
    for use, more in (("active", ["design.aim=prior"]), ("sobol", [])):
        changes = ["simulator.call=rounds_lab:fragile", "simulate.require=0.3", "design.runs=16", *more]
        if use == "sobol":
            changes += ["design={use: sobol, runs: 32, held_out: 4}"]
        study = load_study(
            "study.yaml", [*changes, f"output={use}", *(["design.budget=32"] if use == "active" else [])]
        )
        engine.run(study, STAGES, QUIET)
        with Workbench(study, QUIET) as bench:
            lost[use] = int((~bench.runs(bench.points("training")[16:]).ok).sum())
    assert lost["sobol"] >= 4
    assert lost["active"] <= lost["sobol"] // 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["design.emulator=pg"], "design.emulator: must name an emulator of this study: gp. Got 'pg'"),
        (["design.budget=9"], "design.budget: must be at least design.runs = 10, the first points of the loop. Got 9;"),
        (["simulate.until=12"], "simulate.until: is only read with a design that asks no emulator; design.budget says"),
        (["design.aim=posteriors"], "design.aim: must be 'prior' or 'posterior'. Got 'posteriors'"),
    ],
)
def test_what_does_not_fit_together_is_said(change, said):
    with pytest.raises(InputError) as caught:
        load_study("study.yaml", change)
    assert said in str(caught.value).replace('"', "'")


@pytest.mark.slow
def test_a_killed_process_goes_on_with_the_same_points():
    """kill -9 at three moments of the loop, each with workers of its own and runs of 0.3 s."""
    changes = ["simulator.call=rounds_lab:slow", "cluster.use=local"]
    run(*changes, output="whole")
    command = [str(Path(sys.executable).with_name("emulate")), "simulate", "study.yaml", "--quiet"]
    command += [x for c in (*changes, "output=killed") for x in ("--set", c)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(Path.cwd())])}
    engine.run(load_study("study.yaml", [*changes, "output=killed"]), ["design"], QUIET)
    for wanted in (1, 2, 3):
        process = subprocess.Popen(command, env=environment, start_new_session=True)
        kept, end = Path("killed/simulate/rounds.json"), time.monotonic() + 120
        while process.poll() is None and time.monotonic() < end:
            if kept.exists() and len(json.loads(kept.read_text())["rounds"]) >= wanted:
                break
            time.sleep(0.02)
        time.sleep(0.2)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    engine.run(load_study("study.yaml", [*changes, "output=killed"]), ["simulate"], QUIET)
    assert points("killed") == points("whole")


@pytest.mark.slow
@pytest.mark.usefixtures("unseen")
def test_the_study_in_configs(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    changes = [f"output={tmp_path / 'active'}", "tracking.uri=off", "cluster.use=serial", "design.target=0.5"]
    study = load_study("configs/active.yaml", changes)
    engine.run(study, STAGES, QUIET)
    found = rounds.kept(study)
    assert found[0]["error"] > 0.5 >= found[-1]["error"]
    assert [r["runs"] for r in found] == [24 + 8 * i for i in range(len(found))]
    assert len(found) < 5
