"""Where the derivative of a run leaves out a part of the derivative of its expectation."""

import torch
from torch import Tensor
from torch.distributions import Distribution

from emulate.families import carries, discrete, moves
from emulate.noise import Place, Treatment


class Noted(Treatment):
    """The plain program. `places` are those of hard decisions and of draws from a list that depend on theta: how often
    they change counts in the expectation, and no derivative of a run shows it. A plain `if` hides from this."""

    def __init__(self) -> None:
        self.places: set[str] = set()

    def draw(self, place: Place, distribution: Distribution, u: Tensor) -> Tensor:
        if discrete(distribution) and moves(distribution):
            self.places.add(str(place))
        return super().draw(place, distribution, u)

    def above(self, place: Place, margin: Tensor) -> Tensor:
        if carries(margin) or margin.is_complex():
            self.places.add(str(place))
        return super().above(place, margin)

    def bias_bound(self, slopes: Tensor) -> Tensor | None:
        """`[m, d]` of slopes `[n, m, d]`: unknown where a place is lost, else none."""
        return torch.full_like(slopes[0], torch.nan) if self.places else None
