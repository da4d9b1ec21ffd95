"""What a prediction is: one `Distribution` over y `[..., m]`, from which mean, variance, samples and density come."""

import math
from functools import cached_property
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from torch.distributions import Distribution

from emulate.errors import InputError


def logarithms(y: Tensor, log: Tensor | None) -> tuple[Tensor, Tensor | float, Tensor | None]:
    """w `[..., m]` of y, ln|dy/dw| summed `[...]`, and where all that has a logarithm is above 0 `[...]`; None: everywhere."""
    if log is None:
        return y, 0.0, None
    ln = torch.where(log & (y > 0), y, 1.0).log()  # the inner `where` keeps the gradient finite
    return torch.where(log, ln, y), ln.sum(-1), ((y > 0) | ~log).all(-1)


def fitting(prediction: Distribution, value: Tensor) -> Tensor:
    """The value of which a density is asked, or a sentence: outputs along its last axis, batch that broadcasts."""
    if not isinstance(value, Tensor) or not (value.is_floating_point() or value.dtype == torch.int64):
        met = f"a tensor of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
        raise InputError(f"log_prob must be given a tensor of numbers. Got {met}; make one by torch.as_tensor(y, "
                         "dtype=torch.float64).")  # fmt: skip
    batch, (m,) = prediction.batch_shape, prediction.event_shape
    lead, own = value.shape[:-1], batch[max(0, len(batch) - value.ndim + 1) :]
    lead = lead[max(0, len(lead) - len(own)) :]
    if value.ndim and value.shape[-1] == m and all(a == b or 1 in (a, b) for a, b in zip(lead, own, strict=True)):
        return value
    allowed = f"[..., {', '.join(map(str, (*batch, m)))}]"
    raise InputError(f"log_prob must be given outputs of shape {allowed}, the {m} outputs last, after the shape of the "
                     f"points that were predicted. Got {list(value.shape)}.")  # fmt: skip


class Seeded(Protocol):
    """What draws by a generator, as every distribution of this project does and none of torch's."""

    def sample(self, sample_shape: tuple[int, ...] = (), *, generator: torch.Generator | None = None,
                **how: bool) -> Tensor: ...  # fmt: skip

    def rsample(self, sample_shape: tuple[int, ...] = (), *, generator: torch.Generator | None = None,
                **how: bool) -> Tensor: ...  # fmt: skip


def seeded(prediction: Distribution) -> Seeded:
    """The same prediction, of which it is known that its draws take a generator."""
    return cast(Seeded, prediction)


def gaussian_of(prediction: Distribution) -> tuple[Tensor, Tensor]:
    """Mean `[..., m]` and covariance `[..., m, m]` of a prediction.

    >>> gaussian_of(torch.distributions.Normal(torch.zeros(1).double(), 2.0).expand((1,)))
    (tensor([0.], dtype=torch.float64), tensor([[4.]], dtype=torch.float64))
    """
    if (own := getattr(prediction, "gaussian", None)) is not None:
        return own()
    covariance = getattr(prediction, "covariance_matrix", None)
    return prediction.mean, torch.diag_embed(prediction.variance) if covariance is None else covariance


def drawn(prediction: Distribution, shape: tuple[int, ...] = (), *, seed: int, **how: bool) -> Tensor:
    """Draws `[*shape, ..., m]` of a prediction that a seed repeats, differentiable where the prediction allows it; `common`
    noise for all points where asked.

    >>> drawn(Exact(torch.ones(2, dtype=torch.float64)), (1,), seed=1)
    tensor([[1., 1.]], dtype=torch.float64)
    """
    sample = seeded(prediction).rsample if prediction.has_rsample else seeded(prediction).sample
    if isinstance(prediction, Exact):
        return sample(shape)
    generator = torch.Generator(device=prediction.mean.device).manual_seed(seed)
    try:
        return sample(shape, generator=generator, **how)
    except TypeError as e:
        if not any(word in str(e) for word in ("generator", *how)):
            raise
        raise InputError(f"draws that can be repeated must come of a prediction whose samples take a `generator`. Got "
                         f"{type(prediction).__name__}; return a Gaussian of emulate.distributions.") from e  # fmt: skip


def constant(prediction: Distribution) -> Tensor | None:
    """`[m]`, the value of each output that no training run varied, NaN of others; None where there are none."""
    inner: Any = prediction
    while hasattr(inner, "inner"):
        inner = inner.inner
    return getattr(inner, "constant", None)


