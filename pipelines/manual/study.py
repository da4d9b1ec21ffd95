"""Every key of a study with its type, default, unit and comment, read from the schema of a study."""

import json
import re
from collections.abc import Iterator
from typing import Any

from emulate import registry
from pipelines.manual import markdown

HEADER = ("key", "type", "default", "unit", "what it is")
_UNITS = "s|min|d|K|mm|km|nm|MiB|GeV|Mpc/h|h/Mpc|wavelengths|bytes"
UNIT = re.compile(rf"^({_UNITS})(?:[,;] | (?=for ))|,(?: in)? ({_UNITS})\.?$")
_PLAIN = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true, false", "null": "empty",
          "object": "mapping", "array": "list"}  # fmt: skip
_BOUNDS = {
    "minimum": "at least",
    "exclusiveMinimum": "more than",
    "maximum": "at most",
    "exclusiveMaximum": "less than",
}
Row = tuple[str, str, str, str, str]


def keys(part: dict[str, Any], whole: dict[str, Any], before: str = "") -> Iterator[Row]:
    """A row of the table for each key of a mapping, those of mappings within too: `retries.lost`, `read.NAME.file`."""
    needed = part.get("required", ())
    for key, spec in part.get("properties", {}).items():
        yield from _row(f"{before}{key}", spec, whole, key in needed)


def _row(key: str, spec: dict[str, Any], whole: dict[str, Any], needed: bool) -> Iterator[Row]:
    inner = list(_within(key, spec, whole))
    default = "must be given" if needed else "" if inner else _default(spec.get("default"))
    yield markdown.code(key), "mapping" if inner and "anyOf" not in spec else kind(spec, whole), default, *told(spec)
    for name, part in inner:
        yield from keys(part, whole, f"{name}.")


def told(spec: dict[str, Any]) -> tuple[str, str]:
    """The unit that a comment begins or ends with, and the rest of the comment."""
    comment = spec.get("description", "")
    unit = UNIT.search(comment)
    return ((unit[1] or unit[2]), UNIT.sub("", comment)) if unit else ("", comment)


def _within(key: str, spec: dict[str, Any], whole: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The mappings with keys of their own that a value may be, or hold under names; a list of numbers is told by itself."""
    if any("prefixItems" in x for x in spec.get("anyOf", ())):
        return
    for one in (spec, *spec.get("anyOf", ())):
        one = _resolved(one, whole)
        held = one.get("additionalProperties")
        if isinstance(held, dict) and _room(held.get("$ref", "")):
            continue
        if one.get("properties") and "use" not in one["properties"]:
            yield key, one
        held = _resolved(held, whole) if isinstance(held, dict) else {}
        for each in (held, *held.get("anyOf", ()), *held.get("oneOf", ())):
            if each.get("properties") and "use" not in each["properties"]:
                yield f"{key}.NAME", each


def _resolved(spec: dict[str, Any], whole: dict[str, Any]) -> dict[str, Any]:
    ref = spec.get("$ref", "")
    if not ref or _room(ref):
        return {} if ref else spec
    found = whole
    for part in ref.removeprefix("#/").split("/"):
        found = found[part]
    return found


def _room(ref: str) -> str:
    name = ref.rsplit("/", 1)[-1]
    return name if name in registry.ROOMS else ""


def kind(spec: dict[str, Any], whole: dict[str, Any]) -> str:
    """What a value may be, in words: `whole number, at least 1`."""
    if room := _room(spec.get("$ref", "")):
        return f"entry of [{room}](rooms.md#{room})"
    if "$ref" in spec:
        return kind(_resolved(spec, whole), whole)
    if "allOf" in spec:
        return kind(spec["allOf"][0], whole)
    if any(x.get("properties", {}).get("use") for x in spec.get("oneOf", ())):
        return "entry of [designs](rooms.md#designs), with the keys below"
    for several in ("anyOf", "oneOf"):
        if several in spec:
            given = [x for x in spec[several] if x.get("type") != "null" and "use" not in x.get("properties", {})]
            listed = any("prefixItems" in x for x in given)
            return " or ".join(dict.fromkeys(kind(x, whole) for x in given if not listed or "prefixItems" in x))
    if "enum" in spec or "const" in spec:
        return ", ".join(markdown.code(_plain(x)) for x in spec.get("enum", [spec.get("const")]))
    word = _PLAIN.get(spec.get("type", ""), "anything")
    if spec.get("type") == "array" and "items" in spec:
        return f"list of: {kind(spec['items'], whole)}"
    if spec.get("type") == "array" and "prefixItems" in spec:
        return f"[{', '.join(x.get('title', kind(x, whole)) for x in spec['prefixItems'])}]"
    held = spec.get("additionalProperties")
    if spec.get("type") == "object" and isinstance(held, dict):
        return f"names with: {kind(held, whole)}"
    return ", ".join([word, *(f"{text} {_plain(spec[b])}" for b, text in _BOUNDS.items() if b in spec)])


def _default(value: Any) -> str:
    return "" if value in (None, "", [], {}) else markdown.code(_plain(value))


def _plain(value: Any) -> str:
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return f"{value:.0f}" if abs(value) >= 1e5 else f"{value:.1f}"
    return value if isinstance(value, str) else json.dumps(value)


def page(whole: dict[str, Any]) -> str:
    """The page `reference/study.md`, of the schema of a study."""
    parts, top = [_INTRODUCTION], []
    for name, spec in whole["properties"].items():
        section = _section(name, spec, whole)
        top.append((name, section, next(_row(name, spec, whole, name in whole["required"]))))
    rows = [(f"[`{n}`](#{n})", *row[1:]) if section else row for n, section, row in top]
    parts += [markdown.table(HEADER, rows)]
    for name, section, _ in top:
        if section:
            parts += [f"## {name}", section.get("description", ""), markdown.table(HEADER, keys(section, whole))]
    return markdown.page("Keys of a study", "`pipelines/study.py` and the classes of the rooms", *parts)


def _section(name: str, spec: dict[str, Any], whole: dict[str, Any]) -> dict[str, Any] | None:
    """The mapping of a section with its keys; None of a key that is none."""
    for one in (spec, *spec.get("anyOf", ())):
        found = _resolved(one, whole)
        if "oneOf" in found:  # the design: how many points, beside the keys of one
            use = {"$ref": "#/$defs/designs", "default": "sobol", "description": "the design; its keys stand beside"}
            return {"properties": {**found["oneOf"][-1]["properties"], "use": use}, "description": found["description"]}
        if found.get("properties"):
            return found
    made = {
        f"{n.partition('.')[2]}.{k}": v for n, part in _within(name, spec, whole) for k, v in part["properties"].items()
    }
    return {"description": spec.get("description", ""), "properties": made} if made else None


_INTRODUCTION = """A study is one YAML file. Every key can be changed on the command line: `--set design.runs=128`. `emulate schema`
prints the same as JSON Schema, from which editors complete; put `# yaml-language-server: $schema=study.schema.json` on the first
line. An empty default means that the key may be left out. Settings of an entry stand beside its `use`: see [Rooms](rooms.md)."""
