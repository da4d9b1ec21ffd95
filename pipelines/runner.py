"""`Runner`: simulators run in a persistent process of their own, which can be killed without harm to anything else.

`python -m pipelines.runner` is that process (`pipelines/child.py`) under its guard (`pipelines/guard.py`); this module
imports nothing heavy.
"""

import base64
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emulate.errors import CampaignError, InputError, RunFailed
from pipelines.limits import Limits, in_words

if TYPE_CHECKING:
    import numpy as np

_START = 600.0  # seconds in which a simulator must be imported and built
_END = 15.0  # seconds in which the guard must have killed everything
_CLOSE = 2.0  # seconds in which a process whose pipe closed ends by itself
_READS = 32  # pipefuls at a time of what is printed, so that an endless flood stops no clock
_NONE = Limits()
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS", "NUMBA_NUM_THREADS",
            "VECLIB_MAXIMUM_THREADS")  # fmt: skip


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
    """The process ended inside a run, or its pipe of answers did."""


class Runner:
    """One process in which runs of one simulator are made, one at a time.

    `simulator` is plain data: `use`, settings, and `space` as `Space.to_dict()` gives it. A run that breaks one of the
    `limits` is killed with all that it started, and a new process is started for the next run.
    `folder` is the working directory of the process, by default this one's. `hear` is called with what runs print, as
    it comes. A process is kept from run to run, but not one in which a run left other processes behind (they are
    killed) or that grew towards its limit of memory: an answer must not depend on the runs before.

    A run that fails is a value, `Answer.failure`. A simulator that cannot be built raises `InputError`, or
    `CampaignError` when its own code broke.

    >>> with Runner({"use": "linear_gaussian", "outputs_count": 2}, limits=Limits(timeout=60.0)) as runner:
    ...     runner.run([0.0, 0.0], seed=0).y
    array([0., 0.])
    """

    def __init__(self, simulator: Mapping[str, Any], *, limits: Limits = _NONE, folder: Path | None = None,
                 hear: Callable[[bytes], None] | None = None):  # fmt: skip
        self._spec, self.limits, self._folder, self._hear = dict(simulator), limits, folder, hear
        self._process: subprocess.Popen | None = None
        self._identity: dict[str, Any] = {}
        self._buffer, self._log = bytearray(), bytearray()
        self._number = self._first = 0  # of the question; bytes that the process held after its first run
        self._word: dict[str, Any] = {}  # the guard's last

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
        self._number += 1
        question = {"theta": [float(x) for x in theta], "seed": int(seed), "product": product, "gradient": gradient}
        self._log.clear()
        try:
            found = self._exchange(
                {**question, "number": self._number, "weigh": self.limits.memory is not None},
                self.limits.timeout,
                self._number,
            )
        except TimeoutError:
            self.close()
            reason = f"the run took longer than {self.limits.timeout:g} s and was killed"
            return self._broken(RunFailed("timeout", reason, self._said()), start, pid)
        except _Ended as e:
            self._wait_for_end()
            code = self.close()
            return self._broken(self._crash(code, _kernel_kills() > killed, str(e)), start, pid)
        except BaseException:
            self.close()  # an interrupted exchange leaves an answer in the pipe
            raise
        rest = {"seconds": found["seconds"], "memory_mib": found["memory_mib"], "pid": pid}
        said = self._tidy(found)
        if "kind" in found:
            log = "\n".join(t for t in (said, found["log"]) if t)[-self.limits.log_bytes :]
            return Answer(failure=RunFailed(found["kind"], found["reason"], log), log=log, **rest)
        return Answer(**{n: _decode(a) for n, a in found["arrays"].items()}, log=said, **rest)

    def close(self) -> int:
        """Kill the process and everything it started; its exit code. A later run starts a new one."""
        if self._process is None:
            return 0
        process, self._process, self._word = self._process, None, {}
        for descriptor in self._pipes:
            os.close(descriptor)
        try:
            self._life.shutdown(socket.SHUT_WR)  # which tells the guard
            return process.wait(_END)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return process.wait()
        finally:
            with contextlib.suppress(OSError, ValueError):  # a guard that was killed has no last word
                self._word = json.loads(self._life.recv(4096, socket.MSG_DONTWAIT))
            self._life.close()

    def _tidy(self, found: Mapping[str, Any]) -> str:
        """End a process that runs after this one must not meet; what was printed, with a note on that."""
        said, limit = self._said(), self.limits.memory
        self._first = self._first or found["resident"]
        if found["left"]:
            self.close()
            left = ", ".join(found["left"][:5]) + (" ..." if len(found["left"]) > 5 else "")
            note = f"[the run left {len(found['left'])} of its processes behind, which were killed: {left}]"
            return "\n".join(t for t in (said, note) if t)[-self.limits.log_bytes :]
        if limit and found["resident"] > (limit + self._first) / 2:
            self.close()
        return said

    def _broken(self, failure: RunFailed, start: float, pid: int) -> Answer:
        """The answer of a run that ended its process."""
        memory = self._word.get("memory_mib", 0.0)
        return Answer(failure=failure, log=failure.log, seconds=time.perf_counter() - start, memory_mib=memory, pid=pid)

    def _crash(self, code: int, by_kernel: bool, why: str) -> RunFailed:
        held, log = self._word.get("held", 0), self._said()
        if held:
            return RunFailed("oom", f"the run and what it started held {in_words(held)} of memory, more than the "
                                    f"{in_words(self.limits.memory or 0)} of simulate.memory, and were killed", log)  # fmt: skip
        if code == -signal.SIGKILL and by_kernel:
            return RunFailed("oom", "the process was killed by the system because memory ran out", log)
        if why or self._word.get("killed"):
            return RunFailed("crashed", why or "the run closed the pipe of its answer, which it must leave open", log)
        return RunFailed("crashed", f"the process ended inside the run ({_how(code)})", log)

    def _wait_for_end(self) -> None:
        """A process whose pipe closed is about to end, unless its simulator closed the pipe."""
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_CLOSE)

    def _start(self) -> None:
        if self._process is not None and self._process.poll() is not None:
            self.close()  # it ended between two runs, which is no run's fault
        if self._process is not None:
            return
        (asked, ask), (heard, hear), (read, printed) = (os.pipe() for _ in range(3))
        life, self._life = socket.socketpair()
        command = [sys.executable, "-P", "-m", "pipelines.runner",
                   *map(str, (asked, hear, life.fileno(), self.limits.memory or 0, self.limits.answer_bytes))]  # fmt: skip
        environment = {**os.environ, **dict.fromkeys(_THREADS, str(self.limits.threads)), "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
                       "PYTHONHASHSEED": "0",  # or the order of a set would differ between processes
                       "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)}  # fmt: skip
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=printed, stderr=printed, cwd=self._folder, env=environment,
                pass_fds=(asked, hear, life.fileno()), start_new_session=True)  # fmt: skip
        finally:
            life.close()
            for descriptor in (asked, hear, printed):
                os.close(descriptor)
        self._ask, self._answers, self._prints, self._pipes = ask, heard, read, (ask, heard, read)
        os.set_blocking(heard, False)
        os.set_blocking(read, False)
        self._buffer.clear()
        self._log.clear()
        self._number = self._first = 0
        self._greet()

    def _greet(self) -> None:
        name = self._spec.get("use")
        try:
            found = self._exchange(self._spec, _START)
        except BaseException as e:
            if isinstance(e, _Ended):
                self._wait_for_end()
            code = self.close()
            if isinstance(e, _Ended):
                held = self._word.get("held", 0)
                how = f"it held {in_words(held)}, more than simulate.memory" if held else _how(code)
                raise CampaignError(f"the simulator {name!r} ended its process while it was built ({how}). "
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

    def _exchange(
        self, question: Mapping[str, Any], timeout: float | None, number: int | None = None
    ) -> dict[str, Any]:
        """One line out, one line back; meanwhile what is printed is collected."""
        deadline, start = None if timeout is None else time.monotonic() + timeout, 0
        try:
            _write(self._ask, json.dumps(question).encode() + b"\n")
        except BrokenPipeError:
            raise _Ended from None
        while (end := self._buffer.find(b"\n", start)) < 0:
            left, start = None if deadline is None else deadline - time.monotonic(), len(self._buffer)
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
                if len(self._buffer) > 2 * self.limits.answer_bytes + 2**20:  # base64 takes a third more
                    raise _Ended("the run wrote more into the pipe of its answer than the answer may hold")
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        self._collect()
        return _understood(line, number)

    def _collect(self) -> bool:
        """Read what was printed, keep the last of it; False at the end of the file."""
        for _ in range(_READS):
            try:
                got = os.read(self._prints, 65536)
            except BlockingIOError:
                return True
            if not got:
                return False
            if self._hear:
                self._hear(got)
            self._log += got
            if len(self._log) > self.limits.log_bytes + 2**20:
                del self._log[: -self.limits.log_bytes]
        return True

    def _said(self) -> str:
        return self._log[-self.limits.log_bytes :].decode(errors="replace").strip()


def _understood(line: bytes, number: int | None) -> dict[str, Any]:
    """The answer to the question of this number; any other line was written by the simulator."""
    with contextlib.suppress(ValueError, AttributeError):
        if (found := json.loads(line)).get("number") == number:
            return found
    raise _Ended("the run wrote into the pipe of its answer, which it must leave alone")


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _decode(a: Mapping[str, Any]) -> "np.ndarray":
    import numpy as np

    return np.frombuffer(base64.b64decode(a["float64"]), "<f8").reshape(a["shape"]).astype(np.float64)


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
