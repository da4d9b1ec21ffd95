"""Figures that are not one derivative: variances, slopes, coverage, orders, sets, costs, and what `diagnose` finds."""

import itertools
import math
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from emulate import gradients, registry
from emulate.contracts import Gradient, Simulator
from emulate.diagnosis import diagnose
from emulate.dual import derivative, pushforward
from emulate.errors import EmulateError
from emulate.gradients import verify
from emulate.tangents import forward
from tests.benchmarks.gradients.cases import euler_step, option_unmarked
from tests.benchmarks.gradients.running import ONE_BY_ONE
from tests.benchmarks.gradients.table import Row
from tests.benchmarks.gradients.test_modes import family
from tests.gradients import programs, test_coverage
from tests.gradients.equations import decay, heat
from tests.gradients.gallery import HELD
from tests.gradients.programs import numbers
from tests.gradients.queueing import Queue
from tests.gradients.test_common_random_numbers import STEPS, jump, unsynchronised
from tests.gradients.test_common_random_numbers import square as shifted
from tests.gradients.test_conditional import option
from tests.gradients.test_diagnosis import right
from tests.gradients.test_score import _groups
from tests.reference.gradients import dynamics, exact, expectations, jumps, queueing
from tests.test_verification import BUILT, middle

BLOCKS = 10  # independent parts of a Monte Carlo figure, whose scatter is its error


def variances_against_the_step() -> Iterator[Row]:
    """Of a central difference, theta = 1, and the slopes of their logarithms; 4e5 replicates."""
    closed = {
        "common noise": lambda h: 4.0,
        "noise of its own": lambda h: expectations.without_common_noise(1.0, h),
        "jump": None,
    }
    for (name, truth), f, slope in zip(closed.items(), (shifted, unsynchronised, jump), (0.0, -2.0, -1.0)):
        met = {h: _blocks(f, (1.0,), {"use": "common_random_numbers", "step": h, "bias": False}, 40_000) for h in STEPS}
        for h, (variances, calls, seconds) in met.items():
            if truth:
                yield _row(f"differences, {name}, step {h:g}: variance", truth(h), variances, calls, seconds)
        lines = np.polyfit(np.log(STEPS), np.log([variances for variances, _, _ in met.values()]), 1)[0]
        row = _row(f"differences, {name}: slope of its logarithm", slope, lines, 0, 0.0)
        yield replace(row, bias=0.1, calls=None, seconds=math.nan)  # steps are finite: within 0.1


