"""Shares of a campaign with no scheduler: together they make every run once, the same bytes as one process."""

import time

import pytest

from emulate.errors import CampaignError, InputError
from emulate.store import RunStore
from pipelines import engine, shard, worker
from pipelines.campaign import Executor, campaign
from pipelines.config import load_study
from pipelines.limits import Limits
from pipelines.study import ClusterPart
from pipelines.terminal import Terminal
from pipelines.workbench import Workbench
from tests.stored import content

STUDY = """
name: shares
simulator: {use: linear_gaussian, noise: 0.5}
design: {runs: 9, held_out: 4}
emulators: {polynomial: }
infer: {likelihood: {absolute_error: 1}}
check: {importance_runs: 4}
tracking: {uri: 'off'}
"""
QUIET = Terminal(quiet=True)


@pytest.fixture
def study(tmp_path):
    (tmp_path / "study.yaml").write_text(STUDY + f"output: {tmp_path / 'out'}\n")
    return load_study(tmp_path / "study.yaml")


def test_shares_together_are_the_campaign(study, tmp_path):
    engine.run(study, ["design"], QUIET)
    counts = []
    for i in (3, 1, 2, 1):
        assert shard.run(study, (i, 3), QUIET) == 0
        counts.append(len(RunStore(study.folder / "store").keys()))
    assert counts == [4, 9, 13, 13]
    with Workbench(study, QUIET) as bench:
        import numpy as np

        asked = bench.tasks(np.concatenate([bench.points(which) for which in ("training", "held_out")]))
    campaign(asked, store=tmp_path / "serial", simulator=study.simulator_spec, cluster=ClusterPart(use="serial"))
    assert content(study.folder / "store") == content(tmp_path / "serial")
    assert engine.run(study, ["simulate"], QUIET)


def test_a_share_whose_time_is_over_keeps_what_it_made(study):
    engine.run(study, ["design"], QUIET)
    said = (
        r"^share 1 of 2: the time of this job is over with 7 runs of 7 to make\. Start the same command again; stored"
    )
    with pytest.raises(CampaignError, match=said):
        shard.run(study, (1, 2), QUIET, limit=1.0)
    shard.run(study, (1, 2), QUIET, limit=1e6)


def test_a_share_needs_points(study):
    with pytest.raises(
        InputError, match=r"^a share of the runs needs the points, and .*design has none\. Run `emulate "
    ):
        shard.run(study, (1, 2), QUIET)


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "1/0", "a/b", "1/2/3", "-1/3", "", "1 / 2"])
def test_a_share_is_the_ith_of_n_from_1(text):
    with pytest.raises(InputError, match=r"^--shard must be i/n, the i-th of n shares, counted from 1\. Got "):
        shard.read(text)
    assert shard.read("3/16") == (3, 16)


def test_a_worker_begins_no_run_that_its_job_would_kill(study, tmp_path, monkeypatch):
    engine.run(study, ["design"], QUIET)
    with Workbench(study, QUIET) as bench:
        asked = bench.tasks(bench.points("training"))
        store = bench.store
    import json

    work = worker.Work(str(store.path), json.dumps(study.simulator_spec, sort_keys=True), Limits(), str(tmp_path))
    monkeypatch.setenv("EMULATE_JOB_END", str(time.time() + 1))
    assert worker.run_batch(work, asked) == []
    monkeypatch.setenv("EMULATE_JOB_END", str(time.time() + 1000))
    assert len(worker.run_batch(work, asked[:2])) == 2
    worker._mine.longest = 2000.0
    assert worker.run_batch(work, asked[2:]) == []
    monkeypatch.setenv("EMULATE_JOB_END", str(time.time() + 1))
    executor = Executor(ClusterPart(use="local"))
    with pytest.raises(
        CampaignError, match=r"^the time of this job is over with 2 of 9 runs stored\. Start the same com"
    ):
        executor.campaign(asked, store=store.path, simulator=study.simulator_spec)
    executor.close()
    worker._mine.runner.close()
