"""Sobol points in the region where a simulator is known to run."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from annotated_types import Ge, Gt, Lt

from emulate.contracts import Design
from emulate.designs.sobol import Sobol
from emulate.errors import InputError

if TYPE_CHECKING:
    from emulate.feasibility import Feasibility
    from emulate.space import Space

_PART = 4096  # candidates that are asked for at once


@dataclass(frozen=True, kw_only=True)
class Feasible(Design):
    """A scrambled Sobol sequence without the points where runs fail, by a feasibility learned from earlier runs.

    The points of `Sobol` come in their order and those stay for which a run finishes with a probability of at least
    `least`: more points continue the sequence, and every part of the region is covered as evenly as it would be.
    A campaign in which a run failed leaves its feasibility in `runs/NAME/simulate/feasibility`; in Python
    `emulate.feasibility.Feasibility.fit(runs, seed=0).save(folder)` makes one of any table of runs. The study must have
    the parameters and priors of that campaign.

    >>> Feasible().points(4, 2, seed=1).shape
    (4, 2)
    """

    inside: str | None = None  # folder of a saved feasibility; empty: the whole space, as with sobol
    least: Annotated[float, Gt(0), Lt(1)] = 0.5  # probability that a run finishes, of every point
    most: Annotated[int, Ge(1)] = 1000  # candidates for each point asked for, before the region is called too small

    extensible: ClassVar[bool] = True

    def points(self, n: int, dim: int, *, seed: int, emulator: Any | None = None) -> np.ndarray:
        if self.inside is None:
            return Sobol().points(n, dim, seed=seed)
        where = self._read()
        if where.space.d != dim:
            raise InputError(f"feasible.inside: {self.inside} must be of {dim} parameters, as the study. Got "
                             f"{where.space.d}: {', '.join(where.space.names)}.")  # fmt: skip
        found, tried, size = [], 0, n
        while sum(map(len, found)) < n and tried < self.most * n:
            size = min(max(2 * tried, n), self.most * n)
            u = Sobol().points(size, dim, seed=seed)[tried:]
            found += [part[self._inside(where, part)] for part in np.split(u, range(_PART, len(u), _PART))]
            tried = size
        kept = np.concatenate(found)
        if len(kept) < n:
            raise InputError(f"feasible: the region must hold {n} points. Got {len(kept)} of {tried} candidates, where a "
                             f"run finishes with a probability of at least {self.least:g} by {self.inside}; lower "
                             "least, narrow the priors, or raise most.")  # fmt: skip
        return kept[:n]

    def require(self, space: "Space") -> None:
        """Complain about a region of other parameters or priors: its unit cube is not that of the study."""
        if self.inside is None or (other := self._read().space) == space:
            return
        differ = [p.name for p in space.parameters if p not in other.parameters]
        what = f"another prior or unit of {', '.join(differ)}" if set(space.names) == set(other.names) and differ else (
            f"the parameters {', '.join(other.names)}")  # fmt: skip
        raise InputError(f"feasible.inside: {self.inside} must be of the study's parameters {', '.join(space.names)} with "
                         f"their priors. Got {what}; run that campaign again with this study's parameters.")  # fmt: skip

    def _read(self) -> "Feasibility":
        from emulate.feasibility import Feasibility  # here, because it imports torch and scipy

        try:
            return Feasibility.load(self.inside or "")
        except InputError as e:
            raise InputError(f"feasible.inside: must be the folder of a feasibility, such as "
                             f"runs/NAME/simulate/feasibility of a campaign in which a run failed. Got {self.inside}, "
                             "which does not exist; paths start where emulate runs.") from e  # fmt: skip

    def _inside(self, where: "Feasibility", u: np.ndarray) -> np.ndarray:
        import torch

        return where.inside(where.space.from_unit(torch.from_numpy(u)), least=self.least).numpy()
