"""Parts of the box of parameters, and what chance allows in each: where a promise is kept, and where not."""

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import root_scalar
from scipy.special import betainc
from torch import Tensor

from emulate.space import Space


@dataclass(frozen=True)
class Region:
    """A part of the box in words, and which of n points lie in it (bool `[n]`)."""

    name: str
    rows: Tensor


def regions(space: Space, theta: Tensor) -> tuple[Region, ...]:
    """The whole box, its inner and outer half, and the lower and upper half of every parameter, of theta `[n, d]`.

    All in the unit cube, where a volume is a share of the prior: the inner half are the points with
    max_i |2 u_i - 1| <= 2^(-1/d), half of the volume whatever d.

    >>> from emulate.space import Parameter, Uniform
    >>> space = Space((Parameter("a", Uniform(0, 10)),))
    >>> [(r.name, r.rows.tolist()) for r in regions(space, torch.tensor([[1.0], [6.0]], dtype=torch.float64))][1:]
    [('the inner half of the box', [False, True]), ('the outer half of the box', [True, False]),
     ('the lower half of a', [True, False]), ('the upper half of a', [False, True])]
    """
    u = space.to_unit(theta)
    inner = (2 * u - 1).abs().amax(-1) <= 0.5 ** (1 / space.d)
    parts = [("the whole box", torch.ones_like(inner)),
             ("the inner half of the box", inner), ("the outer half of the box", ~inner)]  # fmt: skip
    for i, name in enumerate(space.names):
        parts += [(f"the lower half of {name}", u[:, i] < 0.5), (f"the upper half of {name}", u[:, i] >= 0.5)]
    return tuple(Region(*part) for part in parts)


def corners(space: Space, theta: Tensor) -> tuple[Region, ...]:
    """Every quarter of the box that two parameters cut out, such as low a with high b: 2 d (d - 1) of them."""
    u = space.to_unit(theta)
    halves = {"low": u < 0.5, "high": u >= 0.5}
    return tuple(Region(f"the quarter of {kind} {space.names[i]} and {other} {space.names[j]}",
                        rows[:, i] & others[:, j])
                 for i, j in itertools.combinations(range(space.d), 2)
                 for (kind, rows), (other, others) in itertools.product(halves.items(), repeat=2))  # fmt: skip


def chance(n: int, missed: float, share: float) -> float:
    """P(at least `missed` of n runs miss), where each misses with probability `share`.

    `missed` may be a fraction, when of a run only some outputs miss: the binomial tail is then that of the incomplete
    beta function, which agrees with it at whole numbers. Outputs of a run that miss one by one instead of together
    scatter less, so that the true probability is smaller.

    >>> round(chance(2, 1, 0.5), 12), chance(5, 0, 0.05)
    (0.75, 1.0)
    """
    return float(betainc(missed, n - missed + 1, share)) if missed > 0 else 1.0


def allowance(n: int, share: float, p: float) -> float:
    """The number of n runs (0 to n) that must miss before it has probability p or less.

    >>> round(chance(20, allowance(20, 0.05, 0.01), 0.05), 6)
    0.01
    """
    if chance(n, n, share) >= p:
        return float(n)
    return float(root_scalar(lambda k: chance(n, k, share) - p, bracket=(1e-9, n), method="brentq").root)


def share_and_error(inside: np.ndarray) -> tuple[float, float]:
    """The mean of n runs' shares in [0, 1] and its binomial standard error, as if a run were one trial.

    >>> share_and_error(np.array([1.0, 0.0, 1.0, 0.0]))
    (0.5, 0.25)
    """
    p = float(np.mean(inside))
    return p, float(np.sqrt(p * (1 - p) / len(inside)))
