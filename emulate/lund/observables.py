"""Observables of events: charged multiplicity, thrust, scaled momentum x_p, transverse momentum to an axis."""

from dataclasses import dataclass

import torch
from torch import Tensor

from emulate.errors import InputError
from emulate.lund.events import Events

_AT_ONCE = 1 << 18  # numbers of a chunk, which a cache holds


@dataclass(frozen=True)
class Thrust:
    """T `[n]`, from 1/2 to 1, and its axis `[n, 3]`, a unit vector with n_z >= 0."""

    value: Tensor
    axis: Tensor


def charged_multiplicity(events: Events) -> Tensor:
    """Charged hadrons per event, float64 `[n]`."""
    return events.sum(events.charged.double())


def thrust(events: Events) -> Thrust:
    """T = max over unit n of sum |p_i . n| / sum |p_i|, over all hadrons (Farhi 1977), exactly.

    The best axis is along sum s_i p_i for signs s_i that some plane through the origin makes; planes through two of the
    momenta make them all, with either sign for those two (Brandt & Dahmen 1979). The cost goes with the cube of the
    multiplicity; at 15 hadrons it is about that of making the event.

    >>> x = torch.tensor([3.0, -3.0], dtype=torch.float64)
    >>> thrust(Events(torch.tensor([0, 2]), 0 * x, 0 * x, x, x.abs(), 0 * x, torch.tensor([211, -211]))).value
    tensor([1.], dtype=torch.float64)
    """
    p = torch.stack((events.px, events.py, events.pz), 1)
    sizes, best = events.multiplicity, torch.zeros(len(events), 3, dtype=torch.float64)
    for m in sizes.unique().tolist():
        i, j = torch.triu_indices(m, m, 1)
        which = (sizes == m).nonzero().view(-1)
        for chunk in which.split(max(1, _AT_ONCE // max(1, m * (len(i) + m)))):
            rows = events.offsets[chunk][:, None] + torch.arange(m)
            best[chunk] = _longest(p.index_select(0, rows.view(-1)).view(len(chunk), m, 3), i, j)
    length = best.norm(dim=1)
    total = events.sum(p.norm(dim=1))
    up = torch.where(best[:, 2:] < 0, -1.0, 1.0)
    return Thrust(length / total, up * best / length.clamp(min=1e-300)[:, None])


def _longest(p: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """The longest sum of +-p `[k, m, 3]` whose signs a plane makes, `[k, 3]`; i, j are all pairs.

    With s the sum of the others, |s + r_i p_i + r_j p_j|^2 is greatest over the signs r at |s|^2 + |p_i|^2 + |p_j|^2 +
    2 max(|s.p_i + s.p_j| + p_i.p_j, |s.p_i - s.p_j| - p_i.p_j).
    """
    k, m = torch.arange(len(p)), p.shape[1]
    first, second = p.index_select(1, i), p.index_select(1, j)
    normals = torch.cat((torch.linalg.cross(first, second), p), 1)  # the momenta themselves serve where all are in line
    numbers = torch.arange(m)
    others = torch.cat(((numbers != i[:, None]) & (numbers != j[:, None]), torch.ones(m, m, dtype=torch.bool))).double()
    signs = torch.sign(normals @ p.transpose(1, 2)).mul_(others)  # k events, pairs and momenta, m momenta
    s, plain = (signs @ p).split((len(i), m), 1)
    one, two, both = _dot(s, first), _dot(s, second), _dot(first, second)
    square = _dot(p, p)
    same, opposite = (one + two).abs() + both, (one - two).abs() - both
    length = _dot(s, s) + square.index_select(1, i) + square.index_select(1, j) + 2 * torch.maximum(same, opposite)
    best = length.argmax(1)
    one, two, same, opposite = (x[k, best][:, None] for x in (one, two, same, opposite))
    flip = torch.where(same >= opposite, 1.0, -1.0)  # r_i r_j
    sign = torch.where(one + flip * two < 0, -1.0, 1.0)
    found = s[k, best] + sign * (first[k, best] + flip * second[k, best])
    other = plain[k, _dot(plain, plain).argmax(1)]
    return torch.where((other.square().sum(1) > found.square().sum(1))[:, None], other, found)


def _dot(x: Tensor, y: Tensor) -> Tensor:
    """x . y of the last axis; torch is slow where it sums three numbers at a time."""
    a, b, c = (x * y).unbind(-1)
    return a + b + c


def scaled_momentum(events: Events) -> Tensor:
    """x_p = 2 |p| / W of each hadron `[N]`, W the energy of its event."""
    p = torch.sqrt(events.px**2 + events.py**2 + events.pz**2)
    return 2 * p / events.sum(events.e).index_select(0, events.event)


def transverse(events: Events, axis: Tensor | None = None) -> Tensor:
    """Transverse momentum of each hadron `[N]` in GeV, to the string or to the axis `[n, 3]` (unit vectors) of its event."""
    if axis is None:
        return torch.sqrt(events.px**2 + events.py**2)
    if axis.shape != (len(events), 3):
        raise InputError(
            f"axis must be one unit vector for each of {len(events)} events. Got shape {list(axis.shape)}."
        )
    p = torch.stack((events.px, events.py, events.pz), 1)
    return torch.linalg.cross(p, axis.index_select(0, events.event)).norm(dim=1)


def counts(x: Tensor, edges: Tensor) -> Tensor:
    """Each value `[n]` as a row of zeros with a one in its bin, `[n, bins + 2]`: below, the bins, above; float64."""
    rows = torch.zeros(len(x), len(edges) + 1, dtype=torch.float64)
    return rows.scatter_(1, torch.searchsorted(edges, x, right=True)[:, None], 1.0)


def gradient(h: Tensor, score: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """E[h] `[m]`, dE[h]/dtheta `[m, d]` and the standard error of that `[m, d]`, from h `[n, m]` and the score `[n, d]`.

    dE[h]/dtheta = Cov(h, score), for any h, hard counts included; the covariance also removes what restarts do to the
    normaliser. See `History.score`.
    """
    if h.ndim != 2 or score.ndim != 2 or len(h) != len(score) or len(h) < 2:
        raise InputError("h must be [n, m] and score [n, d] of the same n events, two or more. Got shapes "
                         f"{list(h.shape)} and {list(score.shape)}.")  # fmt: skip
    n, value = len(h), h.mean(0)
    centred, moved = h - value, score - score.mean(0)
    slope = centred.T @ moved / (n - 1)
    square = centred.square().T @ moved.square() / n
    return value, slope, torch.sqrt((square - slope.square()).clamp(min=0.0) / n)
