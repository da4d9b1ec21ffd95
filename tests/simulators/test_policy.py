"""Policies: against the Riccati and Lyapunov equations of the linear system, and against gymnasium's own episodes."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import emulate
from emulate import registry
from emulate.emulators.polynomial import Polynomial
from emulate.errors import InputError
from emulate.keys import identity
from emulate.noise import Noise
from emulate.runs import Runs
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
    return Runs.of(
        simulator.space, simulator.outputs, theta.numpy(), simulator.run(theta, seed=seed).numpy(), stochastic=True
    )


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
        differences = [
            (lqr.cost_of(ONES.numpy() + h * e, s) - lqr.cost_of(ONES.numpy() - h * e, s)) / (2 * h) for e in np.eye(2)
        ]
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


METHODS = {  # how many replicates
    "pathwise": 4000,
    "score": 20_000,  # of the system's own draws, whose density is known here
    "common_random_numbers": 2000,
    "adjoint": 4000,
    "ensemble": 4000,
    "mixed": 2000,
    "forward": 64,
    "checkpointed": 16,
}
QUICK = ("pathwise", "score")


@pytest.mark.parametrize("name", [m if m in QUICK else pytest.param(m, marks=pytest.mark.slow) for m in METHODS])
def test_the_rooms_gradients_agree_with_the_truth(name):
    estimate = registry.build("gradients", name).estimate(Policy(**SETTLED), ONES, seed=1, n=METHODS[name])
    print(name, estimate.gradient.tolist(), estimate.standard_error.tolist(), within(estimate, SLOPES))


def test_the_score_of_actions_needs_no_model():
    """Noise of the actions in place of as much of the system's: what moves the state is alike, and so is the gradient."""
    s = 0.5
    B = np.array(LQR().B)
    W = np.array(LQR().W) - s**2 * B @ B.T
    policy = Policy(exploration=s, options={"W": W.tolist()}, **SETTLED)
    np.testing.assert_allclose(policy.real.gradient_of(ONES, s)[0], SLOPES, atol=1e-10)
    estimate = registry.build("gradients", "score").estimate(policy, ONES, seed=1, n=20_000)
    print(estimate.gradient.tolist(), estimate.standard_error.tolist(), within(estimate, SLOPES))


def test_pathwise_through_an_emulator_is_the_gradient_of_the_system_that_it_learnt(thousand):
    path, emulator = thousand
    system, offset = learnt(emulator)
    assert offset.abs().max() < 0.02
    estimate = registry.build("gradients", "pathwise").estimate(
        Policy(emulator=str(path), **SETTLED), ONES, seed=1, n=1000
    )
    within(estimate, system.gradient_of(ONES)[0])
    np.testing.assert_allclose(system.gradient_of(ONES)[0], SLOPES, atol=0.02)


@pytest.mark.slow
def test_a_policy_found_in_an_emulator_is_good_in_the_environment(thousand):
    """At most 1 % above the least cost, from 1,000 transitions; and how much the emulator flattered it."""
    path, emulator = thousand
    policy = Policy(emulator=str(path), episodes=128, steps=100, warmup=40)
    best = emulate.optimise(policy, "cost", seed=3, method="bfgs", starts=1, replicates=2, steps=12, confirm=16)
    at, true = best.theta, LQR()
    worse = true.cost_of(at) / true.cost_of(true.best) - 1
    gap = true.cost_of(at) - learnt(emulator)[0].cost_of(at)
    print(f"K = {at.tolist()}: {100 * worse:.3f} % above the least cost; the emulator flatters by {gap:.5f} of "
          f"{true.cost_of(at):.5f}. {best.confirmed.sentence}")  # fmt: skip
    assert worse < 0.01
    assert abs(best.confirmed.value - true.cost_of(at)) < 4 * best.confirmed.error, (
        "true runs are those of the environment"
    )
    assert abs(best.confirmed.z) < 4


