"""Runs under way: a note in the store for each that may take long, so that any shell sees what a campaign is doing.

Notes are no part of the results: they are never flushed, and one that cannot be written or read is done without.
"""

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from emulate.store import KEY, RunStore
from pipelines.limits import Limits
from pipelines.tasks import Task

_FOLDER = "under_way"
_LONG = 1.0  # s; where runs are known to be shorter none is noted, for a note costs a tenth of a millisecond
_GRACE = 300.0  # s after which a run that should have been killed for its time has lost its worker
_SIZE = 2**20  # bytes of a note


@dataclass(frozen=True)
class UnderWay:
    """One run that a worker is making: since when (seconds since 1970), where, and until when at the most."""

    key: str
    product: str
    theta: tuple[float, ...]
    since: float
    host: str
    pid: int
    until: float | None

    @property
    def seconds(self) -> float:
        return max(0.0, time.time() - self.since)


@contextlib.contextmanager
def noted(store: RunStore, task: Task, limits: Limits, longest: float) -> Iterator[None]:
    """A note while a run is made; `longest` s is the most that runs took so far, 0 where none is known."""
    if 0 < longest < _LONG:
        yield
        return
    path, now = store.path / _FOLDER / task.key, time.time()
    tries = 1 + max(n for _, n in (*limits.retries, ("", 0)))
    until = None if limits.timeout is None else now + tries * limits.timeout + _GRACE
    text = json.dumps({"product": task.product, "theta": task.theta, "since": now, "host": socket.gethostname(),
                       "pid": os.getpid(), "until": until})  # fmt: skip
    with contextlib.suppress(OSError):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()


def left_behind(store: RunStore, key: str) -> bool:
    """Whether a worker that is gone had begun this run; its note is removed."""
    try:
        (store.path / _FOLDER / key).unlink()
    except OSError:
        return False
    return True


def listing(store: RunStore) -> list[UnderWay]:
    """The runs under way, the longest first. A note whose process is gone, or whose run is stored, does not count."""
    found = (_read(p, store) for p in _notes(store))
    return sorted((u for u in found if u is not None), key=lambda u: u.since)


def sweep(store: RunStore) -> None:
    """Remove notes of workers that are gone."""
    for p in _notes(store):
        if _read(p, store) is None:
            with contextlib.suppress(OSError):
                p.unlink()


def _notes(store: RunStore) -> list[Path]:
    try:
        return [p for p in (store.path / _FOLDER).iterdir() if KEY.fullmatch(p.name)]
    except OSError:
        return []


def _read(path: Path, store: RunStore) -> UnderWay | None:
    """What a note says; None for one that is damaged, or of a worker that is gone."""
    try:
        with open(path, "rb") as f:
            said = json.loads(f.read(_SIZE))
        theta = tuple(map(float, said["theta"]))
        until = None if said["until"] is None else float(said["until"])
        since, host, pid = float(said["since"]), str(said["host"]), int(said["pid"])
        u = UnderWay(path.name, str(said["product"]), theta, since, host, pid, until)
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
    over = u.until is not None and time.time() > u.until
    gone = u.host == socket.gethostname() and not _there(u.pid)
    return None if over or gone or store.has(u.key) else u


def _there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError, ValueError):
        return False
    except PermissionError:
        pass
    return pid > 0
