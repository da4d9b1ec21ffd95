"""What histograms cost: hard and soft counts and their gradients over numpy.histogram and boost-histogram, by ratio."""

import boost_histogram as bh
import numpy as np
import pytest
import torch

from emulate.histogram_gradients import from_scores, from_velocities
from emulate.histograms.hard import Hard
from emulate.histograms.soft import Soft
from emulate.meter import Meter
from tests.stopwatch import in_turn

pytestmark = pytest.mark.benchmark
N, EDGES = 1_000_000, tuple(np.linspace(-3, 3, 101))
UNEVEN = tuple(np.sinh(np.linspace(-1.8, 1.8, 101)))
X = torch.randn(N, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def slope(soft: Soft) -> torch.Tensor:
    x = X.clone().requires_grad_()
    return torch.autograd.grad(soft.counts(x).values.square().sum(), x)[0]


@pytest.mark.parametrize("edges", [EDGES, UNEVEN], ids=["even", "uneven"])
def test_a_million_samples_in_a_hundred_bins(edges):
    """h in units of the mean bin."""
    x, width = X.numpy(), (edges[-1] - edges[0]) / 100
    softs = {
        f"{k}, h {h}": Soft(edges=edges, bandwidth=h * width, kernel=k)
        for k in ("compact", "gaussian")
        for h in (0.2, 0.5, 1.0)
    }
    jobs = [lambda: np.histogram(x, edges), lambda: bh.Histogram(bh.axis.Variable(edges)).fill(x),
            lambda: Hard(edges=edges).counts(X)]  # fmt: skip
    jobs += [lambda s=s: s.counts(X) for s in softs.values()] + [lambda s=s: slope(s) for s in softs.values()]
    numpys, boosts, hard, *rest = in_turn(*jobs, repeats=5)
    print(f"\nnumpy {1e3 * numpys:.0f} ms, boost-histogram {1e3 * boosts:.0f} ms; hard over numpy {hard / numpys:.2f}, over boost "
          f"{hard / boosts:.2f}")  # fmt: skip
    for (name, _), counts, with_slope in zip(softs.items(), rest[: len(softs)], rest[len(softs) :], strict=True):
        print(f"soft, {name}: over boost {counts / boosts:.1f}, with its gradient {with_slope / boosts:.1f}")
    with Meter() as meter:
        slope(softs["compact, h 0.5"])
    print(
        f"memory of counts and gradient {meter.peak_memory / 1e6:.0f} MB (samples: 8 MB; a dense matrix of shares: 816 MB)"
    )


def test_gradients_with_their_bias():
    soft, scores = Soft(edges=EDGES, bandwidth=0.03), X[:, None]
    made = in_turn(lambda: soft.counts(X), lambda: from_scores(Hard(edges=EDGES), X, scores),
                   lambda: from_velocities(soft, X, torch.ones(N, 1)), repeats=3)  # fmt: skip
    print(
        f"\nover soft counts: hard with scores {made[1] / made[0]:.1f}, soft with velocities and bias {made[2] / made[0]:.1f}"
    )
