"""`Runner`: simulators run in a persistent process of their own, which can be killed without harm to anything else.

`python -m pipelines.runner` is that process (`pipelines/child.py`); this module imports nothing heavy.
"""

import base64
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emulate.errors import CampaignError, InputError, RunFailed
from pipelines.limits import Limits

if TYPE_CHECKING:
    import numpy as np

LOG_BYTES = 8192  # of what a simulator prints, the last are kept
_START = 600.0  # seconds in which a simulator must be imported and built
_END = 15.0  # seconds in which the guard must have killed everything
_NONE = Limits()
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


@dataclass(frozen=True)
class Answer:
    """What came of one run: y `[m]`, for a derivative also jacobian and standard_error `[m, d]`, or its failure."""

    y: "np.ndarray | None" = None
    jacobian: "np.ndarray | None" = None
    standard_error: "np.ndarray | None" = None
    failure: RunFailed | None = None
    log: str = ""  # the last that the run printed
    seconds: float = 0.0
    memory_mib: float = 0.0  # the most that the process held so far
    pid: int = 0


class _Ended(Exception):
    """The process ended inside a run."""


class Runner:
    """One process in which runs of one simulator are made, one at a time.

    `simulator` is plain data: `use`, settings, and `space` as `Space.to_dict()` gives it. A run that breaks one of the
    `limits` is killed with all that it started, and a new process is started for the next run.
    `folder` is the working directory of the process, by default this one's.

    A run that fails is a value, `Answer.failure`. A simulator that cannot be built raises `InputError`, or
    `CampaignError` when its own code broke.

    >>> with Runner({"use": "linear_gaussian", "outputs_count": 2}, limits=Limits(timeout=60.0)) as runner:
    ...     runner.run([0.0, 0.0], seed=0).y
    array([0., 0.])
    """

    def __init__(self, simulator: Mapping[str, Any], *, limits: Limits = _NONE, folder: Path | None = None):
        self._spec, self._limits, self._folder = dict(simulator), limits, folder
        self._process: subprocess.Popen | None = None
        self._identity: dict[str, Any] = {}
        self._buffer = self._log = b""

    def __enter__(self) -> "Runner":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def identity(self) -> dict[str, Any]:
        """What the simulator puts into the key of its runs, as the process built it; `emulate.keys.identity`."""
        self._start()
        return self._identity

    @property
    def pid(self) -> int:
        """The process group of the running process, 0 when there is none."""
        return self._process.pid if self._process else 0

    def run(self, theta: Sequence[float], seed: int, product: str = "y",
            gradient: Mapping[str, Any] | None = None) -> Answer:  # fmt: skip
        """One run at theta `[d]`; `product` and `gradient` as `emulate.keys.record_of` takes them."""
        self._start()
        pid, killed, start = self.pid, _kernel_kills(), time.perf_counter()
        question = {"theta": [float(x) for x in theta], "seed": int(seed), "product": product, "gradient": gradient}
        self._log = b""
        try:
            found = self._exchange(question, self._limits.timeout)
        except TimeoutError:
            self.close()
            failure = RunFailed(
                "timeout", f"the run took longer than {self._limits.timeout:g} s and was killed", self._said()
            )
            return Answer(failure=failure, log=failure.log, seconds=time.perf_counter() - start, pid=pid)
        except _Ended:
            code = self.close()
            failure = _crash(code, _kernel_kills() > killed, self._said())
            return Answer(failure=failure, log=failure.log, seconds=time.perf_counter() - start, pid=pid)
        except BaseException:
            self.close()  # an interrupted exchange leaves an answer in the pipe
            raise
        rest = {"seconds": found["seconds"], "memory_mib": found["memory_mib"], "pid": pid}
        if "kind" in found:
            log = "\n".join(t for t in (self._said(), found["log"]) if t)[-LOG_BYTES:]
            return Answer(failure=RunFailed(found["kind"], found["reason"], log), log=log, **rest)
        return Answer(**{n: _decode(a) for n, a in found["arrays"].items()}, log=self._said(), **rest)

    def close(self) -> int:
        """Kill the process and everything it started; its exit code. A later run starts a new one."""
        if self._process is None:
            return 0
        process, self._process = self._process, None
        for descriptor in self._pipes:
            os.close(descriptor)  # closing the lifeline tells the guard
        try:
            return process.wait(_END)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return process.wait()

    def _start(self) -> None:
        if self._process is not None and self._process.poll() is not None:
            self.close()  # it ended between two runs, which is no run's fault
        if self._process is not None:
            return
        (asked, ask), (heard, hear), (life, alive), (read, printed) = (os.pipe() for _ in range(4))
        command = [sys.executable, "-P", "-m", "pipelines.runner", str(asked), str(hear), str(life)]
        environment = {**os.environ, **dict.fromkeys(_THREADS, "1"), "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
                       "PYTHONHASHSEED": "0",  # or the order of a set would differ between processes
                       "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)}  # fmt: skip
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=printed, stderr=printed, cwd=self._folder, env=environment,
                pass_fds=(asked, hear, life), start_new_session=True)  # fmt: skip
        finally:
            for descriptor in (asked, hear, life, printed):
                os.close(descriptor)
        self._ask, self._answers, self._prints, self._pipes = ask, heard, read, (ask, heard, alive, read)
        os.set_blocking(heard, False)
        os.set_blocking(read, False)
        self._buffer = self._log = b""
        self._greet()

    def _greet(self) -> None:
        name = self._spec.get("use")
        try:
            found = self._exchange(self._spec, _START)
        except BaseException as e:
            code = self.close()
            if isinstance(e, _Ended):
                raise CampaignError(f"the simulator {name!r} ended its process while it was built ({_how(code)}). "
                                    f"It said:\n{self._said()}") from None  # fmt: skip
            if isinstance(e, TimeoutError):
                raise CampaignError(f"the simulator {name!r} must be built within {_START:g} s. It was not; it said:\n"
                                    f"{self._said()}") from None  # fmt: skip
            raise
        if "broken" in found:
            self.close()
            if found["user"]:
                raise InputError(found["broken"])
            raise CampaignError(f"the simulator {name!r} could not be built: {found['broken']}.\n{found['log']}")
        self._identity = found["identity"]

    def _exchange(self, question: Mapping[str, Any], timeout: float | None) -> dict[str, Any]:
        """One line out, one line back; meanwhile what is printed is collected."""
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            _write(self._ask, json.dumps(question).encode() + b"\n")
        except BrokenPipeError:
            raise _Ended from None
        while b"\n" not in self._buffer:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                self._collect()
                raise TimeoutError
            ready = select.select([self._answers, self._prints], [], [], left)[0]
            if self._prints in ready and not self._collect() and self._answers not in ready:
                time.sleep(0.005)  # printing is at its end, the answer or the end of the process is about to come
            if self._answers in ready:
                got = os.read(self._answers, 2**20)
                if not got:
                    self._collect()
                    raise _Ended
                self._buffer += got
        line, _, self._buffer = self._buffer.partition(b"\n")
        self._collect()
        return json.loads(line)

    def _collect(self) -> bool:
        """Read what was printed, keep the last of it; False at the end of the file."""
        while True:
            try:
                got = os.read(self._prints, 65536)
            except BlockingIOError:
                return True
            if not got:
                return False
            self._log = (self._log + got)[-LOG_BYTES:]

    def _said(self) -> str:
        return self._log.decode(errors="replace").strip()


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _decode(a: Mapping[str, Any]) -> "np.ndarray":
    import numpy as np

    return np.frombuffer(base64.b64decode(a["float64"]), "<f8").reshape(a["shape"]).astype(np.float64)


