"""A device of pixels: gradients against differences in both polarisations, what projections leave, and a lens that is made."""

from dataclasses import replace

import pytest
import torch

from emulate.errors import InputError
from emulate.optimisation import optimise
from emulate.simulators.maxwell_device import MaxwellDevice

SMALL = MaxwellDevice(
    pixels=(10, 12), coarse=2, cells=10, waist=0.6, distance=0.5, periods=10.0, targets=(0.0, 0.4), aperture=0.4
)


def random(device, seed=0):
    return torch.rand(device.space.d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("polarisation", ["Ez", "Hz"])
@pytest.mark.parametrize("change", [{}, {"coarse": 1, "mirror": False, "radius": 0.0}], ids=["filtered", "pixels"])
def test_gradients_are_those_of_central_differences(polarisation, change):
    device = replace(SMALL, polarisation=polarisation, space=MaxwellDevice.space, **change)
    theta, h = 0.2 + 0.6 * random(device), 1e-4
    leaf = theta.clone().requires_grad_()
    rows = torch.stack([torch.autograd.grad(y, leaf, retain_graph=True)[0] for y in device.run(leaf)])
    size = rows.abs().max()
    for k in (0, device.space.d // 3, device.space.d - 1):
        step = torch.zeros_like(theta)
        step[k] = h
        near, far = (device.run(theta + n * step) - device.run(theta - n * step) for n in (1, 2))
        torch.testing.assert_close(rows[:, k], (8 * near - far) / (12 * h), rtol=1e-6, atol=float(1e-7 * size))


def test_a_mirrored_device_is_the_same_above_and_below_and_so_is_its_light():
    odd = replace(SMALL, pixels=(10, 13), space=MaxwellDevice.space)
    density = odd.density(random(odd))
    assert density.shape == (10, 13)
    torch.testing.assert_close(density, density.flip(1))
    device = replace(SMALL, targets=(-0.4, 0.4))
    for polarisation in ("Ez", "Hz"):
        low, high = replace(device, polarisation=polarisation).run(random(device))
        assert float(low) == pytest.approx(float(high), rel=1e-9)


def test_what_is_made_is_one_material_or_the_other():
    theta = random(SMALL)
    made = SMALL.made()
    assert set(made.plane(theta).unique().tolist()) == {0.0, 1.0}
    assert torch.equal(made.density(theta) > 0.5, SMALL.density(theta) > 0.5)
    assert made.made() == made
    assert not made.matter(theta)[1].any(), "nothing conducts but what is neither"
    assert SMALL.matter(theta)[1].any()


def test_parameters_belong_to_pixels():
    assert MaxwellDevice().space.d == 25 * 13
    assert MaxwellDevice(coarse=1, mirror=False).space.d == 10_000
    with pytest.raises(InputError, match=r"one parameter for each of the 5 x 3 controls\. Got 6"):
        MaxwellDevice(space=replace(SMALL, pixels=(4, 12), space=MaxwellDevice.space).space, pixels=(10, 12), coarse=2)
    with pytest.raises(InputError, match=r"targets must lie within"):
        MaxwellDevice(targets=(30.0,))


def kept(device, steps):
    """Shares of the power of a device climbed from grey: as it was climbed, without loss in grey, as it is made, and of none."""
    found = optimise(device, "sum(power)", maximise=True, starts=1, steps=steps, confirm=0, seed=0)
    with torch.no_grad():
        shares = [float(d.run(found.theta).sum()) for d in (device, replace(device, damping=0.0), device.made())]
        return found, *shares, float(device.run(torch.zeros_like(found.theta)).sum())


def test_a_small_lens_is_found_and_keeps_its_gain_when_it_is_made():
    device = MaxwellDevice(pixels=(24, 30), coarse=3, cells=10, waist=0.9, distance=1.0, periods=14.0, aperture=0.6)
    _, climbed, clear, made, empty = kept(device, steps=40)
    assert climbed > empty + 0.2
    assert made - empty > 0.7 * (clear - empty), (climbed, clear, made, empty)


@pytest.mark.slow
@pytest.mark.parametrize(
    "change", [{}, {"polarisation": "Hz"}, {"targets": (-1.5, 1.5)}], ids=["lens", "Hz", "splitter"]
)
def test_a_device_of_ten_thousand_pixels_keeps_its_gain_when_it_is_made(change):
    device = MaxwellDevice(**change)
    assert device.density(random(device)).numel() == 10_000
    _, climbed, clear, made, empty = kept(device, steps=50)
    assert climbed > empty + 0.3
    assert made - empty > 0.7 * (clear - empty), (climbed, clear, made, empty)


@pytest.mark.slow
def test_every_pixel_may_be_a_parameter():
    device = MaxwellDevice(coarse=1, mirror=False)
    theta = (0.4 + 0.2 * random(device)).requires_grad_()
    (slope,) = torch.autograd.grad(device.run(theta).sum(), theta)
    away = torch.randn(10_000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    h = 1e-4
    near, far = (device.run(theta.detach() + n * h * away) - device.run(theta.detach() - n * h * away) for n in (1, 2))
    assert float(slope @ away) == pytest.approx(float(8 * near - far) / (12 * h), rel=1e-6)
