"""Simulators that misbehave in 28 ways, on every executor: each is a failed run with its reason, or a finished one, no
process is left, and no worker is lost."""

import contextlib
import os
import sys
import time
import uuid
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from emulate import registry
from emulate.space import Parameter, Space, Uniform
from emulate.store import RunStore
from pipelines.campaign import Limits, Task, open_cluster
from pipelines.runner import Runner
from pipelines.study import ClusterPart

HERE = Path(__file__).parents[1]
sys.path.append(str(HERE))  # where trouble.py lies, for this process and its children
import trouble as t  # noqa: E402
from executors import queue  # noqa: E402

SPACE = Space((Parameter("kind", Uniform(-0.5, 40.0)), Parameter("x", Uniform(0.0, 1.0))))
SETTINGS = {"use": "function", "call": "trouble:run", "argument": "array", "outputs": [{"name": "a"}, {"name": "b"}]}
SPEC = {**SETTINGS, "space": SPACE.to_dict()}
SIMULATOR = registry.build("simulators", SETTINGS, space=SPACE)
LIMITS = Limits(timeout=15.0, memory=2**30, retries=(("lost", 1), ("crashed", 1)))
LATE = ("timeout", "the run took longer than 15 s and was killed")
PIPE = ("crashed", "the run closed the pipe of its answer, which it must leave open")
KINDS = {
    t.FINE: None,
    t.RAISE: ("error", "ValueError: the tea is cold"),
    t.NAN: ("nonfinite", "1 of 2 values of y are not finite"),
    t.SHAPE: ("badshape", "trouble:run must return the declared 2 values in every run. Got 3"),
    t.HANG: LATE,
    t.EXIT: ("crashed", "the process ended inside the run (exit code 3)"),
    t.SEGFAULT: ("crashed", "the process ended inside the run (signal SIGSEGV)"),
    t.MEMORY: ("oom", "MemoryError: no room"),
    t.PRINT: None,
    t.LEAVE: ("error", "SystemExit: bye"),
    t.GRANDCHILD: LATE,
    t.KILL: ("crashed", "the process ended inside the run (signal SIGKILL)"),
    t.BURST: LATE,
    t.CROWD: None,
    t.FLOOD: LATE,
    t.HOG: ("oom", "the run and what it started held 1."),
    t.FAMILY: ("oom", "the run and what it started held 1."),
    t.ORPHAN: None,
    t.GIL: LATE,
    t.HUGE: ("badshape", "trouble:run must return the declared 2 values in every run. Got 10000000"),
    t.CLOSED: PIPE,
    t.SCRIBBLE: ("crashed", "the run wrote into the pipe of its answer, which it must leave alone"),
    t.TERM: ("crashed", "the process ended inside the run (signal SIGTERM)"),
    t.GROUP: ("crashed", "the process ended inside the run (signal SIGTERM)"),
    t.STOP: LATE,
    t.GARBAGE: ("error", "ValueError: half a pair ?, and a zero \0"),
    t.MUTE: None,
    t.FORKS: LATE,
    t.GUARD: ("crashed", "the process ended inside the run (signal SIGKILL)"),
}


@pytest.fixture
def mark(monkeypatch):
    """Every process that a run starts carries this mark in its environment."""
    word = uuid.uuid4().hex
    monkeypatch.setenv("TROUBLE_MARK", word)
    return word


def none_left(mark, *, guards=0):
    """Whether no marked process is left but so many guards; Python's own, which frees what this one shares, stays."""
    end = time.monotonic() + 20.0
    while (left := [p for p in t.marked(mark) if "resource_tracker" not in " ".join(cmdline(p))]) and (
        time.monotonic() < end and len(left) > guards
    ):
        time.sleep(0.05)
    return len(left) == guards and all("pipelines.runner" in cmdline(p) for p in left)


def judge(kind, failure, y, x):
    expected = KINDS[kind]
    if expected is None:
        assert failure is None, failure
        np.testing.assert_array_equal(y, [x, 2 * x])
    else:
        assert failure is not None, f"kind {kind} finished"
        assert (failure.kind, failure.reason[: len(expected[1])]) == expected


@pytest.mark.parametrize("kind", [t.CROWD, t.HOG, t.CLOSED, t.GROUP, t.GUARD])
def test_misbehaviour_is_classified_and_leaves_no_process(mark, runner, kind):
    answer = runner.run([kind, 0.5], seed=0)
    judge(kind, answer.failure, answer.y, 0.5)
    assert len(answer.log) <= LIMITS.log_bytes
    runner.close()
    assert none_left(mark)


