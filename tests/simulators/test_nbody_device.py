"""What lives where: a run on a device that is only pretended, where an operation of two devices at once fails.

Torch's fake tensors carry a device and a shape but no numbers, so this needs no CUDA. What asks for numbers is made
from real ones before: the cosmology, the noise, the shells and bins of modes. The check of the reach is left out.
"""

import dataclasses
import functools
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.autograd import forward_ad

from emulate.simulators.nbody import NBody, adjoint, cloud, compiled, gravity, initial_conditions, simulator, spectra
from emulate.simulators.nbody.cosmology import Cosmology
from emulate.simulators.nbody.statistics import power

THETA = torch.tensor([0.3, 0.8, 0.96, 0.68], dtype=torch.float64)
UNIVERSE = Cosmology.of(omega_m=0.3, omega_b=0.049, h=0.68, n_s=0.96, sigma_8=0.8)
CUDA = torch.device("cuda", 0)


def real_bins(cells, number, device="cpu"):
    with unset_fake_temporarily():
        b = BINS(cells, number)
    return spectra.Bins(*(getattr(b, f.name).to(device) for f in dataclasses.fields(b)))


def real_shells(n, device):
    with unset_fake_temporarily():
        squares, place = SHELLS(n, "cpu")
    return squares, place.to(device)


BINS, SHELLS = spectra.bins.__wrapped__, initial_conditions._shells.__wrapped__


@pytest.fixture
def pretended(monkeypatch):
    """The mode of a fake CUDA device; what was cached under it is forgotten again."""
    table = simulator.steps(UNIVERSE, 0.1, 1.0, 2)
    noise = initial_conditions.white_noise(8, 0, "fixed")
    monkeypatch.setattr(simulator.NBody, "_device", CUDA)
    monkeypatch.setattr(simulator.NBody, "_cosmology", lambda self, theta: UNIVERSE)
    monkeypatch.setattr(simulator, "steps", lambda *args: table)
    monkeypatch.setattr(simulator, "white_noise", lambda *args: noise)
    monkeypatch.setattr(Cosmology, "power", lambda self, k: 1e3 / (1.0 + k))
    monkeypatch.setattr(initial_conditions, "_shells", real_shells)
    for module in (spectra, power):
        monkeypatch.setattr(module, "bins", real_bins)
    for module in (cloud, compiled):
        monkeypatch.setattr(module, "check_reach", lambda displacement: None)
    caches = [f for m in (cloud, gravity, initial_conditions) for f in vars(m).values()
              if isinstance(f, functools._lru_cache_wrapper)]  # fmt: skip

    def forget():
        for cache in caches:
            cache.cache_clear()

    forget()
    yield FakeTensorMode(allow_non_fake_inputs=True)
    forget()


def test_two_devices_at_once_are_seen(pretended):
    with pretended:
        here, there = torch.zeros(3), torch.zeros(3, device=CUDA)
        with pytest.raises(RuntimeError, match="device"):
            here + there


def test_a_table_left_on_the_cpu_is_seen(pretended, monkeypatch):
    """What judges here would find the usual fault."""
    node = cloud._node
    monkeypatch.setattr(cloud, "_node", lambda particles, refinement, device: node(particles, refinement, "cpu"))
    run = NBody(particles=8, steps=2)
    with pretended, pytest.raises(RuntimeError, match="device"):
        run.snapshot(THETA, seed=0)


SETTINGS = [{}, {"gradient": "spectral", "deconvolution": 1, "pgd": (0.1, 0.3, 1.0), "scheme": "fastpm"}]
every_setting = pytest.mark.parametrize("settings", SETTINGS, ids=str)


@every_setting
@pytest.mark.parametrize("way", ["reversed", "checkpointed", "stored"])
def test_particles_stay_on_their_device_and_the_answer_comes_back(pretended, way, settings):
    run = NBody(particles=8, steps=2, adjoint=way, **settings)
    with pretended:
        noise = torch.randn(8, 8, 8, dtype=torch.float64, requires_grad=True)
        snapshot = run.snapshot(THETA, noise=noise)
        for x in (snapshot.displacement, snapshot.velocity, snapshot.density(), snapshot.redshift_density(),
                  snapshot.positions(), snapshot.velocities(), snapshot.lattice()):  # fmt: skip
            assert x.device == CUDA
        y = run.measure(snapshot)
        assert (y.device.type, y.dtype) == ("cpu", torch.float64)


@every_setting
def test_tangents_stay_on_the_device(pretended, settings):
    run = NBody(particles=8, steps=2, adjoint="stored", **settings)
    with pretended, torch.no_grad(), forward_ad.dual_level():
        noise, direction = torch.randn(2, 8, 8, 8, dtype=torch.float64)
        snapshot = run.snapshot(THETA, noise=forward_ad.make_dual(noise, direction))
        for x in (snapshot.displacement, snapshot.velocity, snapshot.density()):
            assert forward_ad.unpack_dual(x).tangent.device == CUDA
        assert forward_ad.unpack_dual(run.measure(snapshot)).tangent.device.type == "cpu"


@every_setting
def test_cotangents_stay_on_the_device(pretended, settings):
    """The hand-written reverse steps one by one, since the engine of autograd asks for a real device."""
    table = simulator.steps()
    run = NBody(particles=8, steps=2, **settings)
    kind = gravity.Gravity(run._mesh, run.gradient, run.deconvolution)
    with pretended:
        x, v, gx, gv = torch.randn(4, 3, 8**3, device=CUDA)
        numbers = (table.drift, table.keep, table.kick)
        back = adjoint._Reversed.backward(SimpleNamespace(saved_tensors=(x, v, *numbers), gravity=kind), gx, gv)
        assert [g.device.type for g in back[:5]] == ["cuda", "cuda", "cpu", "cpu", "cpu"]
        _, potential = gravity._Acceleration.forward(x, kind)
        ctx = SimpleNamespace(saved_tensors=(x, potential), gravity=kind)
        assert gravity._Acceleration.backward(ctx, gx, None)[0].device == CUDA
        ctx = SimpleNamespace(saved_tensors=(x,), mesh=run._mesh)
        assert cloud._Density.backward(ctx, torch.randn(16, 16, 16, device=CUDA))[0].device == CUDA


def test_noise_of_the_seed_goes_to_the_device(pretended):
    run = NBody(particles=8, steps=2)
    with pretended:
        assert run.snapshot(THETA, seed=0).displacement.device == CUDA
