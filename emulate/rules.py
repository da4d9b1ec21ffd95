"""What each operation of torch does to tangents: the table behind `emulate.dual`.

A rule takes the answer y, the flat arguments, their tangents `[k, *shape]` (None: a constant), the call itself and the
shape of the arguments, and gives the tangents of y. Derivatives are written by operations that have rules in turn, so
that a second derivative is the first one taken twice.
"""

import math
from collections.abc import Callable
from functools import reduce
from operator import add
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from emulate.errors import InputError

Rule = Callable[[Any, list, list, Callable, Any], Any]
SQRT_PI = math.sqrt(math.pi)


def linear(y: Any, x: list, t: list, call: Callable, spec: Any) -> Any:
    """dy = call(dx): linear in all tensors of numbers together."""
    k, moved = _directions(t), [i for i, v in enumerate(x) if _number(v)]
    given = [
        t[i] if t[i] is not None else torch.zeros(k, *x[i].shape, dtype=x[i].dtype, device=x[i].device) for i in moved
    ]
    return _each_direction(lambda *v: call(_put(x, moved, v)), given)


def _filled(y: Tensor, x: list, t: list, call: Callable, spec: Any) -> Tensor:
    """scatter and index_fill: linear in tensors; a plain number that is written has slope 0."""
    args, kwargs = pytree.tree_unflatten(list(range(len(x))), spec)
    if "reduce" in kwargs:
        raise InputError(f"forward must meet scatter that writes or adds. Got reduce = {x[kwargs['reduce']]!r}; write it by "
                         "others (emulate/rules.py lists them), or use reverse.")  # fmt: skip
    at = args[3] if len(args) > 3 else kwargs.get("value", kwargs.get("src"))
    return linear(y, x if isinstance(x[at], Tensor) else _put(x, [at], [0.0]), t, call, spec)


def multilinear(y: Any, x: list, t: list, call: Callable, spec: Any) -> Tensor:
    """dy = sum_i call(.., dx_i, ..): linear in every tensor by itself."""
    parts = [_each_direction(lambda v, i=i: call(_put(x, [i], [v])), [t[i]]) for i in range(len(x)) if t[i] is not None]
    return reduce(add, parts)


def _convolution(y: Tensor, x: list, t: list, call: Callable, spec: Any) -> Tensor:
    if any(_number(v) for v in x[2:]):
        raise InputError("forward must meet convolutions without a bias. Got one with a bias; add it afterwards.")
    return multilinear(y, x, t, call, spec)


def _put(x: list, at: list[int], values: Any) -> list:
    x = list(x)
    for i, v in zip(at, values):
        x[i] = v
    return x


def _each_direction(call: Callable, tangents: list[Tensor]) -> Any:
    """call of the tangents of every direction, stacked."""
    if len(tangents[0]) > 1 and all(type(t) is Tensor for t in tangents):
        try:
            return torch.func.vmap(call)(*tangents)
        except (RuntimeError, InputError):  # dual numbers of lower tags, and what vmap cannot batch, go one by one
            pass
    answers = [call(*of) for of in zip(*(t.unbind() for t in tangents))]
    leaves, specs = zip(*(pytree.tree_flatten(a) for a in answers))
    return pytree.tree_unflatten([torch.stack(of) for of in zip(*leaves)], specs[0])


def _number(x: Any) -> bool:
    return isinstance(x, Tensor) and (x.is_floating_point() or x.is_complex())


def _directions(tangents: list) -> int:
    return next(len(t) for t in tangents if t is not None)


def _wide(t: Tensor, ndim: int) -> Tensor:
    """A tangent `[k, *shape]` with ones after k, so that it broadcasts as its primal does."""
    return t.reshape((len(t), *(1,) * (ndim + 1 - t.ndim), *t.shape[1:])) if t.ndim < ndim + 1 else t


def _scaled(factor: Any, t: Tensor) -> Tensor:
    return t if isinstance(factor, float) and factor == 1.0 else factor * t


