"""The machine: cores and what a container leaves of them, threads, memory, GPU, clock, locale, open files."""

import locale
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from pipelines.doctor.notes import Note, Place, size

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_BOUND = ("OMP_PROC_BIND", "GOMP_CPU_AFFINITY", "KMP_AFFINITY", "OMP_PLACES")
_YEAR = 1767225600  # s, 2026-01-01: a clock before that was never set
_LITTLE = 2 * 2**30  # bytes of memory that torch, MLflow and two workers need


def cores(place: Place) -> Iterator[Note]:
    """Cores of the machine, those of this process, those that a container leaves; and what the study would start."""
    whole, mine, quota = os.cpu_count() or 1, usable(), quota_of(Path("/sys/fs/cgroup"))
    limit = "" if quota is None else f"; the container's limit is {quota:g}"
    told = f"{whole} cores, {mine} for this process{limit}"
    have = mine if quota is None else min(float(mine), quota)
    yield Note("cores", "fine", told)
    study = place.study
    if study is not None and study.cluster.use in ("local", "serial"):
        workers = study.cluster.workers if study.cluster.use == "local" else 1
        asked = workers * study.simulate.threads
        if asked > have:
            fit = max(1, int(have // study.simulate.threads))
            each = study.simulate.threads
            yield Note("cores", "advice", f"the study starts {workers} workers x {each} threads on {have:g} cores",
                       f"emulate run {study.file} --set cluster.workers={fit}")  # fmt: skip
        elif workers == 1 and have >= 2 * study.simulate.threads and study.cluster.use == "local":
            yield Note("cores", "advice", f"the study makes one run at a time on {have:g} cores",
                       f"emulate run {study.file} --set cluster.workers={int(have // study.simulate.threads)}")  # fmt: skip


def usable() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def quota_of(top: Path) -> float | None:
    """Cores that the control group below `top` leaves, of version 2 or 1; None for no limit."""
    try:
        quota, period = (top / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass
    try:
        quota, period = (int((top / "cpu" / f"cpu.cfs_{n}_us").read_text()) for n in ("quota", "period"))
        return quota / period if quota > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None


def threads(place: Place) -> Iterator[Note]:
    """Variables that say how many threads a library starts, and those that tie them to cores."""
    said = {n: place.environment[n] for n in _THREADS if n in place.environment}
    bad = {n: v for n, v in said.items() if not v.split(",")[0].strip().isdigit() or int(v.split(",")[0]) < 1}
    for n, v in bad.items():
        yield Note("threads", "wrong", f"{n} must be a whole number above 0. Got {v!r}", f"export {n}=1")
    for n, v in said.items():
        if n not in bad and int(v.split(",")[0]) > usable():
            yield Note(
                "threads",
                "advice",
                f"{n}={v} on {usable()} cores: threads wait for each other",
                f"export {n}={usable()}",
            )
    told = ", ".join(f"{n}={v}" for n, v in said.items()) or "no variable says how many"
    if not bad:
        import torch

        yield Note("threads", "fine", f"{told}; torch takes {torch.get_num_threads()}, emulate's stages 1, a run as many as "
                   "simulate.threads")  # fmt: skip
    tied = [n for n in _BOUND if place.environment.get(n, "").lower() not in ("", "false", "none", "disabled")]
    if tied:
        yield Note("threads", "advice", f"{', '.join(tied)} ties threads to cores, the same ones in every worker",
                   f"unset {' '.join(tied)}")  # fmt: skip


def memory(place: Place) -> Iterator[Note]:
    """Memory that is free, and what the study's runs may take of it."""
    whole, free = _memory()
    limit = _limit(Path("/sys/fs/cgroup"))
    have = min(x for x in (free, limit) if x is not None) if free or limit else None
    told = f"{size(whole)}, {size(free)} free" if whole and free else "not known"
    told += f"; the container's limit is {size(limit)}" if limit else ""
    if have is not None and have < _LITTLE:
        yield Note("memory", "advice", f"{told}: torch, MLflow and two workers need {size(_LITTLE)}",
                   "close other programs, or ask the queue or the container for more")  # fmt: skip
    else:
        yield Note("memory", "fine", told)
    study = place.study
    if study is not None and have and study.cluster.use == "local" and (each := study.simulate.limits.memory):
        asked = each * study.cluster.workers
        if asked > have:
            yield Note("memory", "advice", f"{study.cluster.workers} runs of up to {size(each)} may take {size(asked)} of "
                       f"{size(have)}", f"emulate run {study.file} --set cluster.workers={max(1, int(have // each))}")  # fmt: skip


def _memory() -> tuple[int | None, int | None]:
    """Bytes in all and free."""
    try:
        rows = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines() if ":" in line)
        return tuple(1024 * int(rows[n].split()[0]) for n in ("MemTotal", "MemAvailable"))  # type: ignore[return-value]
    except (OSError, ValueError, KeyError):
        pass
    try:
        whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None, None
    return whole, None


def _limit(top: Path) -> int | None:
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            limit = int((top / name).read_text())
        except (OSError, ValueError):
            continue
        return limit if limit < 2**60 else None
    return None


def gpu(place: Place) -> Iterator[Note]:
    """Whether there is a GPU, and whether this PyTorch can use it."""
    import torch

    there = Path("/dev/nvidia0").exists() or shutil.which("nvidia-smi") is not None
    if torch.cuda.is_available():
        names = [f"{torch.cuda.get_device_name(i)}, {size(torch.cuda.get_device_properties(i).total_memory)}"
                 for i in range(torch.cuda.device_count())]  # fmt: skip
        yield Note("gpu", "fine", f"{'; '.join(names)}; torch {torch.__version__} for CUDA {torch.version.cuda}")
    elif there and torch.version.cuda is None:
        yield Note("gpu", "advice", f"a GPU is there, and torch {torch.__version__} was built without CUDA",
                   "pip install --force-reinstall torch, from an index that has CUDA wheels")  # fmt: skip
    elif there and place.environment.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        yield Note("gpu", "advice", "a GPU is there, and CUDA_VISIBLE_DEVICES hides it", "unset CUDA_VISIBLE_DEVICES")
    elif there:
        yield Note("gpu", "advice", f"a GPU is there, and torch for CUDA {torch.version.cuda} cannot open it",
                   "nvidia-smi says the driver's CUDA; install a torch for that one")  # fmt: skip
    else:
        yield Note("gpu", "fine", "none; everything runs on the CPU")


def clock(place: Place) -> Iterator[Note]:
    """Whether the clock was set: MLflow and the journal keep times, TLS needs them right."""
    told = time.strftime("%Y-%m-%d %H:%M:%S %z")
    if time.time() < _YEAR:
        yield Note("clock", "wrong", f"{told}, before this release was made", "set the clock: timedatectl set-ntp true")
    else:
        yield Note("clock", "fine", told)


def language(place: Place) -> Iterator[Note]:
    """Whether text is UTF-8, in which all files of emulate are written."""
    used = {
        "files": locale.getpreferredencoding(False),
        "standard output": sys.__stdout__.encoding or "" if sys.__stdout__ else "",
    }
    odd = {what: name for what, name in used.items() if name and name.lower().replace("-", "") != "utf8"}
    if odd:
        yield Note(
            "locale", "wrong", ", ".join(f"{what} in {name}" for what, name in odd.items()), "export PYTHONUTF8=1"
        )
    else:
        yield Note("locale", "fine", "UTF-8")


def open_files(place: Place) -> Iterator[Note]:
    """How many files and sockets a process may hold: a Dask scheduler holds several per worker."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    workers = place.study.cluster.workers if place.study is not None else 2
    need = max(256, 64 + 20 * workers)
    if soft != resource.RLIM_INFINITY and soft < need:
        yield Note("open files", "advice", f"at most {soft} in one process; {workers} workers may need {need}",
                   f"ulimit -n {need if hard == resource.RLIM_INFINITY else min(max(need, 4096), hard)}")  # fmt: skip
    else:
        yield Note(
            "open files", "fine", f"up to {'any number' if soft == resource.RLIM_INFINITY else soft} in one process"
        )
