"""Populations that are led from a standard normal prior to a posterior of any shape, by degrees and without its gradient.

Shapes: g groups, c populations of a group, n particles of a population, d parameters. Every group has a posterior and
temperatures of its own; its populations share the temperatures and nothing else, so that their scatter is an error bar.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.special import ndtri

from emulate.errors import InputError

_MOST = 200  # temperatures: each halves the effective number of particles, so that a likelihood of e^200 is reached
_KEEP = 0.5  # share of the particles that stay effective from one temperature to the next
_EDGE = 1e-9

LogLikelihood = Callable[[Tensor], Tensor]  # x [g, c, n, d] -> [g, c, n]
Move = Callable[
    [Tensor, Tensor, Tensor], tuple[Tensor, Tensor]
]  # x, its ln likelihood, the power [g] -> the first two, moved


@dataclass(frozen=True)
class Populations:
    """x `[g, c, n, d]` of N(x; 0, 1) exp(power value) / Z: value `[g, c, n]` is the ln likelihood, power `[g]` is 1 where
    the end was reached. log_evidence `[g, c]`: ln Z by each population, exp of which is unbiased."""

    x: Tensor
    value: Tensor
    power: Tensor
    log_evidence: Tensor
    temperatures: int


def tempered(log_likelihood: Callable[[Tensor], Tensor], n: int, d: int, *, seed: int, moves: int = 5) -> Tensor:
    """n draws x `[n, d]` of p(x) ~ N(x; 0, 1) exp(log_likelihood(x)), by sequential Monte Carlo.

    The likelihood's power rises from 0 to 1 in steps that keep half of the particles effective (Del Moral, Doucet and
    Jasra 2006, 2012); after each, particles are drawn anew by weight and moved by `moves` Metropolis steps of the size
    of the population. The start is a Sobol sequence over the prior, so that no mode of some width is missed.

    `InputError` when the likelihood is zero at every particle.

    >>> x = tempered(lambda x: -0.5 * ((x - 2) / 0.5).square().sum(-1), 2000, 1, seed=1)
    >>> round(float(x.mean()), 1), round(float(x.std()), 1)
    (1.6, 0.4)
    """
    generator = torch.Generator().manual_seed(seed)
    size = 2.38 / d**0.5

    def rows(x: Tensor) -> Tensor:
        with torch.no_grad():
            return cleaned(log_likelihood(x[0, 0]))[None, None]

    def walk(x: Tensor, value: Tensor, power: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal size
        for _ in range(moves):
            x, value, accepted = _walked(rows, x, value, float(power), size, generator)
            size = min(max(size * (0.7 + accepted), 0.01), 2.38 / d**0.5)  # towards three in ten accepted
        return x, value

    return led(rows, prior(n, d, seed)[None, None], walk, generator).x[0, 0]


def led(log_likelihood: LogLikelihood, x: Tensor, move: Move, generator: torch.Generator,
        progress: Callable[[float], None] | None = None) -> Populations:  # fmt: skip
    """Populations x `[g, c, n, d]` of the prior, led to the posterior; `move` leaves every power's density as it is.

    `progress` is told the lowest power. `InputError` when the likelihood is zero at every particle of a group.
    """
    g, c, n, _ = x.shape
    value = log_likelihood(x)
    if not torch.isfinite(value).flatten(1).any(1).all():
        raise InputError("the likelihood must be above 0 somewhere in the prior. Got 0 at every one of "
                         f"{c * n} points; look at the observation, its errors and the prior.")  # fmt: skip
    power, log_evidence, temperatures = x.new_zeros(g), x.new_zeros(g, c), 0
    while temperatures < _MOST and bool((power < 1).any()):
        step = _steps(value.flatten(1), 1 - power)
        power, temperatures = power + step, temperatures + 1
        log_weight = torch.where(step[:, None, None] > 0, step[:, None, None] * value, 0.0)
        log_evidence = log_evidence + torch.logsumexp(log_weight, -1) - math.log(n)
        rows = _resampled(log_weight, generator)
        lost = ~torch.isfinite(log_weight).any(-1)
        x, value = x.gather(2, rows[..., None].expand_as(x)), value.gather(2, rows)
        if lost.any():
            x, value = _refilled(x, value, lost, generator)
        x, value = move(x, value, power)
        if progress:
            progress(float(power.min()))
    return Populations(x, value, power, log_evidence, temperatures)


def prior(n: int, d: int, seed: int) -> Tensor:
    """A Sobol sequence over the standard normal prior `[n, d]`."""
    sobol = torch.quasirandom.SobolEngine(d, scramble=True, seed=seed)
    return ndtri(sobol.draw(n, dtype=torch.float64).clamp(_EDGE, 1 - _EDGE))


def cleaned(value: Tensor) -> Tensor:
    """The logarithm of a density, which is 0 where it is not a number."""
    return torch.where(value < torch.inf, value, -torch.inf)  # NaN is not below


def _steps(value: Tensor, most: Tensor) -> Tensor:
    """The largest rise `[g]` of each group's power that leaves the share `_KEEP` of value `[g, N]` effective, by bisection."""

    def effective(step: Tensor) -> Tensor:
        w = torch.softmax(torch.where(step[:, None] > 0, step[:, None] * value, 0.0), -1)
        return 1 / w.square().sum(-1) / value.shape[1]

    least = (0.5 * torch.isfinite(value).double().mean(-1)).clamp_max(_KEEP)
    if (whole := effective(most) >= least).all():
        return most
    low, high = torch.zeros_like(most), most
    for _ in range(60):
        middle = 0.5 * (low + high)
        good = effective(middle) >= least
        low, high = torch.where(good, middle, low), torch.where(good, high, middle)
    return torch.where(whole, most, torch.where(low > 0, low, high))


def _resampled(log_weight: Tensor, generator: torch.Generator) -> Tensor:
    """Systematic resampling: rows `[g, c, n]` by weight, with one random number for all of a population."""
    g, c, n = log_weight.shape
    at = (torch.arange(n, dtype=torch.float64) + torch.rand(g, c, 1, generator=generator, dtype=torch.float64)) / n
    return torch.searchsorted(torch.softmax(log_weight, -1).cumsum(-1), at).clamp_max(n - 1)


def _refilled(x: Tensor, value: Tensor, lost: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Populations that have lost every particle are made of those of their neighbours in the group."""
    x, value = x.clone(), value.clone()
    for i, j in lost.nonzero().tolist():
        others = (~lost[i]).nonzero().flatten()
        take = torch.randint(len(others) * x.shape[2], (x.shape[2],), generator=generator)
        x[i, j], value[i, j] = x[i, others].flatten(0, 1)[take], value[i, others].flatten()[take]
    return x, value


def _walked(log_likelihood: LogLikelihood, x: Tensor, value: Tensor, power: float, size: float,
            generator: torch.Generator) -> tuple[Tensor, Tensor, float]:  # fmt: skip
    """One Metropolis step of one population."""
    n, d = x.shape[2:]
    spread = x[0, 0].T.cov().reshape(d, d)
    root = torch.linalg.cholesky(spread + (1e-12 + 1e-9 * spread.trace() / d) * torch.eye(d, dtype=x.dtype))
    new = x + size * torch.randn(n, d, generator=generator, dtype=x.dtype) @ root.T
    other = log_likelihood(new)
    rise = power * (other - value) - 0.5 * (new.square().sum(-1) - x.square().sum(-1))
    accept = torch.rand(1, 1, n, generator=generator, dtype=x.dtype).log() < rise  # never where that is NaN
    return torch.where(accept[..., None], new, x), torch.where(accept, other, value), float(accept.double().mean())