def pointwise(*slopes: Callable[..., Any]) -> Rule:
    """dy = sum_i slope_i(y, *x) dx_i, with broadcasting; x is as many arguments as there are slopes."""

    def rule(y: Tensor, x: list, t: list, call: Callable, spec: Any) -> Tensor:
        met = x[: len(slopes)]
        parts = [_scaled(slope(y, *met), _wide(of, y.ndim)) for slope, of in zip(slopes, t) if of is not None]
        total = sum(parts[1:], parts[0])
        return total.expand(len(total), *y.shape) if total.shape[1:] != y.shape else total

    return rule


def _picked(y: Any, x: list, t: list, call: Callable, spec: Any) -> Any:
    """What max, min, sort and the like pick along a dimension, by the indices that they give."""
    (args, kwargs) = pytree.tree_unflatten(x, spec)
    dim = kwargs.get("dim", next((a for a in args[-2 if len(args) > 2 else 1 :] if type(a) is int), -1))
    values, indices = y
    if t[0].ndim == 1:
        return type(y)((t[0].expand_as(torch.empty(len(t[0]), *values.shape)), None))
    dim, gone = dim % (t[0].ndim - 1), values.ndim < t[0].ndim - 1
    at = indices.unsqueeze(dim) if gone else indices
    slopes = _each_direction(lambda v: v.gather(dim, at), [t[0]])
    return type(y)((slopes.squeeze(dim + 1) if gone else slopes, None))


def _extreme(y: Tensor, x: list, t: list, call: Callable, spec: Any) -> Tensor:
    """amax and amin: ties share alike, as in torch."""
    args, kwargs = pytree.tree_unflatten(x, spec)
    dim, keep = (
        args[1] if len(args) > 1 else kwargs.get("dim", ()),
        kwargs.get("keepdim", args[2] if len(args) > 2 else False),
    )
    dims = tuple(range(x[0].ndim)) if dim in ((), [], None) else tuple(dim) if isinstance(dim, list | tuple) else (dim,)
    whole = y if keep else y.reshape([1 if i in [d % x[0].ndim for d in dims] else s for i, s in enumerate(x[0].shape)])
    ties = (x[0] == whole).to(y.dtype)
    share = ties / ties.sum(dims, keepdim=True) if dims else ties
    return _each_direction(lambda v: (share * v).sum(dims, keepdim=keep) if dims else share * v, [t[0]])


def _sum(first: float, second: float) -> Rule:
    """first a + second b, where alpha multiplies what is subtracted or added: b of add and sub, a of rsub."""

    def rule(y: Tensor, x: list, t: list, call: Callable, spec: Any) -> Tensor:
        alpha = x[2] if len(x) > 2 else 1
        factors = (first * alpha, second) if first < 0 else (first, second * alpha)
        return pointwise(lambda *_: factors[0], lambda *_: factors[1])(y, x, t, call, spec)

    return rule


def _quotient(y: Tensor, x: list, t: list, call: Callable, spec: Any) -> Any:
    if len(x) > 2 and x[2] is not None:  # rounding_mode
        return torch.zeros(_directions(t), *y.shape, dtype=y.dtype, device=y.device)
    return pointwise(lambda y, a, b: 1 / b, lambda y, a, b: -y / b)(y, x, t, call, spec)


def _magnitude(y: Tensor, x: list, t: list, call: Callable, spec: Any) -> Tensor:
    return (x[0].conj() / torch.where(y == 0, 1.0, y) * t[0]).real if x[0].is_complex() else x[0].sign() * t[0]


def _where(y: Tensor, x: list, t: list, call: Callable, spec: Any) -> Tensor:
    """torch.where(condition, a, b), or a.where(condition, b)."""
    method = isinstance(x[1], Tensor) and x[1].dtype == torch.bool
    condition, a, b = (x[1], t[0], t[2]) if method else (x[0], t[1], t[2])
    left, right = (torch.zeros((), dtype=y.dtype) if of is None else _wide(of, y.ndim) for of in (a, b))
    return torch.where(condition, left, right).expand(_directions(t), *y.shape)


def _max(y: Any, x: list, t: list, call: Callable, spec: Any) -> Any:
    return _picked(y, x, t, call, spec) if isinstance(y, tuple) else _extreme(y, x[:1], t, call, _ONE)


