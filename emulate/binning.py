"""Sums over samples of their shares of every bin, in chunks: what histograms, their errors and their gradients are made of.

Letters: x samples `[..., n, a]` on a axes, w weights `[..., n]`, p how often a share is differentiated with respect to x,
one number for each axis. Only the few edges within the kernel's reach are looked at, so a sum costs n times their number,
whatever the number of bins.
"""

import builtins
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from emulate.axes import Axis
from emulate.kernels import Kernel
from emulate.spreading import Orders, Plan, spread_of

AT_ONCE = 2**16  # shares in memory at one time: half a MiB, which the cache holds


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
        flat = spread_of(x, w, Plan(self, orders or self.plain))
        return flat.reshape(*flat.shape[:-1], *self.shape)

    def products(self, x: Tensor, w: Tensor, *factors: "Factor") -> Tensor:
        """sum_i w_qi prod_f share^f_i `[q, size]` of x `[n, a]` and w `[q, n]`, bin by bin; no gradient flows.

        A factor is a sum of shares of binnings with the same edges, bandwidths and support, each of its own kernels, with
        coefficients; this binning's kernels must reach as far as each of them.
        """
        out = w.new_zeros(len(w), self.size)
        for c in self.chunks(x.detach()[None]):
            made = {f: sum(k * b.local(c, orders, self) for k, b, orders in f) for f in set(factors)}  # a square once
            local = math.prod(made[f] for f in factors)
            for q, weights in enumerate(w.detach()[:, c.slice]):
                out[q].index_add_(0, c.cells.flatten(), (weights[:, None] * local).flatten())
        return out

    def pairs(self, x: Tensor, w: Tensor) -> Tensor:
        """sum_i w_i share_ij share_ik `[size, size]` of x `[n, a]` and w `[n]`; no gradient flows."""
        size = self.size
        out = w.new_zeros(size, size)
        cells_each = math.prod(a.touched + 1 for a in self.axes)
        sparse = 20 * cells_each**2 < size**2
        for c in self.chunks(x.detach()[None], each=cells_each**2 if sparse else size):
            local, weights = self.local(c, self.plain, self), w.detach()[c.slice]
            if sparse:
                where = c.cells[:, :, None] * size + c.cells[:, None, :]
                product = (weights[:, None] * local)[:, :, None] * local[:, None, :]
                out.view(-1).index_add_(0, where.flatten(), product.flatten())
            else:
                dense = local.new_zeros(len(local), size).scatter_add_(1, c.cells, local)
                out += (weights[:, None] * dense).T @ dense
        return out

    def local(self, c: "Chunk", orders: Orders, window: "Binning") -> Tensor:
        """The shares `[c, cells]` of the bins that `window` reaches."""
        each = [w.shares(x, s, p, a.kernel) for a, w, x, s, p in
                zip(self.axes, window.axes, c.x, c.starts, orders, strict=True)]  # fmt: skip
        return each[0] if len(each) == 1 else (each[0][:, :, None] * each[1][:, None, :]).flatten(1)

    def chunks(self, x: Tensor, each: int = 0) -> Iterator["Chunk"]:
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
                mine = s[:, None] + torch.arange(m, device=x.device)
                mine = mine.clamp(max=a.bins - 1)  # beyond it all shares are 0
                cells = (cells[:, :, None] * a.bins + mine[:, None, :]).flatten(1)
            first, last = low // n, (high - 1) // n
            if last > first:
                cells += (torch.arange(low, high, device=x.device) // n - first)[:, None] * self.size
            yield Chunk(part, starts, cells, slice(low, high), slice(first, last + 1))


Factor = tuple[tuple[float, Binning, Orders], ...]


@dataclass(frozen=True)
class Chunk:
    """Samples x `[c]` and the first bins that they reach, of each axis; the flat numbers `[c, cells]` of all bins that they
    reach, counted from the first row on; their place among all samples, and the rows that they are from."""

    x: list[Tensor]
    starts: list[Tensor]
    cells: Tensor
    slice: slice
    rows: "builtins.slice"  # the name above stands for the field here
