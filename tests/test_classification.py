"""The classifier against closed forms of one and two labels, copies against weights, and scikit-learn's classifier."""

import math
import warnings

import numpy as np
import pytest
import torch
from scipy.optimize import check_grad
from scipy.stats import multivariate_normal
from sklearn.gaussian_process import GaussianProcessClassifier, kernels

from emulate.classification import _BIAS, Classifier, _propagate, covariance, evidence, thinned, train


def sobol(n: int, d: int, seed: int = 1) -> torch.Tensor:
    return torch.quasirandom.SobolEngine(d, scramble=True, seed=seed).draw(n, dtype=torch.float64)


def ones(n: int) -> torch.Tensor:
    return torch.ones(n, dtype=torch.float64)


LENGTH, SCALE = torch.tensor([0.4, 0.9], dtype=torch.float64), torch.tensor(2.0, dtype=torch.float64)
REGIONS = {  # name: dimension, where the label is 1
    "half-space": (2, lambda u: u[:, 0] + 0.5 * u[:, 1] < 1.0),
    "disc": (2, lambda u: ((u - 0.5) ** 2).sum(1) < 0.16),
    "corner of four": (4, lambda u: ~((u[:, 0] > 0.7) & (u[:, 2] > 0.6))),
    "thin edge": (3, lambda u: u[:, 0] < 0.95),
}


def fitted(points: torch.Tensor, label: torch.Tensor, **kwargs) -> Classifier:
    return train(points, label, ones(len(points)), **{"seed": 0, **kwargs})


def test_the_kernel_is_scikit_learns():
    a, b = sobol(7, 2), sobol(5, 2, 3)
    theirs = _BIAS**2 + kernels.ConstantKernel(4.0) (a.numpy(), b.numpy()) * kernels.Matern(LENGTH.numpy(), nu=2.5)(a.numpy(), b.numpy())  # fmt: skip  # noqa: E501
    assert covariance(a, b, LENGTH, SCALE).numpy() == pytest.approx(theirs, rel=1e-12)


def test_one_label_is_matched_exactly(monkeypatch):
    """E[Phi(f) Phi(f*)] is a bivariate normal's orthant; one site matches the moments of f, so of f* too."""
    monkeypatch.setattr("emulate.classification._TOLERANCE", 1e-12)
    x, there = sobol(1, 2), sobol(1, 2, 8)
    sites = _propagate(covariance(x, x, LENGTH, SCALE), ones(1), ones(1))
    mean, variance = Classifier(x, LENGTH, SCALE, sites.tau, sites.nu).latent(x)
    v = _BIAS**2 + float(SCALE) ** 2
    draws = np.linspace(-40, 40, 400001)
    density = np.exp(-0.5 * draws**2 / v) * torch.special.ndtr(torch.from_numpy(draws)).numpy()
    density /= density.sum()
    assert float(mean) == pytest.approx((density * draws).sum(), rel=1e-6)
    assert float(variance) == pytest.approx((density * draws**2).sum() - (density * draws).sum() ** 2, rel=1e-6)
    assert float(evidence(x, ones(1), ones(1), LENGTH, SCALE)[0]) == pytest.approx(math.log(0.5), abs=1e-9)
    assert torch.isfinite(Classifier(x, LENGTH, SCALE, sites.tau, sites.nu).log_prob(there)).all()


@pytest.mark.parametrize("signs", [(1, 1), (1, -1)])
def test_the_evidence_of_two_labels_is_an_orthant(signs):
    """P(both) = 1/4 + arcsin(rho) / 2 pi, rho the correlation of the two latent values with their unit noise."""
    x, sign = sobol(2, 2), torch.tensor(signs, dtype=torch.float64)
    k = covariance(x, x, LENGTH, SCALE)
    rho = float(k[0, 1] / (1 + k[0, 0])) * signs[0] * signs[1]
    exact = 0.25 + math.asin(rho) / (2 * math.pi)
    assert float(evidence(x, sign, ones(2), LENGTH, SCALE)[0].exp()) == pytest.approx(exact, rel=0.02)


def test_the_evidence_of_five_labels_is_that_of_quadrature():
    x, sign = sobol(5, 2), torch.tensor([1.0, 1, -1, 1, 1], dtype=torch.float64)
    k = covariance(x, x, LENGTH, SCALE).numpy()
    c = sign.numpy()[:, None] * (k + np.eye(5)) * sign.numpy()
    exact = multivariate_normal(np.zeros(5), c, seed=1).cdf(np.zeros(5))
    assert float(evidence(x, sign, ones(5), LENGTH, SCALE)[0].exp()) == pytest.approx(exact, rel=0.03)


