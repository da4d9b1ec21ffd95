"""HMC against exact draws: a banana, an edge, rank statistics of closed-form posteriors, and what a draw costs."""

import math

import pytest
import torch
from scipy.stats import chisquare, kstest, norm
from torch.special import ndtr

from emulate.diagnostics import diagnose
from emulate.distributions import Exact
from emulate.likelihoods.gaussian import Gaussian
from emulate.posterior import Posterior
from emulate.samplers.hmc import HMC
from emulate.simulators.linear_gaussian import LinearGaussian


def _normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def banana(x: torch.Tensor) -> torch.Tensor:
    """a ~ N(0, 1), b | a ~ N(a^2, 0.5^2): E[b] = 1, P(|a| > 2) = 2 Phi(-2), P(|b - a^2| > 0.5) = 2 Phi(-1)."""
    return -0.5 * x[..., 0] ** 2 - 2 * (x[..., 1] - x[..., 0] ** 2) ** 2


def _banana_draws(n: int, seed: int) -> torch.Tensor:
    e = _normal(n, 2, seed=seed)
    return torch.stack([e[:, 0], e[:, 0] ** 2 + 0.5 * e[:, 1]], -1)


def _banana_truths(a: torch.Tensor, b: torch.Tensor) -> list[tuple[torch.Tensor, float]]:
    tail, wide = (a.abs() > 2).double(), ((b - a**2).abs() > 0.5).double()
    return [(a, 0.0), (b, 1.0), (a**2, 1.0), (tail, 2 * norm.sf(2)), (wide, 2 * norm.sf(1)), (a * wide, 0.0)]


def _z(values: torch.Tensor, truth: float) -> float:
    """By the scatter of the chains' means, which heavy tails do not flatter; values `[chains, draws]`."""
    each = values.mean(1) if len(values) > 1 else values.reshape(20, -1).mean(1)
    return float((each.mean() - truth) / each.std() * len(each) ** 0.5)


def test_moments_of_a_banana():
    draws = HMC().draw(banana, _normal(32, 2), 500, seed=1)
    a, b = draws.x.unbind(-1)
    assert draws.rhat.max() < 1.02
    for values, truth in _banana_truths(a, b):
        assert abs(_z(values, truth)) < 4


def test_exact_draws_stay_exact():
    """A thousand chains that start in equilibrium are in equilibrium after it (Geweke 2004's test of a kernel)."""
    draws = HMC(warmup=60).draw(banana, _banana_draws(1000, 3), 10, seed=1)
    a, b = draws.x[:, -1].unbind(-1)
    assert kstest(a, norm.cdf).pvalue > 1e-3
    assert kstest(2 * (b - a**2), norm.cdf).pvalue > 1e-3
    assert abs(float(torch.corrcoef(torch.stack([a, b - a**2]))[0, 1])) * math.sqrt(1000) < 4


def test_an_edge_of_a_flat_prior():
    """u uniform in (0, 1) with likelihood exp(5 u): F(u) = (e^(5 u) - 1) / (e^5 - 1); most of it leans on u = 1."""
    draws = HMC().draw(lambda x: (5 * ndtr(x) - 0.5 * x**2).sum(-1), _normal(32, 1), 400, seed=1)
    u = ndtr(draws.x[..., 0])
    share = torch.expm1(5 * u) / math.expm1(5)
    assert abs(_z(share, 1 / 2)) < 4
    assert abs(_z((share - 0.5) ** 2, 1 / 12)) < 4
    assert kstest(share[:, ::40].flatten(), "uniform").pvalue > 1e-3