@pytest.mark.parametrize("kind", [t.BURST, t.FLOOD])
def test_a_timeout_leaves_none_of_fifty_children_and_no_flood_stops_its_clock(mark, kind):
    with Runner(SPEC, limits=Limits(timeout=2.0, log_bytes=1000)) as runner:
        answer = runner.run([kind, 0.5], seed=0)
        assert answer.failure.kind == "timeout"
        assert answer.seconds < 15.0
        assert len(runner._log) < 2**21
        assert none_left(mark, guards=1)
    assert none_left(mark)
    assert len(answer.log) <= 1000


@pytest.fixture
def runner(mark):
    with Runner(SPEC, limits=replace(LIMITS, timeout=60.0)) as made:
        yield made


@pytest.mark.slow
@pytest.mark.parametrize("use", ["serial", "local", "address", "slurm", "distributed:LocalCluster"])
def test_every_kind_on_every_executor(tmp_path, monkeypatch, mark, use):
    """Shares of an array of jobs are serial campaigns."""
    monkeypatch.setenv("TROUBLE_START", "1")  # a slow start is no run's fault
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), *filter(None, sys.path)]))  # for jobs
    monkeypatch.chdir(tmp_path)
    theta = [(float(kind), i / 64) for i, kind in enumerate(k for kind in KINDS for k in (kind, t.FINE))]
    tasks = [Task(RunStore.key(SIMULATOR, p, 0), p, 0) for p in theta]
    given = {"store": tmp_path / "store", "simulator": SPEC, "limits": LIMITS}
    with cluster_of(use, tmp_path, monkeypatch) as settings:
        with open_cluster(settings) as made:
            made.campaign(tasks[:4], **given)
            before = workers(mark)
            assert len(before) == (0 if use == "serial" else 2)
            made.campaign(tasks, **given)
            assert workers(mark) == before
        assert use == "address" or none_left(mark)
    assert none_left(mark)
    store = RunStore(tmp_path / "store")
    for task in tasks:
        record = store.read(task.key)
        judge(int(task.theta[0]), record.failure, record.y, task.theta[1])
        again = record.failure is not None and record.failure.kind == "crashed"
        assert [a["kind"] for a in record.about["attempts"]] == ["crashed"] * again
    print(f"\n{use}: {len(KINDS)} kinds classified, no process left, workers {sorted(before)} unchanged")


@contextlib.contextmanager
def cluster_of(use, folder, monkeypatch):
    """The section of a study for two workers; what it needs beside runs meanwhile."""
    loopback = {"threads_per_worker": 1, "dashboard_address": "127.0.0.1:0", "silence_logs": 60, "host": "127.0.0.1"}
    if use == "address":
        from distributed import LocalCluster

        with LocalCluster(n_workers=2, **loopback) as cluster:
            yield ClusterPart(use=use, workers=2, address=cluster.scheduler_address)
    elif use == "slurm":
        with queue(folder / "queue", environment := dict(os.environ)):
            for name in ("QUEUE", "PATH"):
                monkeypatch.setenv(name, environment[name])
            yield ClusterPart(
                use=use, workers=2, options={"walltime": "01:00:00", "worker_extra_args": ["--host", "127.0.0.1"]}
            )
    else:
        options = {**loopback, "n_workers": 0} if ":" in use else {}
        yield ClusterPart(use=use, workers=2, options=options)


def workers(mark):
    """The processes of Dask workers: started by Python's spawning."""
    return {p for p in t.marked(mark) if "spawn_main" in " ".join(cmdline(p))}


def cmdline(pid):
    try:
        return psutil.Process(pid).cmdline()
    except psutil.Error:
        return []


def test_a_run_does_not_find_what_the_run_before_it_changed(tmp_path, monkeypatch):
    (tmp_path / "lab.py").write_text("import os, sys\n\n\ndef run(theta):\n    where = os.getcwd()\n    os.chdir('/')\n"
                                     "    print('said')\n    sys.stdout.close()\n    return [len(where), 1.0]\n")  # fmt: skip
    monkeypatch.chdir(tmp_path)
    with Runner({**SPEC, "call": "lab:run"}) as r:
        answers = [r.run([0.0, 0.0], seed=0) for _ in range(3)]
        assert len({a.pid for a in answers}) == 1
    assert [a.y.tolist() for a in answers] == [[float(len(os.getcwd())), 1.0]] * 3
    assert [a.log for a in answers] == ["said"] * 3
