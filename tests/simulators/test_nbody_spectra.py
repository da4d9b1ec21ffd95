"""The power spectrum estimator on fields whose spectrum is known."""

import itertools
import math

import pytest
import torch

from emulate.simulators.nbody.fourier import inverse
from emulate.simulators.nbody.initial_conditions import white_noise
from emulate.simulators.nbody.mesh import window
from emulate.simulators.nbody.spectra import bins, power_spectrum


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
