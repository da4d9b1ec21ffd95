"""The flow against closed forms and quadrature: its draws are exact, and its diagnostics say what the fit is worth."""

import math

import pytest
import torch

from emulate.samplers.variational import Variational

LN_2PI = math.log(2 * math.pi)


def _z(values: torch.Tensor, truth: float) -> float:
    """By the scatter of the chains' means; values `[chains, draws]`."""
    each = values.mean(1)
    return float((each.mean() - truth) / each.std() * len(each) ** 0.5)


def modes(x: torch.Tensor) -> torch.Tensor:
    """0.7 N(-1, 0.2^2) + 0.3 N(1, 0.2^2) in two dimensions."""
    each = torch.stack([-0.5 * ((x - m) / 0.2).square().sum(-1) for m in (-1.0, 1.0)], -1)
    return torch.logsumexp(each + torch.tensor([0.7, 0.3], dtype=torch.float64).log(), -1)


def bent(x: torch.Tensor) -> torch.Tensor:
    """The prior times exp(-(x_1 - 0.7 (x_0^2 - 1))^2 / (2 0.2^2))."""
    return -0.5 * x.square().sum(-1) - LN_2PI - 12.5 * (x[..., 1] - 0.7 * (x[..., 0] ** 2 - 1)) ** 2


def test_two_modes_are_both_there_and_a_gaussian_needs_no_step():
    start = torch.zeros(16, 2, dtype=torch.float64)
    draws = Variational(steps=50).draw(modes, start, 300, seed=1)
    told = draws.diagnostics
    assert draws.rhat.max() < 1.02
    assert abs(_z((draws.x[..., 0] > 0).double(), 0.3)) < 3
    assert abs(told["log_evidence"] - LN_2PI - 2 * math.log(0.2)) < 4 * told["log_evidence_error"]
    assert told["elbo"] < told["log_evidence"]
    exact = Variational().draw(lambda x: -0.5 * (x / 0.1).square().sum(-1), start, 300, seed=1).diagnostics
    assert exact["steps"] == 0
    assert exact["efficiency"] > 0.95
    assert exact["pareto_k"] < 0.5


@pytest.mark.slow
def test_a_banana_is_fitted_better_with_more_steps():
    grid = torch.linspace(-7, 7, 2801, dtype=torch.float64)
    x = torch.stack(torch.meshgrid(grid, grid, indexing="ij"), -1)
    p = bent(x).exp()
    start = torch.zeros(32, 2, dtype=torch.float64)
    few, many = (Variational(steps=steps).draw(bent, start, 400, seed=2) for steps in (0, 300))
    assert few.diagnostics["efficiency"] < many.diagnostics["efficiency"]
    assert many.diagnostics["efficiency"] > 0.8
    assert few.diagnostics["elbo"] < many.diagnostics["elbo"] < many.diagnostics["log_evidence"]
    for draws in (few, many):
        found = draws.diagnostics
        assert abs(found["log_evidence"] - math.log(float(p.sum()) * 0.005**2)) < 4 * found["log_evidence_error"]
        for values, f in ((draws.x[..., 1], x[..., 1]), (draws.x[..., 0].square(), x[..., 0].square())):
            assert abs(_z(values, float((p * f).sum() / p.sum()))) < 3.5