@pytest.mark.slow
def test_transitions_buy_a_better_policy_at_once():
    """The best gains of what is learnt, in closed form, by the number of transitions: the loss falls as one over it, and
    scatters as much from seed to seed."""
    lost = {}
    for n in (50, 100, 300, 1000):
        each = []
        for seed in range(8):
            system, _ = learnt(emulate.fit(LINEAR, transitions(n, seed), seed=0))
            each.append(LQR().cost_of(system.best) / LQR().cost_of(LQR().best) - 1)
        lost[n] = each
        print(f"{n} transitions: {100 * np.mean(each):.4f} % above the least cost, at worst {100 * max(each):.4f} %")
    assert max(lost[1000]) < 0.01
    assert np.mean(lost[1000]) < np.mean(lost[300]) < np.mean([lost[50], lost[100]])


def test_what_an_emulator_says_enters_the_key_and_where_it_lies_does_not(thousand, tmp_path):
    path, emulator = thousand
    other = emulate.fit(LINEAR, transitions(100), seed=1).save(tmp_path / "other")
    moved = emulator.save(tmp_path / "moved")
    one, same, changed, real = (identity(Policy(emulator=str(p))) for p in (path, moved, other, ""))
    assert one == same
    assert len({one["version"], changed["version"], real["version"]}) == 3
    assert Policy(emulator=str(path)).made() == Policy()
    theta = torch.stack([ONES, BEST])
    y = [[Policy(emulator=str(p), steps=12, warmup=2).run(t, seed=3) for t in theta] for p in (path, moved)]
    assert torch.equal(torch.cat(y[0]), torch.cat(y[1]))


def test_a_rollout_is_what_the_run_adds_up(thousand):
    for emulator in ("", str(thousand[0])):
        policy = Policy(emulator=emulator, episodes=3, steps=12, warmup=4)
        met = policy.rollout(ONES, seed=7)
        assert met["states"].shape == (13, 3, 2)
        torch.testing.assert_close(met["actions"][..., 0], -met["states"][:-1].sum(-1))
        torch.testing.assert_close(met["costs"][4:].mean()[None], policy.run(ONES, seed=7), rtol=1e-12, atol=0)


def test_features_and_costs_are_expressions():
    plain = Policy(steps=12, warmup=2)
    spelled = replace(plain, features=("position", "velocity"), cost="position**2 + velocity**2 + 0.1*force**2")
    torch.testing.assert_close(spelled.run(BEST, seed=4), plain.run(BEST, seed=4), rtol=1e-12, atol=0)
    doubled = replace(plain, features=("2 * position", "velocity"))
    torch.testing.assert_close(
        doubled.run(BEST / torch.tensor([2.0, 1.0]), seed=4), plain.run(BEST, seed=4), rtol=1e-12, atol=0
    )


CART = {"k_position": (-4, 4), "k_velocity": (-4, 4), "k_angle": (-20, 20), "k_angular_velocity": (-5, 5)}
HELD = torch.tensor([-0.5, -0.5, -5.0, -1.0], dtype=torch.float64)  # a policy that holds the pole


@pytest.fixture
def gymnasium():
    return pytest.importorskip("gymnasium", reason="environments need gymnasium: pip install emulate[rl]")


def test_a_return_is_that_of_whole_episodes(gymnasium):
    policy = Policy(environment="CartPole-v1", space=gains(**CART), episodes=3)
    assert policy.outputs.labels == ("return",)
    assert (policy.differentiable, policy.stochastic) == (False, True)
    assert float(policy.run(HELD, seed=1)) == 500.0
    env, total = gymnasium.make("CartPole-v1"), []
    for seed in starts(policy, 1):
        env.reset(seed=seed)
        over, reward = False, 0.0
        while not over:
            _, r, ended, cut, _ = env.step(int(env.unwrapped.state @ HELD.numpy() > 0))
            over, reward = ended or cut, reward + r
        total.append(reward)
    assert float(policy.run(-HELD, seed=1)) == pytest.approx(np.mean(total))


def starts(policy, seed):
    """The seeds of the episodes of a run."""
    u = Noise(seed).uniform("start", (policy.episodes,))
    return [int(s) for s in (u * 2**31).tolist()]


