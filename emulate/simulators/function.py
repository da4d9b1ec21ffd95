"""Any Python callable as a simulator."""

import hashlib
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import BeforeValidator
from torch import Tensor

from emulate.contracts import Simulator
from emulate.errors import InputError, RunFailed, nearest
from emulate.runs import Field, Outputs
from emulate.space import Parameter, Space, Uniform

_NUMBER = Outputs((Field("y"),))
_KEYS = ("name", "size", "unit", "positive", "coordinate", "at", "at_unit", "label")


def _outputs(value: Any) -> Outputs:
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
        if key not in _KEYS:
            raise InputError(f"output {entry['name']!r}: the key {key!r} is not known; keys are {', '.join(_KEYS)}"
                             f".{nearest(key, _KEYS)}")  # fmt: skip
    given = dict(entry)
    size = given.pop("size", None)
    if size is not None:
        if isinstance(size, bool) or not isinstance(size, int) or size < 1 or given.get("at"):
            raise InputError(f"output {entry['name']!r}: size must be a whole number above 0, and stand without `at`. "
                             f"Got {size!r}.")  # fmt: skip
        given |= {"coordinate": given.get("coordinate", "index"), "at": range(size)}
    try:
        return Field(**{**given, "at": tuple(float(x) for x in given.get("at", ()))})
    except (TypeError, ValueError) as e:
        if isinstance(e, InputError):
            raise
        raise InputError(f"output {entry['name']!r}: `at` must be a list of numbers. Got {entry['at']!r}.") from None


_Outputs = Annotated[Outputs, BeforeValidator(_outputs, json_schema_input_type=list[dict[str, Any]])]


@dataclass(frozen=True, kw_only=True)
class Function(Simulator):
    """Any Python callable, named "module:function", that takes named values or an array and returns numbers.

    With `argument: dict` it is called as `function({"omega_m": 0.3, ...})`, with `argument: array` as `function(theta)`
    with a float64 array `[d]`; a stochastic one also gets the keyword `seed`. It returns a number, an array of all
    outputs end to end, or a dict with an array for each declared output; it raises to fail. The module may lie in the
    current directory. The content of its file enters the key of every run, so a changed file is run again; change
    `revision` when something else that it uses has changed.

    Raises InputError when the callable cannot be found, and RunFailed when a run's answer is not what is declared.

    >>> from emulate.space import Parameter, Uniform
    >>> space = Space((Parameter("x", Uniform(0.0, 1.0)),))
    >>> Function(space=space, call="statistics:fmean", argument="array").run(torch.tensor([0.25]).double(), seed=0)
    tensor([0.2500], dtype=torch.float64)
    """

    space: Space
    call: str  # "module:function", importable from the current directory too
    argument: Literal["dict", "array"] = "dict"  # what it takes: values by parameter name, or an array [d]
    outputs: _Outputs = _NUMBER  # fields, each with name, size or at, unit ...
    stochastic: bool = False  # it takes the keyword `seed` and draws its noise from it alone
    revision: str = ""  # any word; change it when files that the callable uses have changed

    example: ClassVar[dict] = {"call": "statistics:fmean", "argument": "array", "space": Space((
        Parameter("a", Uniform(0.0, 1.0)), Parameter("b", Uniform(0.0, 1.0))))}  # fmt: skip

    @property
    def version(self) -> str:
        """The first digits of the sha256 of the callable's source file."""
        return hashlib.sha256(_source(self.call).read_bytes()).hexdigest()[:16]

    def run(self, theta: Tensor, *, seed: int) -> Tensor:
        values = theta.detach().numpy().astype(np.float64)
        named = self.argument == "dict"
        argument = dict(zip(self.space.names, values.tolist(), strict=True)) if named else values.copy()
        answer = _find(self.call)(argument, **({"seed": seed} if self.stochastic else {}))
        return torch.from_numpy(self._named(answer) if isinstance(answer, Mapping) else self._flat(answer))

    def _flat(self, answer: Any) -> np.ndarray:
        return _numbers(self.call, answer, self.outputs.size, "")

    def _named(self, answer: Mapping[str, Any]) -> np.ndarray:
        declared = self.outputs.fields
        missing = [f.name for f in declared if f.name not in answer]
        if missing:
            raise RunFailed("badshape", f"{self.call} must return a dict with every declared output "
                                        f"({', '.join(f.name for f in declared)}). Missing: {', '.join(missing)}; "
                                        f"it has {', '.join(map(str, answer))}.")  # fmt: skip
        return np.concatenate([_numbers(self.call, answer[f.name], f.size, f" of {f.name}") for f in declared])


def _numbers(call: str, value: Any, size: int, what: str) -> np.ndarray:
    """float64 `[size]`."""
    a = np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value)
    if a.dtype.kind not in "fiub":
        raise RunFailed("badshape", f"{call} must return real numbers{what}. Got {type(value).__name__} of {a.dtype}.")
    if a.size != size:
        raise RunFailed("badshape", f"{call} must return the declared {size} values{what} in every run. Got {a.size}, "
                                    f"shape {a.shape}; declare what it returns under `outputs`, or mend it if it "
                                    "changes shape between runs.")  # fmt: skip
    return a.astype(np.float64).ravel()


def _find(call: str) -> Callable:
    module, _, name = call.partition(":")
    if not module or not name:
        raise InputError(f'call must be "module:function". Got {call!r}; write the module, a colon, and the name.')
    here = os.getcwd()
    if here not in sys.path:
        sys.path.append(here)  # at the end: a file of the user's shadows nothing
    try:
        found: Any = importlib.import_module(module)
    except Exception as e:  # the user's file may raise anything
        if not isinstance(e, ModuleNotFoundError):
            raise InputError(f"call: {module!r} broke while it was imported: {type(e).__name__}: {e}. Mend it.") from e
        raise InputError(f"call: {call!r} cannot be imported: {e}. Put {module.partition('.')[0]}.py into {here}, or "
                         "install its package.") from None  # fmt: skip
    for part in name.split("."):
        if not hasattr(found, part):
            public = [n for n in dir(found) if not n.startswith("_")]
            raise InputError(f"call: {module!r} has no {name!r}.{nearest(name, public)} "
                             "Mend the name after the colon.")  # fmt: skip
        found = getattr(found, part)
    if not callable(found):
        raise InputError(f"call must name something that can be called. Got {call!r}, a {type(found).__name__}.")
    return found


def _source(call: str) -> Path:
    """The file that holds the callable; for an object or compiled code, the file of its module."""
    found = inspect.unwrap(_find(call))
    module = sys.modules[getattr(found, "__module__", None) or call.partition(":")[0]]
    file = getattr(module, "__file__", None) or getattr(sys.modules[call.partition(":")[0]], "__file__", None)
    if file is None:
        raise InputError("call must name a callable of a file, whose content says when to run again. "
                         f"Got {call!r}; wrap it in a function of your own.")  # fmt: skip
    return Path(file)
