r"""How an earthquake is met: its amplitude at a distance, one station that sees it or does not, and a network of them.

The amplitude is that of local magnitude as IASPEI (2013) defines it, M_L = log10 A + 1.11 log10 R + 0.00189 R - 2.09, A in
nm on a Wood-Anderson seismograph of magnification 1, R the distance from the hypocentre in km: geometric spreading as
R^-1.11, and anelastic attenuation by 0.00189 decades per km (Hutton and Boore 1987).
"""

import math

import torch
from torch import Tensor

SPREADING, ATTENUATION, OFFSET = 1.11, 0.00189, 2.09  # decades per decade of R; decades per km; decades
_RANGE, _HALVINGS = (-4.0, 8.0), 40  # magnitudes between which the least is sought; it is then known to 1e-11


def log_amplitude(magnitude: Tensor | float, distance: Tensor) -> Tensor:
    """log10 A, A in nm, of a local magnitude at a distance from the hypocentre, km.

    >>> round(float(10 ** log_amplitude(2.0, torch.tensor(50.0, dtype=torch.float64))), 4)
    128.7192
    """
    return magnitude + OFFSET - SPREADING * distance.log10() - ATTENUATION * distance


def distances(stations: Tensor, events: Tensor, depth: float) -> Tensor:
    """R `[..., e, n]` from events `[e, 2]` at a depth to stations `[..., n, 2]` on the surface, km."""
    apart = stations[..., None, :, :] - events[:, None, :]
    return (apart.square().sum(-1) + depth**2).sqrt()


def seen(magnitude: Tensor | float, distance: Tensor, threshold: Tensor, scatter: float) -> Tensor:
    """P(log10 A + scatter * N(0, 1) is above log10 threshold), the threshold in nm."""
    return torch.special.ndtr((log_amplitude(magnitude, distance) - threshold.log10()) / scatter)


def at_least(k: int, p: Tensor) -> Tensor:
    """P(at least k of n independent things happen) `[...]` of the probabilities p `[..., n]` of each.

    The tail of the Poisson binomial distribution, exact: station after station the probabilities of 0 ... k - 1 detections
    are carried, and what reaches k stays there (Barlow and Heidtmann 1984). A sum of products that are not negative, so that
    nothing cancels.

    >>> round(float(at_least(4, torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5], dtype=torch.float64))), 12)
    0.5226
    """
    nothing = torch.zeros_like(p[..., 0])
    counts, reached = [torch.ones_like(nothing), *[nothing] * (k - 1)], nothing
    for one in p.unbind(-1):
        reached = reached + counts[-1] * one
        moved = [nothing, *(c * one for c in counts[:-1])]
        counts = [c * (1 - one) + m for c, m in zip(counts, moved, strict=True)]
    return reached


def least_magnitude(k: int, certainty: float, distance: Tensor, threshold: Tensor, scatter: float) -> Tensor:
    """The local magnitude `[...]` from which on k of n stations at distances `[..., n]` detect with `certainty`.

    Detection grows with magnitude, so that halving an interval finds it.
    """
    low, high = (torch.full_like(distance[..., 0], end) for end in _RANGE)
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        enough = at_least(k, seen(middle[..., None], distance, threshold, scatter)) >= certainty
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
    return 0.5 * (low + high)


def evenly(n: int) -> Tensor:
    """n points `[n, 2]` spread evenly over the unit disc, each with its mirror image through the centre.

    Two spirals of sunflower seeds, as on a pine cone of two-fold symmetry (Vogel 1979): seed j at the radius
    sqrt((j + 1/2) / m) and the angle j times half the golden angle. One point of an odd number is the centre.
    """
    m = n // 2
    j = torch.arange(m, dtype=torch.float64)
    radius, angle = ((j + 0.5 + 0.5 * (n % 2)) / max(n / 2, 1)).sqrt(), 0.5 * math.pi * (3 - math.sqrt(5)) * j
    half = torch.stack([radius * angle.cos(), radius * angle.sin()], -1)
    return torch.cat([half, -half, torch.zeros(n % 2, 2, dtype=torch.float64)])


def gaussian(n: int) -> Tensor:
    """The same n points `[n, 2]` moved outwards to a normal distribution, of which 1 - exp(-r^2 / 2) lies within r."""
    unit = evenly(n)
    square = unit.square().sum(-1, keepdim=True)
    outwards = -2 * torch.log1p(-square) / square.clamp_min(1e-300)
    return unit * torch.where(square > 0, outwards.sqrt(), 0.0)
