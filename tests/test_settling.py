"""Steps between posteriors against closed forms, and the surprise of honest and boastful emulators."""

import math

import numpy as np
import pytest
import torch

from emulate.distributions import Exact
from emulate.emulator import fit
from emulate.emulators.gp import GP
from emulate.likelihoods.gaussian import Gaussian
from emulate.posterior import Posterior
from emulate.runs import Field, Outputs, Runs
from emulate.settling import missed, step
from emulate.space import Normal, Parameter, Space, Uniform

SPACE = Space((Parameter("a", Normal(0.0, 100.0)), Parameter("b", Normal(0.0, 100.0))))
NOISE = Gaussian(absolute_error=1.0)


def posterior(shift, scale=1.0, restriction=None):
    """N(data - shift, 1) in theta, where scale is 1: the prior is a hundred times as wide."""
    return Posterior(SPACE, lambda t: Exact(scale * (t + shift)), NOISE, torch.zeros(2).double(), restriction)


def draws(shift, n=4000, width=1.0):
    noise = torch.randn((n, 2), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return -shift + width * noise


@pytest.mark.parametrize("shift", [0.003, 0.3, 1.0])
def test_a_small_step_is_told_far_below_the_noise_of_the_draws(shift):
    """4000 draws know a mean to 0.016; on the same draws with their weights a step of 0.003 is told to a tenth."""
    by = torch.tensor([shift, 0.0]).double()
    found = step(posterior(0 * by), draws(0 * by), posterior(by), draws(by))
    assert found.pareto_k < 0.7
    assert found.shift[0] == pytest.approx(shift, rel=0.1)
    assert abs(found.shift[1]) < 0.1 * shift
    assert found.width.tolist() == pytest.approx([1, 1], abs=0.1 * shift)


def test_a_width_is_that_of_the_one_before_over_that_of_the_next():
    by = torch.zeros(2).double()
    found = step(posterior(by), draws(by), posterior(by, scale=1.25), draws(by, width=0.8))
    assert found.width.tolist() == pytest.approx([1.25, 1.25], rel=0.03)
    assert found.pareto_k < 0.5


def test_posteriors_with_little_in_common_are_compared_by_the_draws_of_each():
    by = torch.tensor([8.0, 0.0]).double()
    found = step(posterior(0 * by), draws(0 * by), posterior(by), draws(by))
    assert not found.pareto_k < 0.7
    assert found.shift.tolist() == pytest.approx([8.0, 0.0], abs=0.3)
    assert found.width.tolist() == pytest.approx([1, 1], abs=0.05)
    nowhere = Posterior(SPACE, lambda t: Exact(t * torch.nan), NOISE, torch.zeros(2).double())
    assert step(posterior(0 * by), draws(0 * by), nowhere, draws(by)).pareto_k == math.inf


def test_a_posterior_that_shrinks_by_far_is_compared_by_the_draws_of_each():
    """Few of the draws lie where the next one is: their weights fall off fast and say nothing."""
    by = torch.zeros(2).double()
    for n in (500, 1000, 2000):
        found = step(posterior(by), draws(by, n), posterior(by, scale=40.0), draws(by, n, width=1 / 40))
        assert found.width.tolist() == pytest.approx([40, 40], rel=0.1)
        assert found.shift.abs().max() < 4 * 40 / n**0.5, (
            "the noise of the wide draws, in standard deviations of the narrow"
        )


def test_a_restriction_of_the_prior_counts():
    """N(0, 1) times N(1, 1) is N(1/2, 1/2), and the way back is from that."""
    by, pull = torch.zeros(2).double(), lambda t: -0.5 * (t[..., 0] - 1).square()
    narrow = draws(by) * torch.tensor([0.5**0.5, 1.0]).double() + torch.tensor([0.5, 0.0]).double()
    found = step(posterior(by), draws(by), posterior(by, restriction=pull), narrow)
    assert found.shift.tolist() == pytest.approx([-(0.5**0.5), 0.0], abs=0.05)
    assert found.width[0] == pytest.approx(2**0.5, rel=0.05)
    back = step(posterior(by, restriction=pull), narrow, posterior(by), draws(by))
    assert back.shift.tolist() == pytest.approx([0.5, 0.0], abs=0.05)


def test_honest_emulators_are_missed_by_one_and_boastful_ones_by_more():
    space = Space((Parameter("x", Uniform(0.0, 1.0)),))
    outputs, rng = Outputs((Field("y"), Field("z", positive=True))), np.random.default_rng(1)

    def runs(n):
        x = rng.uniform(size=(n, 1))
        f = np.concatenate([np.sin(6 * x), np.cos(5 * x)], 1) + 0.1 * rng.standard_normal((n, 2))
        return Runs.of(space, outputs, x, np.stack([f[:, 0], np.exp(f[:, 1])], 1), stochastic=True)

    emulator, new = fit(GP(kernel="rbf"), runs(60), seed=1), runs(300)
    assert missed(emulator, new) == pytest.approx(1, abs=0.15)
    emulator.core.variance /= 9
    assert missed(emulator, new) == pytest.approx(3, abs=0.45)
