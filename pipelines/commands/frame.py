"""What all commands share: the options, the exit codes, and the one JSON object of `--json`."""

import contextlib
import inspect
import json
import os
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from pipelines.commands import completion
from pipelines.commands.mistyped import Group

if TYPE_CHECKING:
    from pipelines.study import Study
    from pipelines.terminal import Terminal

app = typer.Typer(
    help="Differentiable stand-ins for simulators, and the proof of how far they can be trusted.",
    cls=Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


STAGES, QUESTIONS, LOOKING, SERVICES = "The study", "Questions to it", "What there is", "Around it"  # panels of --help

StudyFile = Annotated[
    Path, typer.Argument(metavar="STUDY.yaml", help="The study file.", autocompletion=completion.studies)
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the study.", autocompletion=completion.keys),
]
Force = Annotated[bool, typer.Option("--force", help="Run stages even when nothing changed.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan; run and write nothing.")]
Retry = Annotated[bool, typer.Option("--retry-failed", help="Run failed points again.")]
Emulator = Annotated[
    str,
    typer.Option(
        "--emulator", metavar="NAME", help="Empty: the one that is used.", autocompletion=completion.names_of_emulators
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print findings and errors only.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Print versions, choices, times and tracebacks too.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object; all else goes to standard error.")]
_COMMON = {"quiet": Quiet, "verbose": Verbose, "json_": Json}
BUG = 70  # EX_SOFTWARE of sysexits.h: 1 says that a check failed


def _version(asked: bool) -> None:
    if asked:
        print(f"emulate {version('emulate')}")
        raise typer.Exit


@app.callback()
def emulate(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Print the version.")
    ] = False,
) -> None:
    """What stands before a command."""


def command(name: str, *, panel: str | None = None, to: typer.Typer = app, json_: bool = True,
            **how: Any) -> Callable[[Callable[..., int | None]], Callable[..., int | None]]:  # fmt: skip
    """Register `body(terminal, ...)` as a command with -q, -v and, where a script wants its result, --json."""

    def register(body: Callable[..., int | None]) -> Callable[..., int | None]:
        def wrapper(**given: Any) -> None:
            common = {k: bool(given.pop(k, False)) for k in _COMMON}
            raise typer.Exit(_run(name, body, given, **common))

        kept = list(inspect.signature(body).parameters.values())[1:]
        extra = [inspect.Parameter(k, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=kind)
                 for k, kind in _COMMON.items() if json_ or k != "json_"]  # fmt: skip
        wrapper.__signature__ = inspect.Signature([p.replace(kind=p.KEYWORD_ONLY) for p in kept] + extra)
        wrapper.__doc__ = body.__doc__
        to.command(name, rich_help_panel=panel, **how)(wrapper)
        return body

    return register


def read_study(terminal: "Terminal", path: Path, changes: list[str] | None) -> "Study":
    """The study, with `--set` values laid over it; the imports that it needs take seconds, so a bar turns meanwhile."""
    with terminal.bar("reading the study"):
        from pipelines.config import load_study

        return load_study(path, changes or [])


def _run(name: str, body: Callable[..., int | None], given: dict[str, Any], *, quiet: bool, verbose: bool,
         json_: bool) -> int:  # fmt: skip
    from pipelines.terminal import Terminal

    with _reserved() if json_ else contextlib.nullcontext() as out:
        terminal = Terminal(quiet=quiet, verbose=verbose, json=json_)
        _introduce(terminal, name, given)
        code = _guarded(lambda: body(terminal, **given), terminal)
        if out is not None:
            told = {
                "command": name,
                "emulate": version("emulate"),
                "exit_code": code,
                **terminal.result,
                "warnings": terminal.warnings,
            }
            with _unread(out):
                print(json.dumps(told, indent=1, ensure_ascii=False, allow_nan=False), file=out, flush=True)
    return code


def _introduce(terminal: "Terminal", name: str, given: dict[str, Any]) -> None:
    """What a report of a fault needs first, with -v: releases and what was asked."""
    if terminal.verbose:
        from pipelines.doctor.installation import versions

        terminal.detail(", ".join(f"{n} {v}" for n, v in versions().items()))
        asked = ", ".join(f"{k.rstrip('_')} {v}" for k, v in given.items() if v not in (None, False, "", [], ()))
        terminal.detail(f"{name}: {asked or 'no options'}; in {Path.cwd()}")


def _guarded(call: Callable[[], int | None], terminal: "Terminal") -> int:
    """Exit codes: 0 passed, 1 a check failed, 2 the input is wrong, 3 the campaign fell short, 70 a bug, 130 Ctrl-C."""
    from emulate.errors import EmulateError

    try:
        return call() or 0
    except EmulateError as e:
        terminal.trace(e)
        return terminal.stop(str(e), type(e).__name__, e.exit_code)
    except KeyboardInterrupt:
        return terminal.stop(
            "interrupted. Every finished run is stored; the same command goes on from there.", "Interrupted", 130
        )
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as e:
        from pipelines.files import advice

        terminal.trace(e)
        return terminal.stop(str(advice(e, e.filename or "a file")), type(e).__name__, 2)
    except Exception as e:  # the last door: Python's own exit code, 1, would say that a check failed
        terminal.trace(e, always=True)
        return terminal.stop(f"this is a fault of emulate itself, {type(e).__name__}: {e}. What was finished is stored; please "
                             "report the lines above with what `emulate doctor --json` prints.", "Bug", BUG)  # fmt: skip


@contextlib.contextmanager
def _reserved() -> Iterator[IO[str]]:
    """Standard output for the JSON object alone: whatever this process, a library or a child prints goes to standard
    error."""
    if sys.stdout is not sys.__stdout__:  # a test's, a notebook's
        out = sys.stdout
        with contextlib.redirect_stdout(sys.stderr):
            yield out
        return
    sys.stdout.flush()
    with open(os.dup(1), "w", encoding="utf-8") as out:
        os.dup2(2, 1)
        try:
            yield out
        finally:
            sys.stdout.flush()
            os.dup2(out.fileno(), 1)


@contextlib.contextmanager
def _unread(out: IO[str]) -> Iterator[None]:
    """A reader who went away is no error."""
    try:
        yield
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())
