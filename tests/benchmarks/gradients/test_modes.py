"""What modes of differentiation cost: reverse over a forward run, in few and many parameters; dual numbers; checkpoints."""

import pytest
import torch

from emulate.dual import pushforward
from emulate.dynamics import Trajectory
from emulate.gradients import verify
from emulate.gradients.checkpointed import Checkpointed
from emulate.gradients.reverse import Reverse
from emulate.meter import Meter
from tests.reference.gradients.exact import rosenbrock
from tests.stopwatch import in_turn

pytestmark = pytest.mark.benchmark
STEPS = 60  # of a pointwise program
WORK = 2**20  # numbers that every member of the family computes with


def family(d):
    """f of d parameters, each in WORK / d terms: the same forward work for every d."""
    x = torch.linspace(0.1, 1.0, WORK // d * d, dtype=torch.float64).reshape(-1, d)
    return lambda t: torch.sin(x * t).exp().sum(), torch.linspace(-1.0, 1.0, d, dtype=torch.float64)


def test_what_reverse_mode_costs():
    theta = torch.full((1_000_000,), -1.0, dtype=torch.float64)
    bars = {"cost.reverse": "5", "cost.growth": "1.5"}
    print("\nfigure            bar   measured")
    for f in verify.cost_test(rosenbrock, theta, family=family, repeats=7):
        print(f"{f.name:16s} {bars.get(f.name, ''):>4s}   {f.value:.3g}   {f.sentence}")


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
        plain, ours, theirs = in_turn(lambda: f(x), lambda: pushforward(f, x, v), func, repeats=9)
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
                method.estimate(path, torch.tensor([0.1, 0.9], dtype=torch.float64), seed=0)
            peaks.append(meter.peak_memory / 2**20)
            times.append(meter.seconds)
        print(f"{steps} steps of 0.4 MiB: checkpointed {peaks[0]:.0f} MiB, reverse {peaks[1]:.0f} MiB; time over reverse "
              f"{times[0] / times[1]:.2f}")  # fmt: skip
