"""Smoothing: exact where it can be, an error and a bias that are told where it cannot."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from emulate.errors import InputError
from emulate.gradients.smooth import Smooth
from emulate.noise import Noise
from tests.gradients.test_conditional import at, option
from tests.reference.gradients.jumps import DELTA, VEGA


def wave(theta: Tensor) -> Tensor:
    """Smoothed by s: sin(t) exp(-s^2 / 2), and cubes t^3 + 3 s^2 t."""
    return torch.cat([torch.sin(theta), theta**3])


def test_a_quadrature_gives_the_gradient_of_what_is_smoothed_in_closed_form():
    s, t = 0.2, at(0.7, -1.3)
    e = Smooth(width=s, scale=(1.0, 1.0)).estimate(wave, t, seed=0)
    torch.testing.assert_close(e.gradient[:2].diagonal(), torch.cos(t) * math.exp(-(s**2) / 2), rtol=1e-9, atol=0)
    torch.testing.assert_close(e.gradient[2:].diagonal(), 3 * t**2 + 3 * s**2, rtol=1e-12, atol=0)
    assert ((e.gradient[:2].diagonal() - torch.cos(t)).abs() < e.bias_bound[:2].diagonal()).all()
    assert ((e.gradient[2:].diagonal() - 3 * t**2).abs() < e.bias_bound[2:].diagonal()).all()
    assert e.standard_error.max() == 0
    assert e.calls == 2 + 2 * 36 + 16


def test_directions_have_the_same_mean():
    s, t = 0.2, at(0.7, -1.3)
    e = Smooth(width=s, scale=(1.0, 1.0), rule="directions").estimate(wave, t, seed=1, n=4000)
    truth = torch.zeros(4, 2, dtype=torch.float64)
    truth[[0, 1], [0, 1]], truth[[2, 3], [0, 1]] = torch.cos(t) * math.exp(-(s**2) / 2), 3 * t**2 + 3 * s**2
    z = (e.gradient - truth) / e.standard_error
    assert (z.abs() < 4).all()
    assert e.calls == 4000 + 4001 * 8


def test_units_do_not_matter():
    units = at(1e6, 1e-9)
    one = Smooth(rule="directions").estimate(wave, at(0.7, -1.3), seed=1, n=10)
    other = Smooth(rule="directions").estimate(lambda theta: wave(theta / units), at(0.7, -1.3) * units, seed=1, n=10)
    torch.testing.assert_close(other.gradient * units, one.gradient, rtol=1e-9, atol=1e-12)


def test_the_interval_with_its_bias_holds_the_digital_call():
    for width in (0.02, 0.05, 0.1):
        e = Smooth(width=width).estimate(option, at(100.0, 0.2), seed=1, n=40_000)
        low, high = e.interval(0.99)
        print(
            f"\nwidth {width}: delta {e.gradient[0, 0]:.5f} +- {e.standard_error[0, 0]:.5f}, bias {e.bias_bound[0, 0]:.5f}"
        )
        assert ((low <= at(DELTA, VEGA)) & (at(DELTA, VEGA) <= high)).all()


@pytest.mark.slow
def test_intervals_cover_at_least_as_often_as_they_say():
    """The bound of the bias is left off: the smoothed gradient itself is covered. E[above(theta + s e + Z)] has the slope of
    a normal density of variance 1 + s^2."""
    s, held = 0.3, []

    def hit(theta: Tensor, noise: Noise) -> Tensor:
        return noise.above("hit", theta[0] + noise.draw("z", Normal(0.0, 1.0)))

    truth = math.exp(-0.5 * 0.5**2 / (1 + s**2)) / math.sqrt(2 * math.pi * (1 + s**2))
    whole = 0
    for seed in range(1000):
        e = Smooth(width=s, scale=(1.0,)).estimate(hit, at(0.5), seed=seed, n=400)
        low, high = e.interval(0.95)
        held.append(bool((low + e.bias_bound <= truth) & (truth <= high - e.bias_bound)))
        whole += bool(
            (low <= math.exp(-0.125) / math.sqrt(2 * math.pi)) & (math.exp(-0.125) / math.sqrt(2 * math.pi) <= high)
        )
    print(
        f"\ncoverage of the smoothed slope {sum(held) / 1000}, to be in 0.92 to 0.98; of the slope with the bias {whole / 1000}"
    )
    assert 0.92 < sum(held) / 1000 < 0.98
    assert whole / 1000 > 0.92


def test_a_grid_over_many_parameters_is_refused():
    with pytest.raises(InputError, match=r"^quadrature must have at most 3 parameters\. Got 4; use rule directions\.$"):
        Smooth(rule="quadrature").estimate(lambda theta: theta.sum(), at(1, 1, 1, 1), seed=0)
    e = Smooth().estimate(lambda theta: (theta**2).sum(), at(1, 2, 3, 4), seed=0, n=2)
    assert e.diagnostics["rule"] == "directions"
