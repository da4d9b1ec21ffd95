"""Draws from the Gaussian that fits the mode."""

from dataclasses import dataclass

import torch
from torch import Tensor

from emulate.contracts import Checkpoint, Draws, LogDensity, Progress, Sampler
from emulate.densities import climb
from emulate.diagnostics import diagnose, require_chains


@dataclass(frozen=True, kw_only=True)
class Laplace(Sampler):
    """Laplace approximation: independent draws from N(mode, H^-1), with the share of them that importance weights keep.

    H is the Hessian of -ln p at the mode uphill of each row of start (Tierney and Kadane 1986). Exact for a Gaussian;
    elsewhere `efficiency` in the diagnostics, (sum w)^2 / (N sum w^2) with w = p / N(mode, H^-1), falls below 1.
    Chains that climb to different modes show as a large R-hat; a chain without a mode is flagged divergent. Draws take a
    moment, so an interrupted call starts anew, and keeps no checkpoint.

    >>> draws = Laplace().draw(lambda x: -0.5 * (x**2).sum(-1), torch.ones(2, 3, dtype=torch.float64), 500, seed=1)
    >>> round(draws.diagnostics["efficiency"], 6)
    1.0
    """

    def draw(self, log_density: LogDensity, start: Tensor, n: int, *, seed: int, progress: Progress | None = None,
             checkpoint: Checkpoint | None = None) -> Draws:  # fmt: skip
        require_chains(start, n, self.groups)
        mode = climb(log_density, start.double())
        noise = torch.randn((n, *start.shape), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        factor = torch.linalg.cholesky(mode.covariance)
        x = mode.x + (factor @ noise.to(start.device)[..., None])[..., 0]
        value = torch.empty(n, len(start), dtype=torch.float64, device=start.device)
        for i in range(n):
            value[i] = log_density(x[i]).detach()
            if progress and (i % 100 == 99 or i + 1 == n):
                progress(i + 1, n, "")
        log_weight = torch.nan_to_num(value + 0.5 * (noise.to(value) ** 2).sum(-1), nan=-torch.inf)
        weight = torch.exp(log_weight - log_weight.amax(0))
        efficiency = float((weight.sum(0) ** 2 / (weight**2).sum(0)).mean() / n)
        x, divergent = x.transpose(0, 1), ~mode.converged[:, None].expand(-1, n)
        return Draws(x, value.T, divergent, *diagnose(x, self.groups), {"efficiency": efficiency})
