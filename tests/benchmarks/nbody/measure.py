"""Alternated measurements on one core, and their tables."""

import contextlib
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping

import pytest
import torch

REPEATS = int(os.environ.get("EMULATE_BENCHMARK_REPEATS", "7"))


def cores() -> list[int]:
    """The cores this process may use, last first; skips in words where processes cannot be bound to a core."""
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system cannot bind a process to a core")
    return sorted(os.sched_getaffinity(0), reverse=True)


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """This process and its threads on the last core, torch on one thread."""
    before, threads = os.sched_getaffinity(0), torch.get_num_threads()
    os.sched_setaffinity(0, {cores()[0]})
    torch.set_num_threads(1)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
        torch.set_num_threads(threads)


def alternate(cases: Mapping[str, Callable[[], float]], repeats: int = REPEATS) -> dict[str, float]:
    """Median of each case's seconds over rounds that measure every case once, in turn: all see the same weather."""
    rounds = [{name: case() for name, case in cases.items()} for _ in range(repeats)]
    return {name: statistics.median(r[name] for r in rounds) for name in cases}


def clock(call: Callable[[], object], times: int = 1) -> Callable[[], float]:
    """A measurement: seconds of one call, the mean of `times`; called once before."""
    call()

    def measure() -> float:
        start = time.perf_counter()
        for _ in range(times):
            call()
        return (time.perf_counter() - start) / times

    return measure


def show(title: str, head: tuple[str, ...], rows: list[tuple], note: str = "") -> None:
    cells = [head, *(tuple(x if isinstance(x, str) else _short(x) for x in row) for row in rows)]
    width = [max(len(row[i]) for row in cells) for i in range(len(head))]
    lines = [
        "  ".join(x.ljust(w) if i == 0 else x.rjust(w) for i, (x, w) in enumerate(zip(row, width))) for row in cells
    ]
    print(f"\n{title}", *lines, *([note] if note else []), sep="\n")


def _short(x: float) -> str:
    return f"{x:.0f}" if abs(x) >= 100 else f"{x:.3g}"
