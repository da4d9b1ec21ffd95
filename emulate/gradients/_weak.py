"""Weak derivatives of the families: dp/dphi = c (p+ - p-) for each parameter phi, as pairs of draws.

Table 1 of Mohamed, Rosca, Figurnov & Mnih 2020 (JMLR 21), and the pairs of Pflug 1996 and Heidergott, Vazquez-Abad &
Volk-Makarewicz 2008; those for which neither has a row follow from p itself and are derived beside it. The two draws of
a pair share their noise, and one of them is the program's own draw x wherever it has the law p+ or p-, so that the pair
costs one run more.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributions
from torch.distributions import Distribution

from emulate.families import inverse


class Pair(NamedTuple):
    """dE[f]/dphi = E[weight (f(up) - f(down))]; where `down` is None it is the program's own draw."""

    name: str
    phi: Tensor
    weight: Tensor
    up: Tensor
    down: Tensor | None = None


Own = Callable[[str], Tensor]  # uniform numbers of the shape of x, by name


def pairs(d: Distribution, x: Tensor, own: Own) -> Iterator[Pair] | None:
    """The pairs of every parameter of d at its draw x; None where no row of the table is of this family."""
    if isinstance(d, distributions.Independent):
        return pairs(d.base_dist, x, own)
    row = _TABLE.get(type(d))
    return row(d, x, own) if row else None


def _exponential(u: Tensor) -> Tensor:
    return -torch.log(u)


def _normal(d: Any, x: Tensor, own: Own) -> Iterator[Pair]:
    """mean: mu +- sigma W, W of Rayleigh's law. scale: |N| is a Maxwell number times a uniform one, so that given N the
    Maxwell number is sqrt(N^2 + 2E), E exponential."""
    w = torch.sqrt(2 * _exponential(own("rayleigh"))) * d.scale
    yield Pair("loc", d.loc, 1 / (d.scale * (2 * torch.pi) ** 0.5), d.loc + w, d.loc - w)
    z = (x - d.loc) / d.scale
    maxwell = torch.sqrt(z**2 + 2 * _exponential(own("maxwell")))
    yield Pair("scale", d.scale, 1 / d.scale, d.loc + d.scale * torch.copysign(maxwell, z))


def _laplace(d: Any, x: Tensor, own: Own) -> Iterator[Pair]:
    """dp/dmu = sign(x - mu) p / b; dp/db = (|x - mu| / b - 1) p / b: Erlang's law of shape 2 on both sides, less p."""
    reach = _exponential(own("side")) * d.scale
    yield Pair("loc", d.loc, 1 / (2 * d.scale), d.loc + reach, d.loc - reach)
    yield Pair("scale", d.scale, 1 / d.scale, x + torch.copysign(_exponential(own("more")) * d.scale, x - d.loc))


def _exponential_rate(d: Any, x: Tensor, own: Own) -> Iterator[Pair]:
    yield Pair("rate", d.rate, -1 / d.rate, x + _exponential(own("more")) / d.rate)


def _gamma(d: Any, x: Tensor, own: Own) -> Iterator[Pair]:
    """rate alone: Gamma(a, b) less Gamma(a + 1, b). The shape has no pair of named laws."""
    yield Pair("rate", d.rate, -d.concentration / d.rate, x + _exponential(own("more")) / d.rate)


def _uniform(d: Any, x: Tensor, own: Own) -> Iterator[Pair]:
    weight = 1 / (d.high - d.low)
    yield Pair("low", d.low, -weight, d.low)
    yield Pair("high", d.high, weight, d.high)


def _poisson(d: Any, x: Tensor, own: Own) -> Iterator[Pair]:
    yield Pair("rate", d.rate, torch.ones_like(d.rate), x + 1)


def _bernoulli(d: Any, x: Tensor, own: Own) -> Iterator[Pair]:
    """f(1) - f(0), one of which is the program's own."""
    yield Pair("probs", d.probs, 1 - 2 * x, 1 - x)


def _binomial(d: Any, x: Tensor, own: Own) -> Iterator[Pair]:
    """N (f(1 + K) - f(K)), K of N - 1 trials: x less the success or failure of one trial, a success of chance x / N."""
    k = torch.where(own("trial") * d.total_count < x, x - 1, x)
    yield Pair("probs", d.probs, d.total_count.to(x.dtype), k + 1, k)


def _geometric(d: Any, x: Tensor, own: Own) -> Iterator[Pair]:
    """d/dp p (1-p)^k = ((1-p)^k p - k (1-p)^(k-1) p^2) / p: Geometric, less 1 + the sum of two of them."""
    yield Pair("probs", d.probs, -1 / d.probs, x + 1 + inverse(distributions.Geometric(d.probs), own("more")))


def _categorical(d: Any, x: Tensor, own: Own) -> Iterator[Pair]:
    """sum_k dp_k f(k) = sum_k dp_k (f(k) - f(x)), for the probabilities sum to 1."""
    for k in range(d.probs.shape[-1]):
        yield Pair(f"probs{k}", d.probs[..., k], torch.ones_like(d.probs[..., k]), torch.full_like(x, k))


_TABLE: dict[type, Callable[[Any, Tensor, Own], Iterator[Pair]]] = {
    distributions.Normal: _normal,
    distributions.Laplace: _laplace,
    distributions.Exponential: _exponential_rate,
    distributions.Gamma: _gamma,
    distributions.Uniform: _uniform,
    distributions.Poisson: _poisson,
    distributions.Bernoulli: _bernoulli,
    distributions.Binomial: _binomial,
    distributions.Geometric: _geometric,
    distributions.Categorical: _categorical,
}
FAMILIES = tuple(sorted(family.__name__ for family in _TABLE))
