"""The folder is the registry: every module of a room's folder is an entry, its one public class is the thing.

`names("designs")` lists a room, `find("designs", "sobol")` gives the class, `build("designs", {"use": "sobol"})` an
instance with checked settings. `"my_lab.flows:Flow"` does the same for any installed package.
"""

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from types import ModuleType
from typing import Any, get_args, get_origin

from emulate.errors import InputError, nearest, shown

ROOMS = {
    "simulators": "Simulator",
    "designs": "Design",
    "emulators": "Recipe",
    "gradients": "Gradient",
    "histograms": "Histogram",
    "likelihoods": "Likelihood",
    "samplers": "Sampler",
    "checks": "Check",
}


def names(room: str) -> tuple[str, ...]:
    """The entries of a room, read from its folder.

    >>> names("histograms")
    ('hard', 'soft')
    """
    if room not in ROOMS:
        raise InputError(f"there is no room {room!r}; rooms are {', '.join(ROOMS)}.{nearest(room, ROOMS)}")
    found = pkgutil.iter_modules(importlib.import_module(f"emulate.{room}").__path__)
    return tuple(sorted(m.name for m in found if not m.name.startswith("_")))


def place(word: str) -> tuple[str, str | None]:
    """The room of that name, or the one entry of that name with its room; of an entry of several rooms the error names them.

    >>> place("samplers"), place("gp")
    (('samplers', None), ('emulators', 'gp'))
    """
    homes = [] if word in ROOMS else [room for room in ROOMS if word in names(room)]
    if len(homes) > 1:
        raise InputError(f"{word!r} must be looked up in one room. Got an entry of {' and '.join(homes)}; say which, as in "
                         f"`emulate list {homes[0]} {word}`.")  # fmt: skip
    if not homes and word not in ROOMS:
        every = [*ROOMS, *dict.fromkeys(name for room in ROOMS for name in names(room))]
        own = (
            " Of a class of your own name the room too: `emulate list emulators my_lab.flows:Flow`."
            if ":" in word
            else ""
        )
        raise InputError(
            f"there is no room and no entry {word!r}; rooms are {', '.join(ROOMS)}.{nearest(word, every)}{own}"
        )
    return (homes[0], word) if homes else (word, None)


def find(room: str, name: str) -> type:
    """The class of an entry: `find("emulators", "gp")`, or of any installed package: `"my_lab.flows:Flow"`.

    >>> find("designs", "sobol").__name__
    'Sobol'
    """
    allowed = names(room)
    contract = getattr(importlib.import_module("emulate.contracts"), ROOMS[room])
    if ":" in name:
        cls = _foreign(name)
        if not (inspect.isclass(cls) and issubclass(cls, contract)):
            raise InputError(f"{name!r} must be a class that fulfils the contract {contract.__name__}. Got {cls!r}.")
        return cls
    if name not in allowed:
        raise InputError(f"there is no entry {name!r} in {room}; there are {', '.join(allowed)}, "
                         f'or "package.module:Class".{nearest(name, allowed)}')  # fmt: skip
    return _public_class(importlib.import_module(f"emulate.{room}.{name}"), contract)


def sentence(room: str, name: str) -> str:
    """The first line of an entry's docstring."""
    return (inspect.getdoc(find(room, name)) or "").split("\n", 1)[0]


def build(room: str, spec: Mapping[str, Any] | str, *, path: str = "", **given: Any) -> Any:
    """An entry from its part of a study: `{"use": "gp", ...settings}`; `given` are settings that are not the user's.

    `path` is where the part stands in the file; it leads every complaint.

    >>> build("emulators", {"use": "polynomial", "degree": 3}).degree
    3
    """
    if not isinstance(spec, str | Mapping):
        raise InputError(f"{path or room}: must be an entry's name or a mapping {{use: NAME, ...}}. Got {shown(spec)}.")
    spec = {"use": spec} if isinstance(spec, str) else dict(spec)
    use = spec.pop("use", None)
    if not isinstance(use, str):
        there = ", ".join(names(room))
        raise InputError(f"{path or room}.use: must name an entry of {room}: {there}. Got {shown(use)}.")
    try:
        cls = find(room, use)
    except InputError as e:
        raise InputError(f"{path or room}.use: {e}") from None
    return validate(cls, {**spec, **given}, path=path or room)


def validate(cls: type, values: Mapping[str, Any], *, path: str) -> Any:
    """An instance of a dataclass or pydantic model, or an `InputError` with the path of every wrong value."""
    from pydantic import TypeAdapter, ValidationError

    values = {**values, **_nested(cls, values, path)}
    try:
        made = TypeAdapter(cls).validate_python(values)
    except ValidationError as e:
        errors: list[dict[str, Any]] = [dict(one) for one in e.errors(include_url=False)]
    else:
        errors = list(_coerced(values, made, ()))
    if errors:
        raise InputError("\n".join(_complaints(cls, values, errors, path)))
    return made


def _nested(cls: type, values: Mapping[str, Any], path: str) -> dict[str, Any]:
    """The entries that stand in fields of an entry, `first: {use: gp}` or `parts: {pk: {use: gaussian}}`, built."""
    made = {}
    for k, kind in _fields(cls).items():
        one, many = room_of(kind), named_room_of(kind)
        if one and isinstance(values.get(k), str | Mapping):
            made[k] = build(one, values[k], path=f"{path}.{k}")
        if many and isinstance(values.get(k), Mapping):
            made[k] = {n: build(many, v, path=f"{path}.{k}.{n}") for n, v in values[k].items()}
    return made


