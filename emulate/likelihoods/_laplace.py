"""Noise that is not normal around a prediction that is unsure: the prediction marginalised by Laplace's method."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Distribution

from emulate.distributions import gaussian_of
from emulate.likelihoods._around import Around, Local

_ITERATIONS, _TOLERANCE = 60, 1e-2  # steps to the mode; the last, in units of the error that y has of its own
_STEP = 2.0  # in ln y, as far as one step goes: an exponential is no parabola over more
_LEAST = -2.0  # of ln |I + C W|, which falls to -inf where one mode splits into two and Laplace's method says nothing


def evidence(likelihood: Around, prediction: Distribution, data: Tensor) -> Tensor:
    """ln p(data | prediction) `[...]` with all that makes y unsure marginalised."""
    mean, own = gaussian_of(prediction)
    covariance = likelihood.widened(torch.zeros_like(own), mean, own)
    log = torch.full(mean.shape[-1:], likelihood.logarithmic)
    return marginal(likelihood.local(data), mean, covariance, log)


def marginal(local: Callable[[Tensor], Local], mean: Tensor, covariance: Tensor, log: Tensor) -> Tensor:
    r"""ln \int p(data | w) N(w; mu, C) dw `[...]` for mean `[..., m]` and covariance `[..., m, m]` of y.

    w is y, or ln y where `log` `[m]` says so; its normal has the moments of y (Aitchison and Brown 1957), which is the
    emulator's own distribution where it works on logarithms. With w = mu + C a at the mode, W = -d^2 ln p / dw^2 there,
    ln p = ln p(data | w) - a^T C a / 2 - ln |I + C W| / 2 (Rasmussen and Williams 2006, eq. 3.32; nothing is divided by C,
    which may be singular). Exact where ln p is a parabola: for normal noise, and in the limit of a sure prediction.

    The mode is searched without a graph, to 1e-2 of the error of w; the two Newton steps after it bring it to
    1e-8 and carry the derivatives, of which the first is then right to 1e-6 and the second to 1e-4. -inf where an
    expected count is not above 0, or no lognormal has such moments, and never NaN.
    """
    mu, c, possible = logarithms(mean, covariance, log)
    if not c.any():
        value = local(mu).value
        return torch.where(possible & ~torch.isnan(value), value, -math.inf)
    with torch.no_grad():
        a = _mode(local, mu, c, torch.where(log, _STEP, math.inf).to(mu))
    for _ in range(2):
        a = _newton(local, a, mu, c)
    moved = (c @ a[..., None])[..., 0]
    at = local(mu + moved)
    sign, size = torch.linalg.slogdet(torch.eye(mu.shape[-1]).to(mu) + c @ at.weight)
    size = torch.where(sign > 0, size, _LEAST).clamp_min(_LEAST)
    value = at.value - 0.5 * (a * moved).sum(-1) - 0.5 * size
    return torch.where(possible & ~torch.isnan(value), value, -math.inf)


def logarithms(mean: Tensor, covariance: Tensor, log: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """mu and C of w, which is ln y where `log`, with the same moments of y; and where there is such a w `[...]`."""
    unit = torch.where(log & (mean > 0), mean, 1.0)  # the inner `where` keeps the gradient finite
    ratio = covariance / (unit[..., :, None] * unit[..., None, :])
    both = log[:, None] & log
    possible = ((mean > 0) | ~log).all(-1) & ((ratio > -1) | ~both).all((-1, -2))
    c = torch.where(both, torch.log1p(torch.where(both & (ratio > -1), ratio, 0.0)), ratio)
    mu = torch.where(log, unit.log() - 0.5 * c.diagonal(dim1=-2, dim2=-1), mean)
    return mu, c, possible


def _mode(local: Callable[[Tensor], Local], mu: Tensor, c: Tensor, most: Tensor) -> Tensor:
    """a `[..., m]` of the mode w = mu + C a, by steps that never go down."""
    a = torch.zeros_like(local(mu).slope)
    own = c.diagonal(dim1=-2, dim2=-1).sqrt().clamp_min(1e-300)
    for _ in range(_ITERATIONS):
        step = _newton(local, a, mu, c, steady=True) - a
        moved = (c @ step[..., None])[..., 0].nan_to_num()
        length = (most / moved.abs().clamp_min(1e-300)).amin(-1, keepdim=True).clamp_max(1.0)
        a = a + length * step
        if not (moved.abs() > _TOLERANCE * own).any():
            break
    return a


def _newton(local: Callable[[Tensor], Local], a: Tensor, mu: Tensor, c: Tensor, *, steady: bool = False) -> Tensor:
    """The next a: (I + W C) a = W (w - mu) + slope."""
    moved = (c @ a[..., None])[..., 0]
    at = local(mu + moved)
    weight = at.steady if steady else at.weight
    right = (weight @ moved[..., None])[..., 0] + at.slope
    left = torch.eye(mu.shape[-1]).to(mu) + weight @ c
    return torch.linalg.solve_ex(left, right[..., None])[0][..., 0]
