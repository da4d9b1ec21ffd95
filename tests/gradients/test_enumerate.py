"""Sums over all values of discrete draws: exact where nothing else is random, and a cap that is told."""

import itertools
import math

import pytest
import torch
from torch.distributions import Bernoulli, Binomial, Categorical, Normal, Poisson

from emulate.errors import InputError
from emulate.gradients.enumerate import Enumerate
from emulate.gradients.score import Score
from tests.gradients.programs import discrete, numbers
from tests.reference.gradients.expectations import discrete_mean, discrete_slope

P = 0.6


def tree(theta, noise):
    """Draws whose number and whose laws depend on earlier ones."""
    total = torch.zeros((), dtype=torch.float64)
    for _ in range(noise.draw("how many", Categorical(torch.stack([1 - theta[0], theta[0] / 2, theta[0] / 2])))):
        total = total + noise.draw("gain", Bernoulli(theta[0] / (1 + total)))
    return torch.stack([total, total**2 * theta[0]])


def by_hand(p: float) -> tuple[float, float]:
    """One gain: p. Two: p then p/2 or p."""
    two = {2: p * p / 2, 1: p * (1 - p / 2) + (1 - p) * p}
    mean = p / 2 * p + p / 2 * (2 * two[2] + two[1])
    square = p / 2 * p + p / 2 * (4 * two[2] + two[1])
    return mean, square * p


def test_a_tree_of_draws_that_depend_on_each_other_is_exact():
    e = Enumerate().estimate(tree, numbers(P), seed=1, n=1)
    h = 1e-5
    truth = [(up - down) / (2 * h) for up, down in zip(by_hand(P + h), by_hand(P - h))]
    torch.testing.assert_close(e.gradient[:, 0], numbers(*truth), rtol=1e-8, atol=0)
    torch.testing.assert_close(e.value, numbers(*by_hand(P)), rtol=1e-14, atol=0)
    assert float(e.standard_error.max()) == 0
    assert e.diagnostics["paths"] == e.calls == 1 + 2 + 4


def test_what_is_exact_is_not_repeated_for_more_replicates():
    assert Enumerate().estimate(tree, numbers(P), seed=1, n=10**6).calls == 7


def test_a_vector_of_draws_is_every_combination():
    weights = numbers(1.0, 2.0, 4.0)

    def f(theta, noise):
        return torch.exp(
            (weights * noise.draw("x", Bernoulli(theta[0] * torch.ones(3, dtype=torch.float64)))).sum() / 4
        )

    def mean(p):
        return sum(math.prod(p if x else 1 - p for x in xs) * math.exp(sum(w * x for w, x in zip(weights.tolist(), xs)) / 4)
                   for xs in itertools.product((0, 1), repeat=3))  # fmt: skip

    e = Enumerate().estimate(f, numbers(P), seed=1)
    assert float(e.value) == pytest.approx(mean(P), rel=1e-13)
    assert float(e.gradient) == pytest.approx((mean(P + 1e-5) - mean(P - 1e-5)) / 2e-5, rel=1e-8)
    assert e.diagnostics["paths"] == 8


def test_the_discrete_program():
    """Its one path, through the normal draw, enters as d(23 p a^2)/dp z, which is 0 at p = 0.6 and nowhere near."""
    assert float(Enumerate().estimate(discrete, numbers(P), seed=1, n=10).gradient) == pytest.approx(
        discrete_slope(P), rel=1e-12
    )
    e, score = (method.estimate(discrete, numbers(0.4), seed=1, n=2000) for method in (Enumerate(), Score()))
    low, high = e.interval(0.99)
    assert float(low) < discrete_slope(0.4) < float(high)
    assert abs(float(e.value) - discrete_mean(0.4)) < 0.1
    assert e.diagnostics["paths"] == 22
    assert float(e.standard_error) < 0.1 * float(score.standard_error)


def test_a_choice_after_a_draw_with_a_path():
    """x of Normal(t, 1), then a coin of chance Phi-like g(x): E[x coin] by summing the coin and averaging the path."""

    def f(theta, noise):
        x = noise.draw("x", Normal(theta[0], 1.0))
        return x * noise.draw("coin", Bernoulli(torch.special.ndtr(x)))

    e = Enumerate().estimate(f, numbers(0.5), seed=1, n=20_000)
    # E[x Phi(x)] = t Phi(t / sqrt 2) + phi(t / sqrt 2) / sqrt 2, whose derivative in t is Phi(r) + t phi(r) / sqrt 2
    # - t phi(r) / (2 sqrt 2), r = t / sqrt 2
    r = 0.5 / math.sqrt(2)
    density = math.exp(-(r**2) / 2) / math.sqrt(2 * math.pi)
    truth = 0.5 * (1 + math.erf(r / math.sqrt(2))) + 0.5 * density / (2 * math.sqrt(2))
    assert abs(float(e.gradient) - truth) < 4 * float(e.standard_error)
    assert not e.diagnostics["alone"]


def test_draws_that_theta_does_not_touch_are_left_alone():
    f = lambda theta, noise: theta[0] * noise.draw("k", Binomial(50, torch.tensor(0.5)))  # noqa: E731
    e = Enumerate().estimate(f, numbers(1.0), seed=1, n=400)
    assert e.diagnostics["paths"] == 1
    assert abs(float(e.gradient) - 25) < 4 * float(e.standard_error)


@pytest.mark.parametrize(("f", "words"), [
    (lambda theta, noise: noise.draw("k", Poisson(theta[0])),
     r"^enumerate must have discrete draws of finitely many values\. Got a Poisson at the site k; use score, measure_valued "
     r"or mixed\.$"),
    (lambda theta, noise: noise.draw("k", Bernoulli(theta[0] * torch.ones(11))).sum(),
     r"^enumerate must walk at most 64 paths through the discrete draws\. Got 2\^11 values of a Bernoulli at the site k; "
     r"use score, measure_valued or mixed, or raise `most`\.$"),
    (lambda theta, noise: sum(noise.draw("k", Bernoulli(theta[0])) for _ in range(7)),
     r"^enumerate must walk at most 64 paths through the discrete draws\. Got more; use score, measure_valued or mixed, or "
     r"raise `most`\.$"),
    (lambda theta, noise: noise.above("edge", theta[0] - noise.draw("x", Normal(0.0, 1.0))),
     r"^enumerate must have hard decisions on draws alone\. Got one at the site edge that reads theta itself, past all draws; "
     r"draw what is decided on, or use conditional, smooth or common_random_numbers\.$"),
])  # fmt: skip
def test_what_it_cannot_serve_is_refused(f, words):
    with pytest.raises(InputError, match=words):
        Enumerate(most=64).estimate(f, numbers(P), seed=1)


def test_six_coins_are_within_the_cap():
    f = lambda theta, noise: sum(noise.draw("k", Bernoulli(theta[0])) for _ in range(6))  # noqa: E731
    e = Enumerate(most=64).estimate(f, numbers(P), seed=1)
    assert float(e.gradient) == pytest.approx(6, rel=1e-12)
    assert e.diagnostics["paths"] == 64
