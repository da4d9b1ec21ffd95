"""The folder is the registry: every module of a room's folder is an entry, its one public class is the thing.

`names("designs")` lists a room, `find("designs", "sobol")` gives the class, `build("designs", {"use": "sobol"})` an
instance with checked settings. `"my_lab.flows:Flow"` does the same for any installed package.
"""

import importlib
import inspect
import pkgutil
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from types import ModuleType
from typing import Any

from emulate.errors import InputError, nearest

ROOMS = {
    "simulators": "Simulator",
    "designs": "Design",
    "emulators": "Recipe",
    "gradients": "Gradient",
    "likelihoods": "Likelihood",
    "samplers": "Sampler",
    "checks": "Check",
}


def names(room: str) -> tuple[str, ...]:
    """The entries of a room, read from its folder."""
    if room not in ROOMS:
        raise InputError(f"there is no room {room!r}; rooms are {', '.join(ROOMS)}.{nearest(room, ROOMS)}")
    found = pkgutil.iter_modules(importlib.import_module(f"emulate.{room}").__path__)
    return tuple(sorted(m.name for m in found if not m.name.startswith("_")))


def find(room: str, name: str) -> type:
    """The class of an entry: `find("emulators", "gp")`, or of any installed package: `"my_lab.flows:Flow"`."""
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
    """
    spec = {"use": spec} if isinstance(spec, str) else dict(spec)
    use = spec.pop("use", None)
    if not isinstance(use, str):
        raise InputError(f"{path or room}.use must name an entry of {room}: {', '.join(names(room))}. Got {use!r}.")
    try:
        cls = find(room, use)
    except InputError as e:
        raise InputError(f"{path or room}.use: {e}") from None
    return validate(cls, {**spec, **given}, path=path or room)


def validate(cls: type, values: Mapping[str, Any], *, path: str) -> Any:
    """An instance of a dataclass or pydantic model, or an `InputError` with the path of every wrong value."""
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(cls).validate_python(dict(values))
    except ValidationError as e:
        raise InputError("\n".join(_complaint(cls, x, path) for x in e.errors(include_url=False))) from None


def _complaint(cls: type, error: dict[str, Any], path: str) -> str:
    where = ".".join([p for p in (path, *(str(x) for x in error["loc"])) if p])
    met = error.get("input")
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        allowed = _keys(cls, error["loc"][:-1])
        hint = f" Keys allowed here: {', '.join(allowed)}.{nearest(str(error['loc'][-1]), allowed)}" if allowed else ""
        return f"{where}: this key is not known.{hint}"
    if error["type"] in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return f"{where}: this key is missing. Add it."
    said = re.sub(r"^(Value error|Assertion failed), ", "", error["msg"]).rstrip(".")
    return f"{where}: {said}. Got {met!r}." if error["type"] != "value_error" else f"{where}: {said}."


def _keys(cls: type, loc: tuple) -> tuple[str, ...]:
    """The keys allowed at a place below `cls`, as far as its annotations tell."""
    for part in loc:
        cls = _fields(cls).get(part)
        if not inspect.isclass(cls):
            return ()
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
