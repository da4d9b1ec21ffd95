"""The adjoint of the steps: to rounding what reverse mode gives, at one state a step, whatever the noise."""

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Normal

from emulate.dynamics import ODE, Trajectory
from emulate.errors import InputError
from emulate.gradients.adjoint import Adjoint
from emulate.gradients.finite_difference import FiniteDifference
from emulate.gradients.pathwise import Pathwise
from emulate.noise import Noise
from tests.gradients.equations import THETA, decay, heat
from tests.reference.gradients.dynamics import DECAY, DECAY_DISCRETE, HEAT_SLOPE, decay_by_euler
from tests.reference.gradients.dynamics import heat as heat_slope


def slope(f, **settings) -> float:
    return float(Adjoint(**settings).estimate(f, THETA[:1], seed=0).gradient)


def test_the_decay_by_euler_is_the_sum_by_hand():
    assert decay_by_euler()[0] == pytest.approx(DECAY_DISCRETE, abs=1e-12)
    assert slope(decay(10, "euler")) == pytest.approx(DECAY_DISCRETE, abs=1e-12)


@pytest.mark.parametrize(("scheme", "order"), [("euler", 1), ("rk4", 4)])
def test_it_comes_to_the_equation_at_the_order_of_the_scheme(scheme, order):
    errors = [abs(slope(decay(n, scheme)) - DECAY) for n in (40, 80, 160)]
    for coarse, fine in itertools.pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.1)


def test_the_heat_equation_agrees_with_differences_and_with_its_closed_form():
    conductivity = torch.tensor([0.1], dtype=torch.float64)
    e = Adjoint().estimate(heat(16, 80), conductivity, seed=0)
    differences = FiniteDifference(step=1e-3).estimate(heat(16, 80), conductivity, seed=0)
    assert abs(float(e.gradient - differences.gradient)) < 1e-8
    assert float(e.gradient) == pytest.approx(heat_slope(16), rel=1e-6)
    assert float(e.gradient) == pytest.approx(HEAT_SLOPE, rel=1e-3)
    assert e.standard_error.max() == e.bias_bound.max() == 0


def walk(steps: int, at: tuple[int, ...] = ()) -> Trajectory:
    def step(theta: Tensor, state: Tensor, k: int, noise: Noise) -> Tensor:
        kick = sum(noise.draw("kick", Normal(theta[0] * k, theta[1]).expand((2,))) for _ in range(2))
        return torch.sin(state) + 0.1 * kick

    return Trajectory(lambda theta: torch.stack([theta[0], theta[1] ** 2]), step, steps,
                      lambda theta, s: torch.stack([s.sum() * theta[1], s.square().mean()]), at)  # fmt: skip


@pytest.mark.parametrize("at", [(), (0, 3, 5), (0,), (5,)])
@pytest.mark.parametrize("n", [2, 6])
def test_it_meets_the_noise_of_the_forward_run_again(at, n):
    theta = torch.tensor([0.7, 1.3], dtype=torch.float64)
    one, other = (method.estimate(walk(5, at), theta, seed=3, n=n) for method in (Adjoint(), Pathwise()))
    torch.testing.assert_close(one.gradient, other.gradient, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(one.standard_error, other.standard_error, rtol=1e-10, atol=1e-14)
    assert torch.equal(one.value, other.value)


def test_one_run_is_enough_where_nothing_is_drawn():
    runs = []
    f = Trajectory(lambda theta: runs.append(1) or theta, lambda theta, s, k, noise: s * theta, 3, lambda theta, s: s)
    e = Adjoint().estimate(f, THETA[:1], seed=0, n=50)
    assert e.calls == 1
    assert len(runs) == 2  # forward, and once more for the derivative of the start


def coin(theta: Tensor, state: Tensor, k: int, noise: Noise) -> Tensor:
    return state + noise.draw("coin", Bernoulli(theta))


def test_what_no_path_passes_is_refused():
    with pytest.raises(InputError, match=r"^adjoint must have draws that are continuous in theta\. Got Bernoulli at the site "
                       r"coin\[1\], whose"):  # fmt: skip
        Adjoint().estimate(Trajectory(torch.zeros_like, coin, 2, lambda t, s: s), THETA[:1] / 2, seed=0)
    with pytest.raises(
        InputError, match=r"^adjoint must be given an emulate\.dynamics\.Trajectory, which tells its steps\."
    ):
        Adjoint().estimate(lambda theta: theta, THETA, seed=0)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"scheme": "heun"}, r"^scheme must be one of euler, rk4\. Got 'heun'\.$"),
        ({"horizon": 0.0}, r"^horizon must be a time above 0\. Got 0\.0\.$"),
        ({"steps": 0}, r"^steps must be a whole number of at least 1\. Got 0\.$"),
    ],
)
def test_an_equation_that_cannot_be_stepped_is_refused(change, sentence):
    with pytest.raises(InputError, match=sentence):
        ODE(**{**vars(decay(10, "euler")), **change})


def test_a_plain_comparison_with_what_is_random_leaves_the_bias_unknown():
    f = Trajectory(
        torch.clone, lambda theta, s, k, noise: s * theta + (s > noise.uniform("level")), 2, lambda theta, s: s
    )
    e = Adjoint().estimate(f, THETA[:1], seed=0)
    assert e.bias_bound.isnan().all()
    assert e.diagnostics["reads"] == ["gt"]
