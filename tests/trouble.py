"""A simulator that misbehaves as its first parameter says; each call is noted in the file that TROUBLE_LOG names."""

import ctypes
import os
import signal
import subprocess
import sys
import time

import numpy as np

(FINE, RAISE, NAN, SHAPE, HANG, EXIT, SEGFAULT, MEMORY, PRINT, LEAVE, GRANDCHILD, KILL, WORKER, BURST, CROWD, FLOOD, HOG,
 FAMILY, ORPHAN, GIL, HUGE, CLOSED, SCRIBBLE, TERM, GROUP, STOP, GARBAGE, MUTE, FORKS, GUARD) = range(30)  # fmt: skip

time.sleep(float(os.environ.get("TROUBLE_START", "0")))


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
    if kind in MORE:
        return MORE[kind](x)
    return np.array([x + noise(seed), 2 * x])


def burst(x):
    """50 children, then a hang."""
    crowd(x)
    time.sleep(1000)


def crowd(x):
    """50 children, left behind by a run that ends well."""
    for _ in range(50):
        subprocess.Popen(["sleep", "1000"])
    return [x, 2 * x]


def flood(x):
    """A log without an end."""
    while True:
        os.write(1, b"a flood of words\n" * 4096)


def hog(x):
    """Memory to 6 GB, by 50 MB."""
    held = []
    for _ in range(120):
        held.append(np.ones(6_250_000))
        time.sleep(0.005)
    time.sleep(1000)


def family(x):
    """Memory to 6 GB, in processes of their own."""
    code = "import time; held = bytearray(b'x' * 1_500_000_000); time.sleep(1000)"
    for _ in range(4):
        subprocess.Popen([sys.executable, "-c", code])
    time.sleep(1000)


def orphan(x):
    """A process in a session of its own whose parent is gone, left behind by a run that ends well."""
    code = "import subprocess; subprocess.Popen(['sleep', '1000'], start_new_session=True)"
    subprocess.run([sys.executable, "-c", code], check=True)
    return [x, 2 * x]


def gil(x):
    """C code that keeps the interpreter's lock."""
    ctypes.PyDLL(None).sleep(1000)


def huge(x):
    """Ten million numbers where two are declared."""
    return np.zeros(10_000_000)


def closed(x):
    """As a program that becomes a daemon: every descriptor is closed."""
    os.closerange(3, 4096)
    time.sleep(1000)


def scribble(x):
    """Words into whatever can be written to."""
    for descriptor in range(3, 64):
        try:
            os.write(descriptor, b"me too\n")
        except OSError:
            continue
    return [x, 2 * x]


def group(x):
    """The script's `kill 0`."""
    os.killpg(0, signal.SIGTERM)
    time.sleep(1000)


def garbage(x):
    """Bytes that are no text, terminal commands, and a message that no file can hold."""
    os.write(1, bytes(range(256)) + "\x1b[2J\u202e\U0001f4a5".encode())
    raise ValueError("half a pair \ud83d, and a zero \0")


def mute(x):
    """Standard output and error closed, then an answer that is right."""
    sys.stdout.close()
    os.close(1)
    os.close(2)
    return [x, 2 * x]


def forks(x):
    """Processes that start the next one and end, faster than anybody can look."""
    code = "import os, time\nfor _ in range(30000):\n    if os.fork(): os._exit(0)\n    time.sleep(0.002)\n"
    subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    time.sleep(1000)


def term(x):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(1000)


def stop(x):
    os.kill(os.getpid(), signal.SIGSTOP)


def guard(x):
    """The end of the process that guards this one."""
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(1000)


MORE = {BURST: burst, CROWD: crowd, FLOOD: flood, HOG: hog, FAMILY: family, ORPHAN: orphan, GIL: gil, HUGE: huge,
        CLOSED: closed, SCRIBBLE: scribble, TERM: term, GROUP: group, STOP: stop, GARBAGE: garbage, MUTE: mute,
        FORKS: forks, GUARD: guard}  # fmt: skip


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


def by_chance(theta, seed=0):
    """Of runs with x uniform in (0, 1), 2 % end by a segmentation fault, 1 % hang, 1 % give NaN, 1 % a wrong shape."""
    x, z = map(float, theta)
    kind = next((k for below, k in ((0.02, SEGFAULT), (0.03, HANG), (0.04, NAN), (0.05, SHAPE)) if x < below), FINE)
    return run([kind, x + z], seed)
