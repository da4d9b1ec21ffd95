"""The numbers of a cosmology, its growth of structure, and its linear power spectrum with either normalisation."""

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from emulate.errors import InputError, nearest
from emulate.simulators.nbody import boltzmann
from emulate.simulators.nbody.background import Background, known
from emulate.simulators.nbody.growth import Growth, early_growth, growth, scale_factor
from emulate.simulators.nbody.table import LinearTable
from emulate.simulators.nbody.transfer import eisenstein_hu, eisenstein_hu_no_wiggle

__all__ = ["TRANSFERS", "Cosmology", "top_hat"]

_HUBBLE_LENGTH = 2997.92458  # c / H_0 in Mpc/h
_PIVOT = 0.05  # of the primordial spectrum, 1/Mpc
_FORMULAE = {"eisenstein_hu": eisenstein_hu, "no_wiggle": eisenstein_hu_no_wiggle}
TRANSFERS = (*_FORMULAE, "camb")
_ZERO, _ONE = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class Cosmology:
    """A universe of matter, curvature and dark energy, without radiation; every number a float64 scalar tensor.

    Gradients flow from everything below to all the numbers, in reverse and in forward mode. Exactly one of `sigma_8`
    and `A_s` gives the amplitude; the other is None.

    Attributes:
        omega_m: matter density today in units of the critical density.
        omega_b: baryon density today; it shapes the transfer function only, all matter is moved alike.
        h: Hubble constant in units of 100 km/s/Mpc.
        n_s: slope of the primordial spectrum.
        sigma_8: root mean square of the linear density contrast today in spheres of 8 Mpc/h.
        A_s: variance of the primordial curvature per ln k at k = 0.05/Mpc.
        omega_k: curvature today, positive is open.
        w0: equation of state of the dark energy today, w(a) = w0 + wa (1 - a).
        wa: its change; dark energy closes the budget, 1 - omega_m - omega_k.
        transfer: "eisenstein_hu", "no_wiggle" for its form without acoustic oscillations, "camb" for that of the
            Boltzmann code (extra `cosmology`), or a `LinearTable`.

    Raises:
        InputError: the numbers are not those of a universe, or the amplitude is given twice or not at all.

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
    sigma_8: Tensor | None = None
    A_s: Tensor | None = None
    omega_k: Tensor = _ZERO
    w0: Tensor = -_ONE
    wa: Tensor = _ZERO
    transfer: str | LinearTable = "eisenstein_hu"

    @classmethod
    def of(cls, *, transfer: str | LinearTable = "eisenstein_hu", **numbers: float) -> "Cosmology":
        """The cosmology of plain numbers."""
        return cls(
            **{name: torch.as_tensor(value, dtype=torch.float64) for name, value in numbers.items()}, transfer=transfer
        )

    def __post_init__(self):
        amplitudes = [x for x in (self.sigma_8, self.A_s) if x is not None]
        if len(amplitudes) != 1:
            raise InputError("cosmology: the amplitude must be given by exactly one of sigma_8 and A_s. Got "
                             f"{'none' if self.A_s is None else 'both'}; give sigma_8 = 0.8, for instance.")  # fmt: skip
        if not isinstance(self.transfer, LinearTable) and self.transfer not in TRANSFERS:
            raise InputError(f"cosmology: transfer must be {', '.join(TRANSFERS)} or a LinearTable. Got "
                             f"{self.transfer!r}; choose one.{nearest(self.transfer, TRANSFERS)}")  # fmt: skip
        if isinstance(self.transfer, LinearTable) and self.sigma_8 is None:
            raise InputError("cosmology: the amplitude must be sigma_8 where transfer is a table, which is a shape only. "
                             "Got A_s; give sigma_8.")  # fmt: skip
        numbers = known(self.omega_m, self.omega_b, self.h, self.n_s, amplitudes[0])
        if numbers is not None:
            omega_m, omega_b, h, n_s, amplitude = numbers
            if not (0 < omega_b < omega_m and h > 0 and amplitude > 0 and math.isfinite(h + n_s + amplitude)):
                raise InputError("cosmology: the numbers must have 0 < omega_b < omega_m, h > 0, a positive amplitude, "
                                 f"and be finite. Got omega_m = {omega_m}, omega_b = {omega_b}, h = {h}, n_s = {n_s}, "
                                 f"amplitude = {amplitude}; usual are 0.3, 0.05, 0.7, 0.96, 0.8.")  # fmt: skip
        _ = self.background  # refuses what is not a universe

    @property
    def background(self) -> Background:
        """The homogeneous universe."""
        return Background(self.omega_m, self.omega_k, self.w0, self.wa)

    def expansion(self, a: Tensor) -> Tensor:
        """E(a) = H(a) / H_0 with H_0 = 100 h km/s/Mpc."""
        return self.background.expansion(a)

    def growth(self, a: Tensor) -> Growth:
        """Linear and second-order growth at scale factors 0 < a <= 1, D(1) = 1."""
        return growth(self.background, a)

    def scale_factor(self, D: Tensor) -> Tensor:
        """Scale factors at which the linear growth has the values `D`, 0 < D <= 1."""
        return scale_factor(self.background, D)

    def transfer_function(self, k: Tensor) -> Tensor:
        """Transfer function T at `k` in h/Mpc, 1 on large scales, without unit."""
        if isinstance(self.transfer, LinearTable):
            return self.transfer(k)
        if self.transfer == "camb":
            return boltzmann.camb_transfer(k, self.background, self.omega_b, self.h)
        return _FORMULAE[self.transfer](k, self.omega_m, self.omega_b, self.h)

    def power(self, k: Tensor) -> Tensor:
        r"""Linear power spectrum today, in (Mpc/h)^3, at `k` > 0 in h/Mpc.

        .. math::
            P(k) = A k^{n_s} T(k)^2, \qquad
            \sigma_8^2 = \frac{1}{2 \pi^2} \int P(k) W(8 k)^2 k^3 \, d\ln k

        with W the Fourier transform of the unit top hat, or, from Poisson's equation with D -> a early,

        .. math::
            P(k) = \frac{4}{25} \left( \frac{c k}{H_0} \right)^4 \frac{T(k)^2 D(1)^2}{\Omega_m^2} \,
            \frac{2 \pi^2}{k^3} A_s \left( \frac{k h}{0.05} \right)^{n_s - 1}

        Curvature enters through D only, which holds for k far above sqrt(abs(Omega_k)) / 2998 h/Mpc. P(0) is 0 and its
        square root has no derivative there, so `k` must not contain zero; leave the mean mode out instead.
        """
        return self._amplitude() * self._shape(k)

    def sigma(self, radius: float = 8.0) -> Tensor:
        """Root mean square of the linear density contrast today in spheres of `radius` Mpc/h."""
        return torch.sqrt(self._amplitude() * self._variance(radius))

    def _amplitude(self) -> Tensor:
        """A of P = A k^n_s T^2, k in h/Mpc."""
        if self.A_s is None:
            return cast(Tensor, self.sigma_8) ** 2 / self._variance(8.0)
        poisson = 0.4 * _HUBBLE_LENGTH**2 * early_growth(self.background) / self.omega_m
        return poisson**2 * 2.0 * math.pi**2 * self.A_s * (self.h / _PIVOT) ** (self.n_s - 1.0)

    def _variance(self, radius: float) -> Tensor:
        """Variance in spheres for A = 1."""
        k = _K
        if self.transfer not in _FORMULAE:  # outside the tables lies next to nothing of the variance
            k_min, k_max = self.transfer.range if isinstance(self.transfer, LinearTable) else boltzmann.RANGE
            k = _K[(k_min <= _K) & (k_max >= _K)]
        return (self._shape(k) * top_hat(radius * k) ** 2 * k**3).sum() * _STEP / (2.0 * math.pi**2)

    def _shape(self, k: Tensor) -> Tensor:
        return k**self.n_s * self.transfer_function(k) ** 2


def top_hat(x: Tensor) -> Tensor:
    """Fourier transform of the top hat of unit radius and unit volume: 3 (sin x - x cos x) / x^3."""
    series = 1.0 - x**2 / 10.0 + x**4 / 280.0
    large = torch.where(x < 0.05, 1.0, x)  # sin x - x cos x cancels at small x
    return torch.where(x < 0.05, series, 3.0 * (torch.sin(large) - large * torch.cos(large)) / large**3)


# Even steps in ln k: the integrand falls off at both ends, where the trapezium rule converges fastest.
_K = torch.exp(torch.linspace(math.log(1e-5), math.log(1e2), 2048, dtype=torch.float64))  # h/Mpc
_STEP = math.log(1e7) / 2047
