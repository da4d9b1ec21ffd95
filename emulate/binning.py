"""What share of a sample belongs to each bin, summed over samples in chunks, and differentiated to any order.

Letters: x samples `[..., n, a]` on a axes (`[..., n]` on one), w weights `[..., n]`, e the E edges of an axis, K = E + 1 bins
of it with under- and overflow, p how often a share is differentiated with respect to x, one number for each axis.

The kernel of bandwidth h spreads a sample at x over the bins: F(e) = G((e - x) / h) of it lies below the edge e, and the
share of a bin is F at its right edge less F at its left. Only the few edges within the kernel's reach are looked at, so a
sum costs n times their number, whatever the number of bins.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from emulate.errors import InputError, shown
from emulate.kernels import Kernel

AT_ONCE = 2**16  # shares in memory at one time: half a MiB, which the cache holds

Orders = tuple[int, ...]


def axes_of(edges: Any) -> tuple[tuple[float, ...], ...]:
    """The edges of one or two axes, checked: a list of numbers, or a list of two such lists.

    >>> axes_of([0, 1, 2.5]), axes_of([[0, 1], [0, 1, 2]])
    (((0.0, 1.0, 2.5),), ((0.0, 1.0), (0.0, 1.0, 2.0)))
    """
    given = list(edges) if np.iterable(edges) and not isinstance(edges, str) else []
    axes = given if given and all(np.ndim(a) == 1 for a in given) else [given]
    try:
        axes = [tuple(float(e) for e in a) for a in axes]
    except (TypeError, ValueError):
        axes = []
    good = 0 < len(axes) < 3 and all(len(a) > 1 and np.isfinite(a).all() and (np.diff(a) > 0).all() for a in axes)
    if not good:
        raise InputError(f"edges must be at least two finite numbers that rise, or a list of two such lists for two axes. "
                         f"Got {shown(edges)}.")  # fmt: skip
    return tuple(axes)


def given(x: Any, weights: Any, d: int) -> tuple[Tensor, Tensor]:
    """Samples `[..., n, d]` and weights `[..., n]` of one shape, float64, of what a user gave: on one axis x is `[..., n]`."""
    x = _tensor(x)
    if x.is_complex() or x.ndim < d or (d > 1 and x.shape[-1] != d):
        what = "[..., n]" if d == 1 else f"[..., n, {d}]"
        raise InputError(f"samples must be real numbers of shape {what}, for {d} {'axis' if d == 1 else 'axes'}. Got "
                         f"{x.dtype} of shape {list(x.shape)}.")  # fmt: skip
    x = x.double() if d > 1 else x.double()[..., None]
    if weights is None:
        return x, x.new_ones(()).expand(x.shape[:-1])
    w = _tensor(weights).to(x)
    try:
        shape = torch.broadcast_shapes(x.shape[:-1], w.shape)
        if shape[-1] != x.shape[-2]:
            raise RuntimeError
    except (RuntimeError, IndexError):
        raise InputError(f"weights must have the shape of the samples, {list(x.shape[:-1])}. Got {list(w.shape)}.") from None
    return x.expand(*shape, d), w.expand(shape)


def _tensor(given: Any) -> Tensor:
    return given if isinstance(given, Tensor) else torch.as_tensor(np.asarray(given))  # torch makes lists single precision


@dataclass(frozen=True)
class Axis:
    """The edges of one axis, and how a sample is spread over them: kernel, bandwidth h, reflection at the ends of support."""

    edges: tuple[float, ...]
    kernel: Kernel
    h: float = 1.0
    support: tuple[float | None, float | None] = (None, None)

    @property
    def bins(self) -> int:
        return len(self.edges) + 1

    @property
    def label(self) -> str:
        """How samples are smoothed, in words; nothing where they are not."""
        forms = " + ".join(f"{c:.6g} {form}({s * self.h:.6g})" for c, s, form in self.kernel.terms if form != "step")
        ends = "" if self.support == (None, None) else f" within {shown(list(self.support))}"
        return forms + ends if forms else ""

    @property
    def reach(self) -> float:
        """How far from its place a sample is seen."""
        return self.kernel.reach * self.h

    @cached_property
    def touched(self) -> int:
        """The most edges that one sample can reach."""
        e = np.asarray(self.edges)
        return int((np.searchsorted(e, e + 2 * self.reach, "right") - np.arange(len(e))).max()) if self.reach else 0

    @cached_property
    def images(self) -> tuple[tuple[tuple[float, float, float], ...], float]:
        """(slope, offset, sign) of each image slope * e + offset of an edge, and a constant: F(e) of a folded sample.

        With mirrors at a and b, L = b - a, a sample ends below e where x + h u lies in (2 k L + 2 a - e, 2 k L + e).
        """
        a, b = self.support
        if a is None and b is None:
            return ((1.0, 0.0, 1.0),), 0.0
        if b is None:
            return ((1.0, 0.0, 1.0), (-1.0, 2 * a, -1.0)), 0.0
        if a is None:
            return ((1.0, 0.0, 1.0), (-1.0, 2 * b, -1.0)), 1.0
        most = math.ceil(self.reach / (2 * (b - a))) + 1
        ks = sorted(range(-most, most + 1), key=abs)  # the edge itself first
        found = [((1.0, 2 * k * (b - a), 1.0), (-1.0, 2 * k * (b - a) + 2 * a, -1.0)) for k in ks]
        return tuple(itertools.chain(*found)), 0.0

    def start(self, x: Tensor) -> Tensor:
        """The first bin that each sample reaches: how many edges lie at or below x - reach."""
        x = x - self.reach if self.reach else x
        if self._width is None:
            return torch.searchsorted(self._edges.to(x.device), x, right=True)
        guess = ((x - self.edges[0]) / self._width).floor_().add_(1).clamp_(0, len(self.edges)).long()
        walls = self._walls.to(x.device)  # as quick as arithmetic, and as exact as a comparison with every edge
        guess += (walls.index_select(0, guess + 1) <= x).long()
        guess -= (walls.index_select(0, guess) > x).long()
        return guess

    def shares(self, x: Tensor, start: Tensor, p: int, kernel: Kernel) -> Tensor:
        """The p-th derivative of the shares `[c, touched + 1]` of the bins from `start` on."""
        m, total = self.touched, kernel.total if p == 0 else 0.0
        if m == 0:  # hard bins: a derivative is refused
            return kernel(torch.ones_like(x), p)[:, None]
        at = (start[:, None] + torch.arange(m, device=x.device)).flatten()
        e = self._padded.to(x.device).index_select(0, at).view(-1, m)
        (_, *mirrored), constant = self.images
        below = kernel(((e - x[:, None]).div_(self.h)), p)
        for slope, offset, sign in mirrored:
            below += sign * kernel((slope * e + (offset - x[:, None])) / self.h, p)
        if constant and p == 0:
            below += constant * total
        if p:
            below *= (-1 / self.h) ** p
        out = torch.empty((len(x), m + 1), dtype=x.dtype, device=x.device)
        out[:, 0], out[:, m] = below[:, 0], total - below[:, m - 1]
        torch.sub(below[:, 1:], below[:, :-1], out=out[:, 1:m])
        return out

    def near(self, x: Tensor) -> Tensor:
        """Samples, those that no edge sees moved to where numbers are still finite."""
        far = self.reach + self.h
        return x.clamp(self.edges[0] - far, self.edges[-1] + far)

    @cached_property
    def _width(self) -> float | None:
        """The width of bins that are equally wide, to a tenth."""
        e = np.asarray(self.edges)
        even = np.linspace(e[0], e[-1], len(e))
        width = float(e[-1] - e[0]) / (len(e) - 1)
        return width if math.isfinite(width) and np.abs(e - even).max() < 0.1 * width else None

    @cached_property
    def _walls(self) -> Tensor:
        return torch.nn.functional.pad(torch.nn.functional.pad(self._edges, (1, 0), value=-math.inf), (0, 1), value=math.inf)

    @cached_property
    def _edges(self) -> Tensor:
        return torch.tensor(self.edges, dtype=torch.float64)

    @cached_property
    def _padded(self) -> Tensor:
        low, high = self.support
        e = torch.nn.functional.pad(self._edges, (0, self.touched), value=math.inf)
        return e.clamp(low, high) if (low, high) != (None, None) else e


@dataclass(frozen=True)
class Binning:
    """Sums over samples of their shares of every bin."""

    axes: tuple[Axis, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(a.bins for a in self.axes)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def edges(self) -> tuple[tuple[float, ...], ...]:
        return tuple(a.edges for a in self.axes)

    @property
    def label(self) -> str:
        return "; ".join(a.label for a in self.axes if a.label)

    @property
    def once(self) -> tuple[Orders, ...]:
        """The orders of a first derivative with respect to each axis."""
        d = len(self.axes)
        return tuple(tuple(int(i == k) for i in range(d)) for k in range(d))

    @property
    def plain(self) -> Orders:
        return (0,) * len(self.axes)

    @property
    def order(self) -> int:
        """The power of the bandwidth that the bias goes with; 0 for hard bins."""
        return min((a.kernel.order for a in self.axes if a.label), default=0)

    @property
    def hard(self) -> "Binning":
        """The same bins without smoothing."""
        return Binning(tuple(replace(a, kernel=Kernel.of("step")) for a in self.axes))

    def stretched(self, factor: float) -> "Binning":
        """The same bins with bandwidths that are so many times as wide."""
        return Binning(tuple(replace(a, kernel=a.kernel.stretched(factor)) for a in self.axes))

    def spread(self, x: Tensor, w: Tensor, orders: Orders | None = None) -> Tensor:
        """sum_i w_i share_i `[..., *shape]` of x `[..., n, a]` and w `[..., n]`; differentiable with respect to both."""
        flat = spread_of(x, w, _Plan(self, orders or self.plain))
        return flat.reshape(*flat.shape[:-1], *self.shape)

    def products(self, x: Tensor, w: Tensor, *factors: "Factor") -> Tensor:
        """sum_i w_qi prod_f share^f_i `[q, size]` of x `[n, a]` and w `[q, n]`, bin by bin; no gradient flows.

        A factor is a sum of shares of binnings with the same edges, bandwidths and support, each of its own kernels, with
        coefficients; this binning's kernels must reach as far as each of them.
        """
        out = w.new_zeros(len(w), self.size)
        for c in self._chunks(x.detach()[None]):
            local = math.prod(sum(k * b._local(c, orders, self) for k, b, orders in f) for f in factors)
            for q, weights in enumerate(w.detach()[:, c.slice]):
                out[q].index_add_(0, c.cells.flatten(), (weights[:, None] * local).flatten())
        return out

    def pairs(self, x: Tensor, w: Tensor) -> Tensor:
        """sum_i w_i share_ij share_ik `[size, size]` of x `[n, a]` and w `[n]`; no gradient flows."""
        size = self.size
        out = w.new_zeros(size, size)
        cells_each = math.prod(a.touched + 1 for a in self.axes)
        sparse = 20 * cells_each**2 < size**2
        for c in self._chunks(x.detach()[None], each=cells_each**2 if sparse else size):
            local, weights = self._local(c, self.plain, self), w.detach()[c.slice]
            if sparse:
                where = c.cells[:, :, None] * size + c.cells[:, None, :]
                product = (weights[:, None] * local)[:, :, None] * local[:, None, :]
                out.view(-1).index_add_(0, where.flatten(), product.flatten())
            else:
                dense = local.new_zeros(len(local), size).scatter_add_(1, c.cells, local)
                out += (weights[:, None] * dense).T @ dense
        return out

    def _local(self, c: "_Chunk", orders: Orders, window: "Binning") -> Tensor:
        """The shares `[c, cells]` of the bins that `window` reaches."""
        each = [w.shares(x, s, p, a.kernel) for a, w, x, s, p in
                zip(self.axes, window.axes, c.x, c.starts, orders, strict=True)]  # fmt: skip
        return each[0] if len(each) == 1 else (each[0][:, :, None] * each[1][:, None, :]).flatten(1)

    def _chunks(self, x: Tensor, each: int = 0) -> Iterator["_Chunk"]:
        """x `[rows, n, a]` chunk by chunk; `each`: numbers that a sample needs, where it is more than its shares."""
        rows, n, d = x.shape
        flat = x.reshape(rows * n, d)
        reached = [a.touched + 1 for a in self.axes]
        step = max(1, AT_ONCE // max(each, math.prod(reached)))
        for low in range(0, rows * n, step):
            high = min(low + step, rows * n)
            part = [a.near(flat[low:high, k].contiguous()) for k, a in enumerate(self.axes)]
            starts = [a.start(column) for a, column in zip(self.axes, part, strict=True)]
            cells = starts[0].new_zeros(high - low, 1)
            for a, s, m in zip(self.axes, starts, reached, strict=True):
                mine = (s[:, None] + torch.arange(m, device=x.device)).clamp(max=a.bins - 1)  # beyond it all shares are 0
                cells = (cells[:, :, None] * a.bins + mine[:, None, :]).flatten(1)
            first, last = low // n, (high - 1) // n
            if last > first:
                cells += (torch.arange(low, high, device=x.device) // n - first)[:, None] * self.size
            yield _Chunk(part, starts, cells, slice(low, high), slice(first, last + 1))


Factor = tuple[tuple[float, Binning, Orders], ...]


@dataclass(frozen=True)
class _Chunk:
    """Samples x `[c]` and the first bins that they reach, of each axis; the flat numbers `[c, cells]` of all bins that they
    reach, counted from the first row on; their place among all samples, and the rows that they are from."""

    x: list[Tensor]
    starts: list[Tensor]
    cells: Tensor
    slice: slice
    rows: slice


@dataclass(frozen=True)
class _Plan:
    """Binning and orders in one, so that what looks for tensors in arguments finds none."""

    binning: Binning
    orders: Orders


def spread_of(x: Tensor, w: Tensor, plan: _Plan) -> Tensor:
    """sum_i w_i share^(p)_ij `[..., size]`, also of tensors that are not torch's own, such as dual numbers."""
    if has_torch_function((x, w)):
        return handle_torch_function(spread_of, (x, w), x, w, plan)
    return _Spread.apply(x, w, plan.binning, plan.orders)


