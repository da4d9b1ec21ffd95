"""Epidemics and predators against scipy's integrator, conserved quantities and the final size; derivatives three ways."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.optimize import brentq

from emulate.errors import InputError, RunFailed
from emulate.gradients.forward import Forward
from emulate.simulators._mass_action import Rates, flow
from emulate.simulators.lotka_volterra import LotkaVolterra
from emulate.simulators.sir import SIR
from emulate.space import LogNormal, Parameter, Space

BOTH = pytest.mark.parametrize("simulator", [SIR(), LotkaVolterra()], ids=["sir", "lotka_volterra"])


def draws(simulator, n, seed=0):
    u = torch.rand((n, simulator.space.d), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return simulator.space.from_unit(u)


def epidemic(theta, times):
    """Fractions S and I by the equations as they are written, to 1e-12."""
    beta, gamma = theta
    slope = lambda t, y: (-beta * y[0] * y[1], beta * y[0] * y[1] - gamma * y[1])  # noqa: E731
    return solve_ivp(slope, (0, times[-1]), (1 - 1e-6, 1e-6), t_eval=times, method="DOP853", rtol=1e-12, atol=1e-18).y


def populations(theta, times):
    alpha, beta, gamma, delta = theta
    slope = lambda t, y: (alpha * y[0] - beta * y[0] * y[1], delta * y[0] * y[1] - gamma * y[1])  # noqa: E731
    return solve_ivp(slope, (0, times[-1]), (30.0, 1.0), t_eval=times, method="DOP853", rtol=1e-12, atol=1e-16).y


@BOTH
def test_trajectories_are_scipys_over_the_prior(simulator):
    off = []
    for theta in draws(simulator, 25):
        y = simulator.run(theta, seed=0).numpy()
        judge = (
            1000 * epidemic(theta.tolist(), simulator.times)[1]
            if len(y) == 10
            else populations(theta.tolist(), simulator.times)
        )
        judge = judge.ravel()
        off.append(np.abs(np.log(y / judge))[judge > 1e-6].max())
    assert np.median(off) < 1e-9
    assert max(off) < 1e-6


def test_an_epidemic_ends_at_its_final_size():
    """r = 1 - s exp(-beta / gamma r) by bisection, after ten thousand days; a tenth of the people immune at the start."""
    simulator = SIR(times=(10_000.0,), infected=1000.0, recovered=1e5)
    for beta, gamma in ((0.5, 0.125), (0.3, 0.2), (0.9, 0.1)):
        theta = torch.tensor([beta, gamma], dtype=torch.float64)
        ((s, i),) = flow(*simulator._start, simulator._rates(theta.tolist()), simulator.times, 0.5, math.exp)
        ratio, susceptible = beta / gamma, math.exp(simulator._start[0])
        final = brentq(lambda r: r - 1 + susceptible * math.exp(-ratio * (r - 0.1)), 0.1 + 1e-6, 1 - 1e-12, xtol=1e-14)  # noqa: B023
        assert 1 - math.exp(s) - math.exp(i) == pytest.approx(final, abs=1e-11)


def test_predators_and_prey_keep_their_conserved_quantity():
    simulator = LotkaVolterra(times=tuple(range(0, 201, 10)))
    for theta in draws(simulator, 5, seed=1):
        alpha, beta, gamma, delta = theta.tolist()
        x, y = simulator.run(theta, seed=0).numpy().reshape(2, -1)
        v = delta * x - gamma * np.log(x) + beta * y - alpha * np.log(y)
        assert np.abs(v / v[0] - 1).max() < 1e-6


def test_the_order_is_eight():
    rates, steps = Rates(0.9, 0.05, 1.1, 0.05), np.array([0.4, 0.2, 0.1])
    at = [flow(math.log(30.0), 0.0, rates, (20.0,), h, math.exp)[0][0] for h in (*steps, 0.0125)]
    slope = np.polyfit(np.log(steps), np.log(np.abs(np.array(at[:-1]) - at[-1])), 1)[0]
    assert 7 < slope < 10


@BOTH
def test_jacobians_by_complex_steps_reverse_mode_and_forward_mode_are_one(simulator):
    simulator, theta = replace(simulator, times=simulator.times[:3]), draws(simulator, 1, seed=3)[0]
    y, by_steps = simulator.jacobian(theta, seed=0)
    by_reverse = torch.autograd.functional.jacobian(lambda t: simulator.run(t, seed=0), theta)
    by_forward = Forward().estimate(lambda t: simulator.run(t, seed=0), theta, seed=0).gradient
    by_differences = torch.stack([(simulator.run(theta + h, seed=0) - simulator.run(theta - h, seed=0)) / (2 * h.sum())
                                  for h in torch.diag(1e-5 * theta)], -1)  # fmt: skip
    scale = y[:, None] / theta
    for other, tolerance in ((by_reverse, 1e-10), (by_forward, 1e-10), (by_differences, 1e-6)):
        assert ((by_steps - other) / scale).abs().max() < tolerance * (1 + (by_steps / scale).abs().max())


@BOTH
def test_a_batch_is_a_loop(simulator):
    theta = draws(simulator, 6, seed=2)
    loop = torch.stack([simulator.run(t, seed=0) for t in theta])
    torch.testing.assert_close(simulator.run(theta.reshape(2, 3, -1), seed=0).reshape(6, -1), loop, rtol=1e-9, atol=0)


def test_parameters_may_be_fixed_and_in_any_order():
    space = Space((Parameter("delta", LogNormal(-3.0, 0.5)), Parameter("alpha", LogNormal(-0.125, 0.5))))
    some = LotkaVolterra(space=space, fixed={"beta": 0.06, "gamma": 0.9})
    y, slope = some.jacobian(torch.tensor([0.05, 0.8], dtype=torch.float64), seed=0)
    whole, slopes = LotkaVolterra().jacobian(torch.tensor([0.8, 0.06, 0.9, 0.05], dtype=torch.float64), seed=0)
    assert torch.equal(y, whole)
    assert torch.equal(slope, slopes[:, [3, 0]])


@pytest.mark.parametrize(("make", "said"), [
    (lambda: SIR(fixed={"bete": 0.1}), 'sir: the parameters must be among beta, gamma. Got \'bete\'; change their priors, keep '
     'their names. Did you mean "beta"?'),
    (lambda: SIR(fixed={"beta": 0.1}), "sir: each of beta, gamma must be in the space or in fixed, and not in both. Got beta in "
     "both."),
    (lambda: SIR(space=Space(SIR().space.parameters[:1])), "sir: each of beta, gamma must be in the space or in fixed, and not in "
     "both. Got gamma in neither."),
    (lambda: SIR(infected=1e6), "sir: infected and recovered must be fewer than the population. Got 1e+06 and 0 of 1e+06."),
    (lambda: LotkaVolterra(times=(2.0, 1.0)), "lotka_volterra: times must be numbers of at least 0 that rise. Got [2.0, 1.0]."),
])  # fmt: skip
def test_what_does_not_fit_is_said(make, said):
    with pytest.raises(InputError) as caught:
        make()
    assert str(caught.value) == said


def test_steps_too_long_for_the_rates_fail_the_run():
    theta = torch.tensor([40.0, 3.0, 40.0, 3.0], dtype=torch.float64)
    with pytest.raises(RunFailed, match=r"^nonfinite: steps of 0\.5 must be short against the rates\. Got populations that run "
                       r"away; give the simulator a smaller step, or narrow the prior\.$"):  # fmt: skip
        LotkaVolterra(step=0.5).run(theta, seed=0)
