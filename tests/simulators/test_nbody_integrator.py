"""Steps in the growth factor against Lagrangian perturbation theory and a collapsing sheet."""

import math
from dataclasses import replace

import pytest
import torch

from emulate.simulators.nbody.cloud import Mesh
from emulate.simulators.nbody.cosmology import Cosmology
from emulate.simulators.nbody.fourier import forward
from emulate.simulators.nbody.initial_conditions import displacements
from emulate.simulators.nbody.integrator import evolve, steps
from emulate.simulators.nbody.mesh import acceleration

STANDARD = {"omega_m": 0.3, "omega_b": 0.049, "h": 0.68, "n_s": 0.96, "sigma_8": 0.8}
COSMOLOGY = Cosmology.of(**STANDARD)


def second_order_gravity(c: torch.Tensor) -> torch.Tensor:
    """A of the displacement c_1 psi_1 + c_2 psi_2 is c_1 psi_1 + (c_2 - c_1^2) psi_2, to second order in psi_1."""
    return torch.stack((c[0], c[1] - c[0] ** 2))


def perturbative(scheme: str, count: int, a_start: float = 0.1, a_final: float = 1.0):
    table = steps(COSMOLOGY, a_start, a_final, count, scheme)
    x = torch.stack((table.start.D, table.start.D2))
    v = torch.stack((torch.ones_like(table.start.D), table.start.dD2))
    x, v = evolve(x, v, table, second_order_gravity)
    end = COSMOLOGY.growth(torch.tensor(a_final, dtype=torch.float64))
    return x, v, torch.stack((end.D, end.D2)), torch.stack((torch.ones_like(end.D), end.dD2))


@pytest.mark.parametrize("count", [1, 3, 10])
@pytest.mark.parametrize("scheme", ["bullfrog", "fastpm"])
def test_first_order_is_exact(scheme, count):
    x, v, x_true, v_true = perturbative(scheme, count)
    torch.testing.assert_close(x[0], x_true[0], rtol=1e-12, atol=0)
    torch.testing.assert_close(v[0], v_true[0], rtol=1e-12, atol=0)


@pytest.mark.parametrize("a_final", [0.12, 0.5, 1.0])
def test_bullfrog_velocity_is_exact_to_second_order(a_final):
    """One step, however long, from the exact velocity ends at the exact velocity (Rampf, List & Hahn 2025)."""
    _, v, _, truth = perturbative("bullfrog", 1, a_final=a_final)
    torch.testing.assert_close(v, truth, rtol=1e-11, atol=0)


@pytest.mark.parametrize("scheme", ["bullfrog", "fastpm"])
def test_second_order_converges_with_the_square_of_the_step(scheme):
    def error(count: int) -> float:
        x, _, truth, _ = perturbative(scheme, count)
        return abs(float(x[1] / truth[1] - 1))

    assert math.log2(error(16) / error(32)) == pytest.approx(2.0, abs=0.15)


def test_bullfrog_is_nearer_to_second_order_than_fastpm():
    def error(scheme: str) -> float:
        x, _, truth, _ = perturbative(scheme, 10)
        return abs(float(x[1] / truth[1] - 1))

    assert error("bullfrog") < 0.2 * error("fastpm")


def test_time_runs_back():
    """A step is solved for its beginning in closed form; the force sees the same midpoint."""
    mesh = Mesh(8)
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(3, 8**3, generator=generator, dtype=torch.float64)
    table = steps(COSMOLOGY, 0.1, 1.0, 10)
    x, v = evolve(0.1 * start, start, table, lambda x: acceleration(x, mesh))
    assert float((x - start).abs().max()) > 0.1
    for half, keep, kick in zip(table.drift.flip(0), table.keep.flip(0), table.kick.flip(0)):
        x = x - half * v
        v = (v - kick * acceleration(x, mesh)) / keep
        x = x - half * v
    torch.testing.assert_close(x, 0.1 * start, rtol=0, atol=1e-9)
    torch.testing.assert_close(v, start, rtol=0, atol=1e-9)


@pytest.mark.parametrize("scheme", ["bullfrog", "fastpm"])
def test_a_sheet_follows_zeldovich_until_it_collapses(scheme):
    """One plane wave moves as x = q + D psi exactly until particles cross (Zel'dovich 1970); here delta_lin = 0.8."""
    n, mesh = 32, Mesh(32)
    q = torch.arange(n, dtype=torch.float64)
    wave = 0.8 * torch.cos(2 * math.pi * q / n)[:, None, None].expand(n, n, n)
    psi = displacements(forward(wave, norm="forward"))
    table = steps(COSMOLOGY, 0.1, 1.0, 10, scheme)
    x, v = 2 * psi.at(table.start.D, table.start.D2), 2 * psi.psi_1
    x, v = evolve(x, v, table, lambda x: acceleration(x, mesh))
    assert float((x - 2 * psi.psi_1).abs().max() / (2 * psi.psi_1).abs().max()) < 0.01


def test_table_is_differentiable():
    def table(omega_m):
        t = steps(replace(COSMOLOGY, omega_m=omega_m), 0.1, 1.0, 4)
        return torch.stack((t.drift, t.keep, t.kick))

    assert torch.autograd.gradcheck(table, COSMOLOGY.omega_m.clone().requires_grad_())
