"""exp, ln, square roots and sums to the same bits on every machine and in every library.

IEEE 754 rounds +, -, x and / of two numbers alike everywhere; what exp and ln give, and in which order a sum is added, is each
library's own, and torch rounds one square root in a hundred otherwise than the standard. Here they are made of those
operations alone, one at a time: a table, whose entries are rounded correctly, times a Taylor series of what is left (Tang
1989, 1990), and one step of Newton's method whose remainder is exact (Dekker 1971).

>>> e, known = torch.tensor([0.0, -1e-9, -0.7, -40.0], dtype=torch.float64), table()
>>> bool(torch.allclose(exp(e, known), e.exp(), rtol=3e-16, atol=0.0))
True
>>> x = torch.tensor([1e-20, 0.3, 1.0, 7e5], dtype=torch.float64)
>>> bool(torch.allclose(log(x, known), x.log(), rtol=4e-16, atol=4e-16))
True
>>> sqrt(torch.tensor([4.0, 2e-30], dtype=torch.float64)).tolist() == [2.0, 2e-30**0.5]
True
>>> total(torch.tensor([1.0, 2.0, 3.0]))
tensor(6.)
"""

from decimal import Context, Decimal
from functools import cache, reduce
from operator import add

import torch
from torch import Tensor

_STEPS, _RANGE = 128, 64  # of the table, per unit, and how far it goes: e^-64 = 2e-28
_LEFT = 1 / 200  # more than e^(1 / 256) - 1


@cache
def _entries() -> tuple[float, ...]:
    context = Context(prec=30)
    return *(float(context.exp(Decimal(-i) / _STEPS)) for i in range(_RANGE * _STEPS)), 0.0


def table() -> Tensor:
    """exp(-i / 128), i to 8191, and then 0, which the functions below are given."""
    return torch.tensor(_entries(), dtype=torch.float64)


def exp(e: Tensor, table: Tensor) -> Tensor:
    """exp(e) of e <= 0, to one unit in the last place; 0 below -64, where it is 2e-28.

    Its derivatives are those of exp to all digits, up to the second.
    """
    e = e.clamp(-_RANGE, 0)
    near = (e * -_STEPS).round()
    r = e + near * (1 / _STEPS)  # exact
    found = _entry(table, near)
    p = r * (1 / 5040)
    for c in (1 / 720, 1 / 120, 1 / 24, 1 / 6, 0.5, 1.0):
        p = (p + c) * r
    return found + found * p


def log(x: Tensor, table: Tensor) -> Tensor:
    """ln(x), to a few units in the last place of max(1, |ln x|) between e^-63 and e^63; beyond, it is the library's."""
    plain = x.log()
    last = _RANGE * _STEPS - 1
    near = (plain * _STEPS).round().clamp(-last, last)
    found = _entry(table, near.abs())
    s = (x * torch.where(near < 0, 1 / found, found) - 1).clamp(-_LEFT, _LEFT)  # x = e^near (1 + s)
    p = s * (-1 / 8)
    for c in (1 / 7, -1 / 6, 1 / 5, -1 / 4, 1 / 3, -1 / 2, 1.0):
        p = (p + c) * s
    return torch.where(plain.abs() < _RANGE - 1, near * (1 / _STEPS) + p, plain)


def sqrt(x: Tensor) -> Tensor:
    """The square root, correctly rounded, of x > 0 that neither overflows nor underflows when it is squared."""
    near = x.sqrt()
    shifted = near * (2.0**27 + 1)
    head = shifted - (shifted - near)  # its first 26 bits
    tail = near - head
    return near + (x - head * head - 2 * head * tail - tail * tail) / (2 * near)


def _entry(table: Tensor, i: Tensor) -> Tensor:
    """The first where i is no number."""
    known = torch.where(i == i, i, 0.0).to(torch.int64)
    return table.index_select(0, known.reshape(-1)).reshape(i.shape)


def total(x: Tensor) -> Tensor:
    """Sum over the last axis: the second half onto the first, and so on."""
    rest = []
    while (n := x.shape[-1]) > 1:
        rest += [x[..., -1]] * (n % 2)
        x = x[..., : n // 2] + x[..., n // 2 : n // 2 * 2]
    return reduce(add, rest, x[..., 0])
