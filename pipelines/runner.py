"""`Runner`: simulators run in a persistent process of their own, which can be killed without harm to anything else.

`python -m pipelines.runner` is the guard of that process (`pipelines/guard.py`, `pipelines/child.py`), and forks it
anew when it ended (`pipelines/lives.py`); this module imports nothing heavy.
"""

import base64
import contextlib
import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emulate.errors import CampaignError, InputError, RunFailed
from pipelines.limits import Limits, in_words
from pipelines.lives import End, Guard, Life, kernel_kills

if TYPE_CHECKING:
    import numpy as np

_START = 600.0  # seconds in which a simulator must be imported and built
_CLOSE = 2.0  # seconds in which a process whose pipe closed ends by itself
_READS = 32  # pipefuls at a time of what is printed, so that an endless flood stops no clock
_NONE = Limits()
_TRY = "Mend it, then run the same command again; `emulate simulate STUDY.yaml --only 0` makes one run and shows what it says."


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
        self._guard: Guard | None = None
        self._life: Life | None = None
        self._identity: dict[str, Any] = {}
        self._buffer, self._log = bytearray(), bytearray()
        self._number = self._first = 0  # of the question; bytes that the process held after its first run

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
        return self._life.pid if self._life else 0

    def run(self, theta: Sequence[float], seed: int, product: str = "y",
            gradient: Mapping[str, Any] | None = None) -> Answer:  # fmt: skip
        """One run at theta `[d]`; `product` and `gradient` as `emulate.keys.record_of` takes them."""
        self._start()
        pid, killed, start = self.pid, kernel_kills(), time.perf_counter()
        self._number += 1
        question = {"theta": [float(x) for x in theta], "seed": int(seed), "product": product, "gradient": gradient,
                    "number": self._number, "weigh": self.limits.memory is not None}  # fmt: skip
        self._log.clear()
        try:
            deadline = None if self.limits.timeout is None else time.monotonic() + self.limits.timeout
            found = self._exchange(question, deadline, self._number)
        except TimeoutError:
            reason = f"the run took longer than {self.limits.timeout:g} s and was killed"
            return self._broken(RunFailed("timeout", reason, self._said()), self._end(), start, pid)
        except _Ended as e:
            self._life.over(_CLOSE)
            end = self._end()
            return self._broken(self._crash(end, kernel_kills() > killed, str(e)), end, start, pid)
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
        code, guard, self._guard = self._end().code, self._guard, None
        if guard is not None:
            guard.close()
        return code

    def _end(self) -> End:
        """Kill the process and everything it started; its guard stays for the next one, unless it is gone itself."""
        life, self._life = self._life, None
        if life is None:
            return End()
        if (end := life.end()) or self._guard is None:
            return end or End()
        guard, self._guard = self._guard, None
        return End(code=guard.close())

    def _tidy(self, found: Mapping[str, Any]) -> str:
        """End a process that runs after this one must not meet; what was printed, with a note on that."""
        said, limit = self._said(), self.limits.memory
        self._first = self._first or found["resident"]
        if found["left"]:
            self._end()
            left = ", ".join(found["left"][:5]) + (" ..." if len(found["left"]) > 5 else "")
            note = f"[the run left {len(found['left'])} of its processes behind, which were killed: {left}]"
            return "\n".join(t for t in (said, note) if t)[-self.limits.log_bytes :]
        if found["bound"] or (limit and found["resident"] > (limit + self._first) / 2):
            self._end()
        return said

    def _broken(self, failure: RunFailed, end: End, start: float, pid: int) -> Answer:
        """The answer of a run that ended its process."""
        return Answer(failure=failure, log=failure.log, seconds=time.perf_counter() - start,
                      memory_mib=end.memory_mib, pid=pid)  # fmt: skip

    def _crash(self, end: End, by_kernel: bool, why: str) -> RunFailed:
        log = self._said()
        if end.held:
            return RunFailed("oom", f"the run and what it started held {in_words(end.held, above=self.limits.memory)} of "
                                    f"memory, more than the {in_words(self.limits.memory or 0)} of simulate.memory, and "
                                    "were killed", log)  # fmt: skip
        if end.code == -signal.SIGKILL and by_kernel:
            return RunFailed("oom", "the process was killed by the system because memory ran out", log)
        if why or end.killed:
            return RunFailed("crashed", why or "the run closed the pipe of its answer, which it must leave open", log)
        return RunFailed("crashed", f"the process ended inside the run ({_how(end.code)})", log)

    def _start(self) -> None:
        if self._life is not None and self._life.over():
            self._end()  # it ended between two runs, which is no run's fault
        if self._life is not None:
            return
        if self._guard is not None and not self._guard.alive:
            self.close()
        self._life = Life()
        self._buffer.clear()
        self._log.clear()
        self._number = self._first = 0
        self._greet(time.monotonic() + _START)

    def _greet(self, deadline: float) -> None:
        name, served = self._spec.get("use"), self._guard is not None
        try:
            self._begin(deadline)
            found = self._exchange(self._spec, deadline)
        except BaseException as e:
            if isinstance(e, _Ended):
                self._life.over(_CLOSE)
            end = self._end()
            guard_fell = served and self._guard is None
            self.close()
            if isinstance(e, _Ended) and guard_fell:
                return self._start()  # a guard that had served before was killed from outside: a new one, once
            if isinstance(e, _Ended):
                how = f"it held {in_words(end.held)}, more than simulate.memory" if end.held else _how(end.code)
                raise CampaignError(f"the simulator {name!r} ended its process while it was built ({how}). "
                                    f"It said:\n{self._said()}\n{_TRY}") from None  # fmt: skip
            if isinstance(e, TimeoutError):
                raise CampaignError(f"the simulator {name!r} must be built within {_START:g} s. It was not; it said:\n"
                                    f"{self._said()}\n{_TRY}") from None  # fmt: skip
            raise
        if "broken" in found:
            self.close()
            if found["user"]:
                raise InputError(found["broken"])
            raise CampaignError(
                f"the simulator {name!r} could not be built: {found['broken']}.\n{found['log']}\n{_TRY}"
            )
        self._identity, self._life.pid = found["identity"], found["pid"]

    def _begin(self, deadline: float) -> None:
        """Give the new life to a guard that stands ready."""
        self._guard = self._guard or Guard(self._life, self.limits, self._folder)
        self._wait(self._guard.door, deadline)
        try:
            self._guard.give(self._life)
        except ConnectionError:
            self._collect()
            raise _Ended from None

    def _exchange(self, question: Mapping[str, Any], deadline: float | None, number: int | None = None) -> dict:
        """One line out, one line back."""
        start = 0
        try:
            _write(self._life.ask, json.dumps(question).encode() + b"\n")
        except BrokenPipeError:
            raise _Ended from None
        while (end := self._buffer.find(b"\n", start)) < 0:
            start = len(self._buffer)
            self._wait(self._life.answers, deadline)
            got = os.read(self._life.answers, 2**20)
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

    def _wait(self, source: Any, deadline: float | None) -> None:
        """Until there is something to read from `source`; meanwhile what is printed is collected."""
        prints = self._life.prints
        while True:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                self._collect()
                raise TimeoutError
            ready = select.select([source, prints], [], [], left)[0]
            if prints in ready and not self._collect() and source not in ready:
                time.sleep(0.005)  # printing is at its end, the answer or the end of the process is about to come
            if source in ready:
                return

    def _collect(self) -> bool:
        """Read what was printed, keep the last of it; False at the end of the file."""
        for _ in range(_READS):
            try:
                got = os.read(self._life.prints, 65536)
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


if __name__ == "__main__":
    from pipelines.child import main

    main(*map(int, sys.argv[1:]))
