r"""Neural posterior estimation: a flow q(x | y) of the parameters given the data, learnt from runs, without any gradient.

    q maximises sum over runs and draws of the noise of ln q(x_i | s(y_i + noise_ij))       (Papamakarios and Murray 2016)

x are the coordinates of `emulate.posterior`, whose prior is standard normal: q has no edge to leak over, and theta(x) is
always inside the prior. y is what is observed: the likelihood's noise is drawn on top of every run several times, keyed by
the seed, where it adds any. s are standardised components of y (`emulate.summaries`). q is the `flow` of the emulators' room
with its roles swapped; runs are held out whole, with all draws of their noise, to stop early and to calibrate its widths.
One fit answers for every observation at once, if the points of the runs are spread as the prior. For one observation runs can be
aimed: the prior is truncated to where q(x | y_o) is dense, and the runs of all rounds are learnt together, without a
correction, for inside the truncated region their density is the prior's (Deistler, Goncalves and Macke 2022). The regions
are nested here, so that this is exact; outside lies a ten-thousandth of the posterior. Points are drawn by rejection from
the prior, or by importance resampling of q where too few of the prior are inside.
An observation unlike the data of all runs is said to be so: `Amortised.remoteness`. Files hold JSON and safetensors.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor
from torch.distributions import Distribution
from torch.special import ndtr, ndtri

from emulate import artefact, registry
from emulate.contracts import Core, Likelihood, Recipe
from emulate.densities import Mode, climb
from emulate.distributions import seeded
from emulate.emulators._kernels import MEANS, basis
from emulate.emulators.flow import Flow
from emulate.errors import CampaignError, InputError, StoreError
from emulate.posterior import MAP
from emulate.runs import Outputs, Runs, places
from emulate.seeds import replicate
from emulate.space import Space
from emulate.summaries import Remoteness, Summary

KIND = "emulate.amortised"
FLOW: dict[str, Any] = {
    "coupling": False,
    "members": 2,
    "rate": 2e-3,
    "epochs": 200,
    "patience": 40,
}  # where a study says nothing
_EDGE = 1e-12  # nearest that u comes to 0 and 1, as in emulate.posterior
_FOLDS, _GAIN = 5, 0.01  # of the runs, that choose the trend of x in s; nats that a richer one must gain
_MASS = 1e-4  # of the posterior that a truncated prior leaves out
_BATCH = 16384  # points of the prior that are tried at once
_RARE = 2e-3  # share of the prior inside below which points are resampled from q
_STARTS = 8  # draws from which a mode is climbed to


@dataclass(frozen=True, kw_only=True)
class NPE:
    """How to learn q(x | y): its flow, how many draws of the noise a run is worth, how much of the data is read.

    >>> from emulate.likelihoods.gaussian import Gaussian
    >>> from emulate.runs import Field
    >>> from emulate.space import Normal, Parameter
    >>> a = torch.randn(400, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64).numpy()
    >>> runs = Runs.of(Space((Parameter("a", Normal(0.0, 1.0)),)), Outputs((Field("y"),)), a, 3 * a)
    >>> q = NPE(flow=Flow(epochs=20, width=16), noise=4).fit(runs, Gaussian(absolute_error=3.0), seed=0)
    >>> abs(float(q.draws([3.0], 2000, seed=0).mean()) - 0.5) < 0.2  # the posterior is N(0.5, 0.5)
    True
    """

    __pydantic_config__ = {"extra": "forbid", "allow_inf_nan": False, "arbitrary_types_allowed": True}

    flow: Recipe = field(default_factory=lambda: Flow(**FLOW))  # {use: flow, ...}: the density of x given y
    noise: Annotated[int, Ge(1)] = 8  # draws of the likelihood's noise on top of each run, where it adds any
    components: Annotated[int, Ge(1)] = 24  # numbers that the flow reads of the data, at most
    log: bool = True  # read ln y of fields that are positive by nature, where all their data are

    def __post_init__(self):
        if not isinstance(self.flow, Flow):
            raise InputError(f"npe.flow: must be a recipe of the flow, such as {{use: flow, members: 2}}. Got {self.flow!r}; a "
                             "posterior has any shape, and other emulators are told by a mean and a variance.")  # fmt: skip

    @torch.inference_mode(False)
    def fit(self, runs: Runs, likelihood: Likelihood, *, seed: int) -> "Amortised":
        """Learn from the finished runs; same runs, likelihood and seed, same bits. Their points must be spread as the prior.

        A prior that is cut off where runs fail is learnt along, for failed runs have no data.
        """
        finished = runs.finished()
        if len(finished) < self.flow.minimum_runs(1):
            raise CampaignError(f"npe must have at least {self.flow.minimum_runs(1)} finished runs. Got {len(finished)}; run more "
                                "points.")  # fmt: skip
        data, row = noisy(finished, likelihood, self.noise, seed=seed)
        theta, place = torch.from_numpy(finished.theta), torch.from_numpy(places(finished.theta))
        x = to_x(finished.space, theta)[row]
        first = (row[1:] != row[:-1]).nonzero()[:, 0] + 1
        first = torch.cat([first.new_zeros(1), first])
        summary = Summary.fit(runs.outputs, data, x, most=self.components, log=self.log, first=first, seed=seed)
        s = summary(data)
        flow = replace(self.flow, trend=_trend(self.flow, s, x, place[row]))
        with torch.enable_grad():
            trained = flow.train(s, x, noisy=True, seed=seed, place=place[row])
        core = flow.rebuild(
            {k: v.detach().clone(memory_format=torch.contiguous_format) for k, v in trained.state_dict().items()}
        )
        core.history = trained.history
        provenance = {"seed": seed, "runs": len(finished), "failed": len(runs) - len(finished), "rows": len(data),
                      "likelihood":
                      json.loads(json.dumps({"use": likelihood.entry_name(), **likelihood.settings()}, default=str))}  # fmt: skip
        return Amortised(runs.space, runs.outputs, self, core, summary, provenance)


def noisy(runs: Runs, likelihood: Likelihood, n: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Data `[n runs, m]` as they are observed, n draws of the likelihood's noise on each run, and the number of the run of
    each; the runs themselves where the likelihood adds no noise."""
    y = torch.from_numpy(runs.y)
    if not likelihood.adds_noise:
        return y, torch.arange(len(y))
    row = torch.arange(len(y)).repeat_interleave(n)
    return torch.stack([likelihood.sample(y[i], seed=replicate(seed, k + 1)) for k, i in enumerate(row)]), row


