"""Weights of true runs against posteriors known in closed form: errors by z-scores and coverage, Pareto shape by scipy."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import genpareto

from emulate.contracts import Weighted
from emulate.importance import pareto_k, reweigh
from emulate.space import Normal, Parameter, Space, Uniform


def _space(d: int) -> Space:
    return Space(tuple(Parameter(f"p{i}", Normal(0, 10)) for i in range(d)))


def _normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.as_tensor(np.random.default_rng(seed).standard_normal(shape))


def _gaussian(
    seed: int, d: int, shift: float, width: float, *, s: int = 128, t: int = 3000, rough: float = 0.0
) -> Weighted:
    """The true posterior is N(0, 1)^d, the surrogate's N(shift, width^2) x N(0, width^2)^(d - 1); ln w with noise of its own."""
    x = width * _normal(seed, t, d)
    x[:, 0] += shift
    first = shift * torch.eye(d, dtype=torch.float64)[0]
    log_weight = (
        -0.5 * x.square().sum(1) + 0.5 * ((x - first) / width).square().sum(1) + rough * _normal(10**6 + seed, t)
    )
    return Weighted(x[:s], log_weight[:s], x)


def _banana(seed: int, off: tuple[float, float], *, s: int = 128, t: int = 8000) -> Weighted:
    """y = (x_0, x_1 + x_0^2 / 2) observed as 0 with errors 1 and 1/2, by an emulator that is off by so many of them."""
    z = _normal(seed, t, 2)
    x0 = z[:, 0] - off[0]
    x = torch.stack([x0, 0.5 * (z[:, 1] - off[1]) - 0.5 * x0**2], 1)
    log_weight = -0.5 * x0**2 - 2 * (x[:, 1] + 0.5 * x0**2) ** 2 + 0.5 * z.square().sum(1)
    return Weighted(x[:s], log_weight[:s], x)


CASES = [(3, 0.1, 1.1, 60, 0.2), *(pytest.param(*c, marks=pytest.mark.slow) for c in
         ((2, 0.2, 1.0, 100, 0.1), (2, 0.6, 1.0, 128, 0.0), (3, 0.0, 1.3, 100, 0.2)))]  # fmt: skip


@pytest.mark.parametrize(("d", "shift", "width", "s", "rough"), CASES)
def test_standard_errors_cover_the_truth(d, shift, width, s, rough):
    kl = d * (math.log(width) + 0.5 / width**2 - 0.5) + 0.5 * (shift / width) ** 2 + 0.5 * rough**2
    rows, n = [], 100
    for seed in range(n):
        made = reweigh(_gaussian(seed, d, shift, width, s=s, rough=rough), _space(d))
        rows.append([
            (float(made.shift[0]) - shift, float(made.shift_error[0])),
            (float(made.width[0]) - width, float(made.width_error[0])),
            (float(made.mean[0]), float(made.mean_error[0])),
            (float(made.sd[0]) - 1, float(made.sd_error[0])),
            (float(made.covariance[0, 1]), float(made.covariance_error[0, 1])),
            (made.kl.value - kl, made.kl.error),
            (made.distance.value - math.sqrt(2 * kl), made.distance.error),
        ])  # fmt: skip
    for miss, stated in np.moveaxis(np.array(rows), 1, 0).transpose(0, 2, 1):
        assert (np.abs(miss) < 2 * stated).mean() > 0.95 - 4 * math.sqrt(0.05 * 0.95 / n)
        assert np.abs(miss.mean()) < 0.4 * stated.mean()
        assert 0.7 < stated.mean() / miss.std() < 1.5


def test_the_weighted_draws_have_the_moments_and_quantiles_that_are_told():
    made = reweigh(_gaussian(3, 3, 0.7, 1.1, t=8000), _space(3))
    w = made.log_weight.exp()
    assert float(w.sum()) == pytest.approx(1)
    mean = w @ made.theta
    spread = made.theta - mean
    assert torch.allclose(mean, made.mean, atol=0.01)
    assert torch.allclose((spread * w[:, None]).mT @ spread, made.covariance, atol=0.02)
    z = (made.quantiles - torch.tensor([-1.959964, 0.0, 1.959964])) / made.quantiles_error
    assert z.abs().max() < 3.5


def test_pairing_beats_the_difference_of_two_means():
    """The same true runs, without pairing: the noise is at least four times as large at a shift on the bound."""
    paired, plain = [], []
    for seed in range(40):
        m = _gaussian(seed, 2, 0.2, 1.05, s=100)
        w = m.log_weight.exp()
        plain.append(float(m.draws[:, 0].mean() - w @ m.theta[:, 0] / w.sum()))
        paired.append(float(reweigh(m, _space(2)).shift[0]))
    assert np.std(paired) < 0.25 * np.std(plain)


def test_regression_is_used_only_where_it_predicts():
    smooth = reweigh(_gaussian(1, 2, 0.5, 1.0), _space(2))
    assert smooth.explained == pytest.approx(1)
    noise = reweigh(_gaussian(1, 2, 0.0, 1.0, rough=0.5), _space(2))
    assert noise.explained < 0.15


