"""The sum over samples of their shares and its transpose, as operations that torch differentiates in every mode.

Their derivatives are the same two operations with shares that are differentiated once more, so that nothing of the size
samples times bins is kept for a backward pass, and any order may be taken: `torch.autograd`, `torch.func` with vmap, and the
dual numbers of `emulate.dual`.
"""

import math
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from emulate.errors import InputError

Orders = tuple[int, ...]
Binning = Any  # emulate.binning.Binning, which stands above and calls


@dataclass(frozen=True)
class Plan:
    """Binning and orders in one, so that what looks for tensors in arguments finds none."""

    binning: Binning
    orders: Orders


def spread_of(x: Tensor, w: Tensor, plan: Plan) -> Tensor:
    """sum_i w_i share^(p)_ij `[..., size]`, also of tensors that are not torch's own, such as dual numbers."""
    if has_torch_function((x, w)):
        return handle_torch_function(spread_of, (x, w), x, w, plan)
    return _Spread.apply(x, w, plan.binning, plan.orders)


def _rule(y: Tensor, primals: list[Any], tangents: list[Any], call: Any, spec: Any) -> Tensor:
    """The tangents `[k, ..., size]` of `spread_of` for dual numbers (`emulate.rules.Rule`)."""
    (x, w, plan), (tx, tw, _) = primals, tangents
    k = len(tw if tx is None else tx)
    x, w = x.expand(k, *x.shape), w.expand(k, *w.shape)
    ups = [Plan(plan.binning, up) for up in higher(plan.orders)]
    parts = [] if tx is None else [spread_of(x, w * tx[..., i], up) for i, up in enumerate(ups)]
    return reduce(add, parts if tw is None else [*parts, spread_of(x, tw, plan)])


spread_of.rule = _rule


class _Spread(torch.autograd.Function):
    """sum_i w_i share^(p)_ij `[..., size]`."""

    @staticmethod
    def forward(x: Tensor, w: Tensor, binning: Binning, orders: Orders) -> Tensor:
        batch, size = w.shape[:-1], binning.size
        rows, flat = x.reshape(math.prod(batch), *x.shape[-2:]), w.reshape(-1)
        _look(x, w, binning)
        out = w.new_zeros(len(rows), size)
        for c in binning.chunks(rows):
            local = binning.local(c, orders, binning) * flat[c.slice, None]
            out[c.rows].view(-1).index_add_(0, c.cells.flatten(), local.flatten())
        return out.reshape(*batch, size)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        x, w, ctx.binning, ctx.orders = inputs
        ctx.set_materialize_grads(False)  # what has no tangent asks for no derivative, which hard bins refuse
        ctx.save_for_backward(x, w)
        ctx.save_for_forward(x, w)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> tuple[Tensor | None, ...]:
        x, w = ctx.saved_tensors
        gx = gw = None
        if g is None:
            return None, None, None, None
        if ctx.needs_input_grad[0]:
            gx = torch.stack([w * _Gather.apply(x, g, ctx.binning, up) for up in higher(ctx.orders)], -1)
        if ctx.needs_input_grad[1]:
            gw = _Gather.apply(x, g, ctx.binning, ctx.orders)
        return gx, gw, None, None

    @staticmethod
    def jvp(ctx: Any, tx: Tensor | None, tw: Tensor | None, *rest: None) -> Tensor:
        x, w = ctx.saved_tensors
        parts = []
        if tx is not None:
            parts = [_Spread.apply(x, w * tx[..., k], ctx.binning, up) for k, up in enumerate(higher(ctx.orders))]
        return reduce(add, parts if tw is None else [*parts, _Spread.apply(x, tw, ctx.binning, ctx.orders)])

    @staticmethod
    def vmap(info: Any, in_dims: tuple, x: Tensor, w: Tensor, binning: Binning, orders: Orders) -> tuple[Tensor, int]:
        x, w = _in_front(info.batch_size, in_dims, x, w)
        return _Spread.apply(x, w, binning, orders), 0


