"""The observation is itself a run of a stochastic simulator: its density is the emulator's own."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution

from emulate.contracts import Likelihood
from emulate.distributions import Exact, apart, gaussian_of
from emulate.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Predictive(Likelihood):
    """The observation is one run of a stochastic simulator, or as good as one: all its noise is the simulator's.

    ln p(data | theta) is the predictive density of the emulator, which is that of a single run: Gaussian with the
    prediction's covariance, or a flow's own density. It holds the noise of a run and what is not known of its mean, so
    that nothing is added, and nothing is counted twice. Outputs that no training run varied, as bins that stayed empty, say
    nothing of theta and are left out. An observation with further noise, of a meter for example, needs
    `gaussian`, which adds that to the prediction.

    data `[..., m]` broadcasts against the prediction's batch. `InputError` for an exact prediction, the output of one true
    run: it is a draw and has no density, so true runs do not weigh the parameters. They confirm the answer instead, by
    `check.confirm` of a study.

    >>> run = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(2).double(), 1.0), 1)
    >>> Predictive().log_prob(run, torch.zeros(2).double())  # -ln(2 pi)
    tensor(-1.8379, dtype=torch.float64)
    """

    adds_noise: ClassVar[bool] = False

    def log_prob(self, prediction: Distribution, data: Tensor) -> Tensor:
        if isinstance(prediction, Exact):
            raise InputError("predictive must be given a prediction with a density. Got one true run, which is a draw "
                             "and has none; predict by an emulator, or use gaussian with the observation's noise.")  # fmt: skip
        value = prediction.log_prob(apart(prediction, data))
        return torch.where(torch.isnan(value), -torch.inf, value)

    def covariance(self, data: Tensor, prediction: Distribution | None = None) -> Tensor:
        """That of a run as predicted, zeros without a prediction: the observation has no noise beside it."""
        none = torch.diag_embed(torch.zeros_like(data))
        return none if prediction is None else none + gaussian_of(prediction)[1]

    def sample(self, truth: Tensor, *, seed: int) -> Tensor:
        """The run itself: it is noisy already."""
        return truth
