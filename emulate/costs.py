"""What a fit costs, said before it: time on one core, and memory."""

import os
from dataclasses import dataclass
from pathlib import Path

from emulate.errors import InputError

GIB = 2**30
_CORE = 1e10  # products a second in the factors of large matrices
_PAIR = 1e-8  # seconds for one parameter of a pair of runs, each time their kernel is made


@dataclass(frozen=True)
class Cost:
    """The time of a fit in seconds on one core, right within a factor of about three, and the most bytes it holds.

    >>> print(Cost(90.0, 3 * GIB, "use svgp"))
    about 1.5 min and 3 GiB
    """

    seconds: float
    bytes: float
    instead: str  # what costs less, in words that may end a sentence

    def __str__(self) -> str:
        s = self.seconds
        time = f"{s:.2g} s" if s < 60 else f"{s / 60:.2g} min" if s < 3600 else f"{s / 3600:.3g} h"
        return f"about {time} and {self.bytes / GIB:.2g} GiB"


def steps(n: float, d: int) -> float:
    """Seconds of one step of a search for the lengths of a process of n numbers: its likelihood and its slope.

    >>> round(steps(600, 6), 3)
    0.054
    """
    return 1.5 * n**3 / _CORE + _PAIR * n**2 * d


def products(count: float) -> float:
    """Seconds of so many multiplications and additions of large matrices."""
    return 2 * count / _CORE


def memory() -> float:
    """Bytes of this machine, or of the control group it is a part of where that is less."""
    have = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    limit = Path("/sys/fs/cgroup/memory.max")
    said = limit.read_text().strip() if limit.is_file() else ""
    return min(have, float(said)) if said.isdecimal() else have


def affordable(who: str, cost: Cost | None, what: str) -> None:
    """Complain of a fit that this machine cannot hold; `what` is of which runs."""
    if cost is not None and cost.bytes > (have := memory()):
        raise InputError(f"{who}: a fit must be held in memory, of which there are {have / GIB:.3g} GiB. {what} take about "
                         f"{cost.bytes / GIB:.3g} GiB; {cost.instead}.")  # fmt: skip
