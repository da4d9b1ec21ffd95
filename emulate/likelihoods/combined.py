"""Several data sets with noise of different kinds: a likelihood for each field of the outputs."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any, ClassVar, NamedTuple, Self, cast

import torch
from torch import Tensor
from torch.distributions import Distribution

from emulate.contracts import Likelihood
from emulate.distributions import gaussian_of
from emulate.errors import InputError, nearest
from emulate.likelihoods._around import Around, Local, demand_told
from emulate.likelihoods._laplace import marginal
from emulate.likelihoods.gaussian import Gaussian, normal
from emulate.runs import Outputs
from emulate.seeds import replicate


class _Part(NamedTuple):
    """The part of a prediction that one likelihood sees."""

    mean: Tensor
    own: Tensor

    def gaussian(self) -> tuple[Tensor, Tensor]:
        return self.mean, self.own


@dataclass(frozen=True, kw_only=True)
class Combined(Likelihood):
    r"""Several data sets: a likelihood for each field, independent given y, and joined by the emulator's covariance.

    p(data) = \int prod_f p_f(data_f | y_f) p(y | prediction) dy. The emulator errs in all fields at once, so that its
    covariance between them counts; the integral is Laplace's (`poisson` says how close), and exact where all noise is
    normal. Scale, offset and discrepancy are each part's own.

    `parts` names a likelihood for every field of the outputs, which `on` tells: `{pk: {use: gaussian, relative_error: 0.05},
    counts: poisson}`. Parts are likelihoods of noise around a prediction. `InputError` when a field has no part, or a part
    no field.
    """

    parts: dict[str, Likelihood]  # a likelihood for every field of the outputs, {field: {use: NAME, ...}}
    emulator_covariance: bool = True  # add the predictive covariance of the emulator, within fields and between them

    example: ClassVar[dict] = {
        "parts": {"pk": {"use": "gaussian", "absolute_error": 0.5}, "counts": {"use": "poisson"}}
    }
    outputs: ClassVar[Outputs | None] = None  # what `on` was told, an attribute of the instance alone

    def __post_init__(self):
        for name, part in self.parts.items():
            if not isinstance(part, Around):
                raise InputError(f"parts.{name} must be a likelihood of noise around a prediction, such as gaussian or poisson. "
                                 f"Got {part.entry_name()}.")  # fmt: skip

    def on(self, outputs: Outputs) -> Self:
        """The same likelihood, its parts in the order of the fields."""
        names = [f.name for f in outputs.fields]
        for name in self.parts:
            if name not in names:
                raise InputError(
                    f"parts.{name}: there is no such output. Fields are {', '.join(names)}.{nearest(name, names)}"
                )
        if missing := [n for n in names if n not in self.parts]:
            raise InputError(
                f"parts must name a likelihood for every field. Got none for {', '.join(missing)}; add it."
            )
        made = copy.copy(self)
        object.__setattr__(made, "outputs", outputs)
        object.__setattr__(made, "parts", {f.name: self.parts[f.name].on(Outputs((f,))) for f in outputs.fields})
        return made

    def log_prob(self, prediction: Distribution, data: Tensor) -> Tensor:
        self._told(data)
        if all(isinstance(part, Gaussian) and part.normal for part, _ in self._places):
            return normal(data - gaussian_of(prediction)[0], self.covariance(data, prediction))
        return self._marginal(prediction, data)

    def _marginal(self, prediction: Distribution, data: Tensor) -> Tensor:
        mean, own = gaussian_of(prediction)
        own = own.expand(*mean.shape, mean.shape[-1])
        covariance = self._joint(
            own, lambda part, s: part.widened(torch.zeros_like(own[..., s, s]), mean[..., s], own[..., s, s])
        )
        log = torch.cat([torch.full((s.stop - s.start,), part.logarithmic) for part, s in self._places])
        return marginal(self._local(data), mean, covariance, log)

    def covariance(self, data: Tensor, prediction: Distribution | None = None) -> Tensor:
        self._told(data)
        if prediction is None:
            none = data.new_zeros(*data.shape, data.shape[-1])
            return self._joint(none, lambda part, s: part.covariance(data[..., s]))
        mean, own = gaussian_of(prediction)
        shape = torch.broadcast_shapes(own.shape, (*data.shape, 1), (*mean.shape, 1))
        return self._joint(
            own.expand(shape), lambda part, s: part.covariance(data[..., s], _Part(mean[..., s], own[..., s, s]))
        )

    def sample(self, truth: Tensor, *, seed: int) -> Tensor:
        self._told(truth)
        return torch.cat([p.sample(truth[s], seed=replicate(seed, i)) for i, (p, s) in enumerate(self._places, 1)])

    @property
    def _places(self) -> list[tuple[Around, slice]]:
        """Every part with its place in the outputs, in their order."""
        return [(cast(Around, self.parts[name]), s) for name, s in cast(Outputs, self.outputs).slices.items()]

    def _told(self, data: Tensor) -> None:
        demand_told("a combined likelihood", self.outputs, data.shape[-1])

    def _joint(self, own: Tensor, block: Any) -> Tensor:
        """The emulator's covariance between the fields that count it, and within each field what its part says."""
        counted = torch.cat([own.new_full((s.stop - s.start,), part.emulator_covariance and self.emulator_covariance)
                             for part, s in self._places])  # fmt: skip
        made = own * counted[:, None] * counted
        for part, s in self._places:
            made[..., s, s] = block(part if self.emulator_covariance else _deaf(part), s)
        return made

    def _local(self, data: Tensor) -> Callable[[Tensor], Local]:
        parts = [(part.local(data[..., s]), s) for part, s in self._places]

        def at(w: Tensor) -> Local:
            found = [(local(w[..., s]), s) for local, s in parts]
            slope = torch.cat([one.slope for one, _ in found], -1)
            weight = _blocks([(one.weight, s) for one, s in found], slope)
            if all(one.weight is one.steady for one, _ in found):
                steady = weight
            else:
                steady = _blocks([(one.steady, s) for one, s in found], slope)
            return Local(reduce(add, (one.value for one, _ in found)), slope, weight, steady)

        return at


def _blocks(parts: list[tuple[Tensor, slice]], like: Tensor) -> Tensor:
    """Blocks `[..., k, k]` on the diagonal of a matrix `[..., m, m]`, for `like` `[..., m]`."""
    made = like.new_zeros(*like.shape, like.shape[-1])
    for block, s in parts:
        made[..., s, s] = block
    return made


def _deaf(part: Around) -> Around:
    """The part without the emulator's covariance."""
    made = copy.copy(part)
    object.__setattr__(made, "emulator_covariance", False)
    return made
