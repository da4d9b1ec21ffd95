"""An N-body code in a process of its own: `python peer.py CODE CORE`, one JSON request a line in, one JSON reply out.

CODE is `jaxpm` or `pmwd`, run by the python of the peers' environment, or `emulate`, run by this project's. Nothing
but `peer_emulate.py` imports this project. CORE is the one processor core of the process; -1 leaves it free.

The first line out says what the code is: versions, settings it knows, peak memory after its imports. Requests:

{"task": "forward" or "gradient", "particles": 64, "steps": 10, ...}: one evaluation of the loss, the sum of ln P(k), at
    THETA, with its gradient with respect to the four parameters if asked. A new request is built and run once before.
    Reply: seconds, first (seconds to build, compile and run once), loss, gradient, peak_mb (of the process so far).
    With "once": true a new request stops after its first run: first and peak_mb.
{"task": "positions", ...}: what the code's `positions` says.
"""

import importlib
import json
import os
import pathlib
import resource
import sys
import time
import traceback
import warnings

THETA = (0.3, 0.8, 0.96, 0.68)  # omega_m, sigma_8, n_s, h
OMEGA_B = 0.049
BOX = 256.0  # Mpc/h


def peak_mb() -> float:
    """The most that this program held; where the system tells, without what its parent held before it."""
    status = pathlib.Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) / 1e3
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def timed(call):
    start = time.perf_counter()
    value = call()
    return value, time.perf_counter() - start


def evaluate(code, task: str, settings: dict, ready: dict) -> dict:
    once = settings.pop("once", False)
    kind = (task, *sorted(settings.items()))
    if kind not in ready:

        def first():
            run = code.build(task, theta=THETA, omega_b=OMEGA_B, box=BOX, **settings)
            run()
            return run

        ready[kind] = timed(first)
        if once:
            return {"first": ready[kind][1], "peak_mb": peak_mb()}
    run, first_seconds = ready[kind]
    (loss, gradient), seconds = timed(run)
    return {"seconds": seconds, "first": first_seconds, "loss": loss, "gradient": gradient, "peak_mb": peak_mb()}


def main(name: str, core: int) -> None:
    if core >= 0:
        os.sched_setaffinity(0, {core})
    warnings.filterwarnings("ignore")
    replies, sys.stdout = sys.stdout, sys.stderr  # a code that prints must not break the protocol
    code = importlib.import_module(f"peer_{name}")
    print(json.dumps({**code.about(), "peak_mb": peak_mb()}), file=replies, flush=True)
    ready: dict = {}
    for line in sys.stdin:
        request = json.loads(line)
        task = request.pop("task")
        try:
            reply = code.positions(**request) if task == "positions" else evaluate(code, task, request, ready)
        except Exception:
            reply = {"error": traceback.format_exc()}
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
