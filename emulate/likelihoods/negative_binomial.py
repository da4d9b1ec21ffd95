"""Counts that scatter more than Poisson's around expected counts."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.nn.functional import logsigmoid

from emulate.distributions import gaussian_of
from emulate.errors import InputError
from emulate.likelihoods._around import Around, Local, each
from emulate.likelihoods._counting import expected, standing, whole
from emulate.likelihoods._laplace import evidence


@dataclass(frozen=True, kw_only=True)
class NegativeBinomial(Around):
    """Over-dispersed counts, variance y + dispersion y^2, each output by itself around the expected counts y.

    A Poisson count whose rate is y times a Gamma of mean 1 and variance `dispersion` a: with r = 1 / a,
    p(n) = Gamma(n + r) / (Gamma(r) n!) (r / (r + y))^r (y / (r + y))^n (Cameron and Trivedi 1986, "NB2"). All that makes y
    unsure, the emulator among it, is marginalised as for `poisson`, and as closely.

    data `[..., m]`, whole numbers, broadcasts against the prediction's batch. -inf where an expected count is not above 0.
    Without a prediction the covariance is that of the data in place of the expected counts, 1 where nothing was counted.

    >>> NegativeBinomial(dispersion=0.5).covariance(torch.tensor([4.0], dtype=torch.float64))
    tensor([[12.]], dtype=torch.float64)
    """

    dispersion: float | tuple[float, ...]  # a: variance of the rate over the square of its mean; one, or one per output

    logarithmic: ClassVar = True
    example: ClassVar[dict] = {"dispersion": 0.05}

    def __post_init__(self):
        given = np.asarray(self.dispersion, np.float64)
        if given.ndim > 1 or not (np.isfinite(given).all() and (given > 0).all()):
            raise InputError(f"dispersion must be a finite number above 0, or a list of them, one per output. Got "
                             f"{self.dispersion}; without it the counts are poisson.")  # fmt: skip

    def log_prob(self, prediction: Distribution, data: Tensor) -> Tensor:
        return evidence(self, prediction, data)

    def covariance(self, data: Tensor, prediction: Distribution | None = None) -> Tensor:
        mean, own = (standing(data), None) if prediction is None else gaussian_of(prediction)
        variance = mean + each("dispersion", self.dispersion, data) * mean**2
        return self.widened(torch.diag_embed(variance), mean, own)

    def sample(self, truth: Tensor, *, seed: int) -> Tensor:
        rng = np.random.default_rng(seed)
        y = self.moved(expected(truth), torch.from_numpy(rng.standard_normal(truth.shape)).to(truth)).numpy()
        r = 1 / each("dispersion", self.dispersion, truth).numpy()
        return torch.from_numpy(rng.negative_binomial(r, r / (r + y), y.shape).astype(np.float64)).to(truth)

    def local(self, data: Tensor) -> Callable[[Tensor], Local]:
        r = 1 / each("dispersion", self.dispersion, data)
        fixed, ln_r = torch.lgamma(whole(data) + r) - torch.lgamma(r) - torch.lgamma(data + 1), r.log()

        def at(w: Tensor) -> Local:
            odds = w - ln_r
            share = odds.sigmoid()  # y / (r + y)
            value = (fixed + r * logsigmoid(-odds) + data * logsigmoid(odds)).sum(-1)
            weight = torch.diag_embed((data + r) * share * (1 - share))
            return Local(value, data - (data + r) * share, weight, weight)

        return at
