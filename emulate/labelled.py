"""Arrays that know the names of their axes: parameters from an xarray Dataset or DataArray, by name."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from emulate.errors import InputError, nearest

if TYPE_CHECKING:
    import xarray

AXIS = "parameter"  # of a DataArray that holds all parameters


def is_labelled(given: Any) -> bool:
    """Whether it is an xarray Dataset or DataArray, without importing xarray."""
    return type(given).__module__.split(".")[0] == "xarray" and hasattr(given, "coords")


def columns(given: "xarray.Dataset | xarray.DataArray | Mapping[str, Any]", units: Mapping[str, str],
            ) -> "list[xarray.DataArray]":  # fmt: skip
    """One DataArray for each name in `units`, all broadcast against each other by the names of their dimensions.

    A Dataset holds parameters as variables or coordinates (those of a grid), and may hold others; a DataArray has them
    along the dimension `parameter`. Raises `InputError` where one is missing or says another unit.

    >>> import numpy as np, xarray
    >>> grid = xarray.Dataset(coords={"a": [0.1, 0.2, 0.3], "b": [1.0, 2.0]})
    >>> [(c.dims, c.shape) for c in columns(grid, {"b": "", "a": ""})]
    [(('b', 'a'), (2, 3)), (('b', 'a'), (2, 3))]
    """
    import xarray

    found = _along(given, list(units)) if isinstance(given, xarray.DataArray) else given
    held = list(found.variables) if isinstance(found, xarray.Dataset) else list(found)
    if missing := [n for n in units if n not in held]:
        raise InputError(f"theta must name every one of {', '.join(units)}. Missing: {', '.join(missing)}; rename a variable by "
                         f"dataset.rename, or add one by dataset.assign.{nearest(missing[0], [str(h) for h in held])}")  # fmt: skip
    made = [x if isinstance(x := found[n], xarray.DataArray) else xarray.DataArray(x) for n in units]
    for (name, unit), x in zip(units.items(), made, strict=True):
        agree(name, unit, x.attrs.get("units", ""))
    try:
        return list(xarray.broadcast(*made))
    except ValueError as e:
        raise InputError(
            f"parameters along one dimension must have one length and the same coordinate. Got others: {e}"
        ) from None


def agree(name: str, unit: str, said: Any) -> None:
    """Complain where a unit is another one; where either is not known, nobody can tell."""
    known, met = ("".join(str(u).split()) for u in (unit, said))
    if known and met and known != met:
        raise InputError(f"{name} must be in {unit}. Got the unit {str(said)!r}; convert the values and mend the unit, or take it "
                         "out.")  # fmt: skip


def _along(given: "xarray.DataArray", names: Sequence[str]) -> "dict[str, xarray.DataArray]":
    if AXIS not in given.dims or AXIS not in given.coords:
        if given.name in names:  # one parameter, with others as its coordinates
            return {str(k): v for k, v in given.coords.items()} | {str(given.name): given}
        raise InputError(f"a DataArray of theta must have a dimension {AXIS!r} with the names {', '.join(names)} as its "
                         f"coordinate. Got dimensions {', '.join(map(str, given.dims)) or 'none'}; rename one, or give a "
                         "Dataset.")  # fmt: skip
    held = [str(n) for n in given[AXIS].values]
    return {n: given.isel({AXIS: i}, drop=True) for i, n in enumerate(held)}
