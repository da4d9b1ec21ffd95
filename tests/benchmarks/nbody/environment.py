"""The public JAX codes in a virtual environment of their own, made once in the user's cache, and processes in it."""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PYTHON = "3.11"
REQUIREMENTS = (
    "jaxpm>=0.1.6,<0.2",
    "jax>=0.10,<0.11",
    "jax-cosmo>=0.1,<0.2",
    "jaxdecomp>=0.3,<0.4",
    "diffrax>=0.7.2,<0.8",
    "mcfit>=0.0.22,<0.1",  # needed by pmwd, which has no package: see `pmwd_checkout`
    "numpy>=2.2,<3",
    "setuptools<81",  # jax-cosmo imports pkg_resources
)
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "JAX_PLATFORMS": "cpu",
}


def peers_python() -> Path:
    """The python of the peers' environment, made on first use; skips in words where it cannot be made."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "emulate"
    key = hashlib.sha256("\n".join((PYTHON, *REQUIREMENTS)).encode()).hexdigest()[:8]
    folder = cache / f"peers-{key}"
    python, done = folder / "bin" / "python", folder / "complete"
    if done.exists():
        return python
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("the peers need `uv` to make their environment; pip install uv")
    cache.mkdir(parents=True, exist_ok=True)
    for command in (
        [uv, "venv", "--clear", "--python", PYTHON, str(folder)],
        [uv, "pip", "install", "--python", str(python), *REQUIREMENTS],
    ):
        made = subprocess.run(command, capture_output=True, text=True)
        if made.returncode:
            pytest.skip(f"the peers could not be installed (is the package registry reachable?): {made.stderr[-600:]}")
    done.touch()
    return python


def pmwd_checkout() -> Path:
    """pmwd is on no package registry: the folder of a checkout is given as EMULATE_PMWD; skips in words without."""
    folder = os.environ.get("EMULATE_PMWD")
    if not folder or not (Path(folder) / "pmwd" / "__init__.py").exists():
        pytest.skip("pmwd has no package; set EMULATE_PMWD to a checkout of its repository to compare with it")
    return Path(folder)


class Peer:
    """One code in a process of its own that answers requests; `about` is its first line."""

    def __init__(self, code: str, core: int = -1):
        python = Path(sys.executable) if code == "emulate" else peers_python()
        path = {"emulate": lambda: HERE.parents[2], "pmwd": pmwd_checkout}.get(code, lambda: "")()
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed with the process
        self._process = subprocess.Popen(
            [str(python), str(HERE / "peer.py"), code, str(core)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self._log, text=True, env={**os.environ, **ONE_THREAD, "PYTHONPATH": str(path)})  # fmt: skip
        self.about = self._receive()

    def send(self, **request) -> None:
        print(json.dumps(request), file=self._process.stdin, flush=True)

    def receive(self) -> dict:
        reply = self._receive()
        if "error" in reply:
            raise RuntimeError(reply["error"])
        return reply

    def ask(self, **request) -> dict:
        self.send(**request)
        return self.receive()

    def knows(self, **settings) -> bool:
        """Whether the code has all of these settings."""
        return set(settings) <= set(self.about["settings"])

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._log.close()

    def _receive(self) -> dict:
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            self._log.seek(0)
            raise RuntimeError(f"the peer ended with exit code {code}: {self._log.read()[-2000:]}")
        return json.loads(line)


@contextlib.contextmanager
def peer(code: str, core: int = -1) -> Iterator[Peer]:
    process = Peer(code, core)
    try:
        yield process
    finally:
        process.close()