_ONE = pytree.tree_flatten(((0,), {}))[1]


def _solve(y: Tensor, x: list, t: list, call: Callable, spec: Any) -> Tensor:
    """A y = b: A dy = db - dA y."""
    a, b = x[0], x[1]
    vector = b.ndim == 1 or (a.ndim - 1 == b.ndim and b.shape == a.shape[:-1])
    right = torch.zeros((), dtype=y.dtype) if t[1] is None else t[1]
    if t[0] is not None:
        turned = _each_direction(lambda v: (v @ y[..., None])[..., 0] if vector else v @ y, [t[0]])
        right = right - turned
    return _each_direction(lambda v: call(_put(x, [1], [v])), [right])


def _inverse(y: Tensor, x: list, t: list, call: Callable, spec: Any) -> Tensor:
    return -_each_direction(lambda v: y @ v @ y, [t[0]])


def _trace_of_solve(a: Tensor, t: Tensor) -> Tensor:
    return _each_direction(lambda v: torch.linalg.solve(a, v).diagonal(dim1=-2, dim2=-1).sum(-1), [t])


def _cholesky(y: Tensor, x: list, t: list, call: Callable, spec: Any) -> Tensor:
    """dL = L Phi(L^-1 dA L^-T), Phi the lower half with half of the diagonal (Murray 2016)."""

    def one(v: Tensor) -> Tensor:
        inner = torch.linalg.solve(y, torch.linalg.solve(y, v).mT)
        return y @ (inner.tril() - 0.5 * torch.diag_embed(inner.diagonal(dim1=-2, dim2=-1)))

    return _each_direction(one, [t[0]])


def _triangular(y: Tensor, x: list, t: list, call: Callable, spec: Any) -> Tensor:
    """A y = b, or y A = b, with one triangle of A."""
    kwargs, right = pytree.tree_unflatten(x, spec)[1], torch.zeros((), dtype=y.dtype) if t[1] is None else t[1]
    if t[0] is not None:
        half = t[0].triu() if kwargs["upper"] else t[0].tril()
        half = half - torch.diag_embed(half.diagonal(dim1=-2, dim2=-1)) if kwargs.get("unitriangular") else half
        right = right - _each_direction(lambda v: v @ y if kwargs.get("left", True) else y @ v, [half])
    return _each_direction(lambda v: call(_put(x, [1], [v])), [right])


def _eigenvalues(y: Tensor, x: list, t: list, call: Callable, spec: Any) -> Tensor:
    """Hellmann & Feynman, where no eigenvalue repeats."""
    _, v = torch.linalg.eigh(x[0])  # of a dual number refused: second derivatives are emulate.linalg's
    return _each_direction(lambda e: (v.mH @ e @ v).diagonal(dim1=-2, dim2=-1).real, [t[0]])


def _power_slope(y: Tensor, x: Any, p: Any, *_: Any) -> Any:
    if not isinstance(p, Tensor):
        return 0.0 * x if p == 0 else p * x ** (p - 1)
    return torch.where(p == 0, 0.0, p * x ** torch.where(p == 0, 1.0, p - 1))


def _exponent_slope(y: Tensor, x: Any, p: Any, *_: Any) -> Any:
    if not isinstance(x, Tensor):
        return y * math.log(x) if x else 0.0 * y
    none = (x == 0) & (p >= 0)
    return torch.where(none, 0.0, y * torch.where(none, 1.0, x).log())


def _half(y: Tensor, a: Any, b: Any) -> Any:
    """1 where y is a, half of it where b is as great."""
    return (y == a).to(y.dtype) - 0.5 * ((y == a) & (y == b)).to(y.dtype)


