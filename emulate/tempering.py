"""Draws from a posterior of any shape without its gradient: particles that are led from the prior to it by degrees."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.special import ndtri

from emulate.errors import InputError

_MOST = 200  # temperatures: each halves the effective number of particles, so that a likelihood of e^200 is reached
_KEEP = 0.5  # share of the particles that stay effective from one temperature to the next
_EDGE = 1e-9


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
    sobol = torch.quasirandom.SobolEngine(d, scramble=True, seed=seed)
    x = ndtri(sobol.draw(n, dtype=torch.float64).clamp(_EDGE, 1 - _EDGE))
    value, power, size = _value(log_likelihood, x), 0.0, 2.38 / d**0.5
    if not torch.isfinite(value).any():
        raise InputError("the likelihood must be above 0 somewhere in the prior. Got 0 at every one of "
                         f"{n} points; look at the observation, its errors and the prior.")  # fmt: skip
    for _ in range(_MOST):
        step = _step(value, 1 - power)
        power += step
        rows = _resampled(step * value, generator)
        x, value = x[rows], value[rows]
        for _ in range(moves):
            x, value, accepted = _moved(log_likelihood, x, value, power, size, generator)
            size = min(max(size * (0.7 + accepted), 0.01), 2.38 / d**0.5)  # towards three in ten accepted
        if power >= 1:
            break
    return x


def _value(log_likelihood: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    with torch.no_grad():
        value = log_likelihood(x)
        return torch.where(value < torch.inf, value, -torch.inf)  # NaN is not below


def _step(value: Tensor, most: float) -> float:
    """The largest rise of the power that leaves the share `_KEEP` effective, by bisection."""

    def effective(step: float) -> float:
        w = torch.softmax(step * value, 0)
        return float(1 / w.square().sum()) / len(value)

    least = min(_KEEP, 0.5 * float(torch.isfinite(value).double().mean()))
    if effective(most) >= least:
        return most
    low, high = 0.0, most
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if effective(middle) >= least else (low, middle)
    return low if low > 0 else high


def _resampled(log_weight: Tensor, generator: torch.Generator) -> Tensor:
    """Systematic resampling: rows by weight, with one random number for all."""
    n = len(log_weight)
    at = (torch.arange(n, dtype=torch.float64) + torch.rand((), generator=generator, dtype=torch.float64)) / n
    return torch.searchsorted(torch.softmax(log_weight, 0).cumsum(0), at).clamp_max(n - 1)


def _moved(log_likelihood: Callable[[Tensor], Tensor], x: Tensor, value: Tensor, power: float, size: float,
           generator: torch.Generator) -> tuple[Tensor, Tensor, float]:  # fmt: skip
    n, d = x.shape
    spread = x.T.cov().reshape(d, d)
    root = torch.linalg.cholesky(spread + (1e-12 + 1e-9 * spread.trace() / d) * torch.eye(d, dtype=x.dtype))
    new = x + size * torch.randn(n, d, generator=generator, dtype=x.dtype) @ root.T
    other = _value(log_likelihood, new)
    rise = power * (other - value) - 0.5 * (new.square().sum(-1) - x.square().sum(-1))
    accept = torch.rand(n, generator=generator, dtype=x.dtype).log() < rise  # never where that is NaN
    return torch.where(accept[:, None], new, x), torch.where(accept, other, value), float(accept.double().mean())
