"""`slices`: coarse images of the density in slabs across z."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge
from torch import Tensor

from emulate.errors import InputError
from emulate.runs import Field
from emulate.simulators.nbody.cloud import Mesh
from emulate.simulators.nbody.snapshot import Snapshot
from emulate.simulators.nbody.statistics.statistic import Statistic

__all__ = ["Slices"]


@dataclass(frozen=True, kw_only=True)
class Slices(Statistic):
    """Mean of 1 + delta over slabs across z and square pixels; each slab is a field `slice0`, `slice1`, ...

    Without unit, mean one over all slabs. The pixel p of an image holds x from p // pixels and y from p % pixels,
    times L / pixels. Positive, since a pixel is at least two particle spacings wide and deep.

    Settings:
        count: number of slabs, of thickness L / count.
        pixels: pixels per side of an image; None is one per two particle spacings.

    Example:
        >>> (image,) = Slices().fields(Mesh(16), box=100.0)
        >>> image.name, image.size
        ('slice0', 64)
    """

    count: Annotated[int, Ge(1)] = 1
    pixels: Annotated[int, Ge(1)] | None = None

    def fields(self, mesh: Mesh, box: float) -> tuple[Field, ...]:
        at = tuple(float(p) for p in range(self._pixels(mesh) ** 2))
        return tuple(Field(f"slice{i}", positive=True, coordinate="pixel", at=at, label=rf"1 + \delta_{{{i}}}")
                     for i in range(self.count))  # fmt: skip

    def measure(self, snapshot: Snapshot) -> Tensor:
        return snapshot.slices(count=self.count, pixels=self._pixels(snapshot.mesh), axis=2).reshape(-1)

    def _pixels(self, mesh: Mesh) -> int:
        pixels = mesh.particles // 2 if self.pixels is None else self.pixels
        for name, parts in (("count", self.count), ("pixels", pixels)):
            if mesh.cells % max(parts, 1) or not 1 <= parts <= mesh.particles // 2:
                raise InputError(f"slices: {name} must divide the {mesh.cells} mesh cells of a side, and be at most "
                                 f"{mesh.particles // 2}, two particle spacings each. Got {parts}.")  # fmt: skip
        return pixels