_UNARY: dict[str, Callable] = {
    "exp": lambda y, x: y,
    "exp2": lambda y, x: y * math.log(2),
    "expm1": lambda y, x: y + 1,
    "log": lambda y, x: 1 / x,
    "log2": lambda y, x: 1 / (x * math.log(2)),
    "log10": lambda y, x: 1 / (x * math.log(10)),
    "log1p": lambda y, x: 1 / (1 + x),
    "sqrt": lambda y, x: 0.5 / y,
    "rsqrt": lambda y, x: -0.5 * y / x,
    "square": lambda y, x: 2 * x,
    "reciprocal": lambda y, x: -y * y,
    "sin": lambda y, x: x.cos(),
    "cos": lambda y, x: -x.sin(),
    "tan": lambda y, x: 1 + y * y,
    "asin": lambda y, x: (1 - x * x).rsqrt(),
    "acos": lambda y, x: -(1 - x * x).rsqrt(),
    "atan": lambda y, x: 1 / (1 + x * x),
    "sinh": lambda y, x: x.cosh(),
    "cosh": lambda y, x: x.sinh(),
    "tanh": lambda y, x: 1 - y * y,
    "asinh": lambda y, x: (1 + x * x).rsqrt(),
    "acosh": lambda y, x: (x * x - 1).rsqrt(),
    "atanh": lambda y, x: 1 / (1 - x * x),
    "sigmoid": lambda y, x: y * (1 - y),
    "log_sigmoid": lambda y, x: (-x).sigmoid(),
    "erf": lambda y, x: 2 / SQRT_PI * (-x * x).exp(),
    "erfc": lambda y, x: -2 / SQRT_PI * (-x * x).exp(),
    "erfinv": lambda y, x: SQRT_PI / 2 * (y * y).exp(),
    "erfcx": lambda y, x: 2 * x * y - 2 / SQRT_PI,
    "ndtr": lambda y, x: (-0.5 * x * x).exp() / math.sqrt(2 * math.pi),
    "ndtri": lambda y, x: (0.5 * y * y).exp() * math.sqrt(2 * math.pi),
    "log_ndtr": lambda y, x: (-0.5 * x * x - y).exp() / math.sqrt(2 * math.pi),
    "lgamma": lambda y, x: x.digamma(),
    "digamma": lambda y, x: torch.polygamma(1, x),
    "i0": lambda y, x: torch.special.i1(x),
    "i1": lambda y, x: torch.where(x == 0, 0.5, torch.i0(x) - y / torch.where(x == 0, 1.0, x)),
    "relu": lambda y, x: (x > 0).to(x.dtype),
    "sinc": lambda y, x: torch.where(x == 0, 0.0, (torch.cos(math.pi * x) - y) / torch.where(x == 0, 1.0, x)),
    "frac": lambda y, x: torch.ones_like(x),
}
_SAME = {"arcsin": "asin", "arccos": "acos", "arctan": "atan", "arcsinh": "asinh", "arccosh": "acosh", "arctanh": "atanh",
         "expit": "sigmoid", "gammaln": "lgamma", "psi": "digamma"}  # fmt: skip


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# values with their indices
PICKED = _words("""
sort topk median kthvalue cummax cummin
""")

# in every tensor by itself
MULTILINEAR = _words("""
matmul mm bmm mv dot vdot inner outer ger kron einsum tensordot  trapezoid trapz linalg_vecdot
linalg_matmul linalg_multi_dot cumulative_trapezoid rmatmul cross linalg_cross
""")

# in all tensors together
LINEAR = _words("""
neg negative positive pos sum mean cumsum nansum trace diagonal diag diag_embed linalg_diagonal tril triu diff getitem
unbind split split_with_sizes chunk tensor_split view view_as reshape reshape_as flatten unflatten ravel squeeze
unsqueeze expand expand_as broadcast_to repeat repeat_interleave tile permute transpose swapaxes swapdims t T mT H mH
adjoint movedim moveaxis flip fliplr flipud roll rot90 narrow select index_select gather take_along_dim take unfold
clone contiguous to type double float half atleast_1d atleast_2d atleast_3d cat concat concatenate stack hstack vstack
dstack column_stack block_diag index_add scatter_add index_copy index_put real imag conj resolve_conj view_as_real view_as_complex
masked_select deg2rad rad2deg meshgrid type_as complex sum_to_size cpu cuda
""")

