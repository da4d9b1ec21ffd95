"""A command line that cannot be read, told to a script: with `--json` somewhere in it, as the object of other mistakes."""

import contextlib
import json
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

from typer.core import TyperGroup

_UNREAD = 2  # the exit code, as of an input that is wrong


class Group(TyperGroup):
    """Commands whose unread options, arguments and names are told as JSON too, where `--json` asked for it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.meta["json"] = "--json" in args
        with _told(ctx):
            return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        with _told(ctx):
            return super().invoke(ctx)


@contextlib.contextmanager
def _told(ctx: Any) -> Iterator[None]:
    try:
        yield
    except Exception as e:  # a UsageError of the click that typer has, whichever that is, can say what it is
        if ctx.meta["json"] and (message := getattr(e, "format_message", None)):
            told = {"command": ctx.invoked_subcommand or "", "emulate": version("emulate"), "exit_code": _UNREAD,
                    "error": {"kind": "UsageError", "message": message()}, "warnings": []}  # fmt: skip
            print(json.dumps(told, indent=1, ensure_ascii=False), flush=True)
        raise
