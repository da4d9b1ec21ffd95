"""How benchmarks measure: jobs in turn, so that all meet the same load, or the least CPU time of a few runs."""

import statistics
import time
from collections.abc import Callable

Job = Callable[[], object]


def in_turn(*jobs: Job, repeats: int) -> list[float]:
    """The median time of each, in wall seconds, after one run that does not count."""
    taken = [[] for _ in jobs]
    for job in jobs:
        job()
    for _ in range(repeats):
        for job, times in zip(jobs, taken, strict=True):
            began = time.perf_counter()
            job()
            times.append(time.perf_counter() - began)
    return [statistics.median(times) for times in taken]


def least(job: Job, times: int = 3) -> float:
    """CPU seconds of the best of some runs."""
    found = []
    for _ in range(times):
        start = time.process_time()
        job()
        found.append(time.process_time() - start)
    return min(found)