def to_x(space: Space, theta: Any) -> Tensor:
    """theta `[..., d]` -> x `[..., d]`, whose prior is standard normal."""
    return ndtri(space.to_unit(space.pack(theta)).clamp(_EDGE, 1 - _EDGE))


def to_theta(space: Space, x: Tensor) -> Tensor:
    """x `[..., d]` -> theta `[..., d]`."""
    return space.from_unit(ndtr(x).clamp(_EDGE, 1 - _EDGE))


def _trend(flow: Recipe, s: Tensor, x: Tensor, place: Tensor) -> str:
    """The trend of x in s under which x of places left out is likeliest, of normal residuals with one covariance; a richer one
    must gain `_GAIN`, for the flow bends what is left."""
    if (own := getattr(flow, "trend", "auto")) != "auto":
        return own
    fold = place[:, None] % _FOLDS == torch.arange(_FOLDS)
    best, least = MEANS[0], torch.inf
    for mean in MEANS:
        h = basis(s, mean)
        if _FOLDS * h.shape[1] > (_FOLDS - 1) * int(place.max() + 1):
            break
        left = torch.empty_like(x)
        for out in fold.T:
            left[out] = x[out] - h[out] @ torch.linalg.lstsq(h[~out], x[~out], driver="gelsd").solution
        loss = 0.5 * float(torch.logdet(left.T @ left / len(x) + 1e-12 * torch.eye(x.shape[1], dtype=x.dtype)))
        if loss < least - _GAIN:
            best, least = mean, loss
    return best


