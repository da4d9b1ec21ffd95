import os
import subprocess
import sys
import time
import uuid
from pathlib import Path

import numpy as np
import pytest

from emulate import registry
from emulate.errors import CampaignError, InputError, RunFailed
from emulate.keys import identity
from emulate.space import Parameter, Space, Uniform
from emulate.store import RunStore
from pipelines.limits import Limits
from pipelines.runner import Answer, Runner
from pipelines.worker import Task, make

HERE = Path(__file__).parents[1]
sys.path.append(str(HERE))  # where trouble.py lies, for this process and its children
import trouble  # noqa: E402

SLOW = pytest.mark.slow
SPACE = Space((Parameter("kind", Uniform(-0.5, 20.0)), Parameter("x", Uniform(0.0, 1.0))))
TROUBLE = {"use": "function", "call": "trouble:run", "argument": "array", "outputs": [{"name": "a"}, {"name": "b"}],
           "space": SPACE.to_dict()}  # fmt: skip
SIMULATOR = registry.build("simulators", {k: v for k, v in TROUBLE.items() if k != "space"}, space=SPACE)


@pytest.fixture(scope="module")
def runner():
    with Runner(TROUBLE, limits=Limits(timeout=2.0)) as r:
        yield r


def gone(mark, besides=(), seconds=15.0):
    end = time.monotonic() + seconds
    while (left := set(trouble.marked(mark)) - {*besides}) and time.monotonic() < end:
        time.sleep(0.05)
    return sorted(left)


@pytest.mark.parametrize(("what", "kind", "reason", "log"), [
    (trouble.RAISE, "error", "ValueError: the tea is cold", 'raise ValueError("the tea is cold")'),
    (trouble.NAN, "nonfinite", "1 of 2 values of y are not finite, the first is b = nan.", ""),
    (trouble.SHAPE, "badshape", "trouble:run must return the declared 2 values in every run. Got 3, shape (3,); "
     "declare what it returns under `outputs`, or mend it if it changes shape between runs.", ""),
    (trouble.HANG, "timeout", "the run took longer than 2 s and was killed", ""),
    (trouble.EXIT, "crashed", "the process ended inside the run (exit code 3)", ""),
    (trouble.SEGFAULT, "crashed", "the process ended inside the run (signal SIGSEGV)", "Fatal Python error"),
    (trouble.MEMORY, "oom", "MemoryError: no room", "MemoryError"),
    (trouble.LEAVE, "error", "SystemExit: bye", "SystemExit"),
    pytest.param(trouble.KILL, "crashed", "the process ended inside the run (signal SIGKILL)", "", marks=SLOW),
])  # fmt: skip
def test_misbehaviour_is_classified_and_the_next_run_is_fine(runner, what, kind, reason, log):
    answer = runner.run([what, 0.5], seed=0)
    assert (answer.failure.kind, answer.failure.reason) == (kind, reason)
    assert log in answer.failure.log
    assert answer.y is None
    np.testing.assert_array_equal(runner.run([trouble.FINE, 0.5], seed=0).y, [0.5, 1.0])


def test_what_a_run_prints_is_kept_in_part_and_breaks_nothing(runner):
    answer = runner.run([trouble.PRINT, 0.25], seed=0)
    np.testing.assert_array_equal(answer.y, [0.25, 0.5])
    assert answer.log.endswith("aaaaaa") or answer.log.endswith("the last words")
    assert "the last words" in answer.log
    assert len(answer.log) <= Limits().log_bytes


def test_the_process_is_kept_between_runs_and_describes_the_same_simulator(runner):
    runner.run([trouble.FINE, 0.5], seed=0)
    pid = runner.pid
    for x in np.linspace(0, 1, 20):
        runner.run([trouble.FINE, x], seed=0)
    assert runner.pid == pid
    given = {k: v for k, v in TROUBLE.items() if k != "space"}
    assert runner.identity == identity(registry.build("simulators", given, space=SPACE))


def test_a_process_that_dies_between_runs_is_replaced(runner):
    runner.run([trouble.FINE, 0.5], seed=0)
    os.killpg(runner.pid, 9)
    time.sleep(0.5)
    np.testing.assert_array_equal(runner.run([trouble.FINE, 0.75], seed=0).y, [0.75, 1.5])


