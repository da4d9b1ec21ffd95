"""A posterior as a function of arrays, with its gradient: what emcee, dynesty, ultranest, scipy and nutpie ask for."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from emulate.densities import value_and_gradient
from emulate.errors import InputError, nearest
from emulate.posterior import Posterior

Coordinates = Literal["theta", "x"]
_ROWS = 4096  # points at a time


@dataclass(frozen=True)
class Density:
    r"""ln p(theta, data) of arrays, normalised as a joint density: ln p(data | theta) + ln p(theta).

    It takes one point `[d]` and gives a number, or many `[..., d]` in one call and gives `[...]`; many at once is what an
    emulator is fast at. `coordinates` say what a point is:

    - "theta": the parameters in their units. Outside the prior ln p is -inf, and no emulator is asked there.
    - "x": coordinates in which the prior is standard normal, `posterior.x(theta)`. They have no bounds and the density
      over them is smooth, so gradient-based samplers belong there; `theta` maps them back.

    Where ln p is no number it is -inf, and its gradient 0. A point that is not finite is outside. It can be sent to other
    processes where the posterior can.

    - emcee: `EnsembleSampler(n, d, density, vectorize=True)`, from `density.starts(n, seed=1)`.
    - dynesty: `NestedSampler(density.log_likelihood, density.prior_transform, d)`.
    - ultranest: `ReactiveNestedSampler(names, density.log_likelihood, density.prior_transform, vectorized=True)`.
    - scipy: `minimize(lambda t: -density(t), start, jac=lambda t: -density.gradient(t))`.
    - nutpie, and pymc by an `Op` of yours: `density.value_and_gradient`, with coordinates "x".

    >>> from emulate.distributions import Exact
    >>> from emulate.likelihoods.gaussian import Gaussian
    >>> from emulate.space import Normal, Parameter, Space
    >>> space = Space((Parameter("a", Normal(0.0, 1.0)),))
    >>> posterior = Posterior(space, Exact, Gaussian(absolute_error=1.0), torch.tensor([2.0], dtype=torch.float64))
    >>> density = Density(posterior)
    >>> round(density([1.0]), 4), density(np.zeros((3, 1))).shape, density.gradient([0.5])
    (-2.8379, (3,), array([1.]))
    """

    posterior: Posterior
    coordinates: Coordinates = "theta"

    def __post_init__(self):
        if not isinstance(self.posterior, Posterior):
            raise InputError(f"a density must be made of an emulate.Posterior. Got {type(self.posterior).__name__}; build one "
                             "of a space, a prediction, a likelihood and data.")  # fmt: skip
        if self.coordinates not in ("theta", "x"):
            raise InputError(f"coordinates must be theta or x. Got {self.coordinates!r}"
                             f".{nearest(str(self.coordinates), ('theta', 'x'))}")  # fmt: skip
        if self.posterior.data.ndim != 1:
            raise InputError(f"a density must have one observation, data of shape [m]. Got {list(self.posterior.data.shape)}; "
                             "make a posterior of one row.")  # fmt: skip

    def __call__(self, x: ArrayLike) -> float | np.ndarray:
        """ln p at x `[..., d]`, shape `[...]`; a float for one point."""
        with torch.no_grad():
            return _given(self._rows(x, lambda t: (self._log_density(t),))[0])

    def gradient(self, x: ArrayLike) -> np.ndarray:
        """d ln p / dx at x `[..., d]`, same shape, through the emulator."""
        return self.value_and_gradient(x)[1]

    def value_and_gradient(self, x: ArrayLike) -> tuple[float | np.ndarray, np.ndarray]:
        """ln p `[...]` and its gradient `[..., d]` in one pass. `InputError` where the prediction carries no gradient."""
        value, gradient = self._rows(x, lambda t: value_and_gradient(self._log_density, t))
        return _given(value), gradient.numpy()

    def log_likelihood(self, theta: ArrayLike) -> float | np.ndarray:
        """ln p(data | theta) at theta `[..., d]` in their units, with the posterior's restriction where it has one: what
        nested sampling weighs draws of the prior with."""

        def of(rows: Tensor) -> tuple[Tensor]:
            return (self._restricted(self.posterior.log_likelihood(rows), rows),)

        with torch.no_grad():
            return _given(self._rows(theta, of, "theta")[0])

    def prior_transform(self, u: ArrayLike) -> np.ndarray:
        """u `[..., d]` of the unit cube -> theta `[..., d]`: uniform numbers become draws of the prior."""
        return self.posterior.space.from_unit(self._packed(u)).numpy()

    def theta(self, x: ArrayLike) -> np.ndarray:
        """The parameters `[..., d]` in their units of points x `[..., d]` in this density's coordinates."""
        return self._to_theta(self._packed(x)).numpy()

    def starts(self, n: int, *, seed: int) -> np.ndarray:
        """n draws `[n, d]` of the prior, in this density's coordinates: where chains and walkers may begin."""
        u = torch.rand((n, self.posterior.space.d), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        theta = self.posterior.space.from_unit(u)
        return (theta if self.coordinates == "theta" else self.posterior.x(theta)).numpy()

    def _packed(self, x: ArrayLike) -> Tensor:
        return self.posterior.space.pack(np.asarray(x)).clone()

    def _to_theta(self, x: Tensor) -> Tensor:
        return x if self.coordinates == "theta" else self.posterior.theta(x)

    def _log_density(self, x: Tensor) -> Tensor:
        theta = self._to_theta(x)
        value = self.posterior.log_likelihood(theta)
        if x.requires_grad and not value.requires_grad:
            raise InputError("a gradient must come through the prediction. Got one whose density carries no graph; use a sampler "
                             "without gradients, or predict by an emulator.")  # fmt: skip
        if self.coordinates == "x":
            return value + self.posterior.log_prior(x)
        return self._restricted(value, theta) + self.posterior.space.log_prob(theta)

    def _restricted(self, value: Tensor, theta: Tensor) -> Tensor:
        also = self.posterior.restriction
        return value if also is None else value + also(theta)

    def _rows(self, x: ArrayLike, of: Callable[[Tensor], tuple[Tensor, ...]],
              coordinates: Coordinates | None = None) -> tuple[Tensor, ...]:  # fmt: skip
        """What `of` says of the rows inside the prior; -inf, and a gradient of 0, for the others."""
        x = self._packed(x)
        flat = x.reshape(-1, x.shape[-1])
        inside = flat.isfinite().all(-1)
        if (coordinates or self.coordinates) == "theta":
            inside &= self.posterior.space.log_prob(flat) > -torch.inf
        parts = [of(rows) for rows in flat[inside].split(_ROWS) if len(rows)]
        value, gradient = flat.new_full((len(flat),), -torch.inf), torch.zeros_like(flat)
        for whole, some in zip((value, gradient), zip(*parts, strict=True), strict=False):
            whole[inside] = torch.cat(some).detach()
        value[value.isnan()] = -torch.inf
        return value.reshape(x.shape[:-1]), gradient.reshape(x.shape)


def _given(value: Tensor) -> float | np.ndarray:
    return value.numpy() if value.ndim else float(value)
