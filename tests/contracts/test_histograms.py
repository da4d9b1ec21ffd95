"""Laws of the room of histograms: no weight is lost, order does not matter, merged bins add up, NaN never comes in."""

import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from emulate import binning, registry
from emulate.contracts import Counts
from emulate.errors import InputError
from tests.entries import entries

NAMES = entries("histograms")
EDGES = (-1.0, -0.2, 0.0, 0.7, 2.0)
TWO = (EDGES, (0.0, 0.5, 3.0))


def built(name: str, edges=EDGES):
    return registry.build("histograms", {"use": name, **registry.find("histograms", name).example, "edges": edges})


@pytest.fixture(params=NAMES)
def histogram(request):
    return built(request.param)


@pytest.fixture
def flat(histogram):
    """The same on two axes."""
    return built(histogram.entry_name(), TWO)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


samples = st.lists(st.floats(allow_nan=False) | st.sampled_from(EDGES), max_size=30)
weights = st.floats(-1e3, 1e3)


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None)
@given(x=samples, data=st.data())
def test_no_weight_is_lost(name, x, data):
    w = data.draw(st.lists(weights, min_size=len(x), max_size=len(x)))
    total = built(name).counts(x, w).total
    assert abs(float(total) - math.fsum(w)) <= 1e-12 * math.fsum(map(abs, w))
    pairs = torch.tensor([x, x[::-1]], dtype=torch.float64).T.reshape(len(x), 2)
    total = built(name, TWO).counts(pairs, w).total
    assert abs(float(total) - math.fsum(w)) <= 1e-12 * math.fsum(map(abs, w))


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None)
@given(x=st.lists(st.floats(-3, 3), min_size=1, max_size=20), seed=st.integers(0, 99), a=weights, b=weights)
def test_order_does_not_matter_and_weights_are_linear(name, x, seed, a, b):
    h, x = built(name), torch.tensor(x, dtype=torch.float64)
    v, w = normal(2, len(x), seed=seed)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    one = h.counts(x, v).values
    size = 1e-12 * float(v.abs().sum() * max(1, abs(a)) + w.abs().sum() * max(1, abs(b)))
    torch.testing.assert_close(h.counts(x[order], v[order]).values, one, rtol=0, atol=size)
    both = h.counts(x, a * v + b * w).values
    torch.testing.assert_close(both, a * one + b * h.counts(x, w).values, rtol=0, atol=4 * size)


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None)
@given(x=st.lists(st.floats(-3, 3) | st.sampled_from(EDGES), max_size=20), inner=st.sets(st.sampled_from(EDGES[1:-1])))
def test_merged_bins_add_up(name, x, inner):
    coarse = [EDGES[0], *sorted(inner), EDGES[-1]]
    fine = built(name).counts(x).values
    into = torch.tensor([np.searchsorted(coarse, e, "right") for e in (-math.inf, *EDGES)])
    merged = torch.zeros(len(coarse) + 1, dtype=torch.float64).index_add(0, into, fine)
    torch.testing.assert_close(built(name, coarse).counts(x).values, merged, rtol=0, atol=1e-12 * max(1, len(x)))


def test_a_batch_is_a_loop_and_a_vmap(histogram):
    x, w = normal(3, 4, 50), normal(3, 4, 50, seed=1)
    loop = torch.stack([torch.stack([histogram.counts(a, b).values for a, b in zip(*rows, strict=True)])
                        for rows in zip(x, w, strict=True)])  # fmt: skip
    torch.testing.assert_close(histogram.counts(x, w).values, loop, rtol=0, atol=1e-13)
    mapped = torch.func.vmap(torch.func.vmap(lambda a, b: histogram.counts(a, b).values))(x, w)
    torch.testing.assert_close(mapped, loop, rtol=0, atol=1e-13)
    shared = torch.func.vmap(lambda b: histogram.counts(x[0, 0], b).values)(w[0])
    torch.testing.assert_close(shared, histogram.counts(x[0, 0].expand(4, 50), w[0]).values, rtol=0, atol=1e-13)
    measured = histogram.measured(x, w)
    assert measured.covariance.shape == (3, 4, 6, 6)
    torch.testing.assert_close(measured.covariance[1, 2], histogram.measured(x[1, 2], w[1, 2]).covariance)


