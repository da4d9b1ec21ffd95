"""Conditional Monte Carlo: figures in closed form, an honest interval, and a sentence where one draw does not suffice."""

import math

import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.distributions import Bernoulli, Exponential, Gamma, Normal, Uniform

from emulate.errors import InputError
from emulate.gradients._averages import averaged
from emulate.gradients.conditional import EDGE, Conditional, _Given
from emulate.meter import Meter
from emulate.noise import Noise, Place
from emulate.replication import each, lift
from tests.reference.gradients.jumps import (
    BIN,
    DELTA,
    DEVIATION,
    MEAN,
    OF_DEVIATION,
    OF_MEAN,
    RATE,
    SPOT,
    STRIKE,
    TIME,
    VEGA,
    VOLATILITY,
    digital,
    hard_bin,
)


def at(*x: float) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


def paid(theta: Tensor, noise: Noise, z: Tensor) -> Tensor:
    s, v = theta
    end = s * torch.exp((RATE - v**2 / 2) * TIME + v * TIME**0.5 * z)
    return math.exp(-RATE * TIME) * noise.above("strike", end - STRIKE)


def option(theta: Tensor, noise: Noise) -> Tensor:
    return paid(theta, noise, noise.draw("z", Normal(0.0, 1.0)))


def halves(theta: Tensor, noise: Noise) -> Tensor:
    """The same option along a path of two steps: the first is left to chance."""
    return paid(theta, noise, sum(noise.draw("z", Normal(0.0, 1.0)) for _ in range(2)) / 2**0.5)


def binned(theta: Tensor, noise: Noise) -> Tensor:
    x = noise.draw("x", Normal(theta[0], theta[1]))
    return noise.above("left", x - BIN[0]) * noise.above("right", BIN[1] - x)


CASES = [(option, at(SPOT, VOLATILITY), (DELTA, VEGA)), (binned, at(MEAN, DEVIATION), (OF_MEAN, OF_DEVIATION))]


@pytest.mark.parametrize(("f", "theta", "truth"), CASES, ids=lambda x: getattr(x, "__name__", ""))
def test_one_draw_leaves_no_error(f, theta, truth):
    assert truth == pytest.approx(digital() if f is option else hard_bin(), rel=1e-6)
    e = Conditional().estimate(f, theta, seed=1)
    assert e.standard_error.max() == 0
    assert (e.bias_bound < 1e-9).all()
    torch.testing.assert_close(e.gradient[0], at(*(digital() if f is option else hard_bin())), rtol=1e-11, atol=0)


def test_the_interval_holds_the_option_along_a_path():
    e = Conditional(site="z[1]").estimate(halves, at(SPOT, VOLATILITY), seed=1, n=4000)
    low, high = e.interval(0.99)
    print(
        f"\ndelta {e.gradient[0, 0]:.6f} of {DELTA}, vega {e.gradient[0, 1]:.5f} of {VEGA}, errors {e.standard_error[0]}"
    )
    assert ((low <= at(DELTA, VEGA)) & (at(DELTA, VEGA) <= high)).all()
    assert (e.standard_error[0] < at(2e-4, 3e-3)).all()
    assert e.diagnostics["site"] == "z[1]"


@pytest.mark.slow
def test_intervals_cover_as_often_as_they_say():
    """1000 estimates of 100 replicates as one batch of all their replicates; the first is what the estimator gives."""
    theta, truth, conditional = at(SPOT, VOLATILITY), at(DELTA, VEGA), Conditional(site="z[1]")
    given, z = (
        _Given(lift(halves), theta, Place("z", 1), (True,)),
        torch.linspace(-EDGE, EDGE, conditional.grid).double(),
    )
    blocks = [
        each(lambda noise: conditional._integrate(given, noise, z, 1), 5, 10_000, first=k * 10_000).answer
        for k in range(10)
    ]
    values, slopes = (torch.cat([block[i] for block in blocks]).unflatten(0, (1000, 100)) for i in (0, 1))
    made = [averaged(v, s, random=True, calls=0, meter=Meter()) for v, s in zip(values, slopes)]
    one = conditional.estimate(halves, theta, seed=5, n=100)
    torch.testing.assert_close(one.gradient, made[0].gradient, rtol=1e-9, atol=0)
    torch.testing.assert_close(one.standard_error, made[0].standard_error, rtol=1e-9, atol=0)
    held = [(low <= truth) & (truth <= high) for low, high in (e.interval(0.95) for e in made)]
    share = torch.stack(held).double().mean(0)[0]
    print(f"\ncoverage of delta and vega {share.tolist()}, to be in 0.92 to 0.98")
    assert ((share > 0.92) & (share < 0.98)).all()


def test_families_without_a_closed_inverse_have_jumps_too():
    """P(G > t) of Gamma(a, 1) falls by its density at t; the slope in a by differences of scipy's tail."""

    def f(theta, noise):
        return noise.above("far", noise.draw("g", Gamma(theta[0], 1.0)) - theta[1])

    e = Conditional().estimate(f, at(2.0, 1.5), seed=1)
    of_a = (stats.gamma.sf(1.5, 2.0 + 1e-5) - stats.gamma.sf(1.5, 2.0 - 1e-5)) / 2e-5
    torch.testing.assert_close(e.gradient[0], at(of_a, -stats.gamma.pdf(1.5, 2.0)), rtol=1e-6, atol=0)


