"""What emulate talks to: this machine's loopback, proxies in its way, a Dask cluster, MLflow's database or server."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict
from importlib import metadata, util
from pathlib import Path

from emulate.errors import EmulateError
from pipelines.addresses import database, redact, resolve, silence
from pipelines.doctor.notes import Note, Place
from pipelines.study import JOBS, ClusterPart

_PATIENCE = 120.0  # s in which a cluster of one worker must have answered
_ANSWER = 5.0  # s for a server to answer
_REVISION = re.compile(r'^revision\s*(?::\s*\w+\s*)?=\s*["\'](\w+)', re.M)
_BEFORE = re.compile(r'^down_revision\s*(?::[^=]*)?=\s*["\'](\w+)', re.M)


def loopback(place: Place) -> Iterator[Note]:
    """Whether this machine reaches itself, and whether a proxy stands in between."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname()[:2], timeout=_ANSWER).close()
    except OSError as e:
        yield Note("loopback", "wrong", f"127.0.0.1 does not answer: {e.strerror or e}; Dask and MLflow's pages need it",
                   "ip link set lo up, or let the container and the firewall have a loopback")  # fmt: skip
        return
    proxies = {k: v for k, v in urllib.request.getproxies().items() if k in ("http", "https", "all")}
    if proxies and not urllib.request.proxy_bypass("127.0.0.1"):
        yield Note("loopback", "advice", f"{redact(next(iter(proxies.values())))} is asked for addresses of this machine too",
                   "export no_proxy=localhost,127.0.0.1,::1")  # fmt: skip
    else:
        yield Note("loopback", "fine", "this machine reaches itself" + (", past the proxy" if proxies else ""))


def dask(place: Place) -> Iterator[Note]:
    """Whether a worker of the study's cluster, or of a local one, answers; a queue is only looked for."""
    settings = place.study.cluster if place.study is not None else ClusterPart()
    own = sorted(n for n in place.environment if n.startswith("DASK_") and n != "DASK_PARENT_PID")
    if own:
        yield Note("dask", "fine", f"configured by {', '.join(own)} as well")
    if settings.use in JOBS:
        yield from _queue(settings.use)
        return
    if settings.use == "serial":
        yield Note("dask", "fine", "not used: cluster is serial")
        return
    if settings.use not in ("local", "address"):
        yield Note("dask", "fine", f"{settings.use} is not tried")
        return
    asked = {"use": settings.use, "address": settings.address, "certificates": settings.certificates}
    said, seconds = _greeted(asked)
    where = f"the cluster at {settings.address}" if settings.use == "address" else "a local cluster of one worker"
    if said:
        mend = ("dask scheduler, and workers that share this installation; see cluster.address" if settings.use == "address"
                else "emulate run STUDY.yaml --set cluster.use=serial works without Dask meanwhile")  # fmt: skip
        yield Note("dask", "wrong", f"{where} did not answer: {said}", mend)
    else:
        yield Note("dask", "fine", f"{where} answered in {seconds:.1f} s")


def _queue(use: str) -> Iterator[Note]:
    submits = {"slurm": "sbatch", "pbs": "qsub", "lsf": "bsub", "htcondor": "condor_submit", "sge": "qsub", "oar": "oarsub",
               "moab": "msub"}  # fmt: skip
    if util.find_spec("dask_jobqueue") is None:
        yield Note("dask", "wrong", f"cluster.use: {use} needs dask-jobqueue, which is not installed",
                   'pip install "emulate[hpc]"')  # fmt: skip
    elif shutil.which(submits[use]) is None:
        yield Note("dask", "wrong", f"cluster.use: {use} hands jobs to {submits[use]}, which is not on the PATH",
                   "start emulate on a machine that submits jobs, or load the queue's module")  # fmt: skip
    else:
        yield Note("dask", "fine", f"{submits[use]} is there; no job was submitted")


