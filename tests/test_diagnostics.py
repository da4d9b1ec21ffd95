"""R-hat and effective sample size on chains whose answer is known."""

import re

import numpy as np
import pytest
import torch

from emulate.diagnostics import diagnose, running
from emulate.errors import InputError


def _normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_independent_draws_are_worth_themselves():
    rhat, ess = diagnose(_normal(8, 1000, 3))
    assert (rhat - 1).abs().max() < 0.005
    assert ((ess / 8000 - 1).abs() < 0.15).all()


@pytest.mark.parametrize("rho", [0.5, 0.9])
def test_an_autoregressive_chain_is_worth_one_minus_rho_over_one_plus_rho(rho):
    e, x = _normal(8, 4000, 1), torch.empty(8, 4000, 1, dtype=torch.float64)
    x[:, 0] = e[:, 0]
    for i in range(1, 4000):
        x[:, i] = rho * x[:, i - 1] + (1 - rho**2) ** 0.5 * e[:, i]
    _, ess = diagnose(x)
    assert float(ess) == pytest.approx(32_000 * (1 - rho) / (1 + rho), rel=0.2)


def test_a_chain_elsewhere_shows():
    x = _normal(4, 500, 2)
    x[0, :, 1] += 3
    rhat, ess = diagnose(x)
    assert rhat[0] < 1.01
    assert rhat[1] > 1.1
    assert ess[1] < 100


def test_a_drift_of_a_single_chain_shows():
    x = _normal(1, 1000, 2)
    x[..., 1] += torch.linspace(0, 3, 1000)
    rhat, _ = diagnose(x)
    assert rhat[0] < 1.01
    assert rhat[1] > 1.1


def test_a_parameter_that_never_moved_is_worth_nothing():
    x = _normal(4, 100, 2)
    x[..., 1] = 3.0
    rhat, ess = diagnose(x)
    assert rhat[1] == torch.inf
    assert ess[1] == 0


def test_groups_give_the_worst_group():
    x = _normal(12, 500, 2)
    x[4:8, :, 0] += torch.tensor([0.0, 1.0, 2.0, 3.0])[:, None]
    x[8:] += 1000.0
    rhat, ess = diagnose(x, 3)
    each = [diagnose(x[i : i + 4]) for i in (0, 4, 8)]
    assert torch.equal(rhat, torch.stack([r for r, _ in each]).amax(0))
    assert torch.equal(ess, torch.stack([e for _, e in each]).amin(0))
    assert rhat[0] > 1.5
    assert rhat[1] < 1.02


@pytest.mark.parametrize("shape", [(4, 3, 1), (4, 100), (1, 7, 1)])
def test_too_few_draws_are_refused(shape):
    said = f"x must have shape [chains, draws, d] with at least 4 draws, 8 of a single chain. Got {shape}; draw more."
    with pytest.raises(InputError, match=f"^{re.escape(said)}$"):
        diagnose(torch.zeros(shape))


def test_the_running_rhat_is_near_the_ranked_one():
    x = torch.randn(8, 200, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x[:4, :, 1] += 0.4
    x[:, :100, 2] += 0.4
    told = running(x.transpose(0, 1)[:, None].numpy())
    assert told == pytest.approx(float(diagnose(x)[0].max()), abs=0.005)
    assert told > 1.02
    assert running(np.zeros((10, 2, 3, 1))) == np.inf