def apart(prediction: Distribution, y: Tensor) -> Tensor:
    """y `[..., m]` with the predicted value for outputs that the prediction holds to be constant.

    Their density does not depend on theta. Where y differs there, it is 1e15 nats below, beside which all else loses its
    digits; at the value itself it is a constant.

    >>> one = torch.ones(2, dtype=torch.float64)
    >>> p = Gaussian(0 * one, one[:1], torch.tensor([[1.0, 0.0]], dtype=torch.float64), 1e-24 * one)
    >>> p.constant = torch.tensor([math.nan, 0.0], dtype=torch.float64)
    >>> apart(p, one)
    tensor([1., 0.], dtype=torch.float64)
    """
    known = constant(prediction)
    return y if known is None else torch.where(known.to(y.device).isnan(), y, known.to(y.device))


class Joint(Distribution):
    """What predictions of several outputs share: distribution functions are those of each output, and live elsewhere."""

    constant: Tensor | None = None  # see the function of that name

    @property
    def arg_constraints(self) -> dict[str, Any]:
        return {}

    def cdf(self, value: Tensor) -> Tensor:
        raise InputError("a prediction of all outputs has no distribution function of one number. Call emulate.pit(prediction, y) "
                         "for that of each output.")  # fmt: skip

    def icdf(self, value: Tensor) -> Tensor:
        raise InputError("a prediction of all outputs has no quantiles. Call emulate.scoring.interval(prediction, level) for "
                         "those of each output.")  # fmt: skip

    def entropy(self) -> Tensor:
        raise InputError("the entropy of a prediction is not known in closed form. Average -log_prob over samples.")


