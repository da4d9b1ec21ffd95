"""Counts out to boost-histogram and hist, and back without a bit lost."""

import re
import sys

import boost_histogram as bh
import hist
import numpy as np
import pytest
import torch

from emulate.boost_histograms import from_boost, to_boost, to_hist
from emulate.errors import InputError
from emulate.histograms.hard import Hard
from emulate.histograms.soft import Soft

EDGES = (-1.0, -0.2, 0.0, 0.7, 2.0)
HISTOGRAMS = [Hard(edges=EDGES), Hard(edges=(EDGES, (0.0, 1.0, 3.0))), Soft(edges=EDGES, bandwidth=0.3, support=(-9.0, None)),
              Soft(edges=(EDGES, (0.0, 1.0)), bandwidth=(0.3, 0.2), richardson=True)]  # fmt: skip


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("histogram", HISTOGRAMS, ids=lambda h: f"{h.entry_name()}-{np.ndim(h.edges[0]) + 1}")
@pytest.mark.parametrize(("out", "kind"), [(to_boost, bh.Histogram), (to_hist, hist.Hist)])
def test_there_and_back(histogram, out, kind):
    x = normal(300, 2) if isinstance(histogram.edges[0], tuple) else normal(300)
    for made in (histogram.counts(x), histogram.measured(x, normal(300, seed=1))):
        theirs = out(made)
        assert isinstance(theirs, kind)
        np.testing.assert_array_equal(theirs.values(flow=True), made.values)
        back = from_boost(theirs)
        assert torch.equal(back.values, made.values)
        assert (back.binning, back.samples) == (made.binning, made.samples)
        if made.covariance is not None:
            torch.testing.assert_close(back.standard_error, made.standard_error)


def test_histograms_that_others_filled():
    x, w = normal(500).numpy(), normal(500, seed=1).numpy()
    regular = bh.Histogram(bh.axis.Regular(4, -1, 1), storage=bh.storage.Weight()).fill(x, weight=w)
    made = from_boost(regular)
    theirs = Hard(edges=np.linspace(-1, 1, 5)).measured(x, w)
    torch.testing.assert_close(made.values, theirs.values)
    torch.testing.assert_close(made.covariance, theirs.covariance)
    assert made.binning == theirs.binning
    assert from_boost(bh.Histogram(bh.axis.Regular(4, -1, 1)).fill(x)).samples == 500
    bare = from_boost(
        bh.Histogram(bh.axis.Regular(3, 0, 1, underflow=False, overflow=False)).fill([-1.0, 0.1, 0.5, 2.0])
    )
    assert bare.values.tolist() == [0.0, 1.0, 1.0, 0.0, 0.0]
    multiplicity = from_boost(hist.Hist.new.Integer(2, 5).Int64().fill([1, 2, 2, 4, 9]))
    assert (multiplicity.values.tolist(), multiplicity.binning.edges) == (
        [1.0, 2.0, 0.0, 1.0, 1.0],
        ((2.0, 3.0, 4.0, 5.0),),
    )


def test_a_projection_can_be_made_by_them():
    x = normal(300, 2)
    both = Hard(edges=(EDGES, (0.0, 1.0, 3.0))).measured(x)
    projected = from_boost(to_boost(both).project(0))
    torch.testing.assert_close(projected.values, Hard(edges=EDGES).counts(x[:, 0]).values)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (3, "from_boost must be given a boost_histogram.Histogram or a hist.Hist. Got int."),
        (bh.Histogram(*[bh.axis.Regular(2, 0, 1)] * 3), "the histogram must hold counts on one or two axes of numbers that neither "
         "grow nor turn around. Got 3 axes of kind COUNT; project or rebin it first."),
        (bh.Histogram(bh.axis.Regular(2, 0, 1), storage=bh.storage.Mean()), "the histogram must hold counts on one or two axes of "
         "numbers that neither grow nor turn around. Got 1 axes of kind MEAN; project or rebin it first."),
    ],
)  # fmt: skip
def test_refusals(given, sentence):
    with pytest.raises(InputError, match=f"^{re.escape(sentence)}$"):
        from_boost(given)


def test_axes_that_grow_or_name_categories_are_refused():
    for axis in (
        bh.axis.Regular(2, 0, 1, growth=True),
        bh.axis.Regular(2, 0, 1, circular=True),
        bh.axis.StrCategory(["a", "b"]),
    ):
        with pytest.raises(InputError, match=r"^the histogram must hold counts on one or two axes of numbers"):
            from_boost(bh.Histogram(axis))
    with pytest.raises(
        InputError, match=re.escape("to_boost must be given one histogram. Got a batch of shape [3, 6]; convert one")
    ):
        to_boost(Hard(edges=EDGES).counts(normal(3, 10)))


@pytest.mark.parametrize(("name", "call"), [("boost_histogram", to_boost), ("hist", to_hist)])
def test_without_the_extra_it_says_what_to_install(monkeypatch, name, call):
    monkeypatch.setitem(sys.modules, name, None)
    counts = Hard(edges=EDGES).counts([0.5])
    with pytest.raises(InputError, match=re.escape("install the extra: pip install 'emulate[hist]'.")):
        call(counts)
