"""The marginal likelihood against densities of torch and scipy, and its predictions against textbook kriging."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import multivariate_normal
from torch.distributions import MultivariateNormal

from emulate.emulators._evidence import Evidence, factors
from emulate.emulators._kernels import KERNELS, MEANS, basis, columns_of, determined
from emulate.emulators._kernels import kernel as correlations
from emulate.emulators.gp import GP

N, ETA = 16, 1e-3
LENGTH = torch.tensor([0.7, 1.3], dtype=torch.float64)
ORDER = torch.tensor(-0.4, dtype=torch.float64)


@pytest.fixture
def data():
    u = torch.quasirandom.SobolEngine(2, scramble=True, seed=1).draw(N, dtype=torch.float64)
    z = torch.sin(5 * u[:, 0]) + u[:, 1] ** 3
    return u, (z - z.mean()) / z.std()


def matrix(u, v, kernel, length=LENGTH, order=ORDER):
    """k by two loops and the textbook's formulas (Rasmussen and Williams 2006, eq. 4.9 and 4.17; sums over subsets)."""
    k = np.empty((len(u), len(v)))
    for i, a in enumerate(u):
        for j, b in enumerate(v):
            r = math.sqrt(float((((a - b) / length) ** 2).sum()))
            e, weight = (-0.5 * ((a - b) / length) ** 2).exp(), math.exp(order)
            sets = [s for size in range(1, len(a) + 1) for s in combinations(range(len(a)), size)]
            sums = sum(weight ** len(s) * float(e[list(s)].prod()) for s in sets), sum(weight ** len(s) for s in sets)
            k[i, j] = {"rbf": math.exp(-0.5 * r * r),
                       "matern32": (1 + math.sqrt(3) * r) * math.exp(-math.sqrt(3) * r),
                       "matern52": (1 + math.sqrt(5) * r + 5 * r * r / 3) * math.exp(-math.sqrt(5) * r),
                       "additive": sums[0] / sums[1]}[kernel]  # fmt: skip
    return k


def log_evidence(data, kernel, mean):
    """ln E of the code at LENGTH and ETA, its priors taken out and its constants put in, and s^2."""
    u, z = data
    evidence = Evidence(u, z[:, None], kernel, mean, noisy=True)
    x = np.array([*LENGTH.log(), *([ORDER] if kernel == "additive" else []), math.log(ETA)])
    pull = (x - evidence.centre) / evidence.width
    free = N - basis(u, mean).shape[1]
    k = correlations(u, columns_of(u), LENGTH, ORDER, kernel)
    s2 = float(factors((k + ETA * torch.eye(N)).numpy(), basis(u, mean).numpy(), z[:, None].numpy()).variance[0])
    return -(evidence(x)[0] - 0.5 * float(pull @ pull)) - 0.5 * free * (1 + math.log(2 * math.pi)), s2


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_it_is_the_density_of_torch_with_a_wide_prior_on_beta(data, kernel, mean):
    """beta ~ N(0, V) has the density (2 pi V)^(-k/2) where a flat prior has 1."""
    u, z = data
    ours, s2 = log_evidence(data, kernel, mean)
    h, wide = basis(u, mean), 1e6
    c = torch.from_numpy(s2 * (matrix(u, u, kernel) + ETA * np.eye(N))) + wide * h @ h.T
    twin = float(MultivariateNormal(torch.zeros(N).double(), c).log_prob(z)) + 0.5 * h.shape[1] * math.log(
        2 * math.pi * wide
    )
    assert ours == pytest.approx(twin, abs=1e-3)


@pytest.mark.parametrize("mean", MEANS)
def test_that_of_components_with_one_kernel_is_the_sum_of_theirs(data, mean):
    u, z = data
    many = torch.stack([z, torch.cos(7 * u[:, 1]), u[:, 0] * u[:, 1]], 1)
    x = np.array([-0.4, 0.3, math.log(1e-2)])
    whole = Evidence(u, many, "matern52", mean, noisy=True)
    each = [Evidence(u, part, "matern52", mean, noisy=True)(x) for part in many.split(1, 1)]
    pull = (x - whole.centre) / whole.width  # of the priors, which whole has once
    value, slope = whole(x)
    assert value == pytest.approx(sum(v for v, _ in each) - pull @ pull, rel=1e-12)
    np.testing.assert_allclose(slope, sum(g for _, g in each) - 2 * pull / whole.width, rtol=1e-9)


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_the_information_is_the_mean_of_the_observed_and_the_expected(data, kernel, mean):
    """With P by plain inverses and dC/dx by differences; of two components, and the priors' precision added."""
    u, z = data
    both, h = torch.stack([z, torch.cos(7 * u[:, 1])], 1), basis(u, mean).numpy()
    evidence = Evidence(u, both, kernel, mean, noisy=True)
    x = np.array([*LENGTH.log(), *([ORDER] if kernel == "additive" else []), math.log(ETA)])

    def c(x):
        order = torch.tensor(x[2] if kernel == "additive" else 0.0).double()
        return matrix(u, u, kernel, torch.from_numpy(np.exp(x[:2])), order) + np.exp(x[-1]) * np.eye(N)

    inverse = np.linalg.inv(c(x))
    p = inverse - inverse @ h @ np.linalg.inv(h.T @ inverse @ h) @ h.T @ inverse
    rates = [(c(x + e) - c(x - e)) / 2e-5 for e in 1e-5 * np.eye(len(x))]
    expected = np.diag(evidence.width**-2.0)
    for y in both.numpy().T:
        pz, free = p @ y, N - h.shape[1]
        m, s2 = np.stack([rate @ pz for rate in rates]), y @ pz / free
        expected += 0.5 * (m @ p @ m.T / s2 - np.outer(m @ pz, m @ pz) / (free * s2**2))
    _, derivatives = evidence.at(x)
    np.testing.assert_allclose(derivatives()[1], expected, rtol=1e-5, atol=1e-7)


