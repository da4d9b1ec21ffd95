"""Every command of `emulate` with its arguments and options, read from the functions that are the commands."""

import inspect
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Union, get_args, get_origin

import typer
from typer.models import ArgumentInfo, OptionInfo, ParameterInfo

from pipelines.manual import markdown

_KINDS = {int: "N", float: "X", str: "TEXT", Path: "PATH"}


@dataclass(frozen=True)
class Word:
    """An argument or option: how it is typed, whether it may be repeated, its default as text, what it is."""

    typed: str
    argument: bool
    repeated: bool
    default: str
    help: str


@dataclass(frozen=True)
class Command:
    """A command: `simulate` or `store verify`, with its words; `help` of one paragraph or several."""

    name: str
    help: str
    words: tuple[Word, ...]


def commands(app: typer.Typer | None = None, before: str = "") -> Iterator[Command]:
    """Every command, those of groups too, in the order in which they are declared."""
    if app is None:
        from pipelines.cli import app
    for c in app.registered_commands:
        if not c.hidden:
            name = c.name or c.callback.__name__.replace("_", "-")
            yield Command(f"{before}{name}", inspect.cleandoc(c.help or c.callback.__doc__ or ""), _words(c.callback))
    for group in app.registered_groups:
        yield from commands(group.typer_instance, f"{before}{group.name} ")


def alone() -> tuple[Word, ...]:
    """The options of `emulate` itself, without a command; typer adds those of completion."""
    from pipelines.cli import app

    told = app.registered_callback
    completion = (Word("--install-completion", False, False, "", "Make this shell complete studies, keys, rooms and entries."),
                  Word("--show-completion", False, False, "", "Print what that would write."))  # fmt: skip
    return (*(_words(told.callback) if told and told.callback else ()), *completion)


def _words(callback: Callable) -> tuple[Word, ...]:
    made = (_word(p) for p in inspect.signature(callback, eval_str=True).parameters.values())
    return tuple(w for w in made if w)


def _word(parameter: inspect.Parameter) -> Word | None:
    hint = parameter.annotation
    kind, *told = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    info: ParameterInfo | None = next((x for x in told if isinstance(x, ParameterInfo)), None)
    if info is None or info.hidden:
        return None
    parts = (
        [t for t in get_args(kind) if t is not type(None)] if get_origin(kind) in (Union, types.UnionType) else [kind]
    )
    repeated = get_origin(parts[0]) in (list, tuple)
    one = get_args(parts[0])[0] if repeated else parts[0]
    choices = "|".join(map(str, get_args(one))) if get_origin(one) is Literal else ""
    name = info.metavar or choices or _KINDS.get(one, "")
    default = parameter.default
    if isinstance(info, OptionInfo):
        told = [
            d for d in (info.default, *(info.param_decls or ())) if isinstance(d, str)
        ]  # the first name is `default`
        typed = ", ".join(told or [f"--{parameter.name.replace('_', '-')}"])
        typed = typed if one is bool else f"{typed} {name}"
    else:
        typed = info.metavar or parameter.name.upper()
        typed = typed if default is inspect.Parameter.empty or typed.startswith("[") else f"[{typed}]"
    shown = "" if default in (inspect.Parameter.empty, None, "", False, ()) else str(default)
    return Word(typed, isinstance(info, ArgumentInfo), repeated, shown, info.help or "")


def page() -> str:
    """The page `reference/commands.md`."""
    parts = [
        _INTRODUCTION,
        markdown.table(("option", "what it is"), [(markdown.code(w.typed), w.help) for w in alone()]),
    ]
    for c in commands():
        words = " ".join(w.typed for w in c.words if w.argument)
        options = " [OPTIONS]" if any(not w.argument for w in c.words) else ""
        rows = [(markdown.code(w.typed), markdown.code(w.default), w.help + (" May be repeated." if w.repeated else ""))
                for w in sorted(c.words, key=lambda w: not w.argument)]  # fmt: skip
        parts += [f"## {c.name}", c.help, f"    emulate {c.name}{' ' + words if words else ''}{options}"]
        parts += [markdown.table(("argument or option", "default", "what it is"), rows)] if rows else []
    return markdown.page("Commands", "the commands in `pipelines/commands/`", *parts)


_INTRODUCTION = """`emulate COMMAND --help` says the same. Exit codes: 0 passed, 1 a check failed, 2 the input is wrong, 3 the
campaign fell short, 70 a fault of emulate itself, 130 interrupted. What the commands are for, with examples:
[A study and its commands](../studies.md)."""
