"""Policies: against the Riccati and Lyapunov equations of the linear system, and against gymnasium's own episodes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import linalg

import emulate
from emulate import registry
from emulate.emulators.polynomial import Polynomial
from emulate.errors import InputError
from emulate.keys import identity
from emulate.replication import lift
from emulate.runs import Runs
from emulate.seeds import replicates
from emulate.simulators._lqr import LQR
from emulate.simulators.policy import Policy
from emulate.simulators.transition import Transition
from emulate.space import Parameter, Space, Uniform

ONES, BEST = torch.ones(2, dtype=torch.float64), torch.tensor([2.585701, 3.443436], dtype=torch.float64)
SLOPES = np.array([-0.0171249453, -0.1768975069])  # of the cost at ONES
SETTLED = {"steps": 180, "warmup": 120}  # 0.951^240 of the start is left: 6e-6 of the cost
LINEAR = Polynomial(degree=1, truncation=0.0, log=False)


def gains(**ranges):
    return Space(tuple(Parameter(name, Uniform(*ends)) for name, ends in ranges.items()))


def transitions(n, seed=1):
    """Runs of the linear system at the points of a design."""
    simulator = Transition()
    theta = simulator.space.from_unit(torch.from_numpy(emulate.build("designs", "sobol").points(n, 3, seed=seed)))
    return Runs.of(simulator.space, simulator.outputs, theta.numpy(), simulator.run(theta, seed=seed).numpy(), stochastic=True)


def learnt(emulator):
    """The linear system that a polynomial of first degree is."""
    zero = torch.zeros(3, dtype=torch.float64)
    slopes = emulator.jacobian(zero)
    W = emulator.predict(zero).covariance_matrix
    rows = lambda m: tuple(tuple(r) for r in m.tolist())  # noqa: E731
    return LQR(A=rows(slopes[:, :2]), B=rows(slopes[:, 2:]), W=rows((W + W.T) / 2)), emulator.predict(zero).mean


@pytest.fixture(scope="module")
def thousand(tmp_path_factory):
    """The folder of an emulator of 1,000 transitions, and the emulator."""
    emulator = emulate.fit(LINEAR, transitions(1000), seed=1)
    return emulator.save(tmp_path_factory.mktemp("rl") / "step"), emulator


def within(estimate, truth, bar=3.0):
    z = (estimate.gradient[0].numpy() - truth) / estimate.standard_error[0].numpy()
    assert (np.abs(z) < bar).all(), f"{estimate.gradient[0].tolist()} against {truth}: {z} standard errors"
    return z


def test_the_closed_forms_are_those_of_their_equations():
    lqr, h = LQR(), 1e-5
    assert lqr.cost_of(lqr.best) == pytest.approx(0.17920738, abs=1e-8)
    np.testing.assert_allclose(lqr.gradient_of(ONES)[0], SLOPES, atol=1e-10)
    for s in (0.0, 0.4):
        differences = [(lqr.cost_of(ONES.numpy() + h * e, s) - lqr.cost_of(ONES.numpy() - h * e, s)) / (2 * h) for e in np.eye(2)]
        np.testing.assert_allclose(lqr.gradient_of(ONES, s)[0], differences, rtol=1e-6)
    assert lqr.cost_of([-1.0, -1.0]) == np.inf
    assert np.isnan(lqr.gradient_of([-1.0, -1.0])).all()


def test_a_run_costs_what_the_lyapunov_equation_says():
    policy = Policy(episodes=400, **SETTLED)
    y = torch.stack([policy.run(ONES, seed=s) for s in range(8)])[:, 0]
    assert abs(float(y.mean()) - LQR().cost_of(ONES)) < 3.5 * float(y.std()) / 8**0.5
    drawn = replace(policy, exploration=0.4)
    y = torch.stack([drawn.run(ONES, seed=s) for s in range(8)])[:, 0]
    assert abs(float(y.mean()) - LQR().cost_of(ONES, 0.4)) < 3.5 * float(y.std()) / 8**0.5


METHODS = {
    "pathwise": ({}, 400, {}),
    "adjoint": ({}, 100, {}),
    "checkpointed": ({}, 100, {}),
    "reverse": ({}, 100, {}),
    "forward": ({}, 100, {}),
    "ensemble": ({}, 100, {}),
    "common_random_numbers": ({}, 400, {}),
    "score": ({}, 20_000, {}),  # of the system's own draws, whose density is known here
    "mixed": ({}, 400, {}),
}


@pytest.mark.parametrize("name", METHODS)
def test_the_rooms_gradients_agree_with_the_truth(name):
    settings, n, more = METHODS[name]
    policy = Policy(**SETTLED, **more)
    estimate = registry.build("gradients", {"use": name, **settings}).estimate(policy, ONES, seed=1, n=n)
    print(name, estimate.gradient.tolist(), estimate.standard_error.tolist(), within(estimate, SLOPES))


def test_the_score_of_actions_needs_no_model():
    """Noise of the actions in place of as much of the system's: what moves the state is alike, and so is the gradient."""
    s = 0.5
    B = np.array(LQR().B)
    W = np.array(LQR().W) - s**2 * B @ B.T
    policy = Policy(exploration=s, options={"W": W.tolist()}, **SETTLED)
    np.testing.assert_allclose(policy.real.gradient_of(ONES, s)[0], SLOPES, atol=1e-10)
    estimate = registry.build("gradients", {"use": "score"}).estimate(policy, ONES, seed=1, n=20_000)
    print(estimate.gradient.tolist(), estimate.standard_error.tolist(), within(estimate, SLOPES))


def test_pathwise_through_an_emulator_is_the_gradient_of_the_system_that_it_learnt(thousand):
    path, emulator = thousand
    system, offset = learnt(emulator)
    assert offset.abs().max() < 0.02
    policy = Policy(emulator=str(path), episodes=4, **SETTLED)
    estimate = registry.build("gradients", {"use": "pathwise"}).estimate(policy, ONES, seed=1, n=100)
    within(estimate, system.gradient_of(ONES)[0])
    np.testing.assert_allclose(system.gradient_of(ONES)[0], SLOPES, atol=0.02)


def test_a_policy_found_in_an_emulator_is_good_in_the_environment(thousand):
    path, _ = thousand
    policy = Policy(emulator=str(path), episodes=32, steps=120, warmup=40)
    at = found(policy, seed=3)
    worse = LQR().cost_of(at) / LQR().cost_of(LQR().best) - 1
    print(f"K = {at.tolist()}: {100 * worse:.3f} % above the least cost")
    assert worse < 0.01


def found(policy, seed):
    return emulate.optimise(policy, "cost", seed=seed, starts=4).theta
