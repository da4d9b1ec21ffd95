"""One step of an environment: against the equations, against gymnasium's own steps, and what is refused."""

import importlib
import sys

import numpy as np
import pytest
import torch

from emulate.errors import InputError
from emulate.keys import identity
from emulate.simulators.transition import Transition
from emulate.space import Parameter, Space, Uniform


def numbers(values):
    return torch.tensor(values, dtype=torch.float64)


def space(**ranges):
    return Space(tuple(Parameter(name, Uniform(*ends)) for name, ends in ranges.items()))


CART = {
    "position": (-2.4, 2.4),
    "velocity": (-3, 3),
    "angle": (-0.25, 0.25),
    "angular_velocity": (-3.5, 3.5),
    "action": (0, 1),
}
PENDULUM = {"torque": (-2, 2), "angular_velocity": (-8, 8), "angle": (-3, 3)}


@pytest.fixture
def gymnasium():
    return pytest.importorskip("gymnasium", reason="environments need gymnasium: pip install emulate[rl]")


def test_the_linear_system_takes_the_step_of_its_matrices():
    still = Transition(options={"W": [[0.0, 0.0], [0.0, 0.0]]})
    y = still.run(torch.tensor([1.0, 0.5, -2.0], dtype=torch.float64), seed=0)
    assert y.tolist() == pytest.approx([1.0 + 0.1 * 0.5 - 0.005 * 2, 0.5 - 0.1 * 2], abs=1e-15)
    assert (still.stochastic, Transition().stochastic) == (False, True)


@pytest.mark.parametrize("W", [[[0.01, 0.0], [0.0, 0.04]], [[0.01, 0.012], [0.012, 0.04]]])
def test_the_noise_has_the_covariance_that_was_set(W):
    simulator = Transition(options={"W": W})
    x = torch.zeros(20_000, 3, dtype=torch.float64)
    y = simulator.run(x, seed=1)
    error = numbers(W).abs().sqrt().max() ** 2 * (2 / len(y)) ** 0.5
    assert (torch.cov(y.T) - numbers(W)).abs().max() < 4 * error


def test_names_are_what_parameters_are_found_by():
    other = Transition(space=space(force=(-5, 5), velocity=(-1, 1), position=(-1, 1)))
    one = Transition().run(numbers([0.3, -0.2, 1.0]), seed=5)
    assert torch.equal(other.run(numbers([1.0, -0.2, 0.3]), seed=5), one)


def test_a_step_is_that_of_the_environment(gymnasium):
    cart = Transition(environment="CartPole-v1", space=space(**CART))
    env = gymnasium.make("CartPole-v1").unwrapped
    for theta in ([0.1, -0.5, 0.05, 0.7, 1.0], [-1.0, 0.2, -0.1, 0.0, 0.0], [2.0, 1.0, 0.2, 3.0, 1.0]):
        env.reset(seed=0)
        env.state = np.array(theta[:4])
        env.step(int(theta[4]))
        assert cart.run(numbers(theta), seed=0).tolist() == list(env.state)
    assert [f.name for f in cart.outputs.fields] == [
        "next_position",
        "next_velocity",
        "next_angle",
        "next_angular_velocity",
    ]
    assert (cart.stochastic, cart.differentiable, Transition().differentiable) == (False, False, True)


def test_between_two_actions_lies_the_mean_over_either(gymnasium):
    cart = Transition(environment="CartPole-v1", space=space(**CART))
    x = [0.1, -0.5, 0.05, 0.7]
    left, right, mixed = (cart.run(numbers([*x, a]), seed=0) for a in (0.0, 1.0, 0.3))
    torch.testing.assert_close(mixed, 0.7 * left + 0.3 * right, rtol=1e-12, atol=0)


