"""Split conformal prediction: the width of error bars from runs that no part of a fit has seen, with a guarantee.

Of h + 1 exchangeable runs, h held out and one new, the new one's score is as likely to have any rank as any other. So an
interval out to the k-th smallest of the h scores, k = ceil((h + 1) level), holds the new run with probability k / (h + 1)
>= level, whatever the emulator and however wrong its error bars (Vovk, Gammerman and Shafer 2005; Lei, G'Sell,
Rinaldo, Tibshirani and Wasserman 2018, theorem 2). The score of output j is |w_j - loc_j| / sd_j, w = y or
ln y where the emulator works on that (Lei et al. 2018, section 5.2); the standard deviation is multiplied by

    s_j = [k-th smallest score] / z,    z = 1.96 of a normal at 95 %,

so the central 95 % interval of the prediction is the conformal interval, output by output. The guarantee is for the
average over designs and new runs drawn alike: random points; scrambled Sobol and Latin hypercubes are close to that, an
active design is not. Of one fit the coverage is Beta(k, h + 1 - k) (Angelopoulos and Bates 2023, section 3.2): it scatters
by 0.048 with 19 held-out runs, 0.022 with 99, 0.007 with 999.
"""

import numpy as np
from torch import Tensor

ODDS = 20  # one run in so many lies outside: a level of 95 %
FEWEST = ODDS - 1  # runs below which the largest score does not reach the level
_Z = 1.959963984540054  # of a normal's central 95 %
_MOST = 50 * ODDS - 1  # more would not make the coverage much surer
_PARTS = 5  # one part of the runs is held out
_LEAST = 1e-3  # no error bar shrinks by more than this: an emulator that is right to the last bit still has one


def held_out(theta: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Of runs at theta `[n, d]`: rows that are learnt from, and rows that are scored, a fifth of the places.

    h = 19, 39, 59 ...: there k / (h + 1) is the level itself. Runs that repeat a place stay together, and the first of them
    is scored: the others are no further draws.

    >>> learnt, scored = held_out(np.linspace(0, 1, 100)[:, None], seed=0)
    >>> len(learnt), len(scored)
    (81, 19)
    """
    _, first, place = np.unique(theta, axis=0, return_index=True, return_inverse=True)
    h = max(FEWEST, (min(_MOST, len(first) // _PARTS) + 1) // ODDS * ODDS - 1)
    some = np.random.default_rng([seed, 95]).permutation(len(first))[:h]
    return np.flatnonzero(~np.isin(place.ravel(), some)), np.sort(first[some])


def widening(standard: Tensor) -> Tensor:
    """s `[m]` of standardised residuals `[h, m]` of runs that were held out, h at least 19.

    >>> import torch
    >>> widening(torch.linspace(0.1, 1.9, 19, dtype=torch.float64)[:, None]).round(decimals=3)
    tensor([0.9690], dtype=torch.float64)
    """
    k = len(standard) + 1 - (len(standard) + 1) // ODDS  # ceil((h + 1) level) in whole numbers
    return (standard.abs().sort(0).values[k - 1] / _Z).clamp_min(_LEAST)


def words(widening: Tensor, h: int) -> str:
    """What a user is told.

    >>> import torch
    >>> words(torch.tensor([0.8, 1.25, 1.3]), 19)
    'error bars times 0.8 to 1.3 by 19 runs held out: 95 % intervals hold at least 95 % of new runs on average'
    """
    low, high = (f"{float(s):.3g}" for s in (widening.min(), widening.max()))
    times = low if low == high else f"{low} to {high}"
    return (f"error bars times {times} by {h} runs held out: {1 - 1 / ODDS:.0%} intervals hold at least "
            f"{1 - 1 / ODDS:.0%} of new runs on average").replace("%", " %")  # fmt: skip
