"""The guard: the first process of a runner. It leaves no orphan, and holds what a run started to its memory.

It imports nothing heavy, adopts every descendant whose parent ended (subreaper), and kills all of them, also those in a
session of their own, when the simulator's process ends or when the parent is gone: the parent holds the other end of a
socket (the lifeline), which closes with it, however it dies. Its last word on the lifeline says what it met.
"""

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Iterator
from typing import NoReturn

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_LOOK = 0.05  # seconds between looks at the memory
_PATIENCE = 10.0  # seconds in which every descendant must be killed


def adopt() -> None:
    """Descendants become children of this process when their parents end."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with(parent: int) -> None:
    """This process is killed when its parent ends; called in the parent's child, before its first thread."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def watch(child: int, lifeline: int, memory: int) -> NoReturn:
    """Wait for the end of the child, kill every descendant, tell what was met, and end as the child ended.

    The last word is one JSON object: `killed`, whether the child was alive and killed because the parent let go of the
    lifeline; `held`, the bytes of memory that were over the limit `memory` (0: none); `memory_mib`, the child's peak.
    """
    status, used, held, gone = _wait(child, lifeline, memory)
    _sweep()
    word = {"killed": gone and os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, "held": held,
            "memory_mib": mebibytes(used.ru_maxrss)}  # fmt: skip
    with contextlib.suppress(OSError):
        os.write(lifeline, json.dumps(word).encode())
    _end_as(status)


def mebibytes(maxrss: int) -> float:
    """`ru_maxrss`, which Linux gives in KiB and macOS in bytes."""
    return round(maxrss / (2**20 if sys.platform == "darwin" else 2**10), 1)


def descendants(root: int) -> list[int]:
    """The processes below `root`, by the kernel's lists of children; one that comes or goes meanwhile may be missed."""
    found: list[int] = []
    waiting = [root]
    while waiting:
        pid = waiting.pop()
        with contextlib.suppress(OSError):  # it ended meanwhile
            for task in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{task}/children") as f:
                    waiting += (born := [int(x) for x in f.read().split()])
                    found += born
    return found


def living(pid: int) -> bool:
    """Whether the process is there and is no zombie."""
    try:
        return _stat(pid)[0] not in (b"Z", b"X")
    except OSError:
        return False


def name(pid: int) -> str:
    """The name of a process's program."""
    try:
        with open(f"/proc/{pid}/comm", errors="replace") as f:
            return f.read().strip()
    except OSError:
        return "?"


def _wait(child: int, lifeline: int, memory: int) -> tuple[int, resource.struct_rusage, int, bool]:
    """Status and use of the child when it ended; the bytes it held over its limit, or 0; whether the parent let go."""
    ended = [os.pidfd_open(child)] if hasattr(os, "pidfd_open") else []
    pause = _LOOK if memory or not ended else None
    while True:
        ready = select.select([lifeline, *ended], [], [], pause)[0]
        pid, status, used = os.wait4(child, os.WNOHANG)
        if pid:
            return status, used, 0, False
        gone = lifeline in ready
        held = _held(memory) if memory and not gone else 0
        if gone or held:
            os.kill(child, signal.SIGKILL)
            _, status, used = os.wait4(child, 0)
            return status, used, held, gone


def _held(limit: int) -> int:
    """The bytes of memory that all descendants hold, if over the limit, else 0; shared pages count once."""
    pids = descendants(os.getpid())
    if sum(map(resident, pids)) <= limit:
        return 0
    held = sum(map(_share, pids))
    return held if held > limit else 0


def resident(pid: int) -> int:
    """The bytes of memory that a process holds, 0 where the system does not say."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as f:
            return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # it ended meanwhile
        return 0


def _share(pid: int) -> int:
    """What the process holds, a page that n processes share counted as 1/n: exact, and a hundred times slower."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as f:
            return 1024 * next(int(line.split()[1]) for line in f if line.startswith(b"Pss:"))
    except (OSError, StopIteration):
        return resident(pid)


def _sweep() -> None:
    """Kill every descendant and wait for it; those that fork while they are killed are met in the next round."""
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        for pid in _below(os.getpid()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:  # all are gone, for each became a child of this process when its parent ended
            return
        time.sleep(0.002)


def _below(root: int) -> Iterator[int]:
    """The living processes below `root`, from a look at all of /proc: slow, and misses none that is there."""
    parents = {}
    for name in os.listdir("/proc") if os.path.isdir("/proc/self") else ():
        if name.isdigit():
            with contextlib.suppress(OSError):
                state, parent = _stat(int(name))
                parents[int(name)] = (int(parent), state)
    below = {root}
    while more := {p for p, (parent, _) in parents.items() if parent in below and p not in below}:
        below |= more
    yield from (p for p in below - {root} if parents[p][1] != b"Z")


def _stat(pid: int) -> list[bytes]:
    """State and parent of a process."""
    with open(f"/proc/{pid}/stat", "rb") as f:
        return f.read().rpartition(b")")[2].split()[:2]


def _end_as(status: int) -> NoReturn:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the child's own core file is enough
        os.kill(os.getpid(), number)
    os._exit(os.WEXITSTATUS(status))


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)
