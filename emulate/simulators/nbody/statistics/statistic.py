"""The contract of a statistic: which fields it gives, and their values of a snapshot."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from emulate.runs import Field
from emulate.simulators.nbody.cloud import Mesh
from emulate.simulators.nbody.snapshot import Snapshot

__all__ = ["Statistic"]


@dataclass(frozen=True, kw_only=True)
class Statistic(ABC):
    """Numbers of a snapshot, differentiable in its particles, the same bits on any number of threads."""

    @abstractmethod
    def fields(self, mesh: Mesh, box: float) -> tuple[Field, ...]:
        """The fields with coordinates and units, for particles on `mesh` in a box of side `box` Mpc/h.

        Raises:
            InputError: the settings ask for what this mesh and box do not hold.
        """

    @abstractmethod
    def measure(self, snapshot: Snapshot) -> Tensor:
        """The values of all fields end to end, [m] float64, on the device of the snapshot."""
