"""Checkpointed reverse mode: the gradient of reverse mode, the same noise when run again, and memory like a square root."""

import math

import pytest
import torch
from torch.distributions import Normal

from emulate.dynamics import Trajectory
from emulate.errors import InputError
from emulate.gradients.checkpointed import Checkpointed
from emulate.gradients.reverse import Reverse
from emulate.noise import Noise
from tests.reference.gradients.exact import EULER

THETA = torch.tensor([0.8, 0.3], dtype=torch.float64)


def kicked(theta, state, k, noise):
    """A nonlinear step with two draws of one site, one with its step given, and a hard decision."""
    pushes = sum(noise.draw("push", Normal(theta[1], 0.1)) for _ in range(2))
    late = noise.draw("late", Normal(0.0, 0.1), step=k) * noise.above("side", state[0] - 0.9)
    return state + 0.05 * (torch.sin(state.flip(0) * theta[0]) + pushes + late)


def walk(steps, at=()):
    readout = (lambda theta, s: s.sum(0) * theta[0]) if at else (lambda theta, s: s * theta[0])
    return Trajectory(lambda theta: torch.stack([theta[0], theta[0] * theta[1], theta[1]]), kicked, steps, readout, at)


def test_ten_steps_of_decay():
    decay = Trajectory(torch.ones_like, lambda theta, y, k, noise: y - 0.1 * theta * y**2, 10, lambda theta, y: y)
    e = Checkpointed().estimate(decay, torch.ones(1, dtype=torch.float64), seed=0)
    assert abs(float(e.gradient) - EULER) < 1e-14
    assert e.standard_error.max() == 0


@pytest.mark.parametrize("steps", [1, 2, 7, 50])
@pytest.mark.parametrize("segment", [0, 1, 3, 100])
@pytest.mark.parametrize("looks", [(), (0, 1), "all"])
def test_it_is_reverse_mode_to_rounding(steps, segment, looks):
    path = walk(steps, tuple(range(steps + 1)) if looks == "all" else looks)
    e, other = (m.estimate(path, THETA, seed=5, n=3) for m in (Checkpointed(segment=segment), Reverse()))
    torch.testing.assert_close(e.value, other.value, rtol=0, atol=0)
    torch.testing.assert_close(e.gradient, other.gradient, rtol=1e-14, atol=1e-15)
    torch.testing.assert_close(e.standard_error, other.standard_error, rtol=1e-10, atol=1e-15)


def test_a_plain_seed_and_a_graph_of_the_start_alone():
    def seeded(theta, state, k, noise):
        return state * torch.rand((), generator=torch.Generator().manual_seed(noise.seed + k), dtype=torch.float64)

    path = Trajectory(lambda theta: theta**2, seeded, 9, lambda theta, state: state)
    e, other = (m.estimate(path, THETA, seed=5, n=3) for m in (Checkpointed(), Reverse()))
    torch.testing.assert_close(e.gradient, other.gradient, rtol=1e-14, atol=0)
    assert Checkpointed().estimate(path, THETA, seed=5).standard_error.isnan().all()


def test_every_step_runs_twice():
    met = []
    path = Trajectory(torch.clone, lambda theta, s, k, noise: [met.append(k), s * theta][1], 12, lambda theta, s: s)
    e = Checkpointed(segment=5).estimate(path, THETA, seed=0)
    assert met == [*range(12), 10, 11, *range(5, 10), *range(5), *range(12)]  # and once under another seed
    assert (e.calls, e.diagnostics["segments"]) == (3, 3)


def test_steps_that_lose_the_graph_are_refused():
    path = Trajectory(torch.zeros_like, lambda theta, s, k, noise: s + theta.detach(), 4, lambda theta, s: s)
    with pytest.raises(InputError, match=r"^f must carry a torch graph from theta to its output\. Got an output without one; use "
                       r"finite_difference, or write the steps in torch without detach, item or numpy\.$"):  # fmt: skip
        Checkpointed().estimate(path, THETA, seed=0)


def test_a_function_that_tells_no_steps_is_refused():
    with pytest.raises(InputError, match=r"^checkpointed must be given an emulate\.dynamics\.Trajectory"):
        Checkpointed().estimate(lambda theta: theta, THETA, seed=0)


class Held:
    """The bytes that graphs hold at once, at most."""

    def __init__(self):
        self.now = self.peak = 0

    def __enter__(self):
        self._hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: Bytes(t, self), lambda kept: kept.tensor)
        self._hooks.__enter__()
        return self

    def __exit__(self, *error):
        self._hooks.__exit__(*error)


class Bytes:
    def __init__(self, tensor, held):
        self.tensor, self.held, self.size = tensor.detach(), held, tensor.nbytes
        held.now += self.size
        held.peak = max(held.peak, held.now)

    def __del__(self):
        self.held.now -= self.size


def held(method, steps):
    path = Trajectory(lambda theta: theta[0] + torch.zeros(1000, dtype=torch.float64),
                      lambda theta, s, k, noise: s + 0.01 * torch.sin(s * theta[1]), steps,
                      lambda theta, s: s.mean())  # fmt: skip
    with Held() as graph:
        method.estimate(path, THETA, seed=0)
    return graph.peak


def test_the_graph_grows_like_the_square_root_of_the_steps():
    steps = (25, 100, 400, 1600)
    root, whole = ([held(m, n) for n in steps] for m in (Checkpointed(), Reverse()))
    print("steps", steps, "bytes held by graphs: checkpointed", root, "reverse", whole)
    slopes = [math.log(of[-1] / of[0]) / math.log(steps[-1] / steps[0]) for of in (root, whole)]
    assert slopes[0] == pytest.approx(0.5, abs=0.05)
    assert slopes[1] == pytest.approx(1.0, abs=0.05)


def test_a_noise_resumed_twice_is_the_same():
    noise = Noise(1)
    noise.draw("x", Normal(0.0, 1.0))
    first, second = noise.resumed(), noise.resumed()
    assert first.draw("x", Normal(0.0, 1.0)) == second.draw("x", Normal(0.0, 1.0)) == noise.draw("x", Normal(0.0, 1.0))
