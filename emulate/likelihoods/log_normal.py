"""Noise that multiplies: populations, prices, concentrations whose logarithm is measured with a normal error."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from emulate.distributions import gaussian_of
from emulate.errors import InputError
from emulate.likelihoods._around import Around, Local, each
from emulate.likelihoods._laplace import logarithms
from emulate.likelihoods.gaussian import normal


@dataclass(frozen=True, kw_only=True)
class LogNormal(Around):
    r"""ln data ~ N(ln y, error^2), each output by itself: y is the median of the data.

    All that makes y unsure, the emulator among it, is a lognormal of the same moments, which is the emulator's own
    distribution where it works on logarithms: with mu and C of ln y, ln p = ln N(ln data; mu, C + error^2) - sum_j ln data_j
    in closed form (Aitchison and Brown 1957).

    data `[..., m]`, above 0, broadcasts against the prediction's batch. -inf where y is not above 0. The covariance is
    y^2 (exp(error^2) - 1), that of the data where y is their mean, which is larger than the median by error^2 / 2.

    >>> from emulate.distributions import Exact
    >>> two = torch.tensor([2.0], dtype=torch.float64)
    >>> LogNormal(error=0.5).log_prob(Exact(two), two).exp()  # 1 / (2 * 0.5 sqrt(2 pi))
    tensor(0.3989, dtype=torch.float64)
    """

    error: float | tuple[float, ...]  # sd of ln data; one, or one per output

    logarithmic: ClassVar = True
    example: ClassVar[dict] = {"error": 0.02}

    def __post_init__(self):
        given = np.asarray(self.error, np.float64)
        if given.ndim > 1 or not (np.isfinite(given).all() and (given > 0).all()):
            raise InputError(
                f"error must be a finite number above 0, or a list of them, one per output. Got {self.error}."
            )

    def log_prob(self, prediction: Distribution, data: Tensor) -> Tensor:
        mean, own = gaussian_of(prediction)
        covariance = self.widened(torch.zeros_like(own), mean, own)
        mu, c, possible = logarithms(mean, covariance, torch.ones(mean.shape[-1], dtype=torch.bool, device=mean.device))
        ln = _positive(data).log()
        value = normal(ln - mu, c + self._variance(data), None) - ln.sum(-1)
        return torch.where(possible, value, -torch.inf)

    def covariance(self, data: Tensor, prediction: Distribution | None = None) -> Tensor:
        mean, own = (data, None) if prediction is None else gaussian_of(prediction)
        return self.widened(mean[..., None, :] ** 2 * torch.expm1(self._variance(data)), mean, own)

    def sample(self, truth: Tensor, *, seed: int) -> Tensor:
        rng = np.random.default_rng(seed)
        y = self.moved(truth, torch.from_numpy(rng.standard_normal(truth.shape)).to(truth))
        error = each("error", self.error, truth)
        return _positive(y) * (error * torch.from_numpy(rng.standard_normal(truth.shape)).to(truth)).exp()

    def local(self, data: Tensor) -> Callable[[Tensor], Local]:
        ln, weight = _positive(data).log(), self._variance(data).diagonal(dim1=-2, dim2=-1).reciprocal()
        fixed = 0.5 * (weight / (2 * torch.pi)).log() - ln

        def at(w: Tensor) -> Local:
            r = ln - w
            whole = torch.diag_embed(weight).expand(*r.shape, r.shape[-1])
            return Local((fixed - 0.5 * weight * r.square()).sum(-1), weight * r, whole, whole)

        return at

    def _variance(self, data: Tensor) -> Tensor:
        """Of ln data, `[m, m]`."""
        return torch.diag_embed(each("error", self.error, data).square().expand(data.shape[-1]))


def _positive(y: Tensor) -> Tensor:
    """Numbers that have a logarithm."""
    if (y <= 0).any():
        raise InputError(f"data of noise in ln y must be above 0. Got {float(y[y <= 0].flatten()[0]):g}; use gaussian where there "
                         "are zeros.")  # fmt: skip
    return y
