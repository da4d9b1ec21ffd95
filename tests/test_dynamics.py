"""Trajectories: a loop told in parts gives what the loop gives, in whole and in segments, under the same noise."""

import pytest
import torch
from torch.distributions import Normal

from emulate.dynamics import Trajectory, trajectory
from emulate.errors import InputError
from emulate.noise import Noise
from emulate.replication import lift

THETA = torch.tensor([0.3, 0.5], dtype=torch.float64)


def kicked(theta, state, k, noise):
    """Two draws of one site in a step, one of another with its step given."""
    first, second = (noise.draw("kick", Normal(theta[0], 1.0)) for _ in range(2))
    return state + first * theta[1] + second * k + noise.draw("late", Normal(0.0, 1.0), step=k)


WALK = Trajectory(lambda theta: theta[:1] * 2, kicked, 7, lambda theta, state: state * theta[1])


def test_it_is_the_loop_that_it_tells():
    noise, state = Noise(3), THETA[:1] * 2
    for k in range(7):
        state = kicked(THETA, state, k, noise)
    assert torch.equal(lift(WALK)(THETA, Noise(3)), state * THETA[1])


def test_segments_run_again_meet_the_same_noise():
    noise = Noise(3)
    state = WALK.segment(THETA, WALK.start(THETA), range(3), noise)
    later = noise.resumed()
    last = WALK.segment(THETA, state, range(3, 7), noise)
    assert torch.equal(WALK.segment(THETA, state, range(3, 7), later), last)
    assert torch.equal(WALK(THETA, Noise(3)), last * THETA[1])
    assert noise.draws == 21


def test_a_readout_sees_the_states_it_asks_for():
    count = Trajectory(lambda theta: theta[:1], lambda theta, state, k, noise: state + theta[1], 4, lambda theta, s: s[:, 0],
                       at=(0, 3, 4))  # fmt: skip
    torch.testing.assert_close(count(THETA, Noise(0)), torch.tensor([0.3, 1.8, 2.3], dtype=torch.float64))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"steps": 0}, r"^steps must be a whole number of at least 1\. Got 0\.$"),
        ({"steps": True}, r"^steps must be a whole number of at least 1\. Got True\.$"),
        ({"at": (2, 1)}, r"^at must be rising numbers of finished steps from 0 to 7\. Got \(2, 1\)\.$"),
        ({"at": (8,)}, r"^at must be rising numbers of finished steps from 0 to 7\. Got \(8,\)\.$"),
    ],
)
def test_what_is_no_trajectory_is_refused(change, sentence):
    with pytest.raises(InputError, match=sentence):
        Trajectory(**{"start": WALK.start, "step": kicked, "steps": 7, "readout": WALK.readout, **change})


def test_a_method_that_needs_steps_says_so():
    assert trajectory(lift(WALK), "adjoint") is WALK
    with pytest.raises(InputError, match=r"^adjoint must be given an emulate\.dynamics\.Trajectory, which tells its steps\. "
                       r"Got function; write f as one, or use reverse\.$"):  # fmt: skip
        trajectory(lift(lambda theta: theta), "adjoint")
