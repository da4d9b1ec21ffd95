"""x = F^-1(u): how a torch distribution is drawn from uniform numbers, with the derivative in its parameters.

Continuous: dx/dtheta = -(dF/dtheta) / p(x), which holds for any monotone map from u (implicit reparameterisation:
Figurnov, Mohamed & Mnih 2018, eq. 5). Discrete: the least x with F(x) >= u; it carries no derivative.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy import special, stats
from torch import Tensor, distributions
from torch.distributions import Distribution

from emulate.errors import InputError


def inverse(distribution: Distribution, u: Tensor) -> Tensor:
    """x `[batch, event]` with F(x) = u, of the same shape, in the order of `noise.draw`.

    >>> half = torch.tensor(0.5, dtype=torch.float64)
    >>> bool(torch.isclose(inverse(distributions.Exponential(2.0), half), torch.log(2 * half / half) / 2))
    True
    """
    for family, draw in _INVERSES.items():
        if isinstance(distribution, family):
            return draw(distribution, u)
    if distribution.event_shape == ():
        try:
            return distribution.icdf(u)
        except NotImplementedError:
            pass
    known = ", ".join(sorted(family.__name__ for family in _INVERSES))
    raise InputError(f"a draw must be of a family with a known inverse: {known}, or any with an icdf. "
                     f"Got {type(distribution).__name__}; write it as a map of draws of these.")  # fmt: skip


def discrete(distribution: Distribution) -> bool:
    """Whether x takes values from a list, so that no derivative passes through a draw."""
    return bool(distribution.support.is_discrete)


def moves(distribution: Distribution) -> bool:
    """Whether a parameter of the distribution carries torch's derivative (in reverse mode)."""
    held = vars(distribution).values()
    return any(moves(v) if isinstance(v, Distribution) else isinstance(v, Tensor) and v.requires_grad for v in held)


def words(value: Any) -> str:
    return f"{type(value).__name__} {value!r}"[:80]


def _batched(cls: type, info: Any, in_dims: tuple[int | None, ...], *tensors: Tensor) -> tuple[Tensor, int]:
    front = [t.expand(info.batch_size, *t.shape) if d is None else t.movedim(d, 0) for t, d in zip(tensors, in_dims)]
    return cls.apply(*front), 0


class _GammaSlope(torch.autograd.Function):
    """dx/da at fixed u of a standard gamma draw x: ln x by central differences of fourth order in ln a, good to about
    1e-9 of x; torch's own `_standard_gamma_grad` is good to 1e-4."""

    @staticmethod
    def forward(a: Tensor, u: Tensor) -> Tensor:
        h = 2e-3
        f = [np.log(special.gammaincinv(a.numpy() * np.exp(k * h), u.numpy())) for k in (-2, -1, 1, 2)]
        slope = (8 * (f[2] - f[1]) - (f[3] - f[0])) / (12 * h)
        return torch.from_numpy(np.asarray(slope / a.numpy() * special.gammaincinv(a.numpy(), u.numpy())))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        pass

    @staticmethod
    def vmap(info: Any, in_dims: tuple, a: Tensor, u: Tensor) -> tuple[Tensor, int]:
        return _batched(_GammaSlope, info, in_dims, a, u)


class _StandardGamma(torch.autograd.Function):
    """x with P(a, x) = u, P the regularised incomplete gamma function."""

    @staticmethod
    def forward(a: Tensor, u: Tensor) -> Tensor:
        return torch.from_numpy(np.asarray(special.gammaincinv(a.numpy(), u.numpy()), dtype=np.float64))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * _GammaSlope.apply(*ctx.saved_tensors), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: Any) -> Tensor:
        return tangent * _GammaSlope.apply(*ctx.saved_tensors)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, a: Tensor, u: Tensor) -> tuple[Tensor, int]:
        return _batched(_StandardGamma, info, in_dims, a, u)


class _Quantile(torch.autograd.Function):
    """The least integer x with F(x) >= u of a scipy family; no derivative."""

    @staticmethod
    def forward(family: str, u: Tensor, *parameters: Tensor) -> Tensor:
        return torch.from_numpy(np.asarray(getattr(stats, family).ppf(u.numpy(), *(p.numpy() for p in parameters)),
                                           dtype=np.float64))  # fmt: skip

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.mark_non_differentiable(output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, ...]:
        return (None,) * len(ctx.needs_input_grad)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, family: str, *tensors: Tensor) -> tuple[Tensor, int]:
        front = [t.expand(info.batch_size, *t.shape) if d is None else t.movedim(d, 0)
                 for t, d in zip(tensors, in_dims[1:])]  # fmt: skip
        return _Quantile.apply(family, *front), 0


def _quantile(family: str, u: Tensor, *parameters: Tensor) -> Tensor:
    return _Quantile.apply(family, u, *(p.detach().double().expand(u.shape) for p in parameters))


def _gamma(d: distributions.Gamma, u: Tensor) -> Tensor:
    return _StandardGamma.apply(d.concentration.double().expand(u.shape), u) / d.rate


def _normal(d: distributions.Normal, u: Tensor) -> Tensor:
    return d.loc + d.scale * torch.special.ndtri(u)


def _multivariate(d: distributions.MultivariateNormal, u: Tensor) -> Tensor:
    return d.loc + (d._unbroadcasted_scale_tril @ torch.special.ndtri(u)[..., None])[..., 0]


def _categorical(d: distributions.Categorical, u: Tensor) -> Tensor:
    return (u[..., None] > d.probs.detach().cumsum(-1)[..., :-1]).sum(-1).double()


_INVERSES: dict[type, Callable[[Any, Tensor], Tensor]] = {
    distributions.Normal: _normal,
    distributions.MultivariateNormal: _multivariate,
    distributions.Gamma: _gamma,
    distributions.Independent: lambda d, u: inverse(d.base_dist, u),
    distributions.Bernoulli: lambda d, u: (u > 1 - d.probs.detach()).double(),
    distributions.Categorical: _categorical,
    distributions.Binomial: lambda d, u: _quantile("binom", u, d.total_count, d.probs),
    distributions.Poisson: lambda d, u: _quantile("poisson", u, d.rate),
    distributions.Geometric: lambda d, u: torch.floor(torch.log1p(-u) / torch.log1p(-d.probs.detach())),
}
