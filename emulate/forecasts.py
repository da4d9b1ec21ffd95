"""How well an observation would tell the parameters, by two derivatives of the same outputs: Fisher forecasts held side by side."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.special import ndtr, ndtri

from emulate.importance import Measured, rooted
from emulate.space import Space

_AGAIN = 40  # times that the noise of a derivative is drawn anew
_BLIND = 0.5  # information with the prior's, 1 at least, below which noise has hidden a direction
_EDGE = 1e-6


@dataclass(frozen=True)
class Forecasts:
    """At g points, the sd of a forecast by one derivative over that by the other, in the direction where they differ most.

    ratio `[g]`; direction `[g, d]` in the parameters, each over the sd of its prior, the largest component 1; typical: the
    median over the points of |ln ratio|, with its standard error by the noise of the second derivative; blind: the points at
    which that noise is larger than what it hides, so that a direction seems to tell less than nothing.
    """

    ratio: Tensor
    direction: Tensor
    typical: Measured
    blind: int


def compare(ours: Tensor, true: Tensor, noise: Tensor, covariance: Tensor, *, seed: int = 0) -> Forecasts:
    r"""Forecasts by the Jacobians ours and true `[g, m, d]`, over coordinates in which the prior is standard normal.

        F = J^T C^-1 J + 1,    sd of a forecast along v: (v^T F^-1 v)^1/2

    C `[g, m, m]` is the covariance of the data, 1 the information of the prior. The directions in which the two forecasts
    differ most are the generalised eigenvectors of the two F, and the eigenvalue is the ratio of the variances. Noise in
    `true`, of standard error `noise` `[g, m, d]`, entries independent, adds sum_k (C^-1)_kk noise_ki^2 to F_ii on average; that
    is taken off, and no direction is left with less than its prior. What noise adds to the worst of several directions is
    taken off its square too, as drawing the noise anew shows it.
    """
    root = torch.linalg.cholesky(covariance)
    white = torch.linalg.solve_triangular(root, ours, upper=False)
    by_us = white.mT @ white + torch.eye(ours.shape[-1]).to(ours)
    precision = torch.cholesky_inverse(root).diagonal(dim1=-2, dim2=-1)  # [g, m]
    added = (precision[..., None] * noise.square()).sum(1)  # [g, d]

    def worst(true: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        white = torch.linalg.solve_triangular(root, true, upper=False)
        by_them = white.mT @ white - torch.diag_embed(added) + torch.eye(ours.shape[-1]).to(ours)
        value, vector = torch.linalg.eigh(by_them)
        half = vector / value.clamp_min(1.0).sqrt()[:, None, :]  # F^-1/2
        ratio, along = torch.linalg.eigh(half.mT @ by_us @ half)
        log_sd = -0.5 * ratio.log()
        i = log_sd.abs().argmax(-1)[:, None]
        return log_sd.take_along_dim(i, 1)[:, 0], (half @ along).take_along_dim(i[..., None], 2)[..., 0], value[:, 0]

    log_sd, direction, least = worst(true)
    typical = Measured(float(log_sd.abs().quantile(0.5)), 0.0)
    if noise.any():
        generator = torch.Generator().manual_seed(seed)
        drawn = (true + noise * torch.randn(true.shape, generator=generator, dtype=true.dtype) for _ in range(_AGAIN))
        again = torch.stack([worst(j)[0].abs().quantile(0.5) for j in drawn]).square()
        typical = rooted(Measured(2 * typical.value**2 - float(again.mean()), float(again.std())))
    scale = direction.take_along_dim(direction.abs().argmax(-1, keepdim=True), 1)
    return Forecasts(log_sd.exp(), direction / scale, typical, int((least < _BLIND).sum()))


def prior_slope(space: Space, theta: Tensor) -> Tensor:
    """dtheta/dx `[g, d]` of theta(x), x the coordinates in which the prior is standard normal."""
    x = ndtri(space.to_unit(theta).clamp(_EDGE, 1 - _EDGE)).detach().requires_grad_()
    with torch.enable_grad():
        return torch.autograd.grad(space.from_unit(ndtr(x)).sum(), x)[0]
