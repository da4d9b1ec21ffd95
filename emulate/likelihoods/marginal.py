"""Settings of a likelihood that are not known either: noise of unknown size, dispersion, heaviness of tails."""

import copy
import itertools
import math
from dataclasses import dataclass, fields, replace
from functools import cached_property, reduce
from operator import add
from typing import Annotated, Any, ClassVar, Self

import numpy as np
import torch
from annotated_types import Ge, Le
from torch import Tensor
from torch.distributions import Distribution

from emulate.contracts import Entry, Likelihood
from emulate.errors import InputError, nearest
from emulate.runs import Outputs
from emulate.space import PRIORS, Parameter, Space

_MOST = 4096  # likelihoods in one sum
_BLURRED = 2.0  # nodes that must share the weight of the best fit, or a peak falls between them


@dataclass(frozen=True, kw_only=True)
class Marginal(Likelihood):
    r"""Another likelihood with settings that have priors of their own, integrated out by quadrature.

    p(data | prediction) = \int p(data | prediction, s) p(s) ds = sum_k w_k p(data | prediction, s_k), with s = F^-1(u), F the
    prior's distribution function, and u_k, w_k those of Gauss and Legendre on [0, 1] in each setting. A setting is told
    by m numbers to about (2m)^-1/2 of itself: `nodes` must be several over the prior's range in units of that, and where
    one node holds all the weight of the best fit that is refused, not answered.

    `over` names settings of `of` with priors as parameters have them: `{absolute_error: {log_uniform: [0.01, 0.1]}}`, or
    `{parts.pk.absolute_error: ...}` within a combined likelihood. `settled` gives what the data say of them.

    >>> from emulate.distributions import Exact
    >>> from emulate.likelihoods.gaussian import Gaussian
    >>> noise = Marginal(of=Gaussian(absolute_error=1.0), over={"absolute_error": {"uniform": [1.0, 3.0]}})
    >>> noise.covariance(torch.zeros(1, dtype=torch.float64))  # E[s^2] = 13/3
    tensor([[4.3333]], dtype=torch.float64)
    """

    of: Likelihood  # likelihoods, {use: NAME, ...}: the noise whose settings are not known
    over: dict[str, dict[str, Any]]  # priors of its settings, {absolute_error: {log_uniform: [0.01, 0.1]}}
    nodes: Annotated[int, Ge(4), Le(256)] = 16  # of the quadrature in each setting
    emulator_covariance: bool = True  # add the predictive covariance of the emulator, as `of` does

    example: ClassVar[dict] = {"of": {"use": "student_t", "absolute_error": 0.5},
                               "over": {"absolute_error": {"log_uniform": [0.3, 0.9]}}}  # fmt: skip

    def __post_init__(self):
        if not hasattr(self.of, "emulator_covariance"):
            raise InputError(f"of must be a likelihood of noise around a prediction, such as gaussian. Got "
                             f"{self.of.entry_name()}.")  # fmt: skip
        if not self.over:
            raise InputError("over must name at least one setting with a prior, such as {absolute_error: {log_uniform: "
                             "[0.01, 0.1]}}. Got none; without unknown settings take the likelihood itself.")  # fmt: skip
        if self.nodes ** len(self.over) > _MOST:
            raise InputError(f"over and nodes must make at most {_MOST} likelihoods. Got {self.nodes} nodes in each of "
                             f"{len(self.over)} settings; lower nodes.")  # fmt: skip
        for value in self._space.from_unit(torch.tensor([[0.0], [0.5], [1.0]]).double().expand(3, len(self.over))):
            self._at(value)

    def on(self, outputs: Outputs) -> Self:
        made = copy.copy(self)
        vars(made).pop("_parts", None)
        object.__setattr__(made, "of", self.of.on(outputs))
        return made

    def log_prob(self, prediction: Distribution, data: Tensor) -> Tensor:
        parts = self._each(prediction, data)
        value = torch.logsumexp(parts, 0)
        self._demand_resolved(parts.detach(), value.detach())
        return torch.where(torch.isnan(value), -torch.inf, value)

    def covariance(self, data: Tensor, prediction: Distribution | None = None) -> Tensor:
        weight = self._weight.to(data)
        return reduce(add, (w * part.covariance(data, prediction) for w, part in zip(weight, self._parts, strict=True)))

    def sample(self, truth: Tensor, *, seed: int) -> Tensor:
        u = torch.from_numpy(np.random.default_rng([seed, 1]).random(len(self.over)))
        return self._at(self._space.from_unit(u)).sample(truth, seed=seed)

    def settled(self, prediction: Distribution, data: Tensor) -> dict[str, tuple[float, float]]:
        """Mean and standard deviation of every setting, given data `[m]` and a prediction of it."""
        parts = self._each(prediction, data).detach()
        self._demand_resolved(parts, torch.logsumexp(parts, 0))
        share = torch.softmax(parts, 0)
        mean = share @ self._places
        sd = (share @ (self._places - mean).square()).sqrt()
        return {n: (float(m), float(s)) for n, m, s in zip(self.over, mean, sd, strict=True)}

    def _each(self, prediction: Distribution, data: Tensor) -> Tensor:
        """ln w_k p(data | prediction, s_k) `[k, ...]`."""
        parts = torch.stack([part.log_prob(prediction, data) for part in self._parts])
        return parts + self._weight.log().to(parts).reshape(-1, *[1] * (parts.ndim - 1))

    def _demand_resolved(self, parts: Tensor, value: Tensor) -> None:
        """Complain where the best fit stands on one node that is no edge of the prior."""
        if not value.isfinite().any():
            return
        best = torch.softmax(
            parts.reshape(len(parts), -1)[:, int(value.flatten().nan_to_num(-math.inf, None, -math.inf).argmax())], 0
        )
        grid = best.reshape([self.nodes] * len(self.over))
        for i, name in enumerate(self.over):
            share = grid.sum([j for j in range(grid.ndim) if j != i]) if grid.ndim > 1 else grid
            inner = 2 <= int(share.argmax()) < self.nodes - 2
            if inner and float(1 / share.square().sum()) < _BLURRED:
                raise InputError(f"nodes must resolve what the data say of {name}. Got {self.nodes}, of which one holds "
                                 f"{float(share.max()):.0%}; raise nodes, or narrow the prior in over.{name}.")  # fmt: skip

    @cached_property
    def _space(self) -> Space:
        return Space(tuple(Parameter(f"s{i}", _prior(n, spec)) for i, (n, spec) in enumerate(self.over.items())))

    @cached_property
    def _places(self) -> Tensor:
        """s_k `[k, settings]`."""
        u = (np.polynomial.legendre.leggauss(self.nodes)[0] + 1) / 2
        grid = torch.tensor(list(itertools.product(*[u] * len(self.over))), dtype=torch.float64)
        return self._space.from_unit(grid)

    @cached_property
    def _weight(self) -> Tensor:
        """w_k `[k]`."""
        w = np.polynomial.legendre.leggauss(self.nodes)[1] / 2
        return torch.tensor([math.prod(some) for some in itertools.product(*[w] * len(self.over))], dtype=torch.float64)

    @cached_property
    def _parts(self) -> list[Likelihood]:
        return [self._at(s) for s in self._places]

    def _at(self, values: Tensor) -> Likelihood:
        """`of` with these settings `[settings]`."""
        made = self.of
        for name, value in zip(self.over, values.tolist(), strict=True):
            made = _with(made, name.split("."), value, name)
        if not self.emulator_covariance:
            made = _with(made, ["emulator_covariance"], False, "emulator_covariance")
        return made


