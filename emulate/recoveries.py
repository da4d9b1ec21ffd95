"""Recovery of known parameters: many observations sampled in one batch, each against its own truth."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from emulate.contracts import Progress, Recovery, Sampler
from emulate.posterior import MAP, Posterior
from emulate.seeds import replicate


def recover(posterior: Posterior, truth: Tensor, sampler: Sampler, *, seed: int, chains: int = 6, draws: int = 100,
            best: MAP | None = None, progress: Progress | None = None) -> Recovery:  # fmt: skip
    """The posteriors of q observations `posterior.data` `[q, m]` of truth `[q, d]`, by `chains` chains of each.

    All chains are one batch in which every observation adapts on its own; they start from its best fit, `best` where it is
    known. Densities are compared in the sampler's coordinates: the share of draws above the truth's density is uniform for
    an exact posterior in any coordinates. Draws stand in an order in which neighbours are of different chains.

    >>> from emulate.distributions import Exact
    >>> from emulate.likelihoods.gaussian import Gaussian
    >>> from emulate.samplers.laplace import Laplace
    >>> from emulate.space import Normal, Parameter, Space
    >>> space = Space((Parameter("a", Normal(0.0, 1.0)),))
    >>> truth = torch.zeros(3, 1, dtype=torch.float64)
    >>> three = Posterior(space, Exact, Gaussian(absolute_error=1.0), truth + 0.5)
    >>> made = recover(three, truth, Laplace(), seed=1)
    >>> tuple(made.draws.shape), tuple(made.rank.shape), bool(made.mean.mean() > 0)
    ((3, 600, 1), (3,), True)
    """
    q, d = truth.shape
    best = best or posterior.find_map(restarts=4, seed=replicate(seed, 1))
    start = best.starts(chains, seed=replicate(seed, 2)).transpose(0, 1).reshape(q * chains, -1)
    each = replace(posterior, data=posterior.data.repeat_interleave(chains, 0))
    made = sampler.grouped(q).draw(each.log_density, start, draws, seed=replicate(seed, 3), progress=progress)
    x = posterior.x(truth)
    at_truth = each.log_density(x.repeat_interleave(chains, 0)).detach().reshape(q, chains)[:, :1]
    rank = (made.log_density.reshape(q, -1) > at_truth).double().mean(1)
    drawn = made.x.detach().reshape(q, chains, -1, d)
    theta = posterior.theta(drawn).reshape(q, -1, d)
    told = torch.cat([drawn, made.log_density.detach().reshape(q, chains, -1, 1)], -1)
    return Recovery(rank, truth, theta.mean(1), theta.std(1), drawn.transpose(1, 2).reshape(q, -1, d), x, _worth(told))


def _worth(x: Tensor) -> Tensor:
    """Independent draws `[q]` that those of x `[q, chains, draws, k]` are worth in the worst of k numbers; 1 where none moves."""
    from arviz_stats.base.array import array_stats

    with np.errstate(invalid="ignore", divide="ignore"):
        each = torch.as_tensor(array_stats.ess(x.numpy(), chain_axis=1, draw_axis=2)).double()
    return each.nan_to_num(nan=1.0).amin(-1).clamp(1.0, float(x.shape[1] * x.shape[2]))
