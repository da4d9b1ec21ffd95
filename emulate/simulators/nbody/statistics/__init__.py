"""Summary statistics of a snapshot: what a simulation hands out, by name, each with its fields and its units."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from pydantic import TypeAdapter, ValidationError

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


def named(specs: Sequence[str | Mapping[str, Any]], **shared: float) -> tuple[Statistic, ...]:
    """The statistics of these names, in their order; each takes those of the shared settings that it has.

    Args:
        specs: names, or mappings of `use` and settings of the statistic's own.
        shared: settings for all.

    Raises:
        InputError: a name is unknown or given twice, there is none, or a setting is wrong.

    Example:
        >>> named(("pk", {"use": "pdf", "number": 8}), k_max=0.25)
        (PowerSpectrum(k_max=0.25), DensityPDF(radius=None, low=-1.0, high=1.0, number=8, bandwidth=0.2))
    """
    given = [{"use": spec} if isinstance(spec, str) else dict(spec) for spec in specs]
    names = [str(values.pop("use", None)) for values in given]
    for name in names:
        if name not in STATISTICS:
            there = ", ".join(STATISTICS)
            raise InputError(f"there is no statistic {name!r}; there are {there}.{nearest(name, STATISTICS)}")
    if not names or len(set(names)) < len(names):
        raise InputError(f"statistics must be at least one name, each once. Got {', '.join(names) or 'none'}; "
                         f"choose from {', '.join(STATISTICS)}.")  # fmt: skip
    return tuple(_made(name, {**_own(STATISTICS[name], shared), **values}) for name, values in zip(names, given))


def _own(kind: type[Statistic], shared: Mapping[str, Any]) -> dict[str, Any]:
    return {f.name: shared[f.name] for f in fields(kind) if f.name in shared}


def _made(name: str, values: Mapping[str, Any]) -> Statistic:
    known = [f.name for f in fields(STATISTICS[name])]
    for key in values:
        if key not in known:
            near = nearest(str(key), known)
            raise InputError(f"statistic {name}: settings must be among {', '.join(known)}. Got {key!r}.{near}")
    try:
        return TypeAdapter(STATISTICS[name]).validate_python(dict(values))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(x) for x in first["loc"])
        raise InputError(f"statistic {name}: {where} must be allowed there. Got {first['input']!r}: "
                         f"{first['msg']}.") from None  # fmt: skip
