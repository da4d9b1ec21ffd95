"""Which outputs have an error worth calibrating."""

import torch
from torch import Tensor

from emulate.runs import Runs


def matters(runs: Runs, residual: Tensor, sd: Tensor, negligible: float) -> Tensor:
    """bool `[m]`: the outputs whose error or stated error is not negligible; rounding of a constant field is."""
    y = torch.as_tensor(runs.y)
    variance, square = y.var(0), y.square().mean(0)
    for part in runs.outputs.slices.values():
        variance[part], square[part] = variance[part].mean(), square[part].mean()
    least = negligible * (variance.sqrt() + negligible * square.sqrt())
    return ((residual.abs() > least) | (sd > least)).any(0)
