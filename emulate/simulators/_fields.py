"""Outputs as a study writes them: a list of fields, each with a name, and for a vector `size`, or `at`."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator

from emulate.errors import InputError, nearest
from emulate.runs import Field, Outputs

NUMBER = Outputs((Field("y"),))
_MOST = 10_000_000  # values of one field: a name is made for each
KEYS = ("name", "size", "unit", "positive", "coordinate", "at", "at_unit", "label")


def outputs_of(value: Any) -> Outputs:
    """A list of fields as a study writes them: a name, and for a vector `size`, or `coordinate` with `at`."""
    if isinstance(value, Outputs):
        return value
    if isinstance(value, Mapping) and set(value) == {"fields"}:  # as plain data of an `Outputs`
        value = value["fields"]
    if not isinstance(value, list | tuple):
        raise InputError(f"outputs must be a list of fields. Got {value!r}; write - {{name: y}}.")
    return Outputs(tuple(f if isinstance(f, Field) else _field(f) for f in value))


def _field(entry: Any) -> Field:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
        raise InputError(f"an output must be a mapping with a name. Got {entry!r}; write - {{name: y}}.")
    for key in entry:
        if key not in KEYS:
            raise InputError(f"output {entry['name']!r}: the key {key!r} is not known; keys are {', '.join(KEYS)}"
                             f".{nearest(key, KEYS)}")  # fmt: skip
    given = dict(entry)
    size = given.pop("size", None)
    if size is not None:
        if isinstance(size, bool) or not isinstance(size, int) or size < 1 or given.get("at"):
            raise InputError(f"output {entry['name']!r}: size must be a whole number above 0, and stand without `at`. "
                             f"Got {size!r}.")  # fmt: skip
        if size > _MOST:
            raise InputError(f"output {entry['name']!r}: size must be at most {_MOST}. Got {size}; declare what an emulator "
                             "is to learn, such as a spectrum or every tenth value.")  # fmt: skip
        given |= {"coordinate": given.get("coordinate", "index"), "at": range(size)}
    try:
        return Field(**{**given, "at": tuple(float(x) for x in given.get("at", ()))})
    except (TypeError, ValueError) as e:
        if isinstance(e, InputError):
            raise
        raise InputError(f"output {entry['name']!r}: `at` must be a list of numbers. Got {entry['at']!r}.") from None


OutputsSetting = Annotated[Outputs, BeforeValidator(outputs_of, json_schema_input_type=list[dict[str, Any]])]
