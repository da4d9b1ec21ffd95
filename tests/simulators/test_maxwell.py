"""Light on layers against Airy and the matrices of Born and Wolf; the steps against a slow twin; adjoints against differences."""

import math
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch

from emulate.errors import InputError, RunFailed
from emulate.optimisation import optimise
from emulate.simulators.maxwell import Maxwell
from emulate.simulators.maxwell.lattice import Lattice
from emulate.simulators.maxwell.march import March
from emulate.simulators.maxwell.material import keys_step, matched, on_edges, projected, smoothed
from emulate.simulators.maxwell.scene import Scene
from emulate.simulators.maxwell.truths import transmitted
from emulate.space import Parameter, Space, Uniform

SLAB = torch.tensor([2.0, 0.3], dtype=torch.float64)
QUARTER = ((2.3, 0.25 / 2.3), (1.45, 0.25 / 1.45))
FIXED = Space((Parameter("n", Uniform(1.2, 2.4)),))


def airy(n, d, wavelength=1.0):
    return 1 / (1 + ((n**2 - 1) / (2 * n)) ** 2 * math.sin(2 * math.pi * n * d / wavelength) ** 2)


def slope(f, x, h=1e-4):
    """By central differences of fourth order, along each coordinate."""
    steps = [h * e for e in torch.eye(len(x), dtype=torch.float64)]
    return torch.stack([(8 * (f(x + e) - f(x - e)) - (f(x + 2 * e) - f(x - 2 * e))) / (12 * h) for e in steps], -1)


def test_a_slab_passes_what_airy_says_and_the_error_is_of_second_order_at_least():
    assert airy(2.0, 0.3) == pytest.approx(0.8372832, abs=1e-7)
    cells, waves = np.array([40, 80, 160]), (0.7, 1.0, 1.25)
    exact = np.array([airy(2.0, 0.3, w) for w in waves])
    error = np.array(
        [Maxwell(cells=int(c), wavelengths=waves, show=("transmission",)).run(SLAB).numpy() - exact for c in cells]
    )
    assert abs(error[0, 1]) < 1e-3
    order = -np.polyfit(np.log(cells), np.log(np.abs(error)), 1)[0]
    assert (order > 1.8).all(), order
    assert order[1] > 2.5, "at the design wavelength the dispersion of the lattice is taken out"


def test_the_derivative_by_the_index_is_airys_and_converges():
    """40 cells to the wavelength in the slab of index 2 are 80 to that in vacuum."""
    found = [Maxwell(cells=c).jacobian(SLAB, seed=0) for c in (40, 60, 80)]
    error = [abs(float(slopes[0, 0]) + 0.9339940) for _, slopes in found]
    assert error[0] < 2e-3
    assert error[1] < 1e-3
    assert error[2] < 3e-4
    assert float(found[2][0][0]) == pytest.approx(0.8372832, abs=1e-4)


@pytest.mark.parametrize("thickness", [0.1, 0.2371, 0.3, 0.388])
def test_walls_may_lie_anywhere_between_the_nodes(thickness):
    theta = torch.tensor([2.0, thickness], dtype=torch.float64)
    assert float(Maxwell().run(theta)[0]) == pytest.approx(airy(2.0, thickness), abs=1e-3)


def test_what_passes_and_what_comes_back_are_everything():
    simulator = Maxwell(layers=(("n", "d"), (1.4, 0.2)), substrate=1.7, wavelengths=(0.75, 0.9, 1.0, 1.2, 1.4))
    for theta in torch.rand((3, 2), generator=torch.Generator().manual_seed(1), dtype=torch.float64):
        passed, back = simulator.run(simulator.space.from_unit(theta)).reshape(2, -1)
        torch.testing.assert_close(passed + back, torch.ones_like(passed), rtol=0, atol=1e-4)


def test_a_spectrum_of_a_stack_is_that_of_the_characteristic_matrices():
    waves = (0.8, 0.9, 1.0, 1.1, 1.3)
    simulator = Maxwell(layers=(("n", "d"), (1.45, 0.2), (2.2, 0.13)), substrate=1.6, wavelengths=waves, show=("transmission",),
                        cells=60)  # fmt: skip
    theta = torch.tensor([1.8, 0.21], dtype=torch.float64)
    exact = [transmitted(*(x.tolist() for x in simulator.stack(theta)), w) for w in waves]
    np.testing.assert_allclose(simulator.run(theta).numpy(), exact, atol=3e-3)


def test_five_pairs_of_quarter_waves_are_the_mirror_of_the_textbook():
    y = (2.3 / 1.45) ** 10 * 1.52
    assert ((1 - y) / (1 + y)) ** 2 == pytest.approx(0.97423861, abs=1e-8)
    simulator = Maxwell(
        layers=(("n", 0.25), *QUARTER * 5), substrate=1.52, space=FIXED, show=("reflection",), periods=30.0
    )
    assert float(simulator.run(torch.ones(1, dtype=torch.float64))) == pytest.approx(0.97423861, abs=5e-4)


