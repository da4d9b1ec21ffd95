"""Growth of structure: linear D(a), f(a), second-order D_2(a), and the inverse a(D), by Chebyshev collocation.

Both growth equations are solved as polynomials in t = a^(1/p) on [0, 1], one small linear system each: no time is
stepped, the regular singular point t = 0 picks the growing mode, values are good to about 1e-12 and derivatives with
respect to every cosmological number to about 1e-9, in both modes and to any order.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from emulate.errors import InputError
from emulate.simulators.nbody.background import Background, known

__all__ = ["Growth", "early_growth", "growth", "scale_factor"]

_DEGREE = 64


@dataclass(frozen=True, eq=False)
class Growth:
    """Growth functions at given scale factors, all of the shape of `a`, without unit.

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


def growth(background: Background, a: Tensor) -> Growth:
    r"""Linear and second-order growth at scale factors `a`, differentiable in the background and in `a`.

    .. math::
        D'' + (2 + \tfrac{E'}{E}) D' - \tfrac32 \Omega_m(a) D = 0, \qquad
        D_2'' + (2 + \tfrac{E'}{E}) D_2' - \tfrac32 \Omega_m(a) D_2 = -\tfrac32 \Omega_m(a) D^2

    with ' = d / d ln a, D -> a and D_2 -> -3/7 a^2 early; the results are normalised to D(1) = 1. For Omega_m = 1 they
    are D = a and D_2 = -3/7 a^2. Dark energy does not cluster.

    Reference: Peebles 1980, section 10; the equation for D_2 is that of Bouchet et al. 1995, A&A 296, 575.

    Args:
        background: the expansion.
        a: scale factors, any shape, 0 < a <= 1.

    Raises:
        InputError: a scale factor is outside (0, 1].

    Example:
        >>> one, zero = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        >>> g = growth(Background(one, zero, -one, zero), torch.tensor([0.5], dtype=torch.float64))
        >>> round(float(g.D), 10), round(float(g.D2 / g.D**2), 10)
        (0.5, -0.4285714286)
    """
    ends = known(a.min(), a.max())
    if ends is not None and not 0 < ends[0] <= ends[1] < 1 + 1e-9:
        raise InputError(f"growth: scale factors must be in (0, 1]. Got {ends[0]} to {ends[1]}; today is a = 1.")
    modes = _modes(background)
    first, first_slope, second, second_slope = _at(modes, _power(background), a)
    today = _today(modes)
    dD = first + first_slope  # D' / a of D = a g; likewise D_2 = a^2 g_2
    dD2 = a * (2.0 * second + second_slope) / dD
    return Growth(a=a, D=a * first / today, f=dD / first, D2=a**2 * second / today**2, dD2=dD2 / today)


def early_growth(background: Background) -> Tensor:
    """D(1) of the growing mode that is a at early times: the suppression of growth until today."""
    return _today(_modes(background))


def scale_factor(background: Background, D: Tensor) -> Tensor:
    """Scale factors at which the linear growth, normalised to D(1) = 1, has the given values in (0, 1].

    Newton's method in ln a. From the exact root each step doubles the order to which the derivatives are right, so the
    last two carry those of first to third order with respect to the background and `D`.

    Raises:
        InputError: a growth is outside (0, 1].
    """
    ends = known(D.min(), D.max())
    if ends is not None and not 0 < ends[0] <= ends[1] < 1 + 1e-9:
        raise InputError(f"growth: D must be in (0, 1]. Got {ends[0]} to {ends[1]}; today is D = 1.")
    modes, power = _modes(background), _power(background)
    target = torch.log(D * _today(modes))
    with torch.no_grad():  # early times: D = a, the nearer to the root the earlier
        x = torch.clamp(target, max=0.0)
        for _ in range(8):
            x = _newton(modes, power, x, target)
    x = x.detach()
    for _ in range(2):
        x = _newton(modes, power, x, target)
    return torch.exp(x)


def _newton(modes: Tensor, power: Tensor, x: Tensor, target: Tensor) -> Tensor:
    a = torch.exp(torch.clamp(x, max=0.0))
    first, slope = _at(modes[:2], power, a)
    log_a = torch.log(a)
    return log_a - (log_a + torch.log(first) - target) / (1.0 + slope / first)


