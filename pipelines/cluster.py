"""Where runs are computed: a Dask cluster of worker processes, on this machine or many. The only file that imports Dask."""

import contextlib
import importlib
import importlib.util
import logging
import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from emulate.errors import CampaignError, EmulateError, InputError
from pipelines import walltime
from pipelines.campaign import Lost
from pipelines.study import CLUSTERS, JOBS, ClusterPart
from pipelines.tasks import Task
from pipelines.worker import Row, Work

_JOB_CLASSES = {"slurm": "SLURMCluster", "pbs": "PBSCluster", "lsf": "LSFCluster", "htcondor": "HTCondorCluster",
                "sge": "SGECluster", "oar": "OARCluster", "moab": "MoabCluster"}  # of dask-jobqueue  # fmt: skip
_JOB = {"cores": 1, "processes": 1, "memory": "4GB"}  # of a job that the study does not describe
_OF_THE_CLUSTER = ("n_workers", "security", "shared_temp_directory", "silence_logs", "dashboard_address", "host",
                   "scheduler_options", "scheduler_cls", "asynchronous", "loop", "job_cls")  # not of its jobs  # fmt: skip
_HEARTBEAT = 2.0  # seconds between looks at the cluster when nothing finishes
_PATIENCE = {"local": 30.0}  # seconds without any worker
_LONG = 300.0  # the same where workers are on other machines
_REPLACE = 20.0  # seconds between attempts to replace workers that are gone
_CONNECT = 30.0  # seconds in which a scheduler must answer
_LEAKS = ("PYTHONHASHSEED", "__DASK_PARENT_PID")  # what starting workers leaves in this process's environment
_SETTINGS = {
    "distributed.scheduler.allowed-failures": 0,
    "distributed.scheduler.worker-saturation": 1.0,  # one task per worker, so a worker's end accuses one batch only
    "distributed.nanny.pre-spawn-environ": {},  # by default it sets OMP_NUM_THREADS=1 in this process too
}


