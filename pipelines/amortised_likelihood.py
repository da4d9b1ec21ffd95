"""The likelihood of a flow that has learnt the data as they are observed, beside that of the study, which made their noise."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.distributions import Distribution

from emulate.contracts import Likelihood
from emulate.distributions import Exact
from emulate.likelihoods.predictive import Predictive


@dataclass(frozen=True, kw_only=True)
class Learnt(Likelihood):
    """p(data | parameters) of `infer.method: nle`: a prediction has the noise of the observation in it, a true run has not.

    An exact prediction, which is one true run, is asked of the study's own likelihood, and so is an observation of a truth.
    What makes data of a prediction again starts from its mean, or the noise would be there twice.
    """

    emulator_covariance: ClassVar[bool] = False

    inner: Likelihood  # of the study

    def log_prob(self, prediction: Distribution, data: Tensor) -> Tensor:
        return (self.inner if isinstance(prediction, Exact) else Predictive()).log_prob(prediction, data)

    def covariance(self, data: Tensor, prediction: Distribution | None = None) -> Tensor:
        whole = prediction is None or isinstance(prediction, Exact)
        return (self.inner if whole else Predictive()).covariance(data, prediction)

    def sample(self, truth: Tensor, *, seed: int) -> Tensor:
        return self.inner.sample(truth, seed=seed)
