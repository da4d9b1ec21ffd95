"""The adjoint of the equation: its figures, its order, and its distance to the adjoint of the steps."""

import itertools
import math

import pytest
import torch

from emulate.dynamics import Trajectory
from emulate.errors import InputError
from emulate.gradients.adjoint import Adjoint
from emulate.gradients.continuous_adjoint import ContinuousAdjoint
from tests.gradients.equations import THETA, decay, heat
from tests.reference.gradients.dynamics import DECAY, DECAY_CONTINUOUS, HEAT_SLOPE, decay_by_euler


def slopes(f) -> tuple[float, float]:
    return tuple(float(m.estimate(f, THETA[:1], seed=0).gradient) for m in (ContinuousAdjoint(), Adjoint()))


def test_the_decay_by_euler_is_the_sum_by_hand():
    assert decay_by_euler()[1] == pytest.approx(DECAY_CONTINUOUS, abs=1e-12)
    e = ContinuousAdjoint().estimate(decay(10, "euler"), THETA[:1], seed=0)
    assert float(e.gradient) == pytest.approx(DECAY_CONTINUOUS, abs=1e-12)
    assert float(e.bias_bound) == pytest.approx(0.263429777375 - 0.237324317416, abs=1e-12)


@pytest.mark.parametrize(("scheme", "order"), [("euler", 1), ("rk4", 4)])
def test_it_comes_to_the_equation_and_to_the_steps_at_the_order_of_the_scheme(scheme, order):
    met = [slopes(decay(n, scheme)) for n in (80, 160, 320)]
    for (c, d), (c2, d2) in itertools.pairwise(met):
        assert math.log2(abs((c - DECAY) / (c2 - DECAY))) == pytest.approx(order, abs=0.1)
        assert math.log2(abs((c - d) / (c2 - d2))) == pytest.approx(order, abs=0.1)


def test_the_heat_equation():
    e = ContinuousAdjoint().estimate(heat(16, 80), torch.tensor([0.1], dtype=torch.float64), seed=0)
    assert float(e.gradient) == pytest.approx(HEAT_SLOPE, rel=1e-3)
    assert float(e.bias_bound) < 1e-5


def test_steps_without_an_equation_are_refused():
    f = Trajectory(lambda theta: theta, lambda theta, s, k, noise: s, 1, lambda theta, s: s)
    with pytest.raises(InputError, match=r"^continuous_adjoint must be given an emulate\.dynamics\.ODE, which tells its "
                       r"right-hand side\. Got Trajectory; write f as one, or use adjoint or reverse\.$"):  # fmt: skip
        ContinuousAdjoint().estimate(f, THETA, seed=0)
