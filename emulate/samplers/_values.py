"""A log density that is asked for its values alone: nothing here needs a gradient."""

import torch
from torch import Tensor

from emulate.contracts import LogDensity
from emulate.densities import require_inside
from emulate.errors import InputError
from emulate.tempering import cleaned

_ROWS = 4096  # points of one batched call


class Values:
    """ln p `[g, c, k]` at x `[g, c, k, d]`: k points of each chain, c chains in each of g groups; -inf where it is not a number.

    One group is asked in rows `[any, d]`, several in `[g c, d]` or `[k, g c, d]`, for each row has a target of its own.
    """

    def __init__(self, log_density: LogDensity, start: Tensor, groups: int):
        self.log_density, self.device, self.points = log_density, start.device, 0
        self.groups, self.chains, self.d = groups, len(start) // groups, start.shape[1]
        self.start = start.detach().double().cpu().reshape(groups, self.chains, 1, self.d)
        self.first = self._asked(self.start.reshape(-1, self.d)).reshape(groups, self.chains, 1)
        require_inside(self.first.flatten())

    def __call__(self, x: Tensor) -> Tensor:
        g, c, k, d = x.shape
        if g == 1:
            rows = x.reshape(-1, d)
            parts = rows.split(_ROWS) if len(rows) > _ROWS else [rows]
            return torch.cat([self._asked(part) for part in parts]).reshape(g, c, k)
        rows = x.permute(2, 0, 1, 3).reshape(k, g * c, d)
        parts = [rows] if k == 1 else rows.split(max(2, _ROWS // (g * c)))
        value = torch.cat([self._asked(part[0])[None] if len(part) == 1 else self._asked(part) for part in parts])
        return value.reshape(k, g, c).permute(1, 2, 0)

    def _asked(self, x: Tensor) -> Tensor:
        self.points += x.shape[:-1].numel()
        with torch.no_grad():
            value = self.log_density(x.to(self.device))
        if value.shape != x.shape[:-1]:
            raise InputError(f"log_density must give one number for each row of x. Got shape {tuple(value.shape)} "
                             f"for x of shape {tuple(x.shape)}.")  # fmt: skip
        return cleaned(value.detach().double().cpu())
