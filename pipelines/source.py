"""A study's file before it is judged: plain data with `--set` values laid over it, and where each value was written."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from emulate import registry
from emulate.errors import InputError, nearest, shown
from pipelines import yaml12
from pipelines.addresses import redact

T = TypeVar("T")
NAMED = ("parameters", "emulators", "checks")  # sections whose keys the user chooses
NULL = ("infer",)  # sections that a null leaves out; of others a key with nothing after it is as if it were not there


class Source:
    """Data, and a list of problems that are told all at once, each with its line in the file."""

    def __init__(self, path: Path, overrides: Iterable[str] = ()):
        document = yaml12.read(path)
        self.name = document.name
        self.problems: list[str] = []
        self._places = {tuple(map(str, p)): f"{self.name}:{line}" for p, line in document.lines.items()}
        if not isinstance(document.data, Mapping):
            raise InputError(f"{self.name}: a study must be keys and values, such as `name: quickstart`. "
                             f"Got {shown(document.data)}.")  # fmt: skip
        self.data = {k: v for k, v in document.data.items() if v is not None or k in NULL}
        for section, room in (("emulators", None), ("checks", "checks")):
            names = registry.names(room) if room else ("gp",)
            self.data.setdefault(section, {n: {"use": n} for n in names})
        named = isinstance(document.data.get("checks"), Mapping)
        for text in overrides:
            self._override(text)
        checks = {} if named or not isinstance(self.data["checks"], Mapping) else self.data["checks"]
        self.unasked = frozenset(n for n, spec in checks.items() if spec == {"use": n})  # checks that nobody named

    def keep(self, make: Callable[..., T], *args: Any, **kwargs: Any) -> T | None:
        """What `make` makes; None, and a problem noted, when the user's input does not allow it."""
        try:
            return make(*args, **kwargs)
        except InputError as e:
            self.note(str(e))
            return None

    def note(self, text: str) -> None:
        """Note a problem; each line of it starts with a path, `design.runs: must be ...`."""
        for line in text.split("\n"):
            parts = tuple(line.split(": ", 1)[0].split("."))
            above = (self._places[parts[:n]] for n in range(len(parts), 0, -1) if parts[:n] in self._places)
            below = (p for at, p in self._places.items() if at[: len(parts)] == parts and p.startswith("--set"))
            self.problems.append(f"{next(below, None) or next(above, self.name)}: {line}")

    def judge(self) -> None:
        """Raise the problems noted so far."""
        if self.problems:
            raise InputError("\n".join(dict.fromkeys(self.problems)))

    def _override(self, text: str) -> None:
        key, equals, value = text.partition("=")
        text = redact(text)
        path = tuple(x.strip() for x in key.split("."))
        if not equals or not all(path):
            raise InputError(f"--set {text}: must be KEY.PATH=VALUE, such as --set design.runs=32.")
        met = yaml12.parse(value, f"--set {text}").data
        around: Any = self.data
        for n, part in enumerate(path[:-1], 1):
            slot = _slot(around, part, text)
            inner = around.get(slot) if isinstance(around, dict) else around[slot]
            if inner is None and n == 2 and path[0] in NAMED:
                raise InputError(f"--set {text}: {self.name} has no {path[0]}.{part}; it has {', '.join(around)}"
                                 f".{nearest(part, around)}")  # fmt: skip
            if inner is None or isinstance(inner, str):
                inner = {} if inner is None else {"use": inner}  # `gp: gp` is short for `gp: {use: gp}`
                around[slot] = inner
                self._places.setdefault(path[:n], f"--set {text}")
            if not isinstance(inner, dict | list):
                raise InputError(
                    f"--set {text}: {'.'.join(path[:n])} has no keys. Got {shown(inner)}; set it as a whole."
                )
            around = inner
        around[_slot(around, path[-1], text)] = met
        self._places = {p: v for p, v in self._places.items() if p[: len(path)] != path} | {path: f"--set {text}"}


def _slot(around: dict | list, part: str, text: str) -> str | int:
    """The key, or the place in a list, that a part of an override's path names."""
    if isinstance(around, dict):
        return part
    if part.isascii() and part.isdigit() and int(part) < len(around):
        return int(part)
    raise InputError(f"--set {text}: {part!r} must be a place of the list, 0 to {len(around) - 1}.")
