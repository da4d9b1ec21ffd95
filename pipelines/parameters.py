"""The section `parameters` of a study: names with priors, `h: {uniform: [0.6, 0.8], unit: "", label: h}`."""

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from emulate import registry
from emulate.errors import InputError, nearest, shown

if TYPE_CHECKING:
    from emulate.space import Parameter, Space


def read_space(entries: Any) -> "Space":
    """The section `parameters` as a Space; an `InputError` with one line per problem."""
    from emulate.space import Space

    if not isinstance(entries, Mapping) or not entries:
        raise InputError("parameters: must be names with their priors, such as {h: {uniform: [0.6, 0.8]}}. "
                         f"Got {shown(entries)}.")  # fmt: skip
    made, said = [], []
    for name, entry in entries.items():
        try:
            made.append(_parameter(name, entry))
        except InputError as e:
            said.append(str(e))
    if said:
        raise InputError("\n".join(said))
    return Space(tuple(made))


def _parameter(name: str, entry: Any) -> "Parameter":
    from emulate.space import PRIORS, Parameter

    path = f"parameters.{name}"
    if not isinstance(entry, Mapping):
        raise InputError(f"{path}: must be a prior, such as {{uniform: [low, high]}}. Got {shown(entry)}.")
    allowed = (*PRIORS, "unit", "label")
    if unknown := [k for k in entry if k not in allowed]:
        raise InputError("\n".join(f"{path}.{k}: this key is not known. Keys allowed here: {', '.join(allowed)}"
                                   f".{nearest(k, allowed)}" for k in unknown))  # fmt: skip
    kinds = [k for k in entry if k in PRIORS]
    if len(kinds) != 1:
        raise InputError(f"{path}: must have one prior of {', '.join(PRIORS)}. Got {' and '.join(kinds) or 'none'}.")
    kind = kinds[0]
    keys = tuple(f.name for f in fields(PRIORS[kind]))
    values = entry[kind]
    if isinstance(values, list) and len(values) == len(keys):
        values = dict(zip(keys, values, strict=True))
    if not isinstance(values, Mapping) or set(values) != set(keys):
        raise InputError(f"{path}.{kind}: must be [{', '.join(keys)}]. Got {shown(values)}.")
    try:
        prior = registry.validate(PRIORS[kind], values, path=f"{path}.{kind}")
        words = {k: _text(entry[k], f"{path}.{k}") for k in ("unit", "label") if entry.get(k) is not None}
        return Parameter(name, prior, **words)
    except InputError as e:
        said = str(e).replace(f"{path}.{kind}: {kind}: ", f"{path}.{kind}: ")
        raise InputError(said if said.startswith(path) else f"{path}: {said}") from None


def _text(value: Any, path: str) -> str:
    if not isinstance(value, str):
        raise InputError(f"{path}: must be text (quotes make a text). Got {shown(value)}.")
    return value
