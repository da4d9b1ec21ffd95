"""Derivatives of a run: three ways of reverse mode, a twin in plain autograd, central differences, forward mode."""

import functools
import math
from dataclasses import replace

import pytest
import torch

from emulate.simulators.nbody import NBody
from emulate.simulators.nbody.adjoint import ADJOINTS
from emulate.simulators.nbody.cloud import Mesh
from emulate.simulators.nbody.cosmology import Cosmology
from emulate.simulators.nbody.gravity import Gravity
from emulate.simulators.nbody.initial_conditions import displacements, linear_field, white_noise
from emulate.simulators.nbody.integrator import SCHEMES, steps
from emulate.space import Parameter, Space, Uniform

EVERYTHING = {"omega_m": 0.3, "omega_b": 0.049, "h": 0.68, "n_s": 0.96, "sigma_8": 0.8,
              "omega_k": 0.02, "w0": -0.9, "wa": -0.2}  # fmt: skip
BY_A_S = {**{name: x for name, x in EVERYTHING.items() if name != "sigma_8"}, "A_s": 2.1e-9}
COSMOLOGY = Cosmology.of(**EVERYTHING)


def simulator(values: dict[str, float] = EVERYTHING, **settings) -> NBody:
    space = Space(tuple(Parameter(name, Uniform(x - abs(x) / 2, x + abs(x) / 2)) for name, x in values.items()))
    return NBody(**{"particles": 16, "box": 128.0, "steps": 4, "precision": "float64", "space": space, **settings})


def at(values: dict[str, float] = EVERYTHING) -> torch.Tensor:
    return torch.tensor(list(values.values()), dtype=torch.float64)


def plain_acceleration(x: torch.Tensor, mesh: Mesh) -> torch.Tensor:
    """The force in ordinary differentiable operations: each corner by fancy indexing, Fourier transforms of torch."""
    M = mesh.cells
    place = mesh.node() + mesh.offset + x
    below = place.detach().floor()
    t, near = place - below, below.long()
    corners = []
    for corner in range(8):
        bit = torch.tensor([corner >> 2 & 1, corner >> 1 & 1, corner & 1])[:, None]
        i = (near + bit) % M
        share = torch.where(bit == 1, t, 1 - t).prod(0)
        corners.append(((i[0] * M + i[1]) * M + i[2], share))
    count = sum(torch.zeros(M**3, dtype=x.dtype).index_add(0, i, share) for i, share in corners)
    k = 2 * math.pi * torch.fft.fftfreq(M, dtype=x.dtype)
    k2 = k[:, None, None] ** 2 + k[:, None] ** 2 + k**2
    k2[0, 0, 0] = math.inf
    phi = torch.fft.ifftn(torch.fft.fftn(count.view(M, M, M)) * mesh.refinement**3 / k2).real
    slopes = [(8 * (phi.roll(-1, a) - phi.roll(1, a)) - (phi.roll(-2, a) - phi.roll(2, a))) / 12 for a in range(3)]
    return torch.stack([sum(s.reshape(-1)[i] * share for i, share in corners) for s in slopes])


def plain(x, v, table, gravity):
    """The loop over the steps, left to autograd."""
    x = x + table.drift[0].to(x) * v
    for h, alpha, beta in zip(table.drift[1:].to(x), table.keep.to(x), table.kick.to(x)):
        v = alpha * v + beta * plain_acceleration(x, gravity.mesh)
        x = x + h * v
    return x, v


def derivatives(evolution, scheme: str, dtype: torch.dtype, count: int = 10):
    """x, v at the end, and a random functional's derivatives in x, v at the start and in the table."""
    generator = torch.Generator().manual_seed(1)
    mesh = Mesh(8)
    table = steps(COSMOLOGY, 0.1, 1.0, count, scheme)
    psi = displacements(linear_field(white_noise(8, 0), COSMOLOGY, 64.0))
    x = (2 * psi.at(table.start.D, table.start.D2)).to(dtype)
    v = (2 * psi.psi_1).to(dtype)
    numbers = [t.detach().clone() for t in (table.drift, table.keep, table.kick)]
    leaves = [t.requires_grad_() for t in (x, v, *numbers)]
    table = replace(table, drift=leaves[2], keep=leaves[3], kick=leaves[4])
    ends = evolution(x, v, table, Gravity(mesh))
    weights = torch.randn(2, *x.shape, generator=generator, dtype=torch.float64).to(dtype)
    total = sum((w * end).sum() for w, end in zip(weights, ends))
    return [end.detach() for end in ends], torch.autograd.grad(total, leaves)


