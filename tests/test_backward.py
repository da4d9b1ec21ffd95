"""All rows of a Jacobian: by torch's own, where passes can be shared and where they cannot, and beyond one pass."""

import pytest
import torch

from emulate.backward import rows


class Cube(torch.autograd.Function):
    """x^3 whose backward pass reads numbers, which no batched pass can."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return torch.tensor([3 * a * a * b for a, b in zip(x.tolist(), g.tolist(), strict=True)], dtype=x.dtype)


def _map(x: torch.Tensor) -> torch.Tensor:
    return torch.cat([torch.outer(x.sin(), x).flatten(), x.cumsum(0).exp()])


@pytest.mark.parametrize("d", [1, 2, 5, 9])  # 2, 6, 30 and 90 outputs, in passes of 16
def test_they_are_those_of_jacrev(d):
    x = torch.linspace(-1.0, 1.3, d, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(rows(_map(x), x), torch.func.jacrev(_map)(x.detach()), rtol=1e-14, atol=1e-15)


def test_a_backward_pass_that_reads_numbers_goes_row_by_row():
    x = torch.tensor([1.0, 2.0, -1.0], dtype=torch.float64, requires_grad=True)
    assert torch.equal(rows(Cube.apply(x), x), torch.diag(3 * x.detach() ** 2))


def test_one_output_and_outputs_that_do_not_read_x():
    x = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    other = torch.tensor(3.0, dtype=torch.float64)
    assert rows(torch.stack([x[0], other]), x).tolist() == [[1.0, 0.0], [0.0, 0.0]]
    assert rows(x.sum()[None], x).tolist() == [[1.0, 1.0]]


def test_the_graph_is_there_to_be_used_again():
    x = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    y = x**2
    assert torch.equal(rows(y, x), rows(y, x))
