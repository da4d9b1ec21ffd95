"""How far something is: a bar on a terminal that can move its cursor, elsewhere a line with the time now and then."""

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text

FIRST, MOST = 10.0, 600.0  # s until the first line where there is no bar, and between two of them at most
_NARROW = 80  # columns of a terminal, below which there is no room for a bar


def moves(console: Console) -> bool:
    """Whether bars can be drawn: a terminal that is no dumb one. FORCE_COLOR makes a pipe coloured, and no terminal of it."""
    return console.file.isatty() and not console.is_dumb_terminal


class Bar:
    """A bar with rate, time so far and time left, gone at the end; used as a `with` block, moved by `tick`."""

    def __init__(self, console: Console, what: str, total: int | None, *, left: bool):
        columns = [SpinnerColumn(), TextColumn("{task.description}", markup=False)]
        columns += [_Known(bar_width=20)] * (
            console.width >= _NARROW
        )  # else numbers alone, for the note has the time left
        columns.append(_Measure(left))
        columns.append(TextColumn("{task.fields[note]}", markup=False, table_column=Column(ratio=1, no_wrap=True)))
        self._progress = Progress(*columns, console=console, transient=True, expand=True)
        self._task = self._progress.add_task(what, total=total, note="")

    def tick(self, done: int, total: int | None = None, note: str = "") -> None:
        more = {} if total is None else {"total": total}
        self._progress.update(self._task, completed=done, note=note, **more)

    def pause(self) -> None:
        """Gone until `resume`: another bar, or a line on standard error, comes first."""
        self._progress.stop()

    def resume(self) -> None:
        self._progress.start()

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._progress.stop()


class Lines:
    """The same for a file or a pipe: after 10 s, and then ever more rarely, a line says how far it is."""

    def __init__(self, console: Console, what: str, total: int | None, *, left: bool,
                 clock: Callable[[], float] = time.monotonic):  # fmt: skip
        self._console, self._what, self._left, self._clock = console, what, left, clock
        self._state: tuple[int, int | None, str] = (0, total, "")
        self._start, self._over, self._paused = clock(), threading.Event(), False
        self._thread = threading.Thread(target=self._watch, daemon=True)  # what is waited for may never tick

    def tick(self, done: int, total: int | None = None, note: str = "") -> None:
        self._state = (done, self._state[1] if total is None else total, note)

    def pause(self) -> None:
        """Silent until `resume`: what is within tells more."""
        self._paused = True

    def resume(self) -> None:
        self._paused = False

    def line(self) -> str:
        """Time, what, how many of how many, rate, time so far and left, note."""
        (done, total, note), seconds = self._state, self._clock() - self._start
        parts = [f"{done} of {total}"] if total and total > 1 else []
        if done and total and total > 1 and self._left:
            parts.append(rate(done / seconds))
        parts.append(f"{duration(seconds)} so far")
        if total and 0 < done < total and self._left:
            parts.append(f"{duration(seconds / done * (total - done))} left")
        said = ", ".join([*parts, *([note] if note else [])])
        return f"{time.strftime('%Y-%m-%d %H:%M:%S')} {self._what}: {said}"

    def _watch(self) -> None:
        wait = FIRST
        while not self._over.wait(wait):
            if not self._paused:
                self._console.print(escape(self.line()), soft_wrap=True)
            wait = min(max(FIRST, 0.5 * (self._clock() - self._start)), MOST)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()


class _Known(BarColumn):
    """A bar where the end is known."""

    def render(self, task: Task) -> Text:  # type: ignore[override]
        return super().render(task) if task.total and task.total > 1 else Text()


class _Measure(ProgressColumn):
    """`34/128 3.2/s 12 s, 29 s left`."""

    def __init__(self, left: bool):
        super().__init__(Column(no_wrap=True))
        self._left = left

    def render(self, task: Task) -> Text:
        counted = task.total is not None and task.total > 1
        parts = [f"{task.completed:.0f}/{task.total:.0f}"] if counted else []
        if counted and self._left and task.speed:
            parts.append(rate(task.speed))
        parts.append(duration(task.elapsed or 0.0))
        if self._left and task.time_remaining:
            parts[-1] += f", {duration(task.time_remaining)} left"
        return Text(" ".join(parts))


def rate(per_second: float) -> str:
    """`3.2/s`, and `12/min` below one in a second.

    >>> rate(3.21), rate(0.2)
    ('3.2/s', '12/min')
    """
    return f"{per_second:.2g}/s" if per_second >= 1 else f"{60 * per_second:.2g}/min"


def duration(seconds: float) -> str:
    """`8 s`, `3 min 05 s`, `2 h 10 min`."""
    s = round(seconds)
    if s < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{s} s"
    return f"{s // 60} min {s % 60:02d} s" if s < 3600 else f"{s // 3600} h {s % 3600 // 60:02d} min"
