"""Any Python callable as a simulator."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from emulate.contracts import Simulator
from emulate.errors import RunFailed
from emulate.simulators._callables import find, numbers, source
from emulate.simulators._fields import NUMBER, OutputsSetting
from emulate.space import Parameter, Space, Uniform


@dataclass(frozen=True, kw_only=True)
class Function(Simulator):
    """Any Python callable, named "module:function", that takes named values or an array and returns numbers.

    With `argument: dict` it is called as `function({"omega_m": 0.3, ...})`, with `argument: keywords` as
    `function(omega_m=0.3, ...)`, with `argument: array` as `function(theta)` with a float64 array `[d]`; a stochastic one
    also gets the keyword `seed`. It returns a number, an array of all
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
    argument: Literal["dict", "keywords", "array"] = "dict"  # it takes values by name, or an array [d]
    outputs: OutputsSetting = NUMBER  # fields, each with name, size or at, unit ...
    stochastic: bool = False  # it takes the keyword `seed` and draws its noise from it alone
    revision: str = ""  # any word; change it when files that the callable uses have changed

    example: ClassVar[dict] = {"call": "statistics:fmean", "argument": "array", "space": Space((
        Parameter("a", Uniform(0.0, 1.0)), Parameter("b", Uniform(0.0, 1.0))))}  # fmt: skip

    @property
    def version(self) -> str:
        """The first digits of the sha256 of the callable's source file."""
        return hashlib.sha256(source(self.call).read_bytes()).hexdigest()[:16]

    def run(self, theta: Tensor, *, seed: int) -> Tensor:
        values = theta.detach().numpy().astype(np.float64)
        named = dict(zip(self.space.names, values.tolist(), strict=True))
        given = {"dict": (named,), "keywords": (), "array": (values.copy(),)}[self.argument]
        keywords = named if self.argument == "keywords" else {}
        answer = find(self.call)(*given, **keywords, **({"seed": seed} if self.stochastic else {}))
        return torch.from_numpy(self._named(answer) if isinstance(answer, Mapping) else self._flat(answer))

    def _flat(self, answer: Any) -> np.ndarray:
        return numbers(self.call, answer, self.outputs.size, "")

    def _named(self, answer: Mapping[str, Any]) -> np.ndarray:
        declared = self.outputs.fields
        missing = [f.name for f in declared if f.name not in answer]
        if missing:
            raise RunFailed("badshape", f"{self.call} must return a dict with every declared output "
                                        f"({', '.join(f.name for f in declared)}). Missing: {', '.join(missing)}; "
                                        f"it has {', '.join(map(str, answer))}.")  # fmt: skip
        return np.concatenate([numbers(self.call, answer[f.name], f.size, f" of {f.name}") for f in declared])
