"""Inside a runner's process: the loop that builds a simulator and makes its runs, under a guard (`pipelines/guard.py`).

The guard imports what every simulator needs, and forks; the simulator itself is imported and built in each life anew.

Requests and answers are lines of JSON on pipes of their own, so a simulator that prints cannot break them. Before every
run what the last one may have changed is put back: the working directory, standard output and error.
"""

import base64
import contextlib
import ctypes
import faulthandler
import fcntl
import functools
import gc
import importlib
import json
import os
import resource
import signal
import socket
import sys
import time
import traceback
from typing import Any

from pipelines import guard
from pipelines.limits import Limits, in_words

_LINES = 30  # of a traceback, kept in the log of a failed run
_REASON = 2000  # characters of a reason
_LIMITS = sorted(getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_"))
_HIGH = 200  # descriptors from here on are out of the way of what a simulator closes


def main(door: int, memory: int, most: int) -> None:
    """The guard behind a socket; `memory` and `most` in bytes, of a run and of its answer. Never returns."""
    line, broken = socket.socket(fileno=door), None
    line.set_inheritable(False)
    faulthandler.enable()  # a segmentation fault leaves its traceback in the log
    guard.adopt()
    if sys.platform == "linux":  # elsewhere the system's own libraries do not survive a fork
        with guard.ending_with(line):
            broken = _load()
    guard.keep(line, memory, functools.partial(serve, os.getcwd(), most, broken))


def _load() -> BaseException | None:
    """Import what every simulator needs, and nothing that begins a thread; what was raised is each life's to tell."""
    try:
        import emulate.contracts
        import emulate.keys
        import emulate.simulators._callables
        import emulate.simulators._fields
        import emulate.space  # noqa: F401
        from emulate import registry

        registry.validate(Limits, {}, path="")  # pydantic loads the most of itself when it is first asked
    except BaseException as e:
        return e
    finally:
        _flush()
        gc.freeze()  # or a collection in a life would copy every page of these
    return None


def serve(folder: str, most: int, broken: BaseException | None, requests: int, answers: int) -> None:
    """One life: build the simulator of the first line, then answer one run per line until the end of the file."""
    lines, out = os.fdopen(requests, "rb"), os.fdopen(answers, "wb")

    def answer(**values: Any) -> None:
        _flush()
        out.write(json.dumps(values).encode() + b"\n")
        out.flush()

    try:
        os.chdir(folder)
        if broken:
            raise broken
        _as_new()
        simulator = build(json.loads(lines.readline()))
        from emulate.keys import identity

        answer(identity=identity(simulator), pid=os.getpid())
    except BaseException as e:
        from emulate.errors import EmulateError

        answer(broken=str(e) or type(e).__name__, user=isinstance(e, EmulateError), log=_tail(e))
        return
    home, printed = os.open(".", os.O_RDONLY), fcntl.fcntl(1, fcntl.F_DUPFD_CLOEXEC, _HIGH)
    adopted = _list_of_children(os.getppid())
    own, before, mask = _started(adopted), _limits(), os.umask(0o022)
    os.umask(mask)
    for line in lines:
        _restore(home, printed)
        question = json.loads(line)
        found = _attempt(simulator, question, most)
        held = guard.resident(os.getpid()) if question["weigh"] else 0
        os.umask(mask)
        bound = _put_back(before)
        answer(**found, number=question["number"], left=_left(own, adopted), bound=bound, resident=held)


def build(spec: dict[str, Any]) -> Any:
    """The simulator of plain data: `use`, settings, and `space` as `Space.to_dict()` gives it."""
    from emulate import registry
    from emulate.space import Space

    given = {"space": Space.from_dict(spec["space"])} if spec.get("space") else {}
    return registry.build("simulators", {k: v for k, v in spec.items() if k != "space"}, **given)


def _as_new() -> None:
    """What a life must not share with the one before it, and what torch is told before a simulator is built."""
    import torch

    importlib.invalidate_caches()  # of folders, as they were
    if random := sys.modules.get("numpy.random"):
        random.set_bit_generator(random.MT19937())  # its global one has a seed of chance from its import on
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))  # the cores that a run owns
    torch.set_deterministic_debug_mode("error")  # use_deterministic_algorithms imports the compiler, for seconds


def _flush() -> None:
    with contextlib.suppress(OSError, ValueError):  # closed by the simulator
        sys.stdout.flush()
    ctypes.CDLL(None).fflush(None)  # what C code printed


def _restore(home: int, printed: int) -> None:
    """What a run must find as the first one found it, or an answer would depend on the runs before."""
    os.fchdir(home)
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(printed, descriptor)
        if getattr(sys, name) is None or getattr(sys, name).closed:
            setattr(sys, name, open(descriptor, "w", buffering=1, errors="replace", closefd=False))  # noqa: SIM115


def _limits() -> dict[int, tuple[int, int]]:
    """The limits that the system holds this process to, by their numbers."""
    return {n: resource.getrlimit(n) for n in _LIMITS}


def _put_back(before: dict[int, tuple[int, int]]) -> bool:
    """Undo what a run did to the limits of its process, and its alarm; True where the system does not let it."""
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number, limit in _limits().items():
        if limit != before[number]:
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(number, before[number])
    return _limits() != before


