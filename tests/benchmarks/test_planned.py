"""What the driver of a campaign holds while very many points are planned: printed, never asserted."""

import subprocess
import sys
import textwrap

import pytest

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(3600)]
PLANNED, EXECUTED = 1_000_000, 20_000

DRIVER = """
import sys
import time
from pathlib import Path

import numpy as np
import psutil

from emulate import registry
from emulate.space import Parameter, Space, Uniform
from pipelines.campaign import open_cluster
from pipelines.study import ClusterPart
from pipelines.tasks import Tasks

class Enough(Exception):
    pass

def main(planned, executed, folder):
    space = Space((Parameter("x", Uniform(0.0, 1.0)), Parameter("y", Uniform(0.0, 1.0))))
    settings = {"use": "function", "call": "statistics:fmean", "argument": "array"}
    simulator = registry.build("simulators", settings, space=space)
    me, start, marks = psutil.Process(), time.perf_counter(), []
    print(f"{me.memory_info().rss / 1e6:.0f} MB before planning")
    theta = np.random.default_rng(0).random((planned, 2))
    tasks = Tasks.of(simulator, theta, np.zeros(planned, np.int64), np.zeros(planned, np.uint8), [("y", None)])
    print(f"{me.memory_info().rss / 1e6:.0f} MB with {planned} points planned, after {time.perf_counter() - start:.0f} s")

    def progress(done, failed, total, seconds, lengths):
        if done >= len(marks) * executed // 4:
            marks.append(me.memory_info().rss / 1e6)
            scheduler = executor._pool._cluster.scheduler if executor._pool and executor._pool._cluster else None
            held = len(scheduler.tasks) if scheduler else 0
            print(f"{marks[-1]:.0f} MB with {done} runs made, {held} tasks known to the scheduler, {seconds:.0f} s")
        if done >= executed:
            raise Enough

    try:
        with open_cluster(ClusterPart(use="local", workers=2)) as executor:
            executor.campaign(tasks, store=Path(folder), simulator={**settings, "space": space.to_dict()},
                              progress=progress)
    except Enough:
        print(f"most resident: {max(marks):.0f} MB (bar 1024 MB), last over first with runs under way: "
              f"{marks[-1] / marks[1]:.3f}")

if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
"""


def test_memory_of_the_driver_of_a_million_points(tmp_path):
    (tmp_path / "driver.py").write_text(textwrap.dedent(DRIVER))
    command = [sys.executable, str(tmp_path / "driver.py"), str(PLANNED), str(EXECUTED), str(tmp_path / "store")]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    print(f"\n{made.stdout}{made.stderr[-2000:] if made.returncode else ''}")
    assert made.returncode == 0
