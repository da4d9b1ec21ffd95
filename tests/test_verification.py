"""The tests that users run are tested: each passes what is right, and fails what is planted to be wrong.

Derivatives are in closed form; the estimators that are blamed report half or twice their own scatter.
"""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from emulate import gradients, registry
from emulate.contracts import Gradient
from emulate.errors import InputError
from emulate.gradients.pathwise import Pathwise
from emulate.gradients.reverse import Reverse
from emulate.simulators.linear_gaussian import LinearGaussian
from emulate.simulators.nbody import NBody
from emulate.tangents import Tangents, forward, rows, twice
from emulate.verification import (
    cost_test,
    coverage_test,
    dot_product_test,
    order_test,
    taylor_test,
    variance_test,
)

THETA = torch.tensor([0.5, 2.0], dtype=torch.float64)
WRONG = {"1 %": lambda J: 1.01 * J, "transposed": lambda J: J.T, "0.1 %": lambda J: 1.001 * J,
         "one entry": lambda J: J + torch.tensor([[0.0, 0.01], [0.0, 0.0]]).double()}  # fmt: skip


def curved(t: Tensor) -> Tensor:
    a, b = t
    return torch.stack([torch.sin(a) * b, 1e6 * a * b**2])


def slope() -> Tensor:
    a, b = THETA.tolist()
    return torch.tensor([[math.cos(a) * b, math.sin(a)], [1e6 * b**2, 2e6 * a * b]], dtype=torch.float64)


def straight(t: Tensor) -> Tensor:
    return torch.tensor([[1.0, 2.0], [-3.0, 0.5]], dtype=torch.float64) @ t


class Planted(torch.autograd.Function):
    """sin, with a backward pass that is wrong by a share and, or not, a forward mode that is right."""

    @staticmethod
    def forward(ctx, x, share):
        ctx.save_for_backward(x)
        ctx.save_for_forward(x)
        ctx.share = share
        return torch.sin(x)

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * torch.cos(x) * (1 + ctx.share), None

    @staticmethod
    def jvp(ctx, v, _):
        (x,) = ctx.saved_tensors
        return v * torch.cos(x)


# -- one derivative --------------------------------------------------------------------------------------------------


def test_the_room_shows_them():
    assert gradients.verify.taylor_test is taylor_test
    with pytest.raises(AttributeError, match="no attribute 'verfy'"):
        _ = gradients.verfy


@pytest.mark.parametrize("jacobian", [None, slope(), lambda t: slope()])
@pytest.mark.parametrize("seed", range(5))
def test_a_right_derivative_leaves_a_remainder_of_second_order(seed, jacobian):
    f = taylor_test(curved, THETA, seed=seed, jacobian=jacobian)
    assert f.passed
    assert f.value == pytest.approx(2, abs=0.05)
    assert f.sentence.startswith("The remainder of the linear model falls as h^2.0")


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("seed", range(5))
def test_a_wrong_derivative_leaves_one_of_first_order(seed, wrong):
    f = taylor_test(curved, THETA, seed=seed, jacobian=wrong(slope()))
    assert not f.passed
    assert f.value == pytest.approx(1, abs=0.3)
    assert "must fall as h^2" in f.sentence


def test_a_derivative_by_one_sided_differences_is_right_at_order_h_only():
    h = 1e-3
    columns = [(curved(THETA + h * e) - curved(THETA)) / h for e in torch.eye(2).double()]
    assert taylor_test(curved, THETA, jacobian=torch.stack(columns, 1)).value == pytest.approx(1, abs=0.35)


def test_what_is_linear_counts_as_right_only_with_the_right_derivative():
    right = taylor_test(straight, THETA)
    assert right.passed
    assert right.value == 2
    assert "f is linear to rounding, and the derivative is right to" in right.sentence
    assert not taylor_test(straight, THETA, jacobian=1.01 * rows(straight, THETA)).passed
    assert not taylor_test(straight, THETA, jacobian=rows(straight, THETA).T).passed
    assert not taylor_test(straight, THETA, jacobian=torch.zeros(2, 2)).passed
    assert taylor_test(lambda t: 0 * t + 1, THETA, jacobian=torch.zeros(2, 2)).passed


