"""White noise by its statistics, displacements by plane waves with known solutions."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest

from emulate.errors import InputError
from emulate.simulators.nbody.cosmology import Cosmology
from emulate.simulators.nbody.fourier import forward, inverse
from emulate.simulators.nbody.initial_conditions import (
    displacements,
    from_modes,
    linear_field,
    to_modes,
    white_noise,
)

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


some_noise = given(half=st.integers(2, 9), seed=st.integers(0, 2**62), kind=st.sampled_from(["fixed", "gaussian"]))


@settings(max_examples=30, deadline=None)
@some_noise
def test_modes_to_space_and_back(half, seed, kind):
    w = white_noise(2 * half, seed, kind)
    torch.testing.assert_close(to_modes(from_modes(w)), w, rtol=0, atol=1e-13)


@settings(max_examples=30, deadline=None)
@given(half=st.integers(2, 9), seed=st.integers(0, 2**62))
def test_space_to_modes_and_back_takes_off_the_mean_and_the_nyquist_planes(half, seed):
    n = 2 * half
    x = torch.randn(n, n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    w = to_modes(x)
    assert w[0, 0, 0] == 0
    assert not torch.cat((w[half].reshape(-1), w[:, half].reshape(-1), w[:, :, half].reshape(-1))).any()
    torch.testing.assert_close(to_modes(from_modes(w)), w, rtol=0, atol=1e-12)
    rest = torch.fft.rfftn(x - from_modes(w))[:half, :half, :half]
    assert float(rest.reshape(-1)[1:].abs().max()) < 1e-10  # all that is left out lies there


@settings(max_examples=30, deadline=None)
@some_noise
def test_noise_in_space_has_unit_variance(half, seed, kind):
    """Parseval: the mean square is the sum of |w|^2 over n^3 modes."""
    n = 2 * half
    w = white_noise(n, seed, kind)
    twice = torch.full((n // 2 + 1,), 2.0, dtype=torch.float64)
    twice[0] = 1.0
    power = (w.abs().square() * twice).sum()
    torch.testing.assert_close(from_modes(w).square().sum(), power, rtol=1e-12, atol=0)
    if kind == "fixed":
        assert float(power) == pytest.approx((n - 1) ** 3 - 1, rel=1e-12)


@pytest.mark.parametrize("shape", [(7, 7, 7), (8, 8, 6), (8, 8)], ids=str)
def test_noise_that_is_no_even_cube_is_refused(shape):
    with pytest.raises(InputError, match=r"white noise must be a cube \[n, n, n\] of even side\. Got shape \("):
        to_modes(torch.zeros(shape, dtype=torch.float64))


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


def test_second_order_knows_no_axis():
    """With modes up to the Nyquist wavenumber, of which the source has more: turning the field turns psi_2."""
    delta = white_noise(8, 3)

    def psi_2(field):
        return displacements(forward(field, norm="forward")).psi_2.view(3, 8, 8, 8)

    field = inverse(delta, norm="forward")
    for order in ((1, 0, 2), (0, 2, 1), (2, 1, 0), (1, 2, 0)):
        turned = psi_2(field)[list(order)].permute(0, *(1 + i for i in order))
        torch.testing.assert_close(psi_2(field.permute(order).contiguous()), turned, rtol=0, atol=1e-12)


def test_a_single_plane_wave_has_no_second_order():
    _, _, _, delta = crossed_waves(8, 0.5, 0.0)
    assert float(displacements(delta).psi_2.abs().max()) < 1e-14
