"""What a campaign costs beside its runs: printed as ratios, never asserted."""

import time
from pathlib import Path

import numpy as np
import pytest

from emulate import registry
from emulate.space import Parameter, Space, Uniform
from emulate.store import RunStore
from pipelines.campaign import Task, open_cluster
from pipelines.limits import Limits
from pipelines.runner import Runner
from pipelines.study import ClusterPart

pytestmark = pytest.mark.benchmark
SPACE = Space((Parameter("x", Uniform(0.0, 1.0)),))


@pytest.fixture
def settings(tmp_path, monkeypatch):
    (tmp_path / "slow.py").write_text(
        "import os\nimport time\n\n\ndef fast(theta):\n    if theta[0] > 0.9:\n        os._exit(3)\n    return theta\n" + "".join(
            f"\n\ndef of_{ms}_ms(theta):\n    time.sleep({ms / 1000})\n    return theta\n" for ms in (10, 100, 1000)))  # fmt: skip
    monkeypatch.chdir(tmp_path)
    return {"use": "function", "call": "slow:fast", "argument": "array"}


@pytest.mark.parametrize(("workers", "runs", "ms"), [(1, 200, 100), (2, 200, 100), (4, 200, 100), (2, 5000, 10),
                                                     (2, 200, 1000)])  # fmt: skip
def test_wall_time_of_a_campaign_over_its_ideal(settings, tmp_path, workers, runs, ms):
    settings = {**settings, "call": f"slow:of_{ms}_ms"}
    simulator = registry.build("simulators", settings, space=SPACE)
    theta = np.linspace(0.0, 1.0, runs + workers)[:, None]
    tasks = [Task(RunStore.key(simulator, t, 0), tuple(t), 0) for t in theta]
    given = {
        "store": tmp_path / "store",
        "simulator": {**settings, "space": SPACE.to_dict()},
        "limits": Limits(timeout=60.0),
    }
    with open_cluster(ClusterPart(use="local", workers=workers)) as executor:
        executor.campaign(tasks[:workers], **given)  # the cluster and the simulators are up
        start = time.perf_counter()
        executor.campaign(tasks[workers:], **given)
        wall = time.perf_counter() - start
    assert len(RunStore(tmp_path / "store").keys()) == len(tasks)
    ideal = runs * ms / 1000 / workers
    print(f"\n{runs} runs of {ms} ms on {workers} workers: {wall:.2f} s, {wall / ideal:.3f} of the ideal")


def test_cost_of_one_run_in_a_process_of_its_own(settings):
    spec = {**settings, "space": SPACE.to_dict()}
    with Runner(spec, limits=Limits(timeout=60.0)) as runner:
        first = seconds_of(runner, 0.5)
        each = np.mean([seconds_of(runner, 0.5) for _ in range(1000)])
        crash, again = np.median([(seconds_of(runner, 0.95), seconds_of(runner, 0.5)) for _ in range(20)], axis=0)
        held = [share(pid) for pid in (runner._guard.pid, runner.pid)]
    print(f"\n{1e3 * each:.2f} ms a run; {first:.2f} s to start, after a crash {1e3 * crash:.0f} ms to tell it and "
          f"{1e3 * again:.0f} ms to the next answer, {(crash + again) / first:.3f} of the start; "
          f"{sum(held):.0f} MiB held, {held[0]:.0f} by the guard")  # fmt: skip


def seconds_of(runner, x):
    start = time.perf_counter()
    assert (runner.run([x], seed=0).failure is None) == (x < 0.9)
    return time.perf_counter() - start


def share(pid):
    """MiB of memory that a process holds, a page that n processes share counted as 1/n."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