class Cluster:
    """A cluster and a client, started when first needed; `say` is told once where its dashboard is."""

    def __init__(self, settings: ClusterPart, say: Callable[[str], None] = lambda text: None):
        self._settings, self._say, self._client, self._cluster = settings, say, None, None
        self._keys: tempfile.TemporaryDirectory | None = None  # of TLS, where jobs read them
        self._environment = {name: os.environ.get(name) for name in _LEAKS}
        self._seen = False  # whether a worker was ever seen
        self._refused: list[str] = []  # what the queue said of jobs that it did not take
        self._last = self._mended = 0.0  # when one was, and when lost ones were last replaced

    def workers(self) -> int:
        """How many workers there are, or may be where the cluster adapts to what is to do; waits for the first one.

        Raises `Lost` when none comes. Jobs may wait in their queue for days before the first of them starts.
        """
        if self._client is None:
            self._start()
        while not (count := self._count()):
            patience = _PATIENCE.get(self._settings.use, _LONG)
            if self._refused and not self._seen:
                raise InputError(f"cluster.options: the queue must take the jobs. It said: {self._refused[0]}. Mend the "
                                 "options; `--dry-run` shows the script of a job.")  # fmt: skip
            queued = self._settings.use in JOBS and not self._seen
            if not queued and time.monotonic() - self._last > patience:
                raise Lost(f"it had no worker for {patience:g} s")
            self._replace()
            time.sleep(0.2)
        self._seen, self._last = True, time.monotonic()
        if count < self._settings.workers:
            self._replace()
        return self._settings.workers if self._settings.minimum else count

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
                            "and its dependencies; install them there.") from error  # fmt: skip

    def retire(self, future: Any) -> None:
        """Let the worker that made a batch go, as it asked for; what it was given meanwhile goes to others."""
        with contextlib.suppress(OSError, TimeoutError, ValueError):
            self._client.retire_workers([w for ws in self._client.who_has([future]).values() for w in ws])

    def restart(self, why: str) -> None:
        """A new cluster instead of one that was lost; one of somebody else's is given time to come back."""
        self.close(kill=True)
        if self._settings.use == "address" and not self._came_back(why):
            raise CampaignError(f"the cluster at {self._settings.address} was lost: {why}. Start its scheduler and "
                                "workers, then the same command again; stored runs are kept.")  # fmt: skip
        self._start()

    def _came_back(self, why: str) -> bool:
        """Whether the scheduler listens again. A client that tries in vain would leave threads and wait a minute more."""
        self._say(f"  the cluster at {self._settings.address} was lost: {why}; waiting up to {_LONG:g} s for it")
        where = urlsplit(self._settings.address)
        deadline = time.monotonic() + _LONG
        while time.monotonic() < deadline:
            with (
                contextlib.suppress(OSError),
                socket.create_connection((where.hostname, where.port or 8786), timeout=5),
            ):
                return True
            time.sleep(1.0)
        return False

    def close(self, *, kill: bool = False) -> None:
        client, cluster, self._client, self._cluster = self._client, self._cluster, None, None
        nannies = getattr(cluster, "workers", {}).values()
        processes = [pid for n in nannies if (pid := getattr(getattr(n, "process", None), "pid", None))]
        with contextlib.suppress(OSError, TimeoutError, RuntimeError):
            if client is not None:
                client.close(timeout=5)
        for pid in processes if kill else ():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)  # a worker with a run under way is not waited for
        with contextlib.suppress(OSError, TimeoutError, RuntimeError, AssertionError):  # of jobs that did not begin
            if cluster is not None:
                _forget({cluster})
                cluster.close(timeout=10)
        if self._keys:
            self._keys.cleanup()
        for name, value in self._environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

    def _count(self) -> int:
        try:
            count = len(self._client.scheduler_info(n_workers=-1)["workers"])
        except (OSError, TimeoutError, ValueError) as e:
            raise Lost(f"its scheduler does not answer: {e}") from None
        if self._client.status != "running":
            raise Lost("its scheduler is gone")
        return count

    def _replace(self) -> None:
        """Ask again for the workers that should be there: no kind of cluster replaces all that are lost by itself.

        Jobs that end with their time, and local workers that died twice, stay away for good (dask-jobqueue #691).
        """
        if self._cluster is None or self._settings.minimum or time.monotonic() - self._mended < _REPLACE:
            return
        self._mended = time.monotonic()
        self._cluster.scale(self._settings.workers)

    def _start(self) -> None:
        import dask
        from distributed import Client

        s = self._settings
        self._seen, self._last = False, time.monotonic()
        with dask.config.set(_SETTINGS):
            if s.use != "address":
                self._cluster = self._make()
                self._mended = time.monotonic()
                if s.minimum:
                    self._cluster.adapt(minimum=s.minimum, maximum=s.workers, target_duration="2s")
                else:
                    self._cluster.scale(s.workers)
            more = {} if self._cluster else {"security": security(s)}
            if s.address.startswith("tls") and not (s.certificates or dask.config.get("distributed.comm.tls.ca-file")):
                raise InputError(f"cluster.certificates: must be the folder with the keys of {s.address}. Got none; copy "
                                 "it from where its scheduler was started.")  # fmt: skip
            try:
                self._client = Client(self._cluster or s.address, timeout=_CONNECT, set_as_default=False, **more)
            except (OSError, TimeoutError, ValueError) as e:
                raise InputError(f"cluster.address must be that of a running Dask scheduler. Got {s.address!r}: "
                                 f"{type(e).__name__}: {e}; start one with `dask scheduler`.") from None  # fmt: skip
        if importlib.util.find_spec("bokeh") and self._client.dashboard_link:
            self._say(f"  Dask's dashboard: {self._client.dashboard_link}")

    def _make(self) -> Any:
        s = self._settings
        if s.use == "local":
            return _local(s)
        if s.use not in JOBS:
            return _named(s)
        job_class = _job_class(s.use)
        submit = str(job_class.job_cls.submit_command).split()[0]
        if shutil.which(submit) is None:
            raise InputError(f"cluster.use: {s.use} hands its jobs to {submit}, which is not on the PATH. Start emulate on a "
                             "machine that can submit jobs, or use another cluster.")  # fmt: skip
        if not s.certificates:  # keys of their own for this cluster, in a folder that the jobs see
            self._keys = tempfile.TemporaryDirectory(prefix=".emulate-keys-", dir=os.getcwd())
            make_certificates(Path(self._keys.name))
            s = replace(s, certificates=self._keys.name)
        own = {"security": security(s), "scheduler_options": {"dashboard_address": "127.0.0.1:0"},
               "job_cls": _telling(job_class.job_cls, self._refused)}  # fmt: skip
        options = {**own, **_job_options(s)}
        with _refusals():
            return job_class(**options)


def security(settings: ClusterPart) -> Any:
    """TLS with the keys of `certificates`, a folder as `make_certificates` fills it; None without one."""
    if not settings.certificates:
        return None
    from distributed import Security

    folder = Path(settings.certificates).expanduser()
    files = {name: str(folder / f"{name}.pem") for name in ("ca", "cert", "key")}
    if absent := [f for f in files.values() if not Path(f).is_file()]:
        raise InputError(f"cluster.certificates: must be a folder with ca.pem, cert.pem and key.pem. There is no "
                         f"{absent[0]}; make the folder with `emulate certificates {folder}`.")  # fmt: skip
    return Security(tls_ca_file=files["ca"], require_encryption=True,
                    **{f"tls_{role}_{what}": files[what]
                       for role in ("client", "scheduler", "worker") for what in ("cert", "key")})  # fmt: skip


