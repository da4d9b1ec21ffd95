"""The weather of Lorenz: its equations by another solver, its averages by numpy, its exponents and slopes by what is known."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from emulate.diagnosis import diagnose
from emulate.errors import InputError, RunFailed
from emulate.gradients.ensemble import Ensemble
from emulate.gradients.window import Window
from emulate.noise import Noise
from emulate.simulators import _lorenz96_facts as facts
from emulate.simulators.lorenz96 import Lorenz96
from emulate.space import Parameter, Space, Uniform

EARTH = torch.tensor([8.0, 1.0], dtype=torch.float64)
FORCED = Lorenz96(space=Space((Parameter("forcing", Uniform(4.0, 12.0)),)), fixed={"damping": 1.0})
EIGHT = EARTH[:1]
SLOPE = 0.135  # d<x>/dF


def test_the_equations_are_those_of_another_solver_and_steps_are_of_fourth_order():
    x0 = Lorenz96().starts(1, seed=2)[0]
    theta = torch.tensor([9.0, 1.2], dtype=torch.float64)

    def rhs(t, x):
        return [(x[(i + 1) % 40] - x[i - 2]) * x[i - 1] - 1.2 * x[i] + 9.0 for i in range(40)]

    truth = solve_ivp(rhs, (0, 0.5), x0.numpy(), method="DOP853", rtol=1e-11, atol=1e-11).y[:, -1]
    off = []
    for step in (0.02, 0.01, 0.005):
        *_, last = replace(Lorenz96(), step=step).states(theta, x0, 0.5)
        off.append(float(np.abs(last.numpy() - truth).max()))
    orders = [math.log2(a / b) for a, b in itertools.pairwise(off)]
    assert off[-1] < 1e-5
    assert all(3.7 < order < 4.5 for order in orders), orders


def test_averages_are_those_of_numpy():
    simulator = Lorenz96(horizon=3.0, distances=(0, 2), lags=(0.1, 0.5))
    x = torch.stack(list(simulator.states(EARTH, simulator.starts(1, seed=5)[0], 3.0, 5.0))).numpy()
    assert x.shape == (61, 40)
    d = x - x.mean()
    shifted = np.array([d[:, i] * d[:, (i - 2) % 40] for i in range(40)]).mean()
    expected = [x.mean(), x.var(), shifted, (d[2:] * d[:-2]).mean(), (d[10:] * d[:-10]).mean()]
    np.testing.assert_allclose(simulator.run(EARTH, seed=5).numpy(), expected, rtol=1e-12)
    assert [f.name for f in simulator.outputs.fields] == ["mean", "covariance", "memory"]
    assert simulator.outputs.size == 5


def test_a_run_by_the_seed_alone_and_a_derivative_through_the_spin_up():
    """Along one direction, against forward mode through the same steps."""
    simulator = Lorenz96(horizon=1.0, spinup=1.0)
    leaf = EARTH.clone().requires_grad_()
    slope = torch.autograd.grad(simulator.run(leaf, seed=3)[0], leaf)[0]
    h = 1e-6
    difference = (simulator.run(EARTH + h * EIGHT.new_tensor([1.0, 0.0]), seed=3)[0]
                  - simulator.run(EARTH - h * EIGHT.new_tensor([1.0, 0.0]), seed=3)[0]) / (2 * h)  # fmt: skip
    assert float(slope[0]) == pytest.approx(float(difference), rel=1e-6)


@pytest.mark.parametrize(("settings", "said"), [
    ({"lags": (0.12,)}, r"lags must be whole numbers of steps of 0\.05, above 0 and below the horizon of 20\. Got 0\.12\."),
    ({"lags": (30.0,)}, r"lags must be .* Got 30\."),
    ({"distances": (0, 40)}, r"distances must be from 0 to 39 sites\. Got 40\."),
    ({"fixed": {"damping": 1.0}}, r"each of forcing, damping must be in the space or in fixed, and not in both\."),
])  # fmt: skip
def test_settings_that_are_refused(settings, said):
    with pytest.raises(InputError, match=f"^lorenz96: {said}"):
        Lorenz96(**settings)


def test_steps_that_are_too_long_fail_the_run():
    with pytest.raises(RunFailed, match=r"steps of 0\.5 must be short against the flow"):
        Lorenz96(step=0.5, lags=(1.0,)).run(EARTH, seed=1)


def test_the_climate_is_that_of_the_runs():
    """The readout of the trajectory is the mean over members, sites and time; its steps are the simulator's."""
    f = FORCED.climate(2.0, members=3, spinup=1.0, seed=4)
    x = torch.stack(list(FORCED.states(EIGHT, FORCED.starts(3, seed=4), 2.0, 1.0)))
    assert float(f(EIGHT, Noise(0))) == pytest.approx(float(x[1:].mean()), rel=1e-13)
    last = FORCED.climate(2.0, members=3, spinup=1.0, seed=4, last=True)
    assert float(last(EIGHT, Noise(0))) == pytest.approx(float(x[-1].mean()), rel=1e-13)