@pytest.mark.slow
def test_the_score_of_drawn_actions_is_the_slope_of_a_return(gymnasium):
    """Whole episodes of an environment that nobody can differentiate, held against differences with common noise."""
    policy = Policy(environment="CartPole-v1", space=gains(**CART), episodes=1, exploration=1.0)
    at = torch.tensor([0.0, 0.0, -0.3, -0.1], dtype=torch.float64)
    score = registry.build("gradients", "score").estimate(policy, at, seed=1, n=400)
    step = torch.tensor([0.0, 0.0, 0.05, 0.0], dtype=torch.float64)
    y = [torch.stack([policy.run(at + s * step, seed=i) for i in range(400)])[:, 0] for s in (1, -1)]
    slope, error = (y[0] - y[1]).mean() / 0.1, (y[0] - y[1]).std() / 0.1 / 400**0.5
    assert abs(score.gradient[0, 2] - slope) < 3 * (score.standard_error[0, 2] ** 2 + error**2) ** 0.5


@pytest.mark.slow
def test_cartpole_is_held_by_a_policy_that_an_emulator_found(gymnasium, tmp_path):
    """Over 475 from 100 transitions of a random policy, some four episodes, and a search that begins at no policy at all."""
    ends = {
        "position": (-2.4, 2.4),
        "velocity": (-3, 3),
        "angle": (-0.25, 0.25),
        "angular_velocity": (-3.5, 3.5),
        "action": (0, 1),
    }
    runs = Transition(environment="CartPole-v1", space=gains(**ends)).episodes(100, seed=0)
    path = emulate.fit(LINEAR, runs, seed=0).save(tmp_path / "step")
    cost = "angle**2 + 0.05*position**2 + 0.005*velocity**2"
    policy = Policy(
        environment="CartPole-v1", emulator=str(path), space=gains(**CART), cost=cost, steps=120, warmup=0, episodes=2
    )
    best = emulate.optimise(policy, "log(cost)", seed=1, method="bfgs", starts=3, replicates=2, steps=20, confirm=0)
    returned = float(replace(policy.made(), cost="", episodes=100).run(best.theta, seed=5))
    there, here = (float(p.run(best.theta, seed=9)) for p in (policy, replace(policy.made(), episodes=20)))
    print(f"K = {best.theta.tolist()}: mean return {returned:.1f} of 100 episodes; cost {there:.3g} in the emulator, {here:.3g} "
          f"in the environment; {best.runs} runs")  # fmt: skip
    assert returned > 475


def test_what_is_refused(thousand, tmp_path, gymnasium):
    path, _ = thousand
    with pytest.raises(InputError, match=r"^policy: the parameters must be 2 gains, of force for each of position, velocity, in "
                                         r"that order\. Got 1: k\.$"):  # fmt: skip
        Policy(space=gains(k=(0, 1)))
    with pytest.raises(InputError, match=r"^policy: warmup must leave steps that count\. Got 20 of 20\.$"):
        Policy(steps=20, warmup=20)
    cart = {"environment": "CartPole-v1", "space": gains(**CART)}
    with pytest.raises(InputError, match=r"^emulator must be one of next_position, next_velocity, next_angle, next_angular_"
                                         r"velocity given position, velocity, angle, angular_velocity, action"):  # fmt: skip
        Policy(**cart, emulator=str(path), cost="angle**2").run(HELD, seed=0)
    with pytest.raises(
        InputError, match=r"^policy: cost must be an expression of position, .*, action where an emulator is asked"
    ):
        Policy(**cart, emulator=str(path))
    with pytest.raises(
        InputError, match=r"^emulator must be of transitions that are not random, as those of the environment are"
    ):
        Policy(emulator=str(path), options={"W": [[0.0, 0.0], [0.0, 0.0]]}).run(ONES, seed=0)
    with pytest.raises(InputError, match=r"there is no emulator at .*nothing"):
        Policy(emulator=str(tmp_path / "nothing")).run(ONES, seed=0)
    with pytest.raises(InputError, match=r"must be made of position, velocity, force, pi\. Got speed"):
        Policy(cost="speed**2").run(ONES, seed=0)
