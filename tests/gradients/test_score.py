"""The score function: its variances in closed form, its baselines unbiased at any n, and what it refuses or doubts."""

import math

import pytest
import torch
from torch.distributions import Bernoulli, Normal, Uniform

from emulate.errors import InputError
from emulate.gradients._sites import Reads, Terms, terms
from emulate.gradients.pathwise import Pathwise
from emulate.gradients.score import Score, _Scored
from emulate.replication import each, lift
from tests.gradients.programs import (
    accept_reject,
    accept_reject_batched,
    discrete,
    marsaglia_tsang,
    numbers,
    square,
)
from tests.reference.gradients.expectations import SQUARE, THROUGH_THE_ACCEPTED, TRIGAMMA, discrete_slope, leave_one_out

BASELINES = ("none", "mean", "leave_one_out", "optimal", "regression")
ONE = numbers(1.0)


def _terms(n: int, seed: int = 0) -> Terms:
    return each(lambda noise: terms(lift(square), ONE, noise, _Scored(), Reads()), seed, n).answer


def _groups(baseline: str, k: int, repeats: int) -> torch.Tensor:
    """Terms or pseudo-values `[repeats, k]` of groups of k replicates."""
    parts = (t.reshape(repeats, k, *t.shape[1:]) for t in _terms(k * repeats, seed=3))
    return torch.func.vmap(lambda *t: Score(baseline=baseline).slopes(Terms(*t)))(*parts)[:, :, 0, 0]


@pytest.mark.parametrize("baseline", ["none", "mean", "optimal"])
def test_the_variance_of_one_replicate_is_the_one_in_closed_form(baseline):
    slopes = Score(baseline=baseline).slopes(_terms(200_000))[:, 0, 0]
    assert float(slopes.var()) == pytest.approx(SQUARE[baseline], rel=0.08)  # the sixth moment scatters by 2 %
    assert abs(float(slopes.mean()) - 2) < 4 * float(slopes.std()) / len(slopes) ** 0.5


@pytest.mark.slow
@pytest.mark.parametrize("baseline", ["none", "mean", "optimal"])
def test_the_variances_at_a_million(baseline):
    e = Score(baseline=baseline).estimate(square, ONE, seed=2, n=10**6)
    got = float(e.standard_error) ** 2 * 10**6
    print(f"score, {baseline}: variance {got:.3f}, in closed form {SQUARE[baseline]:.3f}")
    assert got == pytest.approx(SQUARE[baseline], rel=0.05)


@pytest.mark.parametrize("k", [3, 5, 20])
def test_leave_one_out_has_the_variance_of_its_closed_form_and_says_so(k):
    slopes = _groups("leave_one_out", k, 40_000)
    got = k * float(slopes.mean(1).var())
    said = float(slopes.var(1).mean())
    print(f"leave one out of {k}: K Var {got:.3f}, claimed {said:.3f}, in closed form {leave_one_out(k):.3f}")
    assert got == pytest.approx(leave_one_out(k), rel=0.08)
    assert leave_one_out(k) * 0.92 < said < leave_one_out(k) * (1.1 + 4 / k)  # a jackknife errs on the safe side