def test_numbers_are_those_of_this_process_bit_for_bit():
    spec = {"use": "linear_gaussian", "noise": 0.3, "outputs_count": 7}
    simulator = registry.build("simulators", spec)
    import torch

    theta = torch.tensor([0.1, -1 / 3], dtype=torch.float64)
    with Runner(spec) as r:
        answer = r.run(theta.tolist(), seed=2**62 + 1)
        jacobian = r.run(theta.tolist(), seed=0, product="jacobian", gradient={"use": "reverse"})
    assert answer.y.tobytes() == simulator.run(theta, seed=2**62 + 1).numpy().tobytes()
    np.testing.assert_allclose(jacobian.jacobian, simulator.matrix.numpy(), rtol=1e-12)
    np.testing.assert_array_equal(jacobian.standard_error.shape, (7, 2))


def test_threads_are_one_and_answers_deterministic(tmp_path, monkeypatch):
    (tmp_path / "look.py").write_text("import torch\ndef run(theta):\n    return [torch.get_num_threads(), "
                                      "torch.are_deterministic_algorithms_enabled()]\n")  # fmt: skip
    monkeypatch.chdir(tmp_path)
    with Runner({**TROUBLE, "call": "look:run"}) as r:
        np.testing.assert_array_equal(r.run([0.0, 0.0], seed=0).y, [1, 1])


def test_a_run_owns_the_cores_that_its_limits_say(tmp_path, monkeypatch):
    (tmp_path / "cores.py").write_text("import os, torch\ndef run(theta):\n    return [torch.get_num_threads(), "
                                       "int(os.environ['OPENBLAS_NUM_THREADS'])]\n")  # fmt: skip
    monkeypatch.chdir(tmp_path)
    with Runner({**TROUBLE, "call": "cores:run"}, limits=Limits(threads=2)) as r:
        np.testing.assert_array_equal(r.run([0.0, 0.0], seed=0).y, [2, 2])


def test_an_answer_over_its_limit_is_refused_before_the_run(tmp_path, monkeypatch):
    monkeypatch.setenv("TROUBLE_LOG", str(tmp_path / "calls"))
    with Runner(TROUBLE, limits=Limits(answer_bytes=15)) as r:
        failure = r.run([trouble.FINE, 0.0], seed=0).failure
    assert (failure.kind, failure.reason) == ("badshape", "the answer of one run must hold at most 15 B (simulate.answer)."
                                              " The declared outputs hold 16 B; declare fewer, or raise the limit.")  # fmt: skip
    assert not (tmp_path / "calls").exists()


def test_a_large_answer_comes_through_whole(tmp_path, monkeypatch):
    (tmp_path / "large.py").write_text("import numpy as np\ndef run(theta):\n    return np.arange(1_000_000.0)\n")
    monkeypatch.chdir(tmp_path)
    with Runner({**TROUBLE, "call": "large:run", "outputs": [{"name": "a", "size": 1_000_000}]}) as r:
        np.testing.assert_array_equal(r.run([0.0, 0.0], seed=0).y, np.arange(1e6))


@SLOW
def test_a_process_that_grows_towards_its_limit_is_replaced_and_no_run_pays_for_another(tmp_path, monkeypatch):
    """Ten runs leak 200 MB each under a limit of 1.5 GiB: none may fail, for alone each needs little."""
    (tmp_path / "leak.py").write_text("held = []\ndef run(theta):\n    held.append(b'x' * 200_000_000)\n"
                                      "    return [len(held), 0.0]\n")  # fmt: skip
    monkeypatch.chdir(tmp_path)
    with Runner({**TROUBLE, "call": "leak:run"}, limits=Limits(memory=3 * 2**29)) as r:
        answers = [r.run([0.0, 0.0], seed=0) for _ in range(10)]
    assert [a.failure for a in answers] == [None] * 10
    assert len({a.pid for a in answers}) > 1


class Lucky:
    """A runner whose runs come out as listed."""

    def __init__(self, limits, *outcomes):
        self.limits, self.identity, self._outcomes = limits, identity(SIMULATOR), list(outcomes)

    def run(self, *question):
        kind = self._outcomes.pop(0)
        if kind is None:
            return Answer(y=np.array([0.5, 1.0]), seconds=0.25)
        return Answer(failure=RunFailed(kind, f"reason of {kind}"), log="said " * 4000, seconds=0.5)