def test_rows_are_left_out_as_by_a_process_of_the_others(data):
    u, z = data
    h, rows, c = basis(u, "linear").numpy(), np.arange(N) % 5 == 2, matrix(u, u, "rbf") + ETA * np.eye(N)
    residual, variance = factors(c, h, z[:, None].numpy()).without(rows)
    inverse = np.linalg.inv(c[~rows][:, ~rows])
    known = np.linalg.inv(h[~rows].T @ inverse @ h[~rows])
    e = z.numpy()[~rows] - h[~rows] @ (known @ h[~rows].T @ inverse @ z.numpy()[~rows])
    k = c[rows][:, ~rows]
    mean = z.numpy()[rows] - k @ inverse @ e - h[rows] @ (known @ h[~rows].T @ inverse @ z.numpy()[~rows])
    lack = h[rows] - k @ inverse @ h[~rows]
    spread = c[rows][:, rows] - k @ inverse @ k.T + lack @ known @ lack.T
    np.testing.assert_allclose(residual[:, 0], mean, rtol=1e-6)
    np.testing.assert_allclose(variance[:, 0], e @ inverse @ e / (len(e) - 3) * spread.diagonal(), rtol=1e-6)


def test_it_is_the_integral_over_beta_and_the_highest_over_the_variance(data):
    u, z = data
    ours, s2 = log_evidence(data, "rbf", "constant")
    c = matrix(u, u, "rbf") + ETA * np.eye(N)

    def integrated(s2):
        top = multivariate_normal(np.zeros(N), s2 * c)
        return (
            math.log(quad(lambda b: math.exp(top.logpdf(z.numpy() - b) - ours), -30, 30, points=[0], limit=200)[0])
            + ours
        )

    assert ours == pytest.approx(integrated(s2), abs=1e-7)
    assert integrated(0.9 * s2) < ours > integrated(1.1 * s2)


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_predictions_are_those_of_textbook_kriging(data, kernel, mean):
    """Universal kriging by plain inverses (Cressie 1993, section 3.4) at the lengths and the nugget that were found."""
    u, z = data
    z = z + 0.05 * torch.randn(N, generator=torch.Generator().manual_seed(4), dtype=z.dtype)  # else plain inverses fail
    core = GP(kernel=kernel, mean=mean, noise="fitted", calibrate=False).train(u, z[:, None], noisy=True, seed=0)
    length, eta = core.length[0], float(core.eta)
    new = torch.quasirandom.SobolEngine(2, scramble=True, seed=9).draw(7, dtype=torch.float64)
    h, h_new = basis(u, mean).numpy(), basis(new, mean).numpy()
    c = matrix(u, u, kernel, length, float(core.order)) + eta * np.eye(N)
    k = matrix(new, u, kernel, length, float(core.order))
    inverse = np.linalg.inv(c)
    known = np.linalg.inv(h.T @ inverse @ h)
    beta = known @ h.T @ inverse @ z.numpy()
    e = z.numpy() - h @ beta
    s2 = e @ inverse @ e / (N - h.shape[1])
    lack = h_new - k @ inverse @ h
    p = core(new)
    np.testing.assert_allclose(p.mean[:, 0], h_new @ beta + k @ inverse @ e, rtol=1e-6, atol=1e-6)
    variance = s2 * (1 + eta - np.einsum("ab,bc,ac->a", k, inverse, k) + np.einsum("ab,bc,ac->a", lack, known, lack))
    np.testing.assert_allclose(p.variance[:, 0], variance, rtol=1e-4)


def test_a_mean_is_determined_by_enough_runs_at_enough_places():
    u = torch.quasirandom.SobolEngine(2, scramble=True, seed=1).draw(7, dtype=torch.float64)
    assert determined(u, "quadratic")
    assert not determined(u[:6], "quadratic"), "six coefficients and no run to spare"
    assert not determined(u[:5].repeat(2, 1), "quadratic"), "ten runs at five places"
    assert not determined(torch.linspace(0, 1, 9).double()[:, None].expand(9, 2), "linear"), "on a line"
