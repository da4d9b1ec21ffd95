"""What the user sees while a study runs, and what a script reads: lines, tables, findings, and one JSON object."""

import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from pipelines.progress import Bar, Lines, duration, moves

__all__ = ["Stopwatch", "Terminal", "Tick", "count", "duration", "number"]

Tick = Callable[..., None]
_WIDE = 120  # columns of what is no terminal


class Terminal:
    """Writes to standard output; `quiet` leaves only findings and errors, `verbose` adds detail on standard error.

    With `json` all goes to standard error, and what is given to `give` is printed as one object at the end of the command.
    """

    def __init__(self, *, quiet: bool = False, verbose: bool = False, json: bool = False):
        self.console = _console(stderr=json)
        self.errors = Console(stderr=True, highlight=False, soft_wrap=True)
        self.quiet, self.verbose, self.json = quiet, verbose, json
        self.result: dict[str, Any] = {}
        self.warnings: list[str] = []
        self._bars: list[Bar | Lines] = []  # the outermost first

    def give(self, **parts: Any) -> None:
        """Parts of the JSON object: plain data; a number that is not finite becomes null."""
        if self.json:
            from pipelines.files import plain_json

            self.result |= {k: plain_json(v) for k, v in parts.items()}

    def add(self, part: str, item: Any) -> None:
        """One more item of a list of the JSON object."""
        self.give(**{part: [*self.result.get(part, ()), item]})

    def say(self, text: str) -> None:
        if not self.quiet:
            self.console.print(escape(text), soft_wrap=True)

    def detail(self, text: str) -> None:
        """What only -v prints."""
        if self.verbose:
            self._aside(f"[dim]{escape(text)}[/]")

    def headline(self, text: str) -> None:
        """What is printed before the findings, and with them where little is."""
        self.console.print(f"[bold]{escape(text)}[/]", soft_wrap=True)

    def warn(self, text: str) -> None:
        self.warnings.append(text)
        self._aside(f"[yellow]Warning:[/] {escape(text)}")

    def fail(self, text: str) -> None:
        self._aside(f"[red]Error:[/] {escape(text)}")

    def stop(self, text: str, kind: str, code: int) -> int:
        """The error that ends the command, and its exit code."""
        self.fail(text)
        self.give(error={"kind": kind, "message": text})
        return code

    def trace(self, error: BaseException, *, always: bool = False) -> None:
        """Where an error came from: with -v, and `always` where it is a bug."""
        if always or self.verbose:
            self._aside(Text("".join(traceback.format_exception(error)).rstrip()))

    @contextmanager
    def bar(self, what: str, total: int | None = None, *, left: bool = True) -> Iterator[Tick]:
        """How far it is; the tick takes (done, total=None, note=""). Without a total only the time is told.

        `left` shows rate and time left, as the bar guesses them; notes may know better.
        """
        if self.quiet:
            yield lambda done, total=None, note="": None
            return
        with self._beside(), (Bar if moves(self.console) else Lines)(self.console, what, total, left=left) as shown:
            self._bars.append(shown)
            try:
                yield shown.tick
            finally:
                self._bars.pop()

    @contextmanager
    def _beside(self) -> Iterator[None]:
        """While another bar, or a line on standard error, has the terminal."""
        outer = self._bars[-1] if self._bars else None
        if outer:
            outer.pause()
        try:
            yield
        finally:
            if outer:
                outer.resume()

    def _aside(self, text: str | Text) -> None:
        """To standard error, which a bar on standard output knows nothing of."""
        with self._beside():
            self.errors.print(text)

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
        self.verdict({title: findings})

    def verdict(self, groups: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        """One table of the findings, by title; then the sentences of those that failed and block."""
        rows: list[Sequence[str | Text]] = []
        for title, findings in groups.items():
            rows += [(Text(title, style="bold"), "", "", "", "")] if len(groups) > 1 else []
            for f in findings:
                word, colour = (
                    ("passed", "green") if f["passed"] else ("FAILED", "red") if f["blocking"] else ("failed", "yellow")
                )
                advice = "" if f["blocking"] else "advice"
                rows.append((f["name"], number(f["value"]), _bound(f), Text(word, style=colour), advice))
        title = next(iter(groups)) if len(groups) == 1 else ""
        self.table(title, ("finding", "value", "bound", "verdict", ""), rows)
        for f in (f for findings in groups.values() for f in findings):
            if not f["passed"] and f["blocking"]:
                self.console.print(f"[red]{escape(f['name'])}[/]: {escape(f['sentence'])}")


class _Told(Console):
    def on_broken_pipe(self) -> None:
        """A reader who went away ends the command; rich would end it with 1, which says that a check failed."""
        raise BrokenPipeError


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    return _Told(stderr=stderr, highlight=False, **({} if stream.isatty() else {"width": _WIDE}))


def number(value: float | None) -> str:
    return "not a number" if value is None or value != value else f"{value:.4g}"


def count(n: int, noun: str) -> str:
    """`1 event`, `2 events`."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


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
