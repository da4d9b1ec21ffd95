"""Multipoles in redshift space: Kaiser's factors of a linear universe, fields of known multipoles, sums mode by mode."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.special import eval_legendre, hyp2f1

from emulate.simulators.nbody.cloud import Mesh
from emulate.simulators.nbody.cosmology import Cosmology
from emulate.simulators.nbody.fourier import inverse
from emulate.simulators.nbody.initial_conditions import displacements, linear_field, white_noise
from emulate.simulators.nbody.mesh import window
from emulate.simulators.nbody.snapshot import Snapshot
from emulate.simulators.nbody.spectra import power_spectrum
from emulate.simulators.nbody.statistics.multipoles import Multipoles, multipoles

OMEGA_M, A, BOX = 0.3, 0.6, 400.0
LINEAR = Cosmology.of(omega_m=OMEGA_M, omega_b=0.049, h=0.68, n_s=0.96, sigma_8=1e-4)


def growing(a: float) -> float:
    return a * hyp2f1(1 / 3, 1, 11 / 6, -(1 - OMEGA_M) / OMEGA_M * a**3)


D = growing(A) / growing(1.0)
F = math.log(growing(A * 1.001) / growing(A / 1.001)) / math.log(1.001**2)


def modes(number: int) -> tuple[np.ndarray, np.ndarray]:
    """All modes n of the first bins, [q, 3], and the bin of each."""
    n = np.array(list(itertools.product(range(-number - 1, number + 2), repeat=3)))
    which = np.rint(np.sqrt((n**2).sum(1))).astype(int) - 1
    keep = (which >= 0) & (which < number)
    return n[keep], which[keep]


def expected(P, n: np.ndarray, which: np.ndarray) -> np.ndarray:
    """(2 l + 1) <P L_l> over the modes of each bin, [3, b]."""
    mu = n[:, 2] / np.sqrt((n**2).sum(1))
    counts = np.bincount(which)
    return np.stack([(2 * l + 1) * np.bincount(which, P * eval_legendre(l, mu)) / counts for l in (0, 2, 4)])


def linear_universe(mesh: Mesh) -> Snapshot:
    psi = displacements(linear_field(white_noise(mesh.particles, 0, "fixed"), LINEAR, BOX)).psi_1 * mesh.refinement
    growth = LINEAR.growth(torch.tensor(A, dtype=torch.float64))
    return Snapshot(displacement=growth.D * psi, velocity=psi, mesh=mesh, box=BOX, cosmology=LINEAR, growth=growth)


def linear_power(n: np.ndarray) -> np.ndarray:
    k = torch.from_numpy(2 * np.pi / BOX * np.sqrt((n**2).sum(1)))
    return D**2 * LINEAR.power(k).numpy()


def test_a_linear_universe_has_kaisers_multipoles():
    """P(k) (1 + f mu^2)^2 at the modes themselves, within what the mesh does to waves of 30 and more cells."""
    mesh, number = Mesh(particles=32, refinement=4), 4
    n, which = modes(number)
    mu = n[:, 2] / np.sqrt((n**2).sum(1))
    truth = expected(linear_power(n) * (1 + F * mu**2) ** 2, n, which)
    found = Multipoles(k_max=number / 16).measure(linear_universe(mesh)).view(3, number).numpy()
    assert np.abs(found / truth[0] - truth / truth[0]).max() < 0.005


def test_the_bins_approach_kaisers_factors():
    """The continuum: with more modes in a bin the three factors themselves."""
    kaiser = np.array([1 + 2 * F / 3 + F**2 / 5, 4 * F / 3 + 4 * F**2 / 7, 8 * F**2 / 35])
    snapshot = linear_universe(Mesh(particles=32, refinement=4))
    ratio = multipoles(snapshot.redshift_density(), BOX, 8) / power_spectrum(snapshot.density(), BOX, 8)
    assert ratio[:, 4:].mean(1).tolist() == pytest.approx(kaiser.tolist(), abs=0.03)


def test_the_lattice_and_the_cloud_are_all_that_is_left():
    """A lattice half a cell off the nodes answers to small waves psi by sum_i psi_i 2 sin(k_i/2) prod_j cos(k_j/2)."""
    mesh, number = Mesh(particles=16, refinement=2), 6
    n, which = modes(number)
    k = 2 * np.pi * n / mesh.cells
    answer = (
        2
        * np.sin(k / 2)
        * np.stack([np.cos(k[:, (i + 1) % 3] / 2) * np.cos(k[:, (i + 2) % 3] / 2) for i in range(3)], 1)
    )
    answer *= np.array([1, 1, 1 + F]) * k / (k**2).sum(1)[:, None]  # of psi = i k / k^2 delta
    cloud = np.prod(np.sinc(k / (2 * np.pi)) ** 2, 1)
    truth = expected(linear_power(n) * (answer.sum(1) / cloud) ** 2, n, which)
    found = Multipoles(k_max=number / 8).measure(linear_universe(mesh)).view(3, number).numpy()
    assert np.abs(found / truth[0] - truth / truth[0]).max() < 1e-3


def anisotropic(seed: int, amplitudes: str) -> torch.Tensor:
    """A field with P(k, mu) = 100 (1 + 0.8 L_2 + 0.3 L_4) (Mpc/h)^3, seen through the cloud's window."""
    n = torch.fft.fftfreq(16, 1 / 16, dtype=torch.float64)
    x, y, z = n[:, None, None], n[None, :, None], n[None, None, :9].abs()
    mu = (z / torch.sqrt(x**2 + y**2 + z**2).clamp_min(1.0)).numpy()
    P = 100 * (1 + 0.8 * eval_legendre(2, mu) + 0.3 * eval_legendre(4, mu))
    return inverse(
        white_noise(16, seed, amplitudes) * torch.from_numpy(np.sqrt(P / BOX**3)) * window(16), norm="forward"
    )


