"""Freed memory stays with the process: large arrays that come and go every step are then found in place."""

import ctypes
import functools
import sys

__all__ = ["keep_freed_memory"]

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of mallopt(3)


@functools.cache
def keep_freed_memory() -> None:
    """Ask the C library, once, to reuse what arrays freed instead of returning it to the system.

    By default glibc unmaps an array of some megabytes as it is freed, and the next one is mapped and zeroed page by
    page: up to half the time of a step. The process then holds the most it ever used; nothing happens on a C library
    without `mallopt`.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_MMAP_MAX, 0)
