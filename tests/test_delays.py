"""Delay equations against the method of steps in closed form and by scipy: values, derivatives in the delays, and the order."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from emulate.delays import DDE, solve
from emulate.errors import InputError
from emulate.gradients.complex_step import ComplexStep
from emulate.gradients.forward import Forward
from emulate.gradients.reverse import Reverse

H = 1e-30


def powers(t, tau):
    """y and dy/dtau at t of y' = -y(t - tau), y = 1 before 0: sum_k (-1)^k (t - (k - 1) tau)^k / k!."""
    reached = [k for k in range(200) if k == 0 or t > (k - 1) * tau]
    y = math.fsum((-1) ** k * (t - (k - 1) * tau) ** k / math.factorial(k) for k in reached)
    slope = math.fsum(
        (-1) ** k * -(k - 1) * (t - (k - 1) * tau) ** (k - 1) / math.factorial(k - 1) for k in reached[1:]
    )
    return y, slope


def linear(t, tau, step):
    """The same by the solver, by complex steps."""
    y = solve(lambda t, y, past: (-past(0, 0),), lambda t: (1.0,), (complex(tau, H),), t, step)(t)[0]
    return y.real, y.imag / H


def test_the_sum_of_powers_is_what_hands_find():
    assert powers(3.0, 1.0) == (pytest.approx(-1 / 6, abs=1e-14), pytest.approx(-1, abs=1e-14))
    assert powers(10.0, 1.0) == (pytest.approx(0.020241126543, abs=1e-12), pytest.approx(0.438268849206, abs=1e-12))


@pytest.mark.parametrize("tau", [1.0, 0.7316, math.pi / 3])
@pytest.mark.parametrize("t", [0.4, 3.0, 10.0])
def test_values_and_derivatives_in_a_delay_that_is_no_multiple_of_the_step(t, tau):
    assert linear(t, tau, 0.0173) == pytest.approx(powers(t, tau), abs=1e-8)


@pytest.mark.parametrize("method", [Reverse(), Forward(), ComplexStep()], ids=lambda m: m.entry_name())
def test_every_estimator_takes_one(method):
    dde = DDE(lambda theta, y, lagged, t: -theta[1] * lagged[0], lambda theta, t: torch.ones_like(theta[:1]),
              lambda theta: theta[:1], (3.0, 4.0), 0.04, lambda theta, states: states[:, 0])  # fmt: skip
    found = method.estimate(dde, torch.tensor([1.0, 1.0], dtype=torch.float64), seed=0)
    assert found.value.tolist() == pytest.approx([powers(t, 1.0)[0] for t in (3.0, 4.0)], abs=1e-8)
    assert found.gradient[:, 0].tolist() == pytest.approx([powers(t, 1.0)[1] for t in (3.0, 4.0)], abs=1e-8)
    # y(t; tau, c) = y(c t; c tau, 1): the derivative in c at 1 is t y' + tau dy/dtau
    by_rate = [t * -powers(t - 1, 1.0)[0] + powers(t, 1.0)[1] for t in (3.0, 4.0)]
    assert found.gradient[:, 1].tolist() == pytest.approx(by_rate, abs=1e-7)


def by_steps(a, b, horizon):
    """y(horizon) of y' = -0.8 y(t - a) - 0.3 y(t - b) y, y = 1 + t / 4 before 0, from breakpoint to breakpoint by scipy."""
    points = sorted({0.0, horizon, *(s for i in range(9) for j in range(9) if 0 < (s := i * a + j * b) < horizon)})
    pieces = []

    def past(t):
        if t <= 0:
            return 1 + t / 4
        return next(s for end, s in pieces if t <= end + 1e-13)(t)[0]

    y = 1.0
    for begin, end in itertools.pairwise(points):
        at = min(a, b) / 2  # so that the past is known
        for k in range(n := math.ceil((end - begin) / at)):
            left, right = begin + k * (end - begin) / n, begin + (k + 1) * (end - begin) / n
            found = solve_ivp(lambda t, y: -0.8 * past(t - a) - 0.3 * past(t - b) * y, (left, right), [y], method="DOP853",
                              rtol=1e-13, atol=1e-14, dense_output=True)  # fmt: skip
            pieces.append((right, found.sol))
            y = found.y[0, -1]
    return y


