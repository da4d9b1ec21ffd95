"""The power spectrum estimator on fields whose spectrum is known."""

import itertools
import math

import numpy as np
import pytest
import torch

from emulate.errors import InputError
from emulate.simulators.nbody.cloud import Mesh, density
from emulate.simulators.nbody.fourier import inverse
from emulate.simulators.nbody.initial_conditions import white_noise
from emulate.simulators.nbody.mesh import window
from emulate.simulators.nbody.spectra import bin_count, bins, power_spectrum


def test_bins_are_counted_one_by_one():
    found = {}
    for n in itertools.product(range(-8, 8), repeat=3):
        size = math.sqrt(sum(x * x for x in n))
        found.setdefault(round(size), []).append(size)
    b = bins(16, 6)
    assert b.count.tolist() == [len(found[i]) for i in range(1, 7)]
    assert b.n.tolist() == pytest.approx([sum(found[i]) / len(found[i]) for i in range(1, 7)])


def field(seed: int, amplitudes: str, box: float, power: float) -> torch.Tensor:
    """A field of flat spectrum, seen through the cloud's window."""
    return inverse(white_noise(16, seed, amplitudes) * math.sqrt(power / box**3) * window(16), norm="forward")


def test_fixed_field_gives_its_spectrum_exactly():
    P = power_spectrum(field(0, "fixed", 100.0, 250.0), 100.0, 6)
    torch.testing.assert_close(P, torch.full((6,), 250.0, dtype=torch.float64), rtol=1e-12, atol=0)


def test_gaussian_field_scatters_as_it_must():
    """An average over N_k / 2 independent exponentials: mean P, variance 2 P^2 / N_k."""
    n, number = 60, 6
    P = torch.stack([power_spectrum(field(seed, "gaussian", 100.0, 250.0), 100.0, number) for seed in range(n)])
    relative = P / 250.0 - 1
    variance = 2 / bins(16, number).count
    z = relative.mean(0) / torch.sqrt(variance / n)
    assert float(z.abs().max()) < 4
    spread = relative.square().sum(0) / variance  # chi-squared with n degrees of freedom, a little wider for few modes
    assert float(((spread - n) / math.sqrt(2 * n)).abs().max()) < 5


def all_modes(number: int, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """Every mode of the first bins, in radians per cell [q, 3], and the bin of each."""
    n = np.array(list(itertools.product(range(-cells // 2, cells // 2), repeat=3)))
    which = np.rint(np.sqrt((n**2).sum(1))).astype(int) - 1
    keep = (which >= 0) & (which < number)
    return 2 * np.pi * n[keep] / cells, which[keep]


def test_steep_gaussian_field_keeps_its_spectrum_in_every_bin():
    """P = 250 |n|^-1.5: the mean over the modes of a bin, |z| < 3 with the variance 2 <P^2> / N_k."""
    runs, number = 80, 14
    n = np.fft.fftfreq(32, 1 / 32)
    size = np.sqrt(n[:, None, None] ** 2 + n[None, :, None] ** 2 + n[None, None, :17] ** 2)
    shape = torch.from_numpy(np.sqrt(250.0 / 100.0**3) * np.maximum(size, 1.0) ** -0.75) * window(32)
    fields = (inverse(white_noise(32, seed) * shape, norm="forward") for seed in range(runs))
    found = sum(power_spectrum(field, 100.0, number) for field in fields).numpy() / runs
    k, which = all_modes(number, 32)
    P = 250.0 * (np.sqrt((k**2).sum(1)) * 32 / (2 * np.pi)) ** -1.5
    count = np.bincount(which)
    z = (found - np.bincount(which, P) / count) / np.sqrt(2 * np.bincount(which, P**2) / count**2 / runs)
    assert np.abs(z).max() < 3


def test_particles_at_random_have_shot_noise():
    """V / N with the aliases of the cloud, prod_i (1 - 2/3 sin^2(k_i / 2)) / W^2 (Jing 2005, eq. 20): |z| < 3 in every
    bin; without the aliases the same z-scores would be above 5."""
    mesh, box, number, runs = Mesh(particles=16, refinement=2), 100.0, 14, 100
    generator = torch.Generator().manual_seed(0)
    strewn = (32 * torch.rand(3, 16**3, generator=generator, dtype=torch.float64) for _ in range(runs))
    found = sum(power_spectrum(density(x, mesh), box, number) for x in strewn).numpy() / runs
    k, which = all_modes(number, 32)
    noise = box**3 / 16**3
    P = noise * np.prod((1 - 2 / 3 * np.sin(k / 2) ** 2) / np.sinc(k / (2 * np.pi)) ** 4, 1)
    count = np.bincount(which)
    error = np.sqrt(2 * np.bincount(which, P**2) / count**2 / runs)
    assert np.abs((found - np.bincount(which, P) / count) / error).max() < 3
    assert np.abs((found - noise) / error).max() > 5


def test_number_of_bins_is_a_fraction_of_the_nyquist_wavenumber():
    assert [bin_count(k_max, Mesh(particles=32)) for k_max in (1 / 16, 0.5, 0.3, 1.0)] == [1, 8, 4, 16]
    with pytest.raises(InputError, match=r"k_max must be between 0\.0625 \(one bin\) and 1, .* Got 0\.05"):
        bin_count(0.05, Mesh(particles=32))


def test_one_wave_stands_in_its_bin():
    """delta = A cos(k x) has |delta(k)|^2 = A^2 / 4 in two modes."""
    x = torch.arange(16, dtype=torch.float64)
    wave = 0.3 * torch.cos(2 * math.pi * 3 * x / 16)[None, :, None].expand(16, 16, 16)
    P = power_spectrum(wave, 50.0, 5)
    truth = 50.0**3 * 2 * 0.3**2 / 4 / float(bins(16, 5).count[2]) / float(window(16)[0, 3, 0]) ** 2
    assert P[2].item() == pytest.approx(truth)
    assert float(P[[0, 1, 3, 4]].abs().max()) < 1e-20


def test_single_precision_field_gives_double_spectrum():
    P = power_spectrum(field(1, "gaussian", 100.0, 250.0).float(), 100.0, 6)
    assert P.dtype == torch.float64
    torch.testing.assert_close(P, power_spectrum(field(1, "gaussian", 100.0, 250.0), 100.0, 6), rtol=1e-5, atol=0)
