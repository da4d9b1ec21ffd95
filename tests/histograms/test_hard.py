"""Hard counts against numpy and boost-histogram."""

import boost_histogram as bh
import numpy as np
import pytest
import torch

from emulate.errors import InputError
from emulate.histograms.hard import Hard

UNEVEN = np.array([-2.0, -1.0, -0.3, 0.4, 0.5, 2.0])
EVEN = np.linspace(-2, 2, 33)


def samples(n: int = 5000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    x = generator.standard_normal(n)
    x[:60] = np.resize(np.concatenate([UNEVEN, EVEN]), 60)  # some on edges
    return x, generator.normal(1, 1, n)


@pytest.mark.parametrize("edges", [UNEVEN, EVEN])
def test_counts_are_numpys(edges):
    x, w = samples()
    x = x[x != edges[-1]]  # there numpy's last bin is closed
    w = w[: len(x)]
    made = Hard(edges=edges).measured(x, w)
    np.testing.assert_allclose(made.inside, np.histogram(x, edges, weights=w)[0], rtol=0, atol=1e-11)
    assert Hard(edges=edges).counts(x).inside.tolist() == np.histogram(x, edges)[0].tolist()
    np.testing.assert_allclose(made.covariance.diagonal()[1:-1], np.histogram(x, edges, weights=w**2)[0], rtol=1e-12)
    assert torch.equal(made.covariance, torch.diag(made.covariance.diagonal()))


@pytest.mark.parametrize("edges", [UNEVEN, EVEN])
def test_counts_and_variances_are_boosts_with_the_flow(edges):
    x, w = samples()
    theirs = bh.Histogram(bh.axis.Variable(edges), storage=bh.storage.Weight())
    theirs.fill(x, weight=w)
    made = Hard(edges=edges).measured(x, w)
    np.testing.assert_allclose(made.values, theirs.values(flow=True), rtol=0, atol=1e-11)
    np.testing.assert_allclose(made.covariance.diagonal(), theirs.variances(flow=True), rtol=1e-12)


def test_two_axes_are_boosts():
    (x, w), (y, _) = samples(), samples(seed=1)
    theirs = bh.Histogram(bh.axis.Variable(UNEVEN), bh.axis.Variable(EVEN), storage=bh.storage.Weight())
    theirs.fill(x, y, weight=w)
    made = Hard(edges=(UNEVEN, EVEN)).measured(np.stack([x, y], -1), w)
    np.testing.assert_allclose(made.values, theirs.values(flow=True), rtol=0, atol=1e-11)
    np.testing.assert_allclose(made.standard_error**2, theirs.variances(flow=True), rtol=1e-12)


def test_multinomial_covariance_is_the_formula_of_textbooks():
    x, _ = samples()
    made = Hard(edges=UNEVEN).measured(x, kind="multinomial")
    n, p = len(x), made.values / len(x)
    truth = n * (torch.diag(p) - p[:, None] * p) * n / (n - 1)
    torch.testing.assert_close(made.covariance, truth)


def test_the_derivative_to_samples_is_refused_not_zero():
    x = torch.randn(5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    hard, sentence = Hard(edges=UNEVEN), "^hard counts have no derivative with respect to the samples"
    counts = hard.counts(x).values
    with pytest.raises(InputError, match=sentence):
        torch.autograd.grad(counts[2], x)
    for mode in (torch.func.jacfwd, torch.func.jacrev):
        with pytest.raises(InputError, match=sentence):
            mode(lambda y: hard.counts(y).values)(x.detach())
    w = torch.ones(5, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(hard.counts(x.detach(), w).values[2], w)
    assert torch.equal(slope, ((x >= -1.0) & (x < -0.3)).double())
