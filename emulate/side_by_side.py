"""Every method of the room of gradients on one program whose derivative is known: bias, scatter and price side by side."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from emulate import registry
from emulate.contracts import Estimate, Finding
from emulate.errors import InputError
from emulate.replication import each, lift

LEVEL = 0.9999  # of all intervals of a comparison together: they must hold the truth
_DEAR = {
    "finite_difference": 200,
    "reverse": 200,
    "conditional": 80,
    "surrogate": 20,
}  # take so many times fewer replicates,
_FEWEST = {"surrogate": 500}  # but not fewer than this, else 50
_ALONE = 200  # replicates of all methods where the program cannot be batched
_VERDICTS = ("exact", "holds", "bias unknown", "WRONG", "refused")
_ROUNDING = 1e-9  # of the truth: what lies within is exact


@dataclass(frozen=True)
class Side:
    """One method beside the others.

    made: its estimate of the derivatives `[m, d]`, None where it refused, and then `refused` says why; truth `[m, d]`;
    settings: those that are not the defaults; n: replicates; level: of the interval that must hold the truth.
    """

    method: str
    truth: Tensor
    settings: Mapping[str, Any] = field(default_factory=dict)
    made: Estimate | None = None
    refused: str = ""
    n: int = 1
    level: float = LEVEL

    @property
    def name(self) -> str:
        """The method with its settings."""
        told = ", ".join(f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}" for k, v in self.settings.items())
        return f"{self.method}, {told}" if told else self.method

    @property
    def _made(self) -> Estimate:
        if self.made is None:
            raise InputError(
                f"{self.method} refused, and has no estimate: {self.refused} Ask only where `made` is not None."
            )
        return self.made

    @property
    def bias(self) -> Tensor:
        """`[m, d]`: the estimate less the truth; known to `error` only."""
        return self._made.gradient - self.truth

    @property
    def error(self) -> Tensor:
        """The standard error of the estimate `[m, d]`, 0 where it is exact to rounding."""
        return self._made.standard_error

    @property
    def deviation(self) -> Tensor:
        """The standard deviation of one replicate `[m, d]`."""
        return self.error * math.sqrt(self.n)

    @property
    def calls(self) -> float:
        """Runs of the program for each replicate."""
        return self._made.calls / self.n

    @property
    def seen(self) -> Tensor:
        """bool `[m, d]`: where a bias stands above the noise, at two standard errors, or above rounding."""
        return self.bias.abs() > torch.maximum(2 * self.error, _ROUNDING * _size(self.truth))

    @property
    def verdict(self) -> str:
        """`refused`; `bias unknown`; `exact` to rounding; `holds`: its interval, widened by the bound of its bias, holds the
        truth; or `WRONG`."""
        if self.made is None:
            return "refused"
        e, slack = self.made, _ROUNDING * _size(self.truth)
        if bool((self.bias.abs() <= slack).all()) and bool((e.bias_bound.nan_to_num() <= slack).all()):
            return "bias unknown" if bool(e.bias_bound.isnan().any()) else "exact"
        if bool(e.bias_bound.isnan().any()):
            return "bias unknown"
        low, high = e.interval(self.level)
        return "holds" if bool(((low <= self.truth + slack) & (high >= self.truth - slack)).all()) else "WRONG"

    def row(self, output: int, parameter: int) -> dict[str, Any]:
        """What a table says of one derivative: figures over the size of the truth, and NaN where the method refused."""
        of: dict[str, float] = dict.fromkeys(("bias", "error", "deviation", "bound", "calls"), math.nan)
        if self.made is not None:
            at, size = (output, parameter), float(_size(self.truth)[output, parameter])
            tensors = {
                "bias": self.bias,
                "error": self.error,
                "deviation": self.deviation,
                "bound": self.made.bias_bound,
            }
            of = {k: float(t[at]) / size for k, t in tensors.items()} | {"calls": self.calls}
        return {"method": self.name, **of, "verdict": self.verdict, "refused": self.refused}


def compare(f: Any, theta: Tensor, truth: Tensor, *, seed: int, n: int, methods: Sequence[str] | None = None,
            ladders: Mapping[str, Sequence[Mapping[str, Any]]] | None = None) -> tuple[Side, ...]:  # fmt: skip
    """Every method of the room, or those of `methods`, at its defaults, or at each setting that `ladders` has of its name.

    f: what `emulate.replication.lift` takes; truth: dE[f]/dtheta `[m, d]` at theta `[d]`; n: replicates of what is random; methods
    that are dear take fewer. What refuses f stands there with its reason.

    >>> from torch.distributions import Normal
    >>> f = lambda theta, noise: noise.draw("x", Normal(theta[0], 1.0)) ** 2
    >>> at, slope = torch.tensor([1.0], dtype=torch.float64), torch.tensor([[2.0]], dtype=torch.float64)
    >>> [s.verdict for s in compare(f, at, slope, seed=0, n=1000, methods=("mixed", "score", "adjoint"))]
    ['exact', 'holds', 'refused']
    """
    names = registry.names("gradients") if methods is None else methods
    specs = [(name, dict(of)) for name in names for of in (ladders or {}).get(name, ({},))]
    sample = each(lambda noise: lift(f)(theta, noise), seed, 4)
    random, alone = sample.random(sample.answer), bool(sample.alone) or sample.record.opaque
    level = 1 - (1 - LEVEL) / (len(specs) * truth.numel())
    found = []
    for name, settings in specs:
        method = registry.build("gradients", {"use": name, **settings})
        count = n if random or method.draws else 1
        count = min(count, max(count // _DEAR.get(name, 1), _FEWEST.get(name, 50)), _ALONE if alone else count)
        side = {"method": name, "truth": truth, "settings": settings, "n": count, "level": level}
        try:
            found.append(Side(**side, made=method.estimate(f, theta, seed=seed, n=count)))
        except (InputError, RuntimeError, TypeError, ValueError) as e:
            found.append(Side(**side, refused=str(e).split("\n", 1)[0] or type(e).__name__))
    return tuple(found)


def finding(sides: Sequence[Side]) -> Finding:
    """Whether every method that tells an interval holds the truth in it."""
    kinds = {v: [s.name for s in sides if s.verdict == v] for v in _VERDICTS}
    told = "; ".join(f"{v}: {', '.join(names)}" for v, names in kinds.items() if names)
    wrong, verb = len(kinds["WRONG"]), "must hold" if kinds["WRONG"] else "hold"
    return Finding("methods", float(wrong), None, 0.0, f"All methods of the room side by side: their intervals {verb} the "
                   f"derivative that is known in closed form, at {LEVEL:.2%} for all of them together. {told}.")  # fmt: skip


def _size(truth: Tensor) -> Tensor:
    """What a derivative `[m, d]` is measured by: its own size, or the largest of that parameter where it is next to nothing."""
    least = 1e-6 * truth.abs().amax(0)
    return torch.maximum(truth.abs(), torch.where(least > 0, least, 1.0))
