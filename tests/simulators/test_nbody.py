"""The simulator as a whole: physics against linear theory, gradient against differences, replay, and complaints."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy.special import hyp2f1

from emulate.errors import RunFailed
from emulate.simulators.nbody import NBody
from emulate.simulators.nbody.spectra import power_spectrum
from emulate.space import Normal, Parameter, Space

THETA = torch.tensor([0.3, 0.8, 0.96, 0.68], dtype=torch.float64)  # omega_m, sigma_8, n_s, h
SMALL = NBody(particles=16, box=128.0, steps=4)


def growth_squared(omega_m: float, a: float) -> float:
    return (a * hyp2f1(1 / 3, 1, 11 / 6, -(1 - omega_m) / omega_m * a**3)) ** 2


def test_outputs_say_what_the_run_gives():
    (pk,) = NBody().outputs.fields
    assert (pk.name, pk.unit, pk.positive, pk.coordinate, pk.at_unit) == ("pk", "(Mpc/h)^3", True, "k", "h/Mpc")
    fundamental, nyquist = 2 * np.pi / 256, np.pi * 32 / 256
    assert fundamental < pk.at[0] < 1.5 * fundamental  # the mean |k| of 18 modes around the fundamental
    assert pk.at[-1] == pytest.approx(0.5 * nyquist, rel=0.01)
    assert NBody().run(THETA, seed=0).shape == (pk.size,) == (8,)
    assert NBody(k_max=1.0).outputs.size == 16


@pytest.mark.parametrize("omega_m", [0.2, 0.4])
def test_small_waves_grow_linearly(omega_m):
    """Amplitudes of the lowest modes within 1 % of D(a), the closed form of the growing mode."""
    theta = torch.tensor([omega_m, 1e-4, 0.96, 0.68], dtype=torch.float64)

    def power(a: float) -> torch.Tensor:
        return NBody(precision="float64", steps=5, a_final=a).run(theta, seed=0)[:2]

    amplitude = torch.sqrt(power(1.0) / power(0.2))
    truth = (growth_squared(omega_m, 1.0) / growth_squared(omega_m, 0.2)) ** 0.5
    torch.testing.assert_close(amplitude / truth, torch.ones_like(amplitude), rtol=0, atol=0.01)


def test_large_scales_follow_the_linear_spectrum():
    """A box of 1 Gpc/h: with fixed amplitudes only mode coupling is left on the largest scales."""
    simulator = NBody(box=1000.0, pair=True)
    linear = simulator._cosmology(THETA).power(torch.tensor(simulator.outputs.fields[0].at, dtype=torch.float64))
    ratio = simulator.run(THETA, seed=0) / linear
    assert float((ratio[:2] - 1).abs().max()) < 0.05


def test_structure_grows_beyond_linear_theory_on_small_scales():
    simulator = NBody(box=128.0)
    linear = simulator._cosmology(THETA).power(torch.tensor(simulator.outputs.fields[0].at, dtype=torch.float64))
    assert float((simulator.run(THETA, seed=0) / linear)[-1]) > 1.2


@pytest.mark.parametrize("settings", [{}, {"pair": True}, {"scheme": "fastpm", "transfer": "no_wiggle"}], ids=str)
def test_gradient_is_the_central_difference(settings):
    """In float64 with steps of 1e-7, below which the kinks of the cloud are not met."""
    simulator = dataclasses.replace(SMALL, precision="float64", **settings)
    value, jacobian = simulator.jacobian(THETA, seed=0)
    assert torch.equal(value, simulator.run(THETA, seed=0))
    steps = 1e-7 * torch.eye(4, dtype=torch.float64)
    difference = [(simulator.run(THETA + h, seed=0) - simulator.run(THETA - h, seed=0)) / 2e-7 for h in steps]
    scale = jacobian.abs().amax(0)
    torch.testing.assert_close(torch.stack(difference, 1) / scale, jacobian / scale, rtol=0, atol=1e-5)


def test_single_precision_is_enough():
    """P(k) to 1e-5 and its gradient to 1e-4 of double precision, far below what an emulator resolves."""
    single, double = (dataclasses.replace(SMALL, precision=p).jacobian(THETA, seed=0) for p in ("float32", "float64"))
    torch.testing.assert_close(single[0], double[0], rtol=1e-5, atol=0)
    scale = double[1].abs().amax(0)
    torch.testing.assert_close(single[1] / scale, double[1] / scale, rtol=0, atol=1e-4)


def test_spectrum_is_smooth_in_the_parameters():
    """Along sigma_8 ln P is a low polynomial up to the roughness that the emulator would see as noise."""
    x = np.linspace(-1, 1, 21)
    rows = [SMALL.run(torch.tensor([0.3, 0.8 + 0.05 * s, 0.96, 0.68], dtype=torch.float64), seed=0) for s in x]
    y = torch.stack(rows).log().numpy()
    fits = np.stack([np.polynomial.Chebyshev.fit(x, column, 6)(x) for column in y.T], 1)
    assert np.abs(y - fits).max() < 2e-4


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_replay_is_exact_on_any_number_of_threads(precision):
    simulator = NBody(precision=precision, steps=3)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = simulator.run(THETA, seed=0)
        torch.set_num_threads(2)
        two = simulator.run(THETA, seed=0)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(one, two)
    assert one.dtype == torch.float64


def test_randomness_is_keyed():
    state = torch.get_rng_state()
    assert not SMALL.stochastic
    assert torch.equal(SMALL.run(THETA, seed=1), SMALL.run(THETA, seed=2))
    free = dataclasses.replace(SMALL, phase_seed=None)
    assert free.stochastic
    assert torch.equal(free.run(THETA, seed=1), free.run(THETA, seed=1))
    assert not torch.equal(free.run(THETA, seed=1), free.run(THETA, seed=2))
    assert torch.equal(free.run(THETA, seed=7), dataclasses.replace(SMALL, phase_seed=7).run(THETA, seed=0))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_pair_is_the_mean_of_two_opposite_universes():
    paired = dataclasses.replace(SMALL, pair=True)
    plus, minus = (SMALL.snapshot(THETA, seed=0, sign=sign).density() for sign in (1, -1))
    P = (power_spectrum(plus, 128.0, 4) + power_spectrum(minus, 128.0, 4)) / 2
    torch.testing.assert_close(paired.run(THETA, seed=0), P, rtol=1e-12, atol=0)
    weak = torch.tensor([0.3, 0.01, 0.96, 0.68], dtype=torch.float64)  # opposite while growth is linear
    plus, minus = (SMALL.snapshot(weak, seed=0, sign=sign).density() for sign in (1, -1))
    assert float((plus + minus).square().mean() / plus.square().mean()) < 0.01


def test_sigma_8_scales_a_linear_universe():
    weak = torch.tensor([0.3, 1e-3, 0.96, 0.68], dtype=torch.float64)
    simulator = dataclasses.replace(SMALL, precision="float64")
    ratio = simulator.run(weak * torch.tensor([1, 2, 1, 1]), seed=0) / simulator.run(weak, seed=0)
    torch.testing.assert_close(ratio, torch.full_like(ratio, 4.0), rtol=1e-2, atol=0)


def test_parameters_are_known_by_name():
    order = ("h", "n_s", "omega_m", "sigma_8")
    space = Space(tuple(Parameter(name, Normal(0.5, 0.1)) for name in order))
    theta = torch.stack([THETA[("omega_m", "sigma_8", "n_s", "h").index(name)] for name in order])
    assert torch.equal(dataclasses.replace(SMALL, space=space).run(theta, seed=0), SMALL.run(THETA, seed=0))


def test_a_spectrum_that_is_not_finite_fails():
    with pytest.raises(RunFailed, match="nonfinite: particles must stay within a million mesh cells"):
        SMALL.run(torch.tensor([0.3, 1e30, 0.96, 0.68], dtype=torch.float64), seed=0)


@pytest.mark.parametrize("settings", [{}, {"amplitudes": "gaussian", "precision": "float32"}], ids=str)
def test_noise_given_is_the_noise_of_the_seed(settings):
    simulator = dataclasses.replace(SMALL, phase_seed=None, **{"precision": "float64", **settings})
    noise = simulator.noise(5)
    assert noise.shape == (16, 16, 16)
    assert noise.dtype == torch.float64
    given, drawn = (simulator.snapshot(THETA, **key) for key in ({"noise": noise}, {"seed": 5}))
    atol = 1e-12 if simulator.precision == "float64" else 1e-4
    torch.testing.assert_close(given.displacement, drawn.displacement, rtol=0, atol=atol)
    torch.testing.assert_close(given.velocity, drawn.velocity, rtol=0, atol=10 * atol)
    other = simulator.snapshot(THETA, noise=noise, sign=-1)
    opposite = simulator.snapshot(THETA, noise=-noise)
    assert torch.equal(other.displacement, opposite.displacement)


def test_noise_with_phases_of_all_runs_does_not_know_the_seed():
    assert torch.equal(SMALL.noise(1), SMALL.noise(2))
    assert torch.equal(SMALL.noise(1), dataclasses.replace(SMALL, phase_seed=None).noise(0))


def test_jacobian_takes_the_cheaper_way():
    """Forward mode where three simulations a parameter are less than two an output; both give one answer."""
    wide = dataclasses.replace(SMALL, k_max=1.0, statistics=("pk", "pdf"), precision="float64")
    assert wide.outputs.size > 3 * wide.space.d > SMALL.outputs.size
    for simulator, mode in ((wide, "forward"), (dataclasses.replace(SMALL, precision="float64"), "reverse")):
        found, truth = (simulator.jacobian(THETA, seed=0, mode=m)[1] for m in ("auto", mode))
        assert torch.equal(found, truth)


def test_a_correction_of_nothing_changes_nothing():
    plain = SMALL.run(THETA, seed=0)
    assert torch.equal(dataclasses.replace(SMALL, pgd=(0.0, 0.3, 1.0)).run(THETA, seed=0), plain)


def test_a_correction_sharpens_small_scales_only():
    """Potential-gradient descent (Dai, Feng & Seljak 2018): more power at high k, large scales within a part in 10^3."""
    simulator = NBody(k_max=1.0)
    ratio = dataclasses.replace(simulator, pgd=(0.02, 0.3, 1.0)).run(THETA, seed=0) / simulator.run(THETA, seed=0)
    assert float((ratio[:3] - 1).abs().max()) < 1e-3
    assert float(ratio[-1]) > 1.003
    assert bool((ratio[3:].diff() > 0).all())


@pytest.mark.slow
def test_few_particles_see_the_same_universe():
    """Phases belong to modes, so 64^3 particles continue the universe of 32^3 to smaller scales."""
    coarse, fine = (NBody(particles=n, k_max=16 / n).run(THETA, seed=0) for n in (32, 64))
    assert float((coarse / fine - 1).abs().max()) < 0.03
