"""Seconds and memory of a piece of work."""

import time
from pathlib import Path
from types import TracebackType

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Meter:
    """`seconds` of wall time, and `peak_memory` in bytes above the start, of the block it stands around.

    The peak is the kernel's high-water mark of the resident set, reset at the start: all of the process counts, other
    threads too. NaN where the system keeps none that can be reset (only Linux does).

    >>> with Meter() as meter:
    ...     _ = bytearray(10**6)
    >>> meter.seconds > 0
    True
    """

    seconds = peak_memory = float("nan")

    def __enter__(self) -> "Meter":
        self._resident = self._reset()
        self._began = time.perf_counter()
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.seconds = time.perf_counter() - self._began
        if self._resident is not None:
            self.peak_memory = float(max(0, _kilobytes("VmHWM:") - self._resident) * 1024)

    @staticmethod
    def _reset() -> int | None:
        try:
            _RESET.write_text("5")
            return _kilobytes("VmRSS:")
        except (OSError, LookupError):
            return None


def _kilobytes(name: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    raise LookupError(name)
