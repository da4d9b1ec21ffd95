"""A strict reader of YAML 1.2: text -> plain data, and the line of every key.

Values follow the core schema of YAML 1.2 (2009): `1e-3` is a number, `no` and `on` are text, `012` is twelve,
`0o12` is ten, `1:30` is text. A key may stand once. Tags are refused, and so is more than one document. Aliases are
copied and counted; depth and size have caps, so that no file costs more than a moment.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from yaml.events import (
    AliasEvent,
    DocumentEndEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)

from emulate.errors import InputError, nearest

MAX_BYTES = 262_144
MAX_DEPTH = 24
MAX_VALUES = 20_000  # after aliases are copied
_MAX_DIGITS = 1000  # of a whole number

_CONSTANTS = {w: v for v, words in ((None, "null Null NULL ~"), (True, "true True TRUE"), (False, "false False FALSE"))
              for w in words.split()} | {"": None}  # fmt: skip
_INT = re.compile(r"[-+]?[0-9]+")
_OCTAL = re.compile(r"0o[0-7]+")
_HEX = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INFINITE = re.compile(r"([-+]?)\.(inf|Inf|INF)")
_NAN = re.compile(r"\.(nan|NaN|NAN)")

_ADVICE = {
    "cannot start any token": " Indent with spaces, not with tabs, and put text with such signs in quotes.",
    "mapping values are not allowed": ' A text that holds ": " needs quotes; keys of one level start in one column.',
    "expected <block end>": " Keys and list items of one level must start in one column.",
    "could not find expected ':'": ' A key needs a colon and a space after it: "key: value".',
    "expected ',' or": " Values between brackets or braces need commas, and a closing bracket or brace.",
    "found '<stream end>'": " Close the bracket or brace.",
    "unexpected end of stream": " Close the quote.",
}


@dataclass(frozen=True)
class Document:
    """Plain data, and the line (from 1) at which every key and list item starts, by its path."""

    name: str
    data: Any
    lines: Mapping[tuple[str | int, ...], int] = field(default_factory=dict)


def read(path: Path) -> Document:
    """The document in a file; an `InputError` with line and column when it cannot be read."""
    try:
        with open(path, "rb") as f:
            raw = f.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise InputError(f"there is no file {path}.{_near(path)}") from None
    except IsADirectoryError:
        inside = ", ".join(p.name for p in _yaml_files(path)[:8])
        raise InputError(f"{path} is a folder; name a YAML file{f' in it: {inside}' if inside else ''}.") from None
    except (OSError, ValueError) as e:  # ValueError: a null byte in the path
        raise InputError(f"{path} cannot be read: {getattr(e, 'strerror', None) or e}. Check its name and rights."
                         ) from None  # fmt: skip
    if len(raw) > MAX_BYTES:
        raise InputError(f"{path} must be at most {MAX_BYTES // 1024} kB. A study is text; keep data in its own files.")
    try:
        return parse(raw.decode("utf-8-sig"), str(path))
    except UnicodeDecodeError as e:
        line = raw.count(b"\n", 0, e.start) + 1
        raise InputError(f"{path}:{line}: a study must be text in UTF-8. Got byte 0x{raw[e.start]:02x}; "
                         "save the file as UTF-8.") from None  # fmt: skip


def parse(text: str, name: str = "text") -> Document:
    """The one document in a text; `name` leads every complaint."""
    if len(text) > MAX_BYTES:
        raise InputError(f"{name} must be at most {MAX_BYTES // 1024} kB. Got {len(text) // 1024} kB.")
    builder = _Builder(name)
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            builder.take(event)
    except yaml.MarkedYAMLError as e:
        raise InputError(f"{_place(name, e.problem_mark or e.context_mark)}: this is not YAML: {_said(e)}") from None
    except yaml.reader.ReaderError as e:
        line = text.count("\n", 0, e.position) + 1
        raise InputError(f"{name}:{line}: this is not YAML: the character #x{e.character:04x} is not allowed in text. "
                         "Delete it.") from None  # fmt: skip
    except (ValueError, OverflowError) as e:  # escapes such as "\UFFFFFFFF", which the library hands to chr() unchecked
        if isinstance(e, InputError):
            raise
        raise InputError(f"{name}: this is not YAML: an escape names no character ({e}). Mend it.") from None
    return Document(name, builder.root, builder.lines)


def scalar(text: str, style: str | None = None) -> Any:
    """The value of a scalar by the core schema; `style` is its quote, None for a plain one."""
    if style is not None:
        return text
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INT.fullmatch(text) or _OCTAL.fullmatch(text) or _HEX.fullmatch(text):
        if len(text) > _MAX_DIGITS:
            raise ValueError(f"a whole number must have at most {_MAX_DIGITS} digits. Got {len(text)}.")
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    if _FLOAT.fullmatch(text):
        return float(text)
    if m := _INFINITE.fullmatch(text):
        return -math.inf if m[1] == "-" else math.inf
    return math.nan if _NAN.fullmatch(text) else text


class _Builder:
    """Takes the parser's events one by one; a stack instead of recursion, so that depth cannot break it."""

    def __init__(self, name: str):
        self.name = name
        self.root: Any = None
        self.lines: dict[tuple[str | int, ...], int] = {}
        self.documents = self.values = 0
        self.open: list[tuple[Any, str | None]] = []  # the containers around this place, with their anchors
        self.path: list[str | int | None] = []  # one part per open container; None where a mapping awaits a key
        self.anchors: dict[str, Any] = {}

    def refuse(self, event: Event, sentence: str) -> InputError:
        return InputError(f"{_place(self.name, event.start_mark)}: {sentence}")

    def take(self, event: Event) -> None:
        if isinstance(event, MappingEndEvent | SequenceEndEvent):
            value, anchor = self.open.pop()
            self.path.pop()
            if anchor:
                self.anchors[anchor] = value
            self.after()
        elif isinstance(event, ScalarEvent):
            self.put(event, self.scalar(event))
        elif isinstance(event, MappingStartEvent | SequenceStartEvent):
            self.enter(event)
        elif isinstance(event, AliasEvent):
            self.put(event, self.copied(event))
        elif isinstance(event, DocumentStartEvent):
            self.documents += 1
            if self.documents > 1:
                raise self.refuse(event, "a file must hold one document. Got a second `---`; delete it.")
        elif not isinstance(event, DocumentEndEvent | StreamEndEvent):
            return

    def scalar(self, event: ScalarEvent) -> Any:
        self.refuse_tag(event)
        try:
            value = scalar(event.value, event.style)
        except ValueError as e:
            raise self.refuse(event, str(e)) from None
        if isinstance(value, str) and any("\ud800" <= c <= "\udfff" for c in value):
            raise self.refuse(event, "a text must hold characters. Got half of a surrogate pair; mend the escape.")
        if event.anchor:
            self.anchors[event.anchor] = value
        return value

    def refuse_tag(self, event: Event) -> None:
        if event.tag is not None:
            raise self.refuse(event, "tags (!, !!str, !!python) are not read here. "
                              "Delete the tag; quotes make a text.")  # fmt: skip

    def enter(self, event: MappingStartEvent | SequenceStartEvent) -> None:
        self.refuse_tag(event)
        if len(self.open) >= MAX_DEPTH:
            raise self.refuse(event, f"values must be nested at most {MAX_DEPTH} deep.")
        if event.anchor:
            self.anchors[event.anchor] = _UNFINISHED
        mapping = isinstance(event, MappingStartEvent)
        value: Any = {} if mapping else []
        self.put(event, value, open_=True)
        self.open.append((value, event.anchor))
        self.path.append(None if mapping else 0)

    def put(self, event: Event, value: Any, *, open_: bool = False) -> None:
        self.values += 1
        if self.values > MAX_VALUES:
            raise self.refuse(event, f"a file must hold at most {MAX_VALUES} values, aliases counted as often as used.")
        if not self.open:
            self.root = value
            return
        around, part = self.open[-1][0], self.path[-1]
        if isinstance(around, list):
            self.lines.setdefault(tuple(self.path), event.start_mark.line + 1)
            around.append(value)
        elif part is None:
            self.key(event, value, around)
            return
        else:
            around[part] = value
        if not open_:
            self.after()

    def key(self, event: Event, value: Any, around: dict) -> None:
        if not isinstance(event, ScalarEvent) or not isinstance(value, str):
            text = f"{event.value!r}; put it in quotes" if isinstance(event, ScalarEvent) else "something else"
            raise self.refuse(event, f"a key must be text. Got {text}.")
        self.path[-1] = value
        here = tuple(self.path)
        if value in around:
            raise self.refuse(event, f"{'.'.join(map(str, here))}: a key must stand once. Got it twice, first in line "
                              f"{self.lines[here]}; delete or rename one of them.")  # fmt: skip
        self.lines[here] = event.start_mark.line + 1
        around[value] = None

    def after(self) -> None:
        """A value is complete: the next one is a key of a mapping, or the next item of a list."""
        if self.open:
            self.path[-1] = len(self.open[-1][0]) if isinstance(self.open[-1][0], list) else None

    def copied(self, event: AliasEvent) -> Any:
        if event.anchor not in self.anchors:
            raise self.refuse(event, f"the alias *{event.anchor} must follow its anchor &{event.anchor}. There is none "
                              f"above.{nearest(event.anchor, self.anchors)}")  # fmt: skip
        value = self.anchors[event.anchor]
        if value is _UNFINISHED:
            raise self.refuse(event, f"the alias *{event.anchor} must not stand inside its own anchor.")
        return self.copy(event, value, len(self.open))

    def copy(self, event: AliasEvent, value: Any, depth: int) -> Any:
        self.values += 1
        if self.values > MAX_VALUES or depth > MAX_DEPTH:
            raise self.refuse(event, f"aliases must not make more than {MAX_VALUES} values or {MAX_DEPTH} levels.")
        if isinstance(value, dict):
            return {k: self.copy(event, v, depth + 1) for k, v in value.items()}
        return [self.copy(event, v, depth + 1) for v in value] if isinstance(value, list) else value


