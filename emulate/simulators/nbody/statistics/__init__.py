"""Summary statistics of a snapshot: what a simulation hands out, by name, each with its fields and its units."""

from dataclasses import fields

from emulate.errors import InputError, nearest
from emulate.simulators.nbody.statistics.bispectrum import Bispectrum
from emulate.simulators.nbody.statistics.multipoles import Multipoles
from emulate.simulators.nbody.statistics.pdf import DensityPDF
from emulate.simulators.nbody.statistics.power import PowerSpectrum
from emulate.simulators.nbody.statistics.slices import Slices
from emulate.simulators.nbody.statistics.statistic import Statistic

__all__ = ["STATISTICS", "Statistic", "named"]

STATISTICS: dict[str, type[Statistic]] = {
    "pk": PowerSpectrum,
    "multipoles": Multipoles,
    "bispectrum": Bispectrum,
    "pdf": DensityPDF,
    "slices": Slices,
}


def named(names: tuple[str, ...], **settings: float) -> tuple[Statistic, ...]:
    """The statistics of these names, in their order; each takes those of the settings that it has.

    Raises:
        InputError: a name is unknown or given twice, or there is none.

    Example:
        >>> named(("pk", "pdf"), k_max=0.25)
        (PowerSpectrum(k_max=0.25), DensityPDF(radius=None, low=-1.0, high=1.0, number=10, bandwidth=0.2))
    """
    for name in names:
        if name not in STATISTICS:
            there = ", ".join(STATISTICS)
            raise InputError(f"there is no statistic {name!r}; there are {there}.{nearest(name, STATISTICS)}")
    if not names or len(set(names)) < len(names):
        raise InputError(f"statistics must be at least one name, each once. Got {', '.join(names) or 'none'}; "
                         f"choose from {', '.join(STATISTICS)}.")  # fmt: skip
    kinds = [STATISTICS[name] for name in names]
    return tuple(kind(**{f.name: settings[f.name] for f in fields(kind) if f.name in settings}) for kind in kinds)
