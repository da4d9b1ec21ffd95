"""What a shell offers after Tab: studies, keys of a study with their values, rooms, emulators. Nothing heavy is imported:
keys of an entry are read from the text of its file.
"""

import ast
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer

from emulate import registry

_MOST = 300  # offers
_ROOM_OF = {"design": "designs", "simulator": "simulators", "infer.likelihood": "likelihoods", "infer.sampler": "samplers",
            "check.sampler": "samplers", "validate.gradient": "gradients", "simulate.jacobians": "gradients"}  # fmt: skip
_NAMED = {"emulators": "emulators", "checks": "checks"}  # sections whose keys the user chooses


def studies(incomplete: str) -> list[str]:
    """YAML files, and folders on the way to one."""
    return [p for p in _paths(incomplete) if p.endswith("/") or p.endswith((".yaml", ".yml"))]


def folders(incomplete: str) -> list[str]:
    """Folders and YAML files: a store, the results of a study, or the study."""
    return studies(incomplete)


def emulators(incomplete: str) -> list[str]:
    """Folders of emulators below `runs`, and folders on the way to others."""
    made = sorted(str(p.parent) for p in Path().glob("runs/*/emulators/*/emulator.json"))
    found = [p for p in made if p.startswith(incomplete)]
    return found or [
        p.rstrip("/") if (Path(p) / "emulator.json").exists() else p for p in _paths(incomplete) if p.endswith("/")
    ]


def names_of_emulators(ctx: typer.Context, incomplete: str) -> list[str]:
    """The emulators that the study names."""
    made = _data(ctx).get("emulators")
    return [n for n in (made if isinstance(made, Mapping) else {"gp": None}) if str(n).startswith(incomplete)]


def rooms(incomplete: str) -> list[str]:
    return [r for r in registry.ROOMS if r.startswith(incomplete)]


def entries(ctx: typer.Context, incomplete: str) -> list[str]:
    """The entries of the room that was typed."""
    room = ctx.params.get("room")
    return [n for n in registry.names(room) if n.startswith(incomplete)] if room in registry.ROOMS else []


def pages(incomplete: str) -> list[str]:
    """The pages of the manual."""
    from pipelines import manual

    return [p for p in manual.pages() if p.startswith(incomplete)]


def choices(*offers: str) -> Any:
    """A completion from a few words."""
    return lambda incomplete: [o for o in offers if o.startswith(incomplete)]


