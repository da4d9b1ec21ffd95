"""Pile-up at edges of a prior against closed forms of posteriors that are cut off."""

import math

import pytest
import torch
from scipy.stats import norm

from emulate.checks.edge import Edge
from emulate.contracts import Evidence, Weighted
from emulate.space import LogUniform, Normal, Parameter, Space, TruncatedNormal, Uniform

N = 40_000


class Known:
    def __init__(self, *parameters: Parameter):
        self.space = Space(parameters)


def _find(emulator: Known, draws: torch.Tensor, **settings):
    (found,) = Edge(**settings).find(Evidence(emulator, weighted=Weighted(draws[:0], draws[:0, 0], draws)))
    return found


def _even(n: int = N) -> torch.Tensor:
    return (torch.arange(n, dtype=torch.float64) + 0.5) / n


def test_a_posterior_like_its_prior_has_the_ratio_one():
    for prior in (Uniform(2.0, 5.0), LogUniform(1e-3, 1.0), TruncatedNormal(0.0, 1.0, 0.0, 4.0)):
        found = _find(Known(Parameter("a", prior)), prior.from_unit(_even())[:, None])
        assert found.value == pytest.approx(1, abs=0.01)
        assert found.passed


@pytest.mark.parametrize("sd", [0.05, 0.2, 0.6])
def test_a_posterior_cut_off_at_its_peak_has_the_ratio_of_the_closed_form(sd):
    """Half a normal of that width in u: P(x < 0.02) / 0.02, about 0.8 / sd."""
    mass = lambda x: norm.cdf(x / sd) - 0.5  # noqa: E731
    x = torch.as_tensor(norm.ppf(0.5 + _even().numpy() * mass(1.0))) * sd
    for draws, end, at in ((x, "lower", 60), (1 - x, "upper", 80)):
        found = _find(Known(Parameter("h", Uniform(60.0, 80.0), "km/s/Mpc")), (60 + 20 * draws)[:, None])
        assert found.value == pytest.approx(mass(0.02) / mass(1.0) / 0.02, abs=0.01)
        assert found.passed == (sd == 0.6)
        assert f"next to the {end} edge of h, at {at} km/s/Mpc, hold" in found.sentence
        assert not found.blocking


def test_a_posterior_well_inside_does_not_touch_it():
    draws = 0.5 + 0.05 * torch.as_tensor(norm.ppf(_even().numpy()))
    assert _find(Known(Parameter("a", Uniform(0.0, 1.0))), draws[:, None]).value == 0


def test_a_prior_without_an_edge_is_not_judged():
    found = _find(Known(Parameter("a", Normal(0.0, 1.0))), torch.full((100, 1), 9.0, dtype=torch.float64))
    assert found.sentence == "No prior has an edge."
    assert found.passed


def test_the_worst_parameter_is_named_with_advice():
    u = torch.stack([_even(), _even().flip(0) ** 3, 0.5 + 0 * _even()], 1)
    found = _find(Known(*(Parameter(n, Uniform(0.0, 1.0)) for n in "abc")), u)
    assert found.value == pytest.approx(0.02 ** (1 / 3) / 0.02, rel=0.01)
    assert "lower edge of b" in found.sentence
    assert found.sentence.endswith(
        "widen it, run the simulator in what is added, and infer again, unless b cannot lie beyond."
    )


def test_it_blocks_where_it_is_asked_to():
    draws = _even()[:, None] * 0.01
    assert _find(Known(Parameter("a", Uniform(0.0, 1.0))), draws, blocks=True).blocking
    assert math.isnan(_find(Known(Parameter("a", Uniform(0.0, 1.0))), draws * math.nan).value)
