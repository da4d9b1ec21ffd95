"""Derived parameters: functions of the parameters that a posterior is asked about, such as S_8 = sigma_8 (Omega_m / 0.3)^0.5."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from emulate.errors import InputError
from emulate.expressions import Expression
from emulate.space import Space


@dataclass(frozen=True)
class Derived:
    """A derived parameter: its name, its expression, its unit in words, its label in LaTeX (without $).

    >>> from emulate.space import Parameter, Uniform
    >>> space = Space((Parameter("a", Uniform(0, 1)), Parameter("b", Uniform(0, 1))))
    >>> made = read({"c": "a + b", "c2": "c**2"}, space)
    >>> values(space, made, torch.tensor([[0.5, 0.25]], dtype=torch.float64))
    tensor([[0.7500, 0.5625]], dtype=torch.float64)
    """

    name: str
    expression: Expression
    unit: str = ""
    label: str = ""

    def to_dict(self) -> dict[str, str]:
        """Plain JSON that a study takes back."""
        words = {k: v for k, v in (("unit", self.unit), ("label", self.label)) if v}
        return {"expression": self.expression.text, **words}


def read(entries: Mapping[str, str | Mapping[str, str]], space: Space) -> tuple[Derived, ...]:
    """Derived parameters by name: the text of each, or its `expression` with `unit` and `label`.

    An expression reads the parameters of the space and derived ones before it. Raises InputError.
    """
    made: list[Derived] = []
    for name, entry in entries.items():
        text, words = (entry, {}) if isinstance(entry, str) else (entry["expression"], dict(entry))
        words.pop("expression", None)
        if not isinstance(name, str) or not name.isidentifier() or name in space.names:
            met = "a parameter of the space" if name in space.names else repr(name)
            raise InputError(
                f"a derived parameter's name must be a new one of letters, digits and _. Got {met}; rename it."
            )
        made.append(
            Derived(name, Expression.read(text, dict.fromkeys((*space.names, *(d.name for d in made)))), **words)
        )
    return tuple(made)


def values(space: Space, derived: Sequence[Derived], theta: Tensor) -> Tensor:
    """The derived parameters `[..., k]` at theta `[..., d]`, differentiable."""
    known = space.unpack(theta)
    for d in derived:
        known[d.name] = d.expression(known).expand(theta.shape[:-1])
    return torch.stack([known[d.name] for d in derived], -1) if derived else theta.new_empty(*theta.shape[:-1], 0)
