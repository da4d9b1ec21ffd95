"""The keys `infer.derived` and `infer.profile` of a study: derived parameters by name, and what is profiled."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from emulate.errors import InputError, nearest, shown

if TYPE_CHECKING:
    from emulate.derived import Derived
    from emulate.space import Space

_PATH = "infer.derived"
_KEYS = ("expression", "unit", "label")
_TRIED = 256  # points of the prior at which an expression must give a number at least once


def read_derived(entries: Any, space: "Space") -> "dict[str, Derived] | None":
    """`{S_8: "sigma_8 * (omega_m / 0.3)**0.5"}`; an InputError with one line per problem, None where there is nothing."""
    from emulate.derived import read

    if entries is None:
        return None
    if not isinstance(entries, Mapping) or not entries:
        raise InputError(f'{_PATH}: must be names with expressions, such as {{S_8: "sigma_8 * (omega_m / 0.3)**0.5"}}. '
                         f"Got {shown(entries)}.")  # fmt: skip
    good: dict[str, Any] = {}
    said = []
    for name, entry in entries.items():
        path = f"{_PATH}.{name}"
        try:
            good[name] = _entry(entry, path)
            _finite(read(good, space), space)
        except InputError as e:
            good.pop(name, None)
            said.append(str(e) if str(e).startswith(path) else f"{path}: {e}")
    if said:
        raise InputError("\n".join(said))
    return {d.name: d for d in read(good, space)}


def _entry(entry: Any, path: str) -> Any:
    if isinstance(entry, str):
        return entry
    if not isinstance(entry, Mapping) or "expression" not in entry:
        raise InputError(f"{path}: must be an expression, or one with its words, {{expression: a * b, unit: K, label: T}}. "
                         f"Got {shown(entry)}.")  # fmt: skip
    if unknown := [k for k in entry if k not in _KEYS]:
        raise InputError(f"{path}.{unknown[0]}: this key is not known. Keys allowed here: {', '.join(_KEYS)}"
                         f".{nearest(unknown[0], _KEYS)}")  # fmt: skip
    if odd := [k for k in _KEYS if entry.get(k) is not None and not isinstance(entry[k], str)]:
        raise InputError(f"{path}.{odd[0]}: must be text (quotes make a text). Got {shown(entry[odd[0]])}.")
    return {k: v for k, v in entry.items() if v is not None}


def _finite(derived: "Sequence[Derived]", space: "Space") -> None:
    import torch

    from emulate.derived import values

    u = torch.quasirandom.SobolEngine(space.d, scramble=True, seed=1).draw(_TRIED, dtype=torch.float64)
    found = values(space, derived, space.from_unit(u.clamp(1e-6, 1 - 1e-6)))[:, -1]
    if not torch.isfinite(found).any():
        raise InputError(f"{shown(derived[-1].expression.text)} must be a number somewhere in the prior. Got NaN or infinity "
                         "at every point; look at its roots, logarithms and divisions.")  # fmt: skip


def read_profile(asked: Any, space: "Space", derived: "Mapping[str, Derived] | None") -> tuple[str, ...] | None:
    """The parameters to profile: all of the space for true, or those that are named, derived ones too."""
    path, known = "infer.profile", (*space.names, *(derived or {}))
    if asked is None or asked is False:
        return None
    if asked is True:
        return known
    if not isinstance(asked, Sequence) or isinstance(asked, str) or not asked:
        raise InputError(
            f"{path}: must be true, or a list of parameters such as [{', '.join(known[:2])}]. Got {shown(asked)}."
        )
    if unknown := [n for n in asked if n not in known]:
        raise InputError(f"{path}: must name parameters of the study: {', '.join(known)}. Got {shown(unknown[0])}"
                         f".{nearest(str(unknown[0]), known)}")  # fmt: skip
    return tuple(dict.fromkeys(asked))
