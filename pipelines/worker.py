"""What a worker does with a batch of runs: make each in its runner, commit it to the store, give back the keys."""

import json
import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from emulate.errors import CampaignError, RunFailed
from emulate.keys import identity, key_of, record_of
from emulate.store import RunStore
from pipelines import underway, walltime
from pipelines.limits import Limits
from pipelines.runner import Answer, Runner
from pipelines.tasks import Task

_EARLIER = 8192  # characters of the log of an attempt that was not the last
Row = tuple[str, bool, float]  # the key of a run, whether it failed, its seconds


@dataclass(frozen=True)
class Work:
    """What a worker must know besides the tasks."""

    store: str
    simulator: str  # JSON
    limits: Limits
    folder: str


_mine = threading.local()  # this thread's process of the simulator, kept from batch to batch


def run_batch(work: Work, batch: list[Task]) -> list[Row]:
    """Make and commit the runs of a batch; for each its key, whether it failed, and its seconds.

    The last ones are left out where the worker's job may be over before they are.
    """
    store, runner = RunStore(work.store, create=False), _runner(work)
    rows, flushed, ends = [], None, walltime.end()
    with ThreadPoolExecutor(1) as flusher:  # a run is flushed to the disk while the next one runs
        for task in batch:
            if not walltime.enough(_mine.longest, ends):
                break
            row, commit = make(task, store, runner, _mine.longest if len(batch) > 1 else 0.0)
            _mine.longest = max(_mine.longest, row[2])
            if flushed:
                flushed.result()  # a disk that refuses stops the batch
            flushed = flusher.submit(commit)
            rows.append(row)
        if flushed:
            flushed.result()
    return rows


def _runner(work: Work) -> Runner:
    """That of the last batch while it is the same work; a worker with several threads has one for each."""
    if getattr(_mine, "work", None) != work:
        if hasattr(_mine, "runner"):
            _mine.runner.close()
        _mine.work, _mine.runner, _mine.longest = None, start_runner(work), 0.0
        _mine.work = work
    return _mine.runner


def start_runner(work: Work) -> Runner:
    folder = Path(work.folder)
    return Runner(json.loads(work.simulator), limits=work.limits, folder=folder if folder.is_dir() else None)


def make(task: Task, store: RunStore, runner: Runner, longest: float = 0.0) -> tuple[Row, Callable[[], object]]:
    """One run, and what commits it; a run that another worker committed meanwhile is not made again.

    A run that failed is made again, with the same seed, as often as the limits say for that kind of failure. What is
    committed is the last attempt; the earlier ones stand in its record under `attempts`. `longest` is the most seconds
    that a run took so far; with 0 the run is noted as under way.
    """
    if store.has(task.key):
        return (task.key, store.failed(task.key), 0.0), lambda: None
    record = question(task, runner)
    seed, earlier = json.loads(record)["seed"], []
    with underway.noted(store, task, runner.limits, longest):
        while True:
            answer = runner.run(task.theta, seed, task.product, task.gradient)
            failure = answer.failure
            if failure is None or sum(a["kind"] == failure.kind for a in earlier) >= runner.limits.again(failure.kind):
                break
            earlier.append({"kind": failure.kind, "reason": failure.reason, "log": answer.log[-_EARLIER:],
                            "seconds": round(answer.seconds, 6), "host": socket.gethostname()})  # fmt: skip
    seconds = answer.seconds + sum(a["seconds"] for a in earlier)
    return (task.key, failure is not None, seconds), partial(commit, store, record, answer, task, earlier)


def question(task: Task, runner: Runner) -> bytes:
    """The canonical record of a run, as the simulator in the runner describes itself; it must be the task's."""
    record = record_of(runner.identity, task.theta, task.seed, task.product, task.gradient)
    if key_of(record) != task.key:
        raise CampaignError(f"the simulator on {socket.gethostname()} must be this study's. Got other settings, "
                            f"or another version: {record.decode()}; install the same code everywhere.")  # fmt: skip
    return record


def commit_crashed(task: Task, store: RunStore, work: Work) -> None:
    """Commit a run that ended every worker it was given to."""
    from pipelines.child import build

    record = record_of(identity(build(json.loads(work.simulator))), task.theta, task.seed, task.product, task.gradient)
    commit(store, record, Answer(failure=RunFailed("crashed", "the run ended its worker each time")), task)


def commit(store: RunStore, record: bytes, answer: Answer, task: Task, earlier: Sequence[dict[str, Any]] = ()) -> None:
    """Store what came of a run, and of the attempts before it."""
    about = {"seconds": round(answer.seconds, 6), "memory_mib": answer.memory_mib, "host": socket.gethostname(),
             "pid": answer.pid, "time": datetime.now(UTC).isoformat(timespec="seconds"), "log": answer.log,
             "theta": list(task.theta), "attempts": list(earlier)}  # fmt: skip
    store.commit(record, y=answer.y, jacobian=answer.jacobian, standard_error=answer.standard_error,
                 failure=answer.failure, about=about)  # fmt: skip
