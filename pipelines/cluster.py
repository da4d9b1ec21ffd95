"""Campaigns: many runs on one process, one machine or many. The only file that imports Dask.

Dask carries keys, never results: each run is committed to the store by the worker, inside the task. A campaign that was
killed is continued by starting it again: it makes the runs that the store does not hold.
"""

import contextlib
import json
import logging
import os
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from emulate.errors import CampaignError, EmulateError, InputError, StoreError
from emulate.store import RunStore
from pipelines.runner import Runner
from pipelines.worker import Row, Task, Work, commit_crashed, make, run_batch, start_runner

__all__ = ["Executor", "Task", "campaign", "open_cluster"]

Progress = Callable[[int, int, int, float], None]

_BATCH_SECONDS, _BATCH_RUNS = 1.0, 64  # a task is about one second of runs, and at most so many
_WINDOW = 3  # batches under way per worker
_HEARTBEAT = 2.0  # seconds between looks at the cluster when nothing finishes
_PATIENCE = {"local": 30.0, "address": 300.0, "slurm": 300.0}  # seconds without any worker
_CONNECT = 30.0  # seconds in which a scheduler must answer
_DEATHS = 2  # a run that ended so many workers is a crashed run
_LEAKS = ("PYTHONHASHSEED", "__DASK_PARENT_PID")  # what starting workers leaves in this process's environment
_SETTINGS = {
    "distributed.scheduler.allowed-failures": 0,
    "distributed.scheduler.worker-saturation": 1.0,  # one task per worker, so a worker's end accuses one batch only
    "distributed.nanny.pre-spawn-environ": {},  # by default it sets OMP_NUM_THREADS=1 in this process too
}


class _Lost(Exception):
    """The cluster has no workers, or no scheduler, any more."""


def campaign(tasks: Iterable[Task], *, store: Path, simulator: Mapping[str, Any], cluster: Any,
             timeout: float | None = None, progress: Progress | None = None) -> None:  # fmt: skip
    """Make the runs that the store does not hold, on a cluster of its own; see `Executor.campaign`."""
    with open_cluster(cluster) as executor:
        executor.campaign(tasks, store=store, simulator=simulator, timeout=timeout, progress=progress)


@contextlib.contextmanager
def open_cluster(cluster: Any) -> Iterator["Executor"]:
    """One cluster for several campaigns, started when the first run is to be made, stopped at the end.

    `cluster` has attributes `use` ("serial", "local", "address", "slurm"), `workers`, `address` and `options`.
    """
    executor = Executor(cluster)
    try:
        yield executor
    except BaseException:
        executor.close(kill=True)
        raise
    executor.close()


@dataclass
class Executor:
    """Runs campaigns; made by `open_cluster`."""

    cluster: Any
    _dask: "_Dask | None" = field(default=None, init=False)
    _serial: "tuple[Work, Runner] | None" = field(default=None, init=False)

    def campaign(self, tasks: Iterable[Task], *, store: Path, simulator: Mapping[str, Any],
                 timeout: float | None = None, progress: Progress | None = None) -> None:  # fmt: skip
        """Make the runs of `tasks` that the store does not hold. Failed runs are committed too and do not stop it.

        `simulator` is plain data: `use`, settings, and `space` as `Space.to_dict()` gives it; `timeout` seconds bound
        each run. `progress(done, failed, total, seconds)` is called at the start and whenever runs came in: done
        counts all of `tasks` that are in the store, failed those of them that failed, seconds the campaign's time.
        """
        kept = RunStore(store)
        kept.sweep()
        work = Work(str(kept.path), json.dumps(simulator, sort_keys=True), timeout, os.getcwd())
        todo = _Todo(tasks, kept, work, progress)
        if not todo.waiting:
            return
        if self.cluster.use == "serial":
            self._one_by_one(todo)
        else:
            self._dask = self._dask or _Dask(self.cluster)
            _follow(self._dask, todo)

    def close(self, *, kill: bool = False) -> None:
        """Stop the workers and all that they started; `kill` does not wait for runs under way."""
        if self._serial:
            self._serial[1].close()
        if self._dask:
            self._dask.close(kill=kill)
        self._serial = self._dask = None

    def _one_by_one(self, todo: "_Todo") -> None:
        work = todo.work
        if self._serial and self._serial[0] != work:
            self._serial[1].close()
            self._serial = None
        self._serial = self._serial or (work, start_runner(work))
        for task in list(todo.waiting):
            row, commit = make(task, todo.store, self._serial[1])
            commit()
            todo.came([row])


