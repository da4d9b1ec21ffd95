"""Initial conditions: white noise keyed by seed and mode, and the displacements of Lagrangian perturbation theory."""

import functools
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from emulate.errors import InputError
from emulate.simulators.nbody.cosmology import Cosmology
from emulate.simulators.nbody.fourier import angular, forward, inverse

__all__ = ["Displacements", "displacements", "from_modes", "linear_field", "to_modes", "white_noise"]


@functools.lru_cache(maxsize=2)  # the runs of a study share their phases
def white_noise(n: int, seed: int, amplitudes: Literal["gaussian", "fixed"] = "gaussian") -> Tensor:
    """White noise w(k), complex128 [n, n, n // 2 + 1], with <|w|^2> = 1 and w(-k) = conj w(k).

    The numbers belong to the modes, not to the mesh: they are drawn in shells of growing max |n_i|, so a finer lattice
    has the same large-scale phases and adds small-scale ones. The mean mode and the Nyquist planes are zero, since
    they have no derivative of a real field.

    Args:
        n: lattice points per side, even.
        seed: key of the noise, from 0 on.
        amplitudes: "gaussian", |w|^2 exponential with mean 1; "fixed", |w| = 1 with the same phases (Angulo & Pontzen
            2016, MNRAS 462, L1), which takes most of the sampling variance out of P(k).
    """
    cell, partner, count = _modes(n)
    if seed < 0:
        raise InputError(f"white noise: seed must be a whole number from 0 on. Got {seed}.")
    # a counter-based generator: torch's own takes 32 bits of a seed only
    u = torch.from_numpy(np.random.Generator(np.random.Philox(key=seed)).random((count, 2)))
    phase = 2.0 * math.pi * u[:, 0]
    size = torch.ones_like(phase) if amplitudes == "fixed" else torch.sqrt(-torch.log1p(-u[:, 1]))
    w = torch.zeros(n * n * (n // 2 + 1), dtype=torch.complex128)
    w[cell] = torch.polar(size, phase)
    flat = partner >= 0  # modes with n_z = 0, whose conjugate is stored too
    w[partner[flat]] = w[cell[flat]].conj()
    return w.view(n, n, n // 2 + 1)


def from_modes(modes: Tensor) -> Tensor:
    """White noise in space, [n, n, n] real, of unit variance where <|w|^2> = 1: w(x) = n^(-3/2) sum_k w(k) exp(i k x)."""
    return inverse(modes, norm="forward") / modes.shape[0] ** 1.5


def to_modes(noise: Tensor) -> Tensor:
    """The modes w(k) of white noise [n, n, n] in space, as `white_noise` gives them: no mean, no Nyquist planes.

    Raises:
        InputError: noise is not a cube of even side.
    """
    n = noise.shape[0]
    if noise.shape != (n, n, n) or n % 2:
        raise InputError(f"white noise must be a cube [n, n, n] of even side. Got shape {tuple(noise.shape)}.")
    return forward(noise, norm="forward") * n**1.5 * _inner(n, str(noise.device))


def linear_field(noise: Tensor, cosmology: Cosmology, box: float) -> Tensor:
    """Fourier coefficients of the linear density contrast today, delta(k) = w(k) sqrt(P(k) / V), as `noise`.

    delta(x) is the plain sum of delta(k) exp(i k x), the inverse transform with norm "forward".

    Args:
        noise: white noise [n, n, n // 2 + 1].
        cosmology: gives P(k).
        box: side L of the box in Mpc/h, V = L^3.
    """
    squares, place = _shells(noise.shape[0], str(noise.device))
    k = 2.0 * math.pi / box * torch.sqrt(squares)
    # P only at the few distinct |k| > 0: the mean mode would make the gradient of the square root infinite
    size = torch.sqrt(cosmology.power(k) / box**3)
    size = torch.cat((torch.zeros_like(size[:1]), size)).to(noise.device, noise.real.dtype)
    return noise * size.index_select(0, place).view(noise.shape)


@dataclass(frozen=True, eq=False)
class Displacements:
    """Lagrangian displacement fields [3, n^3], x = q + D psi_1 + D2 psi_2, in units of the particle spacing.

    Attributes:
        psi_1: first order (Zel'dovich), div psi_1 = -delta.
        psi_2: second order, div psi_2 = mu_2(psi_1); the factor -3/7 is in D2.
    """

    psi_1: Tensor
    psi_2: Tensor

    def at(self, D: Tensor, D2: Tensor) -> Tensor:
        """Displacement at growth D and D2."""
        # one number for each axis: a derivative that sums all at once has bits that depend on the number of threads
        D, D2 = (x.to(self.psi_1).expand(3, 1) for x in (D, D2))
        return D * self.psi_1 + D2 * self.psi_2


def displacements(delta: Tensor) -> Displacements:
    r"""First- and second-order displacements of a linear density field.

    .. math::
        \psi_1 = -\nabla \nabla^{-2} \delta, \qquad \nabla \cdot \psi_2 = \mu_2 =
        \sum_{i < j} \left( \psi_{i,i} \psi_{j,j} - \psi_{i,j}^2 \right)

    with both fields free of curl. Reference: Bouchet et al. 1995, A&A 296, 575; Scoccimarro 1998, MNRAS 299, 1097.

    Args:
        delta: Fourier coefficients [n, n, n // 2 + 1] as from `linear_field`.
    """
    n = delta.shape[0]
    k, over_k2 = _wavevectors(n, str(delta.device), delta.real.dtype)

    def real(modes: Tensor) -> Tensor:
        return inverse(modes, norm="forward")

    potential = delta * over_k2
    psi_1 = torch.stack([real(1j * ki * potential) for ki in k])
    strain = {(i, j): real(-k[i] * k[j] * potential) for i in range(3) for j in range(i, 3)}
    pairs = ((0, 1), (0, 2), (1, 2))
    mu_2 = functools.reduce(torch.add, (strain[i, i] * strain[j, j] - strain[i, j] ** 2 for i, j in pairs))
    source = forward(mu_2, norm="forward") * over_k2
    psi_2 = torch.stack([real(-1j * ki * source) for ki in k])
    return Displacements(psi_1.reshape(3, -1), psi_2.reshape(3, -1))


def _integers(n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Integer wavenumbers n_i = k_i L / 2 pi of a half-complex transform, broadcastable to [n, n, n // 2 + 1]."""
    full = torch.fft.fftfreq(n, 1.0 / n, dtype=torch.float64).round().long()
    return full[:, None, None], full[None, :, None], torch.arange(n // 2 + 1)[None, None, :]


@functools.lru_cache(maxsize=4)
def _modes(n: int) -> tuple[Tensor, Tensor, int]:
    """Where the independent modes lie, shell by shell: flat index, flat index of the stored conjugate or -1, number."""
    i, j, k = (x.reshape(-1) for x in torch.broadcast_tensors(*_integers(n)))
    shell = torch.stack((i.abs(), j.abs(), k)).amax(0)
    half = (k > 0) | ((k == 0) & ((j > 0) | ((j == 0) & (i > 0))))
    keep = half & (shell < n // 2)
    i, j, k, shell = i[keep], j[keep], k[keep], shell[keep]
    # lexicographic in (shell, i, j, k): the order does not depend on n, so neither do the numbers of a mode
    order = (((shell * 4096 + i + 2048) * 4096 + j + 2048) * 4096 + k).argsort()
    i, j, k = i[order], j[order], k[order]

    def flat(i: Tensor, j: Tensor) -> Tensor:
        return (i.remainder(n) * n + j.remainder(n)) * (n // 2 + 1) + k

    return flat(i, j), torch.where(k == 0, flat(-i, -j), -1), len(k)


@functools.lru_cache(maxsize=4)
def _inner(n: int, device: str) -> Tensor:
    """1 for the modes of white noise, 0 for the mean mode and the Nyquist planes."""
    i, j, k = _integers(n)
    keep = (i.abs() < n // 2) & (j.abs() < n // 2) & (k < n // 2)
    keep[0, 0, 0] = False
    return keep.double().to(device)


@functools.lru_cache(maxsize=4)
def _shells(n: int, device: str) -> tuple[Tensor, Tensor]:
    """The distinct n_x^2 + n_y^2 + n_z^2 > 0 (float64), and for each mode its place among them, 0 for the mean mode."""
    i, j, k = _integers(n)
    squares, place = torch.unique((i**2 + j**2 + k**2).reshape(-1), return_inverse=True)
    return squares[1:].double(), place.to(device)


@functools.lru_cache(maxsize=4)
def _wavevectors(n: int, device: str, dtype: torch.dtype) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """Wavenumbers in radians per particle spacing, and 1 / k^2 with 0 for the mean mode and the Nyquist planes."""
    k = angular(n)
    k2 = k[0] ** 2 + k[1] ** 2 + k[2] ** 2
    k2[0, 0, 0] = math.inf
    # mu_2 has modes on the Nyquist planes, of which the transform would keep other parts along z than along x and y
    x, y, z = (along.to(device, dtype) for along in k)
    return (x, y, z), (_inner(n, "cpu") / k2).to(device, dtype)
