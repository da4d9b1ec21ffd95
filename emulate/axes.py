"""One axis of a histogram: its edges, and the share of a sample at x that belongs to each bin near it.

The kernel of bandwidth h spreads a sample at x over the bins: F(e) = G((e - x) / h) of it lies below the edge e, and the
share of a bin is F at its right edge less F at its left. p counts how often a share is differentiated with respect to x.
"""

import itertools
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from emulate.errors import InputError, shown
from emulate.kernels import Kernel


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
    x = _tensor("samples", x)
    if x.is_complex() or x.ndim < d or (d > 1 and x.shape[-1] != d):
        what = "[..., n]" if d == 1 else f"[..., n, {d}]"
        raise InputError(f"samples must be real numbers of shape {what}, for {d} {'axis' if d == 1 else 'axes'}. Got "
                         f"{x.dtype} of shape {list(x.shape)}.")  # fmt: skip
    x = x.double() if d > 1 else x.double()[..., None]
    if weights is None:
        return x, x.new_ones(()).expand(x.shape[:-1])
    w = _tensor("weights", weights).to(x)
    try:
        shape = torch.broadcast_shapes(x.shape[:-1], w.shape)
        if shape[-1] != x.shape[-2]:
            raise RuntimeError
    except (RuntimeError, IndexError):
        raise InputError(
            f"weights must have the shape of the samples, {list(x.shape[:-1])}. Got {list(w.shape)}."
        ) from None
    return x.expand(*shape, d), w.expand(shape)


def _tensor(name: str, given: Any) -> Tensor:
    if isinstance(given, Tensor):
        return given
    try:
        return torch.as_tensor(np.asarray(given))  # torch alone would make lists single precision
    except (TypeError, ValueError) as e:
        raise InputError(f"{name} must be an array of numbers. Got {shown(given)} ({e}).") from None


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
        if b is None:
            return ((1.0, 0.0, 1.0),) if a is None else ((1.0, 0.0, 1.0), (-1.0, 2 * a, -1.0)), 0.0
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
        far = torch.tensor([math.inf], dtype=torch.float64)
        return torch.cat([-far, self._edges, far])

    @cached_property
    def _edges(self) -> Tensor:
        return torch.tensor(self.edges, dtype=torch.float64)

    @cached_property
    def _padded(self) -> Tensor:
        low, high = self.support
        e = torch.nn.functional.pad(self._edges, (0, self.touched), value=math.inf)
        return e.clamp(low, high) if (low, high) != (None, None) else e
