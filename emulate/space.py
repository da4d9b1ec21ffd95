"""Parameters with their priors, and the map between physical values `theta` and the unit cube `u`.

`u = F(theta)` is the prior's distribution function, so a uniform `u` is a draw from the prior. Outside the
support of a bounded prior `u` continues linearly below 0 and above 1: the distance from the box is `u - 1` or `-u`.
`scaled` are the coordinates that emulators work in: `u` for uniform and log-uniform priors, but linear in theta for
normal ones, and in ln theta for log-normal ones: a function that is smooth in theta is not smooth in F(theta) where the
prior has tails.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.special import ndtr, ndtri

from emulate.errors import InputError, nearest
from emulate.labelled import columns, is_labelled

_EDGE = 1e-12  # an unbounded prior reaches u = 0 and u = 1 at infinity only
Log = Callable[[Tensor], Tensor]


def _need(good: bool, sentence: str) -> None:
    if not good:
        raise InputError(sentence)


def _numbers(values: Any, name: str) -> Tensor:
    """float64 from anything that numpy reads as real numbers."""
    try:
        given = np.asarray(values)
        if given.dtype.kind in "cmM":
            raise TypeError("a complex number is not real" if given.dtype.kind == "c" else "a time has no unit here")
        return torch.as_tensor(np.array(given, dtype=np.float64))
    except (TypeError, ValueError) as e:
        raise InputError(f"{name} must be real numbers. Got {str(values)[:60]!r} ({e}); give an array [n, d], or one value "
                         "for each parameter by name.") from e  # fmt: skip


def _real(values: Tensor, name: str) -> Tensor:
    _need(not values.is_complex(), f"{name} must be real numbers. Got {values.dtype}; give its real part.")
    return values


def _past(u: Tensor) -> Tensor:
    """How far u lies from [0, 1]."""
    return (-u).clamp_min(0) + (u - 1).clamp_min(0)


def _ordered(kind: str, low: float, high: float) -> None:
    _need(math.isfinite(low) and math.isfinite(high), f"{kind}: low and high must be finite. Got [{low}, {high}].")
    _need(low < high, f"{kind}: low must be below high. Got low = {low}, high = {high}; swap them or widen the range.")


def _positive_sd(kind: str, sd: float) -> None:
    _need(math.isfinite(sd) and sd > 0, f"{kind}: sd must be positive. Got {sd}; give a standard deviation above 0.")


@dataclass(frozen=True)
class Uniform:
    """p(theta) = 1 / (high - low) between `low` and `high`.

    >>> Uniform(0.6, 0.8).from_unit(torch.tensor(0.5, dtype=torch.float64))
    tensor(0.7000, dtype=torch.float64)
    """

    low: float
    high: float

    def __post_init__(self):
        _ordered("uniform", self.low, self.high)

    def to_unit(self, theta: Tensor) -> Tensor:
        return (theta - self.low) / (self.high - self.low)

    scaled = to_unit

    def from_unit(self, u: Tensor) -> Tensor:
        return self.low + u * (self.high - self.low)

    unscaled = from_unit

    def beyond(self, theta: Tensor) -> Tensor:
        return _past(self.to_unit(theta))

    def log_prob(self, theta: Tensor) -> Tensor:
        inside = (theta >= self.low) & (theta <= self.high)
        return torch.where(inside, -math.log(self.high - self.low), -math.inf)


@dataclass(frozen=True)
class LogUniform:
    """p(theta) proportional to 1 / theta between `low` > 0 and `high`.

    >>> LogUniform(1e-3, 1e-1).from_unit(torch.tensor(0.5, dtype=torch.float64))
    tensor(0.0100, dtype=torch.float64)
    """

    low: float
    high: float

    def __post_init__(self):
        _need(self.low > 0, f"log_uniform: low must be above 0. Got {self.low}; a logarithm needs positive bounds.")
        _ordered("log_uniform", self.low, self.high)

    def scaled(self, theta: Tensor, log: Log = torch.log) -> Tensor:
        return log(theta / self.low) / math.log(self.high / self.low)

    to_unit = scaled

    def from_unit(self, u: Tensor) -> Tensor:
        return self.low * torch.exp(u * math.log(self.high / self.low))

    unscaled = from_unit

    def beyond(self, theta: Tensor) -> Tensor:
        inside = theta > 0
        return torch.where(inside, _past(self.to_unit(torch.where(inside, theta, self.low))), math.inf)

    def log_prob(self, theta: Tensor) -> Tensor:
        inside = (theta >= self.low) & (theta <= self.high)
        safe = torch.where(inside, theta, torch.as_tensor(self.low, dtype=theta.dtype))  # keeps the gradient finite
        return torch.where(inside, -torch.log(safe) - math.log(math.log(self.high / self.low)), -math.inf)


@dataclass(frozen=True)
class Normal:
    """p(theta) = N(mean, sd^2).

    >>> Normal(5.0, 2.0).from_unit(torch.tensor([0.5, 0.975], dtype=torch.float64))
    tensor([5.0000, 8.9199], dtype=torch.float64)
    """

    mean: float
    sd: float

    def __post_init__(self):
        _need(math.isfinite(self.mean), f"normal: mean must be finite. Got {self.mean}.")
        _positive_sd("normal", self.sd)

    def to_unit(self, theta: Tensor) -> Tensor:
        return ndtr((theta - self.mean) / self.sd)

    def scaled(self, theta: Tensor) -> Tensor:
        return 0.5 + (theta - self.mean) / (4 * self.sd)  # two standard deviations either side are [0, 1]

    def unscaled(self, x: Tensor) -> Tensor:
        return self.mean + 4 * self.sd * (x - 0.5)

    def from_unit(self, u: Tensor) -> Tensor:
        return self.mean + self.sd * ndtri(u.clamp(_EDGE, 1 - _EDGE))

    def beyond(self, theta: Tensor) -> Tensor:
        return torch.zeros_like(theta)

    def log_prob(self, theta: Tensor) -> Tensor:
        x = (theta - self.mean) / self.sd
        return -0.5 * x**2 - math.log(self.sd * math.sqrt(2 * math.pi))


@dataclass(frozen=True)
class LogNormal:
    """ln theta ~ N(mean, sd^2), theta > 0: a rate or a scale that is known to a factor e^sd; its median is e^mean.

    >>> LogNormal(0.0, 0.5).from_unit(torch.tensor(0.5, dtype=torch.float64))
    tensor(1., dtype=torch.float64)
    """

    mean: float  # of ln theta
    sd: float  # of ln theta

    def __post_init__(self):
        _need(
            abs(self.mean) < 300, f"log_normal: mean must be the mean of ln theta, below 300 in size. Got {self.mean}."
        )
        _positive_sd("log_normal", self.sd)

    def to_unit(self, theta: Tensor) -> Tensor:
        inside = theta > 0
        safe = torch.where(inside, theta, math.exp(self.mean))  # keeps the gradient finite
        return torch.where(inside, ndtr((safe.log() - self.mean) / self.sd), theta * math.exp(-self.mean))

    def scaled(self, theta: Tensor, log: Log = torch.log) -> Tensor:
        return 0.5 + (log(theta) - self.mean) / (4 * self.sd)  # two standard deviations either side are [0, 1]

    def unscaled(self, x: Tensor) -> Tensor:
        return (self.mean + 4 * self.sd * (x - 0.5)).exp()

    def from_unit(self, u: Tensor) -> Tensor:
        above = torch.exp(self.mean + self.sd * ndtri(u.clamp(_EDGE, 1 - _EDGE)))
        return torch.where(u < 0, u * math.exp(self.mean), above)

    def beyond(self, theta: Tensor) -> Tensor:
        return (-theta).clamp_min(0) * math.exp(-self.mean)

    def log_prob(self, theta: Tensor) -> Tensor:
        inside = theta > 0
        ln = torch.where(inside, theta, math.exp(self.mean)).log()
        value = -0.5 * ((ln - self.mean) / self.sd) ** 2 - ln - math.log(self.sd * math.sqrt(2 * math.pi))
        return torch.where(inside, value, -math.inf)


@dataclass(frozen=True)
class TruncatedNormal:
    """p(theta) proportional to N(mean, sd^2) between `low` and `high`, 0 elsewhere.

    >>> TruncatedNormal(0.0, 1.0, 0.0, 3.0).log_prob(torch.tensor([-1.0, 1.0], dtype=torch.float64)).exp()
    tensor([0.0000, 0.4853], dtype=torch.float64)
    """

    mean: float
    sd: float
    low: float
    high: float

    def __post_init__(self):
        _positive_sd("truncated_normal", self.sd)
        _ordered("truncated_normal", self.low, self.high)
        _need(self._mass > 1e-8, f"truncated_normal: [{self.low}, {self.high}] must hold some probability of "
              f"N({self.mean}, {self.sd}^2). Got {self._mass:.1e}; move the bounds towards the mean.")  # fmt: skip

    @property
    def _tails(self) -> tuple[float, float]:
        a, b = ((torch.tensor(x, dtype=torch.float64) - self.mean) / self.sd for x in (self.low, self.high))
        return float(ndtr(a)), float(ndtr(b))

    @property
    def _mass(self) -> float:
        a, b = self._tails
        return b - a

    def to_unit(self, theta: Tensor) -> Tensor:
        inside = theta.clamp(self.low, self.high)
        beyond = (theta - inside) / (self.high - self.low)
        return (ndtr((inside - self.mean) / self.sd) - self._tails[0]) / self._mass + beyond

    def scaled(self, theta: Tensor) -> Tensor:
        return (theta - self.low) / (self.high - self.low)

    def unscaled(self, x: Tensor) -> Tensor:
        return self.low + x * (self.high - self.low)

    def from_unit(self, u: Tensor) -> Tensor:
        inside = u.clamp(0, 1)
        x = ndtri((self._tails[0] + inside * self._mass).clamp(_EDGE, 1 - _EDGE))
        return (self.mean + self.sd * x).clamp(self.low, self.high) + (u - inside) * (self.high - self.low)

    def beyond(self, theta: Tensor) -> Tensor:
        return _past(self.scaled(theta))

    def log_prob(self, theta: Tensor) -> Tensor:
        x = (theta - self.mean) / self.sd
        value = -0.5 * x**2 - math.log(self.sd * math.sqrt(2 * math.pi) * self._mass)
        return torch.where((theta >= self.low) & (theta <= self.high), value, -math.inf)


Prior = Uniform | LogUniform | Normal | LogNormal | TruncatedNormal
PRIORS = {"uniform": Uniform, "log_uniform": LogUniform, "normal": Normal, "log_normal": LogNormal,
          "truncated_normal": TruncatedNormal}  # fmt: skip
LOGARITHMIC = LogUniform | LogNormal  # even, or normal, in ln theta: what axes and derivatives should be in


@dataclass(frozen=True)
class Parameter:
    """One parameter: its name in files and code, its prior, its unit in words, its label in LaTeX (without $).

    >>> Space((Parameter("h0", Uniform(60.0, 80.0), "km/s/Mpc", "H_0"),)).labels
    ('$H_0$ [km/s/Mpc]',)
    """

    name: str
    prior: Prior
    unit: str = ""
    label: str = ""

    def __post_init__(self):
        _need(self.name.isidentifier(), f"a parameter's name must be letters, digits and _. Got {self.name!r}.")


@dataclass(frozen=True)
class Space:
    """The parameters of a study, in order: theta has shape `[..., d]`.

    >>> space = Space((Parameter("omega_m", Uniform(0.2, 0.4)), Parameter("h", Uniform(0.6, 0.8))))
    >>> space.from_unit(torch.tensor([0.5, 0.5], dtype=torch.float64))
    tensor([0.3000, 0.7000], dtype=torch.float64)
    >>> space.from_unit([[0.0, 1.0]])
    tensor([[0.2000, 0.8000]], dtype=torch.float64)
    """

    parameters: tuple[Parameter, ...]

    def __post_init__(self):
        alone = isinstance(self.parameters, Parameter)
        object.__setattr__(self, "parameters", (self.parameters,) if alone else tuple(self.parameters))
        _need(len(self.parameters) > 0, "a space must have at least one parameter. Got none.")
        for name, count in Counter(self.names).items():
            _need(count == 1, f"a parameter must be named once. Got {name!r} twice; rename one.")

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the parameters, in order."""
        return tuple(p.name for p in self.parameters)

    @property
    def labels(self) -> tuple[str, ...]:
        """What axes say: the LaTeX label between dollars, or the name, with the unit in brackets."""
        texts = (f"${p.label}$" if p.label else p.name for p in self.parameters)
        return tuple(f"{t} [{p.unit}]" if p.unit else t for t, p in zip(texts, self.parameters, strict=True))

    @property
    def d(self) -> int:
        """How many parameters there are."""
        return len(self.parameters)

    def to_unit(self, theta: Tensor) -> Tensor:
        """theta `[..., d]` -> u `[..., d]`, differentiable, linear outside the support of a bounded prior."""
        return torch.stack(
            [p.prior.to_unit(t) for p, t in zip(self.parameters, self._columns(theta, "theta"), strict=True)], -1
        )

    def from_unit(self, u: Tensor) -> Tensor:
        """u `[..., d]` -> theta `[..., d]`, the inverse of `to_unit`, differentiable."""
        return torch.stack(
            [p.prior.from_unit(x) for p, x in zip(self.parameters, self._columns(u, "u"), strict=True)], -1
        )

    def scaled(self, theta: Tensor, log: Log = torch.log) -> Tensor:
        """theta `[..., d]` -> the coordinates `[..., d]` in which emulators work: about [0, 1], smooth in theta.

        `log` is the logarithm to take where one is taken: torch's, or `emulate.portable.log`.
        """
        priors = [p.prior for p in self.parameters]
        pairs = zip(priors, self._columns(theta, "theta"), strict=True)
        return torch.stack(
            [p.scaled(t, log) if isinstance(p, LogUniform | LogNormal) else p.scaled(t) for p, t in pairs], -1
        )

    def beyond(self, theta: Tensor) -> Tensor:
        """How far each parameter of theta `[..., d]` lies outside its box, in widths of the box, `[..., d]`: 0 inside."""
        return torch.stack(
            [p.prior.beyond(t) for p, t in zip(self.parameters, self._columns(theta, "theta"), strict=True)], -1
        )

    def ends(self, reach: float = 3.0) -> tuple[Tensor, Tensor]:
        """u `[d]` where the box ends on either side: 0 and 1, and `reach` standard deviations out where a prior has no edge."""
        bounded = torch.tensor([math.isfinite(getattr(p.prior, "low", math.inf)) for p in self.parameters])
        low = torch.where(bounded, 0.0, ndtr(torch.tensor(-reach, dtype=torch.float64)))
        return low, 1 - low

    def unscaled(self, x: Tensor) -> Tensor:
        """x `[..., d]` -> theta `[..., d]`, the inverse of `scaled`."""
        return torch.stack(
            [p.prior.unscaled(t) for p, t in zip(self.parameters, self._columns(x, "x"), strict=True)], -1
        )

    def stretch(self, theta: Tensor) -> Tensor:
        """d scaled_i / d theta_i at theta `[..., d]`, same shape: each coordinate depends on its own parameter alone."""
        theta = theta.detach().requires_grad_()
        with torch.enable_grad():
            return torch.autograd.grad(self.scaled(theta).sum(), theta)[0]

    def log_prob(self, theta: Tensor) -> Tensor:
        """ln of the prior density at theta `[..., d]`, shape `[...]`; -inf outside."""
        return reduce(
            add, (p.prior.log_prob(t) for p, t in zip(self.parameters, self._columns(theta, "theta"), strict=True))
        )

    def _columns(self, x: Any, name: str) -> tuple[Tensor, ...]:
        """The last axis of a tensor or an array, one column per parameter."""
        x = x if isinstance(x, Tensor) else _numbers(x, name)
        size = x.shape[-1] if x.ndim else 0
        _need(size == self.d, f"{name} must have {self.d} values in its last axis ({', '.join(self.names)}). "
              f"Got shape {tuple(x.shape)}; give [{self.d}] for one point or [n, {self.d}] for many.")  # fmt: skip
        return x.unbind(-1)

    def pack(self, theta: Any) -> Tensor:
        """theta as a float64 tensor `[..., d]` from a tensor, an array, a dict of named values, a pandas frame or xarray.

        Named values may stand in any order and broadcast against each other; gradients flow through tensors. Those of an
        xarray Dataset or DataArray broadcast by the names of their dimensions; see `emulate.labelled`.
        """
        if is_labelled(theta):
            made = columns(theta, {p.name: p.unit for p in self.parameters})
            return torch.stack([_numbers(c.values, n) for c, n in zip(made, self.names, strict=True)], -1)
        if isinstance(theta, Mapping) or hasattr(theta, "columns"):
            return self._pack_named({str(k): theta[k] for k in theta})
        if not isinstance(theta, Tensor):
            theta = _numbers(theta, "theta")
        self._columns(theta, "theta")
        return _real(theta, "theta").to(torch.float64)

    def _pack_named(self, values: Mapping[str, Any]) -> Tensor:
        for name in values:
            _need(name in self.names, f"theta has no parameter {name!r}; it must name {', '.join(self.names)}"
                  f".{nearest(name, self.names)}")  # fmt: skip
        missing = [n for n in self.names if n not in values]
        _need(not missing, f"theta must name every one of {', '.join(self.names)}. Missing: {', '.join(missing)}.")
        columns = [_real(v, n) if isinstance(v, Tensor) else _numbers(v, n)
                   for n, v in ((n, values[n]) for n in self.names)]  # fmt: skip
        try:
            shape = torch.broadcast_shapes(*(c.shape for c in columns))
        except RuntimeError:
            met = ", ".join(f"{tuple(c.shape)} of {n}" for n, c in zip(self.names, columns, strict=True))
            raise InputError(f"theta must have a value of each parameter for every point, or one for all. Got the shapes {met}; "
                             "give arrays of one length.") from None  # fmt: skip
        return torch.stack([c.to(torch.float64).expand(shape) for c in columns], -1)

    def unpack(self, theta: Tensor) -> dict[str, Tensor]:
        """theta `[..., d]` as a dict of named values `[...]`."""
        return dict(zip(self.names, theta.unbind(-1), strict=True))

    def to_dict(self) -> list[dict]:
        """Plain JSON, read back by `from_dict`."""
        kinds = {cls: kind for kind, cls in PRIORS.items()}
        return [{"name": p.name, "unit": p.unit, "label": p.label, "prior": {kinds[type(p.prior)]: vars(p.prior)}}
                for p in self.parameters]  # fmt: skip

    @staticmethod
    def from_dict(entries: list[dict]) -> "Space":
        """The space that `to_dict` wrote down."""

        def parameter(e: dict) -> Parameter:
            ((kind, values),) = e["prior"].items()
            return Parameter(e["name"], PRIORS[kind](**values), e.get("unit", ""), e.get("label", ""))

        return Space(tuple(parameter(e) for e in entries))