class _Todo:
    """What a campaign still has to do, and what it knows of what is done."""

    def __init__(self, tasks: Iterable[Task], store: RunStore, work: Work, progress: Progress | None):
        self.store, self.work, self._progress, self._start = store, work, progress, time.monotonic()
        known = {t.key: t for t in tasks}
        self.total = len(known)
        self.waiting = deque(t for t in known.values() if not store.has(t.key))
        self.done = self.total - len(self.waiting)
        self.failed = sum(store.failed(k) for k in known.keys() - {t.key for t in self.waiting})
        self.deaths: Counter[str] = Counter()
        self._seconds, self._measured = 0.0, 0
        self._tell()

    def batch(self, workers: int) -> list[Task]:
        """The next tasks: about a second of runs, fewer when few are left so that workers end together."""
        mean = self._seconds / self._measured if self._measured else _BATCH_SECONDS
        share = len(self.waiting) // (2 * max(1, workers))
        size = max(1, min(_BATCH_RUNS, int(_BATCH_SECONDS / max(mean, 1e-3)), share))
        if any(self.deaths.values()):
            size = 1  # to find out which run ends its worker
        return [self.waiting.popleft() for _ in range(min(size, len(self.waiting)))]

    def came(self, found: list[Row]) -> None:
        """Runs came in: key, whether it failed, seconds."""
        self.done += len(found)
        self.failed += sum(failed for _, failed, _ in found)
        self._seconds += sum(seconds for _, _, seconds in found)
        self._measured += len(found)
        self._tell()

    def back(self, batch: list[Task], *, died: bool) -> None:
        """A batch whose worker is gone: what it committed counts, the rest is made again."""
        for task in batch:
            if self.store.has(task.key):
                self.came([(task.key, self.store.failed(task.key), 0.0)])
                continue
            self.deaths[task.key] += died
            if self.deaths[task.key] >= _DEATHS:
                commit_crashed(task, self.store, self.work)
                self.came([(task.key, True, 0.0)])
            else:
                self.waiting.append(task)

    def _tell(self) -> None:
        if self._progress:
            self._progress(self.done, self.failed, self.total, time.monotonic() - self._start)


def _follow(dask: "_Dask", todo: _Todo) -> None:
    """Keep a window of batches under way until nothing waits; start the cluster anew when it is lost."""
    under_way: dict[Any, list[Task]] = {}
    done_when_lost = -1
    while todo.waiting or under_way:
        try:
            workers = dask.workers()
            while todo.waiting and len(under_way) < _WINDOW * workers:
                batch = todo.batch(workers)
                under_way[dask.submit(run_batch, todo.work, batch)] = batch
            for future in dask.ended(list(under_way)):
                _settle(future, under_way.pop(future), todo)
        except _Lost as e:
            for batch in under_way.values():
                todo.back(batch, died=False)
            under_way.clear()
            if done_when_lost == todo.done:
                raise CampaignError(f"the cluster was lost twice without a run between: {e}. {todo.done} of "
                                    f"{todo.total} runs are stored; look at its machines, then start the same command "
                                    "again.") from None  # fmt: skip
            done_when_lost = todo.done
            dask.restart(str(e))


def _settle(future: Any, batch: list[Task], todo: _Todo) -> None:
    from distributed.scheduler import KilledWorker

    if future.status == "finished":
        found = future.result()
        _see([key for key, _, _ in found], todo.store)
        todo.came(found)
    elif future.status == "error":
        error = future.exception()
        if isinstance(error, EmulateError):
            raise error
        if not isinstance(error, KilledWorker):
            raise CampaignError(f"a worker broke: {type(error).__name__}: {error}. Every worker must have this release "
                                "and its dependencies.") from error  # fmt: skip
        todo.back(batch, died=True)
    else:  # cancelled or lost: the scheduler forgot it
        todo.back(batch, died=False)
        raise _Lost(f"a batch was {future.status}")


def _see(keys: list[str], store: RunStore) -> None:
    """What workers committed must be seen here; a network disk may need a moment."""
    for wait in (0.0, 0.1, 1.0, 10.0):
        time.sleep(wait)
        if all(store.has(k) for k in keys):
            return
    raise StoreError(f"the workers committed runs that {store.path} does not hold. Workers and this machine must share "
                     "that folder.")  # fmt: skip


