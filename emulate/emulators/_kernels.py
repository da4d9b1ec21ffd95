"""Correlations between points, their slopes, and the polynomial trends below a process; what all processes share.

Squares of differences, added parameter by parameter: each point has the same bits alone and in any batch. One product,
|u|^2 + |v|^2 - 2 u v, is faster, but cancels, in another way for each batch: weights of 1e6, which noise-free runs have,
made 3e-10 of the outputs' scale of that.
"""

import math
from functools import reduce
from operator import add
from typing import Any

import torch
from torch import Tensor

from emulate.emulators._arithmetic import LIBRARY, Library, Portable
from emulate.errors import InputError

STATIONARY = ("rbf", "matern52", "matern32")
KERNELS = (*STATIONARY, "additive")
MEANS = ("constant", "linear", "quadratic")
_CACHE = 2**15  # numbers that one step of a loop may touch: they stay in the cache


def kernel(
    u: Tensor, columns: Tensor, length: Tensor, order: Tensor, name: str, by: Library | Portable = LIBRARY
) -> Tensor:
    """k(u, v) `[..., a, b]` with k(u, u) = 1, of u `[a, d]`, `columns_of(v)`, length `[..., d]` and order `[...]`.

    Stationary ones are functions of the distance in units of the lengths (Rasmussen and Williams 2006, section 4.2). The
    additive one is the sum over all subsets of the parameters (Duvenaud, Nickisch and Rasmussen 2011; Durrande et al.
    2013), with e_i the rbf of parameter i alone and a = exp(order) the weight of every further parameter of a subset:

        k = [prod_i (1 + a e_i) - 1] / [(1 + a)^d - 1]

    Its limits are the mean of the e_i, a function without interactions (a to 0), and their product, the rbf (a large).
    By `_arithmetic.Portable` all is done one operation at a time.
    """
    if name == "additive":
        if torch.compiler.is_compiling() or by.ordered:
            e, whole = _parts(u, columns, length, order, by)
            return whole * _share(order, len(e), by)
        return _Additive.apply(u, columns, length, order)
    return correlation(exponents(u, columns, length, by), name, by)


def correlation(e: Tensor, name: str, by: Library | Portable = LIBRARY) -> Tensor:
    """k with k(0) = 1, of e = -r^2 / 2 with r the distance in units of the lengths."""
    if name == "rbf":
        return by.exp(e)
    r2 = (-2 * e).clamp_min(1e-30)  # the clamp keeps the gradient finite at a training point
    r = by.sqrt(r2)
    if name == "matern32":
        return (1 + math.sqrt(3) * r) * by.exp(-math.sqrt(3) * r)
    return (1 + math.sqrt(5) * r + 5 / 3 * r2) * by.exp(-math.sqrt(5) * r)


def correlation_slope(e: Tensor, name: str, by: Library | Portable = LIBRARY) -> Tensor:
    """dk/de."""
    if name == "rbf":
        return by.exp(e)
    r = by.sqrt((-2 * e).clamp_min(1e-30))  # as above
    if name == "matern32":
        return 3 * by.exp(-math.sqrt(3) * r)
    return 5 / 3 * (1 + math.sqrt(5) * r) * by.exp(-math.sqrt(5) * r)


def slopes(
    u: Tensor, columns: Tensor, length: Tensor, order: Tensor, name: str, by: Library | Portable = LIBRARY
) -> Tensor:
    """dk(u, v) / du_i `[d, ..., a, b]`, without a graph."""
    if name == "additive":
        return torch.stack(_rates(u, columns, length, order, by))
    rate, far = -correlation_slope(exponents(u, columns, length, by), name, by), length.square()
    return torch.stack(
        [rate * (x[:, None] - v) / far[..., i, None, None] for i, (x, v) in enumerate(zip(u.T, columns))]
    )


class _Exponents(torch.autograd.Function):
    """The loops of `exponents`; its derivatives are products, in which nothing cancels that has not done so in the sum."""

    @staticmethod
    def forward(u: Tensor, columns: Tensor, length: Tensor) -> Tensor:
        return _exponents(u, columns, length)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        u, columns, length = ctx.saved_tensors
        pull = g @ (columns[:, 0].T - 0.5) - g.sum(-1, keepdim=True) * (u - 0.5)  # [..., a, d]
        return (pull / length.square()[..., None, :]).sum_to_size(u.shape), None, None

    @staticmethod
    def jvp(ctx: Any, du: Tensor, *_: None) -> Tensor:
        u, columns, length = ctx.saved_tensors
        step = du / length.square()[..., None, :]
        return step @ (columns[:, 0] - 0.5) - (step * (u - 0.5)).sum(-1, keepdim=True)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, u: Tensor, *rest: Tensor) -> tuple[Tensor, int]:
        return _over_points(_Exponents, in_dims, u, *rest), 0


