"""Infinitesimal perturbation analysis of a queue, by `pathwise` on a program that knows nothing of it."""

import pytest
import torch
from torch.distributions import Exponential

from emulate.gradients.pathwise import Pathwise
from emulate.noise import Noise
from tests.gradients.queueing import Queue
from tests.reference.gradients.queueing import RATE, SERVICE, time_in_system

THETA = torch.tensor([SERVICE], dtype=torch.float64)


def test_the_line_of_lindley_is_its_loop():
    queue, noise = Queue(50, 10), Noise(3)
    service = noise.draw("service", Exponential(torch.full((50,), 1 / SERVICE, dtype=torch.float64)))
    between = noise.draw("between", Exponential(torch.full((49,), RATE, dtype=torch.float64)))
    wait, total = 0.0, []
    for i in range(50):
        total.append(wait + float(service[i]))
        wait = max(0.0, wait + float(service[i]) - float(between[i])) if i < 49 else wait
    assert float(queue(THETA, Noise(3))) == pytest.approx(sum(total[10:]) / 40, rel=1e-12)


def test_the_slope_of_the_time_in_the_system_by_its_score():
    mean, slope = time_in_system()
    e = Pathwise().estimate(Queue(1000, 200), THETA, seed=1, n=200)
    assert abs(float(e.gradient) - slope) < 3.5 * float(e.standard_error)
    assert float(e.standard_error) < 0.1 * slope
    assert float(e.value) == pytest.approx(mean, rel=0.05)


@pytest.mark.slow
def test_one_percent_at_four_million_customers():
    e = Pathwise().estimate(Queue(10_000, 1000), THETA, seed=2, n=400)
    print(f"\ndT/ds {float(e.gradient):.4f} +- {float(e.standard_error):.4f}, to be 4 within 1 %; {e.seconds:.1f} s")
    assert abs(float(e.gradient) - 4) < 0.04
