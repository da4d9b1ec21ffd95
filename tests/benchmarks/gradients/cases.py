"""The programs of the table: every expectation whose derivative is known, as each kind of method can read it."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Normal

from emulate.dynamics import ODE
from emulate.linalg import spectral
from emulate.noise import Noise
from tests.gradients import programs
from tests.gradients.equations import decay, heat, lorenz
from tests.gradients.programs import numbers
from tests.gradients.queueing import Queue
from tests.gradients.test_common_random_numbers import square as shifted
from tests.gradients.test_conditional import binned, option
from tests.reference.gradients import dynamics, exact, expectations, jumps, queueing

DRAWN = {"score": 1, "measure_valued": 1, "mixed": 1}  # these see more where theta is in the distribution


@dataclass(frozen=True)
class Case:
    """An expectation at theta.

    programs: ways to write it, by name; a method takes the first whose bias it can bound, beginning at the one of `first`.
    truth: what is known of the derivative: (output, parameter) -> its name and its value.
    n: replicates; `counts`: those of methods that are dear here. settings: of a method, one row for each. only: the methods
    that apply; empty: all. shown: rows beside, by method and program.
    """

    name: str
    programs: Mapping[str, Callable[..., Any]]
    theta: Tensor
    truth: Mapping[tuple[int, int], tuple[str, float]]
    n: int = 40_000
    counts: Mapping[str, int] = field(default_factory=dict)
    first: Mapping[str, int] = field(default_factory=dict)
    settings: Mapping[str, tuple[Mapping[str, Any], ...]] = field(default_factory=dict)
    only: tuple[str, ...] = ()
    shown: tuple[tuple[str, str], ...] = ()


def euler_step(h: float = 0.1) -> ODE:
    """y1 = y0 - h p y0^2; theta = (p, y0)."""
    return ODE(lambda theta, y, t: -theta[:1] * y**2, lambda theta: theta[1:], h, 1, lambda theta, y: y, scheme="euler")


def call_drawn(theta: Tensor, noise: Noise) -> Tensor:
    """`programs.call` with the logarithm of the price drawn from its own law."""
    s, v = theta
    end = noise.draw("log price", Normal(torch.log(s) + 0.05 - v**2 / 2, v))
    return math.exp(-0.05) * torch.relu(torch.exp(end) - 100)


def option_drawn(theta: Tensor, noise: Noise) -> Tensor:
    """The digital call with the logarithm of the price drawn from its own law."""
    s, v = theta
    end = noise.draw("log price", Normal(torch.log(s) + (jumps.RATE - v**2 / 2) * jumps.TIME, v * jumps.TIME**0.5))
    return math.exp(-jumps.RATE * jumps.TIME) * noise.above("strike", end - math.log(jumps.STRIKE))


def option_unmarked(theta: Tensor, noise: Noise) -> Tensor:
    """The digital call by the sign of a difference, which hides the decision and keeps torch's graph whole."""
    s, v = theta
    end = s * torch.exp((jumps.RATE - v**2 / 2) * jumps.TIME + v * jumps.TIME**0.5 * noise.draw("z", Normal(0.0, 1.0)))
    return math.exp(-jumps.RATE * jumps.TIME) * (1 + torch.sign(end - jumps.STRIKE)) / 2


def accepted_below(theta: Tensor, noise: Noise) -> Tensor:
    """X and N as they are told: uniform numbers until one is below theta; at theta = 0.5 one run of 1e19 needs more."""
    u = noise.uniform("u", (64,))
    accepted = noise.above("accept", theta[0] - u)
    first = accepted * (torch.cumsum(accepted, 0) == 1)
    return torch.stack([(first * u).sum(), 1 + (torch.cumsum(accepted, 0) == 0).double().sum()])


def gamma_decided(theta: Tensor, noise: Noise) -> Tensor:
    return programs.marsaglia_tsang(theta, noise, lambda margin: noise.above("accept", margin))


def gamma_compared(theta: Tensor, noise: Noise) -> Tensor:
    return programs.marsaglia_tsang(theta, noise, lambda margin: (margin > 0).double())


def exponential(theta: Tensor) -> Tensor:
    """The sum of all entries of exp(A), theta the entries of a symmetric A."""
    return spectral(theta.reshape(3, 3), torch.exp).sum()


