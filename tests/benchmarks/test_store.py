"""What the store costs: printed, never asserted. `uv run pytest -m benchmark -s tests/benchmarks/test_store.py`"""

import os
import time
from contextlib import contextmanager

import numpy as np
import pytest

from emulate.errors import RunFailed
from emulate.keys import identity, record_of
from emulate.simulators.linear_gaussian import LinearGaussian
from emulate.store import RunStore
from emulate.upkeep import merge, verify
from pipelines.config import load_study
from pipelines.stages import simulate
from pipelines.terminal import Terminal
from pipelines.workbench import Workbench

pytestmark = pytest.mark.benchmark
RUNS = 100_000
STUDY = f"""
name: many
simulator: {{use: linear_gaussian, outputs_count: 10}}
design: {{use: sobol, runs: {RUNS - 20}, held_out: 20}}
cluster: {{use: serial}}
infer: {{likelihood: {{use: gaussian, absolute_error: 0.2}}}}
tracking: {{uri: "off"}}
"""
ABOUT = {"seconds": 0.1, "memory_mib": 3.0, "host": "here", "pid": 1, "time": "2026-11-25T00:00:00+00:00", "log": ""}


@contextmanager
def told(what):
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    print(f"\n{what}: {time.perf_counter() - wall:.2f} s, {time.process_time() - cpu:.2f} s of CPU", end="")


@pytest.mark.timeout(1800)
def test_a_finished_campaign_of_many_runs_is_resumed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.yaml").write_text(STUDY)
    study = load_study("study.yaml")
    with Workbench(study, Terminal(quiet=True)) as bench:
        with told("choose the points"):
            sets = simulate.design.points(bench)
        simulate.design.run(bench)
        theta = np.concatenate(list(sets.values()))
        who, matrix = identity(study.simulator), study.simulator.matrix.numpy()
        monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # the store is fabricated, not under test
        for i, t in enumerate(theta):
            given = {"failure": RunFailed("timeout", "slow")} if i % 50 == 49 else {"y": matrix @ t}
            bench.store.commit(record_of(who, t, 0), **given, about={**ABOUT, "theta": t.tolist()})
        monkeypatch.undo()
        monkeypatch.chdir(tmp_path)
    with Workbench(study, Terminal(quiet=True)) as bench:
        with told(f"say that {RUNS} runs are stored, `emulate simulate --dry-run`"):
            said = simulate.forecast(bench)
        assert said == f"0 runs to do, {RUNS} stored"
        tasks = bench.tasks(theta)
        with told("a campaign that finds every run there"):
            bench.campaign(theta, "simulate")
        with told("the same where the campaign counts what failed"):
            bench.executor.campaign(tasks, store=bench.store.path, simulator=study.simulator_spec)
        with told("the table of all runs, every checksum verified"):
            assert len(bench.runs(theta)) == RUNS
        with told("keys of the store"):
            keys = bench.store.keys()
        with told("failures counted"):
            assert sum(map(bench.store.failed, keys)) == RUNS // 50
        with told("verify"):
            assert verify(bench.store) == []


def test_one_commit_and_one_read(tmp_path):
    store, who = RunStore(tmp_path / "store"), identity(LinearGaussian(outputs_count=10))
    records = [record_of(who, [float(i), 0.0], 0) for i in range(1000)]
    with told("1000 commits, each flushed to the disk"):
        for raw in records:
            store.commit(raw, y=np.zeros(10), about=ABOUT)
    with told("1000 runs verified"):
        assert verify(store) == []
    with told("1000 runs merged into an empty store, each flushed"):
        assert merge(RunStore(tmp_path / "other"), store).copied == 1000
