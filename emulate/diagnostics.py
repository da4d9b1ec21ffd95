"""R-hat and effective sample size of Markov chains."""

import torch
from torch import Tensor

from emulate.errors import InputError


def diagnose(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rank-normalised split R-hat `[d]` and bulk effective sample size `[d]` of draws x `[chains, draws, d]`.

    Vehtari, Gelman, Simpson, Carpenter and Buerkner (2021), as computed by arviz-stats. All chains must share one
    target. A parameter that no chain ever moved has R-hat infinity and an effective sample size of 0, never NaN.

    >>> rhat, ess = diagnose(torch.randn(4, 500, 1, generator=torch.Generator().manual_seed(1)))
    >>> bool(rhat < 1.01), bool(ess > 1000)
    (True, True)
    """
    from arviz_stats.base import array_stats

    if x.ndim != 3 or x.shape[1] < 4:
        raise InputError(f"diagnose: x must have shape [chains, draws, d] with at least 4 draws. Got {tuple(x.shape)}.")
    values = x.detach().cpu().double().numpy()
    rhat = torch.as_tensor(array_stats.rhat(values, chain_axis=0, draw_axis=1)).double()
    ess = torch.as_tensor(array_stats.ess(values, chain_axis=0, draw_axis=1)).double()
    still = torch.as_tensor(values.max((0, 1)) == values.min((0, 1))) | ~torch.isfinite(rhat) | ~torch.isfinite(ess)
    return torch.where(still, torch.inf, rhat), torch.where(still, 0.0, ess)