class Amortised(torch.nn.Module):
    """q(theta | data) for any data, with the parameter space, the outputs, and what it was learnt from."""

    def __init__(
        self, space: Space, outputs: Outputs, recipe: NPE, core: Core, summary: Summary, provenance: dict[str, Any]
    ):
        super().__init__()
        self.space, self.outputs, self.recipe, self.provenance = space, outputs, recipe, provenance
        self.core, self.summary = core, summary
        self.requires_grad_(False)
        self.eval()

    @property
    def history(self) -> tuple[dict[str, float], ...]:
        """One dict per epoch of the training."""
        return self.core.history

    def posterior(self, data: Any) -> Distribution:
        """q(x | data) of data `[..., m]`: event shape `[d]`, in coordinates whose prior is standard normal."""
        return self.core(self.summary(self._data(data)))

    forward = posterior

    def draws_x(self, data: Any, n: int, *, seed: int) -> Tensor:
        """n draws x `[n, ..., d]`."""
        with torch.no_grad():
            return seeded(self.posterior(data)).sample((n,), generator=torch.Generator().manual_seed(seed))

    def draws(self, data: Any, n: int, *, seed: int) -> Tensor:
        """n independent draws theta `[n, ..., d]` for data `[..., m]`; same seed, same bits."""
        return to_theta(self.space, self.draws_x(data, n, seed=seed))

    def log_density(self, x: Tensor, data: Any) -> Tensor:
        """ln q(x | data) of x `[..., d]`."""
        return self.posterior(data).log_prob(x)

    def log_prob(self, theta: Any, data: Any) -> Tensor:
        """ln q(theta | data) `[...]`, the density over theta; -inf outside the prior."""
        theta = self.space.pack(theta)
        prior = self.space.log_prob(theta)
        x = to_x(self.space, theta)
        normal = torch.distributions.Normal(torch.zeros_like(x), 1.0).log_prob(x).sum(-1)
        return torch.where(prior == -torch.inf, -torch.inf, self.log_density(x, data) - normal + prior)

    def find_map(self, data: Any, x: Tensor) -> MAP:
        """The highest mode of q over x, climbed to from the densest of draws x `[n, d]`, for one observation `[m]`."""
        q = self.posterior(data)
        density = lambda v: q.log_prob(v)  # noqa: E731
        with torch.no_grad():
            start = x[density(x).topk(min(_STARTS, len(x))).indices]
        modes: Mode = climb(density, start)
        best = int((modes.log_density - 1e-3 * ~modes.converged).argmax())
        at = modes.x[best].detach().requires_grad_()
        with torch.enable_grad():
            (slope,) = torch.autograd.grad(to_theta(self.space, at).sum(), at)
        covariance, at = modes.covariance[best], at.detach()
        agree = int((modes.log_density > modes.log_density[best] - 0.01).sum())
        said = f"{agree} of {len(start)} draws climbed to the highest mode."
        in_theta = slope[:, None] * covariance * slope
        height, hessian, good = modes.log_density[best], modes.hessian[best], bool(modes.converged[best])
        return MAP(to_theta(self.space, at), at, height, hessian, in_theta, covariance, good, said)

    def remoteness(self, data: Any) -> Remoteness:
        """How unlike the data of the runs one observation `[m]` is."""
        return self.summary.remoteness(self._data(data))

    def region(self, data: Any, *, seed: int, draws: int = 10_000, mass: float = _MASS) -> Callable[[Tensor], Tensor]:
        """Whether x `[n, d]` lies where q(x | data) is dense: where all but the share `mass` of its draws lie."""
        q = self.posterior(data)
        with torch.no_grad():
            least = q.log_prob(seeded(q).sample((draws,), generator=torch.Generator().manual_seed(seed))).quantile(mass)

        def inside(x: Tensor) -> Tensor:
            with torch.no_grad():
                return q.log_prob(x) >= least

        return inside

    def save(self, path: str | os.PathLike) -> Path:
        """Write the folder that `Amortised.load` reads: JSON and safetensors, no code."""
        settings = {f.name: getattr(self.recipe, f.name) for f in fields(self.recipe) if f.name != "flow"}
        body = {"space": self.space.to_dict(), "outputs": self.outputs.to_dict(), "settings": settings,
                "flow": self.recipe.flow.settings(), "provenance": self.provenance, "history": list(self.history)}  # fmt: skip
        return artefact.write(path, body, self.state_dict(), kind=KIND)

    @staticmethod
    @torch.inference_mode(False)
    def load(path: str | os.PathLike) -> "Amortised":
        """What `save` wrote, bit for bit; `StoreError` when the folder is damaged or holds something else."""
        body, tensors = artefact.read(path, kind=KIND)
        parts: dict[str, dict[str, Tensor]] = {"core": {}, "summary": {}}
        try:
            for name, t in tensors.items():
                part, key = name.split(".", 1)
                parts[part][key] = t
            flow = registry.validate(Flow, body["flow"], path=f"{path}: flow")
            recipe = registry.validate(NPE, {**body["settings"], "flow": flow}, path=f"{path}: settings")
            core = flow.rebuild(parts["core"])
            core.history = tuple(body["history"])
            made = Amortised(Space.from_dict(body["space"]), Outputs.from_dict(body["outputs"]), recipe, core,
                             Summary(parts["summary"]), body["provenance"])  # fmt: skip
            made.draws(made.summary.centre.exp().where(made.summary.log, made.summary.centre), 2, seed=0)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as e:
            raise StoreError(f"{path} holds no whole posterior: {e!r} is missing or wrong. Learn it again.") from e
        return made

    def _data(self, data: Any) -> Tensor:
        data = torch.as_tensor(np.asarray(data) if not isinstance(data, Tensor) else data, dtype=torch.float64)
        m = self.outputs.size
        if not data.ndim or data.shape[-1] != m or not data.isfinite().all():
            raise InputError(f"data must be finite numbers of shape [..., {m}], the outputs of the simulator last. Got shape "
                             f"{tuple(data.shape)} with {int((~data.isfinite()).sum())} numbers that are not finite.")  # fmt: skip
        return data


