"""Delayed acceptance on posteriors known in closed form: moments by z-scores, and that a longer chain begins as a shorter."""

import math

import numpy as np
import pytest
import torch

from emulate.delayed import delayed_acceptance
from emulate.errors import InputError


def _known(shift: float, width: float, d: int, n: int, *, c: int = 32, seed: int = 0, asked: list | None = None):
    """The truth is N(0, 1)^d, the surrogate's N(shift, width^2)^d."""
    pool = shift + width * torch.as_tensor(np.random.default_rng(seed).standard_normal((5000, d)))

    def surrogate(x):
        return -0.5 * ((x - shift) / width).square().sum(-1)

    def told(x):
        return -0.5 * x.square().sum(-1) - surrogate(x)

    def weigh(x):
        if asked is not None:
            asked.extend(map(tuple, x.tolist()))
        return told(x)

    return delayed_acceptance(surrogate, weigh, (pool[:c], told(pool[:c])), pool, n, seed=seed)


@pytest.mark.parametrize(("shift", "width", "d"), [(0.3, 1.1, 2), (1.0, 1.0, 2), (0.5, 0.9, 3), (1.5, 1.2, 1)])
def test_moments_are_those_of_the_truth(shift, width, d):
    made = _known(shift, width, d, 1200)
    ess = made.ess
    assert (made.rhat < 1.02).all()
    x = made.x.flatten(0, 1)
    z = torch.cat([x.mean(0) * ess.sqrt(), (x.square().mean(0) - 1) * (ess / 2).sqrt()])
    assert z.abs().max() < 3.5
    q = (x < -1).double().mean(0)
    assert ((q - 0.158655).abs() * (ess / (0.158655 * 0.841345)).sqrt()).max() < 3.5


def test_an_exact_surrogate_is_always_accepted_and_steep_weights_are_met_by_short_steps():
    exact = _known(0.0, 1.0, 2, 40)
    assert exact.diagnostics["accepted_far"] == exact.diagnostics["accepted_near"] == 1
    wrong = _known(2.0, 1.0, 1, 400).diagnostics
    assert wrong["accepted_near"] > 1.5 * wrong["accepted_far"] > 0
    assert wrong["accepted_far"] == pytest.approx(math.erfc(1), abs=0.06)  # P(w'/w) of two normals that are 2 apart


def test_places_without_posterior_are_left_and_never_entered():
    """The truth is the surrogate's normal cut off below 0: a half normal, mean (2 / pi)^1/2."""
    pool = torch.as_tensor(np.random.default_rng(0).standard_normal((5000, 1)))

    def weigh(x):
        return torch.where(x[:, 0] > 0, 0.0, -torch.inf).double()

    start = pool[:32], weigh(pool[:32])
    made = delayed_acceptance(lambda x: -0.5 * x.square().sum(-1), weigh, start, pool, 800, seed=1)
    assert (made.x > 0).all()
    sd = math.sqrt(1 - 2 / math.pi)
    assert abs(float(made.x.mean()) - math.sqrt(2 / math.pi)) < 3.5 * sd / float(made.ess) ** 0.5


def test_a_longer_chain_asks_first_for_the_runs_of_a_shorter():
    short, long = [], []
    _known(0.5, 1.1, 2, 8, c=4, asked=short)
    _known(0.5, 1.1, 2, 16, c=4, asked=long)
    assert len(short) == 4 * 8
    assert long[: len(short)] == short


def test_too_few_steps_are_refused():
    with pytest.raises(
        InputError, match=r"^n must be at least 4 draws for each chain\. Got 3; R-hat compares halves\.$"
    ):
        _known(0.5, 1.1, 2, 4, c=4)
