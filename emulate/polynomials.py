"""Polynomials of d coordinates: their terms, their values and their slopes."""

from functools import reduce
from itertools import combinations_with_replacement

import torch
from torch import Tensor


def terms(d: int, degree: int) -> Tensor:
    """Every product of d coordinates of total degree up to `degree`, one row `[k, degree]` each; index d stands for 1.

    >>> terms(2, 1).tolist()
    [[0], [1], [2]]
    """
    return torch.tensor(list(combinations_with_replacement(range(d + 1), degree)))


def basis(u: Tensor, terms: Tensor) -> Tensor:
    """h `[..., k]`: the products of x = 2u - 1 at u `[..., d]`."""
    x = _padded(u)
    return reduce(torch.mul, (x[..., column] for column in terms.T))  # powers have no second derivative at 0


def slopes(u: Tensor, terms: Tensor) -> Tensor:
    """dh/du `[d, ..., k]` at u `[..., d]`.

    >>> slopes(torch.tensor([[0.5, 1.0]]), torch.tensor([[0, 1]])).ravel().tolist()
    [2.0, 0.0]
    """
    x, columns, d = _padded(u), terms.T, u.shape[-1]
    factors = [x[..., column] for column in columns]
    one = torch.ones_like(factors[0])
    found = u.new_zeros(d, *one.shape)
    for t, column in enumerate(columns):
        others = reduce(torch.mul, (f for i, f in enumerate(factors) if i != t), one)
        for j in range(d):
            found[j] += 2 * (column == j) * others
    return found


def _padded(u: Tensor) -> Tensor:
    return torch.cat([2 * u - 1, torch.ones_like(u[..., :1])], -1)
