"""Two pictures: variance of a difference against its step, and bias against variance of every way to differentiate a jump.

EMULATE_PICTURES=pictures pytest -m benchmark -s tests/benchmarks/gradients/test_pictures.py
"""

import math

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from scipy import integrate, stats
from torch import Tensor
from torch.distributions import Normal

from emulate import gradients
from emulate.noise import Noise
from tests.benchmarks.gradients.cases import option_drawn
from tests.gradients.programs import numbers
from tests.gradients.test_common_random_numbers import jump, unsynchronised
from tests.gradients.test_common_random_numbers import square as shifted
from tests.gradients.test_conditional import halves, option
from tests.reference.gradients import jumps
from tests.reference.gradients.expectations import without_common_noise

pytestmark = pytest.mark.benchmark
SPOT, SD, DISCOUNT = jumps.SPOT, jumps.VOLATILITY * jumps.TIME**0.5, math.exp(-jumps.RATE * jumps.TIME)
DRIFT = (jumps.RATE - jumps.VOLATILITY**2 / 2) * jumps.TIME


def test_variance_against_the_step(picture):
    """Slopes 0, -1 and -2 (Glasserman 2003, sec. 7.1)."""
    steps, n = np.geomspace(1e-3, 0.5, 10), 100_000
    kinds = {"common noise, (theta + Z)^2": (shifted, 0), "common noise, a jump": (jump, -1),
             "noise of its own, (theta + Z)^2": (unsynchronised, -2)}  # fmt: skip
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    for (name, (f, slope)), marker in zip(kinds.items(), "osv"):
        made = [gradients.estimate(f, [1.0], method={"use": "common_random_numbers", "step": h, "bias": False}, n=n, seed=5)
                for h in steps.tolist()]  # fmt: skip
        variances = np.array([n * float(e.standard_error) ** 2 for e in made])
        fitted = np.polyfit(np.log(steps[:8]), np.log(variances[:8]), 1)[0]
        print(f"{name}: slope {fitted:.3f}, to be {slope}")
        axes.loglog(steps, variances, marker, label=f"{name}: slope {fitted:.2f}")
        assert fitted == pytest.approx(slope, abs=0.1)
    crossed = stats.norm.cdf(steps) - stats.norm.cdf(-steps)  # how often the two runs lie on the two sides of the jump
    closed = (
        np.full_like(steps, 4.0),
        crossed * (1 - crossed) / (4 * steps**2),
        [without_common_noise(1.0, h) for h in steps],
    )
    for line in closed:
        axes.loglog(steps, line, color="grey", linewidth=1, zorder=0)
    axes.set(
        xlabel="step h", ylabel="variance of one central difference", title="What a step costs (grey: closed forms)"
    )
    axes.legend()
    picture("variance_against_step", figure)


def value(spot: float) -> float:
    """The price of the digital call; it depends on the spot through ln(spot / strike) alone."""
    return DISCOUNT * float(stats.norm.cdf((math.log(spot / jumps.STRIKE) + DRIFT) / SD))


def smoothed(width: float) -> float:
    """The delta of the price averaged over a Gaussian of the spot: E[e value(S + s e)] / s, and that of the volatility too."""

    def inner(v: float) -> float:
        def of_spot(e: float) -> float:
            s = SPOT * (1 + width * e)
            d = (math.log(s / jumps.STRIKE) + (jumps.RATE - v**2 / 2) * jumps.TIME) / (v * jumps.TIME**0.5)
            return DISCOUNT * stats.norm.pdf(d) / (s * v * jumps.TIME**0.5) * stats.norm.pdf(e)

        return integrate.quad(of_spot, -7, 7, epsabs=1e-10)[0]

    x, w = np.polynomial.hermite_e.hermegauss(20)
    volatilities = jumps.VOLATILITY * (1 + width * x)
    return float(sum(a * inner(v) for a, v in zip(w / w.sum(), volatilities)))


def soft(width: float) -> tuple[float, ...]:
    """The delta of DISCOUNT E[sigmoid((S_T - strike) / (width strike))], by quadrature."""

    def of(z: float) -> float:
        end = SPOT * math.exp(DRIFT + SD * z)
        p = stats.logistic.cdf((end / jumps.STRIKE - 1) / width)
        return DISCOUNT * p * (1 - p) / (width * jumps.STRIKE) * end / SPOT * stats.norm.pdf(z)

    return integrate.quad(of, -8, 8, points=[(math.log(jumps.STRIKE / SPOT) - DRIFT) / SD], limit=400, epsabs=1e-11)[0]