def _left(own: frozenset[int], adopted: int | None) -> list[str]:
    """The names of processes that the run left behind, after a moment in which they may end by themselves."""
    left: list[int] = []
    for wait in (0.0, 0.02, 0.1):
        if not (left := [p for p in _started(adopted) - own if guard.living(p) and not _tracks(p)]):
            return []
        time.sleep(wait)
    return [guard.name(p) for p in left]


def _list_of_children(pid: int) -> int | None:
    """A descriptor of the kernel's list of a process's children, None on a system without one."""
    try:
        opened = os.open(f"/proc/{pid}/task/{pid}/children", os.O_RDONLY)
    except OSError:
        return None
    descriptor = fcntl.fcntl(opened, fcntl.F_DUPFD_CLOEXEC, _HIGH)
    os.close(opened)
    return descriptor


def _started(adopted: int | None) -> frozenset[int]:
    """The processes below this one, and those that the guard adopted since their parents ended."""
    try:
        if hasattr(os, "waitid"):  # macOS has it from Python 3.13 on
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        mine = guard.descendants(os.getpid())
    except ChildProcessError:  # there is none, the case that must be quick
        mine = []
    listed = b"" if adopted is None else os.pread(adopted, 2**16, 0)
    orphans = [p for p in map(int, listed.split()) if p != os.getpid()]
    return frozenset([*mine, *orphans, *(x for p in orphans for x in guard.descendants(p))])


def _tracks(pid: int) -> bool:
    """Whether the process is Python's own that frees shared memory: it lives as long as this one and does no work."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as f:
            return b"resource_tracker" in f.read()
    except OSError:
        return False


def _attempt(simulator: Any, question: dict[str, Any], most: int) -> dict[str, Any]:
    """One run: its arrays, or the kind, reason and log of its failure. The one place with a broad `except`."""
    from emulate.errors import RunFailed

    start = time.perf_counter()
    try:
        found = {"arrays": {name: _encode(a) for name, a in _run(simulator, question, most).items()}}
    except RunFailed as e:
        found = {"kind": e.kind, "reason": _clean(e.reason)[:_REASON], "log": _clean(e.log)}
    except BaseException as e:  # a simulator may raise anything, SystemExit included
        reason = _said(e)
        memory = isinstance(e, MemoryError) or "can't allocate memory" in reason
        found = {"kind": "oom" if memory else "error", "reason": reason, "log": _tail(e)}
    return {**found, "seconds": time.perf_counter() - start, "memory_mib": _peak()}


def _run(simulator: Any, question: dict[str, Any], most: int) -> dict[str, Any]:
    import torch

    from emulate.errors import RunFailed

    theta, seed = torch.tensor(question["theta"], dtype=torch.float64), question["seed"]
    m, d = simulator.outputs.size, simulator.space.d
    size = 8 * m * (1 if question["product"] == "y" else 1 + 2 * d)
    if size > most:
        raise RunFailed("badshape", f"the answer of one run must hold at most {in_words(most)} (simulate.answer). The "
                                    f"declared outputs hold {in_words(size)}; declare fewer, or raise the limit.")  # fmt: skip
    if question["product"] == "y":
        return {"y": _checked(simulator.run(theta, seed=seed), (m,), "y", simulator.outputs.labels)}
    from emulate.keys import REPLICATES
    from pipelines.derivatives import differentiate

    n = REPLICATES if simulator.stochastic and question["product"] == "jacobian" else 1
    e = differentiate(simulator, question["gradient"], theta, seed=seed, n=n)
    return {"y": _checked(e.value, (m,), "y", simulator.outputs.labels),
            "jacobian": _checked(e.gradient, (m, d), "the jacobian"),
            "standard_error": _checked(e.standard_error, (m, d), "the standard error")}  # fmt: skip


def _checked(value: Any, shape: tuple[int, ...], what: str, labels: tuple[str, ...] = ()) -> Any:
    import numpy as np
    import torch

    from emulate.errors import RunFailed

    if not isinstance(value, torch.Tensor):
        raise RunFailed("badshape", f"{what} must be a tensor of shape {shape}. Got {type(value).__name__}.")
    a = value.detach().cpu().numpy().astype(np.float64)
    if a.shape != shape:
        raise RunFailed("badshape", f"{what} must have the declared shape {shape}. Got {a.shape}.")
    bad = ~np.isfinite(a)
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        name = labels[first[0]] if labels else f"{what} at {first}"
        raise RunFailed("nonfinite", f"{int(bad.sum())} of {a.size} values of {what} are not finite, "
                                     f"the first is {name} = {a[first]}.")  # fmt: skip
    return a


def _encode(a: Any) -> dict[str, Any]:
    return {"shape": list(a.shape), "float64": base64.b64encode(a.astype("<f8").tobytes()).decode()}


def _said(e: BaseException) -> str:
    """Type and message; a message that cannot be made, or is endless, is no reason to lose the run."""
    try:
        text = str(e)
    except Exception:
        text = ""
    name = type(e).__name__
    return _clean(f"{name}: {text[:_REASON]}" if text else name)


def _tail(e: BaseException) -> str:
    try:
        return _clean("\n".join("".join(traceback.format_exception(e)).splitlines()[-_LINES:]))
    except Exception:  # the message of an error is the simulator's code too
        return type(e).__name__


def _clean(text: str) -> str:
    """Text that every file and terminal takes: no half of a surrogate pair."""
    return text.encode(errors="replace").decode()


def _peak() -> float:
    """The most that this process, or one that it started and waited for, held so far."""
    return guard.mebibytes(max(resource.getrusage(who).ru_maxrss
                               for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))  # fmt: skip
