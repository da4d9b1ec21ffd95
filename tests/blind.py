"""A recipe whose emulator carries no gradient, as a forest or another library's model would."""

from dataclasses import dataclass

import torch
from torch import Tensor

from emulate.contracts import Core, Recipe
from emulate.emulators.polynomial import Polynomial


class _Closed(Core):
    def __init__(self, inner: Core):
        super().__init__()
        self.inner = inner

    def forward(self, u: Tensor) -> torch.distributions.Distribution:
        with torch.no_grad():
            p = self.inner(u.detach())
            return torch.distributions.Normal(p.mean, p.stddev)


@dataclass(frozen=True, kw_only=True)
class Blind(Recipe):
    """A polynomial behind a wall."""

    degree: int = 1

    def minimum_runs(self, d: int) -> int:
        return Polynomial(degree=self.degree).minimum_runs(d)

    def train(self, u: Tensor, z: Tensor, *, noisy: bool, seed: int) -> Core:
        return _Closed(Polynomial(degree=self.degree).train(u, z, noisy=noisy, seed=seed))

    def rebuild(self, state: dict[str, Tensor]) -> Core:
        inner = {k.removeprefix("inner."): v for k, v in state.items()}
        return _Closed(Polynomial(degree=self.degree).rebuild(inner))
