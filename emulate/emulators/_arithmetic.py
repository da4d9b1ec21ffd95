"""The sums of a prediction: by torch's libraries, or to the same bits on every machine and in every library.

Runs without noise have kernel matrices that are nearly singular, and weights of 1e4 to 1e9 whose products cancel: they
magnify the last bits, which differ from one library's exp, sums and products of matrices to another's. `Portable` takes those
of `emulate.portable`, and its products of matrices are exact, whatever their order: both factors are cut into three slices of
so few bits that no product of two slices and no sum of such products is rounded (Ozaki, Ogita, Oishi and Rump 2012). The
weights still magnify the rounding, but everywhere to the same numbers.
"""

import math
from collections.abc import Callable
from functools import reduce
from operator import add
from typing import Literal

import torch
from torch import Tensor

from emulate import portable
from emulate.emulators._threads import SMALL

Arithmetic = Literal["auto", "library", "portable"]
_LARGE = 1e4  # weights, in units of a component's spread, above which last bits are magnified to more than some 1e-12
_QUICK = 32  # runs up to which it costs little: with 64, hmc of the README's main job took three times as long
_FEW = 4  # points below which BLAS adds the products of a variance in another order than for a batch
_SLICES, _DIGITS = 3, 53  # of a float64
_FINEST = 2.0**150  # numbers of 1e-29 and more are whole multiples of its inverse


class Library(torch.nn.Module):
    """By exp, sums and BLAS of whatever runs it."""

    ordered = False  # whether each operation stands alone
    rows, cache = (
        256,
        2**18,
    )  # a batch is worked off in parts of that many points, or of so many numbers that fit a cache
    exp: Callable[[Tensor], Tensor] = staticmethod(torch.exp)
    log: Callable[[Tensor], Tensor] = staticmethod(torch.log)
    sqrt: Callable[[Tensor], Tensor] = staticmethod(torch.sqrt)

    def total(self, x: Tensor) -> Tensor:
        """Sum over the last axis; a product of matrices would add in an order of the batch's own."""
        return x.sum(-1)

    def weighted(self, x: Tensor, weights: Tensor) -> Tensor:
        """sum_n x w `[..., p]` of x `[..., n]` and weights `[p, n]`, in any order."""
        return x @ weights.T

    def whitened(self, k: Tensor, inverse: Tensor) -> Tensor:
        """v = L^-1 k `[g, N, n]` of k and L^-1 `[g, n, n]`."""
        number = k.shape[1]
        if torch.compiler.is_compiling():  # a graph for any number of points has no branch for few
            k = torch.cat([k, *[k[:, :1]] * (_FEW - 1)], 1)
        elif number < _FEW and k.shape[-1] <= SMALL:
            k = torch.cat([k] * _FEW, 1)[:, :_FEW]
        return (k @ inverse.mT)[:, :number]

    def lack(self, h: Tensor, v: Tensor, r_inverse: Tensor, q: Tensor) -> Tensor:
        """t = R^-T h - Q^T v `[g, N, k]`, what the runs do not say of the trend h `[N, k]`."""
        return h @ r_inverse - v @ q


class Portable(torch.nn.Module):
    """To the same bits everywhere, for L^-1 `[g, n, n]` and Q `[g, n, k]`."""

    ordered = True
    rows, cache = 16, 2**15
    sqrt: Callable[[Tensor], Tensor] = staticmethod(portable.sqrt)
    total: Callable[[Tensor], Tensor] = staticmethod(portable.total)
    table: Tensor

    def __init__(self, inverse: Tensor, q: Tensor):
        super().__init__()
        self.register_buffer("table", portable.table().to(inverse.device), persistent=False)
        self.by_inverse, self.by_q = Sliced(inverse), Sliced(q.mT)

    def exp(self, e: Tensor) -> Tensor:
        return portable.exp(e, self.table)

    def log(self, x: Tensor) -> Tensor:
        return portable.log(x, self.table)

    def weighted(self, x: Tensor, weights: Tensor) -> Tensor:
        number = len(weights) if torch.compiler.is_compiling() else max(1, 8 * self.cache // max(1, x.numel()))
        return torch.cat([portable.total(x[..., None, :] * some) for some in weights.split(number)], -1)

    def whitened(self, k: Tensor, inverse: Tensor) -> Tensor:
        return self.by_inverse(k, inverse)

    def lack(self, h: Tensor, v: Tensor, r_inverse: Tensor, q: Tensor) -> Tensor:
        return portable.total(h[:, None] * r_inverse.mT[:, None]) - self.by_q(v, q.mT)


class Sliced(torch.nn.Module):
    """x @ matrix^T of |x| <= 1 and a matrix `[g, m, n]`, of which it keeps the slices."""

    scale: Tensor
    slices: Tensor

    def __init__(self, matrix: Tensor):
        super().__init__()
        self._bits = (_DIGITS - math.ceil(math.log2(_SLICES * matrix.shape[-1]))) // 2
        power = torch.frexp(matrix.abs().amax(-1)).exponent
        scale = torch.ldexp(torch.ones_like(matrix[..., 0]), power)[:, None]  # of each row
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("slices", torch.stack(self._cut(matrix / scale.mT)), persistent=False)

    def forward(self, x: Tensor, matrix: Tensor) -> Tensor:
        """The six products of slices that reach the digits of a float64, the smallest first.

        Rounding has no slope: that of x is brought in by x less its equal, which is 0 for every value.
        """
        rows, columns = self._cut(x), self.slices.mT.unbind(0)
        levels = [reduce(add, (rows[i] @ columns[level - i] for i in range(level + 1))) for level in (2, 1, 0)]
        nothing = x - (x * _FINEST).round() * (1 / _FINEST)
        return reduce(add, levels) * self.scale + nothing @ matrix.mT

    def _cut(self, x: Tensor) -> list[Tensor]:
        """x as a sum of slices of so many bits each."""
        slices = []
        for i in range(1, _SLICES + 1):
            grid = 2.0 ** (i * self._bits)
            slices.append((x * grid).round() * (1 / grid))
            x = x - slices[-1]
        return slices


LIBRARY = Library()


def choice(arithmetic: Arithmetic, weights: Tensor, runs: int) -> int:
    """What a process with weights `[p, n]` of so many runs keeps in its file: 0 for torch's libraries, 1 for portable."""
    if arithmetic == "auto":
        return int(runs <= _QUICK and bool((weights.abs() > _LARGE).any()))
    return ("library", "portable").index(arithmetic)


def made(kind: int, inverse: Tensor, q: Tensor) -> Library | Portable:
    """That of a process with L^-1 `[g, n, n]` and Q `[g, n, k]`."""
    return Portable(inverse, q) if kind else Library()
