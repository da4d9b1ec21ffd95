"""Best fits without a gradient, against those that are known in closed form or climbed to with one."""

import pytest
import torch

from emulate.distributions import Exact
from emulate.errors import InputError
from emulate.likelihoods.gaussian import Gaussian
from emulate.posterior import Posterior
from emulate.space import Normal, Parameter, Space, Uniform
from emulate.summits import differentiable, summit

SPACE = Space((Parameter("a", Normal(0.0, 1.0)), Parameter("b", Uniform(-2.0, 2.0))))


def curved(theta: torch.Tensor) -> torch.Tensor:
    a, b = theta.unbind(-1)
    return torch.stack([a + 0.2 * b**2, b - 0.3 * a, a * b], -1)


def _normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def test_many_observations_find_the_modes_that_gradients_find():
    data = curved(torch.tensor([[0.5, 1.0], [-1.0, -0.5], [0.1, 0.2]], dtype=torch.float64))
    seen, blind = (
        Posterior(SPACE, predict, Gaussian(absolute_error=0.05), data)
        for predict in (lambda t: Exact(curved(t)), lambda t: Exact(curved(t.detach())))
    )
    known, found = seen.find_map(seed=1), blind.find_map(seed=1)
    sd = known.covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    assert known.particles is None
    assert found.particles.shape == (170, 3, 2)
    assert found.converged
    assert "without a gradient, 170 particles and a search; 3 of 3 searches converged" in found.sentence
    assert ((found.theta - known.theta) / sd).abs().max() < 0.03
    ratio = found.covariance.diagonal(dim1=-2, dim2=-1).sqrt() / sd
    assert ratio.log().abs().max() < 0.3  # by 170 particles
    starts = found.starts(8, seed=2)
    assert starts.shape == (8, 3, 2)
    assert torch.isfinite(blind.log_density(starts)).all()


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (curved, True),
        (lambda t: curved(t.detach()), False),
        (lambda t: curved((20 * t).round() / 20), False),
        (lambda t: torch.nn.functional.relu(curved(t)), True),
        (lambda t: 1e-9 * curved(t.detach()), True),
    ],
    ids=["smooth", "without a graph", "in steps", "with kinks", "that says nothing"],
)
def test_a_gradient_is_believed_where_it_adds_up(answer, told):
    data = curved(torch.tensor([0.5, 1.0], dtype=torch.float64))
    posterior = Posterior(SPACE, lambda t: Exact(answer(t)), Gaussian(absolute_error=0.05), data)
    assert differentiable(posterior.log_density, _normal(8, 2)) is told


def test_a_density_whose_gradient_raises_and_one_that_is_no_tensor_of_autograd():
    class Raises(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return -0.5 * (x - 1).square().sum(-1)

        @staticmethod
        def backward(ctx, grad):
            raise RuntimeError("no")

    assert not differentiable(Raises.apply, _normal(8, 2))
    assert not differentiable(lambda x: -(x.detach() ** 2).sum(-1), _normal(8, 2))
    assert summit(Raises.apply, (), 2, seed=1).x.sub(1).abs().max() < 0.01


def test_fisher_says_what_it_needs():
    data = torch.ones(3, dtype=torch.float64)
    blind = Posterior(SPACE, lambda t: Exact(curved(t.detach())), Gaussian(absolute_error=0.05), data)
    with pytest.raises(
        InputError, match=r"^fisher must have a prediction with a gradient\. Got one whose mean carries no"
    ):
        blind.fisher(torch.tensor([0.5, 1.0]))
