"""The posterior of one observation, or of many, over parameters whose prior has been made standard normal."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.special import ndtr, ndtri

from emulate.contracts import Likelihood, Simulator
from emulate.densities import climb
from emulate.distributions import Exact, drawn
from emulate.errors import InputError
from emulate.seeds import replicates
from emulate.space import LogNormal, Normal, Prior, Space, TruncatedNormal
from emulate.summits import differentiable, summit

_EDGE = 1e-12  # nearest that u comes to 0 and 1: |x| = 7; further out the prior alone pulls back


@dataclass(frozen=True)
class MAP:
    """The mode over x: theta and x `[..., d]`, log_density `[...]`, hessian of -ln p over x `[..., d, d]`.

    covariance `[..., d, d]` is the Laplace approximation in theta, (dtheta/dx) hessian^-1 (dtheta/dx)^T.
    `converged`: every mode is one, to 1e-4 in ln p; `sentence` says how it was found. Of a density without a gradient there
    are `particles` `[n, ..., d]`, draws whose covariance stands for the inverse Hessian.
    """

    theta: Tensor
    x: Tensor
    log_density: Tensor
    hessian: Tensor
    covariance: Tensor
    x_covariance: Tensor
    converged: bool
    sentence: str
    particles: Tensor | None = None

    def starts(self, chains: int, *, seed: int, spread: float = 2.0) -> Tensor:
        """Start points x `[chains, ..., d]` for a sampler: the Laplace approximation, `spread` times as wide, or particles."""
        generator = torch.Generator().manual_seed(seed)
        if self.particles is not None:
            return self.particles[torch.randint(len(self.particles), (chains,), generator=generator)]
        noise = torch.randn((chains, *self.x.shape), generator=generator, dtype=torch.float64).to(self.x)
        return self.x + spread * (torch.linalg.cholesky(self.x_covariance) @ noise[..., None])[..., 0]


@dataclass(frozen=True)
class Posterior:
    """p(theta | data) over x, whose prior is standard normal: theta = F^-1(Phi(x)), F the prior's cumulative.

    ln p(x) = ln p(data | theta(x)) - |x|^2 / 2 - d ln(2 pi) / 2 is the joint density of data and x, for any prior. It
    needs no bounds and no Jacobian, and is finite with its gradient for every finite x.

    `predict` maps theta `[..., d]` to a distribution over y `[..., m]`: `Emulator.predict`, or `for_simulator`.
    data `[m]`, or `[..., m]` for many observations, which broadcast against the leading axes of x.
    `restriction` is a further factor of the prior: its logarithm at theta `[..., d]`, as `Feasibility.log_prob`.

    >>> from emulate.likelihoods.gaussian import Gaussian
    >>> from emulate.space import Parameter
    >>> space = Space((Parameter("a", Normal(0.0, 1.0)),))
    >>> data = torch.tensor([2.0], dtype=torch.float64)
    >>> mode = Posterior(space, Exact, Gaussian(absolute_error=1.0), data).find_map(seed=1)
    >>> round(float(mode.theta), 6), round(float(mode.covariance), 6), mode.converged
    (1.0, 0.5, True)
    """

    space: Space
    predict: Callable[[Tensor], Distribution]
    likelihood: Likelihood
    data: Tensor
    restriction: Callable[[Tensor], Tensor] | None = None

    def __post_init__(self):
        if not isinstance(self.data, Tensor):
            object.__setattr__(self, "data", torch.as_tensor(np.asarray(self.data, np.float64)))
        if not self.data.ndim or not torch.isfinite(self.data).all():
            bad = int((~torch.isfinite(self.data)).sum())
            raise InputError(f"data must be finite numbers of shape [m] or [..., m]. Got shape "
                             f"{tuple(self.data.shape)} with {bad} numbers that are not finite.")  # fmt: skip

    @staticmethod
    def for_simulator(simulator: Simulator, likelihood: Likelihood, data: Tensor, *, seed: int) -> "Posterior":
        """The posterior under the simulator itself, run once for every row of theta, with the same seed."""

        def predict(theta: Tensor) -> Exact:
            rows = [simulator.run(row, seed=seed) for row in theta.reshape(-1, theta.shape[-1])]
            return Exact(torch.stack(rows).reshape(*theta.shape[:-1], -1))

        return Posterior(simulator.space, predict, likelihood, data)

    def theta(self, x: Tensor) -> Tensor:
        """x `[..., d]` -> theta `[..., d]`, differentiable, always inside the support of the prior."""
        return self.space.from_unit(ndtr(x).clamp(_EDGE, 1 - _EDGE))

    def x(self, theta: Tensor) -> Tensor:
        """theta `[..., d]` -> x `[..., d]`; `InputError` outside the support of the prior."""
        u = self.space.to_unit(self.space.pack(theta))
        outside = ((u < 0) | (u > 1)).reshape(-1, self.space.d).any(0).tolist()
        if any(outside):
            names = ", ".join(n for n, bad in zip(self.space.names, outside, strict=True) if bad)
            raise InputError(f"theta must lie inside the prior. Got values outside for {names}; widen the prior or "
                             f"move the point.")  # fmt: skip
        return ndtri(u.clamp(_EDGE, 1 - _EDGE))

    def log_likelihood(self, theta: Tensor) -> Tensor:
        """ln p(data | theta) of theta `[..., d]`, shape `[...]`."""
        prediction = self.predict(theta)
        if prediction.event_shape != self.data.shape[-1:]:  # one number would be taken for every output
            raise InputError(f"data must have a number for each of the {prediction.event_shape.numel()} predicted outputs. "
                             f"Got {self.data.shape[-1]}; give the observation in the order of the outputs.")  # fmt: skip
        return self.likelihood.log_prob(prediction, self.data)

    def log_density(self, x: Tensor) -> Tensor:
        """ln p(data, x) of x `[..., d]`, shape `[...]`."""
        value = self.log_likelihood(self.theta(x)) + self.log_prior(x)
        return torch.where(torch.isnan(value), -torch.inf, value)

    def log_prior(self, x: Tensor) -> Tensor:
        """ln of the prior over x `[..., d]`, with the restriction, shape `[...]`."""
        prior = -0.5 * (x**2).sum(-1) - 0.5 * self.space.d * math.log(2 * math.pi)
        return prior if self.restriction is None else prior + self.restriction(self.theta(x))

    def find_map(self, *, restarts: int = 8, seed: int, near: Tensor | None = None) -> MAP:
        """The highest mode over x, climbed to from the prior's median and from `restarts` - 1 draws of the prior; and from
        the best four of the points theta `[r, d]` in `near`, such as runs, for a needle is met by no draw of the prior.

        Many observations are climbed together, each to its own mode. The mode of a density depends on its coordinates:
        this one is over x, where a flat prior pulls weakly from its edges, and where it always exists. Where the density
        has no gradient that adds up to its differences, it is searched for by particles.
        """
        shape = (restarts, *self.data.shape[:-1], self.space.d)
        start = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(self.data)
        start[0] = 0.0
        if not differentiable(self.log_density, start):
            return self._searched_map(seed)
        if near is not None and len(x := self.inside(near)):
            start = torch.cat([start, self._best(x)])
        modes = climb(self.log_density, start)
        height = modes.log_density - 1e-3 * ~modes.converged  # a tie goes to the converged
        best = height.argmax(0, keepdim=True)
        x, log_density, hessian, covariance, good = (
            part.take_along_dim(best.reshape(*best.shape, *[1] * (part.ndim - best.ndim)), 0)[0]
            for part in (modes.x, modes.log_density, modes.hessian, modes.covariance, modes.converged)
        )
        slope = self._slope(x)
        restarts, agree = len(start), (modes.log_density > log_density - 0.01).sum(0)
        sentence = (f"{int(good.sum())} of {good.numel()} modes converged; {int(agree.min())} of {restarts} starts or "
                    f"more reached the highest.")  # fmt: skip
        in_theta = slope[..., :, None] * covariance * slope[..., None, :]
        theta = self.theta(x).detach()
        return MAP(theta, x, log_density, hessian, in_theta, covariance, bool(good.all()), sentence)

    def inside(self, theta: Tensor) -> Tensor:
        """x `[k, d]` of those of the points theta `[r, d]` that lie in the prior."""
        return self.x(theta[self.space.log_prob(theta) > -torch.inf])

    def _best(self, x: Tensor, most: int = 4) -> Tensor:
        """Those of x `[r, d]` with the highest density, `[k, ..., d]`, for each observation its own."""
        with torch.no_grad():
            every = x.reshape(len(x), *[1] * (self.data.ndim - 1), self.space.d)
            value = self.log_density(every.expand(len(x), *self.data.shape[:-1], self.space.d))
        best = value.topk(min(most, len(x)), 0)
        return x[torch.where(best.values > -torch.inf, best.indices, value.argmax(0))]

    def _searched_map(self, seed: int) -> MAP:
        found = summit(self.log_density, self.data.shape[:-1], self.space.d, seed=seed)
        slope = self._slope(found.x)
        sentence = (f"without a gradient, {len(found.particles)} particles and a search; "
                    f"{int(found.converged.sum())} of {found.converged.numel()} searches converged.")  # fmt: skip
        return MAP(self.theta(found.x).detach(), found.x, found.log_density, torch.linalg.inv(found.covariance),
                   slope[..., :, None] * found.covariance * slope[..., None, :], found.covariance,
                   bool(found.converged.all()), sentence, found.particles)  # fmt: skip

    def predictive(self, theta: Tensor, *, seed: int, noise: bool = True) -> Tensor:
        """What draws theta `[..., d]` predict for the observation, one draw `[..., m]` for each: of the emulator's own error
        where the likelihood counts it, and of the observation's noise unless `noise` is False.

        Over draws of the posterior these are draws of the posterior predictive distribution.
        """
        one, *rest = replicates(seed, 1 + theta.shape[:-1].numel())
        with torch.no_grad():
            prediction = self.predict(theta)
            counted = getattr(self.likelihood, "emulator_covariance", True)
            y = drawn(prediction, seed=one) if counted else prediction.mean
            if noise and self.likelihood.adds_noise:
                rows = y.reshape(-1, y.shape[-1])
                y = torch.stack([self.likelihood.sample(r, seed=s) for r, s in zip(rows, rest)]).reshape(y.shape)
        return y

    def fisher(self, theta: Tensor, *, prior: bool = False) -> Tensor:
        """The Fisher information J^T C^-1 J at theta `[d]`, shape `[..., d, d]`, one over the units of the parameters.

        J = dy/dtheta of the predicted mean, C the observation's noise with the emulator's covariance at theta. How C
        changes with theta is left out (Tegmark, Taylor and Heavens 1997, eq. 15). `prior` adds 1 / sd^2 of normal and
        truncated normal priors, and 1 / (sd theta)^2 of log-normal ones; flat priors carry no information.
        """
        theta = self.space.pack(theta).detach().clone().requires_grad_()
        with torch.enable_grad():
            prediction = self.predict(theta)
            mean = prediction.mean
            if not mean.requires_grad:
                raise InputError("fisher must have a prediction with a gradient. Got one whose mean carries no graph; draw from "
                                 "the posterior by ensemble or smc, and take the covariance of the draws.")  # fmt: skip
            jacobian = torch.stack([torch.autograd.grad(y, theta, retain_graph=True)[0] for y in mean])
        covariance = self.likelihood.covariance(self.data, prediction).detach()
        whitened = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), jacobian, upper=False)
        information = whitened.mT @ whitened
        if prior:
            own = [_information(p.prior, t) for p, t in zip(self.space.parameters, theta.tolist(), strict=True)]
            information = information + torch.diag(torch.tensor(own).to(information))
        return information

    def widened(self, theta: Tensor) -> Tensor | None:
        """The factor `[d]` by which the emulator's own covariance widens each parameter, by the Fisher matrices at theta with
        and without it; None where the likelihood cannot leave it out, for it is then all the noise there is."""
        if not getattr(self.likelihood, "emulator_covariance", False):
            return None
        bare, told = replace(self.likelihood, emulator_covariance=False), getattr(self.likelihood, "outputs", None)
        alone = replace(self, likelihood=bare if told is None else bare.on(told))
        wide, narrow = (torch.linalg.inv_ex(p.fisher(theta, prior=True))[0].diagonal().sqrt() for p in (self, alone))
        return (wide / narrow).detach()

    def _slope(self, x: Tensor) -> Tensor:
        """dtheta/dx `[..., d]`, each parameter by itself."""
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            return torch.autograd.grad(self.theta(x).sum(), x)[0]


def _information(prior: Prior, theta: float) -> float:
    """What a prior tells of its parameter, one over the variance."""
    if isinstance(prior, LogNormal):
        return (prior.sd * theta) ** -2
    return prior.sd**-2 if isinstance(prior, Normal | TruncatedNormal) else 0.0
