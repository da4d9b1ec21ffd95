"""Profile likelihoods judged by closed forms, by a slow twin of scipy, and by how often their intervals hold the truth."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq, minimize
from scipy.special import ndtri
from torch import Tensor

from emulate.derived import read
from emulate.distributions import Exact
from emulate.errors import InputError
from emulate.likelihoods.gaussian import Gaussian
from emulate.likelihoods.poisson import Poisson
from emulate.posterior import Posterior
from emulate.profiles import plane, profile
from emulate.space import LogUniform, Normal, Parameter, Space, Uniform

A = torch.tensor([[1.0, 0.5, -0.2], [0.3, 1.0, 0.4], [0.2, -0.4, 1.0], [1.0, 1.0, 1.0], [0.5, -0.5, 0.2]]).double()
SIGMA = 0.3
DATA = A @ torch.tensor([0.5, -1.0, 1.5]).double() + torch.tensor([0.3, -0.2, 0.1, 0.4, -0.5]).double()
COVARIANCE = torch.linalg.inv(A.T @ A / SIGMA**2)
BEST = COVARIANCE @ A.T @ DATA / SIGMA**2


FLAT = Uniform(-5, 5)


def linear(prior=FLAT) -> Posterior:
    space = Space(tuple(Parameter(n, prior) for n in "abc"))
    return Posterior(space, lambda t: Exact(t @ A.T), Gaussian(absolute_error=SIGMA), DATA)


@pytest.mark.parametrize("prior", [Uniform(-5, 5), Normal(0, 2)])
def test_a_linear_model_has_parabolas(prior):
    found = profile(linear(prior), seed=1)
    for i, p in enumerate(found.values()):
        best, sd = float(BEST[i]), float(COVARIANCE[i, i].sqrt())
        assert p.best == pytest.approx(best, abs=1e-5 * sd)
        torch.testing.assert_close(p.log_ratio, -0.5 * (p.value - best) ** 2 / sd**2, rtol=0, atol=1e-8)
        others = BEST + COVARIANCE[i] / COVARIANCE[i, i] * (p.value[:, None] - best)  # where the rest is best
        torch.testing.assert_close(p.theta, others, rtol=0, atol=1e-4)
        for interval in p.intervals:
            reach = sd * ndtri((1 + interval.level) / 2)
            assert (interval.low, interval.high) == pytest.approx((best - reach, best + reach), abs=1e-6 * sd)
            assert (interval.low_open, interval.high_open) == (False, False)
            assert interval.connected
        assert p.converged


def test_a_derived_parameter_has_the_profile_of_its_formula():
    posterior = linear()
    found = profile(posterior, ["s"], derived=read({"s": "a + 2 * b - c"}, posterior.space), seed=1)["s"]
    w = torch.tensor([1.0, 2.0, -1.0]).double()
    best, sd = float(w @ BEST), float((w @ COVARIANCE @ w).sqrt())
    torch.testing.assert_close(found.log_ratio, -0.5 * (found.value - best) ** 2 / sd**2, rtol=0, atol=1e-8)
    reach = sd * ndtri(0.975)
    assert (found.intervals[1].low, found.intervals[1].high) == pytest.approx(
        (best - reach, best + reach), abs=1e-6 * sd
    )


def test_a_derived_parameter_bends_as_a_parameter_does():
    """The profile of c = ln a is that of a parameter b with a = exp(b): profiles know no coordinates."""
    data = torch.tensor([2.0, 2.5], dtype=torch.float64)
    both = lambda a, b: Exact(torch.stack([a + b, a - b], -1))  # noqa: E731
    noise = Gaussian(absolute_error=0.5)
    one = Space((Parameter("a", LogUniform(0.1, 10)), Parameter("b", Uniform(-3, 3))))
    two = Space((Parameter("c", Uniform(math.log(0.1), math.log(10))), Parameter("b", Uniform(-3, 3))))
    first = Posterior(one, lambda t: both(t[..., 0], t[..., 1]), noise, data)
    second = Posterior(two, lambda t: both(t[..., 0].exp(), t[..., 1]), noise, data)
    mine = profile(first, ["c"], derived=read({"c": "log(a)"}, one), seed=1)["c"].intervals
    theirs = profile(second, ["c"], seed=1)["c"].intervals
    for i, j in zip(mine, theirs):
        assert (i.low, i.high) == pytest.approx((j.low, j.high), abs=1e-5)


def counts(n: float, low: float = 1e-3) -> Posterior:
    return Posterior(
        Space((Parameter("mu", Uniform(low, 60)),)), Exact, Poisson(), torch.tensor([n], dtype=torch.float64)
    )


@pytest.mark.parametrize("n", [3, 20])
def test_a_poisson_mean_has_its_known_interval(n):
    """2 (mu - n + n ln(n / mu)) = z^2, solved by bisection (Particle Data Group 2024, sec. 40.4.2.1)."""
    for interval in profile(counts(n), seed=1)["mu"].intervals:
        z2 = ndtri((1 + interval.level) / 2) ** 2
        far = lambda mu, z2=z2: 2 * (mu - n + n * math.log(n / mu)) - z2  # noqa: E731
        assert interval.low == pytest.approx(brentq(far, 1e-6, n), abs=1e-5)
        assert interval.high == pytest.approx(brentq(far, n, 90), abs=1e-5)


def test_an_end_at_the_edge_of_the_box_is_open_and_said_to_be():
    interval = profile(counts(0), seed=1, levels=(0.95,))["mu"].intervals[0]
    assert interval.low_open
    assert not interval.high_open
    assert interval.low == pytest.approx(1e-3, abs=1e-6)
    assert interval.high == pytest.approx(1e-3 + 0.5 * ndtri(0.975) ** 2, abs=1e-5)
    assert str(interval) == "at most 0.001 to 1.922 (the box ends there)"


def banana() -> Posterior:
    space = Space((Parameter("a", Uniform(-3, 3)), Parameter("b", Uniform(-3, 9))))
    bent = lambda t: Exact(torch.stack([t[..., 0], t[..., 1] - t[..., 0] ** 2], -1))  # noqa: E731
    return Posterior(space, bent, Gaussian(absolute_error=1.0), torch.tensor([0.5, 0.2], dtype=torch.float64))


def test_a_banana_is_that_of_brute_force():
    p = profile(banana(), ["b"], seed=1)["b"]

    def lowest(b: float) -> float:
        cost = lambda a: 0.5 * (a[0] - 0.5) ** 2 + 0.5 * (b - a[0] ** 2 - 0.2) ** 2  # noqa: E731
        return min(minimize(cost, [a], bounds=[(-3, 3)], tol=1e-12).fun for a in np.linspace(-3, 3, 7))

    some = range(0, len(p.value), 6)
    assert [-float(p.log_ratio[i]) for i in some] == pytest.approx([lowest(float(p.value[i])) for i in some], abs=1e-6)


def test_two_modes_are_both_found_and_the_gap_is_said():
    """y = a^2: a at -2 and at 2 are equally likely, and 0 is none of both."""
    space = Space((Parameter("a", Uniform(-4, 4)), Parameter("b", Uniform(-1, 1))))
    both = lambda t: Exact(torch.stack([t[..., 0] ** 2, t[..., 1]], -1))  # noqa: E731
    posterior = Posterior(space, both, Gaussian(absolute_error=0.5), torch.tensor([4.0, 0.0], dtype=torch.float64))
    interval = profile(posterior, ["a"], seed=1)["a"].intervals[0]
    reach = math.sqrt(4 + 0.5 * ndtri(0.84))
    assert (interval.low, interval.high) == pytest.approx((-reach, reach), abs=1e-5)
    assert not interval.connected
    assert "not all between" in str(interval)


def test_a_plane_is_the_ellipse_of_a_linear_model():
    found = plane(linear(), ("a", "c"), seed=1, points=9)
    part = COVARIANCE[[0, 2]][:, [0, 2]]
    r = torch.stack(torch.meshgrid(found.first - BEST[0], found.second - BEST[2], indexing="ij"), -1)
    torch.testing.assert_close(found.log_ratio, -0.5 * (r @ torch.linalg.inv(part) * r).sum(-1), rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"names": ["d"]}, "must be that of one of a, b, c. Got 'd'"),
        ({"levels": (68,)}, "levels must be probabilities"),
        ({"points": 2}, "points at least 5"),
    ],
)
def test_what_cannot_be_profiled_is_refused(how, said):
    with pytest.raises(InputError, match=said):
        profile(linear(), seed=1, **how)


def test_a_likelihood_that_is_0_everywhere_is_told():
    nothing = Posterior(linear().space, lambda t: Exact(t @ A.T - 1e6), Poisson(), DATA.abs().round())
    with pytest.raises(InputError, match="the likelihood must be above 0 somewhere in the box"):
        profile(nothing, seed=1)


@pytest.mark.slow
def test_intervals_hold_the_truth_as_often_as_they_say():
    """300 data sets of a linear model whose parameters correlate: coverage within 3.5 binomial standard errors."""
    truth, inside = torch.tensor([0.3, -0.4], dtype=torch.float64), []
    some = A[:, :2]
    space = Space((Parameter("a", Uniform(-5, 5)), Parameter("b", Uniform(-5, 5))))
    generator = torch.Generator().manual_seed(7)
    for _ in range(300):
        noise = torch.randn(len(A), generator=generator, dtype=torch.float64)
        data: Tensor = some @ truth + SIGMA * noise
        posterior = Posterior(space, lambda t: Exact(t @ some.T), Gaussian(absolute_error=SIGMA), data)
        found = profile(posterior, ["a"], seed=1, points=5, starts=1)["a"]
        inside.append([i.low <= truth[0] <= i.high for i in found.intervals])
    for level, share in zip((0.68, 0.95), np.mean(inside, 0)):
        assert abs(share - level) / math.sqrt(level * (1 - level) / 300) < 3.5