def test_path_and_jump_add_up():
    """E[(t - X) 1{X < t}] and E[X^2 1{X < t}] of X ~ Exponential(r): slopes 1 - e^(-rt), and t^2 r e^(-rt) in t."""

    def f(theta: Tensor, noise: Noise) -> Tensor:
        x = noise.draw("x", Exponential(theta[1]))
        under = noise.above("under", theta[0] - x)
        return torch.stack([(theta[0] - x) * under, x**2 * under])

    t, r = 1.3, 0.7
    e = Conditional().estimate(f, at(t, r), seed=1)
    torch.testing.assert_close(
        e.gradient[:, 0], at(1 - math.exp(-r * t), t**2 * r * math.exp(-r * t)), rtol=1e-10, atol=0
    )

    def inner(r):
        return 2 / r**2 - math.exp(-r * t) * (t**2 + 2 * t / r + 2 / r**2)  # E[X^2 1{X < t}]

    assert float(e.gradient[1, 1]) == pytest.approx((inner(r + 1e-5) - inner(r - 1e-5)) / 2e-5, rel=1e-8)


def test_a_vector_of_decisions_is_a_histogram():
    edges = at(-1.0, 0.0, 0.5, 2.0)

    def f(theta, noise):
        return noise.above("edge", noise.draw("x", Normal(theta[0], 1.0)) - edges).diff().neg()

    e = Conditional().estimate(f, at(0.3), seed=1)
    density = torch.exp(-0.5 * (edges - 0.3) ** 2) / math.sqrt(2 * math.pi)
    torch.testing.assert_close(e.gradient[:, 0], density[:-1] - density[1:], rtol=1e-10, atol=1e-14)
    assert e.diagnostics["roots"] == 4


def test_a_margin_may_cross_zero_many_times():
    """Z outside of [-t, t]: P = 2 Phi(-t)."""

    def f(theta, noise):
        return noise.above("out", noise.draw("z", Normal(0.0, 1.0)) ** 2 - theta[0] ** 2)

    e = Conditional().estimate(f, at(0.8), seed=1)
    assert float(e.gradient) == pytest.approx(-2 * stats.norm.pdf(0.8), rel=1e-11)


def test_a_branch_leaves_the_bias_unknown():
    def f(theta, noise):
        return theta[0] * 2 if noise.above("up", theta[0] + noise.draw("z", Normal(0.0, 1.0))) else theta[0]

    e = Conditional().estimate(f, at(0.5), seed=1, n=4)
    assert float(e.gradient) == pytest.approx(1 + stats.norm.cdf(0.5) + 0.5 * stats.norm.pdf(0.5), rel=1e-9)
    assert e.bias_bound.isnan().all()


def test_theta_decided_on_by_itself_is_left_where_it_is():
    def f(theta, noise):
        return noise.above("side", theta[0]) * noise.draw("z", Normal(theta[0], 1.0)) ** 2

    assert float(Conditional().estimate(f, at(0.5), seed=1).gradient) == pytest.approx(1.0, rel=1e-10)


def two(theta: Tensor, noise: Noise) -> Tensor:
    return noise.draw("a", Normal(theta[0], 1.0)) + noise.draw("b", Normal(0.0, 1.0))


REFUSED = [
    (lambda t, noise: noise.above("hit", two(t, noise)), {}, r"^conditional must be told the site that it integrates, a draw "
     r"of one continuous number that moves every decision on theta: a, b\. Got ''; name it as `site`, or use score, smooth or "
     r"common_random_numbers\.$"),
    (lambda t, noise: noise.above("hit", two(t, noise)), {"site": "c"}, r"Got 'c'; name it as `site`"),
    (lambda t, noise: noise.above("hit", t[0]), {}, r"that moves every decision on theta: there is none\. Got ''"),
    (lambda t, noise: noise.above("hit", noise.draw("u", Uniform(t[0], t[0] + 1).expand((3,)))), {}, r"there is none"),
    (lambda t, noise: noise.above("hit", torch.minimum(noise.draw("a", Normal(0.0, 1.0)), noise.draw("b", Normal(0.0, 1.0)))
                                  - t[0]), {"site": "a"}, r"^conditional must have every decision on theta moved by the draw at "
     r"a\. Got one that stays where it is over a part of that draw while other draws move it; integrate another site"),
    (lambda t, noise: noise.above("two", noise.above("one", noise.draw("z", Normal(0.0, 1.0)) - t[0]) + 0.1 * t[0] - 0.5), {},
     r"^conditional must have margins that are continuous in the draw at z\. Got one that jumps across zero"),
    (lambda t, noise: noise.above("hit", torch.sin(20 * noise.draw("z", Normal(0.0, 1.0)) + t[0])), {},
     r"^conditional must find at most 8 roots of the margins in a replicate, and as many on half the grid\. Got up to \d+, and "
     r"another number in \d+% of the replicates; integrate another site, raise `grid` and `most`, or use score or smooth\.$"),
    (lambda t, noise: noise.above("hit", noise.draw("z", Normal(0.0, 1.0)) - t[0]) + noise.draw("n", Bernoulli(t[0])), {},
     r"^conditional must have draws that are continuous in theta\. Got Bernoulli at the site n, whose parameters depend on "
     r"theta; use enumerate, score, measure_valued or mixed\.$"),
]  # fmt: skip


@pytest.mark.parametrize(("f", "settings", "sentence"), REFUSED)
def test_what_one_draw_cannot_tell_is_refused(f, settings, sentence):
    with pytest.raises(InputError, match=sentence):
        Conditional(**settings).estimate(f, at(0.5), seed=1, n=20)


def test_a_jump_that_is_not_marked_leaves_the_bias_unknown():
    def f(theta: Tensor, noise: Noise) -> Tensor:
        z = theta[0] + noise.draw("z", Normal(0.0, 1.0))
        return noise.above("hit", z) + (z > 1)

    e = Conditional().estimate(f, at(0.5), seed=1)
    assert e.bias_bound.isnan().all()
    assert e.diagnostics["reads"] == ["gt"]