def test_many_parameters_and_few_runs_are_paired_without_regression():
    made = reweigh(_gaussian(1, 20, 0.1, 1.0, s=30), _space(20))
    assert math.isfinite(made.blur)
    assert float(made.shift[0]) == pytest.approx(0.1, abs=0.1)


def test_failed_runs_that_count_have_no_weight():
    """Runs fail above 1: the true posterior is a normal cut off there, with mean -0.2876 and sd 0.7935."""
    m = _gaussian(1, 1, 0.0, 1.0, s=2000, t=8000)
    ran = m.theta[:, 0] < 1
    made = reweigh(Weighted(m.theta, m.log_weight.where(ran, -torch.inf), m.draws), _space(1))
    assert abs(float(made.mean) + 0.2876) < 3 * float(made.mean_error)
    assert abs(float(made.sd) - 0.7935) < 3 * float(made.sd_error)


def test_the_prior_may_have_edges():
    """The surrogate is flat over a box, the truth rises as exp(x) in it: mean 1 / (e - 1), by hand."""
    space = Space((Parameter("a", Uniform(0, 1)), Parameter("b", Uniform(0, 1))))
    x = torch.as_tensor(np.random.default_rng(0).random((8000, 2)))
    made = reweigh(Weighted(x[:128], x[:128, 0], x), space)
    mean = 1 / (math.e - 1)
    sd = math.sqrt((math.e - 2) / (math.e - 1) - mean**2)
    assert abs(float(made.mean[0]) - mean) < 3 * float(made.mean_error[0])
    assert abs(float(made.sd[0]) - sd) < 3 * float(made.sd_error[0])
    assert made.trusted


KNOWN = {
    "2-D": (lambda i: _gaussian(i, 2, 1.0, 1.0, t=8000), (0.0, 0.0), (1.0, 1.0)),
    "4-D": (lambda i: _gaussian(i, 4, 1.0, 1.0, t=8000), (0.0,) * 4, (1.0,) * 4),
    "banana, along": (lambda i: _banana(i, (1.0, 0.0)), (0.0, -0.5), (1.0, math.sqrt(0.75))),
    "banana, across": (lambda i: _banana(i, (0.0, 1.0)), (0.0, -0.5), (1.0, math.sqrt(0.75))),
    "banana, both": (lambda i: _banana(i, (0.7, 0.7)), (0.0, -0.5), (1.0, math.sqrt(0.75))),
}


@pytest.mark.parametrize("which", KNOWN)
def test_an_emulator_that_is_wrong_by_one_sigma_is_mended_within_a_tenth_or_said_to_be_beyond_it(which):
    make, mean, sd = KNOWN[which]
    mean, sd, told = torch.tensor(mean, dtype=torch.float64), torch.tensor(sd, dtype=torch.float64), []
    for seed in range(24):
        made = reweigh(make(seed), _space(len(sd)))
        off = torch.cat([(made.mean - mean) / sd, made.sd / sd - 1]).abs().max()
        told.append("beyond" if not made.trusted else "mended" if off <= 0.1 else "wrong")
        assert made.distance.value == pytest.approx(1, abs=0.15)
    print({k: told.count(k) for k in ("mended", "beyond", "wrong")})
    assert told.count("wrong") <= 1
    assert told.count("mended") >= 14


def test_what_is_wrong_by_four_sigma_is_beyond_mending():
    assert not any(reweigh(_gaussian(i, 2, 4.0, 1.0), _space(2)).trusted for i in range(10))


def test_weights_that_are_nearly_even_are_trusted_whatever_the_shape_of_their_tail():
    """ln w within a hundredth, but for a tail of shape 1.2 among them: nothing is there to be mended, and that is known."""
    m = _gaussian(1, 2, 0.0, 1.0, t=4000)
    level = np.random.default_rng(4).permutation((np.arange(128) + 0.5) / 128)
    rough = torch.as_tensor(3e-4 * genpareto.ppf(level, 1.2))
    made = reweigh(Weighted(m.theta, rough, m.draws), _space(2))
    assert made.pareto_k > 0.7
    assert made.largest < 1.3
    assert made.trusted
    assert made.distance.value < 0.05


@pytest.mark.parametrize("k", [0.2, 0.5, 0.9])
def test_pareto_k_is_the_shape_of_the_tail(k):
    w = genpareto.rvs(k, loc=1, size=20000, random_state=np.random.default_rng(1))
    tail = np.sort(w)[-round(3 * math.sqrt(20000)) :]
    judge = genpareto.fit(tail - tail[0], floc=0)[0]  # maximum likelihood on the same tail
    found = pareto_k(torch.as_tensor(np.log(w)))
    assert abs(found - k) < 4 * (1 + k) / math.sqrt(len(tail))
    assert abs(found - judge) < 0.1


def test_pareto_k_sees_the_tail_past_failed_runs():
    log_weight = _gaussian(0, 3, 0.5, 1.0, s=300).log_weight
    failed = torch.where(torch.arange(300) % 50 == 0, -torch.inf, log_weight)
    assert math.isfinite(pareto_k(failed))
    assert abs(pareto_k(failed) - pareto_k(log_weight)) < 0.2


def test_equal_weights_have_no_tail():
    assert pareto_k(torch.zeros(100, dtype=torch.float64)) == 0
