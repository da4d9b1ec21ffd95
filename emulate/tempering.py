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
