"""What a gradient by reverse mode costs: over a run that records a graph, and in 10^5 parameters over 10.

pytest -m benchmark -s tests/benchmarks/test_reverse_cost.py
"""

import pytest
import torch

from emulate.gradients import verify

pytestmark = pytest.mark.benchmark
WORK = 2**20  # numbers that every member of the family computes with


def rosenbrock(t):
    return (100 * (t[1:] - t[:-1] ** 2) ** 2 + (1 - t[:-1]) ** 2).sum()


def family(d):
    """f of d parameters, each in WORK / d terms: the same forward work for every d."""
    x = torch.linspace(0.1, 1.0, WORK // d * d, dtype=torch.float64).reshape(-1, d)
    return lambda t: torch.sin(x * t).exp().sum(), torch.linspace(-1.0, 1.0, d, dtype=torch.float64)


def test_reverse_costs_a_few_runs_and_does_not_grow_with_the_parameters():
    torch.set_num_threads(1)
    theta = torch.full((1_000_000,), -1.0, dtype=torch.float64)
    found = verify.cost_test(rosenbrock, theta, family=family, repeats=7)
    bars = {"cost.reverse": "5", "cost.growth": "1.5"}
    print("\nfigure            bar   measured")
    for f in found:
        print(f"{f.name:16s} {bars.get(f.name, ''):>4s}   {f.value:.3g}   {f.sentence}")
