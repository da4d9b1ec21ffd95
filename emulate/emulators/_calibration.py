"""What residuals of runs that a model never saw say of its error bars: their width, and how components err together."""

import numpy as np
import torch
from torch import Tensor

LEVELS = {0.8: 1.2815515655446004, 0.9: 1.6448536269514722, 0.95: 1.959963984540054}  # of central intervals: their z
_LEAST = 0.5  # no interval shrinks by more than this
_TOGETHER = 16  # leading components that may correlate: the rest hold little variance, and pairs cost their square
_FEWEST = 10  # runs from which a correlation may be told
_FAR = 3.0  # standard deviations beyond which a residual counts no more for a correlation


def scale(standard: Tensor) -> Tensor:
    """By how much to multiply a standard deviation `[p]`, of standardised residuals `[n, p]` of runs left out.

    The geometric mean over the levels of the quantile of |r| over that of a normal: intervals of 80, 90 and 95 % then hold
    about so many of new runs whatever the tails, as in conformal prediction (Lei et al. 2018), where a mean square would be
    that of the few worst runs. Quantiles are median-unbiased (Hyndman and Fan 1996, type 8): few runs do not narrow them.

    >>> r = torch.distributions.Normal(0.0, 2.0).icdf((torch.arange(999, dtype=torch.float64) + 1)[:, None] / 1000)
    >>> scale(r).round(decimals=2)
    tensor([2.], dtype=torch.float64)
    """
    n = len(standard)
    places = [((n + 1 / 3) * level - 2 / 3) / max(n - 1, 1) for level in LEVELS]  # of torch's quantiles
    levels = torch.tensor(places, dtype=standard.dtype).clamp(0, 1)
    normal = torch.tensor(list(LEVELS.values()), dtype=standard.dtype)
    return (
        (torch.quantile(standard.abs(), levels, dim=0) / normal[:, None])
        .clamp_min(1e-6)
        .log()
        .mean(0)
        .exp()
        .clamp_min(_LEAST)
    )


def mix(standard: Tensor) -> Tensor:
    """The lower triangle `[c, c]` of the correlation of the leading components' residuals `[n, p]`; empty for one.

    Errors of components cancel in some outputs and add up in others, and only their correlation knows. It is shrunk
    towards none as Ledoit and Wolf (2004) do: what n runs do not show is not believed.
    """
    c = min(standard.shape[1], _TOGETHER)
    if c < 2 or len(standard) < _FEWEST:
        return standard.new_zeros(0, 0)
    from sklearn.covariance import ledoit_wolf  # here, because loading an emulator does not need it

    r = standard[:, :c].clamp(-_FAR, _FAR).numpy()
    r = r / np.sqrt((r**2).mean(0)).clip(1e-12)
    covariance = torch.from_numpy(ledoit_wolf(r, assume_centered=True)[0])
    sd = covariance.diagonal().sqrt()
    return torch.linalg.cholesky(covariance / (sd[:, None] * sd))
