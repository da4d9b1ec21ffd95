"""What the user sees while a study runs: bars with the remaining time on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

Tick = Callable[..., None]


class Terminal:
    """Writes to standard output; `quiet` leaves only findings and errors."""

    def __init__(self, *, quiet: bool = False):
        self.console = Console(highlight=False, **({} if sys.stdout.isatty() else {"width": 120}))
        self.errors = Console(stderr=True, highlight=False, soft_wrap=True)
        self.quiet = quiet

    def say(self, text: str) -> None:
        if not self.quiet:
            self.console.print(escape(text), soft_wrap=True)

    def headline(self, text: str) -> None:
        """What is printed before the findings, and with them where little is."""
        self.console.print(f"[bold]{escape(text)}[/]", soft_wrap=True)

    def warn(self, text: str) -> None:
        self.errors.print(f"[yellow]Warning:[/] {escape(text)}")

    def fail(self, text: str) -> None:
        self.errors.print(f"[red]Error:[/] {escape(text)}")

    @contextmanager
    def bar(self, what: str, total: int | None = None, *, left: bool = True) -> Iterator[Tick]:
        """A progress bar; the tick takes (done, total=None, note=""). Without a total it turns until the end.

        `left` shows the time that is left, as the bar guesses it; notes may know better.
        """
        if self.quiet or not self.console.is_terminal:
            yield lambda done, total=None, note="": None
            return
        tail = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        tail += (TextColumn("left"), TimeRemainingColumn()) if left else ()
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            *(tail if total else (TimeElapsedColumn(),)),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=self.console, transient=True) as progress:
            task = progress.add_task(what, total=total, note="")

            def tick(done: int, total: int | None = None, note: str = "") -> None:
                more = {} if total is None else {"total": total}
                progress.update(task, completed=done, note=note, **more)

            yield tick

    def table(self, title: str, header: Sequence[str], rows: Sequence[Sequence[str | Text]]) -> None:
        """Text is printed as it is: `pk[k=0.1]` is a label and no markup."""
        named = {"title": Text(title), "title_justify": "left"} if title else {}
        table = Table(**named, header_style="bold", show_edge=False, pad_edge=False)
        for i, name in enumerate(header):
            table.add_column(Text(name), overflow="fold", no_wrap=i == 0)
        for row in rows:
            table.add_row(*(x if isinstance(x, Text) else Text(str(x)) for x in row))
        self.console.print(table)

    def findings(self, title: str, findings: Sequence[Mapping[str, Any]]) -> None:
        """Name, value, bound and verdict of each, then the sentence of every one that failed."""
        rows = []
        for f in findings:
            word, colour = (
                ("passed", "green") if f["passed"] else ("FAILED", "red") if f["blocking"] else ("failed", "yellow")
            )
            advice = "" if f["blocking"] else "advice"
            rows.append((f["name"], number(f["value"]), _bound(f), Text(word, style=colour), advice))
        self.table(title, ("finding", "value", "bound", "verdict", ""), rows)
        for f in findings:
            if not f["passed"] and f["blocking"]:
                self.console.print(f"[red]{escape(f['name'])}[/]: {escape(f['sentence'])}")


def number(value: float | None) -> str:
    return "not a number" if value is None or value != value else f"{value:.4g}"


def count(n: int, noun: str) -> str:
    """`1 event`, `2 events`."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def duration(seconds: float) -> str:
    """`8 s`, `3 min 05 s`, `2 h 10 min`."""
    s = round(seconds)
    if s < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{s} s"
    return f"{s // 60} min {s % 60:02d} s" if s < 3600 else f"{s // 3600} h {s % 3600 // 60:02d} min"


class Stopwatch:
    def __init__(self):
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start


def _bound(f: Mapping[str, Any]) -> str:
    low, high = f["low"], f["high"]
    if low is not None and high is not None:
        return f"{low:g} to {high:g}"
    return f"at most {high:g}" if high is not None else f"at least {low:g}" if low is not None else "none"
