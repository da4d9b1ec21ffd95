"""Small matrices want one thread: more of them wait for each other longer than they work."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch

SMALL = 500  # runs up to which thousands of small products are faster on one thread, 3 to 10 times on a busy host


@contextmanager
def calm(n: int) -> Iterator[None]:
    """One thread for scipy's linear algebra, which is all small, and for torch's while there are few runs."""
    before = torch.get_num_threads()
    try:
        with _libraries().limit(limits=1, user_api="blas"):
            torch.set_num_threads(1 if n <= SMALL else before)
            yield
    finally:
        torch.set_num_threads(before)


@cache
def _libraries() -> Any:
    """Those that have threads; finding them takes milliseconds."""
    import scipy.linalg  # noqa: F401  (a library that is loaded later escapes the limit)
    from threadpoolctl import ThreadpoolController  # both here, because loading an emulator does not need them

    return ThreadpoolController()
