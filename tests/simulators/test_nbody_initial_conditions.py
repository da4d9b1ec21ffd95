"""White noise by its statistics, displacements by plane waves with known solutions."""

import math

import pytest
import torch
from scipy.stats import kstest

from emulate.simulators.nbody.cosmology import Cosmology
from emulate.simulators.nbody.fourier import forward, inverse
from emulate.simulators.nbody.initial_conditions import displacements, linear_field, white_noise

STANDARD = {"omega_m": 0.3, "omega_b": 0.049, "h": 0.68, "n_s": 0.96, "sigma_8": 0.8}


def test_noise_is_gaussian_with_unit_variance():
    # every mode with n_z > 0 is independent: real and imaginary part N(0, 1/2)
    w = torch.cat([white_noise(16, seed)[:, :, 1:8].reshape(-1) for seed in range(6)])
    w = w[w != 0]
    for part in (w.real, w.imag):
        assert kstest(part.numpy(), "norm", args=(0, math.sqrt(0.5))).pvalue > 1e-4
    z = (w.abs().square().mean() - 1) * math.sqrt(len(w))  # |w|^2 is exponential, variance 1
    assert abs(float(z)) < 4
    z = (w.real * w.imag).mean() * 2 * math.sqrt(len(w))
    assert abs(float(z)) < 4


def test_noise_belongs_to_a_real_field():
    w = white_noise(16, 3)
    torch.testing.assert_close(forward(inverse(w)), w)
    assert w[0, 0, 0] == 0
    assert not w[8].any()
    assert not w[:, 8].any()
    assert not w[:, :, 8].any()


def test_fixed_amplitudes_keep_the_phases():
    fixed, gaussian = white_noise(8, 5, "fixed"), white_noise(8, 5)
    held = gaussian != 0
    assert int(held.sum()) == 7 * 7 * 4 - 1  # all but the Nyquist planes and the mean
    torch.testing.assert_close(fixed[held].abs(), torch.ones(int(held.sum()), dtype=torch.float64))
    torch.testing.assert_close(fixed[held], gaussian[held] / gaussian[held].abs())


@pytest.mark.parametrize("amplitudes", ["fixed", "gaussian"])
def test_large_scales_do_not_depend_on_the_lattice(amplitudes):
    coarse, fine = white_noise(8, 11, amplitudes), white_noise(32, 11, amplitudes)
    for i in range(-3, 4):
        for j in range(-3, 4):
            assert torch.equal(coarse[i, j, :4], fine[i, j, :4])


def test_noise_is_keyed_by_the_seed_alone():
    state = torch.get_rng_state()
    a = white_noise(8, 1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(a, white_noise(8, 1))
    assert not torch.equal(a, white_noise(8, 2))


def test_linear_field_has_the_linear_power():
    cosmology, box = Cosmology.of(**STANDARD), 200.0
    delta = linear_field(white_noise(16, 0, "fixed"), cosmology, box)
    for n in ((1, 0, 0), (0, -2, 3), (5, -5, 5)):
        k = torch.tensor(2 * math.pi / box * math.hypot(*n), dtype=torch.float64)
        assert float(delta[n].abs() ** 2 * box**3) == pytest.approx(float(cosmology.power(k)), rel=1e-12)


def test_gradient_of_the_linear_field_is_finite():
    sigma_8 = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    numbers = {name: torch.tensor(x, dtype=torch.float64) for name, x in STANDARD.items()}
    delta = linear_field(white_noise(8, 0), Cosmology(**{**numbers, "sigma_8": sigma_8}), 100.0)
    total = delta.abs().square().sum()
    (gradient,) = torch.autograd.grad(total, sigma_8)
    assert float(gradient) == pytest.approx(
        2 * float(total.detach()) / 0.8, rel=1e-10
    )  # the variance goes with sigma_8 squared


def crossed_waves(n: int, a: float, b: float):
    """psi_1 = (a sin k x, b sin k y, 0) with k one wave per box, lengths in particle spacings."""
    k = 2 * math.pi / n
    q = torch.arange(n, dtype=torch.float64)
    x, y, _ = torch.meshgrid(q, q, q, indexing="ij")
    delta = -(a * k * torch.cos(k * x) + b * k * torch.cos(k * y))
    return k, x, y, forward(delta, norm="forward")


def test_first_order_of_a_plane_wave():
    k, x, y, delta = crossed_waves(16, 0.7, -0.4)
    psi = displacements(delta).psi_1.view(3, 16, 16, 16)
    truth = torch.stack((0.7 * torch.sin(k * x), -0.4 * torch.sin(k * y), torch.zeros_like(x)))
    torch.testing.assert_close(psi, truth, rtol=0, atol=1e-13)


def test_second_order_of_crossed_plane_waves():
    """mu_2 = a b k^2 cos kx cos ky, so psi_2 = (a b k / 2) (sin kx cos ky, cos kx sin ky, 0)."""
    a, b = 0.7, -0.4
    k, x, y, delta = crossed_waves(16, a, b)
    psi = displacements(delta).psi_2.view(3, 16, 16, 16)
    sin_cos, cos_sin = torch.sin(k * x) * torch.cos(k * y), torch.cos(k * x) * torch.sin(k * y)
    truth = 0.5 * a * b * k * torch.stack((sin_cos, cos_sin, torch.zeros_like(x)))
    torch.testing.assert_close(psi, truth, rtol=0, atol=1e-13)


def test_a_single_plane_wave_has_no_second_order():
    _, _, _, delta = crossed_waves(8, 0.5, 0.0)
    assert float(displacements(delta).psi_2.abs().max()) < 1e-14
