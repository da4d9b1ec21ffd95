"""R-hat and effective sample size of Markov chains."""

import numpy as np
import torch
from torch import Tensor

from emulate.errors import InputError


def diagnose(x: Tensor, groups: int = 1) -> tuple[Tensor, Tensor]:
    """Rank-normalised split R-hat `[d]` and bulk effective sample size `[d]` of draws x `[chains, draws, d]`.

    Vehtari, Gelman, Simpson, Carpenter and Buerkner (2021), as computed by arviz-stats. All chains of one of the
    `groups`, equal runs of neighbours, must share a target; the worst group's figures are returned. A parameter that
    no chain ever moved has R-hat infinity and an effective sample size of 0, never NaN.

    >>> rhat, ess = diagnose(torch.randn(4, 500, 1, generator=torch.Generator().manual_seed(1)))
    >>> bool(rhat < 1.01), bool(ess > 1000)
    (True, True)
    """
    from arviz_stats.base.array import array_stats

    least = 4 if x.ndim == 3 and len(x) > 1 else 8  # one chain is split into halves, and those into halves
    if x.ndim != 3 or x.shape[1] < least:
        raise InputError(f"x must have shape [chains, draws, d] with at least 4 draws, 8 of a single chain. Got "
                         f"{tuple(x.shape)}; draw more.")  # fmt: skip
    if groups > 1:
        each = [diagnose(part) for part in x.unflatten(0, (groups, -1))]
        return torch.stack([rhat for rhat, _ in each]).amax(0), torch.stack([ess for _, ess in each]).amin(0)
    values = x.detach().cpu().double().numpy()
    halves = values[:, : values.shape[1] // 2 * 2].reshape(2, -1, values.shape[2]) if len(values) == 1 else values
    with np.errstate(invalid="ignore", divide="ignore"):  # a parameter that never moved is told apart below
        rhat = torch.as_tensor(array_stats.rhat(halves, chain_axis=0, draw_axis=1)).double()
        ess = torch.as_tensor(array_stats.ess(values, chain_axis=0, draw_axis=1)).double()
    still = torch.as_tensor(values.max((0, 1)) == values.min((0, 1))) | ~torch.isfinite(rhat) | ~torch.isfinite(ess)
    return torch.where(still, torch.inf, rhat), torch.where(still, 0.0, ess)


def running(x: np.ndarray) -> float:
    """Split R-hat of draws x `[draws, groups, chains, d]`, the worst: without ranks, for a glance while draws are made.

    Gelman et al. (2013, eq. 11.4): the root of 1 - 1/n + (variance of the means) / (mean variance), over halves of chains.
    """
    n = len(x) // 2
    halves = np.concatenate([x[:n], x[n : 2 * n]], 2)
    with np.errstate(invalid="ignore", divide="ignore"):
        rhat = np.sqrt(1 - 1 / n + halves.mean(0).var(1, ddof=1) / halves.var(0, ddof=1).mean(1))
    return float(np.where(np.isnan(rhat), np.inf, rhat).max())


def require_chains(start: Tensor, n: int, groups: int) -> None:
    """InputError unless start is `[chains, d]`, finite, splits into groups, and n allows R-hat to be computed."""
    if start.ndim != 2 or not start.numel() or not torch.isfinite(start).all():
        raise InputError(f"start must be finite numbers of shape [chains, d]. Got shape {tuple(start.shape)} with "
                         f"{int((~torch.isfinite(start)).sum())} numbers that are not finite.")  # fmt: skip
    if len(start) % groups:
        raise InputError(f"start must split into {groups} equal groups of chains. Got {len(start)} rows; give a "
                         f"multiple of {groups}.")  # fmt: skip
    least = 8 if len(start) == groups else 4
    if n < least:
        raise InputError(f"n must be at least {least} draws for each chain. Got {n}; R-hat compares halves.")