def _rule(y: Tensor, primals: list[Any], tangents: list[Any], call: Any, spec: Any) -> Tensor:
    """The tangents `[k, ..., size]` of `spread_of` for dual numbers (`emulate.rules.Rule`)."""
    (x, w, plan), (tx, tw, _) = primals, tangents
    k = len(tw if tx is None else tx)
    x, w = x.expand(k, *x.shape), w.expand(k, *w.shape)
    ups = [_Plan(plan.binning, up) for up in _higher(plan.orders)]
    parts = [] if tx is None else [spread_of(x, w * tx[..., i], up) for i, up in enumerate(ups)]
    return sum(parts if tw is None else [*parts, spread_of(x, tw, plan)])


spread_of.rule = _rule


class _Spread(torch.autograd.Function):
    """sum_i w_i share^(p)_ij `[..., size]`."""

    @staticmethod
    def forward(x: Tensor, w: Tensor, binning: Binning, orders: Orders) -> Tensor:
        batch, size = w.shape[:-1], binning.size
        rows, flat = x.reshape(math.prod(batch), *x.shape[-2:]), w.reshape(-1)
        _look(x, w, binning)
        out = w.new_zeros(len(rows), size)
        for c in binning._chunks(rows):
            local = binning._local(c, orders, binning) * flat[c.slice, None]
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
            gx = torch.stack([w * _Gather.apply(x, g, ctx.binning, up) for up in _higher(ctx.orders)], -1)
        if ctx.needs_input_grad[1]:
            gw = _Gather.apply(x, g, ctx.binning, ctx.orders)
        return gx, gw, None, None

    @staticmethod
    def jvp(ctx: Any, tx: Tensor | None, tw: Tensor | None, *rest: None) -> Tensor:
        x, w = ctx.saved_tensors
        out = 0.0
        if tx is not None:
            out = sum(_Spread.apply(x, w * tx[..., k], ctx.binning, up) for k, up in enumerate(_higher(ctx.orders)))
        return out if tw is None else out + _Spread.apply(x, tw, ctx.binning, ctx.orders)

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
        for c in binning._chunks(rows):
            out[c.slice] = (flat[c.rows].flatten().index_select(0, c.cells.flatten()).view(c.cells.shape)
                            * binning._local(c, orders, binning)).sum(-1)  # fmt: skip
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
            gx = torch.stack([v * _Gather.apply(x, g, ctx.binning, up) for up in _higher(ctx.orders)], -1)
        if ctx.needs_input_grad[1]:
            gg = _Spread.apply(x, v, ctx.binning, ctx.orders)
        return gx, gg, None, None

    @staticmethod
    def jvp(ctx: Any, tx: Tensor | None, tg: Tensor | None, *rest: None) -> Tensor:
        x, g = ctx.saved_tensors
        out = 0.0
        if tx is not None:
            out = sum(tx[..., k] * _Gather.apply(x, g, ctx.binning, up) for k, up in enumerate(_higher(ctx.orders)))
        return out if tg is None else out + _Gather.apply(x, tg, ctx.binning, ctx.orders)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, x: Tensor, g: Tensor, binning: Binning, orders: Orders) -> tuple[Tensor, int]:
        x, g = _in_front(info.batch_size, in_dims, x, g)
        return _Gather.apply(x, g, binning, orders), 0


def _higher(orders: Orders) -> list[Orders]:
    """One derivative more, with respect to each axis."""
    return [tuple(p + (i == k) for i, p in enumerate(orders)) for k in range(len(orders))]


def _in_front(size: int, in_dims: tuple, *tensors: Tensor) -> list[Tensor]:
    return [t.expand(size, *t.shape) if d is None else t.movedim(d, 0) for t, d in zip(tensors, in_dims[:2], strict=True)]


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
        for end, outside in ((low, lambda v, end: v < end), (high, lambda v, end: v > end)):
            if end is not None and outside(x[..., k], end).any():
                worst = float((x[..., k] - end).abs().where(outside(x[..., k], end), 0.0).max())
                raise InputError(f"samples must lie in the support {[low, high]} of axis {k}. Got {int(outside(x[..., k], end).sum())} "
                                 f"that do not, by up to {worst:.3g}; mend the support, or leave that end open.")  # fmt: skip
