"""All rows of a Jacobian from one recorded graph."""

import warnings

import torch
from torch import Tensor

_AT_ONCE = 16  # rows in one backward pass: bounds its memory


def rows(y: Tensor, x: Tensor) -> Tensor:
    """dy/dx `[m, *x.shape]` of outputs y `[m]` that carry a graph to x; rows that do not read x are zero.

    A backward pass pulls up to 16 rows back at once, as `torch.func.jacrev` does: a long program of small steps spends
    its time on the way from step to step, which all rows then share. Where an operation cannot, each row has a pass of
    its own.

    >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> rows(x**2, x)
    tensor([[2., 0.],
            [0., 4.]])
    """
    if len(y) == 1:
        return _pulled(y[0], x, None)[None]
    unit = torch.eye(len(y), dtype=y.dtype, device=y.device)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of operations that go row by row inside
            return torch.cat([_pulled(y, x, some) for some in unit.split(_AT_ONCE)])
    except (RuntimeError, NotImplementedError):  # numbers read in a custom backward pass, numpy, state written in place
        return torch.stack([_pulled(y, x, one) for one in unit])


def _pulled(y: Tensor, x: Tensor, along: Tensor | None) -> Tensor:
    return torch.autograd.grad(y, x, along, retain_graph=True, allow_unused=True, materialize_grads=True,
                               is_grads_batched=along is not None and along.dim() > y.dim())[0]  # fmt: skip