def test_posteriors_of_two_hundred_data_sets_are_calibrated():
    """The rank of the truth among the draws is uniform (Talts et al. 2018); all data sets in one batch."""
    simulator, likelihood, sets, chains, n = LinearGaussian(), Gaussian(absolute_error=1.0), 200, 4, 120
    truth = _normal(sets, 2, seed=5)
    y = truth @ simulator.matrix.T
    data = torch.stack([likelihood.sample(v, seed=i) for i, v in enumerate(y)]).repeat_interleave(chains, 0)
    posterior = Posterior(simulator.space, lambda t: Exact(t @ simulator.matrix.T), likelihood, data)
    start = _normal(sets * chains, 2, seed=6)
    draws = HMC(warmup=150).grouped(sets).draw(posterior.log_density, start, n, seed=1)
    assert draws.rhat.max() < 1.1
    theta = posterior.theta(draws.x).reshape(sets, -1, 2)
    thin = theta[:, ::6]  # 80 nearly independent draws: ranks 0 to 80 in 9 bins of 9
    ranks = (thin < truth[:, None]).sum(1)
    for i in range(2):
        counts = torch.bincount(ranks[:, i] // 9, minlength=9)
        assert chisquare(counts.numpy()).pvalue > 1e-3
    precision = simulator.matrix.T @ simulator.matrix + torch.eye(2)  # Bishop 2006, eq. 3.50
    mean = data[::chains] @ simulator.matrix @ torch.linalg.inv(precision)
    z = (theta.mean(1) - mean) / torch.linalg.inv(precision).diagonal().sqrt() * math.sqrt(chains * n)
    assert 0.5 < float(z.square().mean()) < 2  # mean squared error of about independent draws


def _moments(x: torch.Tensor, mean: torch.Tensor, covariance: torch.Tensor) -> torch.Tensor:
    """z of all means and products of x `[chains, draws, d]`, white if the moments are right."""
    factor = torch.linalg.cholesky(covariance)
    white = torch.linalg.solve_triangular(factor, (x - mean).flatten(0, 1).T, upper=False).T.reshape(x.shape)
    i, j = torch.triu_indices(x.shape[-1], x.shape[-1])
    found = torch.cat([white, white[..., i] * white[..., j]], -1)
    _, ess = diagnose(found)
    expected = torch.cat([torch.zeros(x.shape[-1]), (i == j).double()])
    return (found.mean((0, 1)) - expected) / (found.std((0, 1)) / ess.sqrt())


def test_twenty_parameters_of_a_linear_model():
    """y = A theta + noise: the posterior is normal with precision A^T A / s^2 + 1 (Bishop 2006, eq. 3.50)."""
    matrix, d = _normal(30, 20, seed=3) * torch.logspace(-1, 1, 20, dtype=torch.float64), 20
    data = matrix @ _normal(d, seed=4) + 0.5 * _normal(30, seed=5)
    covariance = torch.linalg.inv(matrix.T @ matrix / 0.25 + torch.eye(d, dtype=torch.float64))
    target = lambda x: -2 * (data - x @ matrix.T).square().sum(-1) - 0.5 * x.square().sum(-1)  # noqa: E731
    draws = HMC().draw(target, _normal(64, d, seed=6), 400, seed=1)
    z = _moments(draws.x, covariance @ matrix.T @ data / 0.25, covariance)
    assert draws.rhat.max() < 1.01
    assert z[:d].abs().max() < 3
    assert z.abs().max() < 4  # of 230
    assert float(z.square().mean()) == pytest.approx(1, abs=0.4)


def test_a_twisted_normal_in_every_coordinate():
    """x_0 = 10 e_0, x_1 = e_1 + 0.03 (x_0^2 - 100): Haario, Saksman and Tamminen (1999) in five dimensions."""

    def straight(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x[..., 0] / 10, x[..., 1] - 0.03 * (x[..., 0] ** 2 - 100), *x[..., 2:].unbind(-1)], -1)

    draws = HMC().draw(lambda x: -0.5 * straight(x).square().sum(-1), _normal(64, 5), 400, seed=2)
    z = _moments(straight(draws.x), torch.zeros(5), torch.eye(5, dtype=torch.float64))
    assert draws.rhat.max() < 1.01
    assert z.abs().max() < 3  # of 20
    heavy = draws.x[..., 1]  # 0.03 * 100 (chi^2_1 - 1) + e: mean 0, variance 1 + 2 * 9
    assert abs(_z(heavy, 0.0)) < 3
    assert abs(_z(heavy**2, 19.0)) < 3
    assert draws.ess.min() > 0.5 * 64 * 400


