"""Weak derivatives: every row of the table against a closed form, and their price."""

import math

import pytest
import torch
from torch.distributions import (
    Bernoulli,
    Beta,
    Binomial,
    Categorical,
    Exponential,
    Gamma,
    Geometric,
    Independent,
    Laplace,
    Normal,
    Poisson,
    Uniform,
)

from emulate.errors import InputError
from emulate.gradients._weak import FAMILIES
from emulate.gradients.measure_valued import MeasureValued
from emulate.gradients.score import Score
from tests.gradients.programs import discrete, numbers, square
from tests.reference.gradients.expectations import SQUARE, discrete_slope

A, B = 0.7, 1.3
SIGMOID = 1 / (1 + math.exp(-A))

# dE[x^2] / d(a, b) at a = 0.7, b = 1.3 from the second moments of each law
ROWS = {
    "Normal": (lambda a, b: Normal(a, b), (2 * A, 2 * B)),  # a^2 + b^2
    "Laplace": (lambda a, b: Laplace(a, b), (2 * A, 4 * B)),  # a^2 + 2 b^2
    "Exponential": (lambda a, b: Exponential(a), (-4 / A**3, 0.0)),  # 2 / a^2
    "Gamma": (lambda a, b: Gamma(2.0, a), (-12 / A**3, 0.0)),  # 6 / a^2
    "Uniform": (lambda a, b: Uniform(a, b), ((2 * A + B) / 3, (2 * B + A) / 3)),  # (a^2 + a b + b^2) / 3
    "Poisson": (lambda a, b: Poisson(b), (0.0, 1 + 2 * B)),  # b + b^2
    "Bernoulli": (lambda a, b: Bernoulli(a), (1.0, 0.0)),
    "Bernoulli, logits": (lambda a, b: Bernoulli(logits=a), (SIGMOID * (1 - SIGMOID), 0.0)),
    "Binomial": (lambda a, b: Binomial(10, a), (10 + 180 * A, 0.0)),  # 10 a + 90 a^2
    "Geometric": (lambda a, b: Geometric(a), (3 / A**2 - 4 / A**3, 0.0)),  # (1-a)(2-a)/a^2 = 2/a^2 - 3/a + 1
    "Categorical": (lambda a, b: Categorical(torch.stack([1 - a, a / 2, a / 2])), (2.5, 0.0)),  # a/2 + 4 a/2
    "Independent": (lambda a, b: Independent(Normal(torch.stack([a, a]), b), 1), (4 * A, 4 * B)),
}
# of the geometric law: E x^2 = Var + mean^2 = (1-a)/a^2 + (1-a)^2/a^2 = 2/a^2 - 3/a + 1


@pytest.mark.parametrize("name", ROWS)
def test_every_row_of_the_table(name):
    law, truth = ROWS[name]
    f = lambda theta, noise: (noise.draw("x", law(*theta)).double() ** 2).sum()  # noqa: E731
    e = MeasureValued().estimate(f, numbers(A, B), seed=1, n=20_000)
    assert ((e.gradient[0] - numbers(*truth)).abs() <= 4 * e.standard_error[0] + 1e-9).all()


def test_no_row_is_untested():
    assert set(FAMILIES) <= set(ROWS)


@pytest.mark.parametrize("n", [100_000, pytest.param(10**6, marks=pytest.mark.slow)])
def test_the_variance_of_a_square(n):
    e = MeasureValued().estimate(square, numbers(1.0), seed=1, n=n)
    got = float(e.standard_error) ** 2 * n
    print(f"measure-valued: variance {got:.4f}, in closed form {SQUARE['measure_valued']:.4f}")
    assert got == pytest.approx(SQUARE["measure_valued"], rel=0.05)
    assert abs(float(e.gradient) - 2) < 4 * float(e.standard_error)


def test_a_hard_payoff_of_a_normal_draw():
    """P(x > 0) of Normal(a, b): derivative phi(a / b) / b in a, -a phi(a / b) / b^2 in b."""
    f = lambda theta, noise: 1.0 * (noise.draw("x", Normal(theta[0], theta[1])) > 0)  # noqa: E731
    e = MeasureValued().estimate(f, numbers(A, B), seed=1, n=40_000)
    density = math.exp(-0.5 * (A / B) ** 2) / math.sqrt(2 * math.pi)
    assert ((e.gradient[0] - numbers(density / B, -A * density / B**2)).abs() < 4 * e.standard_error[0]).all()
    assert float(e.bias_bound.max()) == 0


def test_draws_that_depend_on_draws_and_vectors_of_draws():
    def chain(theta, noise):
        x = noise.draw("x", Bernoulli(theta[0]))
        k = noise.draw("k", Poisson(theta[1] * (1 + x) * torch.ones(3, dtype=torch.float64)))
        return k.prod()

    # E[k1 k2 k3] = b^3 E[(1 + x)^3] = b^3 (1 + 7 a)
    e = MeasureValued().estimate(chain, numbers(A, B), seed=1, n=40_000)
    truth = numbers(7 * B**3, 3 * B**2 * (1 + 7 * A))
    assert ((e.gradient[0] - truth).abs() < 4 * e.standard_error[0]).all()
    assert e.diagnostics["runs"] == 1 + 1 + 3
    assert e.calls == 40_001 * 5


def test_a_program_that_branches_on_its_draws():
    def f(theta, noise):
        return (
            2.0 * noise.draw("more", Bernoulli(theta[0] / 2)) if noise.draw("coin", Bernoulli(theta[0])) else theta[0]
        )

    e = MeasureValued().estimate(f, numbers(A), seed=1, n=500)
    assert abs(float(e.gradient) - (2 * A + 1 - 2 * A)) < 4 * float(e.standard_error)  # a^2 + (1 - a) a


def test_the_discrete_program_with_less_noise_than_its_score():
    weak, score = (m.estimate(discrete, numbers(0.6), seed=2, n=20_000) for m in (MeasureValued(), Score()))
    low, high = weak.interval(0.99)
    assert float(low) < discrete_slope(0.6) < float(high)
    assert float(weak.standard_error) < float(score.standard_error)


@pytest.mark.parametrize(("method", "f", "words"), [
    (MeasureValued(), lambda theta, noise: noise.draw("x", Beta(theta[0], 1.0)),
     r"^measure_valued must have draws whose weak derivative is known: Bernoulli, .*, Uniform\. Got Beta at the site x; use "
     r"score or pathwise\.$"),
    (MeasureValued(), lambda theta, noise: noise.draw("x", Gamma(theta[0], 1.0)),
     r"^measure_valued must have draws whose weak derivative is known\. Got a Gamma whose shape depends on theta at the "
     r"site x; use pathwise or score\.$"),
    (MeasureValued(most=20), lambda theta, noise: noise.draw("x", Normal(theta[0] * torch.ones(10), 1.0)).sum(),
     r"^measure_valued must take at most 20 runs a replicate, two for each number drawn\. Got 21; use score or pathwise, or "
     r"raise `most`\.$"),
    (MeasureValued(), lambda theta, seed: theta[0] * seed,
     r"^measure_valued must see the draws of f\. Got a random f without a site: draw by `noise\.draw\(\.\.\.\)`, or use "
     r"common_random_numbers\.$"),
    (MeasureValued(), lambda theta, noise: noise.above("edge", theta[0] - noise.draw("x", Normal(0.0, 1.0))),
     r"^measure_valued must have hard decisions on draws alone\."),
])  # fmt: skip
def test_what_it_cannot_serve_is_refused(method, f, words):
    with pytest.raises(InputError, match=words):
        method.estimate(f, numbers(A), seed=1, n=4)
