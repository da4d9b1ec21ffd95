"""One program, run to its end in a folder: no shell, no terminal, no input, and nothing of it left when it is over.

What it prints goes to files. It has a session of its own, so that an interrupt reaches it from here alone: first the
request to end, then the kill, of the whole group and of every process that carries the run's mark in its environment.
"""

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from emulate.errors import RunFailed

MARK = "EMULATE_RUN"  # in the environment of everything that a run starts: its folder
_GRACE = 2.0  # seconds between the request to end and the kill
_LOOK = 0.25  # seconds between two looks at how much was printed


def run(arguments: Sequence[str], program: Path, folder: Path, environment: Mapping[str, str],
        printed: tuple[BinaryIO, BinaryIO], limit: int, what: str) -> int:  # fmt: skip
    """The exit code of a program, negative for the signal that ended it; `printed` takes stdout and stderr.

    `what` leads complaints. Raises `RunFailed` when it cannot be started, or prints more than `limit` bytes.
    """
    try:
        process = subprocess.Popen(
            arguments, executable=program, cwd=folder, env={**environment, MARK: str(folder)},
            stdin=subprocess.DEVNULL, stdout=printed[0], stderr=printed[1], start_new_session=True)  # fmt: skip
    except (OSError, ValueError, UnicodeError) as e:
        advice = {"Exec format error": " A script needs a first line such as #!/bin/sh.",
                  "No such file or directory": " Does the program its first line (#!) names exist here?",
                  "Argument list too long": " Put the values into a file from a template."}  # fmt: skip
        said = e.strerror if isinstance(e, OSError) and e.strerror else str(e)
        raise RunFailed("error", f"{what} cannot be started: {said}.{advice.get(said, '')}") from None
    try:
        while not _ended(process):
            if sum(os.fstat(f.fileno()).st_size for f in printed) > limit:
                raise RunFailed("error", f"{what} must print at most {limit / 2**20:g} MiB. It printed more and was killed; "
                                         "print less, or raise `printed_mib`.")  # fmt: skip
    except BaseException:
        _end(process, str(folder))
        raise
    _kill_group(process.pid)  # what it left in the background, while its own entry still holds the group's number
    return process.wait()


def _ended(process: subprocess.Popen) -> bool:
    """Wait a moment for the end; the process is not reaped, so that its group keeps its number."""
    if not hasattr(os, "pidfd_open"):
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_LOOK)
        return process.returncode is not None
    descriptor = os.pidfd_open(process.pid)
    try:
        return bool(select.select([descriptor], [], [], _LOOK)[0])
    finally:
        os.close(descriptor)


def _end(process: subprocess.Popen, mark: str) -> None:
    """Ask, wait, kill; an interrupt that comes meanwhile kills at once."""
    try:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + _GRACE
        while time.monotonic() < deadline and not _ended(process):
            pass
    finally:
        _kill_group(process.pid)
        process.wait()
        for pid in _marked(mark):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _marked(mark: str) -> list[int]:
    """Living processes that were started by this run, also those in a session of their own; Linux alone tells."""
    wanted, found = f"{MARK}={mark}".encode(), []
    for name in filter(str.isdigit, os.listdir("/proc")) if os.path.isdir("/proc/self") else ():
        with contextlib.suppress(OSError):
            if wanted in Path("/proc", name, "environ").read_bytes().split(b"\0"):
                found.append(int(name))
    return found
