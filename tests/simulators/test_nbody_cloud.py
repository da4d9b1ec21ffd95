"""Cloud in cell against a slow twin from its definition, and its hand-written derivatives in both modes."""

import itertools
import math

import pytest
import torch

from emulate.errors import RunFailed
from emulate.simulators.nbody.cloud import Cloud, Mesh, check_reach, density

MESHES = [Mesh(4, 2), Mesh(6, 1), Mesh(4, 3), Mesh(4, 2, offset=0.0)]


def test_cells_of_the_largest_mesh_have_names():
    for mesh, kind in ((Mesh(64), torch.int32), (Mesh(1024, 1), torch.int32), (Mesh(1024, 2), torch.int64)):
        assert mesh.index == kind
        assert mesh.cells**3 - 1 <= torch.iinfo(mesh.index).max


def jitter(mesh: Mesh, size: float = 1.0, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return size * torch.randn(3, mesh.particles**3, generator=generator, dtype=torch.float64)


def random_field(mesh: Mesh, seed: int) -> torch.Tensor:
    return torch.randn((mesh.cells,) * 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


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


def slope_by_differences(x, mesh, fields, weights, h=1e-6):
    """Central difference in one coordinate of all particles at once, which is exact where none crosses a node."""
    out = torch.empty_like(x)
    for i in range(3):
        step = torch.zeros(3, 1, dtype=x.dtype)
        step[i] = h
        above, below = (Cloud(x + s * step, mesh).gather(fields) for s in (1, -1))
        out[i] = (torch.stack(weights) * (above - below)).sum(0) / (2 * h)
    return out


def off_the_nodes(x: torch.Tensor, mesh: Mesh) -> torch.Tensor:
    """Displacements whose place in the cell is at least 0.01 from a node."""
    place = x + mesh.offset
    below = torch.floor(place)
    return below + (place - below).clamp(0.01, 0.99) - mesh.offset


@pytest.mark.parametrize("mesh", MESHES, ids=str)
def test_paint_is_the_slow_twin(mesh):
    x = jitter(mesh, 3.0)
    weight = torch.linspace(-1, 2, x.shape[1], dtype=torch.float64)
    one, weighted = Cloud(x, mesh).paint(None, weight)
    torch.testing.assert_close(weighted, slow_paint(x, mesh, weight), rtol=0, atol=1e-12)
    torch.testing.assert_close(one, slow_paint(x, mesh, torch.ones_like(weight)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("mesh", MESHES, ids=str)
def test_gather_is_the_transpose_of_paint(mesh):
    x, weights = jitter(mesh, 2.0), jitter(mesh, seed=1)
    fields = [random_field(mesh, seed) for seed in (2, 3, 4)]
    cloud = Cloud(x, mesh)
    painted = sum((p * f).sum() for p, f in zip(cloud.paint(*weights), fields))
    assert float(painted) == pytest.approx(float((weights * cloud.gather(fields)).sum()), rel=1e-12)


@pytest.mark.parametrize("mesh", MESHES, ids=str)
def test_gather_slope_is_the_derivative_of_gather(mesh):
    x, weights = off_the_nodes(jitter(mesh, 2.0), mesh), list(jitter(mesh, seed=1))
    fields = [random_field(mesh, seed) for seed in (2, 3, 4)]
    truth = slope_by_differences(x, mesh, fields, weights)
    torch.testing.assert_close(Cloud(x, mesh).gather_slope(fields, weights), truth, rtol=0, atol=1e-8)


def test_pull_is_a_gather_and_a_slope():
    mesh = MESHES[0]
    x, weights = off_the_nodes(jitter(mesh, 2.0), mesh), list(jitter(mesh, seed=1))
    fields, source = [random_field(mesh, seed) for seed in (2, 3, 4)], random_field(mesh, 5)
    cloud = Cloud(x, mesh)
    values, slope = cloud.pull(fields, weights, source)
    assert torch.equal(values, cloud.gather(fields))
    ones = torch.ones_like(weights[0])
    truth = slope_by_differences(x, mesh, [*fields, source], [*weights, ones])
    torch.testing.assert_close(slope, truth, rtol=0, atol=1e-8)


@pytest.mark.parametrize("mesh", MESHES, ids=str)
def test_along_is_the_derivative_of_paint_and_gather(mesh):
    x, direction, weight = off_the_nodes(jitter(mesh, 2.0), mesh), jitter(mesh, seed=6), jitter(mesh, seed=7)[0]
    direction = direction / direction.abs().max()  # no step below crosses a node
    field, h = random_field(mesh, 8), 1e-6
    moved = Cloud(x, mesh).along(direction)
    above, below = (Cloud(x + s * h * direction, mesh) for s in (1, -1))
    painted = (above.paint(weight)[0] - below.paint(weight)[0]) / (2 * h)
    torch.testing.assert_close(moved.paint(weight)[0], painted, rtol=0, atol=1e-8)
    gathered = (above.gather([field]) - below.gather([field])) / (2 * h)
    torch.testing.assert_close(moved.gather([field]), gathered, rtol=0, atol=1e-8)


def test_chunks_do_not_show(monkeypatch):
    mesh = Mesh(6)
    x, weights, fields = jitter(mesh), list(jitter(mesh, seed=1)), [random_field(mesh, seed) for seed in (2, 3, 4)]

    def everything():
        cloud = Cloud(x, mesh)
        return [*cloud.paint(None, *weights), cloud.gather(fields), cloud.gather_slope(fields, weights)]

    whole = everything()
    monkeypatch.setattr("emulate.simulators.nbody.cloud._CHUNK", 50)
    assert len(mesh.planes(x.device)) > 1
    torch.testing.assert_close(everything(), whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("particles", "refinement"), [(8, 2), (24, 1), (48, 1), (64, 2), (126, 1)])
def test_planes_cover_the_lattice_once(particles, refinement):
    planes = Mesh(particles, refinement).planes(torch.device("cpu"))
    assert [x for part in planes for x in range(part.start, part.stop)] == list(range(particles))


@pytest.mark.parametrize("mesh", MESHES, ids=str)
def test_mass_is_conserved_and_a_lattice_is_smooth(mesh):
    assert float(density(jitter(mesh, 5.0), mesh).mean()) == pytest.approx(0.0, abs=1e-12)
    if mesh.refinement <= 2 and mesh.offset:  # every node is then shared alike by the lattice
        assert float(density(torch.zeros(3, mesh.particles**3), mesh).abs().max()) < 1e-6


@pytest.mark.parametrize("mesh", MESHES, ids=str)
def test_density_has_both_derivatives(mesh):
    x = off_the_nodes(jitter(mesh, 0.6), mesh).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: density(x, mesh), x, eps=1e-6, check_forward_ad=True)


@pytest.mark.parametrize("size", [2.0**20, math.inf, math.nan])
def test_particles_that_are_nowhere_are_refused(size):
    x = torch.zeros(3, 8)
    check_reach(x)
    x[1, 2] = -size
    with pytest.raises(RunFailed, match=r"particles must stay within a million mesh cells of their place\. Got some "
                                        r"that do not; the fluctuations are too large for the time steps\."):  # fmt: skip
        check_reach(x)
