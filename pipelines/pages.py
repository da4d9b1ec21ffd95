"""The MLflow pages on this machine: a server on loopback for as long as the command runs."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import IO

from emulate.errors import InputError
from pipelines import views
from pipelines.addresses import database, page, redact, resolve

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_PATIENCE = 300.0  # s, for a server's first start on a busy machine
_GRACE = 10.0  # s, for it to end by itself


def ui(uri: str = "", port: int = 5000, host: str = "127.0.0.1", *, study: str = "",
       say: Callable[[str], None] = print) -> int:  # fmt: skip
    """Serve the pages of the database at `uri` until Ctrl-C; a server elsewhere is only pointed at.

    Prints the link to the runs of `study`, or to the list of experiments. Returns the exit code. Raises InputError
    when the host is not loopback or the port is taken.
    """
    address = resolve(uri)
    if address.startswith(("http://", "https://")):
        say(f"The pages are at {page(address, 'experiments')}.")
        return 0
    if host not in _LOOPBACK:
        raise InputError(f"host must be one of {', '.join(_LOOPBACK)}, for the pages have no password. Got {host!r}; "
                         f"reach them from elsewhere through ssh -L {port}:127.0.0.1:{port}.")  # fmt: skip
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise InputError(f"port {port} must be free. Got: {error.strerror}; choose another with --port.") from None
    say("Starting the MLflow pages; this takes up to a minute.")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # else the server would outlive this process
    # its own session: Ctrl-C reaches this process alone, which then ends the server and its workers in order
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(
            _command(address, host, port), env=_environment(address), start_new_session=True, stdout=log, stderr=log
        ) as server,
    ):
        try:
            site = f"http://{f'[{host}]' if ':' in host else host}:{port}"
            if _await(site, server):
                say(f"The pages are at {_deep_link(site, study)} (Ctrl-C ends them).")
                if newest := _newest(site, study):
                    say(f"The latest run is at {newest}")
                server.wait()
            else:
                late = f"It did not answer within {_PATIENCE:.0f} s; try again. " if server.poll() is None else ""
                say(f"The MLflow server did not start. {late}Its last words: {redact(_last_line(server, log))}")
                return 2
        except KeyboardInterrupt:
            say("Ended.")
        finally:
            _end(server)
    return 0


def _command(address: str, host: str, port: int) -> list[str]:
    file = database(address)
    artifacts = ["--artifacts-destination", str(file.parent / "mlartifacts")] if file else []
    return [sys.executable, "-m", "mlflow", "server", "--host", host, "--port", str(port), "--workers", "1", *artifacts]


def _environment(address: str) -> dict[str, str]:
    """The address goes here and not on the command line, where every user of the machine could read its password."""
    return os.environ | {
        "MLFLOW_BACKEND_STORE_URI": address,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # half the start time, a third of the memory
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
    }


def _await(site: str, server: subprocess.Popen) -> bool:
    """Wait until the server answers; False when it ended or took too long."""
    deadline = time.monotonic() + _PATIENCE
    while server.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            _open(f"{site}/health").close()
            return True
        time.sleep(0.3)
    return False


def _deep_link(site: str, study: str) -> str:
    """The verdicts on the runs of the study, or the list of experiments when the server does not know it yet."""
    if not (found := _experiments(site, study) if study else []):
        return page(site, "experiments")
    tags = {tag["key"] for tag in found[0].get("tags", ())}
    view = views.VERDICTS if views.TAG + views.VERDICTS in tags else ""
    return page(site, "experiments", found[0]["experiment_id"], "runs", view=view)


def _newest(site: str, study: str) -> str:
    """The page of the latest run of a study, or of any; nothing where there is none."""
    ids = [e["experiment_id"] for e in _experiments(site, study)]
    asked = {
        "experiment_ids": ids,
        "filter": "tags.`emulate.scope` = '/'",
        "order_by": ["start_time DESC"],
        "max_results": 1,
    }
    found = _ask(f"{site}/api/2.0/mlflow/runs/search", asked).get("runs") if ids else ()
    return (
        page(site, "experiments", found[0]["info"]["experiment_id"], "runs", found[0]["info"]["run_id"])
        if found
        else ""
    )


def _experiments(site: str, study: str) -> list[dict]:
    """The experiment of a study, or all of them."""
    named = {"filter": f"name = '{study}'"} if study else {}
    return _ask(f"{site}/api/2.0/mlflow/experiments/search", {"max_results": 1000, **named}).get("experiments", [])


def _ask(url: str, body: dict) -> dict:
    """What the server answers; nothing where it refuses, as for a study that no experiment can be named after."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with contextlib.suppress(urllib.error.HTTPError), _open(request) as answer:
        return json.load(answer)
    return {}


def _open(request: str | urllib.request.Request):
    """No proxy: what is asked for is on this machine."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10)


def _last_line(server: subprocess.Popen, log: IO[bytes]) -> str:
    _end(server)
    log.seek(0)
    lines = [line for line in log.read().decode(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else f"it ended with exit code {server.returncode}."


def _end(server: subprocess.Popen) -> None:
    for kind in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, kind)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(_GRACE)
            return