def _crash(code: int, by_kernel: bool, log: str) -> RunFailed:
    if code == -signal.SIGKILL and by_kernel:
        return RunFailed("oom", "the process was killed by the system because memory ran out", log)
    return RunFailed("crashed", f"the process ended inside the run ({_how(code)})", log)


def _how(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _kernel_kills() -> int:
    """How often the system killed for memory in this control group, 0 where it does not say."""
    for line in _memory_events().splitlines():
        if line.startswith("oom_kill "):
            return int(line.split()[1])
    return 0


def _memory_events() -> str:
    """What the control group says of its memory, of version 2 or 1; a container may see its own group as the root."""
    root = Path("/sys/fs/cgroup")
    try:
        groups = dict(line.split(":", 2)[1:] for line in Path("/proc/self/cgroup").read_text().splitlines())
    except (OSError, ValueError):
        return ""
    mine, old = groups.get("", "/").lstrip("/"), groups.get("memory", "/").lstrip("/")
    for file in (root / mine / "memory.events", root / "memory" / old / "memory.oom_control",
                 root / "memory" / "memory.oom_control"):  # fmt: skip
        try:
            return file.read_text()
        except OSError:
            continue
    return ""


if __name__ == "__main__":
    from pipelines.child import main

    main(*map(int, sys.argv[1:]))
