"""Histograms of events, hard and soft, against the soft histogram of the house and against each other."""

from dataclasses import replace

import pytest
import torch

from emulate.errors import InputError
from emulate.histograms.soft import Soft
from emulate.lund.measurement import Measurement
from emulate.lund.observables import thrust, transverse
from emulate.simulators.lund import Lund

MONASH = torch.tensor([0.68, 0.98, 0.335], dtype=torch.float64)


@pytest.fixture(scope="module")
def events():
    return Lund().fragment(MONASH, seed=1, n=8000)


def test_soft_counts_are_those_of_the_soft_histogram(events):
    soft = Measurement(output="histograms", bandwidth=0.4)
    y = dict(zip(soft.observables, soft.of(events).sum(0).split([len(soft.edges_of(n)) - 1 for n in soft.observables])))
    for name, x in (("thrust", 1 - thrust(events).value), ("pt", transverse(events)[events.charged])):
        edges = soft.edges_of(name)
        bins = Soft(edges=tuple(edges.tolist()), bandwidth=0.4 * float(edges.diff().min()), support=(0.0, None))
        torch.testing.assert_close(y[name], bins.counts(x).inside, rtol=1e-12, atol=1e-9)
    hard = replace(soft, bandwidth=0.0).of(events).sum(0)
    assert torch.equal(y["multiplicity"], hard[: len(y["multiplicity"])]), "a multiplicity has no density to smooth"


def test_what_smoothing_adds_is_told_about(events):
    soft = Measurement(output="histograms", bandwidth=0.4)
    each = soft.of(events) - replace(soft, bandwidth=0.0).of(events)
    added, told = each.mean(0), soft.softening(soft.of(events).mean(0))
    moved = added.abs() > 4 * each.std(0) / len(each) ** 0.5
    assert 4 < int(moved.sum()) < len(moved)
    assert float(torch.corrcoef(torch.stack((added[moved], told[moved])))[0, 1]) > 0.8


def test_a_simulator_says_what_its_bandwidth_adds():
    y = torch.rand(37, dtype=torch.float64)
    assert Lund().softening(y) is None


@pytest.mark.parametrize(("settings", "said"), [
    ({"bandwidth": 3.0}, "from 0, hard bins, to 2"), ({"bandwidth": 0.3, "output": "means"}, "go with histograms")])  # fmt: skip
def test_a_bandwidth_that_cannot_be_is_refused(settings, said):
    with pytest.raises(InputError, match=said):
        Lund(**settings)