def _greeted(asked: dict[str, str]) -> tuple[str, float]:
    """What a process said that started the cluster and asked a worker; nothing where it went well. And the seconds."""
    start = time.monotonic()
    code = f"from pipelines.doctor.services import greet; greet({json.dumps(json.dumps(asked))})"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          start_new_session=True) as process:  # fmt: skip
        try:
            said, _ = process.communicate(timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
            said = f"nothing came within {_PATIENCE:g} s"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    lines = [line for line in said.splitlines() if line.strip()]
    if process.returncode == 0:
        return "", time.monotonic() - start
    return (lines[-1] if lines else f"its process ended with {process.returncode}"), time.monotonic() - start


def greet(asked: str) -> None:
    """In a process of its own, for a cluster that cannot start may hang: one worker adds one and two."""
    import operator

    from pipelines.campaign import Lost
    from pipelines.cluster import Cluster

    cluster, said = Cluster(ClusterPart(**{**asdict(ClusterPart()), **json.loads(asked), "workers": 1})), ""
    try:
        cluster.workers()
        future = cluster.submit(operator.add, 1, 2)
        while not cluster.ended([future]):
            pass
        if cluster.result(future) != 3:
            said = "a worker cannot add"
    except (EmulateError, Lost, OSError) as e:
        said = str(e)
    cluster.close(kill=True)
    sys.exit(said or 0)


def mlflow(place: Place) -> Iterator[Note]:
    """Whether the tracking address answers, and whether a database is of this MLflow's schema."""
    if place.tracking == "off":
        yield Note("mlflow", "fine", "tracking.uri is off")
        return
    try:
        address = resolve(place.tracking)
    except EmulateError as e:
        yield Note("mlflow", "wrong", str(e), "--set tracking.uri=sqlite:///mlflow.db")
        return
    if file := database(address):
        yield from _database(file, address)
    elif address.startswith(("http://", "https://")):
        yield from _server(address)
    else:
        yield Note("mlflow", "fine", f"{redact(address)} is not tried")


def _database(file: Path, address: str) -> Iterator[Note]:
    if not file.exists():
        yield Note("mlflow", "fine", f"{file} will be made by the first run, in some 20 s")
        return
    try:
        with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=_ANSWER)) as opened:
            tables = {row[0] for row in opened.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            met = (
                "" if "alembic_version" not in tables else opened.execute("SELECT * FROM alembic_version").fetchone()[0]
            )
    except (sqlite3.Error, TypeError) as e:
        yield Note("mlflow", "wrong", f"{file} cannot be read: {e}",
                   f"mv {file} {file}.old; `emulate sync STUDY.yaml` logs each study again")  # fmt: skip
        return
    if not met:
        strange = f", and holds tables of another program: {', '.join(sorted(tables)[:3])}" if tables else ""
        yield Note("mlflow", "advice" if tables else "fine", f"{file} is no database of MLflow yet{strange}",
                   "--set tracking.uri=sqlite:///mlflow.db" if tables else "")  # fmt: skip
        return
    head, known = revisions()
    version = metadata.version("mlflow")
    if head is None or met == head:
        yield Note("mlflow", "fine", f"{file}, schema {met} of MLflow {version}")
    elif met in known:
        yield Note("mlflow", "wrong", f"{file} has the schema {met} of an older MLflow; {version} wants {head}",
                   f"cp {file} {file}.old && mlflow db upgrade {address}")  # fmt: skip
    else:
        yield Note("mlflow", "wrong", f"{file} has the schema {met} of a newer MLflow than {version}",
                   "pip install --upgrade mlflow, or --set tracking.uri=sqlite:///another.db")  # fmt: skip


def revisions(folder: Path | None = None) -> tuple[str | None, set[str]]:
    """The newest schema of the installed MLflow, and all that it knows, read from its files: its import takes seconds."""
    if folder is None:
        spec = util.find_spec("mlflow")
        if spec is None or not spec.submodule_search_locations:
            return None, set()
        folder = Path(spec.submodule_search_locations[0]) / "store" / "db_migrations" / "versions"
    texts = [p.read_text(encoding="utf-8") for p in folder.glob("*.py")]
    known = {m[1] for t in texts if (m := _REVISION.search(t))}
    newest = known - {m[1] for t in texts if (m := _BEFORE.search(t))}
    return (newest.pop() if len(newest) == 1 else None), known


def _server(address: str) -> Iterator[Note]:
    where = redact(address)
    if reason := silence(address):
        yield Note("mlflow", "wrong", f"{where} does not answer: {reason}",
                   "start that server, or --set tracking.uri=sqlite:///mlflow.db; `emulate sync` logs later")  # fmt: skip
        return
    request = urllib.request.Request(f"{address.rstrip('/')}/version")
    if token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=_ANSWER) as answer:
            theirs = answer.read(200).decode(errors="replace").strip()
    except urllib.error.HTTPError as e:
        if e.code in (401, 403):
            yield Note("mlflow", "wrong", f"{where} asks for a login ({e.code})",
                       "export MLFLOW_TRACKING_TOKEN=..., or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD")  # fmt: skip
        else:
            yield Note("mlflow", "advice", f"{where} answers, and not as MLflow does ({e.code})", "check tracking.uri")
        return
    except (OSError, ValueError) as e:
        yield Note("mlflow", "wrong", f"{where} takes connections and does not answer: {redact(str(e))}",
                   "look at that server's log; `emulate sync` logs later")  # fmt: skip
        return
    ours = metadata.version("mlflow")
    if re.match(r"\d+\.\d+", theirs) is None:
        yield Note("mlflow", "advice", f"{where} answers, and not as MLflow does", "check tracking.uri")
    elif theirs.split(".")[0] != ours.split(".")[0]:
        yield Note("mlflow", "advice", f"{where} is MLflow {theirs}, here is {ours}", f'pip install "mlflow=={theirs}"')
    else:
        yield Note("mlflow", "fine", f"{where}, MLflow {theirs}")