@pytest.mark.slow
@pytest.mark.parametrize("k", [2, 5, 20])
def test_leave_one_out_at_a_million(k):
    slopes = _groups("leave_one_out", k, 10**6 // k * (4 if k == 2 else 1))
    got = k * float(slopes.mean(1).var())
    print(f"leave one out of {k}: K Var {got:.3f}, in closed form {leave_one_out(k):.3f}")
    assert got == pytest.approx(leave_one_out(k), rel=0.05)


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("k", [2, 3, 8])
def test_every_baseline_is_unbiased_at_any_number_of_replicates(baseline, k):
    means = _groups(baseline, k, 30_000).mean(1)
    z = (float(means.mean()) - 2) / (float(means.std()) / len(means) ** 0.5)
    assert abs(z) < 4


@pytest.mark.parametrize("baseline", ["mean", "optimal"])
def test_the_variance_that_is_claimed_is_unbiased_though_baselines_are_learnt(baseline):
    """At 6 replicates, where a baseline of two of them adds a third to the variance."""
    slopes = _groups(baseline, 6, 60_000)
    means = slopes.mean(1)
    claimed = slopes.var(1) / 6
    scatter = float(((means - 2) ** 2 - claimed).std()) / 60_000**0.5
    assert abs(float(means.var() - claimed.mean())) < 4 * scatter


def test_the_scores_of_all_parameters_are_control_variates():
    """f = x y of two normal draws near 0: f s_0 is z_0^2 z_1 of variance 3, and 2 less its regression on the other score."""

    def f(theta, noise):
        return noise.draw("x", Normal(theta[0], 1.0)) * noise.draw("y", Normal(theta[1], 1.0))

    theta = numbers(0.01, 0.02)
    alone, both = (Score(baseline=b).estimate(f, theta, seed=4, n=40_000) for b in ("optimal", "regression"))
    assert ((both.gradient[0] - theta.flip(0)).abs() < 4 * both.standard_error[0]).all()
    assert (alone.standard_error**2 * 40_000)[0].tolist() == pytest.approx([3, 3], rel=0.1)
    assert (both.standard_error**2 * 40_000)[0].tolist() == pytest.approx([2, 2], rel=0.1)


def test_the_discrete_program():
    e = Score(baseline="regression").estimate(discrete, numbers(0.6), seed=6, n=40_000)
    low, high = e.interval(0.99)
    assert float(low) < discrete_slope(0.6) < float(high)


def test_accept_reject_with_a_draw_for_each_acceptance():
    few = Score().estimate(accept_reject, numbers(0.5), seed=1, n=500)
    many = Score().estimate(accept_reject_batched, numbers(0.5), seed=1, n=40_000)
    for e in (few, many):
        assert ((e.gradient[:, 0] - numbers(0.5, -4.0)).abs() < 4 * e.standard_error[:, 0]).all()
    assert few.diagnostics["alone"]
    assert not many.diagnostics["alone"]
    assert float(many.bias_bound.max()) == 0


def test_marsaglia_and_tsang_with_a_draw_for_each_acceptance_has_the_derivative_of_the_gamma_law():
    e = Score().estimate(marsaglia_tsang, numbers(2.0), seed=1, n=200_000)
    assert abs(float(e.gradient) - TRIGAMMA) < 4 * float(e.standard_error)
    assert abs(float(e.gradient) - THROUGH_THE_ACCEPTED) > 4 * float(e.standard_error)


def test_the_path_through_the_accepted_proposal_alone_is_another_number_and_owns_up_to_it():
    plain = Pathwise().estimate(lambda theta, noise: marsaglia_tsang(theta, noise, lambda margin: (margin > 0).double()),
                                numbers(2.0), seed=1, n=100_000)  # fmt: skip
    assert abs(float(plain.gradient) - THROUGH_THE_ACCEPTED) < 4 * float(plain.standard_error)
    assert plain.bias_bound.isnan().all()
    assert "gt" in plain.diagnostics["reads"]
    told = r"^pathwise must have no hard decision on theta\. Got one at the site accept"
    with pytest.raises(InputError, match=told):
        Pathwise().estimate(lambda theta, noise: marsaglia_tsang(theta, noise, lambda m: noise.above("accept", m)),
                            numbers(2.0), seed=1)  # fmt: skip


@pytest.mark.parametrize(("f", "words"), [
    (lambda theta, noise: noise.draw("x", Uniform(0.0, theta[0])),
     r"^score must have draws whose support stays where it is\. Got Uniform at the site x, an end of which depends on theta; "
     r"use pathwise, or draw a fixed one and scale it\.$"),
    (lambda theta, noise: noise.above("edge", theta[0] - noise.draw("x", Normal(0.0, 1.0))),
     r"^score must have hard decisions on draws alone\. Got one at the site edge that reads theta itself, past all draws; "
     r"draw what is decided on, or use conditional, smooth or common_random_numbers\.$"),
    (lambda theta, seed: theta[0] * seed,
     r"^score must see the draws of f\. Got a random f without a site: draw by `noise\.draw\(\.\.\.\)`, or use "
     r"common_random_numbers\.$"),
])  # fmt: skip
def test_what_it_cannot_serve_is_refused(f, words):
    with pytest.raises(InputError, match=words):
        Score().estimate(f, ONE, seed=1, n=4)


def test_a_plain_branch_on_theta_past_the_draws_leaves_the_bias_unknown():
    def f(theta, noise):
        x = noise.draw("x", Normal(0.0, 1.0))
        return 1.0 if x < theta[0] else 0.0

    e = Score().estimate(f, ONE, seed=1, n=50)
    assert e.bias_bound.isnan().all()
    assert math.isnan(float(e.interval()[0]))
    assert e.diagnostics["reads"] == ["gt"] or "lt" in e.diagnostics["reads"]


def test_a_plain_branch_on_a_draw_is_no_trouble():
    def f(theta, noise):
        return 2.0 if noise.draw("coin", Bernoulli(theta[0])) else torch.sin(theta[0])

    e = Score().estimate(f, numbers(0.3), seed=1, n=800)
    p = 0.3
    truth = 2 - math.sin(p) + (1 - p) * math.cos(p)
    assert abs(float(e.gradient) - truth) < 4 * float(e.standard_error)
    assert float(e.bias_bound) == 0