@pytest.mark.slow
def test_exponents_of_the_literature():
    """The largest is 1.67 within 5 %, errors double in 2.1 days (Lorenz and Emanuel 1998); they sum to -N within 0.1 %."""
    largest = facts.spectrum(FORCED, EIGHT, time=30.0, members=200, count=1)
    found = facts.spectrum(FORCED, EIGHT, time=15.0, members=16)
    print(f"\nlargest {largest.largest:.3f} +- {float(largest.standard_error[0]):.3f}, sum {found.sum:.4f}, dimension "
          f"{found.dimension:.2f}")  # fmt: skip
    assert largest.largest == pytest.approx(1.67, rel=0.05)
    assert found.sum == pytest.approx(-40, rel=1e-3)
    assert found.dimension == pytest.approx(27.1, abs=0.7)


@pytest.mark.slow
def test_the_horizon_is_foretold():
    """Of the derivative of <x> over the run so far, from 50 members after one Lyapunov time and the exponent, against 4000
    members that go past it: within 30 %. The scatter outruns the exponent, for its rare great members lead, so that what is
    foretold is late."""
    response = torch.full((1, 1), SLOPE, dtype=torch.float64)
    few = facts.slopes(FORCED, EIGHT, time=1.0, members=50, seed=2).averaged()
    many = facts.slopes(FORCED, EIGHT, time=6.0, members=4000).averaged()
    for n in (1, 10, 100, 1000, 4000):
        foretold, found = float(few.predicted(response, 1.67, n)), float(many.measured(response, n))
        print(f"\n{n} members: horizon {found:.2f}, foretold {foretold:.2f} ({foretold / found - 1:+.0%})", end="")
        assert foretold == pytest.approx(found, rel=0.3)
    growth = float((many.norm * many.time)[80:].log().diff().mean()) / FORCED.step
    print(f"\nthe median derivative grows as exp({growth:.2f} t) / t")
    assert growth == pytest.approx(1.67, rel=0.1)


@pytest.mark.slow
def test_windows_and_ensembles_are_biased_by_what_they_miss_and_by_nothing_else():
    """A window of 1 tells 0.158 where the climate moves by 0.135 (+17 %): the response overshoots before it settles. Longer
    ones are right, and scatter; far beyond the horizon nothing is left."""
    slope = float(facts.response(FORCED, EIGHT, members=1600)[0])
    print(f"\nd<x>/dF {slope:.4f}")
    assert slope == pytest.approx(SLOPE, abs=0.005)
    told = {}
    for window in (0.25, 0.5, 1.0, 2.0):
        e = Window(length=round(window / 0.05)).estimate(FORCED.climate(20.0, members=200, seed=1), EIGHT, seed=0)
        told[window] = float(e.gradient), float(e.standard_error)
        print(f"window {window}: {told[window][0]:.4f} +- {told[window][1]:.4f} ({told[window][0] / SLOPE - 1:+.0%})")
        assert e.bias_bound.isnan().all()
    assert told[1.0][0] / SLOPE - 1 == pytest.approx(0.17, abs=0.02)
    assert told[2.0][1] > 3 * told[1.0][1]
    for time, n in ((1.0, 2000), (6.0, 500)):
        e = Ensemble(spread=1.0, spinup=100).estimate(FORCED.climate(time, spinup=0.0), EIGHT, seed=0, n=n)
        print(f"ensemble of {n}, {time:g}: {float(e.gradient):.3f} +- {float(e.standard_error):.3f}, "
              f"largest {e.diagnostics['largest']:.2f}")  # fmt: skip
        if time == 1.0:
            assert float(e.gradient) / SLOPE - 1 == pytest.approx(0.17, abs=0.03)
        else:
            assert float(e.standard_error) > 10 * SLOPE


@pytest.mark.slow
def test_at_its_own_length_a_run_is_diagnosed_as_chaos():
    found = diagnose(Lorenz96(), torch.tensor([9.0, 1.0], dtype=torch.float64), calls=500)
    print(f"\n{found}")
    assert set(found.evidence["troubles"]) == {"chaos"} == set(Lorenz96.pathologies)
