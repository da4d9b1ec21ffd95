"""x = F^-1(u): how a torch distribution is drawn from uniform numbers, with the derivative in its parameters.

Continuous: dx/dtheta = -(dF/dtheta) / p(x), which holds for any monotone map from u (implicit reparameterisation:
Figurnov, Mohamed & Mnih 2018, eq. 5). Discrete: the least x with F(x) >= u; it carries no derivative.
"""

from collections.abc import Callable
from functools import reduce
from operator import add
from typing import Any

import numpy as np
import torch
from scipy import special
from torch import Tensor, distributions
from torch.autograd import forward_ad
from torch.distributions import Distribution, constraints

from emulate.dual import Dual, elementwise
from emulate.errors import InputError


def inverse(distribution: Distribution, u: Tensor) -> Tensor:
    """x with F(x) = u, of the shape of u.

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
    return bool(getattr(distribution.support, "is_discrete", False))


def carries(x: Any) -> bool:
    """Whether a tensor carries a derivative: torch's, of reverse or of forward mode, or that of a dual number."""
    if isinstance(x, Dual):
        return True
    return isinstance(x, Tensor) and (x.requires_grad or forward_ad.unpack_dual(x).tangent is not None)


def moves(distribution: Distribution) -> bool:
    """Whether a parameter of the distribution carries a derivative."""
    return any(moves(v) if isinstance(v, Distribution) else carries(v) for v in vars(distribution).values())


def support_moves(distribution: Distribution) -> bool:
    """Whether an end of the support carries a derivative, as that of Uniform(0, theta) does."""
    return any(carries(getattr(distribution.support, end, None)) for end in ("lower_bound", "upper_bound"))


def valid(distribution: Distribution) -> Tensor:
    """Whether all parameters are allowed, as a tensor: what a batch can ask without a branch."""
    held = [(getattr(distribution, name), constraint) for name, constraint in distribution.arg_constraints.items()
            if name in vars(distribution)]  # fmt: skip
    answers = [
        constraint.check(value.real if value.is_complex() else value).all()
        for value, constraint in held
        if not constraints.is_dependent(constraint)
    ]
    return torch.stack(answers).all() if answers else torch.tensor(True)


def _front(info: Any, in_dims: tuple[int | None, ...], tensors: tuple[Tensor, ...]) -> list[Tensor]:
    """The batch in front of every tensor."""
    return [t.expand(info.batch_size, *t.shape) if d is None else t.movedim(d, 0) for t, d in zip(tensors, in_dims)]


class _Slope(torch.autograd.Function):
    """dx/da at fixed u of one parameter a > 0: central differences of fourth order in ln a, good to about 1e-9 of x."""

    @staticmethod
    def forward(quantile: Callable, which: int, u: Tensor, *parameters: Tensor) -> Tensor:
        h, values = 2e-3, [p.numpy() for p in parameters]
        f = [
            quantile(*values[:which], values[which] * np.exp(k * h), *values[which + 1 :], u.numpy())
            for k in (-2, -1, 1, 2)
        ]
        slope = (8 * (f[2] - f[1]) - (f[3] - f[0])) / (12 * h * values[which])
        return torch.from_numpy(np.asarray(slope, dtype=np.float64))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.mark_non_differentiable(output)  # it has no second derivative

    @staticmethod
    def vmap(info: Any, in_dims: tuple, quantile: Callable, which: int, *tensors: Tensor) -> tuple[Tensor, int]:
        return _Slope.apply(quantile, which, *_front(info, in_dims[2:], tensors)), 0


class _Quantile(torch.autograd.Function):
    """x = quantile(*parameters, u) of a continuous family that scipy inverts, with its implicit derivative."""

    @staticmethod
    def forward(quantile: Callable, u: Tensor, *parameters: Tensor) -> Tensor:
        return torch.from_numpy(np.asarray(quantile(*(p.numpy() for p in parameters), u.numpy()), dtype=np.float64))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.quantile = inputs[0]
        ctx.save_for_backward(*inputs[1:])
        ctx.save_for_forward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        u, *parameters = ctx.saved_tensors
        return None, None, *(grad * _Slope.apply(ctx.quantile, i, u, *parameters) for i in range(len(parameters)))

    @staticmethod
    def jvp(ctx: Any, _: Any, __: Any, *tangents: Tensor | None) -> Tensor:
        u, *parameters = ctx.saved_tensors
        return reduce(
            add, (t * _Slope.apply(ctx.quantile, i, u, *parameters) for i, t in enumerate(tangents) if t is not None)
        )

    @staticmethod
    def vmap(info: Any, in_dims: tuple, quantile: Callable, *tensors: Tensor) -> tuple[Tensor, int]:
        return _Quantile.apply(quantile, *_front(info, in_dims[1:], tensors)), 0


class _Count(torch.autograd.Function):
    """The least integer x with F(x) >= u of a family of scipy; no derivative."""

    @staticmethod
    def forward(family: str, u: Tensor, *parameters: Tensor) -> Tensor:
        from scipy import stats  # here, because it is slow to import

        x = getattr(stats, family).ppf(u.numpy(), *(p.numpy() for p in parameters))
        return torch.from_numpy(np.asarray(x, dtype=np.float64))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.mark_non_differentiable(output)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, family: str, *tensors: Tensor) -> tuple[Tensor, int]:
        return _Count.apply(family, *_front(info, in_dims[1:], tensors)), 0


def _by(quantile: Callable, u: Tensor, *parameters: Tensor) -> Tensor:
    return elementwise(lambda *p: _Quantile.apply(quantile, u, *p), lambda i, *p: _Slope.apply(quantile, i, u, *p),
                       *(p.double().expand(u.shape) for p in parameters))  # fmt: skip


def _count(family: str, u: Tensor, *parameters: Tensor) -> Tensor:
    return _Count.apply(family, u, *(p.detach().double().expand(u.shape) for p in parameters))


def _multivariate(d: distributions.MultivariateNormal, u: Tensor) -> Tensor:
    return d.loc + (d._unbroadcasted_scale_tril.double() @ torch.special.ndtri(u)[..., None])[..., 0]


_INVERSES: dict[type, Callable[[Any, Tensor], Tensor]] = {
    distributions.Normal: lambda d, u: d.loc + d.scale * torch.special.ndtri(u),
    distributions.MultivariateNormal: _multivariate,
    distributions.Gamma: lambda d, u: _by(special.gammaincinv, u, d.concentration) / d.rate,
    distributions.Beta: lambda d, u: _by(special.betaincinv, u, d.concentration1, d.concentration0),
    distributions.StudentT: lambda d, u: d.loc + d.scale * _by(special.stdtrit, u, d.df),
    distributions.Gumbel: lambda d, u: d.loc - d.scale * torch.log(-torch.log(u)),
    distributions.Laplace: lambda d, u: d.loc + d.scale * torch.where(
        u < 0.5, torch.log(2 * u.clamp(max=0.5)), -torch.log(2 * (1 - u).clamp(max=0.5))),
    distributions.Independent: lambda d, u: inverse(d.base_dist, u),
    distributions.Bernoulli: lambda d, u: (u > 1 - d.probs.detach()).double(),
    distributions.Categorical: lambda d, u: (u[..., None] > d.probs.detach().cumsum(-1)[..., :-1]).sum(-1),
    distributions.Binomial: lambda d, u: _count("binom", u, d.total_count, d.probs),
    distributions.Poisson: lambda d, u: _count("poisson", u, d.rate),
    distributions.Geometric: lambda d, u: torch.floor(torch.log1p(-u) / torch.log1p(-d.probs.detach())),
}  # fmt: skip
