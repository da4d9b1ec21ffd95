"""Keyed numbers: uniform, independent of each other, and the same however they are asked for."""

import numpy as np
import torch
from scipy import stats

from emulate.lund import Keyed
from emulate.lund.keyed import streams


def numbers(seed=3, events=400, trials=30, sites=12):
    """u `[trials, sites, events]`."""
    keys = streams(seed, torch.arange(events))
    return torch.stack([Keyed(keys, torch.full_like(keys, t)).uniform(sites) for t in range(trials)]).numpy()


def test_they_are_uniform_and_no_two_are_the_same():
    u = numbers()
    assert 0 < u.min() < u.max() < 1
    assert len(np.unique(u)) == u.size
    assert stats.kstest(u.ravel(), "uniform").pvalue > 1e-3
    bits = (u.ravel() * 2**52).astype(np.int64)[:, None] >> np.arange(52) & 1
    share = bits.mean(0)
    assert np.abs(share - 0.5).max() < 5 * 0.5 / np.sqrt(u.size)


def test_neighbours_know_nothing_of_each_other():
    """Events, trials, sites and seeds next to each other: correlations and the distribution of pairs in 64 cells."""
    u, other = numbers(), numbers(seed=4)
    pairs = [(u[:, :, 1:], u[:, :, :-1]), (u[1:], u[:-1]), (u[:, 1:], u[:, :-1]), (u, other)]
    for x, y in pairs:
        x, y = x.ravel(), y.ravel()
        assert abs(np.corrcoef(x, y)[0, 1]) < 4.5 / np.sqrt(x.size)
        cells = np.bincount((x * 8).astype(int) * 8 + (y * 8).astype(int), minlength=64)
        assert stats.chisquare(cells).pvalue > 1e-4


def test_they_are_the_same_for_fewer_events_and_in_smaller_pieces():
    keys, trials = streams(1, torch.arange(50)), torch.arange(50)
    whole = Keyed(keys, trials).uniform(5)
    noise = Keyed(keys, trials)
    assert torch.equal(torch.cat((noise.uniform(2), noise.uniform(3))), whole)
    some = torch.tensor([40, 3])
    noise = Keyed(keys, trials)
    noise.uniform(2)
    assert torch.equal(noise.select(some).uniform(3), whole[2:, some])
    assert torch.equal(noise.later().uniform(1), Keyed(keys, trials).later().uniform(1))
    assert not bool(torch.isin(noise.later().uniform(5), Keyed(keys, trials).uniform(500)).any())
    assert torch.equal(streams(1, torch.tensor([7])), keys[7:8])
    assert not torch.equal(streams(2, torch.arange(50)), keys)
    assert not torch.equal(streams(1 + 2**63, torch.arange(50)), keys)