def _modes(background: Background) -> Tensor:
    """Chebyshev coefficients [4, n] in t of g = D / a, dg / d ln a, g_2 = D_2 / a^2 and dg_2 / d ln a."""
    p = _power(background)
    a = _T**p
    drag, source = background.drag(a)[:, None], 1.5 * background.matter(a)[:, None]
    slope, bend = _SLOPE / p, _BEND / p**2  # d / d ln a and its square; the rows at t = 0 are zero
    one = torch.eye(_DEGREE + 1, dtype=torch.float64)
    # at t = 0 the first equation is empty, 3 - 3/2 - 3/2 = 0: there stands the normalisation g = 1
    first = _START * one + (1.0 - _START) * (bend + (4.0 + drag) * slope + (3.0 + drag - source) * one)
    g = _solve(first, _START)
    second = bend + (6.0 + drag) * slope + (8.0 + 2.0 * drag - source) * one
    g2 = _solve(second, -source * g[:, None] ** 2)
    return torch.stack((g, slope @ g, g2, slope @ g2)) @ _COEFFICIENTS.T


def _solve(A: Tensor, b: Tensor) -> Tensor:
    """x [n] of A x = b [n, 1], by Newton's method from the root: two steps carry the derivatives up to third order.

    `torch.linalg.solve` has wrong second derivatives in forward mode, and wrong first ones under vmap (torch 2.13). An
    inverse has the right ones, but solves for many sides at once: then bits depend on the number of threads.
    """
    fixed = A.detach()
    x = _Fixed.apply(fixed, b.detach())
    for _ in range(2):
        x = x + _Fixed.apply(fixed, b - A @ x)
    return x[:, 0]


class _Fixed(torch.autograd.Function):
    """A^-1 b [n, 1] for an A [n, n] without derivative."""

    generate_vmap_rule = True

    @staticmethod
    def forward(A: Tensor, b: Tensor) -> Tensor:
        return torch.linalg.solve(A, b)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.save_for_forward(inputs[0])

    @staticmethod
    def backward(ctx, cotangent: Tensor):
        return None, _Fixed.apply(ctx.saved_tensors[0].mT, cotangent)

    @staticmethod
    def jvp(ctx, _, tangent: Tensor) -> Tensor:
        return _Fixed.apply(ctx.saved_tensors[0], tangent)


def _power(background: Background) -> Tensor:
    """p of t = a^(1/p), large enough for dark energy, a^(-3 (w0 + wa)), to be smooth in t; a choice, not a function."""
    return torch.clamp(-2.0 / (background.w0 + background.wa).detach(), min=2.0)


def _today(modes: Tensor) -> Tensor:
    return modes[0].sum()  # all T_n are 1 at t = 1


def _at(modes: Tensor, power: Tensor, a: Tensor) -> tuple[Tensor, ...]:
    """The polynomials at scale factors `a`, from T_(i + j) = 2 T_i T_j - T_(i - j), doubling the number of terms."""
    t = 2.0 * a[..., None] ** (1.0 / power) - 1.0
    T = torch.cat((torch.ones_like(t), t), -1)  # degrees 0 to n
    while T.shape[-1] <= _DEGREE:
        T = torch.cat((T, 2.0 * T[..., -1:] * T[..., 1:] - T[..., :-1].flip(-1)), -1)
    return (T[..., None, :] * modes).sum(-1).unbind(-1)  # bits of a product of thin matrices depend on the threads


def _collocation(n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Points t [n + 1] from 1 to 0, the matrix of t d/dt, and that from values to Chebyshev coefficients.

    Reference: Trefethen 2000, Spectral Methods in MATLAB, chapter 6.
    """
    angle = math.pi * torch.arange(n + 1, dtype=torch.float64) / n
    x = torch.cos(angle)
    end = torch.ones(n + 1, dtype=torch.float64)
    end[0] = end[-1] = 2.0
    sign = end * (-1.0) ** torch.arange(n + 1)
    one = torch.eye(n + 1, dtype=torch.float64)
    D = sign[:, None] / sign[None, :] / (x[:, None] - x[None, :] + one)
    D = D - torch.diag(D.sum(1))
    t = 0.5 * (x + 1.0)
    t[-1] = 0.0
    coefficients = 2.0 / n * torch.cos(angle[:, None] * torch.arange(n + 1)) / end[:, None] / end[None, :]
    return t, t[:, None] * 2.0 * D, coefficients


_T, _SLOPE, _COEFFICIENTS = _collocation(_DEGREE)
_BEND = _SLOPE @ _SLOPE
_START = torch.zeros(_DEGREE + 1, 1, dtype=torch.float64)
_START[-1] = 1.0