def keys(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """`KEY=VALUE` with the value that holds now, and what it is; after the `=` the values that it may have."""
    data = _data(ctx)
    known = dict(_known(data))
    key, equals, begun = incomplete.partition("=")
    if not equals:
        return [(f"{k}={_text(v)}", said) for k, (v, _, said) in known.items() if k.startswith(key)][:_MOST]
    value, allowed, said = known.get(key, (None, (), ""))
    return [(f"{key}={a}", said) for a in allowed or [_text(value)] if a.startswith(begun)]


def _known(data: Mapping[str, Any]) -> Iterator[tuple[str, tuple[Any, tuple[str, ...], str]]]:
    """Every key: the value that holds, those that it may have, and its comment."""
    from pipelines.study import StudyFile

    for key, default, allowed, said in _of_sections(StudyFile, ""):
        yield key, (_at(data, key, default), allowed, said)
    places = dict(_ROOM_OF)
    for section, room in _NAMED.items():
        named = data.get(section)
        places |= {f"{section}.{n}": room for n in (named if isinstance(named, Mapping) else ())}
    for place, room in places.items():
        spec = _at(data, place, {})
        use = spec if isinstance(spec, str) else spec.get("use", "") if isinstance(spec, Mapping) else ""
        yield f"{place}.use", (use, registry.names(room), f"an entry of {room}")
        for key, default, said in _of_entry(room, use) if use in registry.names(room) else ():
            yield f"{place}.{key}", (_at(data, f"{place}.{key}", default), (), said)


def _of_sections(cls: type, above: str) -> Iterator[tuple[str, Any, tuple[str, ...], str]]:
    said = _comments(Path(__file__).parents[1] / "study.py", cls.__name__)
    for f in fields(cls):
        inner = next((t for t in (f.type, *get_args(f.type)) if isinstance(t, type) and is_dataclass(t)), None)
        if inner:
            yield from _of_sections(inner, f"{above}{f.name}.")
        elif f"{above}{f.name}" not in (*_ROOM_OF, *_NAMED, "parameters", "design.entry"):
            default = f.default if f.default is not MISSING else None
            yield f"{above}{f.name}", default, _allowed(f.type), said.get(f.name, ("", ""))[1]


def _allowed(kind: Any) -> tuple[str, ...]:
    kinds = (kind, *get_args(kind))
    if bool in kinds:
        return ("true", "false")
    return tuple(str(a) for k in kinds if get_origin(k) is Literal for a in get_args(k))


def _of_entry(room: str, name: str) -> Iterator[tuple[str, Any, str]]:
    top = Path(registry.__file__).parent
    contract = _comments(top / "contracts.py", registry.ROOMS[room])
    for key, (default, said) in {**contract, **_comments(_file_of(top, room, name))}.items():
        yield key, default, said


def _file_of(top: Path, room: str, name: str) -> Path:
    """Where the class of an entry is written: its file, or that which the folder of that name takes it from."""
    file, door = top / room / f"{name}.py", top / room / name / "__init__.py"
    if file.exists():
        return file
    inner = f"emulate.{room}.{name}."
    taken = [n.module for n in ast.parse(door.read_text(encoding="utf-8")).body
             if isinstance(n, ast.ImportFrom) and (n.module or "").startswith(inner)]  # fmt: skip
    files = [door.parent / f"{m.removeprefix(inner)}.py" for m in taken]
    return next((f for f in files if f.exists()), door)


@cache
def _comments(file: Path, cls: str = "") -> dict[str, tuple[str, str]]:
    """Fields of a class, or of the public classes of a file, as they are written: their default and their comment."""
    text = file.read_text(encoding="utf-8")
    lines = text.splitlines()
    found: dict[str, tuple[str, str]] = {}
    for node in ast.parse(text).body:
        if not isinstance(node, ast.ClassDef) or node.name.startswith("_") or (cls and node.name != cls):
            continue
        for f in (f for f in node.body if isinstance(f, ast.AnnAssign) and isinstance(f.target, ast.Name)):
            if ast.unparse(f.annotation).startswith("ClassVar"):
                continue
            default = ast.unparse(f.value) if f.value is not None else ""
            said = lines[f.end_lineno - 1].partition("  # ")[2] if f.end_lineno else ""
            found[f.target.id] = (_literal(default), said.partition("# fmt")[0].strip())
    return {k: v for k, v in found.items() if not k.startswith("_")}


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return ""


def _at(data: Any, key: str, default: Any) -> Any:
    for part in key.split("."):
        if not isinstance(data, Mapping) or part not in data:
            return default
        data = data[part]
    return data


def _text(value: Any) -> str:
    """As `--set` reads it; what is long is left to be typed."""
    if value is None or value == "" or not isinstance(value, str | bool | int | float):
        return ""
    said = value if isinstance(value, str) else json.dumps(value)
    return said if len(said) <= 40 and " " not in said else ""


def _data(ctx: typer.Context) -> Mapping[str, Any]:
    """The study that was typed before, as it stands in its file; nothing where it cannot be read."""
    path = ctx.params.get("study") or next((w for w in _words() if w.endswith((".yaml", ".yml"))), "")
    if not path or not Path(path).is_file():
        return {}
    from emulate.errors import EmulateError
    from pipelines import yaml12

    try:
        read = yaml12.read(Path(path)).data
    except (EmulateError, OSError):
        return {}
    return read if isinstance(read, Mapping) else {}


def _words() -> list[str]:
    """The line that is typed, as the shell handed it over: behind an option without its value nothing of it is parsed."""
    line = os.environ.get("_TYPER_COMPLETE_ARGS") or os.environ.get("COMP_WORDS", "")
    return [str(Path(w).expanduser()) for w in line.split()]


def _paths(incomplete: str) -> list[str]:
    """What begins so, folders with a slash."""
    head, slash, tail = incomplete.rpartition("/")
    folder = Path(head + slash or ".").expanduser()
    try:
        there: Iterable[Path] = sorted(folder.iterdir())
    except OSError:
        return []
    shown = [p for p in there if p.name.startswith(tail) and (tail.startswith(".") or not p.name.startswith("."))]
    return [f"{head}{slash}{p.name}{'/' if p.is_dir() else ''}" for p in shown[:_MOST]]