def slope_error(y: torch.Tensor, found: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Largest difference of two Jacobians of ln y, columns in units of their largest element where that is above 1."""
    found, truth = found / y[:, None], truth / y[:, None]
    return ((found - truth) / truth.abs().amax(0).clamp(min=1.0)).abs().max()


def close(found, truth, bar: float) -> None:
    for one, other in zip(found, truth, strict=True):
        assert float((one - other).abs().max()) < bar * float(other.abs().max())


@pytest.mark.parametrize(("dtype", "bar"), [(torch.float32, 5e-5), (torch.float64, 1e-11)], ids=str)
@pytest.mark.parametrize("adjoint", ADJOINTS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_adjoint_is_that_of_plain_autograd(scheme, adjoint, dtype, bar):
    """Derivatives of a random functional in positions, velocities and every number of the table, over 10 steps."""
    ends, slopes = derivatives(ADJOINTS[adjoint], scheme, dtype)
    twin_ends, twin_slopes = derivatives(plain, scheme, dtype)
    close(ends, twin_ends, bar)
    close(slopes, twin_slopes, bar)


@pytest.mark.parametrize("count", [1, 2, 5, 9])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_adjoints_agree_at_any_number_of_steps(scheme, count):
    """Values to the bit; derivatives of checkpoints too, since they are those of the record."""
    found = {name: derivatives(evolution, scheme, torch.float64, count) for name, evolution in ADJOINTS.items()}
    for ends, _ in found.values():
        assert all(torch.equal(one, other) for one, other in zip(ends, found["stored"][0]))
    assert all(torch.equal(one, other) for one, other in zip(found["checkpointed"][1], found["stored"][1]))
    close(found["reversed"][1], found["stored"][1], 1e-11)


@pytest.mark.parametrize(("precision", "bar"), [("float32", 5e-5), ("float64", 1e-11)])
@pytest.mark.parametrize("settings", [{}, {"scheme": "fastpm"}, {"gradient": "spectral", "deconvolution": 1}], ids=str)
def test_jacobians_of_a_run_agree(precision, bar, settings):
    """Derivatives of ln P, columns in units of their largest element where that is above one.

    With sigma_8 given today what curvature and dark energy do to P nearly cancels: columns of 0.002 to 0.02.
    """
    runs = {name: simulator(precision=precision, adjoint=name, steps=10, **settings) for name in ADJOINTS}
    found = {name: run.jacobian(at(), seed=0, mode="reverse") for name, run in runs.items()}
    value, truth = found["stored"]
    for y, jacobian in found.values():
        assert torch.equal(y, value)
        assert float(slope_error(value, jacobian, truth)) < bar


def test_memory_of_the_reversed_adjoint_does_not_grow_with_the_steps():
    """Bytes that the graph of a run holds on to."""

    def held(adjoint: str, count: int) -> int:
        sizes = {}

        def pack(x):
            sizes[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        kept = []  # what is kept keeps its place, so that no two share one
        with torch.autograd.graph.saved_tensors_hooks(lambda x: (kept.append(x), pack(x))[1], lambda x: x):
            kept.append(simulator(adjoint=adjoint, steps=count).run(at().requires_grad_(), seed=0))
        return sum(sizes.values())

    particles = 3 * 16**3 * 8
    assert abs(held("reversed", 20) - held("reversed", 5)) < particles
    assert held("stored", 20) - held("stored", 5) > 15 * particles
    assert held("checkpointed", 20) < 0.6 * held("stored", 20)


def differences(function, x: torch.Tensor, direction: torch.Tensor, h: float = 1e-6) -> torch.Tensor:
    """Of fourth order, so that the step only has to be small against the kinks of the cloud."""
    far, near = (function(x + s * h * direction) - function(x - s * h * direction) for s in (2, 1))
    return (8 * near - far) / (12 * h)


@pytest.mark.parametrize("values", [EVERYTHING, BY_A_S], ids=["sigma_8", "A_s"])
@pytest.mark.parametrize("settings", [{}, {"pair": True, "scheme": "fastpm"}, {"transfer": "no_wiggle"},
                                      {"pgd": (0.5, 0.2, 1.0)}], ids=str)  # fmt: skip
def test_gradient_is_the_central_difference(values, settings):
    """With respect to all parameters, each in units of one but for A_s; measured at most 1.3e-6."""
    run = simulator(values, **settings)
    value, jacobian = run.jacobian(at(values), seed=0)
    assert torch.equal(value, run.run(at(values), seed=0))
    units = torch.diag(torch.tensor([x if name == "A_s" else 1.0 for name, x in values.items()]).double())
    found = torch.stack([differences(functools.partial(run.run, seed=0), at(values), unit) for unit in units], 1)
    assert float(slope_error(value, found, jacobian @ units)) < 1e-5


@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_gradient_in_the_noise_is_the_central_difference(adjoint):
    run = simulator(adjoint=adjoint)

    def spectrum(noise: torch.Tensor) -> torch.Tensor:
        return run.measure(run.snapshot(at(), noise=noise)).log()

    noise, generator = run.noise(0), torch.Generator().manual_seed(2)
    weight = torch.randn(4, generator=generator, dtype=torch.float64)
    leaf = noise.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(weight @ spectrum(leaf), leaf)
    size = float(gradient.norm())
    for _ in range(4):
        direction = torch.randn(noise.shape, generator=generator, dtype=torch.float64)
        found = float(weight @ differences(spectrum, noise, direction))
        assert found == pytest.approx(float((gradient * direction).sum()), abs=1e-5 * size)


@pytest.mark.parametrize("values", [EVERYTHING, BY_A_S], ids=["sigma_8", "A_s"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        pytest.param({"scheme": "fastpm", "pair": True}, marks=pytest.mark.slow),
        {"gradient": "spectral", "deconvolution": 2, "pgd": (0.5, 0.2, 1.0)},
        pytest.param({"statistics": ("pk", "pdf", "multipoles"), "companions": (8,)}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_forward_mode_is_reverse_mode(values, settings):
    run = simulator(values, **settings)
    (y, forward), (y_reverse, reverse) = (run.jacobian(at(values), seed=0, mode=m) for m in ("forward", "reverse"))
    assert torch.equal(y, y_reverse)
    assert not forward.requires_grad
    scale = reverse.abs().amax(0)
    torch.testing.assert_close(forward / scale, reverse / scale, rtol=0, atol=1e-10)


def on_threads(function, counts=(1, 2, 3)):
    threads = torch.get_num_threads()
    try:
        for count in counts:
            torch.set_num_threads(count)
            yield function()
    finally:
        torch.set_num_threads(threads)


@pytest.mark.slow
def test_bits_of_two_columns_do_not_depend_on_the_number_of_threads():
    values = {"omega_m": 0.3, "w0": -0.9}
    run = simulator(values, particles=24, steps=2, k_max=0.1)

    def everything():
        return [t for mode in ("reverse", "forward") for t in run.jacobian(at(values), seed=0, mode=mode)]

    one, *others = on_threads(everything)
    for other in others:
        assert all(torch.equal(p, q) for p, q in zip(one, other, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("particles", [24, 32])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"precision": "float32"},
        {"adjoint": "checkpointed", "scheme": "fastpm"},
        {"gradient": "spectral", "deconvolution": 1},
    ],
    ids=str,
)
def test_bits_do_not_depend_on_the_number_of_threads(particles, settings):
    """Values and both Jacobians, and the gradient in the noise; on meshes of 48 and 64."""
    run = simulator(**{"particles": particles, "steps": 2, "k_max": 0.1, **settings})

    def everything():
        noise = run.noise(0).requires_grad_()
        y = run.measure(run.snapshot(at(), noise=noise))
        jacobians = (run.jacobian(at(), seed=0, mode=mode) for mode in ("reverse", "forward"))
        return [y.detach(), *torch.autograd.grad(y.log().sum(), noise), *(t for pair in jacobians for t in pair)]

    one, *others = on_threads(everything)
    for other in others:
        assert all(torch.equal(p, q) for p, q in zip(one, other, strict=True))
