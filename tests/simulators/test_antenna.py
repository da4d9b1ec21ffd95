"""Wire antennas: impedances and gains of books, power that must come out, and optima by another optimiser."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.optimize import minimize

from emulate.emulator import fit
from emulate.emulators.gp import GP
from emulate.errors import InputError
from emulate.optimisation import optimise
from emulate.runs import Runs
from emulate.simulators.antenna import ETA, Antenna, K, Wires
from emulate.space import Parameter, Space, Uniform


def vector(*x):
    return torch.tensor(x, dtype=torch.float64)


POINT = vector(0.48, 0.46, 0.45, 0.2, 0.2)
BOUNDS = ["boom", "resistance >= 25", "abs(reactance) <= 5"]


@pytest.mark.parametrize(("h", "rho", "shift"), [(0.25, 0.3, 0.0), (0.12, 0.003, 0.06), (0.1, 0.4, 0.3)])
def test_the_impedance_of_two_sinusoids_is_the_integral_of_its_definition(h, rho, shift):
    """By adaptive quadrature over z, of the exact field: the same wires, modes 0 and 1 moved by hand."""
    wires = Wires(vector(2 * h, 2 * h), vector(0.0, rho), 0, 1)
    moved = type("Moved", (Wires,), {"middle": property(lambda self: vector(0.0, shift))})(*vars(wires).values())

    def field(z):
        r = [math.hypot(rho, z - s) for s in (h, -h, 0.0)]
        a, b, c = (np.exp(-1j * K * x) / x for x in r)
        return -1j * ETA / (4 * math.pi * math.sin(K * h)) * (a + b - 2 * math.cos(K * h) * c)

    def integrand(z):
        return -math.sin(K * (h - abs(z - shift))) / math.sin(K * h) * field(z)

    ends = [shift - h, shift, shift + h]
    near = sorted({x for x in (h, -h, 0.0) if shift - h < x < shift + h})
    parts = [quad(lambda z, f=f: f(integrand(z)), ends[0], ends[2], points=[shift, *near], limit=500, epsabs=1e-9)[0]
             for f in (np.real, np.imag)]  # fmt: skip
    assert complex(moved.impedance(1e-3)[1, 0]) == pytest.approx(complex(*parts), rel=1e-6, abs=1e-6)


def test_the_matrix_is_symmetric_and_its_power_positive():
    wires = Antenna()._built(POINT)
    z = wires.impedance(0.003)
    torch.testing.assert_close(z, z.T, rtol=1e-9, atol=1e-7)
    assert float(torch.linalg.eigvalsh(z.real).min()) > 0


@pytest.mark.parametrize("modes", [1, 3, 7])
def test_power_is_conserved(modes):
    wires = replace(Antenna(modes=modes)._built(POINT))
    assert wires.balance(wires.current(1e-5)) == pytest.approx(1, abs=1e-6)


def test_more_sinusoids_converge():
    gain = [float(Antenna(modes=n).run(POINT)[0]) for n in (1, 3, 5, 7, 9)]
    steps = np.abs(np.diff(gain))
    assert (steps[1:] < 0.7 * steps[:-1]).all()


def test_a_short_director_far_away_changes_little():
    space = Space(
        (*Antenna().space.parameters, Parameter("director_2", Uniform(0.1, 0.2)), Parameter("ahead_2", Uniform(5, 9)))
    )
    short = Antenna(space=space).run(torch.cat([POINT, vector(0.1, 7.0)]))
    torch.testing.assert_close(short, Antenna().run(POINT), rtol=0.02, atol=0.1)


def test_parameters_that_are_fixed_or_unknown():
    space = Space(tuple(p for p in Antenna().space.parameters if p.name != "driven"))
    fixed = Antenna(space=space, fixed={"driven": 0.46})
    torch.testing.assert_close(fixed.run(POINT[[0, 2, 3, 4]]), Antenna().run(POINT))
    assert float(fixed.constraints()["boom"](POINT[[0, 2, 3, 4]])) == pytest.approx(-0.1)
    for wrong in ({"space": space}, {"modes": 2}, {"fixed": {"wing": 1.0}}):
        with pytest.raises(InputError, match="parameters must be reflector, driven, behind, and director with ahead"):
            Antenna(**wrong)


@pytest.mark.slow
def test_the_optimum_is_that_of_another_optimiser():
    """Of scipy's SLSQP, which takes differences; 0.001 dB lower where a start ends elsewhere."""
    simulator = Antenna()
    box = [(p.prior.low, p.prior.high) for p in simulator.space.parameters]

    def y(x):
        with torch.no_grad():
            return simulator.run(vector(*x)).numpy()

    rules = [
        lambda x: 0.5 - x[3] - x[4],
        lambda x: (y(x)[2] - 25) / 25,
        lambda x: (5 - y(x)[3]) / 25,
        lambda x: (5 + y(x)[3]) / 25,
    ]
    judge = minimize(lambda x: -y(x)[0], [0.5, 0.46, 0.44, 0.24, 0.24], bounds=box, method="SLSQP", options={"maxiter": 60},
                     constraints=[{"type": "ineq", "fun": f} for f in rules])  # fmt: skip
    assert judge.success
    found = optimise(simulator, "gain", maximise=True, subject_to=BOUNDS, seed=1, starts=2)
    assert found.feasible
    assert found.value == pytest.approx(-judge.fun, abs=1e-4)
    assert found.value == pytest.approx(9.4217, abs=1e-3)
    assert found.theta.tolist() == pytest.approx(judge.x.tolist(), abs=1e-3)
    assert found.confirmed.gained


@pytest.mark.slow
def test_adam_ends_where_bfgs_does():
    ways = {"bfgs": None, "adam": 300}
    one, other = (
        optimise(Antenna(), "gain", maximise=True, seed=1, starts=1, method=m, steps=n) for m, n in ways.items()
    )
    assert other.value == pytest.approx(one.value, abs=0.02)


@pytest.mark.slow
def test_the_optimum_of_an_emulator_is_confirmed_and_near_the_true_one():
    simulator = Antenna()
    u = torch.quasirandom.SobolEngine(5, scramble=True, seed=1).draw(256, dtype=torch.float64)
    theta = simulator.space.from_unit(u)
    with torch.no_grad():
        y = torch.stack([simulator.run(t) for t in theta])
    emulator = fit(GP(), Runs.of(simulator.space, simulator.outputs, theta.numpy(), y.numpy()), seed=1)
    true = optimise(simulator, "gain", maximise=True, subject_to=BOUNDS, seed=1, starts=3)
    found = optimise(
        emulator, "gain", maximise=True, subject_to=BOUNDS, robust=2.0, starts=8, seed=1, simulator=simulator
    )
    assert found.confirmed.gained, found.sentence
    assert found.confirmed.broken == ()
    assert abs(found.confirmed.z) < 3
    assert true.value - 0.4 < found.confirmed.value < true.value + 0.01