CASES = (
    Case("E[(theta + Z)^2] at 1", {"noise": shifted, "drawn": programs.square}, numbers(1.0), {(0, 0): ("", 2.0)}, first=DRAWN,
         settings={"score": tuple({"baseline": b} for b in ("none", "mean", "optimal", "leave_one_out", "regression"))}),
    Case("one Euler step, p = 0.5, y0 = 2", {"": euler_step()}, numbers(0.5, 2.0), {(0, 0): ("dp", -0.4), (0, 1): ("dy0", 0.8)},
         n=1),
    Case("y' = -p y^2, ten Euler steps", {"": decay(10, "euler")}, numbers(1.0), {(0, 0): ("", exact.EULER)}, n=1),
    Case("Rosenbrock's valley at -1", {"": exact.rosenbrock}, numbers(-1.0, -1.0, -1.0, -1.0),
         {(0, i): (f"d{i}", x) for i, x in enumerate(exact.ROSENBROCK[1][0])}, n=100),
    Case("Black and Scholes's call", {"noise": programs.call, "drawn": call_drawn}, numbers(100.0, 0.2),
         {(0, 0): ("delta", expectations.DELTA), (0, 1): ("vega", expectations.VEGA)}, first=DRAWN),
    Case("digital call", {"noise": option, "drawn": option_drawn}, numbers(jumps.SPOT, jumps.VOLATILITY),
         {(0, 0): ("delta", jumps.digital()[0]), (0, 1): ("vega", jumps.digital()[1])}, first=DRAWN,
         settings={"smooth": ({"width": 0.02}, {"width": 0.1})}),
    Case("hard bin [0, 1] of N(0.3, 1)", {"": binned}, numbers(jumps.MEAN, jumps.DEVIATION),
         {(0, 0): ("dmean", jumps.OF_MEAN), (0, 1): ("dsd", jumps.OF_DEVIATION)}),
    Case("discrete program at p = 0.6", {"": programs.discrete}, numbers(0.6), {(0, 0): ("", expectations.discrete_slope(0.6))}),
    Case("accept-reject at 0.5", {"decided": accepted_below, "drawn": programs.accept_reject_batched}, numbers(0.5),
         {(0, 0): ("dE[X]", 0.5), (1, 0): ("dE[N]", -4.0)}, first=DRAWN, counts={"measure_valued": 10_000}),
    Case("E[ln X] of Gamma(a, 1), a = 2",
         {"decided": gamma_decided, "drawn": programs.marsaglia_tsang, "implicit": programs.log_gamma, "compared": gamma_compared},
         numbers(2.0), {(0, 0): ("", expectations.TRIGAMMA)}, first={"measure_valued": 1}, counts={"enumerate": 1000},
         shown=(("score", "drawn"), ("pathwise", "compared"))),
    Case("exp of the identity by eigenvalues", {"": exponential}, torch.eye(3, dtype=torch.float64).reshape(-1),
         {(0, 0): ("dA00", math.e), (0, 1): ("dA01", math.e)}, n=100),
    Case("M/M/1 queue, 1000 customers a block", {"": Queue(1000, 200)}, numbers(queueing.SERVICE),
         {(0, 0): ("", queueing.time_in_system()[1])}, n=400),
    Case("heat equation, 16 intervals", {"": heat(16, 100)}, numbers(dynamics.CONDUCTIVITY), {(0, 0): ("", dynamics.heat(16))}, n=1,
         settings={"window": ({"length": 100},), "smooth": ({"rule": "directions"},)}, counts={"smooth": 50}),
    Case("Lorenz's climate, many windows of 0.5", {"": lorenz(50)}, numbers(28.0), {(0, 0): ("", dynamics.CLIMATE)}, n=500,
         only=("ensemble",), settings={"ensemble": ({"spread": 0.5, "spinup": 1500},)}),
    Case("Lorenz's climate, one run of 30", {"": lorenz(3000)}, numbers(28.0), {(0, 0): ("", dynamics.CLIMATE)}, n=1,
         only=("window",), settings={"window": ({"length": 50},)}),
)  # fmt: skip