def test_an_axis_summed_over_leaves_the_other(flat):
    x, w = normal(200, 2), normal(200, seed=1)
    both = flat.counts(x, w)
    assert both.values.shape == (6, 4)
    assert both.inside.shape == (4, 2)
    assert both.flat.shape == (24,)
    for axis in (0, 1):
        alone = built(flat.entry_name(), TWO[axis]).counts(x[:, axis], w).values
        torch.testing.assert_close(both.values.sum(1 - axis), alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["poisson", "multinomial"])
def test_errors_are_those_of_repeating(histogram, kind):
    """Covariances claimed from one sample's own, averaged over repetitions, against the scatter of the repetitions."""
    n, repeats = 40, 4000
    generator = torch.Generator().manual_seed(5)
    sizes = (
        torch.poisson(torch.full((repeats,), float(n)), generator=generator)
        if kind == "poisson"
        else torch.full((repeats,), n)
    )
    most = int(sizes.max())
    x, w = normal(repeats, most, seed=6), normal(repeats, most, seed=7) + 2
    w = torch.where(torch.arange(most) < sizes[:, None], w, 0.0) if kind == "poisson" else w
    made = histogram.measured(x, w, kind=kind)
    values = made.values - made.values.mean(0)
    product = values[:, :, None] * values[:, None, :]
    off = (product - made.covariance).mean(0) / ((product - made.covariance).std(0) / math.sqrt(repeats))
    assert off.abs().max() < 4.5
    torch.testing.assert_close(made.standard_error**2, made.covariance.diagonal(dim1=-2, dim2=-1).clamp(min=0))


def test_the_number_of_a_fixed_number_of_samples_has_no_error(histogram, flat):
    for h, x in ((histogram, normal(100)), (flat, normal(100, 2))):
        made = h.measured(x, kind="multinomial")
        torch.testing.assert_close(made.covariance.sum(-1), torch.zeros(made.covariance.shape[0], dtype=torch.float64))
        assert torch.linalg.eigvalsh(made.covariance).min() > -1e-10
        assert torch.linalg.eigvalsh(h.measured(x).covariance).min() > -1e-10


@pytest.mark.parametrize("axes", [1, 2])
def test_weights_have_a_derivative(histogram, flat, axes):
    h, x = (histogram, normal(6)) if axes == 1 else (flat, normal(6, 2))
    w = normal(6, seed=1)

    def f(v: torch.Tensor) -> torch.Tensor:
        return h.counts(x, v).values

    assert torch.autograd.gradcheck(f, w.clone().requires_grad_(), check_forward_ad=True)
    torch.testing.assert_close(torch.func.jacfwd(f)(w), torch.func.jacrev(f)(w))


def test_chunks_do_not_show(histogram, flat, monkeypatch):
    x, w = normal(3, 100, 2), normal(3, 100, seed=1)
    whole = histogram.measured(x[..., 0], w), flat.measured(x, w)
    monkeypatch.setattr(binning, "AT_ONCE", 64)
    parts = histogram.measured(x[..., 0], w), flat.measured(x, w)
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one.values, other.values, rtol=0, atol=1e-12)
        torch.testing.assert_close(one.covariance, other.covariance, rtol=0, atol=1e-12)


def test_what_is_infinite_is_a_flow(histogram):
    values = histogram.counts([math.inf, -math.inf, math.inf, 1e300, -1e300]).values
    assert values.tolist() == [2.0, 0.0, 0.0, 0.0, 0.0, 3.0]


def test_no_samples_are_no_counts(histogram, flat):
    assert histogram.counts([]).values.tolist() == [0.0] * 6
    assert histogram.measured(torch.zeros(2, 0)).covariance.shape == (2, 6, 6)
    assert float(flat.counts(torch.zeros(0, 2)).total) == 0


