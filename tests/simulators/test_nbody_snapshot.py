"""What is read off the particles: places, velocities, densities, images and files, by closed forms and slow loops."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
import xarray
from scipy.special import hyp2f1

from emulate.errors import InputError
from emulate.simulators.nbody.cloud import Mesh, density
from emulate.simulators.nbody.cosmology import Cosmology
from emulate.simulators.nbody.initial_conditions import displacements, linear_field, white_noise
from emulate.simulators.nbody.snapshot import Snapshot

BOX, A, OMEGA_M = 200.0, 0.5, 0.3
COSMOLOGY = Cosmology.of(omega_m=OMEGA_M, omega_b=0.049, h=0.68, n_s=0.96, sigma_8=0.8)
GROWTH = COSMOLOGY.growth(torch.tensor(A, dtype=torch.float64))
E = math.sqrt(OMEGA_M / A**3 + 1 - OMEGA_M)


def growing(a: float) -> float:
    return a * hyp2f1(1 / 3, 1, 11 / 6, -(1 - OMEGA_M) / OMEGA_M * a**3)


def snapshot(displacement: torch.Tensor, velocity: torch.Tensor, mesh: Mesh, growth=GROWTH) -> Snapshot:
    return Snapshot(
        displacement=displacement, velocity=velocity, mesh=mesh, box=BOX, cosmology=COSMOLOGY, growth=growth
    )


def scattered(mesh: Mesh, seed: int = 0, dtype=torch.float64) -> Snapshot:
    generator = torch.Generator().manual_seed(seed)
    x, v = torch.randn(2, 3, mesh.particles**3, generator=generator, dtype=torch.float64).to(dtype)
    return snapshot(3 * x, v, mesh)


def zeldovich(mesh: Mesh) -> tuple[Snapshot, torch.Tensor]:
    """A universe to first order in Lagrangian perturbation theory, and its linear density modes today."""
    delta = linear_field(white_noise(mesh.particles, 0), COSMOLOGY, BOX)
    psi = displacements(delta).psi_1 * mesh.refinement
    return snapshot(GROWTH.D * psi, psi, mesh), delta


def test_particles_stand_where_they_are_displaced_to():
    mesh = Mesh(particles=4, refinement=3)
    s = scattered(mesh)
    cell = BOX / 12
    for i, (x, y, z) in enumerate(itertools.product(range(4), repeat=3)):
        home = [(3 * n + 0.5) * cell for n in (x, y, z)]
        assert s.lattice()[i].tolist() == pytest.approx(home)
        away = [(h + cell * d) % BOX for h, d in zip(home, s.displacement[:, i].tolist())]
        assert s.positions()[i].tolist() == pytest.approx(away)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_positions_stay_inside_the_box(dtype):
    """A particle a rounding error below zero must not be put at L, which is outside."""
    mesh = Mesh(particles=4, refinement=2)
    x = torch.full((3, 64), -0.5, dtype=dtype)
    inside = torch.nextafter(x, torch.tensor(-1.0, dtype=dtype))
    for displacement in (x, inside, 1e5 * inside, -1e5 * inside):
        positions = snapshot(displacement, x, mesh).positions()
        assert positions.dtype == dtype
        assert bool(((positions >= 0) & (positions < BOX)).all())


def test_velocity_is_the_change_of_place_with_time():
    """u = a dx/dt from the difference of two moments, time by da = a H dt, H = 100 E km/s per Mpc/h."""
    mesh = Mesh(particles=8)
    s, _ = zeldovich(mesh)
    h = 1e-4
    dD = (growing(A + h) - growing(A - h)) / growing(1.0)
    dt = 2 * h / (A * 100 * E)
    u = A * s.velocity.T * (BOX / mesh.cells) * dD / dt
    torch.testing.assert_close(s.velocities(), u, rtol=1e-7, atol=0)


def test_velocity_is_that_of_linear_theory():
    """u(k) = i k / k^2 a H f delta(k), with k and delta of the field that the particles were made from."""
    n = 8
    s, delta = zeldovich(Mesh(particles=n, refinement=2))
    h = 1e-4
    f = math.log(growing(A * (1 + h)) / growing(A * (1 - h))) / math.log((1 + h) / (1 - h))
    u = np.fft.fftn(s.velocities().numpy().reshape(n, n, n, 3), axes=(0, 1, 2)) / n**3
    for mode in itertools.product(range(-3, 4), range(-3, 4), range(0, 4)):
        if any(mode):
            k = 2 * np.pi / BOX * np.array(mode)
            d = growing(A) / growing(1.0) * complex(delta[mode])
            truth = 1j * k / (k @ k) * A * 100 * E * f * d
            assert u[mode] == pytest.approx(truth, rel=1e-6, abs=1e-9)


def test_density_is_painted_once():
    s = scattered(Mesh(particles=4))
    assert s.density() is s.density()
    assert torch.equal(s.density(), density(s.displacement, s.mesh))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_redshift_space_moves_particles_by_velocity_over_expansion(axis):
    mesh = Mesh(particles=8)
    s = scattered(mesh)
    moved = s.displacement.clone()
    moved[axis] += s.velocities()[:, axis] / (100 * A * E) / (BOX / mesh.cells)
    torch.testing.assert_close(s.redshift_density(axis), density(moved, mesh), rtol=0, atol=1e-11)


def test_redshift_density_carries_gradients_to_all_it_is_made_of():
    mesh = Mesh(particles=4)
    s, w = scattered(mesh), torch.randn(8, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    start = [x.clone().requires_grad_() for x in (s.displacement, s.velocity, GROWTH.f, GROWTH.D)]

    def value(x, v, f, D):
        growth = type(GROWTH)(a=GROWTH.a, D=D, f=f, D2=GROWTH.D2, dD2=GROWTH.dD2)
        return (snapshot(x, v, mesh, growth).redshift_density() * w).sum()

    gradients = torch.autograd.grad(value(*start), start)
    for i, gradient in enumerate(gradients):
        along = torch.randn(start[i].shape, generator=torch.Generator().manual_seed(i), dtype=torch.float64)
        with torch.no_grad():
            ends = [value(*(x + sign * 1e-7 * along if j == i else x for j, x in enumerate(start))) for sign in (1, -1)]
        assert float((ends[0] - ends[1]) / 2e-7) == pytest.approx(float((gradient * along).sum()), rel=1e-5)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_are_means_over_blocks(axis):
    s = scattered(Mesh(particles=4, refinement=2))
    images = s.slices(count=2, pixels=4, axis=axis)
    field = np.moveaxis(1 + s.density().numpy(), axis, 0)
    for i, p, q in itertools.product(range(2), range(4), range(4)):
        block = field[4 * i : 4 * i + 4, 2 * p : 2 * p + 2, 2 * q : 2 * q + 2]
        assert float(images[i, p, q]) == pytest.approx(block.mean())
    assert float(images.mean()) == pytest.approx(1.0)
    assert s.slices().shape == (1, 8, 8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_file_gives_back_what_was_written(dtype, tmp_path):
    s = scattered(Mesh(particles=4, refinement=2), dtype=dtype)
    s.to_xarray().to_netcdf(tmp_path / "snapshot.nc", engine="scipy")
    with xarray.open_dataset(tmp_path / "snapshot.nc", engine="scipy") as data:
        assert data.sizes == {"particle": 64, "axis": 3}
        assert data["axis"].values.tolist() == ["x", "y", "z"]
        for name, values in (("position", s.positions()), ("velocity", s.velocities()), ("lattice", s.lattice())):
            assert np.array_equal(data[name].values, values.numpy())
        assert [data[name].units for name in ("position", "velocity", "lattice")] == ["Mpc/h", "km/s", "Mpc/h"]
        numbers = {"omega_m": 0.3, "omega_b": 0.049, "h": 0.68, "n_s": 0.96, "sigma_8": 0.8, "a": 0.5, "redshift": 1.0,
                   "D": growing(A) / growing(1.0), "box": 200.0, "particles_per_side": 4, "mesh_cells_per_side": 8}  # fmt: skip
        assert {name: float(data.attrs[name]) for name in numbers} == pytest.approx(numbers)
        assert data.attrs["box_units"] == "Mpc/h"
        given = {f.name for f in dataclasses.fields(COSMOLOGY) if getattr(COSMOLOGY, f.name) is not None}
        assert given <= set(data.attrs)


def test_what_is_no_snapshot_is_refused():
    mesh, rest = Mesh(particles=4), torch.zeros(3, 64)
    with pytest.raises(InputError, match=r"displacement must have shape \(3, 64\), .* Got \(3, 63\)"):
        snapshot(rest[:, 1:], rest, mesh)
    with pytest.raises(InputError, match=r"velocity must have shape \(3, 64\), .* Got \(64, 3\)"):
        snapshot(rest, rest.T, mesh)
    with pytest.raises(InputError, match=r"of one precision and on one device\. Got .*float32.*float64"):
        snapshot(rest, rest.double(), mesh)
    with pytest.raises(InputError, match=r"box must be positive, in Mpc/h\. Got -1\.0"):
        Snapshot(displacement=rest, velocity=rest, mesh=mesh, box=-1.0, cosmology=COSMOLOGY, growth=GROWTH)
    with pytest.raises(InputError, match=r"axis must be 0, 1 or 2\. Got 3"):
        snapshot(rest, rest, mesh).redshift_density(3)
    with pytest.raises(InputError, match=r"count must divide the 8 mesh cells of a side\. Got 3"):
        snapshot(rest, rest, mesh).slices(count=3)
