"""What is known of a mesh alone against closed forms: differences, the window of the cloud, transforms."""

import math

import pytest
import torch

from emulate.simulators.nbody.fourier import angular, forward, inverse
from emulate.simulators.nbody.mesh import divergence, slope, window


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_difference_of_a_plane_wave(axis):
    """That of cos kx is -sin kx (8 sin k - sin 2 k) / 6 along its axis and nothing along the others."""
    k = 2 * math.pi * 3 / 16
    i = torch.arange(16, dtype=torch.float64)
    shape = [1, 1, 1]
    shape[axis] = 16
    wave = torch.cos(k * i).view(shape).expand(16, 16, 16).contiguous()
    truth = -torch.sin(k * i).view(shape).expand(16, 16, 16) * (8 * math.sin(k) - math.sin(2 * k)) / 6
    found = list(slope(wave))
    torch.testing.assert_close(found.pop(axis), truth, rtol=0, atol=1e-12)
    assert float(found[0].abs().max() + found[1].abs().max()) < 1e-12


def test_differences_are_of_fourth_order():
    def error(n: int) -> float:
        x = torch.arange(n, dtype=torch.float64) * 2 * math.pi / n
        field = torch.sin(x)[:, None, None].expand(n, n, n)
        return float((slope(field)[0] * n / (2 * math.pi) - torch.cos(x)[:, None, None]).abs().max())

    assert math.log2(error(8) / error(16)) == pytest.approx(4.0, abs=0.1)


def test_difference_is_antisymmetric():
    p, q = torch.randn(2, 8, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for dp, dq in zip(slope(p), slope(q)):
        assert float((q * dp).sum()) == pytest.approx(-float((p * dq).sum()), rel=1e-12)


def test_divergence_is_minus_the_transpose_of_slope():
    f, *g = torch.randn(4, 8, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert float((torch.stack(g) * slope(f)).sum()) == pytest.approx(-float((divergence(g) * f).sum()), rel=1e-12)


@pytest.mark.parametrize("planes", [1, 2, 4])
def test_blocks_of_planes_do_not_show(planes, monkeypatch):
    field = torch.randn(12, 12, 12, generator=torch.Generator().manual_seed(2))
    whole, inward = slope(field), divergence(list(slope(field)))
    monkeypatch.setattr("emulate.simulators.nbody.mesh._BLOCK", planes * 12**2)
    assert torch.equal(slope(field), whole)
    assert torch.equal(divergence(list(whole)), inward)


def test_window_is_the_transform_of_the_cloud():
    """The cloud is the convolution of two boxes, one cell wide: sinc^2 per axis, 1 at k = 0."""
    assert float(window(8)[0, 0, 0]) == 1.0
    k = 2 * math.pi / 8
    assert float(window(8)[1, 0, 0]) == pytest.approx((math.sin(k / 2) / (k / 2)) ** 2)
    s = torch.linspace(-1, 1, 20001, dtype=torch.float64)
    transform = torch.trapezoid((1 - s.abs()) * torch.cos(k * s), s)
    assert float(window(8)[0, -1, 0]) == pytest.approx(float(transform), rel=1e-7)


@pytest.mark.parametrize("norm", ["forward", "backward"])
def test_transform_is_that_of_torch_and_blind_to_threads(norm):
    field = torch.randn(16, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    modes = forward(field, norm)
    torch.testing.assert_close(modes, torch.fft.rfftn(field, norm=norm))
    torch.testing.assert_close(inverse(modes, norm), field)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = forward(field, norm), inverse(modes, norm)
        torch.set_num_threads(2)
        two = forward(field, norm), inverse(modes, norm)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(one, two))


def test_angular_wavenumbers():
    x, _, z = angular(4)
    torch.testing.assert_close(x.flatten(), torch.tensor([0, 0.5, -1, -0.5], dtype=torch.float64) * math.pi)
    torch.testing.assert_close(z.flatten(), torch.tensor([0, 0.5, 1], dtype=torch.float64) * math.pi)
