"""Least-squares polynomial."""

from dataclasses import dataclass
from math import comb
from typing import Annotated

import torch
from annotated_types import Ge, Le
from torch import Tensor
from torch.distributions import Normal

from emulate.contracts import Core, Recipe
from emulate.errors import InputError
from emulate.polynomials import basis, terms


class _Fitted(Core):
    terms: Tensor
    coefficients: Tensor
    root: Tensor
    variance: Tensor

    def __init__(self, state: dict[str, Tensor]):
        super().__init__()
        for name in ("terms", "coefficients", "root", "variance"):
            self.register_buffer(name, state[name])

    def forward(self, u: Tensor) -> Normal:
        h = basis(u, self.terms)
        leverage = (h @ self.root).square().sum(-1, keepdim=True)
        return Normal(h @ self.coefficients, (self.variance * (1 + leverage)).sqrt(), validate_args=False)


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
        products = terms(d, self.degree)
        h = basis(u, products)
        q, s, vt = torch.linalg.svd(h, full_matrices=False)
        rank = int((s > 1e-10 * s[0]).sum())
        if rank < len(products):
            raise InputError(f"polynomial: degree must have coefficients that the runs determine. Got degree = {self.degree} "
                             f"with {len(products)} coefficients and {len(u)} runs that determine {rank}; choose a lower degree, "
                             "or run at more places.")  # fmt: skip
        root = vt.T / s
        residual = z - q @ (q.T @ z)
        free = (1 - q.square().sum(1, keepdim=True)).clamp_min(1e-3)
        variance = (
            (residual / free).square().mean(0)
            if self.calibrate
            else residual.square().sum(0) / (len(u) - len(products))
        )
        return self.rebuild({"terms": products, "coefficients": root @ (q.T @ z), "root": root,
                             "variance": variance.clamp_min(1e-20)})  # fmt: skip

    def rebuild(self, state: dict[str, Tensor]) -> Core:
        return _Fitted(state)