def variances_of_one_replicate() -> Iterator[Row]:
    """Of dE[X^2], X ~ N(1, 1), at 1e6 replicates, and of the delta of a call."""
    specs = {"pathwise": {"use": "pathwise"}, "measure_valued": {"use": "measure_valued"}}
    specs |= {b: {"use": "score", "baseline": b} for b in ("none", "mean", "optimal")}
    for name, spec in specs.items():
        truth = expectations.SQUARE[name]
        yield _row(f"{' '.join(spec.values())}: variance", truth, *_blocks(programs.square, (1.0,), spec, 100_000))
    for k in (2, 5, 20):
        began = time.perf_counter()
        means = _groups("leave_one_out", k, 10**6 // k).mean(1)
        variances = k * means[: len(means) // BLOCKS * BLOCKS].reshape(BLOCKS, -1).var(1).numpy()
        yield _row(f"score leave_one_out of {k}: {k} x variance", expectations.leave_one_out(k), variances, 10**6,
                   time.perf_counter() - began)  # fmt: skip
    market = (100.0, 0.2)
    yield _row("pathwise, delta of a call: variance", expectations.DELTA_VARIANCE,
               *_blocks(programs.call, market, {"use": "pathwise"}, 100_000))  # fmt: skip
    began, truth = time.perf_counter(), numbers(expectations.DELTA, expectations.VEGA)
    made = [gradients.estimate(programs.call, market, method="pathwise", n=100_000, seed=s) for s in range(20)]
    z = max(float(((e.gradient - truth) / e.standard_error).abs().max()) for e in made)
    yield Row("pathwise, delta and vega, 20 seeds: largest |z|", 3.0, z, math.nan, calls=sum(e.calls for e in made),
              seconds=time.perf_counter() - began, bar=True)  # fmt: skip


def _blocks(f: Callable, theta: tuple[float, ...], spec: dict, n: int) -> tuple[np.ndarray, int, float]:
    """The variance of one replicate in each block of n, with all calls and seconds."""
    made = [gradients.estimate(f, theta, method=spec, n=n, seed=s) for s in range(BLOCKS)]
    variances = np.array([n * float(e.covariance[0, 0, 0]) for e in made])
    return variances, sum(e.calls for e in made), sum(e.seconds for e in made)


def _row(method: str, truth: float, blocks: np.ndarray, calls: int, seconds: float) -> Row:
    return Row(method, truth, float(np.mean(blocks)), float(np.std(blocks, ddof=1)) / len(blocks) ** 0.5, calls=calls,
               seconds=seconds, replicates=len(blocks))  # fmt: skip


def coverage(repeats: int = 300, most: float = 15.0) -> Iterator[Row]:
    """How often 95 % intervals hold three derivatives, of every method with an error bar; 600 replicates, and 16 in fewer
    repeats where a method is dear.

    What runs replicates one by one is left out: `reverse` is `forward`, `finite_difference` is `common_random_numbers` with
    an error of its own added.
    """
    for name in (name for name in registry.names("gradients") if name not in ONE_BY_ONE):
        method = registry.build("gradients", {"use": name})
        both = test_coverage.program, test_coverage.continuous  # a coin is for those who see it
        for f, n in itertools.product(both if "sites" in method.needs else both[::-1], (600, 16)):
            try:
                method.estimate(f, COVERED, seed=0, n=8)  # what the first run costs beside is no matter here
                began = time.perf_counter()
                e = method.estimate(f, COVERED, seed=0, n=n)
            except (EmulateError, RuntimeError, TypeError):
                continue
            count = min(repeats, int(most / (time.perf_counter() - began)))
            if e.bias_bound.isfinite().all() and e.standard_error.min() > 0 and (count >= 20 or n < 600):
                yield _covered(method, f, max(count, 20), n)
                break


COVERED = numbers(test_coverage.A, test_coverage.B, test_coverage.P)


def _covered(method: Gradient, f: Callable, repeats: int, n: int) -> Row:
    """The worst of the three shares. An interval with a bias bound in it may be too wide."""
    began, held, calls, widened = time.perf_counter(), [], 0, False
    for seed in range(repeats):
        e = method.estimate(f, COVERED, seed=1000 + seed, n=n)
        low, high = (end[0] for end in e.interval(0.95))
        held.append(((low <= test_coverage.TRUTH) & (high >= test_coverage.TRUTH)).double())
        calls += e.calls
        widened |= bool((e.bias_bound > 0.05 * e.standard_error).any())
    share = torch.stack(held).mean(0)
    worst = float(share[(share - 0.95).abs().argmax()])
    return Row(f"{method.entry_name()}: 95 % intervals, the worst of three", 0.95, worst, (0.95 * 0.05 / repeats) ** 0.5,
               bias=0.05 * widened, calls=calls, seconds=time.perf_counter() - began,
               note=f"{repeats} repeats of {n}" + ", bias bound included" * widened)  # fmt: skip


def dual_numbers() -> Iterator[Row]:
    step = euler_step()
    value, tangents = pushforward(step, numbers(0.5, 2.0), torch.eye(2, dtype=torch.float64))
    for figure, truth, x in (("y1", 1.8, value[0]), ("dy1/dp", -0.4, tangents[0, 0]), ("dy1/dy0", 0.8, tangents[1, 0])):
        yield Row(f"dual numbers, one Euler step: {figure}", truth, float(x))
    slope = derivative(decay(10, "euler"), numbers(1.0))
    yield Row("dual numbers, ten Euler steps", exact.EULER, float(slope))
    one = torch.tensor(1.0, dtype=torch.float64)
    nested = derivative(lambda x: x * derivative(lambda y: x + y, one), one)
    yield Row("dual numbers, nested: d/dx[x d/dy(x + y)]", 1.0, float(nested))
    found, began = [], time.perf_counter()
    for simulator in (p.values[0] for p in BUILT):
        theta, scale = middle(simulator)
        keeps = replace(simulator, adjoint="stored") if hasattr(simulator, "adjoint") else simulator

        def run(t: Tensor, simulator: Simulator = simulator) -> Tensor:
            return simulator.run(t, seed=7)

        def along(v: Tensor, keeps: Simulator = keeps, at: Tensor = theta) -> Tensor:
            return forward(lambda t: keeps.run(t, seed=7), at, v)[0]

        found.append(verify.dot_product_test(run, theta, scale=scale, jvp=along))
    yield Row(f"dot products, the worst of {len(found)} simulators", 1e-12, max(f.value for f in found), math.nan, bar=True,
              seconds=time.perf_counter() - began)  # fmt: skip
    found = verify.dot_product_test(exact.rosenbrock, numbers(-1.0, -1.0, -1.0, -1.0))
    yield Row("dot products, Rosenbrock's valley", 1e-12, found.value, math.nan, bar=True)
    yield Row(
        "Rosenbrock's valley itself", exact.ROSENBROCK[0][0], float(exact.rosenbrock(numbers(-1.0, -1.0, -1.0, -1.0)))
    )


def orders() -> Iterator[Row]:
    """Of both adjoints against the equation, by `verify.order_test`; the ten-step figures; the heat equation in space."""
    names = {"adjoint": dynamics.DECAY_DISCRETE, "continuous_adjoint": dynamics.DECAY_CONTINUOUS}
    for name, truth in names.items():
        yield _deterministic(f"{name}, ten Euler steps", truth, decay(10, "euler"), name, 1.0)
    ladders = {"euler": (1.0, [160, 320, 640, 1280]), "rk4": (4.0, [80, 160, 320])}
    for (scheme, (order, steps)), name in itertools.product(ladders.items(), names):
        yield _order(
            f"{name}, {scheme}", order, lambda k, s=scheme, m=name: _slope(decay(k, s), m, 1.0), dynamics.DECAY, steps
        )
    yield _order("adjoint, heat equation, Euler in time", 1.0, lambda k: _slope(heat(16, k, "euler"), "adjoint", 0.1),
                 dynamics.heat(16), [320, 640, 1280])  # fmt: skip
    began = time.perf_counter()
    met = {m: _slope(heat(m, steps), "adjoint", 0.1) for m, steps in ((16, 100), (32, 100), (64, 320))}
    order = verify.order_test(lambda m: met[m], dynamics.HEAT_SLOPE, list(met), order=2)
    yield Row("adjoint, heat equation, order in space", 2.0, order.value, bias=0.1)
    fine, finer = ((4 * met[2 * m] - met[m]) / 3 for m in (16, 32))
    limit = finer + (finer - fine) / 15
    yield Row("adjoint, heat equation, extrapolated in space", dynamics.HEAT_SLOPE, limit, bias=abs(limit - finer), calls=3,
              seconds=time.perf_counter() - began)  # fmt: skip
    differences = gradients.estimate(
        heat(16, 100), [0.1], method={"use": "finite_difference", "step": 0.003}, n=1, seed=0
    )
    yield Row(
        "heat equation, adjoint less differences",
        1e-8,
        abs(met[16] - float(differences.gradient)),
        math.nan,
        bar=True,
    )


def _slope(f: Callable, name: str, theta: float) -> float:
    return float(gradients.estimate(f, [theta], method=name, n=1, seed=0).gradient)


def _deterministic(method: str, truth: float, f: Callable, name: str, theta: float) -> Row:
    e = gradients.estimate(f, [theta], method=name, n=1, seed=0)
    return Row(method, truth, float(e.gradient), calls=e.calls, seconds=e.seconds)


def _order(method: str, order: float, solve: Callable, truth: float, steps: list[int]) -> Row:
    began = time.perf_counter()
    found = verify.order_test(solve, truth, steps, order=order)
    return Row(f"{method}: order", order, found.value, bias=0.1, seconds=time.perf_counter() - began)


def long_queue() -> Iterator[Row]:
    e = gradients.estimate(Queue(10_000, 1000), [queueing.SERVICE], method="pathwise", n=400, seed=2)
    yield Row("pathwise, 4e6 customers of the M/M/1 queue", queueing.time_in_system()[1], float(e.gradient),
              float(e.standard_error), calls=e.calls, seconds=e.seconds, replicates=e.replicates)  # fmt: skip


def diagnoses() -> Iterator[Row]:
    least = lambda t: torch.minimum(t**2, 2 * t)  # noqa: E731
    for at, truth in ((0.0, "[0, 2]"), (2.0, "[2, 4]")):
        found = diagnose(least, numbers(at))
        ((left, right_),) = found.evidence["clarke"]
        yield Row(f"diagnose, min(theta^2, 2 theta) at {at:g}: slopes", truth, f"[{left + 0.0:.5g}, {right_:.5g}]",
                  calls=found.evidence["calls"])  # fmt: skip
    market = numbers(jumps.SPOT, jumps.VOLATILITY)
    plain = gradients.estimate(option_unmarked, market, method="reverse", n=400, seed=1)
    found = diagnose(option_unmarked, market, seed=1)
    yield Row("plain reverse mode, digital call by `sign`: delta at fixed noise", 0.0, float(plain.gradient[0, 0]),
              calls=plain.calls, seconds=plain.seconds, note=f"of the mean it is {jumps.digital()[0]:.8f}")  # fmt: skip
    yield Row(
        "diagnose, digital call by `sign`", "jump", found.trouble, calls=found.evidence["calls"], note=f'"{found}"'
    )
    found = diagnose(option, market, seed=1)
    yield Row("diagnose, digital call", "jump at strike", f"{found.trouble} at {found.site}", calls=found.evidence["calls"],
              note=f'"{found}"')  # fmt: skip
    began, troubled, named, smooth, alarms, most = time.perf_counter(), 0, 0, 0, 0, 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for case in HELD:
            found = diagnose(case.f, case.theta, seed=3)
            most = max(most, found.evidence["calls"])
            if case.trouble == "smooth":
                smooth, alarms = smooth + 1, alarms + (found.trouble != "smooth")
            else:
                troubled, named = troubled + 1, named + right(case, found)
    seconds = time.perf_counter() - began
    yield Row("diagnose, troubles not named", 0.05, 1 - named / troubled, math.nan, bar=True, seconds=seconds,
              note=f"{named} of {troubled} programs that it was not tuned on")  # fmt: skip
    yield Row(
        "diagnose, false alarms", 0.01, alarms / smooth, math.nan, bar=True, note=f"{alarms} of {smooth} smooth ones"
    )
    yield Row("diagnose, most calls", 2000.0, float(most), math.nan, bar=True)


def costs() -> Iterator[Row]:
    """Reported: a time is no verdict on a machine that does other things."""
    found = verify.cost_test(
        exact.rosenbrock, torch.full((1_000_000,), -1.0, dtype=torch.float64), family=family, repeats=5
    )
    bars = {"cost.reverse": 5.0, "cost.growth": 1.5}
    for f in found:
        if f.name in bars:
            yield Row(f"reverse: {f.name}", bars[f.name], f.value, math.nan, bar=True, note="reported, never a verdict")


FIGURES = {
    "variance of a central difference of (theta + Z)^2 and of a jump, 4e5 replicates": variances_against_the_step,
    "variance of one replicate, 1e6 of them": variances_of_one_replicate,
    "coverage": coverage,
    "dual numbers, forward against reverse": dual_numbers,
    "y' = -p y^2 and the heat equation: orders": orders,
    "queue": long_queue,
    "diagnosis": diagnoses,
    "cost of reverse mode": costs,
}
