"""What modes of differentiation cost: reverse over a forward run, in few and many parameters; dual numbers; checkpoints."""

import statistics
import time

import pytest
import torch

from emulate.dual import pushforward
from emulate.dynamics import Trajectory
from emulate.gradients.checkpointed import Checkpointed
from emulate.gradients.reverse import Reverse
from emulate.meter import Meter

pytestmark = pytest.mark.benchmark
WORK, STEPS = 100_000, 60  # numbers in the state; steps of a pointwise program


def program(theta):
    """The same forward work whatever the number d of parameters, each of which moves WORK / d numbers."""
    state = theta.expand(WORK // len(theta), len(theta)).reshape(-1)
    for _ in range(STEPS):
        state = state + 0.01 * torch.sin(state) * (1 - state)
    return state.square().mean()


def seconds(*jobs, repeats=9):
    """The median time of each, taken in turn so that all meet the same load."""
    taken = [[] for _ in jobs]
    for job in jobs:
        job()
    for _ in range(repeats):
        for job, times in zip(jobs, taken, strict=True):
            began = time.perf_counter()
            job()
            times.append(time.perf_counter() - began)
    return [statistics.median(times) for times in taken]


def theta(d):
    return torch.linspace(0.1, 0.9, d, dtype=torch.float64)


def reverse(d):
    return torch.autograd.grad(program(x := theta(d).requires_grad_()), x)


def test_what_reverse_mode_costs():
    many = theta(WORK).requires_grad_()
    with torch.no_grad():
        (plain,) = seconds(lambda: program(many))
    recording, few, all_of_them = seconds(lambda: program(many), lambda: reverse(10), lambda: reverse(WORK))
    print(f"\nforward without a graph {plain:.4f} s, recording one {recording:.4f} s")
    print(
        f"reverse over recording forward, d = 10: {few / recording:.2f}, d = {WORK}: {all_of_them / recording:.2f} (bar 5)"
    )
    print(f"reverse at d = {WORK} over d = 10 at equal forward work: {all_of_them / few:.2f} (bar 1.5)")


@pytest.mark.parametrize("k", [1, 8])
@pytest.mark.parametrize("size", [10, 10_000])
def test_what_dual_numbers_cost(k, size):
    """A small program, where the overhead of each operation counts, and a large one, where it does not."""
    x, v = torch.linspace(0.1, 0.9, size, dtype=torch.float64), torch.ones(k, size, dtype=torch.float64)

    def f(y):
        for _ in range(STEPS):
            y = y + 0.01 * torch.sin(y) * (1 - y)
        return y

    def func():
        return torch.func.vmap(lambda e: torch.func.jvp(f, (x,), (e,))[1])(v)

    with torch.no_grad():
        plain, ours, theirs = seconds(lambda: f(x), lambda: pushforward(f, x, v), func)
    print(
        f"\n{k} directions, {size} numbers, over a plain run: dual numbers {ours / plain:.1f}, torch.func {theirs / plain:.1f}"
    )


def test_what_checkpoints_save():
    print()
    for steps in (100, 400, 1600):
        path = Trajectory(lambda t: t[0] + torch.zeros(50_000, dtype=torch.float64),
                          lambda t, s, k, noise: s + 0.01 * torch.sin(s * t[1]), steps, lambda t, s: s.mean())  # fmt: skip
        peaks, times = [], []
        for method in (Checkpointed(), Reverse()):
            with Meter() as meter:
                method.estimate(path, theta(2), seed=0)
            peaks.append(meter.peak_memory / 2**20)
            times.append(meter.seconds)
        print(f"{steps} steps of 0.4 MiB: checkpointed {peaks[0]:.0f} MiB, reverse {peaks[1]:.0f} MiB; time over reverse "
              f"{times[0] / times[1]:.2f}")  # fmt: skip
