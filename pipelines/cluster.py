"""Where runs are computed: a Dask cluster of worker processes, on this machine or many. The only file that imports Dask."""

import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable
from typing import Any

from emulate.errors import CampaignError, EmulateError, InputError
from pipelines.campaign import Lost
from pipelines.worker import Row, Task, Work

_HEARTBEAT = 2.0  # seconds between looks at the cluster when nothing finishes
_PATIENCE = {"local": 30.0, "address": 300.0, "slurm": 300.0}  # seconds without any worker
_CONNECT = 30.0  # seconds in which a scheduler must answer
_LEAKS = ("PYTHONHASHSEED", "__DASK_PARENT_PID")  # what starting workers leaves in this process's environment
_SETTINGS = {
    "distributed.scheduler.allowed-failures": 0,
    "distributed.scheduler.worker-saturation": 1.0,  # one task per worker, so a worker's end accuses one batch only
    "distributed.nanny.pre-spawn-environ": {},  # by default it sets OMP_NUM_THREADS=1 in this process too
}


class Cluster:
    """A cluster and a client, started when first needed."""

    def __init__(self, settings: Any):
        self._settings, self._client, self._cluster = settings, None, None
        self._environment = {name: os.environ.get(name) for name in _LEAKS}
        self._seen = False  # whether a worker was ever seen
        self._last = 0.0  # when

    def workers(self) -> int:
        """How many workers there are; starts the cluster, waits for the first one, `Lost` when none comes."""
        if self._client is None:
            self._start()
        patience = _PATIENCE[self._settings.use]
        while True:
            try:
                count = len(self._client.scheduler_info(n_workers=-1)["workers"])
            except (OSError, TimeoutError, ValueError) as e:
                raise Lost(f"its scheduler does not answer: {e}") from None
            if self._client.status != "running":
                raise Lost("its scheduler is gone")
            if count:
                self._seen, self._last = True, time.monotonic()
                return count
            queued = self._settings.use == "slurm" and not self._seen  # jobs may wait for days
            if not queued and time.monotonic() - self._last > patience:
                raise Lost(f"it had no worker for {patience:g} s")
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

    def result(self, future: Any) -> list[Row] | None:
        """What came of a batch: its rows, None when it ended its worker, `Lost` when the scheduler forgot it."""
        from distributed.scheduler import KilledWorker

        if future.status == "finished":
            return future.result()
        if future.status != "error":
            raise Lost(f"a batch was {future.status}")
        error = future.exception()
        if isinstance(error, KilledWorker):
            return None
        if isinstance(error, EmulateError):
            raise error
        raise CampaignError(f"a worker broke: {type(error).__name__}: {error}. Every worker must have this release "
                            "and its dependencies.") from error  # fmt: skip

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
