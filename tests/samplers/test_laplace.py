"""Laplace: exact for a Gaussian, and honest about what it misses elsewhere."""

import math

import pytest
import torch

from emulate.samplers.laplace import Laplace


def test_the_efficiency_of_a_wider_density_is_that_of_its_weights():
    """For p = sech^2(x) / 2 the weights against N(0, 1/2) grow without bound, so they keep only part of the draws."""
    wide = Laplace().draw(lambda x: -2 * torch.log(torch.cosh(x)).sum(-1), torch.ones(4, 1).double(), 2000, seed=1)
    assert wide.diagnostics["efficiency"] < 0.9
    assert float(wide.x.var()) == pytest.approx(0.5, abs=4 * 0.5 * math.sqrt(2 / 8000))


def test_two_modes_show_as_a_large_rhat():
    """An equal mixture of N(-5, 1) and N(5, 1): half of the chains climb to each."""

    def mixture(x: torch.Tensor) -> torch.Tensor:
        return torch.logaddexp(-0.5 * (x - 5) ** 2, -0.5 * (x + 5) ** 2).sum(-1)

    draws = Laplace().draw(mixture, torch.tensor([[-4.0], [4.0], [-6.0], [6.0]], dtype=torch.float64), 100, seed=1)
    assert draws.rhat.min() > 1.5
    torch.testing.assert_close(draws.x.mean((1, 2)).sign(), torch.tensor([-1.0, 1.0, -1.0, 1.0]).double())


def test_a_density_without_a_mode_is_flagged():
    draws = Laplace().draw(lambda x: x.sum(-1), torch.zeros(2, 1, dtype=torch.float64), 10, seed=1)
    assert draws.divergent.all()
    assert draws.x.isfinite().all()
