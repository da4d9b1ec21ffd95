"""A simulator that misbehaves as its first parameter says; each call is noted in the file that TROUBLE_LOG names."""

import ctypes
import os
import signal
import subprocess
import sys
import time

import numpy as np

FINE, RAISE, NAN, SHAPE, HANG, EXIT, SEGFAULT, MEMORY, PRINT, LEAVE, GRANDCHILD, KILL, WORKER = range(13)


def run(theta, seed=0):
    kind, x = int(theta[0]), float(theta[1])
    note(f"{kind} {x!r}")
    time.sleep(float(os.environ.get("TROUBLE_SECONDS", "0")))
    if kind == RAISE:
        raise ValueError("the tea is cold")
    if kind == NAN:
        return np.array([x, np.nan])
    if kind == SHAPE:
        return np.arange(3.0)
    if kind == HANG:
        time.sleep(1000)
    if kind == EXIT:
        os._exit(3)
    if kind == SEGFAULT:
        ctypes.string_at(0)
    if kind == MEMORY:
        raise MemoryError("no room")
    if kind == PRINT:
        print("a" * 100_000)
        os.write(2, b"the last words")
    if kind == LEAVE:
        sys.exit("bye")
    if kind == GRANDCHILD:
        subprocess.Popen(["sleep", "1000"], start_new_session=True)
        time.sleep(1000)
    if kind == KILL:
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == WORKER:
        os.kill(parent_of(os.getppid()), signal.SIGKILL)
        time.sleep(1000)
    return np.array([x + noise(seed), 2 * x])


def noise(seed):
    return 0.0 if seed == 0 else float(np.random.default_rng(seed).normal())


def note(text):
    if "TROUBLE_LOG" in os.environ:
        with open(os.environ["TROUBLE_LOG"], "a") as f:
            f.write(text + "\n")


def parent_of(pid):
    with open(f"/proc/{pid}/stat") as f:
        return int(f.read().rpartition(")")[2].split()[1])


def marked(mark):
    """The living processes that inherited TROUBLE_MARK=mark."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/environ", "rb") as f:
                if f"TROUBLE_MARK={mark}\0".encode() in f.read() and int(name) != os.getpid():
                    found.append(int(name))
        except OSError:
            continue
    return found
