"""Seconds and memory of a piece of work."""

import time
from pathlib import Path
from types import TracebackType
from typing import ClassVar

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Meter:
    """`seconds` of wall time, and `peak_memory` in bytes above the start, of the block it stands around.

    The peak is the kernel's high-water mark of the resident set, reset at the start: all of the process counts, other
    threads too. NaN where the system keeps none that can be reset (only Linux does). Meters may be nested.

    >>> with Meter() as meter:
    ...     _ = bytearray(10**6)
    >>> meter.seconds > 0
    True
    """

    seconds = peak_memory = float("nan")
    _open: "ClassVar[list[Meter]]" = []

    def __enter__(self) -> "Meter":
        self._resident = self._high = self._mark()
        self._open.append(self)
        self._began = time.perf_counter()
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.seconds = time.perf_counter() - self._began
        self._mark()
        self._open.remove(self)
        if self._resident is not None and self._high is not None:
            self.peak_memory = float(max(0, self._high - self._resident) * 1024)

    @classmethod
    def _mark(cls) -> int | None:
        """Hand the high-water mark to all open meters and reset it; what is resident now."""
        try:
            peak = _kilobytes("VmHWM:")
            for meter in cls._open:
                meter._high = max(meter._high or 0, peak)
            _RESET.write_text("5")
            return _kilobytes("VmRSS:")
        except (OSError, LookupError):
            return None


def _kilobytes(name: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    raise LookupError(name)
