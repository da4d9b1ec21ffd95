"""What a campaign is doing, as another process sees it."""

import json
import os
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulate import registry
from emulate.keys import identity, record_of
from emulate.store import RunStore
from pipelines import pace, underway
from pipelines.limits import Limits
from pipelines.runner import Answer, Runner
from pipelines.tasks import Task
from pipelines.underway import UnderWay
from pipelines.worker import commit, make

SIMULATOR = registry.build("simulators", "linear_gaussian")
LIMITS = Limits(timeout=60.0, retries=(("crashed", 1),))


def task(x):
    return Task(RunStore.key(SIMULATOR, [x, 0.0], 0), (x, 0.0), 0)


@pytest.fixture
def store(tmp_path):
    return RunStore(tmp_path)


def test_a_run_is_seen_while_it_is_made_and_not_after(store):
    before = time.time()
    with underway.noted(store, task(0.5), LIMITS, longest=0.0):
        (seen,) = underway.listing(store)
        assert (seen.key, seen.theta, seen.host, seen.pid) == (
            task(0.5).key,
            (0.5, 0.0),
            socket.gethostname(),
            os.getpid(),
        )
        assert before <= seen.since <= time.time()
        assert seen.until == seen.since + 2 * 60.0 + underway._GRACE
    assert underway.listing(store) == []
    assert list((store.path / "under_way").iterdir()) == []


@pytest.mark.parametrize(("longest", "seen"), [(0.0, 1), (0.5, 0), (2.0, 1)])
def test_short_runs_are_not_noted(store, longest, seen):
    with underway.noted(store, task(0.5), LIMITS, longest):
        assert len(underway.listing(store)) == seen


def test_a_worker_notes_the_run_that_it_makes_and_the_note_goes_however_it_ends(store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "waiting.py").write_text("import os, time\n\n\ndef run(theta):\n    while not os.path.exists('go'):\n"
                                         "        time.sleep(0.01)\n    raise SystemExit\n")  # fmt: skip
    settings = {"use": "function", "call": "waiting:run", "argument": "array", "outputs": [{"name": "y"}]}
    space = SIMULATOR.space
    slow = Task(RunStore.key(registry.build("simulators", settings, space=space), [0.5, 0.0], 0), (0.5, 0.0), 0)
    with Runner({**settings, "space": space.to_dict()}, limits=LIMITS) as runner:
        done = threading.Thread(target=lambda: make(slow, store, runner)[1]())
        done.start()
        while not (seen := underway.listing(store)):
            time.sleep(0.01)
        (tmp_path / "go").touch()
        done.join()
    assert [u.key for u in seen] == [slow.key]
    assert underway.listing(store) == []
    assert store.failed(slow.key)


def test_notes_of_dead_workers_stored_runs_and_overdue_ones_do_not_count(store):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    said = {
        "product": "y",
        "theta": [0.0, 0.0],
        "since": time.time(),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "until": None,
    }
    notes = {0.1: {}, 0.2: {"pid": gone.pid}, 0.3: {"host": "elsewhere"}, 0.4: {"host": "elsewhere", "until": 1.0},
             0.5: {}}  # fmt: skip
    (store.path / "under_way").mkdir()
    for x, more in notes.items():
        (store.path / "under_way" / task(x).key).write_text(json.dumps({**said, "since": 1000 * x, **more}))
    commit(store, record_of(identity(SIMULATOR), [0.5, 0.0], 0), Answer(y=np.zeros(5)), task(0.5))
    assert [u.key for u in underway.listing(store)] == [task(0.1).key, task(0.3).key]
    underway.sweep(store)
    assert {p.name for p in (store.path / "under_way").iterdir()} == {task(0.1).key, task(0.3).key}


NAMES = st.sampled_from(["product", "theta", "since", "host", "pid", "until"])
JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner), max_leaves=8)  # fmt: skip


@given(st.binary(max_size=80) | JSON.map(lambda x: json.dumps(x).encode()))
def test_no_note_breaks_those_who_read_it(tmp_path_factory, said):
    store = RunStore(tmp_path_factory.mktemp("store"))
    (store.path / "under_way").mkdir()
    (store.path / "under_way" / task(0.1).key).write_bytes(said)
    (store.path / "under_way" / "../under_way/not a key").write_bytes(said)
    found = underway.listing(store)
    assert len(found) <= 1
    assert isinstance(pace.sentence(found, [1.0] * 10), str)


def test_stragglers_are_named_against_the_runs_that_ended():
    def since(seconds, key):
        return UnderWay(key * 64, "y", (0.0,), time.time() - seconds, "node7", 1, None)

    found = [since(1000.0, "a"), since(12.0, "b")]
    ended = [10.0, 11.0, 9.5, 10.2, 10.8, float("nan")]
    said = pace.sentence(found, ended)
    assert said == ("2 runs under way, the longest for 16 min 40 s. Far longer than those that ended, which took 10 s: "
                    "aaaaaaaaaaaa on node7 for 16 min 40 s.")  # fmt: skip
    assert pace.sentence(found[1:], ended) == "1 run under way, the longest for 12 s."
    assert pace.sentence([], ended) == ""
    remaining = pace.Remaining(workers=2)
    remaining.ran(ended[:5])
    assert remaining.note(0, found) == "1 straggler (the longest 16 min 40 s)"
    assert remaining.note(3, found[1:]) == "3 failed"


def test_a_store_that_cannot_be_written_to_loses_the_note_alone(store, monkeypatch):
    def refuse(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", refuse)
    with underway.noted(store, task(0.5), LIMITS, longest=0.0):
        assert underway.listing(store) == []