def test_few_gradients_make_an_independent_draw():
    """One batched call advances every chain; on a correlated Gaussian about 2.5 of them make an independent draw."""
    d = 5
    covariance = 0.95 * torch.ones(d, d, dtype=torch.float64) + 0.05 * torch.eye(d, dtype=torch.float64)
    scale = torch.logspace(-2, 0, d, dtype=torch.float64)
    precision = torch.linalg.inv(covariance * scale * scale[:, None])
    target = lambda x: -0.5 * ((x @ precision) * x).sum(-1)  # noqa: E731
    draws = HMC().draw(target, _normal(32, d), 400, seed=1)
    _, second = diagnose(draws.x**2)
    gradients = 32 * draws.diagnostics["gradients"]
    assert draws.ess.min() / gradients > 0.25
    assert second.min() / gradients > 0.2
    diagonal = HMC(mass="diagonal").draw(target, _normal(32, d), 400, seed=1)
    assert diagonal.ess.min() / diagonal.diagnostics["gradients"] < draws.ess.min() / draws.diagnostics["gradients"]


def test_the_counted_gradients_are_the_calls_made():
    calls = []

    def counted(x: torch.Tensor) -> torch.Tensor:
        calls.append(len(x))
        return -0.5 * (x**2).sum(-1)

    draws = HMC(warmup=50).draw(counted, _normal(6, 2), 20, seed=1)
    assert set(calls) == {6}
    assert len(calls) == draws.diagnostics["warmup_gradients"] + draws.diagnostics["gradients"]


def test_chains_that_start_at_one_point_spread():
    draws = HMC().draw(lambda x: -0.5 * ((x / 0.01) ** 2).sum(-1), torch.zeros(16, 2, dtype=torch.float64), 300, seed=1)
    assert draws.rhat.max() < 1.02
    assert abs(_z((draws.x[..., 0] / 0.01) ** 2, 1.0)) < 4


def test_one_chain_alone_learns_from_its_past():
    draws = HMC(warmup=500).draw(lambda x: -0.5 * (x**2).sum(-1), torch.ones(1, 2, dtype=torch.float64), 2000, seed=1)
    assert draws.rhat.max() < 1.02
    assert abs(_z(draws.x[..., 1] ** 2, 1.0)) < 4


@pytest.mark.slow
def test_divergences_are_flagged_and_rejected():
    """Neal's funnel: the neck is narrower than any step that suits the mouth, and the sampler says so."""

    def funnel(x: torch.Tensor) -> torch.Tensor:
        return -(x[..., 0] ** 2) / 18 - 0.5 * (x[..., 1:] ** 2).sum(-1) * torch.exp(-x[..., 0]) - 2 * x[..., 0]

    draws = HMC(target_accept=0.5).draw(funnel, _normal(16, 5), 300, seed=1)
    assert draws.divergent.any()
    assert float(draws.divergent.sum()) == draws.diagnostics["divergences"]
    assert draws.x.isfinite().all()
    moved = (draws.x[:, 1:] != draws.x[:, :-1]).any(-1)
    assert not (moved & draws.divergent[:, 1:]).any()


@pytest.mark.slow
@pytest.mark.parametrize("mass", ["bent", "dense"])
def test_the_tails_of_a_banana_have_their_share(mass):
    draws = HMC(mass=mass).draw(banana, _normal(64, 2, seed=2), 3000, seed=2)
    a, b = draws.x.unbind(-1)
    for values, truth in _banana_truths(a, b):
        assert abs(_z(values, truth)) < 4
    assert float(a.square().mean()) == pytest.approx(1, rel=0.03)


def test_a_banana_is_rough_and_straightened_takes_longer_steps():
    smooth = HMC(mass="dense").draw(lambda x: -0.5 * (x**2).sum(-1), _normal(32, 2), 4, seed=1)
    rough, straight = (HMC(mass=mass).draw(banana, _normal(32, 2), 4, seed=2) for mass in ("dense", "bent"))
    assert [d.diagnostics["rough"] for d in (smooth, rough)] == [0.0, 1.0]
    assert [d.diagnostics["bent"] for d in (smooth, rough, straight)] == [0.0, 0.0, 1.0]
    assert straight.diagnostics["step_size"] > 3 * rough.diagnostics["step_size"]


def test_the_length_that_was_learnt_outlives_new_coordinates():
    """A banana that no matrix straightens asks for trajectories far longer than pi / 2, which the last 15 % of the warm-up
    could not learn from there."""
    draws = HMC(mass="dense").draw(banana, _normal(32, 2, seed=1), 4, seed=1)
    assert draws.diagnostics["trajectory"] > 4.5
