"""Where the simulator runs: P(a run finishes | theta), learned from which runs finished and which failed.

Not an emulator of outputs: it needs no finished run, and a failed one tells it as much as a finished one. Designs ask
it where runs would be lost, and a prior that must know of the failures adds its log_prob.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from emulate import artefact
from emulate.classification import Classifier, thinned, train
from emulate.errors import InputError, StoreError
from emulate.runs import Runs
from emulate.space import Space

KIND = "emulate.feasibility"
_MOST = 600  # points that the classifier keeps, some seconds of Cholesky factors; of more, each stands for several
_PROBES = 4096  # points of a Sobol sequence over the prior in which regions are measured
_NARROW = 0.8  # share of a parameter's range below which the failures are said to lie in a part of it


class Feasibility(torch.nn.Module):
    r"""P(a run finishes | theta), differentiable in theta, with the parameter space and what it was learned from.

    A Gaussian process classifies the finished and the failed runs on the scaled coordinates of the space (see
    `emulate.classification`). Where all runs finished, or all failed, nothing is known of a boundary: the answer is the
    rate (k + 1/2) / (n + 1) of k finished runs of n everywhere (Jeffreys' prior), never 0 or 1.

    >>> from emulate.runs import Field, Outputs
    >>> from emulate.space import Parameter, Uniform
    >>> x = np.linspace(0.05, 1.95, 20)[:, None]
    >>> space = Space((Parameter("a", Uniform(0, 2)),))
    >>> f = Feasibility.fit(Runs.of(space, Outputs((Field("y"),)), x, np.where(x < 1.5, x, np.nan)), seed=0)
    >>> f.probability([[0.5], [1.9]]).round(decimals=1)
    tensor([1., 0.], dtype=torch.float64)
    >>> print(f.sentence())
    5 of 20 runs failed. Failure is likelier than success in 25 % of the prior: a above 1.503.
    """

    def __init__(self, space: Space, finished: int, failed: int, classifier: Classifier | None):
        super().__init__()
        self.space, self.finished, self.failed, self.classifier = space, finished, failed, classifier
        self.requires_grad_(False)
        self.eval()

    @staticmethod
    def fit(runs: Runs, *, seed: int) -> "Feasibility":
        """Learn from the finished and the failed rows of a table; the same rows and seed give the same bits.

        Every failed row counts. Leave out with `runs.select` what failed for reasons of the machine, not of theta.
        """
        if not len(runs):
            raise InputError(
                "feasibility needs at least one run, finished or failed. Got none; run the simulator first."
            )
        ok = torch.from_numpy(np.ascontiguousarray(runs.ok))
        finished, failed = int(ok.sum()), int((~ok).sum())
        if not finished or not failed:
            return Feasibility(runs.space, finished, failed, None)
        points = runs.space.scaled(torch.from_numpy(runs.theta))
        index, gain = thinned(ok, _MOST, seed)
        return Feasibility(runs.space, finished, failed, train(points[index], ok[index], gain, seed=seed))

    @property
    def rate(self) -> float:
        """The share of runs that finish, over the whole design."""
        return (self.finished + 0.5) / (self.finished + self.failed + 1)

    def log_prob(self, theta: Any) -> Tensor:
        """ln P(a run finishes) `[...]` at theta `[..., d]`, a dict or a frame: finite, with a finite gradient."""
        theta = self.space.pack(theta)
        if self.classifier is None:
            return 0 * theta.sum(-1) + float(np.log(self.rate))
        return self.classifier.log_prob(self.space.scaled(theta))

    def probability(self, theta: Any) -> Tensor:
        """P(a run finishes) `[...]` at theta `[..., d]`."""
        return self.log_prob(theta).exp()

    forward = probability

    def inside(self, theta: Any, *, least: float = 0.5) -> Tensor:
        """bool `[...]`: where a run finishes with a probability of at least `least`; what a design keeps."""
        if not 0 < least < 1:
            raise InputError(f"least must be a probability between 0 and 1. Got {least}; 0.5 is the boundary.")
        return self.probability(theta).detach() >= least

    def restrict(self, log_density: Callable[[Tensor], Tensor],
                 theta: Callable[[Tensor], Tensor] = lambda x: x) -> Callable[[Tensor], Tensor]:  # fmt: skip
        """A log density with ln P(a run finishes) added: its prior times the probability that the simulator runs.

        `theta` maps the density's coordinates to parameters. For the posterior of a study
        `sampler.draw(feasibility.restrict(posterior.log_density, posterior.theta), start, n, seed=seed)`.
        """
        return lambda x: log_density(x) + self.log_prob(theta(x))

    def share(self) -> float:
        """The share of the prior in which failure is likelier than success."""
        return float((~self.inside(self._probes())).double().mean())

    def sentence(self) -> str:
        """How many runs failed, and in which ranges of which parameters."""
        n = self.finished + self.failed
        if not self.failed:
            return f"All {n} runs finished: a new one fails with a probability of about {1 - self.rate:.2g}."
        head = f"{self.failed} of {n} runs failed."
        if not self.finished:
            return f"{head} Where the simulator runs cannot be said before one finishes."
        theta = self._probes()
        lost = ~self.inside(theta)
        share = float(lost.double().mean())
        if not share:
            return f"{head} Nowhere in the prior is failure likelier than success."
        ranges = [r for i in range(self.space.d) if (r := self._range(i, theta[:, i], lost))]
        where = " and ".join(ranges) or "no parameter's range alone says where; see the figure"
        return f"{head} Failure is likelier than success in {100 * share:.3g} % of the prior: {where}."

    def save(self, path: str | os.PathLike) -> Path:
        """Write the folder that `Feasibility.load` reads: JSON and safetensors, no code."""
        body = {"space": self.space.to_dict(), "finished": self.finished, "failed": self.failed}
        return artefact.write(path, body, self.state_dict(), kind=KIND)

    @staticmethod
    def load(path: str | os.PathLike) -> "Feasibility":
        """What `save` wrote, bit for bit; `StoreError` when the folder is damaged or holds something else."""
        body, tensors = artefact.read(path, kind=KIND)
        state = {name.removeprefix("classifier."): t for name, t in tensors.items()}
        try:
            classifier = Classifier(**state) if state else None
            return Feasibility(Space.from_dict(body["space"]), int(body["finished"]), int(body["failed"]), classifier)
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as e:
            raise StoreError(f"{path} holds no whole feasibility: {e!r} is missing or wrong. Run `emulate simulate "
                             "--force`, which writes it.") from e  # fmt: skip

    def _probes(self) -> Tensor:
        return self.space.from_unit(torch.quasirandom.SobolEngine(self.space.d, scramble=True, seed=1).draw(
            _PROBES, dtype=torch.float64).clamp(1e-6, 1 - 1e-6))  # fmt: skip

    def _range(self, i: int, theta: Tensor, lost: Tensor) -> str:
        """`omega_m above 0.36`, where the failures of a parameter leave out a good part of its range."""
        p = self.space.parameters[i]
        u = p.prior.to_unit(theta[lost])
        low, high = (float(u.quantile(q)) for q in (0.005, 0.995))
        if high - low > _NARROW:
            return ""
        a, b = (f"{float(p.prior.from_unit(torch.tensor(x, dtype=torch.float64))):.4g}" for x in (low, high))
        unit = f" {p.unit}" if p.unit else ""
        if high > 0.97:
            return f"{p.name} above {a}{unit}"
        return f"{p.name} below {b}{unit}" if low < 0.03 else f"{p.name} from {a} to {b}{unit}"
