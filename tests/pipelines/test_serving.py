"""An emulator behind MLflow's own doors: the registry, a scoring server, a tracking server that asks for a token."""

import http.client
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch

import emulate
from pipelines import tracking
from pipelines.journal import Journal
from tests.journals import closed_port, contents, copy_of, write_study

ROOT = Path(__file__).parents[2]
TOKEN = "a-token-of-nobody-4711"
PROGRAM = [sys.executable, "-c", "from pipelines.cli import main; main()"]


@pytest.fixture
def registered(place, trained):
    tracking.sync(write_study(place / "study", model=trained))
    return place


def environment(**more: str) -> dict[str, str]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # mlflow calls uvicorn by name
    return os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **more}


def ask(url: str, body: dict | None = None, timeout: float = 60) -> tuple[int, dict | str]:
    """The status and the answer, which is read as JSON where it is."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"} if data else {})
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=timeout) as answer:
            status, text = answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        status, text = error.code, error.read().decode()
    return status, json.loads(text) if text.startswith(("{", "[")) else text


def wait_for(url: str, process: subprocess.Popen, patience: float = 300.0) -> None:
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        assert process.poll() is None, f"the server ended with exit code {process.returncode}"
        try:
            if ask(url)[0] == 200:
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"{url} did not answer within {patience:.0f} s")


def end(process: subprocess.Popen) -> None:
    """A server and its workers, which share a session of their own."""
    for kind in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, kind)
            process.wait(20)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


@pytest.mark.slow
def test_both_loaders_answer_the_same_from_the_registry(registered, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{registered}/mlflow.db")
    import mlflow.pyfunc

    served, emulator = mlflow.pyfunc.load_model("models:/quick@champion"), emulate.load("models:/quick@champion")
    frame = pandas.DataFrame({"a": [0.1, 0.9], "b": [2.5, 3.5]})
    answer, prediction = served.predict(frame), emulator.predict(torch.from_numpy(frame.to_numpy()))
    np.testing.assert_array_equal(answer[["s", "pk[k=0.1]"]], prediction.mean)
    np.testing.assert_array_equal(answer[["s_sd", "pk[k=0.1]_sd"]], prediction.variance.sqrt())
    np.testing.assert_allclose(answer["s"], frame.sum(axis=1), rtol=1e-3)  # what it was fitted to


@pytest.mark.slow
def test_models_serve_answers_over_http(registered, monkeypatch):
    port = closed_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{registered}/mlflow.db")
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/quick@champion", "--env-manager", "local",
               "--host", "127.0.0.1", "--port", str(port)]  # fmt: skip
    uri = os.environ["MLFLOW_TRACKING_URI"]
    with (registered / "serve.log").open("wb") as log:
        server = subprocess.Popen(command, env=environment(MLFLOW_TRACKING_URI=uri), stdout=log, stderr=log,
                                  cwd=registered, start_new_session=True)  # fmt: skip
    site = f"http://127.0.0.1:{port}"
    try:
        wait_for(f"{site}/ping", server)
        points = {"columns": ["b", "a"], "data": [[2.5, 0.1], [3.5, 0.9]]}
        status, answer = ask(f"{site}/invocations", {"dataframe_split": points})
        assert status == 200, answer
        rows = pandas.DataFrame(answer["predictions"])
        theta = torch.tensor([[0.1, 2.5], [0.9, 3.5]], dtype=torch.float64)
        prediction = emulate.load("models:/quick@champion").predict(theta)
        np.testing.assert_allclose(rows[["s", "pk[k=0.1]"]], prediction.mean, rtol=1e-12)
        np.testing.assert_allclose(rows[["s_sd", "pk[k=0.1]_sd"]], prediction.variance.sqrt(), rtol=1e-12)
        status, answer = ask(f"{site}/invocations", {"dataframe_split": {"columns": ["a"], "data": [[0.1]]}})
        assert status == 400
        assert "b" in answer["message"]
    finally:
        end(server)


class Guard(http.server.BaseHTTPRequestHandler):
    """A proxy that passes on what carries the token; `server.upstream` is (host, port), `server.refused` counts."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.server.refused += 1
            self.answer(401, [], b"no token, no entry")
            return
        upstream = http.client.HTTPConnection(*self.server.upstream, timeout=120)
        headers = {
            k: v for k, v in self.headers.items() if k.lower() not in ("authorization", "host", "accept-encoding")
        }
        upstream.request(self.command, self.path, body, headers)
        told = upstream.getresponse()
        self.answer(told.status, [("Content-Type", told.headers.get("Content-Type", "text/plain"))], told.read())
        upstream.close()

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

    def answer(self, status: int, headers: list, body: bytes) -> None:
        self.send_response(status)
        for name, value in [*headers, ("Content-Length", str(len(body)))]:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.mark.slow
