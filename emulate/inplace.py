"""Writing in place, for tensors that carry tangents: an operation in place is the same one out of place, and then a write.

Nothing is ever written into memory that two tensors may share. What a program names keeps its name and gets a new value:
a dual number takes other parts, a plain tensor that dual numbers were written into is replaced by one wherever it is met
again. A view is remembered as the operation that made it from its base, so that a write to the view is a write to those
elements of its base, and the view of a base that was written to is taken anew (functionalisation, as compilers do it).
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch._C._functorch import get_unwrapped, is_functorch_wrapped_tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils.weak import WeakTensorKeyDictionary

from emulate.errors import InputError

Way = Callable[[Tensor], Tensor]
_AUGMENTED = {
    f"__i{name}__": f"__{name}__" for name in ("add", "sub", "mul", "truediv", "pow", "floordiv", "mod", "matmul")
}
_AUGMENTED["__idiv__"] = "__truediv__"
_NO_NUMBERS = {"requires_grad_", "share_memory_", "rename_"}  # end as if they wrote
_WHOLE = {"copy_", "fill_", "zero_"}  # whose values broadcast
_SHAPES = {"t_", "transpose_", "swapaxes_", "swapdims_", "squeeze_", "unsqueeze_", "as_strided_", "resize_", "resize_as_",
           "set_"}  # fmt: skip
_ACTIVE: ContextVar["Writes | None"] = ContextVar("the writes of the outermost derivative", default=None)


class Writes(TorchFunctionMode):
    """Around a run of a program: who was written to, and what is a view of what. `kind` is the type with tangents."""

    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.kind = kind
        self.views: Any = WeakTensorKeyDictionary()  # view -> (base, way), way None where it shows other numbers
        self.written: Any = WeakTensorKeyDictionary()  # base -> its value, None for those of the kind, which hold it

    def __torch_function__(
        self, func: Callable, types: Iterable[type], args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        named, name = kwargs or {}, getattr(func, "__name__", "")
        if not args and "input" in named:
            args = (named["input"],)
            named = {k: v for k, v in named.items() if k != "input"}
        if _writes(name, named):
            return self._in_place(func, name, args, named)
        given = args
        if len(self.written):
            args, named = pytree.tree_map_only(Tensor, self.now, (args, named))
        y = func(*args, **named)
        if given and isinstance(y, Tensor | list | tuple) and isinstance(given[0], Tensor):
            self._note(y, given[0], args, named, func)
        return y

    def now(self, x: Any) -> Any:
        """The value of what a program calls x."""
        if not len(self.written) or not isinstance(x, Tensor):
            return x
        base, ways = self._root(x)
        if base not in self.written:
            return x
        value = base if self.written[base] is None else self.written[base]
        for way in reversed(ways):
            value = way(value) if way else _refuse("a view that shows other numbers than its base")
        return value

    def _note(self, y: Any, given: Tensor, args: tuple, kwargs: dict, func: Callable) -> None:
        """Of what an operation gave, that is a view of its first argument which lies in the same memory."""
        several = not isinstance(y, Tensor)
        if several and not (y and isinstance(y[0], Tensor)):
            return
        base = self._plain(args[0])
        if not _shared(base, self._plain(y[0] if several else y)):
            return
        for i, one in enumerate(y if several else (y,)):
            if one is given or one is args[0]:
                continue
            same = one.dtype == given.dtype and self._plain(one).is_conj() == base.is_conj()
            self.views[one] = (given, _way(func, args, kwargs, i if several else None) if same else None)

    def _plain(self, x: Any) -> Tensor:
        while isinstance(x, self.kind):
            x = x.primal
        return x

    def _in_place(self, func: Callable, name: str, args: tuple, kwargs: dict) -> Any:
        target = kwargs.get("out", args[0] if args else None)
        now, named = pytree.tree_map_only(Tensor, self.now, (args, kwargs))
        root = self._root(target)[0] if isinstance(target, Tensor) else None
        if not any(isinstance(x, self.kind) for x in pytree.tree_leaves((now, named))):
            if isinstance(root, self.kind):
                _refuse("detached numbers of a tensor that carries theta")
            if root is None or root not in self.written:
                return func(*args[:1], *now[1:], **{**named, **({"out": target} if "out" in named else {})})
        if target is None or root is None:
            _refuse(f"{name} of {type(target).__name__}")
        if name == "__setitem__":
            self._write_to_part(target, lambda t: t[now[1]], now[2])
        else:
            value = _value(func, name, now, named)
            if name not in _WHOLE and value.shape != target.shape:
                _refuse(f"values of shape {list(value.shape)} for one of shape {list(target.shape)}")
            self._write(target, value)
        return target

    def _root(self, x: Tensor) -> tuple[Tensor, list[Way | None]]:
        """What x is a view of, and the ways back from x to it."""
        ways: list[Way | None] = []
        while (of := self.views.get(x)) is not None:
            x, way = of
            ways.append(way)
        return x, ways

    def _write(self, target: Any, value: Any) -> None:
        value = torch.as_tensor(value, dtype=target.dtype, device=target.device).to(target).expand(target.shape)
        if (of := self.views.get(target)) is not None:
            base, way = of
            self._write_to_part(
                base, way or (lambda _: _refuse("a view that shows other numbers than its base")), value
            )
        elif isinstance(target, self.kind):
            whole = value if isinstance(value, self.kind) else target * 0 + value
            target.primal, target.tangent, target.tag = whole.primal, whole.tangent, whole.tag
            self.written[target] = None
        elif isinstance(value, self.kind) or target in self.written:
            self.written[target] = value.clone()
        else:  # whole numbers, which carry nothing
            target.copy_(value)

    def _write_to_part(self, base: Tensor, way: Way, value: Any) -> None:
        whole, size = self.now(base), base.numel()
        at = way(torch.arange(size, device=base.device).reshape(base.shape))
        value = torch.as_tensor(value, dtype=base.dtype, device=base.device).to(base.dtype)
        while value.ndim > at.ndim and value.shape[0] == 1:
            value = value[0]
        value = value.expand(at.shape)
        self._write(base, whole.reshape(-1).scatter(0, at.reshape(-1), value.reshape(-1)).reshape(base.shape))


def _writes(name: str, kwargs: dict) -> bool:
    if kwargs.get("out") is not None or kwargs.get("inplace"):
        return True
    if name.startswith("__"):
        return name in _AUGMENTED or name == "__setitem__"
    return name.endswith("_") and name not in _NO_NUMBERS


def _way(func: Callable, args: tuple, kwargs: dict, i: int | None) -> Way:
    """From a base to its view: the operation again, and of several that it gives the one."""
    rest = args[1:]
    return lambda base: func(base, *rest, **kwargs) if i is None else func(base, *rest, **kwargs)[i]


def _shared(x: Tensor, y: Tensor) -> bool:
    """Whether two tensors, or what batches and torch's own derivatives wrap, lie in the same memory."""
    while is_functorch_wrapped_tensor(x):
        x = get_unwrapped(x)
    while is_functorch_wrapped_tensor(y):
        y = get_unwrapped(y)
    return torch._C._is_alias_of(x, y)  # pyright: ignore[reportAttributeAccessIssue]  (torch has no type of it)


def _value(func: Callable, name: str, args: tuple, kwargs: dict) -> Any:
    """What the operation gives out of place."""
    if "out" in kwargs or "inplace" in kwargs:
        return func(*args, **{k: v for k, v in kwargs.items() if k not in ("out", "inplace")})
    if name in ("copy_", "fill_"):
        return args[1]
    if name == "zero_":
        return 0.0
    if name in _SHAPES:
        _refuse(name)
    plain = _AUGMENTED.get(name, name[:-1])
    found = getattr(Tensor, plain, None) or getattr(torch, plain, None)
    return found(*args, **kwargs) if found else _refuse(name)


def _refuse(met: str) -> NoReturn:
    raise InputError("forward must be able to do an operation in place as the same one out of place, and then write. Got "
                     f"{met}; write x = x + y, build by torch.stack or torch.where, or use reverse.")  # fmt: skip


@contextmanager
def tracked(kind: type) -> Iterator[Writes]:
    """The mode of the outermost derivative that is being taken, which serves all within."""
    if (active := _ACTIVE.get()) is not None:
        yield active
        return
    token = _ACTIVE.set(writes := Writes(kind))
    try:
        with writes:
            yield writes
    finally:
        _ACTIVE.reset(token)