def test_what_it_is_given_is_left_alone(histogram):
    x, w = normal(20), normal(20, seed=1)
    kept = x.clone(), w.clone()
    histogram.measured(x, w)
    assert torch.equal(x, kept[0])
    assert torch.equal(w, kept[1])
    single = histogram.counts(x.float()).values
    assert single.dtype == torch.float64
    assert torch.equal(single, histogram.counts(x.float().double()).values)
    assert torch.equal(histogram.counts(x.numpy(), w.numpy()).values, histogram.counts(x, w).values)


@pytest.mark.parametrize(
    ("x", "w", "sentence"),
    [
        ([0.0, math.nan, math.nan], None, "samples must be numbers. Got 2 of 3 that are NaN, the first at place 1; leave them "
         "out, or say in which bin they belong (infinite ones count as under- and overflow)."),
        ([0.0, 1.0], [1.0, math.inf], "weights must be finite. Got 1 of 2 that are not, the first at place 1; a sample that is "
         "not to count has the weight 0."),
        ([0.0, 1.0], [1.0, 1.0, 1.0], "weights must have the shape of the samples, [2]. Got [3]."),
        (0.0, None, "samples must be real numbers of shape [..., n], for 1 axis. Got torch.float64 of shape []."),
        ([1j], None, "samples must be real numbers of shape [..., n], for 1 axis. Got torch.complex128 of shape [1]."),
    ],
)  # fmt: skip
def test_refusals(histogram, x, w, sentence):
    with pytest.raises(InputError, match=f"^{re.escape(sentence)}$"):
        histogram.counts(x, w)


def test_what_is_no_array_of_numbers_is_told(histogram):
    for wrong in ("abc", [[1.0], [1.0, 2.0]], None):
        with pytest.raises(InputError, match=r"^samples must be an array of numbers\. Got "):
            Counts.of(histogram.binning([0.0, 1.0]), wrong)
    with pytest.raises(InputError, match=r"^weights must be an array of numbers\. Got 'a' "):
        histogram.counts([0.0], "a")


def test_nan_is_seen_under_vmap_and_on_two_axes(histogram, flat):
    x = normal(3, 5, 2)
    x[1, 2, 1] = math.nan
    with pytest.raises(InputError, match="samples must be numbers"):
        torch.func.vmap(lambda a: histogram.counts(a).values)(x[..., 1])
    with pytest.raises(InputError, match="Got 1 of 15 that are NaN, the first at place 7;"):
        flat.counts(x)
    with pytest.raises(
        InputError, match=re.escape("of shape [..., n, 2], for 2 axes. Got torch.float64 of shape [3, 5].")
    ):
        flat.counts(x[..., 0])


@pytest.mark.parametrize("edges", [[], [1.0], [0.0, 0.0], [1.0, 0.0], [0.0, math.inf], "ab", [[0, 1], [0, 1], [0, 1]],
                                   [[0, 1], [1]], 3.0])  # fmt: skip
@pytest.mark.parametrize("name", NAMES)
def test_edges_that_are_none(name, edges):
    cls = registry.find("histograms", name)
    with pytest.raises(
        InputError, match=r"^edges must be at least two finite numbers that rise, or a list of two such lists"
    ):
        cls(**{**cls.example, "edges": edges})


def test_edges_may_be_an_array_and_come_from_a_study(histogram):
    cls = type(histogram)
    assert cls(**{**cls.example, "edges": np.array(EDGES)}) == histogram
    assert built(histogram.entry_name(), list(EDGES)) == histogram
    assert built(histogram.entry_name(), [list(e) for e in TWO]) == built(histogram.entry_name(), TWO)
    assert hash(histogram) == hash(cls(**{**cls.example, "edges": np.array(EDGES)}))


def test_counts_without_a_covariance_say_so(histogram):
    with pytest.raises(InputError, match=r"must have a covariance. Got counts without; make them by `measured`."):
        _ = histogram.counts([0.0]).standard_error
    with pytest.raises(InputError, match=r"at least 2 samples. Got 1."):
        histogram.measured([0.0], kind="multinomial")
    with pytest.raises(InputError, match=r"kind must be 'poisson' or 'multinomial'. Got 'gauss'."):
        histogram.measured([0.0], kind="gauss")
    assert isinstance(histogram.measured([0.0, 1.0]), Counts)