def two_delays(a, b, horizon, step):
    def slope(t, y, past):
        return (-0.8 * past(0, 0) - 0.3 * past(1, 0) * y[0],)

    return solve(slope, lambda t: (1 + t / 4,), (a, b), horizon, step)(horizon)[0]


def test_two_delays_are_those_of_scipy_and_the_order_is_four_in_values_and_derivatives():
    a, b, horizon = 1.0, math.sqrt(0.3), 4.321
    judge = by_steps(a, b, horizon)
    h = 3e-4
    slope = [(8 * (by_steps(a + h * i, b + h * j, horizon) - by_steps(a - h * i, b - h * j, horizon))
              - by_steps(a + 2 * h * i, b + 2 * h * j, horizon) + by_steps(a - 2 * h * i, b - 2 * h * j, horizon)) / (12 * h)
             for i, j in ((1, 0), (0, 1))]  # fmt: skip
    steps, off = np.array([0.1, 0.05, 0.025, 0.0125]), []
    for step in steps:
        by_a, by_b = two_delays(complex(a, H), b, horizon, step), two_delays(a, complex(b, H), horizon, step)
        off.append([by_a.real - judge, by_a.imag / H - slope[0], by_b.imag / H - slope[1]])
    off = np.abs(off)
    assert off[-1, 0] < 1e-8
    assert off[-1, 1:].max() < 2e-7
    assert np.polyfit(np.log(steps), np.log(off[:, 0]), 1)[0] > 3.6
    fine = [two_delays(complex(a, H), b, horizon, s).imag / H for s in (*steps, 0.003)]
    assert np.polyfit(np.log(steps), np.log(np.abs(np.array(fine[:-1]) - fine[-1])), 1)[0] > 3.6


def test_a_history_without_a_break_and_one_that_does_not_lead_to_the_start():
    sine = solve(lambda t, y, past: (-past(0, 0),), lambda t: (math.sin(t),), (math.pi / 2,), 20.0, 0.05)
    assert [sine(t)[0] for t in (0.3, 7.0, 20.0)] == pytest.approx([math.sin(t) for t in (0.3, 7.0, 20.0)], abs=1e-7)
    jump = solve(lambda t, y, past: (-past(0, 0),), lambda t: (1.0,), (complex(1.0, H),), 1.5, 0.1, start=(2.0,))(1.5)[
        0
    ]
    assert (jump.real, jump.imag / H) == (pytest.approx(0.125, abs=1e-12), pytest.approx(0.5, abs=1e-12))  # by hand


def test_equal_delays_share_the_derivative_of_one():
    def half(a, b):
        return solve(lambda t, y, past: (-0.5 * past(0, 0) - 0.5 * past(1, 0),), lambda t: (1.0,), (a, b), 5.0, 0.05)(
            5.0
        )[0]

    y, slope = powers(5.0, 1.0)
    assert half(1.0, 1.0) == pytest.approx(y, abs=1e-8)
    assert half(complex(1.0, H), 1.0).imag / H == pytest.approx(slope / 2, abs=1e-6)
    assert half(1.0, complex(1.0 + 1e-9, H)).imag / H == pytest.approx(slope / 2, abs=1e-6)


def test_a_step_longer_than_a_delay_is_cut_to_it():
    assert linear(3.0, 0.05, 1.0) == pytest.approx(powers(3.0, 0.05), abs=1e-6)


@pytest.mark.parametrize(("delay", "horizon", "step", "said"), [
    (-1.0, 3.0, 0.1, "a delay must be a time above 0. Got -1; narrow its prior."),
    (1.0, 0.0, 0.1, "horizon and step must be times above 0. Got 0.0 and 0.1."),
    (1e-9, 3.0, 0.1, "a solution must take at most 1000000 steps. Got 3000000000, for steps are no longer than 1e-09; raise the "
     "step, or keep delays away from 0."),
])  # fmt: skip
def test_what_cannot_be_solved_is_said(delay, horizon, step, said):
    with pytest.raises(InputError) as caught:
        solve(lambda t, y, past: (-past(0, 0),), lambda t: (1.0,), (delay,), horizon, step)
    assert str(caught.value) == said
    with pytest.raises(InputError, match=r"times must be numbers of at least 0 that rise\. Got \[2\.0, 1\.0\]"):
        DDE(lambda *_: None, lambda *_: None, lambda theta: theta, (2.0, 1.0), 0.1, lambda *_: None)