def softened(width: float):
    def f(theta: Tensor, noise: Noise) -> Tensor:
        s, v = theta
        end = s * torch.exp(
            (jumps.RATE - v**2 / 2) * jumps.TIME + v * jumps.TIME**0.5 * noise.draw("z", Normal(0.0, 1.0))
        )
        return DISCOUNT * torch.sigmoid((end / jumps.STRIKE - 1) / width)

    return f


def test_bias_against_variance(picture):
    """Of the delta of the digital call. Biases are exact: zero by theorem, or by quadrature, which the estimates must meet."""
    n, widths, delta = 400_000, (0.005, 0.01, 0.02, 0.05, 0.1), jumps.digital()[0]
    kinds = {  # name -> (label of a point, method, program, expectation of its delta) of each point
        "smooth, by width": [(w, {"use": "smooth", "width": w}, option, smoothed(w)) for w in widths],
        "soft payoff and pathwise, by width": [(w, "pathwise", softened(w), soft(w)) for w in widths],
        "common random numbers, by step": [(h, {"use": "common_random_numbers", "step": h, "bias": False}, option,
                                            (value(SPOT * (1 + h)) - value(SPOT * (1 - h))) / (2 * h * SPOT)) for h in widths],
        "score": [("", {"use": "score", "baseline": "optimal"}, option_drawn, delta)],
        "measure_valued": [("", "measure_valued", option_drawn, delta)],
        "conditional, half of the path": [("", {"use": "conditional", "site": "z[1]"}, halves, delta)],
    }  # fmt: skip
    figure = Figure(figsize=(8.5, 6), layout="constrained")
    axes = figure.subplots()
    print(f"\ndelta of a digital call {delta:.8f}\n{'method':38s}{'':>8s}{'variance':>12s}{'bias':>12s}{'z':>7s}")
    for (name, points), marker in zip(kinds.items(), "osv^D*"):
        met = []
        for label, method, f, mean in points:
            count = n if name[:4] != "cond" else 4000
            e = gradients.estimate(f, numbers(SPOT, jumps.VOLATILITY), method=method, n=count, seed=3)
            variance, z = (
                count * float(e.covariance[0, 0, 0]),
                float((e.gradient[0, 0] - mean) / e.standard_error[0, 0]),
            )
            met.append((variance, abs(mean - delta)))
            print(f"{name:38s}{label!s:>8s}{variance:12.3g}{mean - delta:12.2g}{z:7.1f}")
            assert abs(z) < 4.5
        (line,) = axes.plot(*zip(*met), marker, linestyle=":" if len(met) > 1 else "", label=name,
                            markersize=13 if marker == "*" else 7)  # fmt: skip
        for (label, *_), at in zip(points, met):
            axes.annotate(f"{label}", at, xytext=(6, 4), textcoords="offset points", fontsize=8, color=line.get_color())
    axes.set_xscale("log")
    axes.set_yscale("symlog", linthresh=1e-6)
    axes.set_ylim(-4e-7, 2e-2)
    axes.set_yticks([0, *(10.0**k for k in range(-6, -1))])
    x = np.geomspace(axes.get_xlim()[0], 2 * axes.get_xlim()[1], 50)
    axes.set_xlim(x[0], x[-1])
    for count in (100, 10_000, 1_000_000):
        axes.plot(x, np.sqrt(x / count), color="lightgrey", linewidth=1, zorder=0)
        axes.annotate(f"bias = error of {count:,} runs", (x[1], math.sqrt(x[1] / count)), color="grey", fontsize=8,
                      rotation=13, xytext=(0, 4), textcoords="offset points")  # fmt: skip
    axes.set(xlabel="variance of one replicate", ylabel="|bias|",
             title=f"Delta of a digital call, {delta:.5f}: below a grey line the noise is the larger part")  # fmt: skip
    axes.legend(loc="lower right", bbox_to_anchor=(1, 0.02), fontsize=9)
    picture("bias_against_variance", figure)
