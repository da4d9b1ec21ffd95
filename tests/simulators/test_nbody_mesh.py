"""Cloud in cell against a slow twin, the force against closed forms, symmetries and the hand-written adjoints."""

import itertools
import math

import pytest
import torch

from emulate.simulators.nbody.cloud import Cloud, Mesh, density
from emulate.simulators.nbody.fourier import angular, forward, inverse
from emulate.simulators.nbody.mesh import acceleration, inverse_laplacian, slope, window

MESHES = [Mesh(4, 2), Mesh(6, 1), Mesh(4, 3)]


def jitter(mesh: Mesh, size: float = 1.0, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (size * torch.randn(3, mesh.particles**3, generator=generator, dtype=torch.float64)).to(dtype)


def slow_paint(displacement: torch.Tensor, mesh: Mesh, weight: torch.Tensor) -> torch.Tensor:
    """Cloud in cell from its definition: weight prod_i (1 - |x_i - node_i|) over the nodes nearer than one cell."""
    field = torch.zeros((mesh.cells,) * 3, dtype=torch.float64)
    for position, w in zip(mesh.position(displacement).T.tolist(), weight.tolist()):
        base = [math.floor(x) for x in position]
        for corner in itertools.product((0, 1), repeat=3):
            node = [b + c for b, c in zip(base, corner)]
            share = math.prod(1 - abs(x - n) for x, n in zip(position, node))
            field[tuple(n % mesh.cells for n in node)] += w * share
    return field


@pytest.mark.parametrize("mesh", MESHES, ids=str)
def test_paint_is_the_slow_twin(mesh):
    x = jitter(mesh, 3.0)
    weight = torch.linspace(-1, 2, x.shape[1], dtype=torch.float64)
    torch.testing.assert_close(Cloud(x, mesh).paint(weight), slow_paint(x, mesh, weight), rtol=0, atol=1e-12)
    torch.testing.assert_close(Cloud(x, mesh).paint(), slow_paint(x, mesh, torch.ones_like(weight)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("mesh", MESHES, ids=str)
def test_gather_is_the_transpose_of_paint(mesh):
    x, weight = jitter(mesh, 2.0), jitter(mesh, seed=1)[0]
    field = torch.randn((mesh.cells,) * 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    cloud = Cloud(x, mesh)
    assert float((cloud.paint(weight) * field).sum()) == pytest.approx(float((weight * cloud.gather([field])[0]).sum()))


def test_chunks_do_not_show(monkeypatch):
    mesh = Mesh(6)
    x = jitter(mesh)
    whole = Cloud(x, mesh).paint(), acceleration(x, mesh)
    monkeypatch.setattr("emulate.simulators.nbody.cloud._CHUNK", 50)
    torch.testing.assert_close((Cloud(x, mesh).paint(), acceleration(x, mesh)), whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize("mesh", MESHES, ids=str)
def test_mass_is_conserved_and_a_lattice_is_smooth(mesh):
    assert float(density(jitter(mesh, 5.0), mesh).mean()) == pytest.approx(0.0, abs=1e-12)
    if mesh.refinement <= 2:  # every node is then shared alike by the lattice
        assert float(density(torch.zeros(3, mesh.particles**3), mesh).abs().max()) < 1e-6


@pytest.mark.parametrize("mesh", MESHES, ids=str)
def test_density_adjoint_is_the_derivative(mesh):
    assert torch.autograd.gradcheck(lambda x: density(x, mesh), jitter(mesh, 0.6).requires_grad_(), eps=1e-7)


@pytest.mark.parametrize("mesh", MESHES, ids=str)
def test_acceleration_adjoint_is_the_derivative(mesh):
    x = jitter(mesh, 0.6).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: acceleration(x, mesh), x, eps=1e-7, atol=1e-6, fast_mode=True)


def test_plane_waves_are_eigenfunctions():
    """laplacian^-1 cos kx = -cos kx / k^2; the difference of cos kx is -sin kx (8 sin k - sin 2 k) / 6."""
    k = 2 * math.pi * 3 / 16
    i = torch.arange(16, dtype=torch.float64)
    wave = torch.cos(k * i)[None, :, None].expand(16, 16, 16)
    torch.testing.assert_close(inverse_laplacian(wave), -wave / k**2, rtol=0, atol=1e-12)
    truth = -torch.sin(k * i)[None, :, None].expand(16, 16, 16) * (8 * math.sin(k) - math.sin(2 * k)) / 6
    dx, dy, dz = slope(wave)
    torch.testing.assert_close(dy, truth, rtol=0, atol=1e-12)
    assert float(dx.abs().max() + dz.abs().max()) < 1e-12


def test_differences_are_of_fourth_order():
    def error(n: int) -> float:
        x = torch.arange(n, dtype=torch.float64) * 2 * math.pi / n
        field = torch.sin(x)[:, None, None].expand(n, n, n)
        return float((slope(field)[0] * n / (2 * math.pi) - torch.cos(x)[:, None, None]).abs().max())

    assert math.log2(error(8) / error(16)) == pytest.approx(4.0, abs=0.1)


def test_momentum_is_conserved():
    """Each particle may be pulled, all together may not."""
    mesh = Mesh(8)
    A = acceleration(jitter(mesh, 2.0), mesh)
    assert float(A.abs().mean()) > 0.1
    assert float(A.sum(1).abs().max()) < 1e-10


def test_translation_by_whole_cells_changes_nothing():
    mesh = Mesh(8)
    x = jitter(mesh, 1.5)
    shift = torch.tensor([[3.0], [-20.0], [1.0]], dtype=torch.float64)
    torch.testing.assert_close(acceleration(x + shift, mesh), acceleration(x, mesh), rtol=0, atol=1e-10)


def test_parity_and_rotation():
    """A(-x) = -A(x), and turning the axes turns the forces: positions are mirrored through displacements."""
    mesh = Mesh(8)
    x = jitter(mesh, 1.5)
    home = mesh.position(torch.zeros_like(x))
    A = acceleration(x, mesh)
    torch.testing.assert_close(acceleration(-(home + x) - home, mesh), -A, rtol=0, atol=1e-10)
    torch.testing.assert_close(acceleration((home + x).roll(1, 0) - home, mesh), A.roll(1, 0), rtol=0, atol=1e-10)


def test_force_of_a_small_plane_wave():
    """A = psi to first order, softened by the window: particles and mesh share it, once in each direction."""
    mesh, n = Mesh(16), 2
    k = 2 * math.pi * n / mesh.cells
    q = mesh.position(torch.zeros(3, 16**3, dtype=torch.float64))
    psi = torch.zeros_like(q)
    psi[0] = 1e-6 * torch.sin(k * q[0])
    A = acceleration(psi, mesh)
    response = float((A[0] * psi[0]).sum() / psi[0].square().sum())
    assert response == pytest.approx(1.0, abs=0.03)
    assert float(A[1:].abs().max()) < 1e-10


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
