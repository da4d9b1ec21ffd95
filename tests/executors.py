"""Every way to make the runs of a study, as a stranger would start it: processes of their own that can be killed."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from contextlib import contextmanager
from pathlib import Path

import psutil

HERE = Path(__file__).parent
sys.path.append(str(HERE))  # where trouble.py lies
import trouble  # noqa: E402

SBATCH = """#!/bin/sh
# a queue of this machine alone: a job is a process group, its number that of the group
script=$(mktemp "$QUEUE/job.XXXXXX")
cat "$1" > "$script"
setsid sh "$script" > "$script.out" 2>&1 &
echo $! >> "$QUEUE/jobs"
echo "Submitted batch job $!"
"""
SCANCEL = """#!/bin/sh
kill -9 -- -"$1" 2> /dev/null
echo "$1" >> "$QUEUE/cancelled"
"""
STUDY = """
name: executors
parameters: {x: {uniform: [0, WIDTH]}, z: {uniform: [0, 1]}}
simulator: {use: function, call: "trouble:by_chance", argument: array, stochastic: true,
            outputs: [{name: a}, {name: b}]}
design: {runs: RUNS, held_out: 4}
simulate: {timeout: 3.0, require: 0.5, retries: {crashed: 0, lost: 4}}  # of workers that tests kill, not runs
cluster: CLUSTER
emulators: {polynomial: }
infer: {likelihood: {absolute_error: 1}}
check: {importance_runs: 4}
tracking: {uri: "off"}
output: out
"""
ADDRESS = ("address", "address over TLS")  # whose scheduler and workers are somebody else's
KINDS = ("serial", "local", *ADDRESS, "jobs", "class", "shards")


@contextmanager
def queue(folder: Path, environment: dict[str, str]):
    """sbatch and scancel on the PATH of `environment`, which start real jobs here; all are gone at the end."""
    folder.mkdir()
    for name, text in (("sbatch", SBATCH), ("scancel", SCANCEL)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    environment["QUEUE"] = str(folder)
    environment["PATH"] = f"{folder}:{environment['PATH']}"
    try:
        yield folder
    finally:
        for job in (folder / "jobs").read_text().split() if (folder / "jobs").exists() else ():
            kill_group(int(job))


def kill_group(group: int, how: int = signal.SIGKILL) -> None:
    try:
        os.killpg(group, how)
    except ProcessLookupError:
        return


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Campaign:
    """A study in a folder, and the processes that make its runs; `store` is where they lie.

    All its processes carry a mark in their environment, whoever started them.
    """

    def __init__(
        self, folder: Path, kind: str, *, runs: int, width: float = 1.0, workers: int = 2, seconds: float = 0.02
    ):
        self.folder, self.kind, self.workers, self.mark = folder, kind, workers, uuid.uuid4().hex
        self.environment = {**os.environ, "TROUBLE_MARK": self.mark, "TROUBLE_SECONDS": str(seconds),
                            "TROUBLE_LOG": str(folder / "calls"), "OMP_NUM_THREADS": "1",
                            "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)])}  # fmt: skip
        self.store, self.started, self.cluster_of = folder / "out" / "store", [], []
        folder.mkdir(parents=True, exist_ok=True)
        self.port, self.keys = free_port(), folder / "keys"
        text = (
            STUDY.replace("RUNS", str(runs)).replace("WIDTH", str(width)).replace("CLUSTER", json.dumps(self._part()))
        )
        (folder / "study.yaml").write_text(text)

    def _part(self) -> dict:
        local = {"threads_per_worker": 1, "dashboard_address": "127.0.0.1:0", "host": "127.0.0.1", "n_workers": 0}
        return {
            "address": {"use": "address", "address": f"tcp://127.0.0.1:{self.port}"},
            "address over TLS": {"use": "address", "address": f"tls://127.0.0.1:{self.port}", "certificates": "keys"},
            "jobs": {"use": "slurm", "workers": self.workers, "options": {"walltime": "01:00:00"}},
            "class": {"use": "distributed:LocalCluster", "workers": self.workers, "options": local},
            "shards": {"use": "serial"},
        }.get(self.kind, {"use": self.kind, "workers": self.workers} if self.kind != "serial" else {"use": "serial"})

    def emulate(self, *arguments: str) -> subprocess.Popen:
        """`emulate` with these arguments, in a process group of its own."""
        return self.start("-c", "from pipelines.cli import main; main()", *arguments)

    def start(self, *command: str) -> subprocess.Popen:
        with open(self.folder / f"said.{len(self.started)}", "w") as said:
            process = subprocess.Popen([sys.executable, *command], cwd=self.folder, env=self.environment, stdout=said,
                                       stderr=said, start_new_session=True)  # fmt: skip
        process.said = Path(said.name)
        self.started.append(process)
        return process

    def start_scheduler(self) -> None:
        """The scheduler and the workers of an address."""
        tls = []
        if self.kind == "address over TLS":
            tls = ["--tls-ca-file", "keys/ca.pem", "--tls-cert", "keys/cert.pem", "--tls-key", "keys/key.pem"]
            if not self.keys.exists():
                assert self.emulate("certificates", "keys").wait(120) == 0
        self._dask = tls, f"{'tls' if tls else 'tcp'}://127.0.0.1:{self.port}"
        self.scheduler = self.start("-m", "distributed.cli.dask_scheduler", "--host", self._dask[1], "--dashboard-address",
                                    "127.0.0.1:0", *tls)  # fmt: skip
        self.cluster_of = [self.scheduler, *(self.start_worker() for _ in range(self.workers))]

    def start_worker(self) -> subprocess.Popen:
        tls, address = self._dask
        return self.start("-m", "distributed.cli.dask_worker", address, "--nthreads", "1", "--host", "127.0.0.1",
                          "--dashboard-address", "127.0.0.1:0", *tls)  # fmt: skip

    def make(self) -> list[subprocess.Popen]:
        """Start what makes the runs."""
        if self.kind == "shards":
            return [
                self.emulate("worker", "study.yaml", "--shard", f"{i + 1}/{self.workers}") for i in range(self.workers)
            ]
        return [self.emulate("simulate", "study.yaml")]

    def held(self) -> int:
        return len(list(self.store.glob("runs/*/*")))

    def end(self) -> None:
        for p in self.started:
            kill_group(p.pid)
            p.wait()


@contextmanager
def campaign(folder: Path, kind: str, **more):
    """A campaign whose points are chosen, and whose scheduler is up where it needs one."""
    made = Campaign(folder, kind, **more)
    try:
        with queue(folder / "queue", made.environment):
            assert made.emulate("design", "study.yaml").wait(120) == 0, made.started[-1].said.read_text()
            if kind in ADDRESS:
                made.start_scheduler()
            yield made
    finally:
        made.end()


def content(store: Path) -> dict[str, tuple]:
    """What must be equal however runs were made: question, numbers, kind and reason of a failure, by key."""
    found = {}
    for f in store.glob("runs/*/*"):
        about = json.loads((f / "about.json").read_text())["about"]
        result = f / "result.safetensors"
        found[f.name] = ((f / "record.json").read_bytes(), result.read_bytes() if result.exists() else None,
                         about["kind"], about["reason"])  # fmt: skip
    return found


def wait_until(good, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not good() and time.monotonic() < end:
        time.sleep(0.02)
    assert good()


def listening(mark: str) -> set[tuple[str, int]]:
    """The sockets that processes with this mark listen on."""
    found = set()
    for pid in trouble.marked(mark):
        try:
            sockets = psutil.Process(pid).net_connections("inet")
        except psutil.Error:
            continue
        found |= {(c.laddr.ip, c.laddr.port) for c in sockets if c.status == psutil.CONN_LISTEN}
    return found


def refuses_plain(host: str, port: int) -> bool:
    """Whether a peer that speaks no TLS is turned away: closed, or a TLS alert."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    with socket.create_connection((host, port), timeout=10) as s:
        s.settimeout(10)
        s.sendall(b"GET / HTTP/1.0\r\n\r\n" + b"\x00" * 64)
        try:
            met = s.recv(64)
        except ConnectionResetError:
            return True
        return met == b"" or met[:1] == b"\x15"
