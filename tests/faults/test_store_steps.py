"""Every call to the system inside a commit, met by every fault: a run is absent or whole, and none is ever lost."""

import contextlib
import errno
import os
import random
import re
import signal

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from emulate.errors import RunFailed, StoreError
from emulate.keys import key_of, record_of
from emulate.store import RunStore
from emulate.upkeep import merge, prunable, verify

WHO = {"simulator": "s", "version": "1", "settings": {}, "parameters": ["x"], "stochastic": True}
CALLS = ("mkdir", "open", "write", "fsync", "close", "rename", "replace")
CHANGES = ("mkdir", "write", "rename", "replace", "unlink", "rmdir", "open")  # what a read-only disk refuses


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """The disk itself is not under test."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


class Killed(BaseException):
    """The process ended here: nothing after it runs."""


@contextlib.contextmanager
def faulty(at, fault):
    """Calls to the system are counted from 1; the one of number `at` meets `fault(real, args, calls)`."""
    real = {name: getattr(os, name) for name in CALLS}
    calls = []

    def wrapped(name):
        def call(*args, **kwargs):
            calls.append(name)
            if len(calls) == at or (len(calls) > at > 0 and fault.stays and name in fault.stays):
                return fault(real[name], name, args, kwargs)
            return real[name](*args, **kwargs)

        return call

    for name in CALLS:
        setattr(os, name, wrapped(name))
    try:
        yield calls
    finally:
        for name, function in real.items():
            setattr(os, name, function)


class Fault:
    """An error instead of the call, or after it was carried out; one that stays meets all later calls of `stays`."""

    def __init__(self, number, *, after=False, stays=()):
        self.number, self.after, self.stays = number, after, stays

    def __call__(self, real, name, args, kwargs):
        if self.after or name == "close":  # a descriptor is gone even when close fails
            real(*args, **kwargs)
        raise OSError(self.number, os.strerror(self.number))


class Short:
    """A write takes half of what it is given; other calls are as they are."""

    stays = ("write",)

    def __call__(self, real, name, args, kwargs):
        if name == "write":
            return real(args[0], args[1][: max(1, len(args[1]) // 2)])
        return real(*args, **kwargs)


class Kill:
    stays = ()

    def __init__(self, *, after=False):
        self.after = after

    def __call__(self, real, name, args, kwargs):
        try:
            if self.after:
                real(*args, **kwargs)
        finally:  # a rename onto another run fails
            os.kill(os.getpid(), signal.SIGKILL)


class End(Kill):
    """The end of the process as seen from within: no later call is carried out."""

    stays = CALLS

    def __call__(self, real, name, args, kwargs):
        raise Killed


FAULTS = {
    "ENOSPC": Fault(errno.ENOSPC),
    "the disk stays full": Fault(errno.ENOSPC, stays=("mkdir", "write", "rename", "replace")),
    "EDQUOT": Fault(errno.EDQUOT),
    "EIO": Fault(errno.EIO),
    "EIO after it was done": Fault(errno.EIO, after=True),
    "a lost answer of a network disk": Fault(errno.ENOENT, after=True),
    "EINTR": Fault(errno.EINTR),
    "EROFS from here on": Fault(errno.EROFS, stays=CHANGES),
    "EACCES": Fault(errno.EACCES),
    "ESTALE": Fault(errno.ESTALE),
    "short writes": Short(),
}


def record(i):
    return record_of(WHO, [float(i)], 1)


def key(i):
    return key_of(record(i))


def y(i):
    return np.arange(3.0) + i


def commit_new(store):
    return store.commit(record(9), y=y(9), about={"log": "x" * 50})


def commit_failure(store):
    return store.commit(record(9), failure=RunFailed("timeout", "late", "log"))


def commit_second(store):
    return store.commit(record(0), y=y(0))


def retry(store):
    store.forget(key(1))
    return store.commit(record(1), y=y(1))


def quarantine(store):
    store.quarantine(key(2))


def remove(store):
    store.remove(key(3))


OPERATIONS = (commit_new, commit_failure, commit_second, retry, quarantine, remove)


def prepared(path):
    """Run 0 finished, 1 failed, 2 is damaged, 3 is to be removed."""
    path.mkdir()
    (path / "store.json").write_text('{"schema": 1}')  # as an older release made it: shelves are made when needed
    store = RunStore(path)
    for i in (0, 2, 3):
        store.commit(record(i), y=y(i))
    store.commit(record(1), failure=RunFailed("oom", "big"))
    (store.folder(key(2)) / "about.json").write_bytes(b"{}")
    return store


def judge(path, committed):
    """No run but whole ones, run 0 among them, and what was said to be committed; then all that is missing goes in."""
    store = RunStore(path, create=False)
    for k in store.keys():  # noqa: SIM118
        if k == key(2):
            continue
        (i,) = [i for i in (0, 1, 3, 9) if key(i) == k]
        met = store.read(k)
        assert met.ok == (not store.failed(k))
        assert met.y.tolist() == y(i).tolist() if met.ok else met.failure.kind in ("oom", "timeout")
    assert store.read(key(0)).ok
    assert not committed or store.has(committed)
    assert {d.key for d in verify(store)} <= {key(2)}
    for i in (1, 9):
        if not store.has(key(i)):
            assert store.commit(record(i), y=y(i))
            assert store.read(key(i)).y.tolist() == y(i).tolist()


def steps(tmp_path, operation):
    store = prepared(tmp_path / f"clean {operation.__name__}")
    with faulty(0, Fault(0)) as calls:
        operation(store)
    return len(calls)


TARGET = {commit_new: 9, commit_failure: 9, commit_second: 0, retry: 1}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_every_step_of_the_protocol_meets_every_fault(tmp_path):
    cases, told = 0, []
    for operation in OPERATIONS:
        for at in range(1, steps(tmp_path, operation) + 1):
            for name, fault in FAULTS.items():
                path = tmp_path / f"{operation.__name__} {at} {name}"
                store, done = prepared(path), False
                try:
                    with faulty(at, fault):
                        done = operation(store)
                except StoreError as e:
                    told.append(str(e))
                judge(path, key(TARGET[operation]) if done else None)
                cases += 1
    print(f"\n{cases} cases, {len(told)} of them told in a sentence, 0 violations")
    assert cases >= 100
    assert len(told) >= cases // 3
    assert {
        s
        for s in told
        if not re.search(r"^the disk .* is full|must be a folder that can be written to|must be readable", s)
    } == set()


def test_a_kill_before_and_after_every_step(tmp_path):
    cases = 0
    for operation in OPERATIONS:
        for at in range(1, steps(tmp_path, operation) + 1):
            for after in (False, True):
                path = tmp_path / f"{operation.__name__} {at} {after}"
                store = prepared(path)
                pid = os.fork()
                if pid == 0:
                    with contextlib.suppress(BaseException), faulty(at, Kill(after=after)):
                        operation(store)
                    os._exit(0)
                _, status = os.waitpid(pid, 0)
                assert os.WIFSIGNALED(status), path
                judge(path, None)
                cases += 1
    print(f"\n{cases} kills, 0 violations")
    assert cases >= 100


def test_a_store_that_is_made_meets_every_fault(tmp_path):
    """Its label is written last: until then there is no store, and the next process makes it."""
    with faulty(0, Fault(0)) as calls:
        RunStore(tmp_path / "clean")
    n = len(calls)
    for at in (1, 2, 3, 100, *range(n - 12, n + 1)):
        for name, fault in {**FAULTS, "end": End()}.items():
            path = tmp_path / f"{at} {name}"
            with contextlib.suppress(StoreError, Killed), faulty(at, fault):
                RunStore(path)
            store = RunStore(path)
            assert store.keys() == []
            assert store.commit(record(0), y=y(0))


def test_processes_that_race_commit_each_run_once(tmp_path):
    """Three writers of one store, each making it and taking the same 60 runs in an order of its own."""
    pipes, children = [], []
    for seed in range(3):
        ours, theirs = os.pipe()
        children.append(os.fork())
        if not children[-1]:
            try:
                store, todo = RunStore(tmp_path / "store"), list(range(60))
                random.Random(seed).shuffle(todo)
                won = [i for i in todo if store.commit(record(i), y=y(i))]
                os.write(theirs, bytes(won))
            finally:
                os._exit(0)
        os.close(theirs)
        pipes.append(ours)
    won = []
    for pipe in pipes:
        with open(pipe, "rb") as f:
            won += list(f.read())
    for child in children:
        os.waitpid(child, 0)
    assert sorted(won) == list(range(60))
    store = RunStore(tmp_path / "store", create=False)
    assert (len(store.keys()), verify(store)) == (60, [])
    assert not (store.path / "conflicts").exists()
    assert not list((store.path / "tmp").iterdir())


class Against(RuleBasedStateMachine):
    """The store beside a dict: key -> the first value of y, or None for a failed run."""

    runs = st.integers(0, 11)

    def __init__(self):
        super().__init__()
        import tempfile

        self.place = tempfile.TemporaryDirectory()
        self.path = os.path.join(self.place.name, "store")
        self.store, self.model = RunStore(self.path), {}
        self.other, self.theirs = RunStore(os.path.join(self.place.name, "other")), {}
        self.chance = random.Random(0)

    def teardown(self):
        self.place.cleanup()

    @rule(i=runs, fails=st.booleans())
    def commit(self, i, fails):
        given = {"failure": RunFailed("error", "no")} if fails else {"y": y(i)}
        assert self.store.commit(record(i), **given) == (key(i) not in self.model)
        self.model.setdefault(key(i), None if fails else float(i))

    @rule(i=runs, at=st.integers(1, 24))
    def kill_in_commit(self, i, at):
        try:
            with faulty(at, End()):
                self.store.commit(record(i), y=y(i))
        except Killed:
            self.store = RunStore(self.path)
        if self.store.has(key(i)):
            self.model.setdefault(key(i), float(i))

    @rule(i=runs, at=st.integers(1, 24), fault=st.sampled_from(sorted(FAULTS)))
    def fault_in_commit(self, i, at, fault):
        with contextlib.suppress(StoreError), faulty(at, FAULTS[fault]):
            if self.store.commit(record(i), y=y(i)):
                assert self.store.has(key(i))
        if self.store.has(key(i)):
            self.model.setdefault(key(i), float(i))

    @rule()
    def reopen(self):
        self.store = RunStore(self.path, create=False)

    @rule(i=runs)
    def forget(self, i):
        if self.model.get(key(i), 0.0) is None:
            self.store.forget(key(i))
            del self.model[key(i)]
        elif key(i) in self.model:
            with pytest.raises(StoreError, match="only failed runs can be forgotten"):
                self.store.forget(key(i))

    @rule()
    def retry_failed(self):
        for i in range(12):
            if self.store.failed(key(i)):
                self.store.forget(key(i))
                assert self.store.commit(record(i), y=y(i))
                self.model[key(i)] = float(i)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def a_byte_flips_and_is_quarantined(self, data):
        k = data.draw(st.sampled_from(sorted(self.model)))
        file = self.chance.choice(sorted(self.store.folder(k).iterdir()))
        raw = bytearray(file.read_bytes())
        raw[self.chance.randrange(len(raw))] ^= 1 << self.chance.randrange(8)
        file.write_bytes(raw)
        (found,) = verify(self.store)
        assert (found.key, found.file) == (k, str(file))
        self.store.quarantine(k)
        del self.model[k]

    @rule(i=runs)
    def commit_elsewhere(self, i):
        self.other.commit(record(i), y=y(i))
        self.theirs[key(i)] = float(i)

    @rule()
    def merge(self):
        done = merge(self.store, self.other)
        assert done.copied == len(self.theirs.keys() - self.model.keys())
        assert not done.refused
        assert len(done.conflicts) == sum(self.model.get(k, 0.0) is None for k in self.theirs)
        self.model = {**self.theirs, **self.model}

    @rule()
    def prune(self):
        self.store.sweep()
        for paths in prunable(self.store).values():
            for p in paths:
                assert p.parent.name in ("forgotten", "conflicts", "tmp")

    @rule(i=runs)
    def remove(self, i):
        self.store.remove(key(i))
        self.model.pop(key(i), None)

    @invariant()
    def the_store_is_the_dict(self):
        assert self.store.keys() == sorted(self.model)
        assert self.store.held(map(key, range(12))) == set(self.model)
        assert verify(self.store) == []
        for k, value in self.model.items():
            met = self.store.read(k)
            assert met.ok == (value is not None)
            assert met.ok == (not self.store.failed(k))
            assert not met.ok or met.y.tolist() == y(value).tolist()


TestAgainstADict = Against.TestCase
TestAgainstADict.settings = settings(
    max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
