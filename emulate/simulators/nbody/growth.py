"""Growth of structure in flat LambdaCDM: D(a), f(a), the second order D_2(a), and the inverse a(D), by quadrature.

With matter and a cosmological constant only, the growing mode is an integral (Heath 1977) and the second-order growth
follows from it by variation of constants. No differential equation is stepped, so values and derivatives with respect
to Omega_m are good to rounding.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

__all__ = ["Growth", "expansion", "growth", "scale_factor"]

# With a' = a t^2 all integrands are analytic in t on [0, 1]: 32 Gauss-Legendre nodes reach rounding for Omega_m > 0.1.
_NODES, _WEIGHTS = (torch.from_numpy(x) for x in np.polynomial.legendre.leggauss(32))
_NODES, _WEIGHTS = 0.5 * (_NODES + 1.0), 0.5 * _WEIGHTS


@dataclass(frozen=True, eq=False)
class Growth:
    """Growth functions at given scale factors, all of the shape of `a`.

    Attributes:
        a: scale factor.
        D: linear growth, D(a=1) = 1.
        f: growth rate d ln D / d ln a.
        D2: second-order growth, about -3/7 D^2; the displacement is D psi_1 + D2 psi_2 with div psi_2 = mu_2(psi_1).
        dD2: derivative d D2 / d D.
    """

    a: Tensor
    D: Tensor
    f: Tensor
    D2: Tensor
    dD2: Tensor


def expansion(omega_m: Tensor, a: Tensor) -> Tensor:
    """Expansion rate E(a) = H(a) / H_0 = sqrt(Omega_m a^-3 + 1 - Omega_m), flat and without radiation."""
    return torch.sqrt(omega_m * a**-3 + (1.0 - omega_m))


def growth(omega_m: Tensor, a: Tensor) -> Growth:
    r"""Linear and second-order growth at scale factors `a`, differentiable in `omega_m` and `a`.

    .. math::
        D(a) \propto \tfrac52 \Omega_m E(a) \int_0^a \frac{da'}{(a' E(a'))^3}, \qquad
        D_2(a) = \tfrac35 \left[ E(a) \int_0^a \frac{D^3}{b^2 E} db - D(a) \int_0^a \frac{D^2}{b^2} db \right]

    with D normalised to a at early times inside the second formula; the results are normalised to D(1) = 1. For
    Omega_m = 1 they are D = a and D_2 = -3/7 a^2.

    Reference: Heath 1977, MNRAS 179, 351; the equation for D_2 is that of Bouchet et al. 1995, A&A 296, 575.

    Args:
        omega_m: matter density today, scalar, 0 < Omega_m <= 1.
        a: scale factors, any shape, positive.

    Example:
        >>> g = growth(torch.tensor(1.0, dtype=torch.float64), torch.tensor([0.5], dtype=torch.float64))
        >>> round(float(g.D), 12), round(float(g.D2 / g.D**2), 12)
        (0.5, -0.428571428571)
    """
    D, slope = _growing(omega_m, a)
    E = expansion(omega_m, a)
    b = a[..., None] * _NODES**2
    db = 2.0 * a[..., None] * _NODES * _WEIGHTS
    D_b = _growing(omega_m, b)[0]
    first = (D_b**3 / (b**2 * expansion(omega_m, b)) * db).sum(-1)
    second = ((D_b / b) ** 2 * db).sum(-1)
    today = _growing(omega_m, torch.ones((), dtype=a.dtype))[0]
    D2 = 0.6 * (E * first - D * second)
    D2_slope = 0.6 * (_expansion_slope(omega_m, a) * first - slope * second)
    return Growth(a=a, D=D / today, f=a * slope / D, D2=D2 / today**2, dD2=D2_slope / slope / today)


def scale_factor(omega_m: Tensor, D: Tensor) -> Tensor:
    """Scale factors at which the linear growth, normalised to D(1) = 1, has the given values in (0, 1].

    Newton's method without a gradient, then one step with it: by the implicit function theorem that step carries the
    exact derivative with respect to `omega_m` and `D`.
    """
    with torch.no_grad():
        today = _growing(omega_m, torch.ones((), dtype=D.dtype))[0]
        a = D * today  # early times: D grows like a, slower later, so Newton starts below the root
        for _ in range(8):
            value, slope = _growing(omega_m, a)
            a = a - (value - D * today) / slope
        slope = _growing(omega_m, a)[1]
    today = _growing(omega_m, torch.ones((), dtype=D.dtype))[0]
    return a - (_growing(omega_m, a)[0] - D * today) / slope


def _growing(omega_m: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    """The growing mode, normalised to a at early times, and its derivative with respect to a."""
    t = _NODES
    # (a' E)^-3 with a' = a t^2, its early-time power of a' taken out so that nothing cancels
    integrand = 2.0 * t**4 * _WEIGHTS * (omega_m + (1.0 - omega_m) * (a[..., None] * t**2) ** 3) ** -1.5
    E = expansion(omega_m, a)
    D = 2.5 * omega_m * E * a**2.5 * integrand.sum(-1)
    return D, D * _expansion_slope(omega_m, a) / E + 2.5 * omega_m / (a**3 * E**2)


def _expansion_slope(omega_m: Tensor, a: Tensor) -> Tensor:
    return -1.5 * omega_m * a**-4 / expansion(omega_m, a)