def test_the_jacobian_is_exact_for_every_output_and_that_of_the_graph():
    simulator = Maxwell(wavelengths=(0.9, 1.1), cells=20, periods=12.0)
    y, found = simulator.jacobian(SLAB, seed=0)
    torch.testing.assert_close(y, simulator.run(SLAB), rtol=0, atol=0)
    torch.testing.assert_close(found, slope(simulator.run, SLAB), rtol=1e-6, atol=1e-9)
    by_graph = torch.autograd.functional.jacobian(simulator.run, SLAB)
    torch.testing.assert_close(found, by_graph, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("polarisation", ["Ez", "Hz"])
def test_steps_and_their_adjoint_are_those_of_the_equations_as_they_are_written(polarisation):
    """A slow twin without absorbers: differences of rolled arrays, and torch's own reverse mode through every step."""
    lattice, steps = Lattice((7, 6), 9, polarisation, (0, 0), 0.6), 40
    generator = torch.Generator().manual_seed(2)
    medium = torch.rand((2, lattice.electric), generator=generator, dtype=torch.float64)
    medium = torch.stack((0.9 + 0.1 * medium[0], 0.2 + 0.3 * medium[1]))
    profile = np.array([1.0, -0.5])
    march = March(
        lattice,
        steps,
        np.array([3, 8]),
        profile,
        np.arange(lattice.electric),
        np.arange(lattice.magnetic),
        (0.8, 1.3),
        0.3,
    )

    def twin(medium):
        a, g = medium
        ahead = lambda f, axis: torch.roll(f, -1, axis) - f  # noqa: E731
        behind = lambda f, axis: f - torch.roll(f, 1, axis)  # noqa: E731
        e, h = (
            torch.zeros(n // lattice.plane, *lattice.shape, dtype=torch.float64)
            for n in (lattice.electric, lattice.magnetic)
        )
        total = [0.0, 0.0]
        for n in range(steps):
            if polarisation == "Ez":
                h = h + 0.6 * torch.stack((-ahead(e[0], 1), ahead(e[0], 0)))
                curl = (behind(h[1], 0) - behind(h[0], 1))[None]
            else:
                h = h + 0.6 * (ahead(e[0], 1) - ahead(e[1], 0))[None]
                curl = torch.stack((behind(h[0], 1), -behind(h[0], 0)))
            t = (n + 0.5) * lattice.dt - 5 * 0.3
            pulse = math.sin(2 * math.pi * 1.05 * t) * math.exp(-0.5 * (t / 0.3) ** 2)
            push = torch.zeros(lattice.electric, dtype=torch.float64)
            push[[3, 8]] = torch.from_numpy(pulse * profile)
            e = a.reshape(e.shape) * e + g.reshape(e.shape) * curl + push.reshape(e.shape)
            for k, (field, shift) in enumerate(((e, 1.0), (h, 0.5))):
                turn = torch.tensor([0.8, 1.3], dtype=torch.float64)[:, None] * 2j * math.pi * lattice.dt * (n + shift)
                total[k] = total[k] + turn.exp() * field.flatten()
        return total

    found, expected = march.phasors(medium), twin(medium)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    weights = [torch.randn(a.shape, generator=generator, dtype=torch.float64) for a in found]
    slopes = []
    for f in (march.phasors, twin):
        leaf = medium.clone().requires_grad_()
        y = sum((w * (a.real + 0.3 * a.abs())).sum() for w, a in zip(weights, f(leaf), strict=True))
        slopes.append(torch.autograd.grad(y, leaf)[0])
    torch.testing.assert_close(*slopes, rtol=1e-10, atol=1e-10)


def test_the_flux_of_a_wave_is_that_of_the_impedance_of_the_lattice():
    lattice = Lattice((120, 1), 20, "Ez", (24, 0), 0.7)
    scene = Scene(lattice, 30, 0.0, (40, 80), 20.0, (0.8, 1.0, 1.2))
    omega = 2 * math.pi * torch.tensor(scene.frequencies, dtype=torch.float64)
    half = torch.asin(torch.sin(omega * lattice.dt / 2) / lattice.courant)  # k dx / 2 of the lattice
    z = lattice.courant * torch.sin(half) / torch.sin(omega * lattice.dt / 2)
    exact = scene.vacuum.e.abs().square()[..., 0] * (torch.cos(half) / (2 * z) / lattice.cells)[:, None]
    torch.testing.assert_close(scene.flux(scene.vacuum)[..., 0], exact, rtol=1e-5, atol=0)


@pytest.mark.parametrize("polarisation", ["Ez", "Hz"])
def test_flux_is_the_same_through_every_column_in_any_lossless_material(polarisation):
    lattice = Lattice((110, 6), 16, polarisation, (24, 0), 0.7)
    scene = Scene(lattice, 28, 0.0, (32, 36, 70, 80), 22.0, (1.0,))
    plane = torch.ones(lattice.shape, dtype=torch.float64)
    plane[40:60] += torch.rand((20, 6), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    flux = scene.flux(scene.fields(on_edges(plane, polarisation)))[0].sum(-1)
    torch.testing.assert_close(flux, flux[:1].expand(4), rtol=1e-4, atol=0)


def test_absorbers_send_next_to_nothing_back():
    """A short lattice against one so long that nothing is back from its end before the march is over."""
    seen = []
    for columns in (100, 600):
        scene = Scene(Lattice((columns, 1), 20, "Ez", (16, 0), 0.7), 22, 0.0, (30, 60), 14.0, (0.8, 1.0, 1.25))
        seen.append(scene.vacuum.e)
    assert float(((seen[0] - seen[1]).abs() / seen[1].abs()).max()) < 1e-4


def test_the_memory_of_a_gradient_grows_as_the_root_of_the_steps():
    lattice = Lattice((60, 40), 20, "Ez", (8, 8), 0.7)
    peaks = []
    for periods in (5.0, 20.0):
        scene = Scene(lattice, 12, 0.5, (16, 40), periods, (1.0,))
        medium = scene.march.medium(torch.ones(lattice.electric, dtype=torch.float64))
        scene.march.phasors(medium.requires_grad_())[0].abs().sum().backward()  # what is kept for all runs is made
        tracemalloc.start()
        scene.march.phasors(medium)[0].abs().sum().backward()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    stored = 20.0 / lattice.dt * lattice.electric * 8
    assert peaks[1] < 2.4 * peaks[0], "four times the steps"
    assert peaks[1] < stored / 2


def test_a_kernel_keeps_three_moments_of_a_wall_wherever_it_lies():
    nodes = torch.arange(-6.0, 7.0, dtype=torch.float64)
    for wall in torch.linspace(-0.5, 0.5, 7, dtype=torch.float64):
        share = keys_step(nodes + 0.5 - wall) - keys_step(nodes - 0.5 - wall)  # a box of one cell about the wall
        moments = [(share * nodes**k).sum() for k in range(3)]
        exact = [torch.ones(()).double(), wall, wall**2 + 1 / 12]
        torch.testing.assert_close(torch.stack(moments), torch.stack(exact), rtol=0, atol=1e-12)


def test_the_matched_permittivity_tends_to_the_square_of_the_index():
    index = torch.tensor([1.0, 1.5, 3.0], dtype=torch.float64)
    errors = torch.stack([(matched(index, cells, 0.7) / index**2 - 1).abs() for cells in (20, 40)])
    torch.testing.assert_close(errors[0] / errors[1], torch.full((3,), 4.0).double(), rtol=0.03, atol=0)


def test_densities_are_averaged_and_pushed_apart():
    rough = torch.rand((9, 7), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert float(smoothed(rough, 3.0).std()) < 0.5 * float(rough.std())
    torch.testing.assert_close(smoothed(torch.full((5, 5), 0.3), 2.5), torch.full((5, 5), 0.3))
    assert torch.equal(smoothed(rough, 1.0), rough)
    for steepness in (0.5, 8.0, 40.0):
        ends = projected(torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64), steepness)
        torch.testing.assert_close(ends, torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64))
    assert set(projected(rough, math.inf).unique().tolist()) == {0.0, 1.0}


def test_wrong_layers_are_refused_in_a_sentence():
    with pytest.raises(InputError, match=r"layers must be numbers or parameters of the study, n, d\. Got \'m\'"):
        Maxwell(layers=(("m", "d"),))
    with pytest.raises(InputError, match=r"every parameter must stand in layers or be the substrate\. Got 'd'"):
        Maxwell(layers=(("n", 0.2),))
    with pytest.raises(InputError, match=r"wavelengths must lie between 0\.6 and 1\.6"):
        Maxwell(wavelengths=(2.0,))
    with pytest.raises(InputError, match=r"layers and show must not be empty"):
        Maxwell(show=())
    with pytest.raises(RunFailed, match=r"an index must be from 0\.95 to 3\.5"):
        Maxwell().run(torch.tensor([4.0, 0.2], dtype=torch.float64))
    with pytest.raises(RunFailed, match=r"no thicker than 0\.44 wavelengths together"):
        Maxwell().run(torch.tensor([2.0, 0.9], dtype=torch.float64))


def test_a_coating_of_a_quarter_wave_is_found_again():
    glass = Maxwell(substrate=2.25, show=("transmission",), cells=20, periods=14.0)
    found = optimise(glass, "transmission[0]", maximise=True, starts=2, seed=1)
    assert found.at["n"] == pytest.approx(1.5, abs=0.02)
    assert found.at["d"] * found.at["n"] == pytest.approx(0.25, abs=0.01)
    assert found.value > 0.998
    fine = replace(glass, cells=40, periods=24.0)
    assert float(fine.run(found.theta)) > 0.998