class Gaussian(Joint):
    r"""Normal over the outputs, or over their logarithms, with full covariance: y_j = w_j or exp(w_j), w ~ N(loc, C).

    C = basis^T S basis + rest^T rest + diag(diagonal), so wide outputs cost nothing until `covariance_matrix` is asked
    for. Moments in physical units are exact (Aitchison and Brown 1957): with E_j = exp(loc_j + C_jj / 2),
    cov(y_i, y_j) = E_i E_j (exp(C_ij) - 1) where both are logarithms, E_i C_ij where only i is, C_ij where none is.

    Shapes: loc and diagonal `[..., m]`; spread: variances `[..., p]`, S = diag(spread), or a lower triangle
    `[..., p, p]`, S = spread spread^T; basis `[p, m]`, rest `[q, m]` or None, log bool `[m]` or None: same for the batch.
    With `mix` `[c, c]`, a lower triangle with rows of length 1, the first c components correlate by mix mix^T.

    >>> one = torch.ones(2, dtype=torch.float64)
    >>> Gaussian(0 * one, one, torch.eye(2, dtype=torch.float64), 0 * one).log_prob(0 * one)
    tensor(-1.8379, dtype=torch.float64)
    """

    has_rsample = True

    def __init__(self, loc: Tensor, spread: Tensor, basis: Tensor, diagonal: Tensor, rest: Tensor | None = None,
                 log: Tensor | None = None, mix: Tensor | None = None):  # fmt: skip
        self.loc, self.spread, self.basis, self.diagonal, self.rest, self.log = loc, spread, basis, diagonal, rest, log
        self.mix, self._mixed = mix, 0 if mix is None else len(mix)
        self._triangle = spread.ndim > loc.ndim
        super().__init__(loc.shape[:-1], loc.shape[-1:], validate_args=False)

    @cached_property
    def _w_variance(self) -> Tensor:
        if self._triangle:
            v = (self.spread.mT @ self.basis).square().sum(-2)
        else:
            v = self.spread[..., self._mixed :] @ self.basis[self._mixed :].square()
            v = v if self.mix is None else v + self._root.square().sum(-2)
        return v + self.diagonal if self.rest is None else v + self.diagonal + self.rest.square().sum(-2)

    @cached_property
    def _root(self) -> Tensor:
        """mix^T diag(sd) basis `[..., c, m]` of the components that correlate."""
        mix, c = self.spread.new_zeros(0, 0) if self.mix is None else self.mix, self._mixed
        return mix.mT @ (self.spread[..., :c, None].sqrt() * self.basis[:c])

    @cached_property
    def _w_covariance(self) -> Tensor:
        if self._triangle:
            root = self.spread.mT @ self.basis
            c = root.mT @ root
        else:  # one product for the whole batch
            basis, spread = self.basis[self._mixed :], self.spread[..., self._mixed :]
            outer = basis[:, :, None] * basis[:, None, :]
            c = (spread @ outer.flatten(1)).unflatten(-1, outer.shape[1:])
            c = c if self.mix is None else c + self._root.mT @ self._root
        c = c + torch.diag_embed(self.diagonal)
        return c if self.rest is None else c + self.rest.mT @ self.rest

    @property
    def factors(self) -> tuple[Tensor, Tensor, Tensor] | None:
        """sd `[..., k]`, B `[k, m]`, k < m, and diagonal `[..., m]` of cov(y) = B^T diag(sd)^2 B + diag, if it has that form."""
        k = len(self.basis) + (0 if self.rest is None else len(self.rest))
        if self.log is not None or self._triangle or self._mixed or k >= self.loc.shape[-1]:
            return None
        sd, basis = self.spread.clamp_min(1e-30).sqrt(), self.basis  # at 0 the root has no slope
        if self.rest is not None:
            sd = torch.cat([sd, sd.new_ones(*sd.shape[:-1], len(self.rest))], -1)
            basis = torch.cat([basis, self.rest])
        return sd, basis, self.diagonal

    @cached_property
    def _stretch(self) -> Tensor:
        """dy/dw in the mean: E_j where w is a logarithm, 1 elsewhere."""
        log = torch.ones_like(self.loc, dtype=torch.bool) if self.log is None else self.log
        return torch.where(log, self.loc + 0.5 * self._w_variance, 0.0).exp()  # `where` first: exp may overflow

    @property
    def mean(self) -> Tensor:
        return self.loc if self.log is None else torch.where(self.log, self._stretch, self.loc)

    @property
    def variance(self) -> Tensor:
        v = self._w_variance
        return v if self.log is None else self._stretch.square() * torch.where(self.log, torch.expm1(v), v)

    @property
    def covariance_matrix(self) -> Tensor:
        """`[..., m, m]` in physical units."""
        c = self._w_covariance
        if self.log is None:
            return c
        both = self.log[:, None] & self.log
        return self._stretch[..., :, None] * self._stretch[..., None, :] * torch.where(both, torch.expm1(c), c)

    def gaussian(self) -> tuple[Tensor, Tensor]:
        """The mean `[..., m]` and covariance `[..., m, m]` of y: the Gaussian with the same first two moments."""
        return self.mean, self.covariance_matrix

    def standard(self, value: Tensor) -> Tensor:
        """(w - loc) / sd `[..., m]` of y `[..., m]`, output by output: standard normal if the prediction is right."""
        return (logarithms(value, self.log)[0] - self.loc) / self._w_variance.sqrt()

    def rsample(self, sample_shape=(), *, generator: torch.Generator | None = None, common: bool = False) -> Tensor:
        """Differentiable draws `[*sample_shape, ..., m]`; give a seeded `generator` for draws that can be repeated.

        With `common` all points of the batch share their noise, so that they can be compared."""

        def noise(*tail: int) -> Tensor:
            shape = (*sample_shape, *(1 if common else n for n in self.batch_shape), *tail)
            return torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device, generator=generator)

        z = noise(len(self.basis))
        if self.mix is not None:
            z = torch.cat([z[..., : self._mixed] @ self.mix.mT, z[..., self._mixed :]], -1)
        z = (self.spread @ z[..., None])[..., 0] if self._triangle else self.spread.sqrt() * z
        w = self.loc + z @ self.basis
        w = w + noise(self.loc.shape[-1]) * self.diagonal.sqrt()
        if self.rest is not None:
            w = w + noise(self.rest.shape[0]) @ self.rest
        return w if self.log is None else torch.where(self.log, torch.where(self.log, w, 0.0).exp(), w)

    def sample(self, sample_shape=(), *, generator: torch.Generator | None = None) -> Tensor:
        with torch.no_grad():
            return self.rsample(sample_shape, generator=generator)

    def log_prob(self, value: Tensor) -> Tensor:
        """ln p(y) of y `[..., m]` in physical units; -inf where a positive output is not above 0, NaN without a covariance."""
        w, jacobian, inside = logarithms(fitting(self, value), self.log)
        sd = self._w_variance.sqrt()  # unit diagonal first: outputs may differ by twenty decades
        factor, failed = torch.linalg.cholesky_ex(self._w_covariance / (sd[..., :, None] * sd[..., None, :]))
        x = ((w - self.loc) / sd)[..., None]
        x = torch.linalg.solve_triangular(factor.expand(*x.shape[:-2], *factor.shape[-2:]), x, upper=False)[..., 0]
        half_logdet = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1) + sd.log().sum(-1)
        density = -0.5 * x.square().sum(-1) - half_logdet - 0.5 * x.shape[-1] * math.log(2 * math.pi) - jacobian
        density = torch.where(failed != 0, math.nan, density)  # of one point, and the others of a batch stand
        return density if inside is None else torch.where(inside, density, -math.inf)