def _with(entry: Any, path: list[str], value: Any, name: str) -> Any:
    """The entry with one setting, deep within it or at its top, replaced; it stays told of its outputs."""
    first, *rest = path
    known = entry if isinstance(entry, dict) else {f.name: getattr(entry, f.name) for f in fields(entry) if f.init}
    if first not in known or (rest and not isinstance(known[first], dict | Entry)):
        raise InputError(
            f"over.{name}: there is no such setting. Settings are {', '.join(known)}.{nearest(first, known)}"
        )
    if rest:
        value = _with(known[first], rest, value, name)
    elif first != "emulator_covariance" and not _numeric(known[first]):
        raise InputError(f"over.{name}: must be a setting that is one number. Got one that is {known[first]!r}.")
    if isinstance(entry, dict):
        return {**entry, first: value}
    made = replace(entry, **{first: value})
    if getattr(entry, "outputs", None) is not None:
        object.__setattr__(made, "outputs", entry.outputs)
    return made


def _numeric(value: Any) -> bool:
    """A number, or a setting that is empty until it is given one."""
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _prior(name: str, spec: Any) -> Any:
    kind, values = next(iter(spec.items())) if isinstance(spec, dict) and len(spec) == 1 else (None, None)
    if kind not in PRIORS:
        raise InputError(f"over.{name}: must be one prior of {', '.join(PRIORS)}, such as {{log_uniform: [0.01, 0.1]}}. "
                         f"Got {spec}.")  # fmt: skip
    keys = [f.name for f in fields(PRIORS[kind])]
    given = list(values.values()) if isinstance(values, dict) and list(values) == keys else values
    if (
        not isinstance(given, list | tuple)
        or len(given) != len(keys)
        or not all(_numeric(v) and v is not None for v in given)
    ):
        raise InputError(f"over.{name}.{kind}: must be [{', '.join(keys)}]. Got {values}.")
    try:
        return PRIORS[kind](*map(float, given))
    except InputError as e:
        raise InputError(f"over.{name}: {e}") from None
