"""Soft with soft: chi2 has its distribution, gradients flow, and hard data are not compared with a soft prediction unsaid."""

import re

import numpy as np
import pytest
import torch
from scipy import stats

from emulate.contracts import Counts
from emulate.errors import DoubtWarning, InputError
from emulate.histogram_comparison import compare
from emulate.histograms.hard import Hard
from emulate.histograms.soft import Soft

EDGES = (-1.0, -0.4, 0.1, 0.6, 1.2)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    "histogram", [Hard(edges=EDGES), Soft(edges=EDGES, bandwidth=0.3), Soft(edges=EDGES)], ids=["hard", "soft", "auto"]
)
def test_chi2_of_the_truth_is_chi2(histogram):
    made = [
        compare(histogram, normal(10_000, seed=2 * s), normal(1000, seed=2 * s + 1))
        for s in range(100 if histogram.entry_name() == "hard" else 60)
    ]
    assert {c.dof for c in made} == {4}
    assert stats.kstest([float(c.chi2) for c in made], "chi2", args=(4,)).pvalue > 1e-3
    pulls = torch.stack([c.pull for c in made])
    assert ((pulls.std(0) - 1).abs() < 0.35).all()


def test_a_soft_fit_is_unbiased_where_a_mixed_one_is_not():
    """The width of a normal density fitted to soft counts of data and to hard ones, at a bandwidth as wide as a bin."""
    soft, z = Soft(edges=EDGES, bandwidth=0.5), normal(20_000)
    data = [normal(20_000, seed=s) for s in range(1, 5)]
    widths = torch.linspace(0.88, 1.06, 10, dtype=torch.float64)
    found = []
    for mixed in (False, True):
        best = []
        for d in data:
            seen = Hard(edges=EDGES).counts(d) if mixed else d
            with pytest.warns(DoubtWarning, match="the smoothing alone moves a bin") if mixed else _quiet():
                chi2 = [float(compare(soft, s * z, seen, mixed=mixed).chi2) for s in widths]
            low = int(np.clip(np.argmin(chi2), 1, len(chi2) - 2)) - 1
            a, b, _ = np.polyfit(widths[low : low + 3], chi2[low : low + 3], 2)
            best.append((-b / (2 * a) - 1) * a**0.5)  # in sigma: chi2 rises by 1
        found.append(np.mean(best))
    print(f"\nwidth off by {found[0]:.2f} sigma, soft with soft; by {found[1]:.2f} soft with hard")
    assert abs(found[0]) < 2.5
    assert abs(found[1]) > 5


class _quiet:
    def __enter__(self):
        return self

    def __exit__(self, *raised):
        return None


def test_the_gradient_is_that_of_differences():
    soft, z, data = Soft(edges=EDGES, bandwidth=0.3), normal(500), normal(300, seed=1)
    mu = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    made = compare(soft, mu + z, data)
    (slope,) = torch.autograd.grad(made.residual[1], mu)
    h = 1e-5
    up, down = (compare(soft, 0.2 + s * h + z, data).residual[1] for s in (1, -1))
    assert float(slope) == pytest.approx(float(up - down) / (2 * h), rel=1e-6)
    fixed = torch.linalg.pinv(made.covariance, hermitian=True)
    assert float(made.chi2.detach()) == pytest.approx(float((made.residual @ fixed @ made.residual).detach()), rel=1e-9)
    assert torch.autograd.grad(compare(soft, mu + z, data).chi2, mu)[0].isfinite()
    assert not made.covariance.requires_grad


def test_an_automatic_bandwidth_is_settled_by_the_data():
    auto, data = Soft(edges=EDGES), normal(1000, seed=1)
    made = compare(auto, normal(5000), data)
    assert made.prediction.binning == made.data.binning == auto.settled(data).binning(data)
    again = compare(auto, normal(5000), Counts.measured(auto.settled(data).binning(data), data, kind="multinomial"))
    torch.testing.assert_close(again.chi2, made.chi2)


def test_flow_scale_and_weights():
    hard, x, d = Hard(edges=EDGES), normal(1000), normal(200, seed=1)
    with_flow = compare(hard, x, d, flow=True, kind="multinomial")
    assert (len(with_flow.residual), with_flow.dof) == (6, 5)
    assert float(with_flow.residual.sum()) == pytest.approx(0, abs=1e-9)
    assert float(compare(hard, x, d).scale) == pytest.approx(0.2)
    assert float(compare(hard, x, d).chi2) < float(compare(hard, x, d, kind="poisson").chi2) * 2
    weighted = compare(hard, x, d, weights=torch.full((1000,), 0.2), scale=1.0)
    torch.testing.assert_close(weighted.chi2, compare(hard, x, d, scale=0.2).chi2)
    two = compare(Hard(edges=(EDGES, EDGES)), normal(5000, 2), normal(1000, 2, seed=1))
    assert two.residual.shape == (16,)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda s, x: compare(s, x, Hard(edges=EDGES).counts(x)), "prediction and data must be smoothed alike. Got 1 compact(0.3) "
         "and hard bins; count both by one histogram, data as samples, or give mixed=True for hard data and be warned."),
        (lambda s, x: compare(s, x, Soft(edges=EDGES, bandwidth=0.2).counts(x)), "prediction and data must be smoothed alike. Got "
         "1 compact(0.3) and 1 compact(0.2); count both by one histogram, data as samples, or give mixed=True for hard data and be "
         "warned."),
        (lambda s, x: compare(s, x, Hard(edges=(0.0, 1.0)).counts(x)), "prediction and data must have the same edges. Got others; "
         "count the data again, or build the histogram with the edges of the data's counts, `counts.binning.edges`."),
        (lambda s, x: compare(s, x.reshape(2, 5), x), "prediction and data must be one histogram each. Got batches; compare one by "
         "one."),
        (lambda s, x: compare(s, x, x, weights=torch.zeros(10)), "the scale must be finite. Got inf; a prediction whose weights "
         "sum to 0 cannot be scaled to the data."),
        (lambda s, x: compare(s, x, Counts(torch.ones(6), s.binning(x), 1, torch.zeros(6, 6).double()), weights=torch.zeros(10),
         scale=1.0), "a bin that differs must have an error. Got none in bin 0 of those compared; merge bins that are empty in one "
         "of both."),
    ],
)  # fmt: skip
def test_refusals(call, sentence):
    with pytest.raises(InputError, match=f"^{re.escape(sentence)}$"):
        call(Soft(edges=EDGES, bandwidth=0.3), normal(10))