# what has no derivative, or asks for no number
CONSTANT = _words("""
lt le gt ge eq ne greater less greater_equal less_equal not_equal equal isclose allclose isnan isinf isfinite isneginf
isposinf signbit sign sgn floor ceil round trunc fix floor_divide floordiv argmax argmin argsort searchsorted
bucketize bool int nonzero any all logical_and logical_or logical_not count_nonzero unique histc heaviside is_nonzero
detach data zeros_like ones_like full_like empty_like rand_like randn_like new_zeros new_ones new_full new_tensor
new_empty size shape dim ndim ndimension numel nelement len stride dtype device layout is_floating_point is_complex
is_contiguous requires_grad is_leaf grad grad_fn is_cuda is_sparse is_quantized is_meta is_mkldnn element_size
itemsize nbytes get_device result_type is_conj is_neg is_tensor names long is_same_size can_cast is_nested
is_inference is_signed
""")

RULES: dict[str, Rule] = {
    **{name: pointwise(slope) for name, slope in _UNARY.items()},
    **{other: pointwise(_UNARY[name]) for other, name in _SAME.items()},
    **dict.fromkeys(("add", "radd"), _sum(1.0, 1.0)),
    **dict.fromkeys(("sub", "subtract"), _sum(1.0, -1.0)),
    "rsub": _sum(-1.0, 1.0),
    **dict.fromkeys(("mul", "rmul", "multiply"), pointwise(lambda y, a, b: b, lambda y, a, b: a)),
    **dict.fromkeys(("div", "divide", "truediv", "true_divide"), _quotient),
    **dict.fromkeys(("rdiv", "rtruediv"), pointwise(lambda y, a, b: -y / a, lambda y, a, b: 1 / a)),
    **dict.fromkeys(("abs", "absolute"), _magnitude),
    **dict.fromkeys(("scatter", "index_fill"), _filled),
    "where": _where,
    "rpow": pointwise(lambda y, p, x: _exponent_slope(y, x, p), lambda y, p, x: _power_slope(y, x, p)),
    "pow": pointwise(_power_slope, _exponent_slope),
    "atan2": pointwise(lambda y, a, b: b / (a * a + b * b), lambda y, a, b: -a / (a * a + b * b)),
    "hypot": pointwise(lambda y, a, b: a / y, lambda y, a, b: b / y),
    "maximum": pointwise(_half, lambda y, a, b: _half(y, b, a)),
    "minimum": pointwise(_half, lambda y, a, b: _half(y, b, a)),
    "xlogy": pointwise(lambda y, a, b: torch.log(torch.as_tensor(b)), lambda y, a, b: a / b),
    "xlog1py": pointwise(lambda y, a, b: torch.log1p(torch.as_tensor(b)), lambda y, a, b: a / (1 + b)),
    "logaddexp": pointwise(lambda y, a, b: (a - y).exp(), lambda y, a, b: (b - y).exp()),
    "polygamma": pointwise(lambda y, n, x: 0.0, lambda y, n, x: torch.polygamma(n + 1, x)),
    "remainder": pointwise(lambda y, a, b: torch.ones_like(y), lambda y, a, b: -torch.floor(torch.as_tensor(a / b))),
    "linalg_solve": _solve,
    "linalg_inv": _inverse,
    "inverse": _inverse,
    "linalg_det": lambda y, x, t, call, spec: y * _trace_of_solve(x[0], t[0]),
    "logdet": lambda y, x, t, call, spec: _trace_of_solve(x[0], t[0]),
    "linalg_slogdet": lambda y, x, t, call, spec: type(y)((None, _trace_of_solve(x[0], t[0]))),
    **dict.fromkeys(("linalg_cholesky", "cholesky"), _cholesky),
    "linalg_cholesky_ex": lambda y, x, t, call, spec: type(y)((_cholesky(y[0], x, t, call, spec), None)),
    "linalg_solve_triangular": _triangular,
    "linalg_eigvalsh": _eigenvalues,
    "amax": _extreme,
    "amin": _extreme,
    "max": _max,
    "min": _max,
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _convolution),
    **dict.fromkeys(PICKED, _picked),
    **dict.fromkeys(MULTILINEAR, multilinear),
    **dict.fromkeys(LINEAR, linear),
}
