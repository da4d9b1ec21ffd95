"""Inside a runner's process: a guard that leaves no orphan, and the loop that runs the simulator.

The first process is the guard. It imports nothing heavy, forks the process that builds and runs the simulator, and
kills every descendant, also one in a session of its own, when that process ends or when the parent is gone: the parent
holds the other end of a pipe (the lifeline), which closes with it, however it dies.

Requests and answers are lines of JSON on pipes of their own, so a simulator that prints cannot break them.
"""

import base64
import ctypes
import faulthandler
import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from typing import Any, BinaryIO

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_LINES = 30  # of a traceback, kept in the log of a failed run


def main(requests: int, answers: int, lifeline: int) -> None:
    """Guard and loop over the three descriptors; never returns."""
    for descriptor in (requests, answers, lifeline):
        os.set_inheritable(descriptor, False)  # what the simulator starts must not hold them open
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    guard = os.getpid()
    child = os.fork()
    if child == 0:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        os.close(lifeline)
        if os.getppid() != guard:
            os._exit(1)
        serve(os.fdopen(requests, "rb"), os.fdopen(answers, "wb"))
        os._exit(0)
    os.close(requests)
    os.close(answers)
    _leave(_wait(child, lifeline))


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Build the simulator of the first line, then answer one run per line until the end of the file."""

    def answer(**values: Any) -> None:
        sys.stdout.flush()
        ctypes.CDLL(None).fflush(None)  # what C code printed
        answers.write(json.dumps(values).encode() + b"\n")
        answers.flush()

    faulthandler.enable()  # a segmentation fault leaves its traceback in the log
    try:
        _deterministic()
        simulator = build(json.loads(requests.readline()))
        from emulate.keys import identity

        answer(identity=identity(simulator))
    except BaseException as e:
        from emulate.errors import EmulateError

        answer(broken=str(e) or type(e).__name__, user=isinstance(e, EmulateError), log=_tail(e))
        return
    for line in requests:
        answer(**_attempt(simulator, json.loads(line)))


def build(spec: dict[str, Any]) -> Any:
    """The simulator of plain data: `use`, settings, and `space` as `Space.to_dict()` gives it."""
    from emulate import registry
    from emulate.space import Space

    given = {"space": Space.from_dict(spec["space"])} if spec.get("space") else {}
    return registry.build("simulators", {k: v for k, v in spec.items() if k != "space"}, **given)


def _deterministic() -> None:
    import torch

    torch.set_num_threads(1)
    torch.set_deterministic_debug_mode("error")  # use_deterministic_algorithms imports the compiler, for seconds


def _attempt(simulator: Any, question: dict[str, Any]) -> dict[str, Any]:
    """One run: its arrays, or the kind, reason and log of its failure. The one place with a broad `except`."""
    from emulate.errors import RunFailed

    start = time.perf_counter()
    try:
        found = {"arrays": {name: _encode(a) for name, a in _run(simulator, question).items()}}
    except RunFailed as e:
        found = {"kind": e.kind, "reason": e.reason, "log": e.log}
    except BaseException as e:  # a simulator may raise anything, SystemExit included
        memory = isinstance(e, MemoryError) or "can't allocate memory" in str(e)
        found = {"kind": "oom" if memory else "error", "reason": _said(e), "log": _tail(e)}
    return {**found, "seconds": time.perf_counter() - start, "memory_mib": _peak()}


def _run(simulator: Any, question: dict[str, Any]) -> dict[str, Any]:
    import torch

    theta, seed = torch.tensor(question["theta"], dtype=torch.float64), question["seed"]
    m, d = simulator.outputs.size, simulator.space.d
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
    return f"{type(e).__name__}: {e}" if str(e) else type(e).__name__


def _tail(e: BaseException) -> str:
    return "\n".join("".join(traceback.format_exception(e)).splitlines()[-_LINES:])


def _peak() -> float:
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(used / (2**20 if sys.platform == "darwin" else 2**10), 1)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _wait(child: int, lifeline: int) -> int:
    """The status of the child when it has ended, which the end of the parent brings about."""
    ended = [os.pidfd_open(child)] if hasattr(os, "pidfd_open") else []
    while True:
        gone = lifeline in select.select([lifeline, *ended], [], [], None if ended else 0.1)[0]
        if gone:
            os.kill(child, signal.SIGKILL)
        done, status = os.waitpid(child, 0 if gone else os.WNOHANG)
        if done:
            return status


def _leave(status: int) -> None:
    """Kill every descendant, then end as the child ended."""
    deadline = time.monotonic() + 10.0
    while time.monotonic() < deadline:
        for pid in _children():
            os.kill(pid, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)  # grandchildren become children of the guard as their parents end
        except ChildProcessError:
            break
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        _without_core()
        os.kill(os.getpid(), number)
    os._exit(os.WEXITSTATUS(status))


def _without_core() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _children() -> Iterator[int]:
    """The guard's living children, from /proc."""
    me = os.getpid()
    for name in os.listdir("/proc") if os.path.isdir("/proc/self") else ():
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as f:
                    state, parent = f.read().rpartition(b")")[2].split()[:2]
            except OSError:  # it ended meanwhile
                continue
            if int(parent) == me and state != b"Z":
                yield int(name)
