"""The guard: the first process of a runner. It leaves no orphan, and holds what a run started to its memory.

It forks the simulator's process for one life after another, adopts every descendant whose parent ended (subreaper), and
kills all of them, also those in a session of their own, when the simulator's process ends or when the parent is gone:
the parent holds the other ends of two sockets, which close with it, however it dies. Each life has a lifeline, on which
the guard's last word says what it met; through the door come the descriptors of the next life.
"""

import contextlib
import ctypes
import fcntl
import json
import os
import resource
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
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


@contextlib.contextmanager
def ending_with(door: socket.socket) -> Iterator[None]:
    """Meanwhile this process ends, by SIGIO, when the parent lets go of the door: an import cannot look by itself."""
    flags = fcntl.fcntl(door, fcntl.F_GETFL)
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    fcntl.fcntl(door, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(door, fcntl.F_SETFL, flags | os.O_ASYNC)
    if select.select([door], [], [], 0)[0]:  # before there was a signal
        os._exit(0)
    yield
    fcntl.fcntl(door, fcntl.F_SETFL, flags)


def keep(door: socket.socket, memory: int, live: Callable[[int, int], None]) -> NoReturn:
    """One life after another, each in a process of its own, until the parent lets go of the door.

    A life is what `live(requests, answers)` does. Its descriptors come through the door: those two, where it prints,
    and its lifeline. This process has one thread, and keeps it: a fork copies no other, and `die_with` hears of it.
    """
    guard = os.getpid()
    while received := _next(door):
        requests, answers, printed, lifeline = received
        for descriptor in received:
            os.set_inheritable(descriptor, False)  # what the simulator starts must not hold them open
        os.dup2(printed, 1)
        os.dup2(printed, 2)
        os.close(printed)
        child = os.fork()
        if child == 0:
            try:
                die_with(guard)
                os.setsid()  # a simulator that signals its process group must not meet the guard
                door.close()
                os.close(lifeline)
                live(requests, answers)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        os.close(requests)
        os.close(answers)
        watch(child, lifeline, memory)
        os.close(lifeline)
    os._exit(0)


def _next(door: socket.socket) -> list[int]:
    """Say that the guard stands ready; the descriptors of the next life, none when the parent is gone."""
    try:
        door.send(b"\n")
        return socket.recv_fds(door, 1, 4)[1]
    except ConnectionError:
        return []


def watch(child: int, lifeline: int, memory: int) -> None:
    """Wait for the end of the child, kill every descendant, and tell what was met: `pipelines.lives.End` as JSON.

    The parent that lets go of the lifeline asks for that end; `memory` is the limit in bytes, 0 for none.
    """
    status, used, held, gone = _wait(child, lifeline, memory)
    _sweep()
    code = os.waitstatus_to_exitcode(status)
    word = {"code": code, "killed": gone and code == -signal.SIGKILL, "held": held,
            "memory_mib": mebibytes(used.ru_maxrss)}  # fmt: skip
    with contextlib.suppress(OSError):
        os.write(lifeline, json.dumps(word).encode())


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
    try:
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
    finally:
        for descriptor in ended:
            os.close(descriptor)


def _held(limit: int) -> int:
    """The bytes of memory that all descendants hold, if over the limit, else 0; shared pages count once.

    Pages that are still those of the guard's imports count half: this process is no run's doing.
    """
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


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)
