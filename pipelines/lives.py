"""What a runner holds of the processes behind it: one guard, and one life of the simulator after another under it.

The guard is `python -m pipelines.runner` (`pipelines/guard.py`). It has imported what every simulator needs and forks a
process for each life, so a simulator that ends its process costs the import of torch no second time. Imports nothing
heavy.
"""

import contextlib
import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from pipelines.limits import Limits

_END = 15.0  # seconds in which the guard must have killed everything
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS", "NUMBA_NUM_THREADS",
            "VECLIB_MAXIMUM_THREADS")  # fmt: skip


@dataclass(frozen=True)
class End:
    """How a life ended, as its guard tells."""

    code: int = 0  # its exit code, or -n for signal n; that of the guard where it could tell nothing
    killed: bool = False  # it was alive, and killed because the runner asked
    held: int = 0  # bytes of memory that were over the limit, 0 for none
    memory_mib: float = 0.0  # the most that its process held


class Life:
    """The pipes to one process of a simulator, and the line on which its guard tells how it ended.

    Shut down, the line tells the guard to end it; so does the end of this process, however it comes.
    """

    def __init__(self):
        self.pid = 0  # of the process and its group, once it has greeted
        (asked, self.ask), (self.answers, answer), (self.prints, self.printed) = (os.pipe() for _ in range(3))
        self._line, line = socket.socketpair()
        self.theirs = [asked, answer, self.printed, line.detach()]  # in the order in which the guard takes them
        os.set_blocking(self.answers, False)
        os.set_blocking(self.prints, False)

    def release(self) -> None:
        """Close the ends that are the guard's; what was not given to it has ended with that."""
        while self.theirs:
            os.close(self.theirs.pop())

    def over(self, seconds: float = 0.0) -> bool:
        """Whether it has ended, or its guard has; waits so long for that."""
        return bool(select.select([self._line], [], [], seconds)[0])

    def end(self) -> End | None:
        """Have it killed with all that it started; None where the guard is gone, or does not do it."""
        try:
            self.release()
            self._line.shutdown(socket.SHUT_WR)
            return End(**json.loads(self._line.recv(4096))) if self.over(_END) else None
        except (OSError, ValueError):
            return None
        finally:
            for descriptor in (self.ask, self.answers, self.prints):
                os.close(descriptor)
            self._line.close()


class Guard:
    """The process that keeps the lives. It stands ready for one when there is something to read from `door`.

    It prints where the first life prints; `folder` is the working directory of them all.
    """

    def __init__(self, first: Life, limits: Limits, folder: Path | None):
        self.door, door = socket.socketpair()
        command = [sys.executable, "-P", "-m", "pipelines.runner",
                   *map(str, (door.fileno(), limits.memory or 0, limits.answer_bytes))]  # fmt: skip
        environment = {**os.environ, **dict.fromkeys(_THREADS, str(limits.threads)), "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
                       "PYTHONHASHSEED": "0",  # or the order of a set would differ between processes
                       "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)}  # fmt: skip
        with door:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=first.printed, stderr=first.printed, cwd=folder,
                env=environment, pass_fds=(door.fileno(),), start_new_session=True)  # fmt: skip
        self.pid = self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def give(self, life: Life) -> None:
        """Let it begin; ConnectionError where the guard is gone."""
        try:
            if not self.door.recv(1):
                raise ConnectionError
            socket.send_fds(self.door, [b"\n"], life.theirs)
        finally:
            life.release()

    def close(self) -> int:
        """Let go of it, so that it ends; its exit code."""
        self.door.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(_END)
        os.killpg(self.pid, signal.SIGKILL)
        return self._process.wait()


def kernel_kills() -> int:
    """How often the system killed for memory in this control group, 0 where it does not say."""
    with contextlib.suppress(OSError):
        for line in file.read_text().splitlines() if (file := _memory_events()) else ():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


@functools.cache
def _memory_events() -> Path | None:
    """The file in which the control group says so, of version 2 or 1; a container may see its own group as the root."""
    root = Path("/sys/fs/cgroup")
    try:
        groups = dict(line.split(":", 2)[1:] for line in Path("/proc/self/cgroup").read_text().splitlines())
    except (OSError, ValueError):
        return None
    mine, old = groups.get("", "/").lstrip("/"), groups.get("memory", "/").lstrip("/")
    files = (root / mine / "memory.events", root / "memory" / old / "memory.oom_control",
             root / "memory" / "memory.oom_control")  # fmt: skip
    return next((f for f in files if os.access(f, os.R_OK)), None)