def make_certificates(folder: Path) -> list[Path]:
    """New keys for TLS between a scheduler, its workers and its clients, readable by their owner alone.

    Whoever has them may run code on the cluster. They are good for a year.
    """
    from distributed import Security

    made = Security.temporary()
    texts = {"ca": made.tls_ca_file, "cert": made.tls_client_cert, "key": made.tls_client_key}
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    paths = {folder / f"{name}.pem": text for name, text in texts.items()}
    if there := [p for p in paths if p.exists()]:
        raise InputError(f"{there[0]} is there already. Name another folder, or remove the old keys first.")
    os.chmod(folder, 0o700)
    for path, text in paths.items():
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
    return list(paths)


def _job_options(settings: ClusterPart) -> dict[str, Any]:
    """What a job is asked for, and a first line in its script that tells its worker when it ends.

    The pages of a worker are shown without TLS, so they stay on its machine; the study may say otherwise.
    """
    o = settings.options
    lines = [*walltime.prologue(str(o.get("walltime", ""))), *o.get("job_script_prologue", ())]
    arguments = ["--dashboard-address", "127.0.0.1:0", *o.get("worker_extra_args", ())]
    return {**_JOB, **o, "job_script_prologue": lines, "worker_extra_args": arguments}


def job_script(settings: ClusterPart) -> str:
    """The script that is handed to the queue for each job of workers; nothing is started or submitted."""
    options = {k: v for k, v in _job_options(settings).items() if k not in _OF_THE_CLUSTER}
    with _refusals():
        return _job_class(settings.use).job_cls("tls://SCHEDULER:PORT", name="emulate", **options).job_script()


def _local(settings: ClusterPart) -> Any:
    from distributed import LocalCluster

    options = {"threads_per_worker": 1, "processes": True, "host": "127.0.0.1", "dashboard_address": "127.0.0.1:0",
               "memory_limit": 0, "silence_logs": logging.CRITICAL, **settings.options}  # fmt: skip
    with _refusals():
        return LocalCluster(n_workers=settings.minimum or settings.workers, security=security(settings), **options)


def _job_class(use: str) -> Any:
    interrupt = signal.getsignal(signal.SIGINT)
    try:
        found = getattr(importlib.import_module("dask_jobqueue"), _JOB_CLASSES[use])
        if signal.getsignal(signal.SIGINT) is not interrupt:
            signal.signal(signal.SIGINT, interrupt)  # which its import replaces by one that ends the process in silence
        return found
    except ImportError:
        raise InputError(f"cluster.use: {use} needs the package dask-jobqueue, which is not installed. "
                         'Install it: pip install "emulate[hpc]".') from None  # fmt: skip


def _telling(job: Any, refused: list[str]) -> Any:
    """The class of a job that notes what the queue says when it takes none: Dask would log it and wait for ever."""

    class Telling(job):
        async def start(self) -> None:
            for name in ("tornado.application", "asyncio"):  # which print a traceback; the sentence is ours
                logging.getLogger(name).setLevel(logging.CRITICAL + 1)
            try:
                await super().start()
            except (RuntimeError, OSError) as e:
                refused.append(" ".join(str(e).rpartition("stderr:")[2].split()) or str(e))
                raise

    return Telling


def _named(settings: ClusterPart) -> Any:
    """A cluster of any class, "package.module:Class"."""
    from distributed.deploy.cluster import Cluster as Any_

    module, _, name = settings.use.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as e:
        raise InputError(f"cluster.use: {settings.use!r} cannot be imported: {e}. Install its package, or mend the "
                         "name.") from None  # fmt: skip
    if not (isinstance(found, type) and issubclass(found, Any_)):
        raise InputError(f"cluster.use: must be the class of a Dask cluster. Got {settings.use!r}, which is another "
                         f"thing; or use one of {', '.join(CLUSTERS)}.")  # fmt: skip
    with _refusals():
        return found(**settings.options)


@contextlib.contextmanager
def _refusals() -> Any:
    """What a cluster's constructor says of the options that the study passes on."""
    from distributed import SpecCluster

    quiet = logging.getLogger("distributed")
    level = quiet.level
    quiet.setLevel(logging.CRITICAL + 1)  # a sentence says it, not the traceback of every worker
    before = set(SpecCluster._instances)
    try:
        yield
    except (TypeError, ValueError, RuntimeError) as e:
        while e.__cause__ or e.__context__:
            e = e.__cause__ or e.__context__
        raise InputError(f"cluster.options: must be what the cluster takes. It said: {e}. Mend or take out that "
                         "option.") from None  # fmt: skip
    except KeyboardInterrupt:
        _forget(set(SpecCluster._instances) - before)
        raise
    finally:
        quiet.setLevel(level)


def _forget(clusters: set[Any]) -> None:
    """Clusters that Dask must not close once more when Python ends, where half of one makes it fail."""
    from distributed import SpecCluster

    for cluster in clusters:
        SpecCluster._instances.discard(cluster)
