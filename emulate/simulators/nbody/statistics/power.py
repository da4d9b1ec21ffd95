"""`pk`: the matter power spectrum in real space."""

import math
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Gt, Le
from torch import Tensor

from emulate.runs import Field
from emulate.simulators.nbody.cloud import Mesh
from emulate.simulators.nbody.snapshot import Snapshot
from emulate.simulators.nbody.spectra import bin_count, bins, power_spectrum
from emulate.simulators.nbody.statistics.statistic import Statistic

__all__ = ["PowerSpectrum"]


@dataclass(frozen=True, kw_only=True)
class PowerSpectrum(Statistic):
    """P(k) in bins one fundamental mode wide, as `spectra.power_spectrum` finds it.

    Settings:
        k_max: highest wavenumber as a fraction of the particles' Nyquist wavenumber pi n / L.

    Example:
        >>> (pk,) = PowerSpectrum(k_max=0.25).fields(Mesh(16), box=100.0)
        >>> pk.name, pk.unit, [round(k, 4) for k in pk.at]
        ('pk', '(Mpc/h)^3', [0.0802, 0.1402])
    """

    k_max: Annotated[float, Gt(0), Le(1)] = 0.5

    def fields(self, mesh: Mesh, box: float) -> tuple[Field, ...]:
        k = 2.0 * math.pi / box * bins(mesh.cells, bin_count(self.k_max, mesh)).n
        return (Field("pk", "(Mpc/h)^3", positive=True, coordinate="k", at=tuple(k.tolist()), at_unit="h/Mpc",
                      label="P(k)"),)  # fmt: skip

    def measure(self, snapshot: Snapshot) -> Tensor:
        return power_spectrum(snapshot.density(), snapshot.box, bin_count(self.k_max, snapshot.mesh))
