"""Sequential Monte Carlo against posteriors that are known in closed form."""

import math

import pytest
import torch

from emulate.errors import InputError
from emulate.tempering import tempered


def test_a_narrow_gaussian_in_four_dimensions():
    """Prior N(0, 1), likelihood N(x; c, s^2): mean c / (1 + s^2), variance s^2 / (1 + s^2); z-scores over 8 seeds."""
    c, s = torch.tensor([1.5, -1.0, 0.0, 2.0], dtype=torch.float64), 0.02
    draws = torch.stack([tempered(lambda x: -0.5 * ((x - c) / s).square().sum(-1), 500, 4, seed=i) for i in range(8)])
    mean, sd = draws.mean(1), draws.std(1)
    known = s / math.sqrt(1 + s**2)
    error = mean.std(0) / math.sqrt(8)
    assert ((mean.mean(0) - c / (1 + s**2)).abs() < 5 * error).all()
    assert (error < 0.1 * known).all()
    assert ((sd / known).mean() - 1).abs() < 0.1


def test_both_modes_are_kept_in_their_shares():
    def log_likelihood(x):
        modes = torch.stack([-0.5 * ((x - m) / 0.05).square().sum(-1) for m in (-1.0, 1.0)])
        return torch.logsumexp(modes + torch.tensor([math.log(0.75), math.log(0.25)])[:, None], 0)

    shares = [float((tempered(log_likelihood, 400, 2, seed=s) < 0).all(1).double().mean()) for s in range(6)]
    assert abs(sum(shares) / 6 - 0.75) < 0.15
    assert all(0.3 < s < 0.97 for s in shares)


def test_same_seed_same_bits_and_a_likelihood_that_excludes_half():
    def log_likelihood(x):
        return torch.where(x[:, 0] > 0, -5 * x[:, 0], -torch.inf)

    x = tempered(log_likelihood, 300, 2, seed=3)
    assert torch.equal(x, tempered(log_likelihood, 300, 2, seed=3))
    assert not torch.equal(x, tempered(log_likelihood, 300, 2, seed=4))
    assert (x[:, 0] > 0).all()
    assert abs(float(x[:, 0].mean()) - 0.1866) < 0.04  # E[x] of exp(-5 x - x^2 / 2) on x > 0, by quadrature


def test_a_likelihood_of_zero_everywhere_is_said():
    with pytest.raises(
        InputError, match=r"the likelihood must be above 0 somewhere in the prior\. Got 0 at every one of 50"
    ):
        tempered(lambda x: torch.full((len(x),), -torch.inf), 50, 2, seed=0)
