"""Flat LambdaCDM: the five numbers of a cosmology and its linear power spectrum, normalised to sigma_8."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from emulate.simulators.nbody.growth import Growth, expansion, growth, scale_factor
from emulate.simulators.nbody.transfer import eisenstein_hu, eisenstein_hu_no_wiggle

__all__ = ["Cosmology", "top_hat"]


@dataclass(frozen=True, eq=False)
class Cosmology:
    """A flat universe of matter and a cosmological constant; every number a float64 scalar tensor.

    Gradients flow from everything below to the five numbers.

    Attributes:
        omega_m: matter density today in units of the critical density.
        omega_b: baryon density today; it shapes the transfer function only, all matter is moved alike.
        h: Hubble constant in units of 100 km/s/Mpc.
        n_s: slope of the primordial spectrum.
        sigma_8: root mean square of the linear density contrast today in spheres of 8 Mpc/h.
        wiggles: acoustic oscillations in the transfer function or not.

    Example:
        >>> planck = Cosmology.of(omega_m=0.31, omega_b=0.049, h=0.68, n_s=0.965, sigma_8=0.81)
        >>> P = planck.power(torch.tensor([0.01, 0.1], dtype=torch.float64))
        >>> bool(P[0] > P[1])
        True
    """

    omega_m: Tensor
    omega_b: Tensor
    h: Tensor
    n_s: Tensor
    sigma_8: Tensor
    wiggles: bool = True

    @classmethod
    def of(cls, *, wiggles: bool = True, **numbers: float) -> "Cosmology":
        """The cosmology of plain numbers."""
        tensors = {name: torch.as_tensor(value, dtype=torch.float64) for name, value in numbers.items()}
        return cls(**tensors, wiggles=wiggles)

    def expansion(self, a: Tensor) -> Tensor:
        """E(a) = H(a) / H_0."""
        return expansion(self.omega_m, a)

    def growth(self, a: Tensor) -> Growth:
        """Linear and second-order growth at scale factors `a`."""
        return growth(self.omega_m, a)

    def scale_factor(self, D: Tensor) -> Tensor:
        """Scale factors at which the linear growth has the values `D`."""
        return scale_factor(self.omega_m, D)

    def transfer(self, k: Tensor) -> Tensor:
        """Eisenstein & Hu (1998) transfer function at `k` in h/Mpc."""
        formula = eisenstein_hu if self.wiggles else eisenstein_hu_no_wiggle
        return formula(k, self.omega_m, self.omega_b, self.h)

    def power(self, k: Tensor) -> Tensor:
        r"""Linear power spectrum today, in (Mpc/h)^3, at `k` > 0 in h/Mpc.

        .. math::
            P(k) = A k^{n_s} T(k)^2, \qquad
            \sigma_8^2 = \frac{1}{2 \pi^2} \int P(k) W(8 k)^2 k^3 \, d\ln k

        with W the Fourier transform of the unit top hat. P(0) is 0 and its square root has no derivative there, so
        `k` must not contain zero; leave the mean mode out instead.
        """
        variance = (self._shape(_K) * _SPHERE * _STEP).sum() / (2.0 * math.pi**2)
        return self.sigma_8**2 / variance * self._shape(k)

    def _shape(self, k: Tensor) -> Tensor:
        return k**self.n_s * self.transfer(k) ** 2


def top_hat(x: Tensor) -> Tensor:
    """Fourier transform of the top hat of unit radius and unit volume: 3 (sin x - x cos x) / x^3."""
    series = 1.0 - x**2 / 10.0 + x**4 / 280.0
    large = torch.where(x < 0.05, 1.0, x)  # sin x - x cos x cancels at small x
    return torch.where(x < 0.05, series, 3.0 * (torch.sin(large) - large * torch.cos(large)) / large**3)


# Even steps in ln k: the integrand falls off at both ends, where the trapezium rule converges fastest.
_K = torch.exp(torch.linspace(math.log(1e-5), math.log(1e2), 2048, dtype=torch.float64))  # h/Mpc
_STEP = math.log(1e7) / 2047
_SPHERE = top_hat(8.0 * _K) ** 2 * _K**3
