"""The JSON schema of a study (draft 2020-12), made from the records and the rooms: editors complete from it."""

import inspect
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any, get_args

from emulate import registry
from pipelines.derivatives import OWN
from pipelines.study import AUTO, CLUSTERS, ITSELF, SETS, FidelityPart, StudyFile

Schema = dict[str, Any]
DEFAULTS = {"designs": "sobol", "likelihoods": "gaussian", "samplers": "hmc"}  # entries that a study need not name
_ROOMS = tuple(registry.ROOMS.values())
_FOREIGN = {"type": "string", "pattern": ":", "description": "a class of an installed package, package.module:Class"}


def schema() -> Schema:
    """Every section with its keys, bounds, defaults and comments; every entry of every room as an alternative."""
    whole = _plain(StudyFile, "#/$defs/{model}")
    parts = whole["$defs"]
    for cls in _sections(StudyFile):
        _describe(parts[cls.__name__], cls)
    parts["DesignPart"]["properties"]["fidelities"] |= _fidelities()
    sizes = {k: v for k, v in parts["DesignPart"]["properties"].items() if k != "entry"}
    what = {"description": parts["DesignPart"]["description"]}
    designs = {n: _entry("designs", n, sizes) for n in registry.names("designs")}
    parts["DesignPart"] = what | _room("designs", designs, sizes)
    for room in registry.ROOMS:
        entries = {n: {"$ref": f"#/$defs/{room}.{n}"} for n in registry.names(room)}
        parts |= {f"{room}.{n}": _entry(room, n, {}) for n in entries} | {room: _room(room, entries, {})}
    top, infer = whole["properties"], parts["InferPart"]["properties"]
    top["parameters"] |= _parameters()
    top["simulator"] |= {"$ref": "#/$defs/simulators"}
    top["emulators"] |= {"anyOf": [{"const": AUTO}, _named("emulators")]}
    top["checks"] |= _named("checks")
    infer["likelihood"] |= {"$ref": "#/$defs/likelihoods"}
    infer["sampler"] |= {"$ref": "#/$defs/samplers"}
    parts["CheckPart"]["properties"]["sampler"] |= {"anyOf": [{"$ref": "#/$defs/samplers"}, {"type": "null"}]}
    infer["npe"] |= {"anyOf": [_npe(), {"type": "null"}]}
    infer["derived"] |= _derived()
    infer["profile"] |= {"anyOf": [{"type": "boolean"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}
    parts["ClusterPart"]["properties"]["use"] |= {"anyOf": [{"enum": [*CLUSTERS]}, _FOREIGN]}
    parts["ValidatePart"]["properties"]["gradient"] |= _gradient("auto")
    parts["SimulatePart"]["properties"]["jacobians"] |= _gradient("none", "auto")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **whole}


def _npe() -> Schema:
    from emulate.amortised import NPE

    keys = {k: v for k, v in _plain(NPE, "#/$defs/{model}")["properties"].items() if k != "flow"}
    return _closed({**keys, "flow": {"$ref": "#/$defs/emulators", "description": _comments(NPE)["flow"]}}, [])


def _plain(cls: type, template: str) -> Schema:
    from pydantic import TypeAdapter

    return _describe(TypeAdapter(cls).json_schema(ref_template=template), cls)


def _describe(made: Schema, cls: type) -> Schema:
    """Add the comment of each field, and the first sentence of the class."""
    made["description"] = (inspect.getdoc(cls) or "").split("\n", 1)[0]
    for name, what in _comments(cls).items():
        if name in made.get("properties", {}):
            made["properties"][name]["description"] = what
    return made


def _comments(cls: type) -> dict[str, str]:
    """What stands behind `#` on the line of a field, or behind its name in the docstring."""
    listed = re.findall(r"^ {4}(\w+): (.+(?:\n {8}.+)*)", inspect.getdoc(cls) or "", re.M)
    found = {k: " ".join(v.split()) for k, v in listed}
    for c in reversed(cls.__mro__):
        try:
            found |= dict(re.findall(r"^    (\w+):[^\n]*?(?:\n {8}[^\n#]*?)?  # (.*)$", inspect.getsource(c), re.M))
        except (OSError, TypeError):  # built in, or typed into a notebook
            continue
    return found


def _sections(cls: type) -> list[type]:
    """The records that stand in the fields of a record, at any depth: sections, and the settings of entries."""
    own = [kind for f in fields(cls) for kind in _kinds(f.type) if is_dataclass(kind) and kind.__name__ not in _ROOMS]
    return own + [x for c in own for x in _sections(c)]


def _kinds(kind: Any) -> Iterator[type]:
    """The classes of an annotation: a section may be left out by null, or stand under names."""
    if inspect.isclass(kind) and not get_args(kind):
        yield kind
    for part in get_args(kind):
        yield from _kinds(part)


def settings(room: str, name: str) -> dict[str, Schema]:
    """The keys of an entry beside its `use`: of each what the schema says, its default and description among it."""
    return {k: v for k, v in _entry(room, name, {})["properties"].items() if k != "use"}


def _entry(room: str, name: str, beside: Schema) -> Schema:
    """The settings of an entry with its `use`, and the keys that stand beside; the parameter space is no setting."""
    from emulate import space

    nested = {f.name: _within(f.type) for f in fields(registry.find(room, name))}
    made = _plain(registry.find(room, name), f"#/$defs/{room}.{name}/$defs/{{model}}")
    settings = {k: v for k, v in made.get("properties", {}).items() if k != "space"}
    settings |= {k: {**inside, **({"description": v["description"]} if "description" in v else {})}
                 for k, v in settings.items() if (inside := nested.get(k))}  # fmt: skip
    inner = {k: v for k, v in made.get("$defs", {}).items() if not hasattr(space, k) and k not in _ROOMS}
    for cls in _sections(registry.find(room, name)):
        if cls.__name__ in inner:
            _describe(inner[cls.__name__], cls)
    return {"type": "object", "description": made["description"],
            "properties": {"use": {"const": name, "description": made["description"]}, **settings, **beside},
            "required": [k for k in made.get("required", ()) if k != "space"], "additionalProperties": False,
            **({"$defs": inner} if inner else {})}  # fmt: skip


def _within(kind: Any) -> Schema:
    """An entry that stands in a field, or several of them by names of their own, each with its `use`; nothing else."""
    named = {"anyOf": [{"type": "string"}, {"required": ["use"]}]}
    if one := registry.room_of(kind):
        inside = {"allOf": [{"$ref": f"#/$defs/{one}"}, named]}
        return {"anyOf": [inside, {"type": "null"}]} if type(None) in get_args(kind) else inside
    many = registry.named_room_of(kind)
    return {"type": "object", "additionalProperties": {"allOf": [{"$ref": f"#/$defs/{many}"}, named]}} if many else {}


def _room(room: str, entries: Schema, beside: Schema) -> Schema:
    """One entry of a room: its name alone, or with settings; or a class of any installed package."""
    default = DEFAULTS.get(room)
    chosen = [e if n == default else {"allOf": [e, {"required": ["use"]}]} for n, e in entries.items()]
    foreign = {"type": "object", "properties": {"use": _FOREIGN, **beside}, "required": ["use"]}
    return {"oneOf": [{"enum": list(entries)}, _FOREIGN, *chosen, foreign]}


def _gradient(*words: str) -> Schema:
    """A way to differentiate: one of these words, the simulator's own, or an entry of the room."""
    own = _closed({"use": {"const": OWN, "description": "the simulator's own jacobian"}}, ["use"])
    return {"anyOf": [{"enum": [*words, OWN]}, own, {"$ref": "#/$defs/gradients"}]}


def _named(room: str) -> Schema:
    """Entries by names of the user's choice; one that is called like its entry needs no `use`, nor any settings."""
    any_, none = {"$ref": f"#/$defs/{room}"}, {"type": "null"}
    same = {n: {"anyOf": [{"$ref": f"#/$defs/{room}.{n}"}, any_, none]} for n in registry.names(room)}
    return {"type": "object", "minProperties": 1, "properties": same, "additionalProperties": any_}


def _fidelities() -> Schema:
    """Fidelities by names of the user's choice."""
    settings = {"type": "object", "minProperties": 1, "propertyNames": {"not": {"enum": ["use", "space"]}},
                "description": "settings of the simulator that replace the study's"}  # fmt: skip
    one = _plain(FidelityPart, "#/$defs/{model}")
    one = {"description": one["description"], **_closed({**one["properties"], "with": settings}, ["runs", "with"])}
    names = {"pattern": r"^[A-Za-z_][A-Za-z0-9_]{0,59}$", "not": {"enum": [ITSELF, *SETS]}}
    return {"type": "object", "minProperties": 1, "propertyNames": names, "additionalProperties": one}


def _derived() -> Schema:
    told = {"expression": "of the parameters, as in Python", "unit": "unit in words", "label": "LaTeX without $"}
    words = {k: {"type": "string", "description": what} for k, what in told.items()}
    one = {"anyOf": [{"type": "string"}, _closed(words, ["expression"])]}
    names = {"pattern": r"^[^\d\W]\w*$"}
    return {"type": "object", "minProperties": 1, "propertyNames": names, "additionalProperties": one}


def _parameters() -> Schema:
    from emulate.space import PRIORS

    words = {"unit": {"type": "string", "description": "unit in words"},
             "label": {"type": "string", "description": "LaTeX without $"}}  # fmt: skip
    one = {"oneOf": [_closed({k: _prior(c), **words}, [k]) for k, c in PRIORS.items()]}
    names = {"pattern": r"^[^\d\W]\w*$"}
    return {"type": "object", "minProperties": 1, "propertyNames": names, "additionalProperties": one}


def _prior(cls: type) -> Schema:
    numbers = {f.name: {"type": "number", "title": f.name} for f in fields(cls)}
    listed = {"type": "array", "prefixItems": [*numbers.values()], "minItems": len(numbers), "maxItems": len(numbers)}
    what = (inspect.getdoc(cls) or "").split("\n", 1)[0]
    return {"anyOf": [listed, _closed(numbers, list(numbers))], "description": what}


def _closed(properties: Schema, required: list[str]) -> Schema:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
