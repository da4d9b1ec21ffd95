"""The homogeneous universe: matter, curvature and dark energy whose equation of state is linear in a."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from emulate.errors import InputError

__all__ = ["Background", "known"]

_EARLIEST = -0.05  # dark energy with a larger w(0) has not faded when structure begins to grow
_A = torch.linspace(0.005, 1.0, 200, dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class Background:
    r"""Expansion of a universe without radiation; every number a float64 scalar tensor, all without unit.

    .. math::
        E(a)^2 = \Omega_m a^{-3} + \Omega_k a^{-2} + \Omega_{de}\, a^{-3 (1 + w_0 + w_a)} e^{-3 w_a (1 - a)}, \qquad
        \Omega_{de} = 1 - \Omega_m - \Omega_k, \quad w(a) = w_0 + w_a (1 - a)

    Reference: Chevallier & Polarski 2001, IJMPD 10, 213; Linder 2003, PRL 90, 091301.

    Attributes:
        omega_m: matter density today in units of the critical density, positive.
        omega_k: curvature; positive is open, negative is closed.
        w0: equation of state of the dark energy today.
        wa: its change with the scale factor; w0 + wa < -0.05.

    Raises:
        InputError: no such universe has expanded from a hot beginning until today.

    Example:
        >>> omega_m, zero, w0 = (torch.tensor(x, dtype=torch.float64) for x in (0.3, 0.0, -1.0))
        >>> flat = Background(omega_m, zero, w0, zero)
        >>> round(float(flat.expansion(torch.tensor(0.5, dtype=torch.float64)) ** 2), 12)
        3.1
    """

    omega_m: Tensor
    omega_k: Tensor
    w0: Tensor
    wa: Tensor

    def __post_init__(self):
        numbers = known(self.omega_m, self.omega_k, self.w0, self.wa)
        if numbers is None:
            return
        omega_m, omega_k, w0, wa = numbers
        if not all(map(math.isfinite, numbers)) or omega_m <= 0:
            raise InputError(f"cosmology: omega_m must be positive, and all numbers finite. Got omega_m = {omega_m}, "
                             f"omega_k = {omega_k}, w0 = {w0}, wa = {wa}; a usual omega_m is 0.3.")  # fmt: skip
        if w0 + wa >= _EARLIEST:
            raise InputError(f"cosmology: w0 + wa must be below {_EARLIEST}, or dark energy never fades at early "
                             f"times. Got w0 = {w0}, wa = {wa}; lower wa.")  # fmt: skip
        with torch.no_grad():
            density = self._densities(_A)[0]
        if not bool((density > 0).all()):
            raise InputError("cosmology: E(a)^2 must be positive for 0 < a <= 1, or the universe turned around. Got "
                             f"omega_m = {omega_m}, omega_k = {omega_k}, w0 = {w0}, wa = {wa}; "
                             "use less curvature.")  # fmt: skip

    def expansion(self, a: Tensor) -> Tensor:
        """Expansion rate E(a) = H(a) / H_0, H_0 = 100 h km/s/Mpc, at a > 0."""
        return torch.sqrt(self._densities(a)[0] / a**3)

    def matter(self, a: Tensor) -> Tensor:
        """Omega_m(a) = Omega_m a^-3 / E^2 at a >= 0."""
        return self.omega_m / self._densities(a)[0]

    def drag(self, a: Tensor) -> Tensor:
        """d ln E / d ln a at a >= 0."""
        total, dark = self._densities(a)
        w = self.w0 + self.wa * (1.0 - a)
        return 0.5 * (self.omega_k * a - 3.0 * w * dark) / total - 1.5

    def _densities(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """a^3 E^2 and the part of dark energy in it, both regular at a = 0 where the latter vanishes."""
        early = a == 0
        log_a = torch.log(torch.where(early, 1.0, a))  # the derivative of 0 ** x in x would be nan
        fade = torch.exp(-3.0 * ((self.w0 + self.wa) * log_a + self.wa * (1.0 - a)))
        dark = torch.where(early, 0.0, (1.0 - self.omega_m - self.omega_k) * fade)
        return self.omega_m + self.omega_k * a + dark, dark


def known(*numbers: Tensor) -> list[float] | None:
    """The numbers as floats, or None under `torch.func.vmap`, where one tensor stands for many."""
    try:
        return [float(x.detach()) for x in numbers]
    except RuntimeError:  # the only way to ask: a batched tensor refuses to be a number
        return None
