"""A simulator that ends its process is forked anew from a guard that stays: what a life costs, shares and leaves."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from emulate.errors import CampaignError
from emulate.space import Parameter, Space, Uniform
from pipelines.limits import Limits
from pipelines.runner import Runner

SPACE = Space((Parameter("kind", Uniform(0.0, 1.0)), Parameter("x", Uniform(0.0, 1.0))))
SPEC = {"use": "function", "call": "probe:run", "argument": "array", "outputs": [{"name": "a"}, {"name": "b"}],
        "space": SPACE.to_dict()}  # fmt: skip
FINE, DIE = 0.0, 1.0
PROBE = """
import json, os, random, subprocess
import numpy as np
import torch

with open("imports", "a") as f:
    f.write(f"probe {os.getpid()}\\n")

def targets(pid):
    return [os.readlink(f"/proc/{pid}/fd/{n}") for n in os.listdir(f"/proc/{pid}/fd") if os.path.exists(f"/proc/{pid}/fd/{n}")]

def run(theta):
    if theta[0] == 1.0:
        os._exit(3)
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    a = np.arange(90_000.0).reshape(300, 300) % 7.3
    started = subprocess.run(["ls", "/proc/self/fd"], close_fds=False, capture_output=True, text=True).stdout
    print(json.dumps({
        "pid": os.getpid(), "guard": os.getppid(), "folder": os.getcwd(), "held": targets("self"), "started": started.split(),
        "signals": [status[n].strip() for n in ("SigBlk", "SigIgn", "SigCgt")],
        "chance": [random.random(), float(np.random.random())], "torch": float(torch.rand(1)), "hash": hash("word"),
        "product": [(a @ a).tobytes().hex()[-64:], float((torch.from_numpy(a) @ torch.from_numpy(a.T)).exp().sin().sum()).hex()],
    }))
    return theta
"""
NOTE = """
import os, sys
import numpy.random  # as early as older versions of numpy import it: each life has its seed to change

def hear(event, about):
    if event == "import" and about[0] == "torch":
        with open({where!r}, "a") as f:
            f.write(f"torch {{os.getpid()}}\\n")