def test_single_precision_inside_is_measured_and_still_shows_one_per_cent():
    def single(t: Tensor) -> Tensor:
        return torch.exp(t.float()).double()

    J = torch.diag(torch.exp(THETA))
    assert taylor_test(single, THETA, jacobian=J).passed
    assert not taylor_test(single, THETA, jacobian=1.01 * J).passed


@pytest.mark.parametrize(("single", "alarms", "missed"), [(False, 0, 0), (True, 3, 6)])
def test_power_over_random_functions_along_one_direction(single, alarms, missed):
    """60 functions: how often a right derivative is blamed, and one that is wrong by 1 % is not. In single precision a
    remainder that cancels against the curvature may hide it along one direction."""
    generator, blamed, passed = torch.Generator().manual_seed(3), 0, 0
    for seed in range(60):
        A, B = torch.randn(2, 3, 3, generator=generator, dtype=torch.float64)
        theta = torch.randn(3, generator=generator, dtype=torch.float64)

        def f(t, A=A, B=B):
            y = A @ torch.sin(t) + torch.exp(0.5 * B @ t)
            return y.float().double() if single else y

        J = A * torch.cos(theta) + 0.5 * B * torch.exp(0.5 * B @ theta)[:, None]
        blamed += not taylor_test(f, theta, seed=seed, jacobian=J, tried=1).passed
        passed += taylor_test(f, theta, seed=seed, jacobian=1.01 * J, tried=1).passed
    assert blamed <= alarms
    assert passed <= missed


def test_noise_that_hides_the_derivative_never_passes():
    generator = torch.Generator().manual_seed(1)
    f = taylor_test(lambda t: t + 0.1 * torch.randn(2, generator=generator).double(), THETA, jacobian=torch.eye(2))
    assert not f.passed
    assert math.isnan(f.value)
    assert "stand above the rounding of f" in f.sentence


def test_a_backward_pass_written_by_hand_is_tested():
    def sine(share):
        return lambda t: Planted.apply(t, share)

    assert taylor_test(sine(0.0), THETA).passed
    assert dot_product_test(sine(0.0), THETA).passed
    assert not taylor_test(sine(0.01), THETA).passed
    f = dot_product_test(sine(0.01), THETA)
    assert not f.passed
    assert f.value == pytest.approx(0.01, rel=0.5)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("wrong", [*WRONG.values()][:3], ids=[*WRONG][:3])
def test_the_dot_product_blames_either_side(seed, wrong):
    J = rows(straight, THETA)
    right = dot_product_test(straight, THETA, seed=seed, vjp=lambda w: J.T @ w, jvp=lambda v: J @ v)
    assert right.value < 1e-13  # of terms that cancel within (J v)_j, which the sum of sizes does not see
    assert not dot_product_test(straight, THETA, seed=seed, vjp=lambda w: wrong(J).T @ w).passed
    assert not dot_product_test(straight, THETA, seed=seed, jvp=lambda v: wrong(J) @ v).passed


def test_a_small_output_weighs_as_much_as_a_large_one():
    J = slope()
    J[0] *= 1.01
    assert dot_product_test(curved, THETA, jvp=lambda v: J @ v).value == pytest.approx(0.005, rel=0.9)


