"""A campaign in a process group of its own is killed or interrupted; the next one finds all that was finished."""

import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from pathlib import Path

import pytest

from emulate.store import RunStore

HERE = Path(__file__).parents[1]
sys.path.append(str(HERE))  # where trouble.py lies
import trouble  # noqa: E402
from executors import wait_until  # noqa: E402

DRIVER = """
import sys
from pathlib import Path
from emulate import registry
from emulate.space import Parameter, Space, Uniform
from emulate.store import RunStore, run_seed
from pipelines.campaign import Limits, Task, campaign
from pipelines.study import ClusterPart

def main(store, use, kind, n):
    space = Space((Parameter("kind", Uniform(-0.5, 40.0)), Parameter("x", Uniform(0.0, 1.0))))
    settings = {"use": "function", "call": "trouble:run", "argument": "array", "stochastic": True,
                "outputs": [{"name": "a"}, {"name": "b"}]}
    simulator = registry.build("simulators", settings, space=space)
    tasks = [Task(RunStore.key(simulator, (kind, i / n), run_seed(1, (kind, i / n))), (kind, i / n),
                  run_seed(1, (kind, i / n))) for i in range(n)]
    campaign(tasks, store=Path(store), simulator={**settings, "space": space.to_dict()}, limits=Limits(timeout=600.0),
             cluster=ClusterPart(use=use, workers=2))

if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4]))
"""


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """Start a campaign (store, use, kind, n) in a new process group; its processes carry a mark."""
    mark = uuid.uuid4().hex
    monkeypatch.setenv("TROUBLE_MARK", mark)
    monkeypatch.setenv("TROUBLE_LOG", str(tmp_path / "calls"))
    monkeypatch.setenv("TROUBLE_SECONDS", "0.02")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), *(p for p in sys.path if p)]))
    (tmp_path / "driver.py").write_text(DRIVER)
    started = []

    def start(*arguments):
        command = [sys.executable, str(tmp_path / "driver.py"), str(tmp_path / "store"), *map(str, arguments)]
        started.append(subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True))
        return started[-1]

    start.mark = mark
    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def calls(tmp_path):
    path = tmp_path / "calls"
    return Counter(path.read_text().splitlines()) if path.exists() else Counter()


def resume_after_kills(driver, tmp_path, use, kills, n):
    chance = random.Random(0)
    for _ in range(kills):
        before = sum(calls(tmp_path).values())
        process = driver(use, trouble.FINE, n)
        wait_until(lambda: process.poll() is not None or sum(calls(tmp_path).values()) > before + 5)  # noqa: B023
        time.sleep(chance.uniform(0, 0.3))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        wait_until(lambda: trouble.marked(driver.mark) == [], 20.0)
    store = RunStore(tmp_path / "store")
    held, asked = set(store.keys()), calls(tmp_path)
    assert 0 < len(held) < n
    assert driver(use, trouble.FINE, n).wait(300) == 0
    runs = [store.read(k) for k in store.keys()]  # noqa: SIM118
    assert len(runs) == n
    assert all(r.ok for r in runs)
    after = calls(tmp_path)
    for r in runs:
        question = f"0 {float.fromhex(r.inputs['theta']['x'])!r}"
        assert after[question] - asked[question] == (0 if r.key in held else 1)  # what was stored is not run again
    assert sum(after.values()) <= n + kills * 4  # on each worker one run was under way, and one about to be committed
    return store


def test_a_killed_campaign_is_continued_without_a_loss(driver, tmp_path):
    resume_after_kills(driver, tmp_path, "local", kills=1, n=60)


@pytest.mark.slow
@pytest.mark.parametrize("use", ["serial", "local"])
def test_a_campaign_killed_many_times_is_continued_without_a_loss(driver, tmp_path, use):
    resume_after_kills(driver, tmp_path, use, kills=6, n=200)


@pytest.mark.slow
def test_workers_do_not_outlive_a_driver_that_is_killed_alone(driver, tmp_path):
    process = driver("local", trouble.HANG, 4)
    wait_until(lambda: sum(calls(tmp_path).values()) == 2)
    process.kill()
    process.wait()
    wait_until(lambda: trouble.marked(driver.mark) == [], 30.0)


@pytest.mark.parametrize(("use", "whole", "kind"), [
    pytest.param("serial", False, trouble.GRANDCHILD, marks=pytest.mark.slow),
    pytest.param("serial", True, trouble.BURST, marks=pytest.mark.slow),
    pytest.param("local", False, trouble.BURST, marks=pytest.mark.slow),
    pytest.param("local", True, trouble.FORKS, marks=pytest.mark.slow),
    ("local", True, trouble.GRANDCHILD),
])  # fmt: skip
def test_an_interrupt_leaves_no_process_and_no_wrong_row(driver, tmp_path, use, whole, kind):
    process = driver(use, kind, 4)
    wait_until(lambda: sum(calls(tmp_path).values()) == (1 if use == "serial" else 2))
    (os.killpg if whole else os.kill)(process.pid, signal.SIGINT)
    assert process.wait(60) != 0
    assert "KeyboardInterrupt" in process.stderr.read()
    wait_until(lambda: trouble.marked(driver.mark) == [], 20.0)
    assert RunStore(tmp_path / "store").keys() == []