def test_a_weight_of_three_is_three_copies():
    x, label = sobol(12, 2), sobol(12, 2)[:, 0] > 0.5
    sign = torch.where(label, 1.0, -1.0).double()
    weight = torch.tensor([3.0] + [1.0] * 11, dtype=torch.float64)
    copies = torch.cat([x, x[:1], x[:1]])
    one, sites = evidence(x, sign, weight, LENGTH, SCALE)
    three, many = evidence(copies, torch.cat([sign, sign[:1], sign[:1]]), ones(14), LENGTH, SCALE)
    assert float(one) == pytest.approx(float(three), abs=1e-4)
    assert float(sites.tau[0]) == pytest.approx(float(many.tau[0]), rel=1e-2)


def test_the_slope_of_the_evidence_is_that_of_differences(monkeypatch):
    monkeypatch.setattr("emulate.classification._TOLERANCE", 1e-12)
    x, sign = sobol(20, 2), torch.where(sobol(20, 2).sum(1) < 1.1, 1.0, -1.0).double()

    def value(v):
        t = torch.tensor(v, dtype=torch.float64)
        return float(evidence(x, sign, ones(20), t[:2].exp(), t[2].exp())[0])

    def slope(v):
        t = torch.tensor(v, dtype=torch.float64, requires_grad=True)
        return torch.autograd.grad(evidence(x, sign, ones(20), t[:2].exp(), t[2].exp())[0], t)[0].numpy()

    at = np.array([-0.7, 0.2, 0.9])
    assert check_grad(value, slope, at, epsilon=1e-5) < 1e-4 * np.linalg.norm(slope(at))


def test_the_answer_carries_a_gradient_also_at_a_labelled_point():
    x = sobol(40, 2)
    c = fitted(x, x.sum(1) < 1.2)
    at = torch.cat([x[:3], sobol(3, 2, 9), torch.tensor([[5.0, -4.0], [1e3, 0.0]])]).double().requires_grad_()
    assert torch.autograd.gradcheck(c.log_prob, at[:6].detach().requires_grad_(), eps=1e-6, atol=1e-4)
    (gradient,) = torch.autograd.grad(c.log_prob(at).sum(), at)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("name", REGIONS)
def test_a_sharp_region_is_found_no_worse_than_by_scikit_learn(name):
    d, region = REGIONS[name]
    x, there = sobol(100, d), sobol(4096, d, 77)
    label, truth = region(x), region(there)
    p = fitted(x, label).log_prob(there).exp()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = GaussianProcessClassifier(kernels.ConstantKernel(4.0) * kernels.Matern(np.ones(d), nu=2.5))
        q = torch.from_numpy(theirs.fit(x.numpy(), label.numpy()).predict_proba(there.numpy())[:, 1])
    base = float((label.sum() + 0.5) / 101)
    score = lambda p: float(torch.where(truth, p, 1 - p).clamp_min(1e-12).log().mean())  # noqa: E731
    assert score(p) > score(q) - 0.02
    assert score(p) > 0.4 * score(torch.full((4096,), base))
    assert float(((p > 0.5) == truth).double().mean()) > 0.95
    assert abs(float(p.mean() - truth.double().mean())) < 0.05
    for sure, said in ((p > 0.95, truth), (p < 0.05, ~truth)):
        assert not sure.any() or float(said[sure].double().mean()) > 0.95


def test_probabilities_of_a_region_with_a_soft_edge_are_kept():
    """Labels drawn with P = 1 / (1 + exp(8 u - 4)): in each tenth of what is said as many are as are said."""
    x, there = sobol(300, 2), sobol(8192, 2, 5)
    true = lambda u: torch.sigmoid(4 - 8 * u[:, 0])  # noqa: E731
    rng = np.random.default_rng(3)
    p = fitted(x, torch.from_numpy(rng.random(300)) < true(x)).log_prob(there).exp()
    assert float((p - true(there)).square().mean().sqrt()) < 0.08
    bins = (10 * p).long().clamp_max(9)
    for b in range(10):
        inside = bins == b
        if inside.sum() > 50:
            assert float((p[inside] - true(there)[inside]).mean().abs()) < 0.1


def test_thinning_keeps_the_rarer_kind_and_counts_the_others():
    label = torch.ones(1000, dtype=torch.bool)
    label[::100] = False
    index, gain = thinned(label, 100, 0)
    assert len(index) == 100
    assert int((~label[index]).sum()) == 10
    assert gain[~label[index]].tolist() == [1.0] * 10
    assert gain[label[index]].tolist() == pytest.approx([11.0] * 90)
    whole, each = thinned(label, 5000, 0)
    assert whole.tolist() == list(range(1000))
    assert each.tolist() == [1.0] * 1000
