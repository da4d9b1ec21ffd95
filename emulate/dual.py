"""Dual numbers over tensors: forward-mode derivatives along k directions in one pass, right at any depth of nesting."""

import functools
import itertools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from emulate import derived_rules, inplace, rules
from emulate.errors import InputError

_TAGS = itertools.count()
_TO_NUMBERS = ("__float__", "__int__", "__index__", "__complex__", "__array__")
_OF_THE_OBJECT = {"hash": object.__hash__, "repr": lambda x: x.__repr__(), "format": lambda x: x.__repr__()}


class Dual(Tensor):
    """x + sum_i e_i t_i with e_i e_j = 0: a primal of any shape, and k tangents `[k, *shape]`.

    Every derivative that is being taken has a tag of its own, the inner the higher. An operation peels off the highest
    tag that it meets and takes all others for constants, which keeps d/dx [x d/dy (x + y)] at 1 (Siskind & Pearlmutter
    2005, on perturbation confusion). Primal and tangents may be dual numbers of lower tags, carry a graph for reverse
    mode, or be batches of `torch.func.vmap`: the rules stand above torch's own machinery.
    """

    primal: Tensor
    tangent: Tensor
    tag: int

    @staticmethod
    def __new__(cls, primal: Tensor, tangent: Tensor, tag: int) -> "Dual":
        x = Tensor._make_wrapper_subclass(cls, tuple(primal.shape), dtype=primal.dtype, device=primal.device)
        x.primal, x.tangent, x.tag = primal, tangent, tag
        return x

    def __repr__(self) -> str:
        return f"Dual({self.primal}, {self.tangent}, tag={self.tag})"

    @classmethod
    def __torch_function__(
        cls, func: Callable, types: Iterable[type], args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        name, kwargs = _name(func), kwargs or {}
        if name in _OF_THE_OBJECT:
            return _OF_THE_OBJECT[name](args[0])
        if kwargs.get("out") is not None:
            raise _no_rule(f"{name}(out=...)")
        if name in derived_rules.DERIVED:
            return derived_rules.DERIVED[name](*args, **kwargs)
        if kwargs or any(isinstance(a, list | tuple | dict) for a in args):
            leaves, spec = pytree.tree_flatten((args, kwargs))
        else:
            leaves, spec = list(args), _flat(len(args))  # the common case, many times faster
        tag = max(x.tag for x in leaves if isinstance(x, Dual))
        primals = [x.primal if isinstance(x, Dual) and x.tag == tag else x for x in leaves]
        tangents = [x.tangent if isinstance(x, Dual) and x.tag == tag else None for x in leaves]

        def call(values: list[Any]) -> Any:
            if spec is _flat(len(args)):
                return func(*values)
            a, k = pytree.tree_unflatten(values, spec)
            return func(*a, **k)

        if name in rules.CONSTANT:
            return call(primals)
        rule = _rule(func, name)
        y = call(primals)
        if isinstance(y, Tensor):
            numbers = y.is_floating_point() or y.is_complex()
            return Dual(y, rule(y, primals, tangents, call, spec).to(y.dtype), tag) if numbers else y
        return pytree.tree_map(lambda p, t: p if t is None else Dual(p, t.to(p.dtype), tag), y,
                               rule(y, primals, tangents, call, spec), is_leaf=lambda x: x is None)  # fmt: skip

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Iterable[type], args: tuple = (), kwargs: dict | None = None) -> Any:
        raise _no_rule(str(func))  # what reaches torch's own kernels has passed no rule


@functools.cache
def _flat(n: int) -> Any:
    """The shape of n arguments by position, none of them a list."""
    return pytree.tree_flatten(((0,) * n, {}))[1]


def _name(func: Callable) -> str:
    """`exp` of torch.exp and Tensor.exp, `ndtri` of torch.special.ndtri, `T` of the property, `add` of `__add__`."""
    name = getattr(func, "__name__", str(func))
    if name in _TO_NUMBERS:
        return name
    if name in ("__get__", "__set__"):
        name = func.__self__.__name__ if name == "__get__" else "an assignment to an attribute"
    return name.removeprefix("special_").strip("_") if name.startswith("__") or not name.endswith("_") else name


def _rule(func: Callable, name: str) -> rules.Rule:
    if name in rules.RULES:
        return rules.RULES[name]
    if hasattr(func, "rule"):  # a function of the house that knows its own
        return func.rule
    if name.startswith("fft_") or getattr(func, "__module__", "") == "torch.fft":
        return rules.linear
    raise _no_rule(name)


def _no_rule(name: str) -> InputError:
    if name in ("item", "tolist", "numpy", *_TO_NUMBERS) or "local_scalar" in name:
        return InputError(f"forward must see a tensor wherever theta goes. Got {name}, which makes a plain number of it and "
                          "loses the derivative; stay in torch, detach it first, or use finite_difference.")  # fmt: skip
    return InputError(f"forward must have a rule for every operation on theta. Got {name}, which has none; write it by "
                      "others (emulate/rules.py lists them), or use reverse.")  # fmt: skip


def pushforward(f: Callable[[Tensor], Tensor], x: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """y = f(x) and its derivatives `[k, *y.shape]` along directions `[k, *x.shape]`, in one run of f.

    >>> x = torch.tensor([2.0, 0.5], dtype=torch.float64)
    >>> pushforward(lambda x: x[0] - 0.1 * x[1] * x[0] ** 2, x, torch.eye(2, dtype=torch.float64))
    (tensor(1.8000, dtype=torch.float64), tensor([ 0.8000, -0.4000], dtype=torch.float64))
    """
    tag = next(_TAGS)
    with inplace.tracked(Dual) as writes:
        y = writes.now(f(Dual(x, directions, tag)))
    if isinstance(y, Dual) and y.tag > tag:
        raise InputError("forward must have nothing of an inner derivative written into what was made outside of it. Got an "
                         "answer that carries one; return it from there instead.")  # fmt: skip
    if isinstance(y, Dual) and y.tag == tag:
        return y.primal, y.tangent
    return y, torch.zeros(len(directions), *y.shape, dtype=y.dtype, device=y.device)


def derivative(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """df/dx `[*y.shape, *x.shape]`; derivatives may be taken of derivatives.

    >>> one = torch.tensor(1.0, dtype=torch.float64)
    >>> derivative(lambda x: x * derivative(lambda y: x + y, one), one)
    tensor(1., dtype=torch.float64)
    """
    eye = torch.eye(x.numel(), dtype=x.dtype, device=x.device).reshape((x.numel(), *x.shape))
    y, slopes = pushforward(f, x, eye)
    return slopes.movedim(0, -1).reshape((*y.shape, *x.shape))


def elementwise(call: Callable[..., Tensor], slope: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """y = call(*inputs), all of one shape, with dy/dinput_i = slope(i, *inputs): a rule for code outside torch."""
    tag = max((x.tag for x in inputs if isinstance(x, Dual)), default=None)
    if tag is None:
        return call(*inputs)
    primals = [x.primal if isinstance(x, Dual) and x.tag == tag else x for x in inputs]
    slopes = [slope(i, *primals) * x.tangent for i, x in enumerate(inputs) if isinstance(x, Dual) and x.tag == tag]
    return Dual(elementwise(call, slope, *primals), sum(slopes[1:], slopes[0]), tag)