def test_forward_mode_by_two_reverse_passes_where_there_is_no_other():
    class Backward(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return torch.sin(x)

        @staticmethod
        def backward(ctx, g):
            return g * torch.cos(ctx.saved_tensors[0])

    along, dual = forward(Backward.apply, THETA, torch.ones(2).double())
    assert not dual
    torch.testing.assert_close(along, torch.cos(THETA))
    torch.testing.assert_close(twice(curved, THETA, THETA), slope() @ THETA)
    f = dot_product_test(lambda t: Backward.apply(t), THETA)
    assert f.passed
    assert "by two reverse passes, which cannot see a wrong backward pass" in f.sentence


# Every simulator that claims a derivative, in double precision; the N-body code's forward mode keeps its steps.
ONE_WAY = ("maxwell", "maxwell_device")  # an adjoint of their own, and no forward mode to hold it against
DIFFERENTIABLE = [n for n in registry.names("simulators") if registry.find("simulators", n).differentiable]
CASES = {"nbody": [{"particles": 8, "steps": 2, "precision": "float64", "adjoint": a, **more}
                   for a in ("stored", "reversed", "checkpointed") for more in ({}, {"phase_seed": None})],
         "linear_gaussian": [{}, {"noise": 0.3, "outputs_count": 40}]}  # fmt: skip
BUILT = [pytest.param(registry.build("simulators", {"use": n, **registry.find("simulators", n).example, **c}),
                      id=f"{n}-{i}") for n in DIFFERENTIABLE for i, c in enumerate(CASES.get(n, [{}]))]  # fmt: skip


def middle(simulator) -> tuple[Tensor, Tensor]:
    """A point of the box and the size of each parameter: a half of its range."""
    u = torch.linspace(0.35, 0.6, simulator.space.d).double()
    return simulator.space.from_unit(u), simulator.space.from_unit(u + 0.2) - simulator.space.from_unit(u - 0.2)


@pytest.mark.parametrize("simulator", BUILT)
def test_every_differentiable_simulator_passes(simulator):
    theta, scale = middle(simulator)
    assert taylor_test(simulator, theta, scale=scale, tried=1).passed
    if simulator.entry_name() in ONE_WAY:
        return
    keeps = replace(simulator, adjoint="stored") if isinstance(simulator, NBody) else simulator

    def jvp(v):
        return forward(lambda t: keeps.run(t, seed=7), theta, v)[0]

    f = dot_product_test(lambda t: simulator.run(t, seed=7), theta, jvp=jvp, scale=scale)
    assert f.high == 1e-12
    assert f.passed, f


def test_a_simulator_in_single_precision_is_held_to_it():
    simulator = NBody(particles=8, steps=2, adjoint="stored")
    theta, scale = middle(simulator)
    f = dot_product_test(simulator, theta, scale=scale)
    assert f.high == pytest.approx(1e-12 * 2**29)
    assert f.passed, f
    assert dot_product_test(curved, THETA, precision="float32").high == f.high
    with pytest.raises(InputError, match=r"precision must be float32 or float64\. Got 'half'."):
        dot_product_test(curved, THETA, precision="half")


def test_noise_is_held_fixed():
    f = LinearGaussian(noise=10.0)
    assert taylor_test(f, THETA).passed
    assert taylor_test(lambda t, noise: t * noise.draw("x", Normal(0.0, 1.0)).exp(), THETA).passed
    assert dot_product_test(lambda t, noise: t * noise.draw("x", Normal(0.0, 1.0)), THETA).passed


def test_the_entry_of_forward_mode_agrees_with_reverse():
    one, other = (m.estimate(curved, THETA, seed=1) for m in (Tangents(), Reverse()))
    torch.testing.assert_close(one.gradient, other.gradient, rtol=1e-14, atol=0)
    assert (one.standard_error == 0).all()
    noisy = Tangents().estimate(lambda t, s: t * s, THETA, seed=1, n=3)
    torch.testing.assert_close(noisy.gradient, Reverse().estimate(lambda t, s: t * s, THETA, seed=1, n=3).gradient)


@pytest.mark.parametrize(
    ("call", "said"),
    [(lambda: taylor_test(curved, THETA, jacobian=torch.zeros(3, 2)), r"dy/dtheta, \[2, 2\]. Got \[3, 2\]"),
     (lambda: taylor_test(curved, [math.nan, 1.0]), "theta must be a vector"),
     (lambda: taylor_test(curved, THETA, scale=[1.0]), "scale must be 2 numbers above 0"),
     (lambda: taylor_test(lambda t: t.detach(), THETA), "carry a torch graph"),
     (lambda: order_test(math.sqrt, None, [1, 2], order=1), "three or more rising numbers"),
     (lambda: order_test(math.sqrt, None, [1, 2, 6], order=1), "one ratio between neighbours"),
     (lambda: coverage_test("reverse", curved, THETA, slope(), repeats=5), "repeats must be 20 or more")],
)  # fmt: skip
def test_what_cannot_be_is_said(call, said):
    with pytest.raises(InputError, match=said):
        call()


# -- orders ----------------------------------------------------------------------------------------------------------


def euler(n: int) -> float:
    y = 1.0
    for _ in range(n):
        y -= y**2 / n
    return y


def midpoint(n: int) -> Tensor:
    y = torch.tensor([1.0, 2.0], dtype=torch.float64)
    for _ in range(n):
        y = y - (y - y**2 / (2 * n)) ** 2 / n
    return y


EXACT = torch.tensor([1 / 2, 2 / 3], dtype=torch.float64)  # y' = -y^2: y(1) = y0 / (1 + y0)


@pytest.mark.parametrize("exact", [True, False])
def test_orders_are_observed(exact):
    steps = [80, 160, 320, 640]
    assert order_test(euler, 0.5 if exact else None, steps, order=1).value == pytest.approx(1, abs=0.02)
    assert order_test(midpoint, EXACT if exact else None, steps, order=2).passed
    assert not order_test(euler, 0.5 if exact else None, steps, order=2).passed


def test_an_order_under_rounding_is_not_a_number():
    f = order_test(lambda n: 1.0 + 1e-16 / n, 1.0, [10, 20, 40], order=1)
    assert math.isnan(f.value)
    assert not f.passed
    assert "take coarser steps" in f.sentence


# -- error bars ------------------------------------------------------------------------------------------------------


def squared(theta, noise):
    """E = theta^2 + 1: slope 2 theta."""
    return (theta + noise.draw("z", Normal(0.0, 1.0))) ** 2


class Scaled(Gradient):
    """Pathwise, with a standard error and covariance that are a multiple of what they should be, and a shift."""

    def __init__(self, share: float, shift: float = 0.0):
        self.share, self.shift = share, shift

    def estimate(self, f, theta, *, seed, n=1):
        e = Pathwise().estimate(f, theta, seed=seed, n=n)
        return replace(e, standard_error=self.share * e.standard_error, gradient=e.gradient + self.shift)


ONE = torch.tensor([1.0], dtype=torch.float64)


@pytest.mark.parametrize("method", ["pathwise", "auto", "score", {"use": "common_random_numbers", "bias": False}])
def test_honest_error_bars_pass(method):
    f = squared if method != "score" else lambda t, noise: noise.draw("x", Normal(t, 1.0)) ** 2
    fine = {"use": "common_random_numbers"} if isinstance(method, dict) else method
    assert coverage_test(fine, f, ONE, 2.0, repeats=150, n=500).passed
    assert variance_test(method, f, ONE, repeats=150, n=500).passed


def test_standard_errors_of_half_the_truth_fail():
    cover = coverage_test(Scaled(0.5), squared, ONE, 2.0, repeats=150, n=100)
    assert not cover.passed
    assert cover.value == pytest.approx(0.67, abs=0.12)  # P(|z| < 0.98)
    spread = variance_test(Scaled(0.5), squared, ONE, repeats=150, n=100)
    assert not spread.passed
    assert spread.value == pytest.approx(0.5, abs=0.1)
    assert "must be the scatter of 150 repeats" in spread.sentence


def test_standard_errors_of_twice_the_truth_and_shifted_estimates_fail():
    assert not coverage_test(Scaled(2.0), squared, ONE, 2.0, repeats=200, n=100).passed
    assert not variance_test(Scaled(2.0), squared, ONE, repeats=150, n=100).passed
    assert not coverage_test(Scaled(1.0, shift=0.5), squared, ONE, 2.0, repeats=100, n=100).passed
    assert variance_test(Scaled(1.0, shift=0.5), squared, ONE, repeats=150, n=100).passed  # nor can it see this


def test_exact_methods_have_nothing_to_cover():
    assert coverage_test("reverse", curved, THETA, slope(), repeats=20, n=1).passed
    assert not coverage_test("reverse", curved, THETA, 1.01 * slope(), repeats=20, n=1).passed
    assert variance_test("reverse", curved, THETA, repeats=20, n=1).value == 1


def test_false_alarms_are_rare():
    """20 tests of honest errors at a chance of 0.1 % each: one alarm would have a chance of 2 %."""
    alarms = sum(not variance_test("pathwise", squared, ONE, repeats=30, n=30, seed=s).passed for s in range(20))
    assert alarms <= 1


def test_costs_are_told_and_never_judged():
    found = cost_test(lambda t: t.sin().sum(), torch.ones(100), repeats=1, sizes=(2, 20),
                      family=lambda d: (lambda t: t.mean() * torch.ones(20), torch.ones(d)))  # fmt: skip
    assert [f.name for f in found] == ["cost.reverse", "cost.calls", "cost.growth"]
    assert all(f.value > 0 and f.passed and not f.blocking and f.bound == "none" for f in found)
    assert "central differences 200." in found[1].sentence