class _Gather(torch.autograd.Function):
    """sum_j g_j share^(p)_ij `[..., n]`: the transpose of `_Spread`."""

    @staticmethod
    def forward(x: Tensor, g: Tensor, binning: Binning, orders: Orders) -> Tensor:
        rows = x.reshape(math.prod(x.shape[:-2]), *x.shape[-2:])
        flat = g.reshape(len(rows), binning.size)
        out = g.new_empty(x.shape[:-1].numel())
        for c in binning.chunks(rows):
            out[c.slice] = (flat[c.rows].flatten().index_select(0, c.cells.flatten()).view(c.cells.shape)
                            * binning.local(c, orders, binning)).sum(-1)  # fmt: skip
        return out.reshape(x.shape[:-1])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        x, g, ctx.binning, ctx.orders = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, g)
        ctx.save_for_forward(x, g)

    @staticmethod
    def backward(ctx: Any, v: Tensor | None) -> tuple[Tensor | None, ...]:
        x, g = ctx.saved_tensors
        gx = gg = None
        if v is None:
            return None, None, None, None
        if ctx.needs_input_grad[0]:
            gx = torch.stack([v * _Gather.apply(x, g, ctx.binning, up) for up in higher(ctx.orders)], -1)
        if ctx.needs_input_grad[1]:
            gg = _Spread.apply(x, v, ctx.binning, ctx.orders)
        return gx, gg, None, None

    @staticmethod
    def jvp(ctx: Any, tx: Tensor | None, tg: Tensor | None, *rest: None) -> Tensor:
        x, g = ctx.saved_tensors
        parts = []
        if tx is not None:
            parts = [tx[..., k] * _Gather.apply(x, g, ctx.binning, up) for k, up in enumerate(higher(ctx.orders))]
        return reduce(add, parts if tg is None else [*parts, _Gather.apply(x, tg, ctx.binning, ctx.orders)])

    @staticmethod
    def vmap(info: Any, in_dims: tuple, x: Tensor, g: Tensor, binning: Binning, orders: Orders) -> tuple[Tensor, int]:
        x, g = _in_front(info.batch_size, in_dims, x, g)
        return _Gather.apply(x, g, binning, orders), 0


def higher(orders: Orders) -> list[Orders]:
    """One derivative more, with respect to each axis."""
    return [tuple(p + (i == k) for i, p in enumerate(orders)) for k in range(len(orders))]


def _in_front(size: int, in_dims: tuple, *tensors: Tensor) -> list[Tensor]:
    return [
        t.expand(size, *t.shape) if d is None else t.movedim(d, 0) for t, d in zip(tensors, in_dims[:2], strict=True)
    ]


def _look(x: Tensor, w: Tensor, binning: Binning) -> None:
    """No sample that is not a number, or outside the support, is counted; no weight that is not finite."""
    if x.isnan().any():
        bad = x.isnan().any(-1).flatten()
        raise InputError(f"samples must be numbers. Got {int(bad.sum())} of {len(bad)} that are NaN, the first at place "
                         f"{int(bad.nonzero()[0])}; leave them out, or say in which bin they belong (infinite ones count as "
                         "under- and overflow).")  # fmt: skip
    if not w.isfinite().all():
        bad = ~w.isfinite().flatten()
        raise InputError(f"weights must be finite. Got {int(bad.sum())} of {len(bad)} that are not, the first at place "
                         f"{int(bad.nonzero()[0])}; a sample that is not to count has the weight 0.")  # fmt: skip
    for k, axis in enumerate(binning.axes):
        low, high = axis.support
        for end, over in ((low, -1.0), (high, 1.0)):
            beyond = torch.zeros(()) if end is None else over * (x[..., k] - end)
            if (beyond > 0).any():
                count, worst = int((beyond > 0).sum()), float(beyond.max())
                raise InputError(f"samples must lie in the support {[low, high]} of axis {k}. Got {count} that do not, by up to "
                                 f"{worst:.3g}; mend the support, or leave that end open.")  # fmt: skip
