"""MALA: one gradient a draw, exact on a banana, and the acceptance that was asked for."""

import pytest
import torch

from emulate.samplers.hmc import HMC
from emulate.samplers.mala import MALA


def _normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def banana(x: torch.Tensor) -> torch.Tensor:
    """a ~ N(0, 1), b | a ~ N(a^2, 0.5^2): E[b] = 1, var b = 2.25."""
    return -0.5 * x[..., 0] ** 2 - 2 * (x[..., 1] - x[..., 0] ** 2) ** 2


def test_moments_of_a_banana():
    draws = MALA().draw(banana, _normal(64, 2), 600, seed=1)
    a, b = draws.x.unbind(-1)
    assert draws.rhat.max() < 1.01
    for values, truth in ((a, 0.0), (b, 1.0), (a**2, 1.0), ((b - 1) ** 2, 2.25)):
        each = values.mean(1)
        assert abs(float((each.mean() - truth) / each.std() * 8)) < 3


def test_one_gradient_makes_a_draw_and_the_acceptance_is_that_asked_for():
    draws = MALA(target_accept=0.7).draw(lambda x: -0.5 * (x**2).sum(-1), _normal(64, 10), 300, seed=1)
    assert draws.diagnostics["gradients"] == 300
    assert draws.diagnostics["acceptance"] == pytest.approx(0.75, abs=0.1)  # the pooled mean is a little lower


def test_trajectories_make_more_of_a_draw():
    langevin, hamilton = (s.draw(lambda x: -0.5 * (x**2).sum(-1), _normal(32, 5), 300, seed=1) for s in (MALA(), HMC()))
    assert 3 * langevin.ess.min() < hamilton.ess.min()