def anisotropic_modes() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    n, which = modes(7)
    mu = n[:, 2] / np.sqrt((n**2).sum(1))
    return 100 * (1 + 0.8 * eval_legendre(2, mu) + 0.3 * eval_legendre(4, mu)), n, which


def test_fixed_field_gives_its_multipoles_exactly():
    found = multipoles(anisotropic(0, "fixed"), BOX, 7).numpy()
    assert found == pytest.approx(expected(*anisotropic_modes()), rel=1e-10, abs=1e-9)
    assert found[:, 4:].mean(1) == pytest.approx([100, 80, 30], abs=2.5)  # many modes: Legendre is orthogonal


def test_gaussian_field_gives_its_multipoles_on_average():
    """|z| < 3 in every bin: a sum over independent pairs of modes, each exponential with mean P."""
    runs = 60
    P, n, which = anisotropic_modes()
    mu = n[:, 2] / np.sqrt((n**2).sum(1))
    counts = np.bincount(which)
    variance = np.stack([2 * (2 * l + 1) ** 2 * np.bincount(which, (P * eval_legendre(l, mu)) ** 2) / counts**2
                         for l in (0, 2, 4)])  # fmt: skip
    found = np.mean([multipoles(anisotropic(seed, "gaussian"), BOX, 7).numpy() for seed in range(runs)], 0)
    z = (found - expected(P, n, which)) / np.sqrt(variance / runs)
    assert np.abs(z).max() < 3


def test_monopole_is_the_power_spectrum():
    field = anisotropic(1, "gaussian")
    assert torch.equal(multipoles(field, BOX, 7)[0], power_spectrum(field, BOX, 7))


def test_a_wave_along_and_across_the_line_of_sight():
    """L_2 is 1 along and -1/2 across, L_4 is 1 and 3/8."""
    x = torch.cos(2 * math.pi * 2 * torch.arange(16, dtype=torch.float64) / 16)
    along = multipoles(x[None, None, :].expand(16, 16, 16), BOX, 3)[:, 1]
    across = multipoles(x[:, None, None].expand(16, 16, 16), BOX, 3)[:, 1]
    assert (along / along[0]).tolist() == pytest.approx([1, 5, 9])
    assert (across / across[0]).tolist() == pytest.approx([1, -5 / 2, 9 * 3 / 8])
