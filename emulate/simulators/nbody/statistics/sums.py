"""Sums over a mesh whose bits do not depend on the number of threads."""

import torch
from torch import Tensor

__all__ = ["mean"]


def mean(field: Tensor) -> Tensor:
    """Mean of a mesh field [M, M, M], float64 scalar.

    torch splits a sum to one number among its threads, and rounds differently with their number; a sum to many numbers
    it does not, so one axis is summed after the others.

    Example:
        >>> float(mean(torch.arange(8.0).view(2, 2, 2)))
        3.5
    """
    return field.reshape(field.shape[0], -1).mean(1, dtype=torch.float64).mean()