def _over_points(function: Any, in_dims: tuple, u: Tensor, *rest: Tensor) -> Tensor:
    """What torch.func.vmap asks of a function: a batch of batches of points is one batch of points."""
    if any(dim is not None for dim in in_dims[1:]):
        raise InputError(
            "torch.func.vmap must go over points u. Got the runs or lengths of the kernel; map over theta."
        )
    u = u.movedim(in_dims[0], 0)
    k = function.apply(u.flatten(0, 1), *rest)
    return k.unflatten(-2, u.shape[:2]).movedim(-3, 0)


def exponents(u: Tensor, columns: Tensor, length: Tensor, by: Library | Portable = LIBRARY) -> Tensor:
    """-|(u - v) / length|^2 / 2 `[..., a, b]` of u `[a, d]`, `columns_of(v)` and length `[..., d]`, differentiable in u."""
    if by.ordered:
        return _exponents_in_order(u, columns, length)
    if torch.compiler.is_compiling():
        return _exponents_of_any(u, columns, length)
    return _Exponents.apply(u, columns, length)


def _exponents(u: Tensor, columns: Tensor, length: Tensor) -> Tensor:
    rate = -0.5 / length.square()
    single = rate.tolist() if rate.ndim == 1 else rate.ravel().tolist() if len(rate) == 1 else None
    e = u.new_zeros((*length.shape[:-1], len(u), columns.shape[-1]))
    x, rate = u.T[..., None].contiguous(), rate.movedim(-1, 0)[..., None, None]
    few = x.numel() * columns.shape[-1] <= _CACHE  # all differences in one call, to the same bits
    rows = max(1, len(u) if few else _CACHE // columns.shape[-1])
    for a in range(0, len(u), rows):
        piece, part = x[:, a : a + rows], e[..., a : a + rows, :]
        gaps = piece - columns if few else map(torch.sub, piece, columns)
        for i, gap in enumerate(gaps):
            if single:
                part.addcmul_(gap, gap, value=single[i])
            else:
                part.addcmul_(gap.square_(), rate[i])
    return e


def _exponents_of_any(u: Tensor, columns: Tensor, length: Tensor) -> Tensor:
    """The same sums as one expression for any number of points: what torch.export and torch.compile can follow."""
    rates, gaps = (-0.5 / length.square()).movedim(-1, 0)[..., None, None], u.T[..., None] - columns
    single = length.ndim == 1 or length.shape[0] == 1
    e = u.new_zeros((*length.shape[:-1], 1, 1))
    for gap, rate in zip(gaps.unbind(0), rates.unbind(0), strict=True):
        e = torch.addcmul(e, rate * gap, gap) if single else torch.addcmul(e, gap.square(), rate)
    return e


def _exponents_in_order(u: Tensor, columns: Tensor, length: Tensor) -> Tensor:
    """The same without `addcmul`, which rounds once or twice as the machine likes."""
    rates = (-0.5 / length.square()).movedim(-1, 0)[..., None, None]
    return reduce(add, ((x[:, None] - v).square() * rate for x, v, rate in zip(u.T, columns, rates, strict=True)))


def _share(order: Tensor, d: int, by: Library | Portable = LIBRARY) -> Tensor:
    """1 / [(1 + a)^d - 1] `[..., 1, 1]`."""
    if by.ordered:
        a = order.exp()
        return reduce(lambda whole, _: whole * (1 + a) + a, range(d - 1), a).reciprocal()[..., None, None]
    return torch.expm1(d * torch.log1p(order.exp())).reciprocal()[..., None, None]


def _parts(
    u: Tensor, columns: Tensor, length: Tensor, order: Tensor, by: Library | Portable = LIBRARY
) -> tuple[list[Tensor], Tensor]:
    """e_i, d times `[..., a, b]`, and prod_i (1 + a e_i) - 1, summed so that small a lose no digits."""
    rate, a = -0.5 / length.square(), order.exp()[..., None, None]
    e = [by.exp((u[:, i, None] - columns[i]).square() * rate[..., i, None, None]) for i in range(u.shape[-1])]
    whole = a * e[0]
    for x in e[1:]:
        whole = whole + a * x * (1 + whole)
    return e, whole


def _additive(u: Tensor, columns: Tensor, length: Tensor, order: Tensor) -> Tensor:
    """The loop of `_parts` in blocks that fit the cache, keeping nothing."""
    rate, a, d = -0.5 / length.square(), order.exp()[..., None, None], u.shape[-1]
    share, out = _share(order, d), []
    rows = max(1, _CACHE // (columns.shape[-1] * max(1, order.numel())))
    for piece in u.split(rows):
        whole = torch.zeros(())
        for i in range(d):
            gap = piece[:, i, None] - columns[i]
            x = (gap.square_() * rate[..., i, None, None]).exp_().mul_(a)
            whole = whole.add_(x.mul_(1 + whole)) if i else x
        out.append(whole.mul_(share))
    return out[0] if len(out) == 1 else torch.cat(out, -2)


class _Additive(torch.autograd.Function):
    """The additive kernel without a graph of its loop; the way back is written in operations that have one."""

    @staticmethod
    def forward(u: Tensor, columns: Tensor, length: Tensor, order: Tensor) -> Tensor:
        return _additive(u, columns, length, order)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None, None]:
        u, columns, length, order = ctx.saved_tensors
        pull = [(g * r).sum_to_size(*u.shape[:1], columns.shape[-1]).sum(-1) for r in _rates(u, columns, length, order)]
        return torch.stack(pull, -1), None, None, None

    @staticmethod
    def jvp(ctx: Any, du: Tensor, *_: None) -> Tensor:
        return reduce(add, (du[:, i, None] * r for i, r in enumerate(_rates(*ctx.saved_tensors))))

    @staticmethod
    def vmap(info: Any, in_dims: tuple, u: Tensor, *rest: Tensor) -> tuple[Tensor, int]:
        return _over_points(_Additive, in_dims, u, *rest), 0


def _rates(u: Tensor, columns: Tensor, length: Tensor, order: Tensor, by: Library | Portable = LIBRARY) -> list[Tensor]:
    """dk/du_i, d times `[..., a, b]`."""
    e, whole = _parts(u, columns, length, order, by)
    a, share = order.exp()[..., None, None], _share(order, len(e), by)
    rate = -1 / length.square()
    return [share * (1 + whole) * (a * x / (1 + a * x)) * (u[:, i, None] - columns[i]) * rate[..., i, None, None]
            for i, x in enumerate(e)]  # fmt: skip


def columns_of(v: Tensor) -> Tensor:
    """`[d, 1, b]` of points v `[b, d]`: each parameter in one piece."""
    return v.T[:, None].contiguous()


def basis(u: Tensor, mean: str) -> Tensor:
    """h `[..., k]`: 1, then x = 2u - 1, then the products x_i x_j."""
    x = 2 * u - 1
    parts = [torch.ones_like(x[..., :1])]
    if mean != "constant":
        parts.append(x)
    if mean == "quadratic":
        i, j = torch.triu_indices(x.shape[-1], x.shape[-1], device=x.device)
        parts.append(x[..., i] * x[..., j])
    return torch.cat(parts, -1)


def basis_slopes(u: Tensor, mean: str) -> Tensor:
    """dh/du `[..., k, d]`."""
    d = u.shape[-1]
    one = torch.eye(d, dtype=u.dtype, device=u.device)
    parts = [u.new_zeros(*u.shape[:-1], 1, d)]
    if mean != "constant":
        parts.append((2 * one).expand(*u.shape[:-1], d, d))
    if mean == "quadratic":
        x = 2 * u - 1
        i, j = torch.triu_indices(d, d, device=u.device)
        parts.append(2 * (x[..., i, None] * one[j] + x[..., j, None] * one[i]))
    return torch.cat(parts, -2)


def determined(u: Tensor, mean: str) -> bool:
    """Whether the points u `[n, d]` fix every coefficient of the mean, with one run to spare."""
    h = basis(u, mean)
    return len(h) > h.shape[-1] and int(torch.linalg.matrix_rank(h, rtol=1e-8)) == h.shape[-1]