sys.addaudithook(hear)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the simulator lies, and a note of every process that imports torch or it."""
    path = tmp_path_factory.mktemp("lives")
    (path / "probe.py").write_text(PROBE)
    (path / "sitecustomize.py").write_text(NOTE.format(where=str(path / "imports")))
    sys.path.insert(0, str(path))
    yield path
    sys.path.remove(str(path))


@pytest.fixture(scope="module")
def runner(folder):
    with Runner(SPEC, limits=Limits(timeout=60.0), folder=folder) as made:
        yield made


def look(runner):
    answer = runner.run([FINE, 0.5], seed=0)
    assert answer.failure is None, answer.log
    return {**json.loads(answer.log), "answer": answer}


def die(runner):
    assert runner.run([DIE, 0.5], seed=0).failure.reason == "the process ended inside the run (exit code 3)"


@pytest.fixture(scope="module")
def three(runner):
    found = []
    for _ in range(3):
        found.append(look(runner))
        die(runner)
    return found


def test_a_new_life_imports_the_simulator_and_not_torch(three, folder):
    assert len({life["pid"] for life in three}) == 3
    assert [life["answer"].pid for life in three] == [life["pid"] for life in three]
    (guard,) = {life["guard"] for life in three}
    notes = (folder / "imports").read_text().splitlines()
    assert [n for n in notes if n.startswith("torch")] == [f"torch {guard}"]
    assert [n for n in notes if n.startswith("probe")] == [f"probe {life['pid']}" for life in three]


def test_every_life_gives_the_same_numbers_and_draws_its_own_chance(three):
    for what in ("product", "torch", "hash", "folder"):
        assert len({str(life[what]) for life in three}) == 1, what
    for generator in range(2):  # Python's and numpy's global ones
        assert len({life["chance"][generator] for life in three}) == 3


def test_a_life_holds_nothing_that_a_new_process_would_not(three, folder):
    for life in three:
        assert life["folder"] == str(folder)
        assert not [name for name in life["held"] if name.startswith("socket:")]
        assert len(life["started"]) == 4  # in, out, error, and the folder that ls reads
    assert len({len(life["held"]) for life in three}) == 1
    code = "for n in open('/proc/self/status'):\n    if n[:6] in ('SigBlk', 'SigIgn', 'SigCgt'): print(n.split()[1])"
    new = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", code], capture_output=True, text=True
    ).stdout.split()
    assert [life["signals"] for life in three] == [new] * 3


def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def children(pid):
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def test_a_hundred_lives_leave_no_descriptor_and_no_process(runner):
    look(runner)
    guard = runner._guard.pid
    before = descriptors("self"), descriptors(guard)
    for _ in range(100):
        die(runner)
        runner.run([FINE, 0.5], seed=0)
    assert runner._guard.pid == guard
    assert (descriptors("self"), descriptors(guard)) == before
    assert children(guard) == [str(runner.pid)]


@pytest.mark.parametrize("threads", [1, 2])
def test_the_guard_has_one_thread(folder, threads):
    with Runner(SPEC, limits=Limits(timeout=60.0, threads=threads), folder=folder) as runner:
        products = {str(look(runner)["product"])}
        assert len(os.listdir(f"/proc/{runner._guard.pid}/task")) == 1
        die(runner)
        assert {str(look(runner)["product"])} == products
        assert len(os.listdir(f"/proc/{runner._guard.pid}/task")) == 1


@pytest.mark.slow
def test_a_guard_that_is_killed_between_runs_is_replaced(runner):
    look(runner)
    guard, life = runner._guard.pid, runner.pid
    os.kill(guard, signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{life}").exists())
    assert look(runner)["guard"] == runner._guard.pid != guard
    die(runner)
    os.kill(runner._guard.pid, signal.SIGKILL)  # while it waits for the next life
    time.sleep(0.1)
    look(runner)


def test_a_torch_that_cannot_be_imported_is_told_as_the_simulator_that_needs_it(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so.13: no such file')\n")
    said = r"^the simulator 'function' could not be built: libcudart\.so\.13: no such file\.\nTraceback"
    with Runner(SPEC) as runner:
        for _ in range(2):
            with pytest.raises(CampaignError, match=said):
                runner.run([FINE, 0.5], seed=0)
            assert runner.pid == 0
    (tmp_path / "torch.py").write_text("import ctypes\nprint('here')\nctypes.string_at(0)\n")
    said = r"^the simulator 'function' ended its process while it was built \(signal SIGSEGV\)\. It said:\nhere\nFatal Python error"
    with Runner(SPEC) as runner, pytest.raises(CampaignError, match=said):
        runner.run([FINE, 0.5], seed=0)


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGINT])
def test_a_guard_that_still_imports_does_not_outlive_its_runner(tmp_path, kind):
    """An import that lasts a thousand seconds, and a runner that is killed or interrupted meanwhile."""
    (tmp_path / "torch.py").write_text(
        "import os, time\nopen('guard', 'w').write(str(os.getpid()))\ntime.sleep(1000)\n"
    )
    code = f"from pipelines.runner import Runner\nwith Runner({SPEC!r}) as runner: runner.run([0.0, 0.5], seed=0)\n"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])}
    parent = subprocess.Popen([sys.executable, "-c", code], env=environment, cwd=tmp_path, stderr=subprocess.DEVNULL)
    wait_until(lambda: (tmp_path / "guard").exists() and (tmp_path / "guard").read_text())
    guard = int((tmp_path / "guard").read_text())
    parent.send_signal(kind)
    assert parent.wait(10.0) == -kind
    wait_until(lambda: not Path(f"/proc/{guard}").exists())


def wait_until(good, seconds=60.0):
    end = time.monotonic() + seconds
    while not good() and time.monotonic() < end:
        time.sleep(0.02)
    assert good()
