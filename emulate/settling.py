"""By how much one posterior of an observation differs from the next, as runs are added: whether the answer has settled."""

from dataclasses import dataclass

import torch
from torch import Tensor

from emulate.contracts import Weighted
from emulate.emulator import Emulator
from emulate.importance import reweigh
from emulate.posterior import Posterior
from emulate.runs import Runs


@dataclass(frozen=True)
class Step:
    """From one posterior to the next: shift `[d]` of the first's mean in standard deviations of the second's, width `[d]` its
    standard deviation over the second's, and the Pareto shape of the weights between the two."""

    shift: Tensor
    width: Tensor
    pareto_k: float


@torch.no_grad()
def step(before: Posterior, draws: Tensor, after: Posterior, later: Tensor) -> Step:
    """The step between two posteriors of one observation, through two emulators, by equally likely theta `[t, d]` of each.

    The first's draws are weighted by the ratio of the two likelihoods. Where the weights fall off fast enough (Vehtari et al.
    2024) and what they say is sharp, the step is told by them, on the same draws with and without: steps far below the noise
    of the draws are seen. Elsewhere the two have little in common, and the draws of each are compared.

    It is no distance from the truth: an emulator that errs may stand still.
    """
    log_weight = after.log_likelihood(draws) - before.log_likelihood(draws)
    for posterior, sign in ((after, 1), (before, -1)):
        if posterior.restriction is not None:
            log_weight = log_weight + sign * posterior.restriction(draws)
    log_weight = torch.where(log_weight.isnan(), -torch.inf, log_weight)
    k = torch.inf
    if log_weight.isfinite().sum() > len(draws) / 2:
        made = reweigh(Weighted(draws, log_weight, draws), before.space)
        k = made.pareto_k
        if made.trusted:
            return Step(made.shift, made.width, k)
    return Step((draws.mean(0) - later.mean(0)) / later.std(0), draws.std(0) / later.std(0), float(k))


@torch.no_grad()
def missed(emulator: Emulator, runs: Runs) -> float:
    """By how many of the emulator's own standard deviations finished runs lie off its prediction, root mean square.

    1 for an honest emulator and runs that it has not seen, 3 for one that is three times as sure as it should be.
    """
    prediction, y = emulator.predict(runs.theta, outside="ignore"), torch.from_numpy(runs.y)
    of = getattr(prediction, "standard", None)  # on logarithms where the emulator is
    off = of(y) if of else (y - prediction.mean) / prediction.variance.sqrt()
    return float(off.square().mean().sqrt())
