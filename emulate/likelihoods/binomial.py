"""Positives among a fixed number of trials: a test, a vote, an efficiency of which the emulator predicts the expectation."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor
from torch.distributions import Distribution

from emulate.distributions import gaussian_of
from emulate.errors import InputError
from emulate.likelihoods._around import Around, Local
from emulate.likelihoods._counting import expected, whole
from emulate.likelihoods._laplace import evidence

_SHY = 0.25  # expected failures, below which a parabola takes over


@dataclass(frozen=True, kw_only=True)
class Binomial(Around):
    r"""How many of n `trials` are positive, each output by itself, around the expected number y that the prediction gives.

    ln p = sum_j ln C(n, k_j) + k_j ln(y_j / n) + (n - k_j) ln(1 - y_j / n). All that makes y unsure, the emulator among it,
    is marginalised as for `poisson`: a lognormal of the same moments, by Laplace's method, as closely. Such a lognormal
    knows nothing of n, so from y = n - 1/4 on a parabola takes over, which makes what lies beyond unlikely and no
    impossibility.

    data `[..., m]`, whole numbers up to n, broadcasts against the prediction's batch. -inf where y is not above 0. Without
    a prediction the covariance is that of the data in place of y, or of 1 and n - 1 where nothing or everything is positive.

    >>> from emulate.distributions import Exact
    >>> Binomial(trials=3).log_prob(Exact(torch.tensor([1.5]).double()), torch.tensor([2.0]).double()).exp()  # 3 / 2^3
    tensor(0.3750, dtype=torch.float64)
    """

    trials: Annotated[int, Ge(1)]  # n of every output

    logarithmic: ClassVar = True
    example: ClassVar[dict] = {"trials": 20}

    def log_prob(self, prediction: Distribution, data: Tensor) -> Tensor:
        return evidence(self, prediction, data)

    def covariance(self, data: Tensor, prediction: Distribution | None = None) -> Tensor:
        mean, own = (self._standing(data), None) if prediction is None else gaussian_of(prediction)
        share = (mean / self.trials).clamp(0.0, 1 - _SHY / self.trials)
        return self.widened(torch.diag_embed(mean * (1 - share)), mean, own)

    def sample(self, truth: Tensor, *, seed: int) -> Tensor:
        rng = np.random.default_rng(seed)
        y = self.moved(expected(truth), torch.from_numpy(rng.standard_normal(truth.shape)).to(truth)).numpy()
        if (y > self.trials).any():
            raise InputError(f"expected positives must be at most the {self.trials} trials. Got {y.max():g}; the outputs are "
                             "numbers of positives and no shares.")  # fmt: skip
        return torch.from_numpy(rng.binomial(self.trials, y / self.trials).astype(np.float64)).to(truth)

    def local(self, data: Tensor) -> Callable[[Tensor], Local]:
        n, k = float(self.trials), whole(data)
        if (data > n).any():
            raise InputError(f"positives must be at most the {self.trials} trials. Got {float(data.max()):g}; the data are numbers "
                             "of positives and no shares.")  # fmt: skip
        ways = torch.lgamma(k.new_tensor(n + 1)) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)
        last = 1 - _SHY / n
        edge, steep = k.new_tensor(last).log(), (n - k + 1) * last / (1 - last) ** 2

        def at(w: Tensor) -> Local:
            v = w - k.new_tensor(n).log()  # ln y / n
            beyond = (v - edge).clamp_min(0)
            share = (v - beyond).exp()
            odds = share / (1 - share)
            slope = k - (n - k) * odds - steep * beyond
            value = ways + k * v + (n - k) * (torch.log1p(-share) - odds * beyond) - 0.5 * steep * beyond.square()
            weight = torch.diag_embed(torch.where(beyond > 0, steep, (n - k) * odds / (1 - share)))
            return Local(value.sum(-1), slope, weight, weight)

        return at

    def _standing(self, data: Tensor) -> Tensor:
        """The expected positives as far as the data alone tell."""
        least = min(1.0, self.trials / 2)
        return data.clamp(least, self.trials - least)
