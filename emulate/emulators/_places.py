"""Runs by the place where they lie: those at one place are left out together, or one would tell of the other."""

import torch
from torch import Tensor

from emulate.runs import places


def dealt(u: Tensor, folds: int) -> Tensor:
    """The fold `[n]` of each run at u `[n, d]`: places are dealt in turn, to as many folds as there are places.

    >>> dealt(torch.tensor([[0.1], [0.1], [0.5], [0.9], [0.5]]), 2).tolist()
    [0, 0, 1, 0, 1]
    """
    place = _places(u, 2)
    return place % min(folds, int(place.max()) + 1)


def shuffled(u: Tensor, generator: torch.Generator, *, least: int) -> Tensor:
    """The rank `[n]` of the place of each run in a random order of the places; with fewer places than `least`, of the runs.

    >>> rank = shuffled(torch.tensor([[0.1], [0.1], [0.5]]), torch.Generator().manual_seed(1), least=2).tolist()
    >>> rank[0] == rank[1] != rank[2]
    True
    """
    place = _places(u, least)
    return torch.randperm(int(place.max()) + 1, generator=generator)[place]


def parted(u: Tensor, share: float, generator: torch.Generator, *, least: int) -> tuple[Tensor, Tensor]:
    """The runs to learn from and `share` of them to be held out, in random order, by places as in `shuffled`.

    >>> u = torch.tensor([0.1, 0.5, 0.9, 0.1, 0.3])[:, None]
    >>> seen, out = parted(u, 0.5, torch.Generator().manual_seed(1), least=2)
    >>> set(u[seen].ravel().tolist()) & set(u[out].ravel().tolist())
    set()
    """
    place = _places(u, least)
    n = int(place.max()) + 1
    position = torch.randperm(n, generator=generator).argsort()[place]
    order, out = position.argsort(stable=True), int((position < max(2, round(share * n))).sum())
    return order[out:], order[:out]


def _places(u: Tensor, least: int) -> Tensor:
    """With fewer than `least` nothing could be left out, and every run counts as a place."""
    place = torch.from_numpy(places(u.detach().cpu().numpy()))
    return place if int(place.max()) + 1 >= least else torch.arange(len(u))
