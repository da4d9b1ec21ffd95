"""Solves of all runs at once by conjugate gradients, on a GPU where there is one; no factor of their matrix is made."""

import math

import torch
from torch import Tensor

from emulate.emulators._kernels import STATIONARY, columns_of, correlation, kernel

_KEPT = 2**33  # bytes of a matrix that is kept on a GPU; on a CPU a quarter
_BLOCK = 2**26  # numbers of a part of it
_EXACT = 1e-10  # of the right-hand side, where a solve ends
_MOST = 500  # steps


class Covariance:
    """C = K + eta 1 of runs u `[n, d]`, kept or made anew in blocks; Q + eta 1 with Q = U diag(size) U^T is near it.

    C^-1 by conjugate gradients with the inverse of Q + eta 1 before it (Gardner et al. 2018, with inducing points for the
    pivoted Cholesky factor): what is left to the steps is K - Q, so they are few.
    """

    def __init__(self, u: Tensor, length: Tensor, order: Tensor, name: str, eta: float, near: tuple[Tensor, Tensor],
                 device: torch.device):  # fmt: skip
        self.u, self.length, self.order = (t.to(device) for t in (u, length, order))
        self.name, self.eta, self.device = name, eta, device
        self.basis, size = (t.to(device) for t in near)
        self.weight = (1 / (size + eta) - 1 / eta)[:, None]
        n = len(u)
        self.rows = max(1, _BLOCK // n)
        keep = 8 * n**2 <= (_KEPT if device.type == "cuda" else _KEPT // 4)
        self.kept = torch.cat([self._block(some) for some in self.u.split(self.rows)]) if keep else None

    def _block(self, some: Tensor) -> Tensor:
        if self.name not in STATIONARY:
            return kernel(some, columns_of(self.u), self.length, self.order, self.name)
        v, w = some / self.length, self.u / self.length
        e = some.new_zeros(len(some), len(w))
        for i in range(v.shape[1]):
            e.addcmul_(gap := v[:, i, None] - w[:, i], gap, value=-0.5)
        return correlation(e, self.name)

    def __matmul__(self, x: Tensor) -> Tensor:
        if self.kept is not None:
            return self.kept @ x + self.eta * x
        return torch.cat([self._block(some) @ x for some in self.u.split(self.rows)]) + self.eta * x

    def _near(self, x: Tensor) -> Tensor:
        return x / self.eta + self.basis @ (self.weight * (self.basis.T @ x))

    def solve(self, given: Tensor) -> tuple[Tensor, float]:
        """C^-1 given `[n, c]`, and the largest relative residual that is left."""
        b = given.to(self.device)
        scale = b.norm(dim=0).clamp_min(1e-300)
        x, r = torch.zeros_like(b), b.clone()
        z = self._near(r)
        p, rz = z, (r * z).sum(0)
        best, left = x, math.inf
        for _ in range(_MOST):
            cp = self @ p
            step = rz / (p * cp).sum(0).clamp_min(1e-300)
            x, r = x + step * p, r - step * cp
            if (now := float((r.norm(dim=0) / scale).max())) < left:
                best, left = x, now
            if left < _EXACT:
                break
            z = self._near(r)
            rz, before = (r * z).sum(0), rz
            p = z + (rz / before.clamp_min(1e-300)) * p
        return best.cpu(), left
