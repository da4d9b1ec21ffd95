"""Kernels of soft histograms: distribution functions of mean 0 and variance 1, their derivatives and combinations.

Letters: u a distance in bandwidths, G the distribution function, K = G' the density, p how often G is differentiated.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import torch
from torch import Tensor

from emulate.errors import InputError

MOST = 5  # derivatives of G that there are


def _step(u: Tensor, p: int) -> Tensor:
    if p:
        raise InputError("hard counts have no derivative with respect to the samples: it is zero almost everywhere, while that of "
                         "their expectation is not. Use the histogram soft, the method score, or "
                         "emulate.histogram_gradients.from_scores; or detach the samples where only the weights are "
                         "meant.")  # fmt: skip
    return (u > 0).to(u.dtype)


def _gaussian(u: Tensor, p: int) -> Tensor:
    """Phi, and (-1)^(p-1) He_(p-1)(u) phi(u)."""
    if p == 0:
        return 0.5 * torch.erfc(u * -math.sqrt(0.5))  # several times as fast as torch.special.ndtr
    density = torch.exp(-0.5 * u * u) / math.sqrt(2 * math.pi)
    return density if p == 1 else _horner(_hermite(p - 1), u) * density


def _logistic(u: Tensor, p: int) -> Tensor:
    """sigma(u / s) with s = sqrt(3) / pi; the derivatives are polynomials of sigma, for sigma' = sigma (1 - sigma)."""
    s = math.sqrt(3) / math.pi
    g = torch.sigmoid(u / s)
    return g if p == 0 else _horner(_of_sigma(p), g) / s**p


def _compact(u: Tensor, p: int) -> Tensor:
    """Triweight: K = 35/32 (1 - t^2)^3 / 3 with t = u / 3 in [-1, 1]."""
    value = _horner(_triweight(p), u / 3)
    return value.div_(3**p) if p else value


def _horner(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    """The polynomial with the coefficients from the lowest power on."""
    value = torch.full_like(x, coefficients[-1])
    for c in coefficients[-2::-1]:
        value.mul_(x).add_(c)
    return value


@cache
def _hermite(p: int) -> tuple[float, ...]:
    return tuple((-1) ** p * np.polynomial.hermite_e.herme2poly([0] * p + [1]))


@cache
def _of_sigma(p: int) -> tuple[float, ...]:
    one, slope = np.polynomial.Polynomial([0, 1]), np.polynomial.Polynomial([0, 1, -1])
    for _ in range(p):
        one = one.deriv() * slope
    return tuple(one.coef)


@cache
def _triweight(p: int) -> tuple[float, ...]:
    g = np.polynomial.Polynomial([1 / 2, *35 / 32 * np.array([1, 0, -1, 0, 3 / 5, 0, -1 / 7])])
    return tuple(g.deriv(p).coef) if p else tuple(g.coef)


FORMS: dict[str, tuple[Callable[[Tensor, int], Tensor], float]] = {  # G and its derivatives; beyond it G is 0 or 1
    "step": (_step, 0.0),
    "gaussian": (_gaussian, 8.3),  # 5e-17 is left out
    "logistic": (_logistic, 20.5),  # 7e-17
    "compact": (_compact, 3.0),
}


@dataclass(frozen=True)
class Kernel:
    """G(u) = sum_t c_t G_t(u / s_t): terms (coefficient c, stretch s, form). Exactly 0 and the sum of c beyond the reach.

    >>> k = Kernel.of("gaussian")
    >>> round(k.moment(2), 9), abs(k.fourth_order().moment(2)) < 1e-9, round(k.fourth_order().moment(4), 9)
    (1.0, True, -6.0)
    """

    terms: tuple[tuple[float, float, str], ...]

    @classmethod
    def of(cls, form: str) -> "Kernel":
        return cls(((1.0, 1.0, form),))

    @cached_property
    def reach(self) -> float:
        return max(s * FORMS[form][1] for _, s, form in self.terms)

    @cached_property
    def total(self) -> float:
        return math.fsum(c for c, _, _ in self.terms)

    @cached_property
    def order(self) -> int:
        """The first moment q > 0 that is not 0: the bias of a count goes as h^q."""
        return 2 if abs(self.moment(2)) > 1e-6 else 4

    def stretched(self, factor: float) -> "Kernel":
        return Kernel(tuple((c, s * factor, form) for c, s, form in self.terms))

    def __sub__(self, other: "Kernel") -> "Kernel":
        return Kernel(self.terms + tuple((-c, s, form) for c, s, form in other.terms))

    def __mul__(self, factor: float) -> "Kernel":
        return Kernel(tuple((factor * c, s, form) for c, s, form in self.terms))

    def fourth_order(self) -> "Kernel":
        """2 G(u) - G(u / sqrt 2): Richardson's extrapolation in the bandwidth; the second moment is 0."""
        return self * 2 - self.stretched(math.sqrt(2))

    def __call__(self, u: Tensor, p: int = 0) -> Tensor:
        """The p-th derivative of G at u."""
        if p > MOST:
            raise InputError(f"a soft histogram must be differentiated at most {MOST} times. Got {p}.")
        value = torch.zeros(())
        for i, (c, s, form) in enumerate(self.terms):
            g, reach = FORMS[form]
            reach *= s
            near = u.clamp(-reach, reach) if reach else u
            part = g(near.div_(s) if s != 1 else near, p)
            if p:  # nothing beyond the reach; a derivative of the compact kernel does not vanish there by itself
                part = torch.where(u.abs() < reach, part, 0.0)
            if c / s**p != 1:
                part *= c / s**p
            value = value + part if i else part
        return value

    def moment(self, q: int) -> float:
        """Integral of u^q K(u), q > 0."""
        u, w = _grid(self.reach)
        return float((w * u**q * self(u, 1)).sum())


@cache
def _grid(reach: float) -> tuple[Tensor, Tensor]:
    """Nodes and weights of Gauss-Legendre panels, so many that kinks inside them do not matter."""
    x, w = np.polynomial.legendre.leggauss(8)
    edges = np.linspace(-reach, reach, 513)
    half = np.diff(edges)[:, None] / 2
    nodes = (edges[:-1, None] + edges[1:, None]) / 2 + half * x
    return torch.from_numpy(nodes.ravel()), torch.from_numpy((half * w).ravel())
