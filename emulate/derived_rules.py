"""Operations of torch written by others that have rules: the second half of the table behind `emulate.dual`."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from emulate.errors import InputError


def _clamp(x: Tensor, min: Any = None, max: Any = None) -> Tensor:
    if min is not None:
        x = torch.where(x < min, min, x)
    return x if max is None else torch.where(x > max, max, x)


def _nan_to_num(x: Tensor, nan: float = 0.0, posinf: float | None = None, neginf: float | None = None) -> Tensor:
    ends = torch.finfo(x.dtype)
    x = torch.where(x.isnan(), nan, x)
    x = torch.where(x == math.inf, ends.max if posinf is None else posinf, x)
    return torch.where(x == -math.inf, ends.min if neginf is None else neginf, x)


def _top(x: Tensor, dim: Any) -> Tensor:
    top = x.detach().amax(dim, keepdim=True)
    return torch.where(top.isfinite(), top, 0.0)


def _logsumexp(x: Tensor, dim: Any, keepdim: bool = False) -> Tensor:
    top = _top(x, dim)
    y = (x - top).exp().sum(dim, keepdim=True).log() + top
    return y if keepdim else y.squeeze(dim)


def _softmax(x: Tensor, dim: int, *_: Any, dtype: torch.dtype | None = None, **__: Any) -> Tensor:
    x = x if dtype is None else x.to(dtype)
    weight = (x - _top(x, dim)).exp()
    return weight / weight.sum(dim, keepdim=True)


def _log_softmax(x: Tensor, dim: int, *_: Any, dtype: torch.dtype | None = None, **__: Any) -> Tensor:
    x = x if dtype is None else x.to(dtype)
    return x - _logsumexp(x, dim, True)


def _softplus(x: Tensor, beta: float = 1, threshold: float = 20) -> Tensor:
    z = x * beta
    return torch.where(z > threshold, x, torch.where(z > threshold, 0.0, z).exp().log1p() / beta)


def _gelu(x: Tensor, approximate: str = "none") -> Tensor:
    if approximate == "tanh":
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def _elu(x: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    return torch.where(x > 0, x, alpha * torch.where(x > 0, 0.0, x).expm1())


def _prod(x: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """By pairs, so that a factor of 0 does no harm."""
    factors = (x.reshape(-1) if dim is None else x).unbind(0 if dim is None else dim)
    y = factors[0]
    for factor in factors[1:]:
        y = y * factor
    return y.unsqueeze(dim) if keepdim and dim is not None else y


def _cumprod(x: Tensor, dim: int) -> Tensor:
    y = []
    for factor in x.unbind(dim):
        y.append(y[-1] * factor if y else factor)
    return torch.stack(y, dim)


def _var(
    x: Tensor, dim: Any = None, unbiased: bool = True, keepdim: bool = False, *, correction: float | None = None
) -> Tensor:
    if isinstance(dim, bool):
        dim, unbiased = None, dim
    dims = tuple(range(x.ndim)) if dim is None else dim
    n = math.prod(x.shape[i] for i in (dims if isinstance(dims, list | tuple) else (dims,)))
    off = x - x.mean(dims, keepdim=True)
    return (off * off).sum(dims, keepdim=keepdim) / (n - (float(unbiased) if correction is None else correction))


def _norm(x: Tensor, ord: Any = None, dim: Any = None, keepdim: bool = False, **_: Any) -> Tensor:
    if isinstance(ord, str) or (dim is None and x.ndim > 1 and ord not in (None, 2)):
        raise InputError(f"forward must meet norms of vectors, or Frobenius' norm. Got ord = {ord!r} of a tensor of shape "
                         f"{list(x.shape)}; write it by sums, or by eigenvalues (emulate.linalg).")  # fmt: skip
    dims = tuple(range(x.ndim)) if dim is None else dim
    p = 2.0 if ord is None else float(ord)
    if math.isinf(p):
        return x.abs().amax(dims, keepdim=keepdim) if p > 0 else x.abs().amin(dims, keepdim=keepdim)
    if p == 1:
        return x.abs().sum(dims, keepdim=keepdim)
    total = (x.abs() ** p if p % 2 else x**p).sum(dims, keepdim=keepdim)
    nothing = total == 0  # the slope at 0 is taken as 0, as torch does
    return torch.where(nothing, 0.0, torch.where(nothing, 1.0, total) ** (1 / p))


def _matrix_norm(x: Tensor, ord: Any = None, dim: Any = None, keepdim: bool = False, **_: Any) -> Tensor:
    return _norm(x, ord if dim is not None and isinstance(dim, int) else _vector_only(x, ord), dim, keepdim)


def _vector_only(x: Tensor, ord: Any) -> Any:
    if ord == 2 and x.ndim > 1:
        raise InputError(f"forward must meet norms of vectors, or Frobenius' norm. Got ord = 2 of a tensor of shape "
                         f"{list(x.shape)}, the spectral norm; write it by eigenvalues (emulate.linalg).")  # fmt: skip
    return ord


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    y = x @ weight.mT if weight.ndim > 1 else x @ weight
    return y if bias is None else y + bias


def _matrix_exp(a: Any) -> Any:
    """exp of a dual number by the block [[A, dA], [0, A]] (Najfeld & Havel 1995), one direction at a time."""
    x, t = a.primal, a.tangent
    y, slopes = torch.linalg.matrix_exp(x), []
    n = x.shape[-1]
    for e in t.unbind():
        block = torch.cat([torch.cat([x, e], -1), torch.cat([torch.zeros_like(x), x], -1)], -2)
        slopes.append(torch.linalg.matrix_exp(block)[..., :n, n:])
    return type(a)(y, torch.stack(slopes), a.tag)


def _matrix_power(a: Tensor, n: int) -> Tensor:
    a, y = (torch.linalg.inv(a) if n < 0 else a), torch.eye(a.shape[-1], dtype=a.dtype, device=a.device).expand(a.shape)
    for _ in range(abs(n)):
        y = y @ a
    return y


def _pad(x: Tensor, pad: Any, mode: str = "constant", value: float | None = None) -> Tensor:
    if mode != "constant":
        raise InputError(f"forward must pad by a constant. Got the mode {mode!r}; write it by torch.cat.")
    before = pad[::2]
    for i, (low, high) in enumerate(zip(before, pad[1::2])):
        dim = x.ndim - 1 - i
        x = x.narrow(dim, max(-low, 0), x.shape[dim] - max(-low, 0) - max(-high, 0))
        ends = [
            torch.full([*x.shape[:dim], max(k, 0), *x.shape[dim + 1 :]], value or 0.0, dtype=x.dtype)
            for k in (low, high)
        ]
        x = torch.cat([ends[0], x, ends[1]], dim)
    return x


def _reduced(loss: Tensor, reduction: str) -> Tensor:
    return loss if reduction == "none" else loss.sum() if reduction == "sum" else loss.mean()


def _broadcast_tensors(*tensors: Any) -> tuple[Tensor, ...]:
    tensors = tensors[0] if len(tensors) == 1 and not isinstance(tensors[0], Tensor) else tensors
    shape = torch.broadcast_shapes(*(t.shape for t in tensors))
    return tuple(t.expand(shape) for t in tensors)


DERIVED: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(("clamp", "clip"), _clamp),
    "clamp_min": lambda x, min: _clamp(x, min),
    "clamp_max": lambda x, max: _clamp(x, None, max),
    "hardtanh": lambda x, min_val=-1.0, max_val=1.0, inplace=False: _clamp(x, min_val, max_val),
    "nan_to_num": _nan_to_num,
    "masked_fill": lambda x, mask, value: torch.where(mask, value, x),
    "logsumexp": _logsumexp,
    "softmax": _softmax,
    "log_softmax": _log_softmax,
    "softplus": _softplus,
    "silu": lambda x, inplace=False: x * x.sigmoid(),
    "gelu": _gelu,
    "elu": _elu,
    "leaky_relu": lambda x, negative_slope=0.01, inplace=False: torch.where(x > 0, x, negative_slope * x),
    "logit": lambda x, eps=None: (lambda p: p.log() - (-p).log1p())(x if eps is None else _clamp(x, eps, 1 - eps)),
    "entr": lambda x: -torch.xlogy(x, x),
    "prod": _prod,
    "cumprod": _cumprod,
    "var": _var,
    "std": lambda *args, **kwargs: _var(*args, **kwargs).sqrt(),
    "norm": lambda x, p=2, dim=None, keepdim=False, **_: _norm(x, None if p == "fro" else p, dim, keepdim),
    "linalg_vector_norm": _norm,
    "linalg_norm": _matrix_norm,
    "lerp": lambda x, y, weight: x + weight * (y - x),
    "addcmul": lambda x, a, b, *, value=1: x + value * (a * b),
    "addcdiv": lambda x, a, b, *, value=1: x + value * (a / b),
    **dict.fromkeys(("addmm", "addmv", "baddbmm"), lambda x, a, b, *, beta=1, alpha=1: beta * x + alpha * (a @ b)),
    "linear": _linear,
    **dict.fromkeys(("matrix_exp", "linalg_matrix_exp"), _matrix_exp),
    **dict.fromkeys(("matrix_power", "linalg_matrix_power"), _matrix_power),
    "pad": _pad,
    "mse_loss": lambda x, y, reduction="mean", **_: _reduced((x - y) ** 2, reduction),
    "l1_loss": lambda x, y, reduction="mean", **_: _reduced((x - y).abs(), reduction),
    "broadcast_tensors": _broadcast_tensors,
}