@pytest.mark.parametrize(("retries", "outcomes", "attempts", "last"), [
    ({"crashed": 2}, ["crashed", "crashed", None], 2, None),
    ({"crashed": 1}, ["crashed", "crashed", "never made"], 1, "crashed"),
    ({"crashed": 1}, ["error", "never made"], 0, "error"),
    ({"crashed": 1, "timeout": 2}, ["timeout", "crashed", "timeout", "crashed", "never made"], 3, "crashed"),
    ({"badshape": 1, "nonfinite": 1}, ["nonfinite", "badshape", None], 2, None),
    ({}, [None, "never made"], 0, None),
])  # fmt: skip
def test_a_failed_run_is_made_again_by_kind_and_remembers_its_attempts(tmp_path, retries, outcomes, attempts, last):
    store, task = RunStore(tmp_path), Task(RunStore.key(SIMULATOR, (0.0, 0.5), 0), (0.0, 0.5), 0)
    runner = Lucky(Limits(retries=tuple(retries.items())), *outcomes)
    (key, failed, seconds), commit = make(task, store, runner)
    assert store.keys() == []
    commit()
    record = store.read(key)
    assert [(a["kind"], a["reason"], a["seconds"]) for a in record.about["attempts"]] == [
        (k, f"reason of {k}", 0.5) for k in outcomes[:attempts]
    ]
    assert max((len(a["log"]) for a in record.about["attempts"]), default=0) <= 8192
    assert (failed, seconds) == (last is not None, 0.5 * attempts + (0.5 if last else 0.25))
    assert (record.failure.kind if record.failure else None) == last
    assert runner._outcomes == outcomes[attempts + 1 :]


def test_a_simulator_that_cannot_be_built(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bomb.py").write_text("import os\nos._exit(7)\n")
    with Runner({**TROUBLE, "call": "nowhere_at_all:run"}) as r, pytest.raises(InputError, match="cannot be imported"):
        r.run([0.0, 0.0], seed=0)
    with (
        Runner({**TROUBLE, "call": "bomb:run"}) as r,
        pytest.raises(
            CampaignError, match=r"the simulator 'function' ended its process while it was built \(exit code 7\)"
        ),
    ):
        r.run([0.0, 0.0], seed=0)


def test_a_timeout_kills_also_what_left_the_process_group(monkeypatch):
    mark = uuid.uuid4().hex
    monkeypatch.setenv("TROUBLE_MARK", mark)
    with Runner(TROUBLE, limits=Limits(timeout=2.0)) as r:
        assert r.run([trouble.GRANDCHILD, 0.0], seed=0).failure.kind == "timeout"
        assert gone(mark, besides=[r._guard.pid]) == []
        r.run([trouble.FINE, 0.0], seed=0)
        assert sorted(trouble.marked(mark)) == sorted([r._guard.pid, r.pid])  # the guard and the simulator
    assert gone(mark) == []


def test_nothing_outlives_a_parent_that_is_killed(monkeypatch):
    mark = uuid.uuid4().hex
    script = f"from pipelines.runner import Runner\nRunner({TROUBLE!r}).run([{trouble.GRANDCHILD}, 0.0], seed=0)\n"
    environment = {**os.environ, "TROUBLE_MARK": mark, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    parent = subprocess.Popen([sys.executable, "-c", script], env=environment)
    end = time.monotonic() + 60
    while len(trouble.marked(mark)) < 4 and time.monotonic() < end:  # parent, guard, simulator, sleep
        time.sleep(0.05)
    assert len(trouble.marked(mark)) == 4
    parent.kill()
    parent.wait()
    assert gone(mark) == []


def test_the_module_is_light():
    code = "import sys, pipelines.runner; print([m for m in ('torch', 'numpy', 'dask', 'mlflow') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_limits_that_a_run_set_for_its_process_do_not_meet_the_next_one(tmp_path, monkeypatch):
    """Lowered for good where the user is not root: then the next run gets a process of its own."""
    (tmp_path / "greedy.py").write_text(
        "import os, resource, signal\n\n\ndef run(theta):\n    before = resource.getrlimit(resource.RLIMIT_FSIZE)[0]\n"
        "    mask = os.umask(0o777)\n    left = signal.setitimer(signal.ITIMER_REAL, 100.0)[0]\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n    return [before, mask + left]\n"
    )
    monkeypatch.chdir(tmp_path)
    with Runner({**TROUBLE, "call": "greedy:run"}) as runner:
        answers = [runner.run([0.0, 0.0], seed=0) for _ in range(3)]
    assert [a.failure for a in answers] == [None] * 3
    assert len({tuple(a.y) for a in answers}) == 1