def test_a_remote_server_with_a_token_takes_the_study_and_nobody_keeps_the_token(place, trained, monkeypatch, capfd):
    folder, port = write_study(place / "study", study="far", model=trained), closed_port()
    (place / "server").mkdir()
    command = [*PROGRAM, "ui", "--uri", f"sqlite:///{place}/server/mlflow.db", "--port", str(port)]
    server = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, cwd=place)
    try:
        wait_for(f"http://127.0.0.1:{port}/health", server)
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Guard) as guard:
            guard.upstream, guard.refused = ("127.0.0.1", port), 0
            threading.Thread(target=guard.serve_forever, daemon=True).start()
            address = f"http://127.0.0.1:{guard.server_port}"
            monkeypatch.delenv("MLFLOW_TRACKING_TOKEN", raising=False)
            capfd.readouterr()
            without = tracking.sync(folder, address)
            assert (without.logged, guard.refused > 0) == (0, True)
            assert without.sentence.startswith(f"{address} did not answer (")
            assert "401" in without.sentence
            monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", TOKEN)
            guard.refused = 0
            synced = tracking.sync(folder, address)
            assert (synced.pending, guard.refused) == (0, 0), synced.sentence
            assert synced.link.startswith(f"{address}/#/experiments/1/runs/")
            monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
            emulator = emulate.load("models:/far@champion")
            theta = torch.tensor([0.3, 3.0], dtype=torch.float64)
            assert torch.equal(emulator.predict(theta).mean, emulate.load(trained).predict(theta).mean)
            said = "".join(capfd.readouterr()) + synced.sentence + synced.link + without.sentence
            guard.shutdown()
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(60)
    assert TOKEN not in said
    kept = [p for p in place.rglob("*") if p.is_file() and TOKEN.encode() in p.read_bytes()]
    assert kept == []


@pytest.mark.slow
def test_studies_with_many_workers_fill_one_new_database_at_once(place):
    """Their workers never talk to MLflow; the processes that do take turns at making its tables."""
    (place / "mlflow.db").unlink()
    study = (ROOT / "configs/linear.yaml").read_text() + "check: {importance_runs: 20, recovery: 2}\n"
    names = ("one", "two", "three")
    for name in names:
        changed = study.replace("name: linear", f"name: {name}") + "cluster: {use: local, workers: 3}\n"
        (place / f"{name}.yaml").write_text(changed)
    runs = {n: subprocess.Popen([*PROGRAM, "run", f"{n}.yaml"], env=environment(), cwd=place, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for n in names}  # fmt: skip
    said = {n: process.communicate(timeout=540)[0] for n, process in runs.items()}
    for name in names:
        assert f"MLflow: the run is logged in sqlite:///{place}/mlflow.db." in said[name], said[name]
        assert "did not answer" not in said[name]
    (place / "clean").mkdir()
    for name in names:
        folder = copy_of(place / "runs" / name, place / "clean" / name)
        (folder / "tracking.json").unlink()
        assert len(Journal(folder / "journal.jsonl").read()) > 20
        tracking.sync(folder, f"sqlite:///{place}/clean/mlflow.db")
        held = [contents(f"sqlite:///{place}/{where}mlflow.db", name) for where in ("", "clean/")]
        assert held[0] == held[1]
