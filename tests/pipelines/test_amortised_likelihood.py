"""The likelihood of a flow that has learnt noisy data: noise is counted once, wherever it is asked."""

import torch
from torch.distributions import Independent, Normal

from emulate.distributions import Exact
from emulate.likelihoods.gaussian import Gaussian
from emulate.posterior import Posterior
from emulate.space import Parameter, Space, Uniform
from pipelines.amortised_likelihood import Learnt

D = torch.float64
SIGMA = 0.6
LIKELIHOOD = Learnt(inner=Gaussian(absolute_error=SIGMA))


class _Noisy(Independent):
    """What a flow of y + noise predicts where y = theta in every output."""

    def __init__(self, theta):
        super().__init__(Normal(theta.expand(*theta.shape[:-1], 3), SIGMA, validate_args=False), 1)

    def sample(self, shape=(), generator=None):
        return self.mean + SIGMA * torch.randn((*shape, *self.mean.shape), generator=generator, dtype=D)

    def gaussian(self):
        return self.mean, torch.diag_embed(self.variance)


def test_a_prediction_has_its_noise_and_a_true_run_gets_the_studys():
    data, at = torch.tensor([0.3, 0.1, -0.2], dtype=D), torch.tensor([[0.2]], dtype=D)
    by_flow = LIKELIHOOD.log_prob(_Noisy(at), data)
    by_run = LIKELIHOOD.log_prob(Exact(at.expand(1, 3)), data)
    torch.testing.assert_close(by_flow, by_run)
    torch.testing.assert_close(by_run, Normal(at.expand(1, 3), SIGMA).log_prob(data).sum(-1))
    noise = SIGMA**2 * torch.eye(3, dtype=D)
    torch.testing.assert_close(LIKELIHOOD.covariance(data), noise)
    torch.testing.assert_close(LIKELIHOOD.covariance(data, _Noisy(at[0])), noise)
    truth = torch.zeros(3, dtype=D)
    assert torch.equal(LIKELIHOOD.sample(truth, seed=4), Gaussian(absolute_error=SIGMA).sample(truth, seed=4))
    assert LIKELIHOOD.adds_noise


def test_data_made_again_have_the_noise_once():
    space = Space((Parameter("a", Uniform(0.0, 1.0)),))
    posterior = Posterior(space, _Noisy, LIKELIHOOD, torch.zeros(3, dtype=D))
    theta = torch.full((4000, 1), 0.5, dtype=D)
    y = posterior.predictive(theta, seed=1)
    z = (y.var() / SIGMA**2 - 1) / (2 / y.numel()) ** 0.5
    assert abs(float(z)) < 4.5
    assert torch.equal(posterior.predictive(theta, seed=1, noise=False), torch.full((4000, 3), 0.5, dtype=D))
