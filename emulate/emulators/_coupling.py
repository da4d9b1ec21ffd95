"""What the components of a cheaper fidelity say of a costlier one, by linear regression with an error that is smooth."""

import math
from itertools import product

import torch
from torch import Tensor

LENGTHS = (0.4, 1.0, 2.5)  # of the error, in units of the cube's diagonal
NUGGETS = (1e-11, 1e-8, 1e-5, 1e-2)  # of its variance
DECAYS = (0.0, 1.0, 2.0)  # by which power of their number components matter less
RATIOS = torch.logspace(-8, 14, 45, dtype=torch.float64)  # variance of a coefficient over that of the error
_MANY = 300  # runs beyond which so many, evenly spread, are enough for a few coefficients
_TINY = 1e-300


def regress(u: Tensor, x: Tensor, z: Tensor) -> Tensor:
    r"""A `[p, q]` of z(u) = A x(u) + b + e(u), of runs u `[n, d]`, x `[n, q]` and z `[n, p]`.

    A_jk ~ N(B_jk, s^2 r k^(-2 g)) and e ~ GP(0, s^2 [rbf(l) + eta delta]) in each component, b and s^2 integrated out.
    What the error may explain as a smooth function is not put down to x (generalised least squares), and coefficients that
    few runs cannot tell stay near B, which is 0 or, with as many components in x, 1: those of outputs of both fidelities
    are the same. A is the mean over a grid of (B, l, eta, g, r), weighted by the marginal likelihood: with Cholesky factor
    L of the error, L^-1 x diag(k^-g) = U S V^T and c = U^T L^-1 (z - B x), both without their part along L^-1 1,

        ln p = -1/2 [ln |L L^T| + ln |L^-1 1|^2 + sum ln(1 + r S^2) + (n - 1) ln Q]
        Q    = |L^-1 (z - B x)|^2 - |c|^2 + sum c^2 / (1 + r S^2)

    >>> u = torch.linspace(0, 1, 9, dtype=torch.float64)[:, None]
    >>> regress(u, torch.sin(7 * u), 2 * torch.sin(7 * u) + 1).round(decimals=6)
    tensor([[2.]], dtype=torch.float64)
    """
    if len(u) > _MANY:
        some = torch.linspace(0, len(u) - 1, _MANY).long()
        u, x, z = u[some], x[some], z[some]
    (n, q), p = x.shape, z.shape[1]
    rivals = [z, z - x] if p == q else [z]  # z - B x
    squares = (u[:, None] - u).square().sum(-1) / u.shape[1]
    evidence, found = [], []  # of each (l, eta, g): [ratios, rivals p] and [ratios, rivals p, q]
    for length, nugget in product(LENGTHS, NUGGETS):
        lower = torch.linalg.cholesky((-0.5 * squares / length**2).exp() + nugget * torch.eye(n, dtype=u.dtype))
        white = torch.linalg.solve_triangular(lower, torch.cat([torch.ones_like(u[:, :1]), x, *rivals], 1), upper=False)
        size = white[:, 0].norm()
        one, rest = white[:, :1] / size, white[:, 1:]
        rest = rest - one @ (one.T @ rest)
        rest = rest - one @ (one.T @ rest)  # twice is enough (Kahan)
        for decay in DECAYS:
            weight = torch.arange(1, q + 1, dtype=u.dtype).pow(-decay)
            left, s, right = torch.linalg.svd(rest[:, :q] * weight, full_matrices=False)
            c = left.T @ rest[:, q:]
            beyond = (rest[:, q:] - left @ c).square().sum(0)
            shrunk = (1 + RATIOS[:, None] * s.square()).reciprocal()  # [ratios, r]
            quadratic = (beyond + shrunk @ c.square()).clamp_min(_TINY)
            volume = 2 * lower.diagonal().log().sum() + 2 * size.log() - shrunk.log().sum(1, keepdim=True)
            evidence.append(-0.5 * (volume + (n - 1) * quadratic.log()))
            gain = RATIOS[:, None] * s * shrunk
            found.append(torch.einsum("gr,rp,rq->gpq", gain, c, right) * weight)
    share = torch.softmax(torch.cat(evidence).unflatten(1, (len(rivals), p)).flatten(0, 1), 0)
    made = torch.cat(found).unflatten(1, (len(rivals), p))
    if p == q:
        made[:, 1] += torch.eye(p, dtype=u.dtype)
    return (share[:, :, None] * made.flatten(0, 1)).sum(0)


def nodes(mean: Tensor, root: Tensor, r: int) -> Tensor:
    """2 r points `[2 r, ..., q]` with the mean, and the covariance of the leading r components, of N(mean, root root^T).

    The cubature rule of degree three of Arasaratnam and Haykin (2009); root `[..., q, q]` is a lower triangle, whose other
    columns do not reach those components.
    """
    step = math.sqrt(r) * root[..., :r].movedim(-1, 0)
    return torch.cat([mean + step, mean - step])


def triangle(covariance: Tensor) -> Tensor:
    """Its Cholesky factor; what rounding may do to the smallest direction is added to each variance, 1e-9 of it."""
    sd = covariance.diagonal(dim1=-2, dim2=-1).clamp_min(_LEAST).sqrt()
    one = torch.eye(covariance.shape[-1], dtype=covariance.dtype, device=covariance.device)
    correlation = covariance / (sd[..., :, None] * sd[..., None, :])
    return sd[..., None] * torch.linalg.cholesky(correlation + 1e-9 * one)


_LEAST = 1e-20  # variance of z that rounding has