_UNFINISHED = object()


def _place(name: str, mark: yaml.Mark | None) -> str:
    return f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name


def _said(e: yaml.MarkedYAMLError) -> str:
    said = (e.problem or e.context or "it cannot be parsed").replace("'\\t'", "tab")
    inside = e.context_mark and e.context and ("flow" in e.context or "quoted" in e.context)
    begun = f" (begun in line {e.context_mark.line + 1})" if inside else ""
    return f"{said.rstrip('.')}{begun}.{next((a for sign, a in _ADVICE.items() if sign in said), '')}"


def _yaml_files(folder: Path) -> list[Path]:
    try:
        return sorted(p for p in folder.iterdir() if p.suffix in (".yaml", ".yml"))
    except OSError:
        return []


def _near(path: Path) -> str:
    """What stands near a file that does not exist."""
    if not path.parent.is_dir():
        return f" There is no folder {path.parent} either; check the folder you are in."
    there = [str(p) for p in _yaml_files(path.parent)]
    if not there:
        elsewhere = [str(p) for p in _yaml_files(Path("configs"))]
        return (
            f" There are studies in configs: {', '.join(elsewhere[:8])}."
            if elsewhere
            else f" `emulate init {path}` writes one."
        )
    return nearest(str(path), there) or f" There is {', '.join(there[:8])}."
