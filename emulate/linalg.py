"""Functions of the eigenvalues of symmetric matrices, with derivatives that are right where eigenvalues repeat."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from emulate.dual import Dual, pushforward
from emulate.errors import InputError

Function = Callable[[Tensor], Tensor]  # of every entry by itself
CLOSE = 0.02  # relative gap below which a difference quotient would lose digits
EQUAL = 1e-9  # relative gap below which eigenvalues count as one
_NODES, _WEIGHTS = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(10))
_NODES, _WEIGHTS = (_NODES + 1) / 2, _WEIGHTS / 2


def spectral(a: Tensor, f: Function) -> Tensor:
    """f(A) = V f(L) V^T of symmetric A = V L V^T `[..., n, n]`, with f a smooth function of numbers, such as torch.exp.

    Along E the derivative is V (D * (V^T E V)) V^T, with the divided differences D_ij = (f(l_i) - f(l_j)) / (l_i - l_j)
    and f'(l_i) where they meet (Daleckii & Krein 1965; Higham 2008, sec. 3.2). D of close eigenvalues is the mean of f'
    between them (Hermite & Genocchi), so that no digit is lost; second derivatives take second divided differences.
    Works in reverse mode (twice), in torch's and our forward mode, and in batches. Of A only the symmetric part is read,
    and its gradient is symmetric.

    >>> eye = torch.eye(2, dtype=torch.float64, requires_grad=True)
    >>> torch.autograd.grad(spectral(eye, torch.exp).sum(), eye)[0]
    tensor([[2.7183, 2.7183],
            [2.7183, 2.7183]], dtype=torch.float64)
    """
    _checked(a)
    if isinstance(a, Dual):
        return Dual(spectral(a.primal, f), torch.stack([_frechet(a.primal, e, f) for e in a.tangent]), a.tag)
    return _Spectral.apply(f, a)


def trace_of(a: Tensor, f: Function) -> Tensor:
    """sum_i f(l_i) `[...]` over the eigenvalues of symmetric A `[..., n, n]`; its gradient is f'(A).

    >>> round(float(trace_of(4 * torch.eye(3, dtype=torch.float64), torch.sqrt)), 12)
    6.0
    """
    return spectral(a, f).diagonal(dim1=-2, dim2=-1).sum(-1)


def logdet(a: Tensor) -> Tensor:
    """ln det A `[...]` of symmetric positive definite A `[..., n, n]`."""
    return trace_of(a, torch.log)


def power(a: Tensor, p: float) -> Tensor:
    """A^p of symmetric A `[..., n, n]`, positive definite unless p is a whole number."""
    return spectral(a, lambda x: x**p)


def through_eigenvectors(loss: Callable[[Tensor, Tensor], Tensor], a: Tensor) -> Tensor:
    """loss(l `[n]`, V `[n, n]`), one number, of the eigenvalues in rising order and eigenvectors (columns) of symmetric
    A `[n, n]`, with its first derivative.

    A = V diag(l) V^T leaves the signs of V free, and all rotations of V where an eigenvalue repeats. `InputError` where the
    loss depends on that choice, which no derivative could undo: its value or its slope changes when V is turned so, or the
    slope along such a turn, V^T dloss/dV less its transpose, is not zero. Also where eigenvalues repeat and the loss tells
    them apart, for there the eigenpairs do not say what the derivative is: `spectral` and `trace_of` do.

    >>> a = torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=torch.float64, requires_grad=True)
    >>> torch.autograd.grad(through_eigenvectors(lambda l, v: v[0, 0] ** 2, a), a)[0].diagonal()
    tensor([-0.2500,  0.2500], dtype=torch.float64)
    """
    _checked(a)
    if isinstance(a, Dual):
        value, slope = _loss_of_pairs(loss, a.primal)
        return Dual(value, (slope * a.tangent).sum((-2, -1)), a.tag)
    return _Known.apply(a, *_loss_of_pairs(loss, a.detach()))


def _checked(a: Tensor) -> None:
    if a.ndim < 2 or a.shape[-1] != a.shape[-2]:
        raise InputError(f"a symmetric matrix must be of shape [..., n, n]. Got {list(a.shape)}.")
    try:
        off = float((a - a.mT).detach().abs().max() / a.detach().abs().max().clamp(min=1e-300)) if a.numel() else 0.0
    except RuntimeError:  # a batch of torch.func.vmap has no value to look at
        return
    if off > 1e-8:
        raise InputError(f"a matrix must be symmetric. Got one that differs from its transpose by {off:.3g} of its "
                         "greatest entry; take (A + A^T) / 2 if that is what is meant.")  # fmt: skip


def _slope(f: Function, x: Tensor) -> Tensor:
    return pushforward(f, x, torch.ones_like(x)[None])[1][0]


def _curvature(f: Function, x: Tensor) -> Tensor:
    return _slope(lambda y: _slope(f, y), x)


def _close(x: Tensor, y: Tensor, f_x: Tensor, f_y: Tensor, size: Tensor) -> Tensor:
    """Where (f(x) - f(y)) / (x - y) would lose digits: x and y are close by themselves, or, near zero, beside the size of
    the matrix or 1, and f hardly changes."""
    gap, still = (x - y).abs(), (f_x - f_y).abs() <= CLOSE * torch.maximum(f_x.abs(), f_y.abs())
    return (gap <= CLOSE * torch.maximum(x.abs(), y.abs())) | (still & (gap <= CLOSE * size.clamp(min=1.0)))


def _first(f: Function, x: Tensor, y: Tensor, size: Tensor) -> Tensor:
    """f[x, y] of x and y of one shape."""
    f_x, f_y = f(x), f(y)
    near = _close(x, y, f_x, f_y, size)
    apart = (f_x - f_y) / torch.where(near, 1.0, x - y)
    s = _NODES.to(x).reshape(-1, *(1,) * x.ndim)
    mean = (_slope(f, y + s * (x - y)) * _WEIGHTS.to(x).reshape(s.shape)).sum(0)
    return torch.where(near, mean, apart)


def _second(f: Function, x: Tensor, y: Tensor, z: Tensor, size: Tensor) -> Tensor:
    """f[x, y, z]: across the widest of the gaps, or the mean of f'' over the triangle if that is narrow too."""
    low, middle, high = torch.stack(torch.broadcast_tensors(x, y, z)).sort(0).values
    above, below = _first(f, middle, high, size), _first(f, low, middle, size)
    near = _close(low, high, below, above, size)
    apart = (above - below) / torch.where(near, 1.0, high - low)
    s, t = (v.reshape(-1, *(1,) * low.ndim) for v in torch.cartesian_prod(_NODES, _NODES).to(low).T)
    w = torch.outer(_WEIGHTS, _WEIGHTS).to(low).reshape(s.shape)
    mean = (w * s * _curvature(f, low + s * (middle - low) + s * t * (high - middle))).sum(0)
    return torch.where(near, mean, apart)


def _parts(a: Tensor) -> tuple[Tensor, Tensor]:
    return torch.linalg.eigh((a + a.mT) / 2)


def _turned(v: Tensor, e: Tensor) -> Tensor:
    """The symmetric part of e, seen in the eigenvectors."""
    return v.mT @ ((e + e.mT) / 2) @ v


def _along(a: Tensor, e: Tensor, f: Function) -> Tensor:
    x, v = _parts(a)
    one, other = torch.broadcast_tensors(x[..., :, None], x[..., None, :])
    return v @ (_first(f, one, other, x.abs().amax(-1)[..., None, None]) * _turned(v, e)) @ v.mT


def _twice(a: Tensor, e: Tensor, g: Tensor, f: Function) -> Tensor:
    """The second derivative of f(A) along E and G: sum_k f[i, k, j] (E_ik G_kj + G_ik E_kj)."""
    x, v = _parts(a)
    e, g = _turned(v, e), _turned(v, g)
    size = x.abs().amax(-1)[..., None, None, None]
    third = _second(f, x[..., :, None, None], x[..., None, :, None], x[..., None, None, :], size)  # i, k, j
    inner = torch.einsum("...ikj,...ik,...kj->...ij", third, e, g) + torch.einsum(
        "...ikj,...ik,...kj->...ij", third, g, e
    )
    return v @ inner @ v.mT


def _frechet(a: Tensor, e: Tensor, f: Function) -> Tensor:
    """The derivative of f(A) along E, of tensors and of dual numbers."""
    tag = max((x.tag for x in (a, e) if isinstance(x, Dual)), default=None)
    if tag is None:
        return _Frechet.apply(f, a, e)
    (pa, ta), (pe, te) = ((x.primal, x.tangent) if isinstance(x, Dual) and x.tag == tag else (x, None) for x in (a, e))
    parts = [] if ta is None else [torch.stack([_FrechetTwice.apply(f, pa, pe, t) for t in ta])]
    parts += [] if te is None else [torch.stack([_frechet(pa, t, f) for t in te])]
    return Dual(_frechet(pa, pe, f), sum(parts[1:], parts[0]), tag)


class _Spectral(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(f: Function, a: Tensor) -> Tensor:
        x, v = _parts(a)
        return (v * f(x)[..., None, :]) @ v.mT

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.f, a = inputs
        ctx.save_for_backward(a)
        ctx.save_for_forward(a)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[None, Tensor]:
        return None, _Frechet.apply(ctx.f, *ctx.saved_tensors, g)

    @staticmethod
    def jvp(ctx: Any, _: Any, e: Tensor) -> Tensor:
        return _Frechet.apply(ctx.f, *ctx.saved_tensors, e)


class _Frechet(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(f: Function, a: Tensor, e: Tensor) -> Tensor:
        return _along(a, e, f)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.f, *tensors = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[None, Tensor, Tensor]:
        a, e = ctx.saved_tensors
        return None, _FrechetTwice.apply(ctx.f, a, e, g), _Frechet.apply(ctx.f, a, g)

    @staticmethod
    def jvp(ctx: Any, _: Any, da: Tensor | None, de: Tensor | None) -> Tensor:
        a, e = ctx.saved_tensors
        parts = [] if da is None else [_FrechetTwice.apply(ctx.f, a, e, da)]
        parts += [] if de is None else [_Frechet.apply(ctx.f, a, de)]
        return sum(parts[1:], parts[0])


class _FrechetTwice(torch.autograd.Function):
    """It has no derivative of its own: a third one is refused, not masked."""

    generate_vmap_rule = True

    @staticmethod
    def forward(f: Function, a: Tensor, e: Tensor, g: Tensor) -> Tensor:
        if any(isinstance(x, Dual) for x in (a, e, g)):
            raise _third()
        return _twice(a, e, g, f)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> None:
        raise _third()


def _third() -> InputError:
    return InputError("a spectral function must be differentiated at most twice. Got a third derivative; take a difference of "
                      "second ones.")  # fmt: skip


class _Known(torch.autograd.Function):
    """A value whose slope is known."""

    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor, value: Tensor, slope: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.save_for_backward(inputs[2])
        ctx.save_for_forward(inputs[2])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        return g * ctx.saved_tensors[0], None, None

    @staticmethod
    def jvp(ctx: Any, e: Tensor, _: Any, __: Any) -> Tensor:
        return (ctx.saved_tensors[0] * e).sum()


def _loss_of_pairs(loss: Callable[[Tensor, Tensor], Tensor], a: Tensor) -> tuple[Tensor, Tensor]:
    """The loss and its slope `[n, n]`, by perturbation theory between eigenvalues that differ."""
    x, v = _parts(a)
    one = (x[:, None] - x).abs() <= EQUAL * x.abs().max()
    turn = _turn(one)
    (value, by_x, by_v), (other, by_x_too, by_v_too) = (_slopes(loss, x, w) for w in (v, v @ turn))
    skew = v.mT @ by_v - by_v.mT @ v
    scale = 1e-7 * (1 + by_v.abs().max() + by_x.abs().max())
    repeats = bool(one.sum() > len(x))
    whose = "rotation within a repeated eigenvalue" if repeats else "sign of an eigenvector"
    moved = (value - other).abs() > 1e-9 * (1e-3 + value.abs()) or (by_v @ turn - by_v_too).abs().max() > scale
    if moved or (skew[one].abs() > scale).any():
        raise InputError(f"a loss must not depend on the choice of eigenvectors that the matrix leaves free. Got one that "
                         f"changes with the {whose}; write it by projectors V V^T of whole eigenspaces, or by "
                         "spectral(A, f).")  # fmt: skip
    told_apart = one & ((by_x[:, None] - by_x).abs() > scale)
    if told_apart.any() or (repeats and (by_x - by_x_too).abs().max() > scale):
        raise InputError("a loss must not tell repeated eigenvalues apart. Got one whose slopes differ within one "
                         "eigenvalue, where the eigenpairs do not say what its derivative is; write it by spectral(A, f) or "
                         "trace_of(A, f).")  # fmt: skip
    between = torch.where(one, 0.0, skew / torch.where(one, 1.0, x - x[:, None]) / 2)
    slope = v @ (torch.diag(by_x) + between) @ v.mT
    return value, (slope + slope.mT) / 2


def _turn(one: Tensor) -> Tensor:
    """An orthogonal matrix that flips every other sign and turns each eigenspace in itself."""
    n = len(one)
    entries = torch.from_numpy(np.random.default_rng(20_250_101).standard_normal((n, n))).to(one.device)
    q, _ = torch.linalg.qr(torch.where(one, entries, 0.0))  # blocks: neighbours in the order of eigenvalues
    flip = -torch.ones(n, dtype=q.dtype)
    flip[1::2] = 1.0
    return q * torch.where(one.sum(0) > 1, 1.0, flip * q.diagonal().sign())


def _slopes(loss: Callable[[Tensor, Tensor], Tensor], x: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    x, v = x.detach().requires_grad_(), v.detach().requires_grad_()
    with torch.enable_grad():
        value = loss(x, v)
    if value.numel() != 1:
        raise InputError(f"a loss of eigenpairs must be one number. Got shape {list(value.shape)}.")
    by_x, by_v = torch.autograd.grad(value.sum(), (x, v), allow_unused=True, materialize_grads=True)
    return value.detach().reshape(()), by_x, by_v
