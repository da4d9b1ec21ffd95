"""Least-squares polynomial."""

from dataclasses import dataclass
from functools import reduce
from itertools import combinations_with_replacement
from math import comb
from typing import Annotated

import torch
from annotated_types import Ge, Le
from torch import Tensor
from torch.distributions import Normal

from emulate.contracts import Core, Recipe
from emulate.errors import InputError


class _Fitted(Core):
    def __init__(self, state: dict[str, Tensor]):
        super().__init__()
        for name in ("terms", "coefficients", "root", "variance"):
            self.register_buffer(name, state[name])

    def forward(self, u: Tensor) -> Normal:
        h = _basis(u, self.terms)
        leverage = (h @ self.root).square().sum(-1, keepdim=True)
        return Normal(h @ self.coefficients, (self.variance * (1 + leverage)).sqrt(), validate_args=False)


def _basis(u: Tensor, terms: Tensor) -> Tensor:
    """h `[..., k]`: products of x = 2u - 1, one row of `terms` `[k, degree]` each; index d stands for 1."""
    x = torch.cat([2 * u - 1, torch.ones_like(u[..., :1])], -1)
    return reduce(torch.mul, (x[..., column] for column in terms.T))  # powers have no second derivative at 0


@dataclass(frozen=True, kw_only=True)
class Polynomial(Recipe):
    r"""Polynomial of the parameters by least squares: fast, smooth, and the scale to judge others by.

    z = h(u) beta + e with all products h of total degree up to `degree`; s^2 = |e|^2 / (n - k), or the mean squared
    leave-one-out residual, e_i / (1 - h_i^T (H^T H)^-1 h_i), with `calibrate`; variance s^2 (1 + h^T (H^T H)^-1 h)
    (Myers and Montgomery 1995).

    >>> Polynomial(degree=2).minimum_runs(3)
    11
    """

    degree: Annotated[int, Ge(1), Le(6)] = 2  # highest total power of the parameters

    def minimum_runs(self, d: int) -> int:
        return comb(d + self.degree, d) + 1

    def train(self, u: Tensor, z: Tensor, *, noisy: bool, seed: int) -> Core:
        d = u.shape[-1]
        terms = torch.tensor(list(combinations_with_replacement(range(d + 1), self.degree)))
        h = _basis(u, terms)
        q, s, vt = torch.linalg.svd(h, full_matrices=False)
        rank = int((s > 1e-10 * s[0]).sum())
        if rank < len(terms):
            raise InputError(f"polynomial: degree must have coefficients that the runs determine. Got degree = {self.degree} "
                             f"with {len(terms)} coefficients and {len(u)} runs that determine {rank}; choose a lower degree, "
                             "or run at more places.")  # fmt: skip
        root = vt.T / s
        residual = z - q @ (q.T @ z)
        free = (1 - q.square().sum(1, keepdim=True)).clamp_min(1e-3)
        variance = (
            (residual / free).square().mean(0) if self.calibrate else residual.square().sum(0) / (len(u) - len(terms))
        )
        return self.rebuild({"terms": terms, "coefficients": root @ (q.T @ z), "root": root,
                             "variance": variance.clamp_min(1e-20)})  # fmt: skip

    def rebuild(self, state: dict[str, Tensor]) -> Core:
        return _Fitted(state)