def truncated(inside: Callable[[Tensor], Tensor], q: Distribution, n: int, *, seed: int) -> Tensor:
    """n points x `[n, d]` of the standard normal prior, cut off to where `inside` says, which is where q is dense.

    By rejection; where less than `_RARE` of the prior is inside, of draws of q by weights prior / q, each at most once.
    """
    generator = torch.Generator().manual_seed(seed)
    (d,), found, tried = q.event_shape, [], 0
    while (kept := sum(map(len, found))) < n:
        if tried >= 4 * _BATCH and kept < _RARE * tried:
            return _resampled(inside, q, n, generator)
        x = torch.randn(_BATCH, d, generator=generator, dtype=torch.float64)
        found.append(x[inside(x)])
        tried += len(x)
    return torch.cat(found)[:n]


def _resampled(inside: Callable[[Tensor], Tensor], q: Distribution, n: int, generator: torch.Generator) -> Tensor:
    """Without replacement, by the largest of ln w + Gumbel noise (Efraimidis and Spirakis 2006)."""
    with torch.no_grad():
        x = seeded(q).sample((max(_BATCH, 32 * n),), generator=generator)
        x = x[inside(x)]
        log_weight = -0.5 * x.square().sum(-1) - q.log_prob(x)
    noise = -torch.rand(len(x), generator=generator, dtype=x.dtype).log().neg().log()
    return x[(log_weight + noise).topk(min(n, len(x))).indices]


def c2st(q: Distribution, p: Distribution, n: int = 2000, *, seed: int) -> float:
    """The share of right answers, 0.5 to 1, of the best classifier of draws of two densities: 1/2 + E_q[(1 - p / q)+] / 2."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        x = seeded(q).sample((n,), generator=generator)
        return float(0.5 + 0.5 * (1 - (p.log_prob(x) - q.log_prob(x)).exp()).clamp_min(0).mean())