def room_of(kind: Any) -> str | None:
    """The room whose entries a field of that type holds, `Recipe` or `Recipe | None`; None where it holds none."""
    rooms = {contract: room for room, contract in ROOMS.items()}
    kinds = () if get_origin(kind) is dict else (kind, *get_args(kind))
    return next((rooms[n] for t in kinds if (n := getattr(t, "__name__", "")) in rooms), None)


def named_room_of(kind: Any) -> str | None:
    """The room whose entries a field of that type holds by names, `dict[str, Likelihood]`; None where it holds none."""
    return room_of(get_args(kind)[1]) if get_origin(kind) is dict else None


def _coerced(met: Any, kept: Any, loc: tuple) -> Iterator[dict[str, Any]]:
    """What pydantic takes for something else without a word: "12" and true for a number, 1 and "yes" for true."""
    if isinstance(met, Mapping):
        for k, v in met.items():
            yield from _coerced(v, kept.get(k) if isinstance(kept, Mapping) else getattr(kept, str(k), None), (*loc, k))
    elif isinstance(met, list | tuple) and isinstance(kept, list | tuple):
        for i, (x, y) in enumerate(zip(met, kept, strict=False)):
            yield from _coerced(x, y, (*loc, i))
    elif type(met) is not type(kept) in _KINDS and (bool in (type(met), type(kept)) or isinstance(met, str)):
        yield {"loc": loc, "type": _KINDS[type(kept)], "input": met, "msg": ""}


_KINDS = {bool: "bool_type", int: "int_type", float: "float_type"}
_MUST = {
    "bool": "must be true or false",
    "dataclass": "must be a mapping, {{key: value}}",
    "dict": "must be a mapping, {{key: value}}",
    "finite_number": "must be a finite number",
    "float": "must be a number",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "int": "must be a whole number",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "list": "must be a list, [ ... ]",
    "literal_error": "must be {expected}",
    "string": "must be text (quotes make a text)",
    "too_long": "must have at most {max_length} entries",
    "too_short": "must have at least {min_length} entries",
    "tuple": "must be a list, [ ... ]",
}


def _complaints(cls: type, values: Mapping[str, Any], errors: list[dict[str, Any]], path: str) -> list[str]:
    """One line per wrong value; several allowed types of one value are told in one line."""
    said: dict[str, dict[str, None]] = {}
    tail: dict[str, str] = {}
    for e in errors:
        where = ".".join(x for x in (path, *_where(values, e)) if x)
        sentence, tail[where] = _sentence(cls, e)
        said.setdefault(where, {})[sentence] = None
    return [f"{where}: {_stopped(' or '.join(sentences))}{tail[where]}" for where, sentences in said.items()]


def _stopped(sentence: str) -> str:
    """With its full stop; a question has its mark."""
    return sentence if sentence.endswith("?") else sentence + "."


def _where(values: Any, error: dict[str, Any]) -> Iterator[str]:
    """The keys and places of `loc`, without the names that pydantic gives to the types of a union."""
    for part in error["loc"]:
        if isinstance(values, Mapping) and (part in values or error["type"].startswith("missing")):
            values = values.get(part)
            yield str(part)
        elif isinstance(values, list | tuple) and isinstance(part, int):
            values = values[part] if part < len(values) else None
            yield str(part)


def _sentence(cls: type, error: dict[str, Any]) -> tuple[str, str]:
    """What must be, and the tail that says what was met."""
    kind, met = error["type"], error.get("input")
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        allowed = _keys(cls, error["loc"][:-1])
        hint = f" Keys allowed here: {', '.join(allowed)}.{nearest(str(error['loc'][-1]), allowed)}" if allowed else ""
        return "this key is not known", hint
    if kind.startswith("missing"):
        return "this key is missing", " Add it."
    if kind == "value_error":
        return error["msg"].removeprefix("Value error, ").rstrip("."), ""
    must = _MUST.get(kind) or _MUST.get(kind.split("_")[0]) or re.sub("^Input should", "must", error["msg"])
    hint = nearest(str(met), re.findall(r"'([^']*)'", error["ctx"]["expected"])) if kind == "literal_error" else ""
    bounds = {k: f"{v:.15g}" if isinstance(v, float) else v for k, v in error.get("ctx", {}).items()}
    return must.format(**bounds), f" Got {shown(met)}.{hint}"


def _keys(cls: type, loc: tuple) -> tuple[str, ...]:
    """The keys allowed at a place below `cls`, as far as its annotations tell."""
    for part in loc:
        if not inspect.isclass(kind := _fields(cls).get(part)):
            return ()
        cls = kind
    return tuple(k for k in _fields(cls) if k != "space")


def _fields(cls: type) -> dict[str, Any]:
    """The annotation of every field of a dataclass or pydantic model."""
    if is_dataclass(cls):
        return {f.name: f.type for f in fields(cls)}
    return {k: f.annotation for k, f in getattr(cls, "model_fields", {}).items()}


def _public_class(module: ModuleType, contract: type) -> type:
    mine = [c for n, c in vars(module).items() if inspect.isclass(c) and issubclass(c, contract)
            and c.__module__.startswith(module.__name__) and not n.startswith("_")]  # fmt: skip
    if len(mine) != 1:
        raise InputError(f"{module.__name__} must have one public {contract.__name__} class. Got {len(mine)}.")
    return mine[0]


def _foreign(name: str) -> Any:
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ImportError as e:
        raise InputError(f"{name!r} cannot be imported: {e}. Install its package, or mend the name.") from None
    except AttributeError:
        raise InputError(f"module {module!r} has no {attribute!r}; check the name after the colon.") from None
