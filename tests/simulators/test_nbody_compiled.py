"""Compiled loops give the bits of their eager twin: task by task, and in a whole run with its derivatives."""

from dataclasses import replace

import pytest
import torch

from emulate.simulators.nbody import NBody
from emulate.simulators.nbody.cloud import Cloud, Mesh
from emulate.simulators.nbody.compiled import CompiledCloud
from emulate.simulators.nbody.settings import has_compiler

needs_compiler = pytest.mark.skipif(not has_compiler(), reason="there is no C++ compiler for torch to call")

THETA = torch.tensor([0.3, 0.8, 0.96, 0.68], dtype=torch.float64)
MESHES = [Mesh(8, 2, compiled=True), Mesh(6, 3, offset=0.25, compiled=True)]


def given(mesh: Mesh, dtype: torch.dtype):
    """A displacement, weights and a direction [3, N], four fields."""
    generator = torch.Generator().manual_seed(0)
    x, weights, direction = 2 * torch.randn(3, 3, mesh.particles**3, generator=generator, dtype=torch.float64)
    fields = torch.randn(4, *(mesh.cells,) * 3, generator=generator, dtype=torch.float64)
    return tuple(t.to(dtype) for t in (x, weights, direction, fields))


def tasks(cloud, weights, direction, fields) -> dict[str, list[torch.Tensor]]:
    moved = cloud.along(direction)
    return {
        "paint": cloud.paint(None, *weights),
        "gather": list(cloud.gather(fields[:3])),
        "gather_slope": [cloud.gather_slope(list(fields[:3]), [None, weights[0], weights[1]])],
        "pull": list(cloud.pull(list(fields[:3]), list(weights), fields[3])),
        "along paint": moved.paint(None),
        "along gather": list(moved.gather(fields[:3])),
    }


def differences(mesh: Mesh, fields) -> list[torch.Tensor]:
    return [mesh.slope(fields[0]), mesh.divergence(list(fields[1:]))]


def check(mesh: Mesh, dtype: torch.dtype) -> None:
    x, weights, direction, fields = given(mesh, dtype)
    cloud = mesh.cloud(x)
    assert isinstance(cloud, CompiledCloud)
    compiled, eager = (tasks(c, weights, direction, fields) for c in (cloud, Cloud(x, mesh)))
    for name, truth in eager.items():
        assert all(torch.equal(p, q) for p, q in zip(compiled[name], truth, strict=True)), name
    compiled, eager = (differences(m, fields) for m in (mesh, replace(mesh, compiled=False)))
    assert all(torch.equal(p, q) for p, q in zip(compiled, eager, strict=True))


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("mesh", MESHES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_every_task_gives_the_bits_of_its_twin(mesh, dtype):
    check(mesh, dtype)


@needs_compiler
@pytest.mark.slow
def test_planes_handled_in_several_parts_give_the_same_bits(monkeypatch):
    monkeypatch.setattr("emulate.simulators.nbody.cloud._CHUNK", 150)
    mesh = MESHES[0]
    assert len(mesh.planes(torch.device("cpu"))) == 4
    check(mesh, torch.float32)


@needs_compiler
@pytest.mark.slow
def test_bits_stay_under_deterministic_algorithms_and_other_threads():
    mesh = MESHES[0]
    x, weights, direction, fields = given(mesh, torch.float32)
    truth = tasks(Cloud(x, mesh), weights, direction, fields)
    threads, strict = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            for mode in (0, 2):
                torch.set_deterministic_debug_mode(mode)
                found = tasks(mesh.cloud(x), weights, direction, fields)
                assert torch.get_deterministic_debug_mode() == mode
                assert all(torch.equal(p, q) for name in truth for p, q in zip(found[name], truth[name]))
    finally:
        torch.set_num_threads(threads)
        torch.set_deterministic_debug_mode(strict)


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"scheme": "fastpm", "precision": "float64", "refinement": 1}], ids=str)
def test_a_run_and_its_derivatives_have_the_same_bits(settings):
    eager = NBody(particles=16, steps=3, compile="never", **settings)
    for adjoint, mode in (("reversed", "reverse"), ("stored", "reverse"), ("checkpointed", "reverse"),
                          ("reversed", "forward")):  # fmt: skip
        truth = replace(eager, adjoint=adjoint).jacobian(THETA, seed=0, mode=mode)
        found = replace(eager, adjoint=adjoint, compile="always").jacobian(THETA, seed=0, mode=mode)
        assert all(torch.equal(p, q) for p, q in zip(found, truth))


@needs_compiler
def test_small_runs_do_not_wait_for_the_compiler():
    assert not NBody(particles=64)._mesh.compiled
    assert not NBody(particles=128, compile="never")._mesh.compiled
    assert NBody(particles=128)._mesh.compiled
    assert NBody(particles=16, compile="always")._mesh.compiled


def test_function_transforms_are_left_to_the_eager_twin():
    """Under `torch.func` the compiler refuses to run."""
    mesh, x = MESHES[0], torch.zeros(3, 8**3)
    kinds = []
    torch.func.jvp(lambda x: (kinds.append(type(mesh.cloud(x.detach()))), x)[1], (x,), (x,))
    assert kinds == [Cloud]
