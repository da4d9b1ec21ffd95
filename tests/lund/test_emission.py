"""Drawn z and transverse momenta against the exact density; both ways to draw z agree."""

from dataclasses import dataclass, field

import mpmath
import numpy as np
import pytest
import torch
from scipy import stats

from emulate.lund import AcceptReject, Condition, Emission, Flavours, Keyed, String, generate
from emulate.lund.inverse import Inverse, cdf, quantile
from emulate.lund.keyed import streams

SETTINGS = [(a, c) for a in (0.0, 0.3, 0.68, 2.0) for c in (0.018, 0.1, 1.5)]


def condition(a, c, n):
    a, c, one = (torch.full((n,), x, dtype=torch.float64) for x in (a, c, 1.0))
    zero = torch.zeros(n, dtype=torch.int64)
    return Condition(a=a, b=one, sigma=one, mt2=c, mass2=one, old=zero, new=zero)


def noise(n, seed):
    return Keyed(streams(seed, torch.arange(n)), torch.zeros(n, dtype=torch.int64))


def p_values(emission, n):
    given = [condition(a, c, n) for a, c in SETTINGS]
    return [stats.kstest(cdf(emission.sample(g, noise(n, i)), g.a, g.c).numpy(), "uniform").pvalue
            for i, g in enumerate(given)]  # fmt: skip


def test_the_distribution_function_is_that_of_quadrature():
    """By mpmath, in x = ln((1 - z) / z), where the density is smooth."""
    for a, c in [(0.0, 1e-4), (0.3, 0.05), (0.68, 0.02), (10.0, 300.0), (0.0, 5.0)]:
        for z in (1e-3, 0.1, 0.5, 0.97):
            f = lambda x: mpmath.exp((a + 1) * (x - mpmath.log1p(mpmath.exp(x))) - c * mpmath.exp(x))  # noqa: B023, E731
            start, norm = mpmath.log((1 - z) / z), mpmath.gamma(a + 1) * mpmath.hyperu(a + 1, 1, c)
            end = max(start + 1, mpmath.log(1 + 100 / c))
            exact = float(mpmath.quad(f, mpmath.linspace(start, end, 24)) / norm)
            given = (torch.tensor([x], dtype=torch.float64) for x in (z, a, c))
            assert float(cdf(*given)) == pytest.approx(exact, abs=2e-11)


def test_a_quantile_is_the_inverse_and_moves_as_differences_say():
    u = torch.linspace(0.002, 0.998, 25, dtype=torch.float64)
    for a, c in SETTINGS:
        a, c = torch.full_like(u, a + 0.01).requires_grad_(), torch.full_like(u, c).requires_grad_()
        z = quantile(u, a, c)
        slopes = torch.autograd.grad(z.sum(), (a, c))
        a, c, z, h = a.detach(), c.detach(), z.detach(), 1e-5
        torch.testing.assert_close(cdf(z, a, c), u, rtol=0, atol=1e-13)
        of_a = (quantile(u, a + h, c) - quantile(u, a - h, c)) / (2 * h)
        of_c = (quantile(u, a, c * (1 + h)) - quantile(u, a, c * (1 - h))) / (2 * h * c)
        torch.testing.assert_close(slopes, (of_a, of_c), rtol=2e-6, atol=1e-9)


@pytest.mark.parametrize("emission", [AcceptReject(), AcceptReject(left=0.7, right=2.5), Inverse()], ids=repr)
def test_drawn_z_follow_the_exact_density_at_twelve_settings(emission):
    """Kolmogorov-Smirnov against F; twelve p-values that are uniform themselves."""
    p = p_values(emission, 4000)
    print(f"\n{type(emission).__name__}: p {np.round(sorted(p), 3)}")
    assert min(p) > 1e-3 / len(p)
    assert stats.kstest(p, "uniform").pvalue > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("emission", [AcceptReject(), Inverse()], ids=lambda e: type(e).__name__)
def test_a_million_drawn_z_follow_the_exact_density(emission):
    p = p_values(emission, 80_000)
    print(f"\n{type(emission).__name__}: p {np.round(sorted(p), 3)}")
    assert min(p) > 1e-3 / len(p)
    assert stats.kstest(p, "uniform").pvalue > 1e-3


def test_both_ways_to_draw_agree():
    for i, (a, c) in enumerate(SETTINGS):
        given = condition(a, c, 2000)
        one, two = AcceptReject().sample(given, noise(2000, i)), Inverse().sample(given, noise(2000, 100 + i))
        assert stats.ks_2samp(one.numpy(), two.numpy()).pvalue > 1e-4


def test_extreme_settings_stay_inside():
    for a, c in [(0.0, 1e-4), (10.0, 1e-4), (0.0, 2e4), (10.0, 2e4)]:
        z = AcceptReject().sample(condition(a, c, 2000), noise(2000, 1))
        assert bool(((z > 0) & (z < 1)).all())


@dataclass(frozen=True)
class Spy(Emission):
    """The exact emission, which remembers what it was asked and what it said."""

    seen: list = field(default_factory=list)

    def sample(self, given, noise):
        z = AcceptReject().sample(given, noise)
        self.seen.append((given, z))
        return z

    def log_prob(self, z, given):
        return AcceptReject().log_prob(z, given)


@pytest.mark.parametrize(
    ("energy", "theta"), [(91.2, (0.68, 0.98, 0.335)), (20.0, (0.2, 0.6, 0.25)), (500.0, (1.5, 1.4, 0.5))]
)
def test_z_and_transverse_momenta_in_the_loop_follow_theirs(energy, theta):
    """z of all trials; of the first trial of each event k^2 = m_T^2 - m^2 too, exponential with mean sigma^2."""
    spy = Spy()
    string = String(energy=energy, flavours=Flavours.pions())
    events = generate(theta, 3000, seed=4, string=string, emission=spy)
    given, z = spy.seen[0]
    more = spy.seen[5]
    for g, drawn in ((given, z), more):
        assert stats.kstest(cdf(drawn, g.a, g.c).numpy(), "uniform").pvalue > 1e-4
    pion = torch.where(given.old == given.new, 0.13498, 0.13957)
    assert stats.kstest(((given.mt2 - pion**2) / theta[2] ** 2).numpy(), "expon").pvalue > 1e-4
    kick = events.history.kick
    angle = torch.atan2(kick[:, 1], kick[:, 0]) / (2 * torch.pi) + 0.5
    assert stats.kstest(angle.numpy(), "uniform").pvalue > 1e-4
