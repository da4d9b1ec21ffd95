"""Transfer function of cold dark matter and baryons, by the fitting formulae of Eisenstein & Hu (1998)."""

import math

import torch
from torch import Tensor

__all__ = ["eisenstein_hu", "eisenstein_hu_no_wiggle"]

_THETA = 2.7255 / 2.7  # temperature of the microwave background over 2.7 K


def eisenstein_hu(k: Tensor, omega_m: Tensor, omega_b: Tensor, h: Tensor) -> Tensor:
    """Transfer function T(k) with acoustic oscillations, T(k -> 0) = 1.

    T = (Omega_b T_b + Omega_c T_c) / Omega_m; the names below are those of the paper, equations in brackets.
    Within 1 % of a Boltzmann code away from the oscillations, a few per cent on them.

    Reference: Eisenstein & Hu 1998, ApJ 496, 605 (arXiv astro-ph/9709112), equations 2 to 24.

    Args:
        k: wavenumbers in h/Mpc, any shape, positive.
        omega_m: matter density today (Omega_m, not Omega_m h^2), scalar.
        omega_b: baryon density today, scalar, 0 < omega_b < omega_m.
        h: Hubble constant in units of 100 km/s/Mpc, scalar.

    Example:
        >>> omega_m, omega_b, h = (torch.tensor(x, dtype=torch.float64) for x in (0.3, 0.05, 0.7))
        >>> T = eisenstein_hu(torch.tensor([1e-5, 1.0], dtype=torch.float64), omega_m, omega_b, h)
        >>> round(float(T[0]), 3), bool(T[1] < 0.01)
        (1.0, True)
    """
    k = k * h  # 1/Mpc from here on
    wm, wb, fb = omega_m * h**2, omega_b * h**2, omega_b / omega_m
    z_eq = 2.50e4 * wm * _THETA**-4  # [2]
    k_eq = 7.46e-2 * wm * _THETA**-2  # [3]
    b1 = 0.313 * wm**-0.419 * (1 + 0.607 * wm**0.674)
    b2 = 0.238 * wm**0.223
    z_d = 1291 * wm**0.251 / (1 + 0.659 * wm**0.828) * (1 + b1 * wb**b2)  # [4]
    R_eq, R_d = (31.5 * wb * _THETA**-4 * 1e3 / z for z in (z_eq, z_d))  # [5]
    s = 2 / (3 * k_eq) * torch.sqrt(6 / R_eq)
    s = s * torch.log((torch.sqrt(1 + R_d) + torch.sqrt(R_d + R_eq)) / (1 + torch.sqrt(R_eq)))  # [6]
    k_silk = 1.6 * wb**0.52 * wm**0.73 * (1 + (10.4 * wm) ** -0.95)  # [7]
    q = k / (13.41 * k_eq)  # [10]

    alpha_c = ((46.9 * wm) ** 0.670 * (1 + (32.1 * wm) ** -0.532)) ** -fb
    alpha_c = alpha_c * ((12.0 * wm) ** 0.424 * (1 + (45.0 * wm) ** -0.582)) ** -(fb**3)  # [11]
    b1 = 0.944 / (1 + (458 * wm) ** -0.708)
    b2 = (0.395 * wm) ** -0.0266
    beta_c = 1 / (1 + b1 * ((1 - fb) ** b2 - 1))  # [12]
    f = 1 / (1 + (k * s / 5.4) ** 4)  # [18]
    T_c = f * _pressureless(q, 1.0, beta_c) + (1 - f) * _pressureless(q, alpha_c, beta_c)  # [17]

    y = (1 + z_eq) / (1 + z_d)
    root = torch.sqrt(1 + y)
    G = y * (-6 * root + (2 + 3 * y) * torch.log((root + 1) / (root - 1)))  # [15]
    alpha_b = 2.07 * k_eq * s * (1 + R_d) ** -0.75 * G  # [14]
    beta_b = 0.5 + fb + (3 - 2 * fb) * torch.sqrt((17.2 * wm) ** 2 + 1)  # [24]
    beta_node = 8.41 * wm**0.435  # [23]
    s_tilde = s / (1 + (beta_node / (k * s)) ** 3) ** (1 / 3)  # [22]
    T_b = _pressureless(q, 1.0, 1.0) / (1 + (k * s / 5.2) ** 2)
    T_b = T_b + alpha_b / (1 + (beta_b / (k * s)) ** 3) * torch.exp(-((k / k_silk) ** 1.4))
    T_b = T_b * torch.sinc(k * s_tilde / math.pi)  # [21]
    return fb * T_b + (1 - fb) * T_c  # [16]


def eisenstein_hu_no_wiggle(k: Tensor, omega_m: Tensor, omega_b: Tensor, h: Tensor) -> Tensor:
    """Transfer function with the baryon suppression but without the oscillations; arguments as `eisenstein_hu`.

    Reference: Eisenstein & Hu 1998, ApJ 496, 605, equations 26 and 28 to 31.
    """
    wm, wb, fb = omega_m * h**2, omega_b * h**2, omega_b / omega_m
    s = 44.5 * torch.log(9.83 / wm) / torch.sqrt(1 + 10 * wb**0.75)  # Mpc
    alpha = 1 - 0.328 * torch.log(431 * wm) * fb + 0.38 * torch.log(22.3 * wm) * fb**2
    gamma = omega_m * h * (alpha + (1 - alpha) / (1 + (0.43 * k * h * s) ** 4))
    q = k * _THETA**2 / gamma
    L = torch.log(2 * math.e + 1.8 * q)
    return L / (L + (14.2 + 731 / (1 + 62.5 * q)) * q**2)


def _pressureless(q: Tensor, alpha: Tensor | float, beta: Tensor | float) -> Tensor:
    """Transfer function of the pressureless part, equations 19 and 20."""
    C = 14.2 / alpha + 386 / (1 + 69.9 * q**1.08)
    L = torch.log(math.e + 1.8 * beta * q)
    return L / (L + C * q**2)
