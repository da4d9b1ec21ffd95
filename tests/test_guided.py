"""Draws led from climbs and the prior against closed forms, needles among them that a population of the prior alone loses."""

import math

import pytest
import torch

from emulate.distributions import Exact
from emulate.errors import InputError
from emulate.guided import draws
from emulate.likelihoods.gaussian import Gaussian
from emulate.posterior import Posterior
from emulate.space import Normal, Parameter, Space, Uniform


class Given:
    """A likelihood that is a function of x, which is theta: the prior is standard normal."""

    def __init__(self, log_likelihood, d):
        self.space = Space(tuple(Parameter(f"p{i}", Normal(0.0, 1.0)) for i in range(d)))
        made = Posterior(self.space, Exact, Gaussian(absolute_error=1.0), torch.zeros(d).double())
        object.__setattr__(made, "log_likelihood", log_likelihood)
        self.posterior = made


def test_a_narrow_gaussian_in_four_dimensions():
    """Prior N(0, 1), likelihood N(x; c, s^2): mean c / (1 + s^2), variance s^2 / (1 + s^2); z-scores over 8 seeds."""
    c, s = torch.tensor([1.5, -1.0, 0.0, 2.0], dtype=torch.float64), 0.02
    given = Given(lambda x: -0.5 * ((x - c) / s).square().sum(-1), 4)
    found = torch.stack([draws(given.posterior, 500, seed=i) for i in range(8)])
    mean, sd = found.mean(1), found.std(1)
    known = s / math.sqrt(1 + s**2)
    error = mean.std(0) / math.sqrt(8)
    assert ((mean.mean(0) - c / (1 + s**2)).abs() < 5 * error).all()
    assert (error < 0.1 * known).all()
    assert ((sd / known).mean() - 1).abs() < 0.05


def test_a_needle_beside_a_wide_hill_that_weighs_less():
    """A hill as wide as the prior at e^-40, and a needle of 0.005 in four dimensions, which weighs e^20 times as much: from
    the prior alone the population stays on the hill. A point within ten widths of the needle is enough."""
    c = torch.tensor([0.7, -1.2, 0.4, 1.0], dtype=torch.float64)

    def log_likelihood(x):
        needle = -0.5 * ((x - c) / 0.005).square().sum(-1)
        return torch.logaddexp(needle, torch.full_like(needle, -40.0))

    x = draws(Given(log_likelihood, 4).posterior, 512, seed=1, near=torch.stack([c + 0.02, 0 * c]))
    assert ((x - c).abs() < 0.05).all()
    assert x.std(0).tolist() == pytest.approx([0.005] * 4, rel=0.15)


def test_modes_have_the_shares_of_their_weights_and_not_of_their_heights():
    """A quarter in a peak four times as high: 0.02 against 0.16 wide, in two dimensions."""

    def log_likelihood(x):
        peaks = [math.log(w) - 2 * math.log(s) - 0.5 * ((x - m) / s).square().sum(-1)
                 for w, m, s in ((0.25, 1.0, 0.02), (0.75, -1.0, 0.16))]  # fmt: skip
        return torch.logsumexp(torch.stack(peaks), 0)

    known = 0.25 / (
        0.25 + 0.75 * math.exp(0.16**2) / (1 + 0.16**2)
    )  # the prior's weight over the wide one, to a per cent
    shares = torch.tensor(
        [(draws(Given(log_likelihood, 2).posterior, 400, seed=s) > 0).all(1).double().mean() for s in range(10)]
    )
    assert abs(float(shares.mean()) - known) < 0.05


def test_a_shape_that_is_no_gaussian():
    """A banana: E[x_0] and sd of x_1 by quadrature; the climbs' Laplace approximations are wrong by a factor."""

    def log_likelihood(x):
        return -0.5 * ((x[..., 1] - x[..., 0].square()) / 0.05).square()

    axis = torch.linspace(-5, 5, 2001).double()
    grid = torch.cartesian_prod(axis, torch.linspace(-2, 8, 2001).double())
    weight = (log_likelihood(grid) - 0.5 * grid.square().sum(-1)).softmax(0)
    mean = weight @ grid
    sd = (weight @ (grid - mean).square()).sqrt()
    x = torch.cat([draws(Given(log_likelihood, 2).posterior, 600, seed=s) for s in range(4)])
    assert ((x.mean(0) - mean) / sd).abs().max() < 0.1
    assert (x.std(0) / sd).tolist() == pytest.approx([1, 1], abs=0.1)


def test_without_a_gradient_the_prior_leads():
    c, s = torch.tensor([1.5, -1.0], dtype=torch.float64), 0.1
    given = Given(lambda x: -0.5 * ((x.detach() - c) / s).square().sum(-1), 2)
    x = draws(given.posterior, 500, seed=1)
    assert x.mean(0).tolist() == pytest.approx((c / (1 + s**2)).tolist(), abs=0.03)
    assert x.std(0).tolist() == pytest.approx([s, s], rel=0.15)


def test_same_seed_same_bits_and_a_likelihood_that_excludes_half():
    given = Given(lambda x: torch.where(x[..., 0] > 0, -5 * x[..., 0], -torch.inf), 2)
    x = draws(given.posterior, 400, seed=3)
    assert torch.equal(x, draws(given.posterior, 400, seed=3))
    assert not torch.equal(x, draws(given.posterior, 400, seed=4))
    assert (x[:, 0] > 0).all()
    assert abs(float(x[:, 0].mean()) - 0.1866) < 0.03  # E[x] of exp(-5 x - x^2 / 2) on x > 0, by quadrature


def test_a_likelihood_of_zero_everywhere_is_said():
    given = Given(lambda x: torch.full_like(x[..., 0], -torch.inf), 2)
    with pytest.raises(InputError, match=r"^the likelihood must be above 0 somewhere in the prior\. Got 0 at every one of 512 "
                       r"points; look at the observation, its errors and the prior\.$"):  # fmt: skip
        draws(given.posterior, 50, seed=0)


def test_the_best_fit_is_found_from_runs_beside_it():
    """A needle that no draw of the prior meets, and one outside of the prior that is left out."""
    c = torch.tensor([0.7, -1.2, 0.4, 1.0], dtype=torch.float64)

    def log_likelihood(x):
        needle = -0.5 * ((x - c) / 0.005).square().sum(-1)
        return torch.logaddexp(needle, -40 - 0.5 * x.square().sum(-1))

    posterior = Given(log_likelihood, 4).posterior
    near = torch.stack([c + 0.01, 0 * c, 2 * c])
    assert torch.allclose(posterior.find_map(seed=1, near=near).theta, c, atol=1e-3)
    assert not torch.allclose(posterior.find_map(seed=1).theta, c, atol=0.1)
    box = Posterior(
        Space((Parameter("a", Uniform(0.0, 1.0)),)), Exact, Gaussian(absolute_error=0.01), torch.tensor([0.3]).double()
    )
    assert float(box.find_map(seed=1, near=torch.tensor([[0.31], [7.0]]).double()).theta) == pytest.approx(
        0.3, abs=1e-3
    )
    assert len(box.inside(torch.tensor([[7.0]]).double())) == 0