class _Dask:
    """A cluster and a client, started when first needed."""

    def __init__(self, settings: Any):
        self._settings, self._client, self._cluster = settings, None, None
        self._environment = {name: os.environ.get(name) for name in _LEAKS}
        self._seen = False  # whether a worker was ever seen
        self._last = 0.0  # when

    def workers(self) -> int:
        """How many workers there are; starts the cluster, waits for the first one, `_Lost` when none comes."""
        if self._client is None:
            self._start()
        patience = _PATIENCE[self._settings.use]
        while True:
            try:
                count = len(self._client.scheduler_info(n_workers=-1)["workers"])
            except (OSError, TimeoutError, ValueError) as e:
                raise _Lost(f"its scheduler does not answer: {e}") from None
            if self._client.status != "running":
                raise _Lost("its scheduler is gone")
            if count:
                self._seen, self._last = True, time.monotonic()
                return count
            queued = self._settings.use == "slurm" and not self._seen  # jobs may wait for days
            if not queued and time.monotonic() - self._last > patience:
                raise _Lost(f"it had no worker for {patience:g} s")
            time.sleep(0.2)

    def submit(self, function: Callable, work: Work, batch: list[Task]) -> Any:
        return self._client.submit(function, work, batch, pure=False, retries=0)

    def ended(self, futures: list[Any]) -> list[Any]:
        """Those that ended, after a heartbeat at the latest."""
        from concurrent.futures import CancelledError

        from distributed import wait

        with contextlib.suppress(TimeoutError, CancelledError), self._client.as_current():
            wait(futures, timeout=_HEARTBEAT, return_when="FIRST_COMPLETED")
        return [f for f in futures if f.done()]

    def restart(self, why: str) -> None:
        if self._settings.use == "address":
            raise CampaignError(f"the cluster at {self._settings.address} was lost: {why}. Start its scheduler and "
                                "workers, then the same command again; stored runs are kept.")  # fmt: skip
        self.close(kill=True)
        self._start()

    def close(self, *, kill: bool = False) -> None:
        client, cluster, self._client, self._cluster = self._client, self._cluster, None, None
        processes = [n.process.pid for n in getattr(cluster, "workers", {}).values() if getattr(n, "process", None)]
        with contextlib.suppress(OSError, TimeoutError, RuntimeError):
            if client is not None:
                client.close(timeout=5)
        for pid in processes if kill else ():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)  # a worker with a run under way is not waited for
        with contextlib.suppress(OSError, TimeoutError, RuntimeError):
            if cluster is not None:
                cluster.close(timeout=10)
        for name, value in self._environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

    def _start(self) -> None:
        import dask
        from distributed import Client

        self._seen, self._last = False, time.monotonic()
        with dask.config.set(_SETTINGS):
            where = getattr(self, f"_{self._settings.use}")()
            try:
                self._client = Client(where, timeout=_CONNECT, set_as_default=False)
            except (OSError, TimeoutError, ValueError) as e:
                raise InputError(f"cluster.address must be that of a running Dask scheduler. Got {where!r}: "
                                 f"{type(e).__name__}: {e}; start one with `dask scheduler`.") from None  # fmt: skip

    def _local(self) -> Any:
        from distributed import LocalCluster

        self._cluster = LocalCluster(
            n_workers=self._settings.workers, threads_per_worker=1, processes=True, host="127.0.0.1",
            dashboard_address="127.0.0.1:0", memory_limit=0, silence_logs=logging.CRITICAL)  # fmt: skip
        return self._cluster

    def _address(self) -> str:
        return self._settings.address

    def _slurm(self) -> Any:
        try:
            from dask_jobqueue import SLURMCluster
        except ImportError:
            raise InputError("cluster.use: slurm needs the package dask-jobqueue, which is not installed. "
                             'Install it: pip install "emulate[hpc]".') from None  # fmt: skip
        options = {"cores": 1, "processes": 1, "memory": "4GB", "security": True,
                   "scheduler_options": {"dashboard_address": "127.0.0.1:0"}, **self._settings.options}  # fmt: skip
        self._cluster = SLURMCluster(**options)
        self._cluster.scale(self._settings.workers)
        return self._cluster