def test_actions_of_numbers_and_other_names(gymnasium):
    ranges = {"action" if k == "torque" else k: v for k, v in PENDULUM.items()}
    pendulum = Transition(environment="Pendulum-v1", options={"g": 9.81}, space=space(**ranges))
    torque, velocity, angle = 1.5, 0.3, 2.0
    faster = velocity + (1.5 * 9.81 * np.sin(angle) + 3.0 * torque) * 0.05
    y = pendulum.run(numbers([torque, velocity, angle]), seed=0)
    assert y.tolist() == pytest.approx([angle + 0.05 * faster, faster], rel=1e-12)
    with pytest.raises(
        InputError, match=r"^transition: actions of Pendulum-v1 must be from \[-2\.0\] to \[2\.0\]\. Got \[3\.0\]"
    ):
        pendulum.run(numbers([3.0, velocity, angle]), seed=0)


def test_episodes_are_a_table_to_train_on(gymnasium):
    cart = Transition(environment="CartPole-v1", space=space(**CART))
    runs = cart.episodes(60, seed=3)
    assert len(runs) == 60
    assert set(runs.theta[:, 4]) == {0.0, 1.0}
    follows = (runs.theta[1:, :4] == runs.y[:-1]).all(1)
    assert 0.8 < follows.mean() < 1.0, "states follow each other until an episode ends"
    again = np.stack([cart.run(torch.from_numpy(t), seed=0).numpy() for t in runs.theta])
    np.testing.assert_array_equal(again, runs.y)
    np.testing.assert_array_equal(cart.episodes(60, seed=3).theta, runs.theta)
    held = cart.episodes(5, seed=3, policy=lambda x: 1)
    assert held.theta[:, 4].tolist() == [1.0] * 5


def test_episodes_of_the_linear_system_keep_to_a_policy():
    runs = Transition().episodes(400, seed=1, policy=lambda x: -x @ [2.0, 3.0])
    np.testing.assert_allclose(runs.theta[:, 2], -runs.theta[:, :2] @ [2.0, 3.0])
    assert runs.stochastic
    assert 0.2 < runs.theta[:, 0].std() < 0.45, "0.32 in the stationary state"


def test_the_environment_and_its_options_enter_the_key():
    keys = [identity(Transition(options=o))["settings"] for o in ({}, {"W": [[0.02, 0.0], [0.0, 0.02]]})]
    assert keys[0] != keys[1]


def test_what_is_refused(monkeypatch):
    with pytest.raises(InputError, match=r"^transition: the parameters must be the states and actions of lqr, position, velocity, "
                                         r"force, in any order\. Got position, speed, force\.$"):  # fmt: skip
        Transition(space=space(position=(-1, 1), speed=(-1, 1), force=(-1, 1)))
    with pytest.raises(InputError, match=r"^options of lqr must be among A, B, Q, R, W, start\. Got 'w'\.$"):
        Transition(options={"w": 0.1})
    with pytest.raises(
        InputError, match=r"^options\.W must be a covariance above 0 in every direction, or zeros\. Got"
    ):
        Transition(options={"W": [[1.0, 2.0], [2.0, 1.0]]})
    with pytest.raises(InputError, match=r"^options\.B must be a matrix of 2 x 1, for 2 states and 1 actions\. Got"):
        Transition(options={"B": [[1.0]]})
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    importlib.import_module("emulate.simulators._environments")._made.cache_clear()
    with pytest.raises(InputError, match=r"^the environment CartPole-v1 needs the package gymnasium, which is not installed\. "
                                         r"Install the extra: pip install emulate\[rl\]; or take the environment lqr"):  # fmt: skip
        Transition(environment="CartPole-v1", space=space(**CART))


def test_an_environment_that_is_not_there(gymnasium):
    importlib.import_module("emulate.simulators._environments")._made.cache_clear()
    with pytest.raises(
        InputError, match=r"^environment must be lqr or one of gymnasium, such as CartPole-v1\. Got 'CartPol-v9'"
    ):
        Transition(environment="CartPol-v9", space=space(**CART))