class Correlated(Distribution):
    """Normal components of which the first c correlate, in the same way everywhere: cov = diag(sd) mix mix^T diag(sd).

    Shapes: mean and sd `[..., p]`, event shape `(p,)`; mix `[c, c]`, a lower triangle with rows of length 1.

    >>> half = torch.tensor([[1.0, 0.0], [0.6, 0.8]], dtype=torch.float64)
    >>> zero = torch.zeros(3, dtype=torch.float64)
    >>> Correlated(zero, zero + 2, half).covariance_matrix[0]
    tensor([4.0000, 2.4000, 0.0000], dtype=torch.float64)
    """

    has_rsample = True

    @property
    def arg_constraints(self) -> dict[str, Any]:
        return {}

    def __init__(self, mean: Tensor, sd: Tensor, mix: Tensor):
        self._mean, self._sd, self.mix = mean, sd, mix
        super().__init__(mean.shape[:-1], mean.shape[-1:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self._mean

    @property
    def stddev(self) -> Tensor:
        return self._sd

    @property
    def variance(self) -> Tensor:
        return self._sd.square()

    @property
    def _triangle(self) -> Tensor:
        whole = torch.eye(self._mean.shape[-1], dtype=self._mean.dtype, device=self._mean.device)
        whole[: len(self.mix), : len(self.mix)] = self.mix
        return self._sd[..., :, None] * whole

    @property
    def covariance_matrix(self) -> Tensor:
        """`[..., p, p]`."""
        return self._triangle @ self._triangle.mT

    def rsample(self, sample_shape=(), *, generator: torch.Generator | None = None) -> Tensor:
        shape = (*sample_shape, *self._mean.shape)
        noise = torch.randn(shape, dtype=self._mean.dtype, device=self._mean.device, generator=generator)
        return self._mean + (self._triangle @ noise[..., None])[..., 0]

    def sample(self, sample_shape=(), *, generator: torch.Generator | None = None) -> Tensor:
        with torch.no_grad():
            return self.rsample(sample_shape, generator=generator)

    def log_prob(self, value: Tensor) -> Tensor:
        """ln p `[...]` of all components together."""
        return torch.distributions.MultivariateNormal(self._mean, scale_tril=self._triangle).log_prob(value)


class Exact(Joint):
    """A prediction without error: the output y `[..., m]` of a true simulator, so that every tool applies to both.

    >>> Exact(torch.ones(3, dtype=torch.float64)).variance
    tensor([0., 0., 0.], dtype=torch.float64)
    """

    has_rsample = True

    def __init__(self, y: Tensor):
        self.y = y
        super().__init__(y.shape[:-1], y.shape[-1:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self.y

    @property
    def variance(self) -> Tensor:
        return torch.zeros_like(self.y)

    @property
    def covariance_matrix(self) -> Tensor:
        return torch.diag_embed(torch.zeros_like(self.y))

    def gaussian(self) -> tuple[Tensor, Tensor]:
        """y and a covariance of zeros."""
        return self.y, self.covariance_matrix

    def rsample(self, sample_shape=(), *, generator: torch.Generator | None = None) -> Tensor:
        return self.y.expand(*sample_shape, *self.y.shape)

    def sample(self, sample_shape=(), *, generator: torch.Generator | None = None) -> Tensor:
        return self.rsample(sample_shape).detach()

    def log_prob(self, value: Tensor) -> Tensor:
        raise InputError("an exact prediction has no density: its variance is 0. Use a likelihood, which adds the "
                         "observation's noise.")  # fmt: skip
