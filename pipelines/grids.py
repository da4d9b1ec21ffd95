"""Points from NetCDF: a Dataset of parameters in, its dimensions with means and standard deviations out."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from emulate.emulator import Emulator
from emulate.errors import InputError
from emulate.labelled import columns
from emulate.space import Space
from pipelines.files import replacing

if TYPE_CHECKING:
    import xarray


def read(source: Path, space: Space, fixed: Mapping[str, float]) -> "tuple[xarray.Dataset, torch.Tensor]":
    """The Dataset, with parameters that are fixed otherwise, and its points `[n, d]`."""
    import xarray

    if not source.is_file():
        raise InputError(f"the points must be a file with a variable for each parameter. Got {source}, which is "
                         f"{'a folder' if source.is_dir() else 'not there'}.")  # fmt: skip
    try:
        given = xarray.load_dataset(source)
    except (OSError, ValueError) as e:
        raise InputError(f"{source} must be a NetCDF file. Got {e}.") from None
    given = given.drop_vars([n for n in fixed if n in given.variables]).assign_coords(dict(fixed))
    try:
        made = columns(given, {p.name: p.unit for p in space.parameters})
    except InputError as e:
        raise InputError(f"{source}: {e}") from None
    for name, x in zip(space.names, made, strict=True):
        values = x.values if x.dtype.kind in "iuf" else np.full(x.shape, np.nan)
        if not np.isfinite(values).all():
            at = np.unravel_index(int(np.flatnonzero(~np.isfinite(values).ravel())[0]), x.shape)
            place = ", ".join(f"{d} = {i}" for d, i in zip(x.dims, at, strict=True))
            raise InputError(f"{source}, {name} at index {place or 'none'}: must be finite. Got {x.values[at]!r}; mend it, or take "
                             "the point out.")  # fmt: skip
    return given, space.pack(given).reshape(-1, space.d)


def write(emulator: Emulator, given: "xarray.Dataset", source: Path, out: Path | None, **how: Any) -> None:
    """The answers, with all that the Dataset held beside, in a new file."""
    if out is None or out.suffix != ".nc":
        raise InputError(f"points from NetCDF must be answered in NetCDF. Got {'no --out' if out is None else out}; add "
                         f"--out {source.stem}_predicted.nc.")  # fmt: skip
    made = emulator.to_xarray(given, **how)
    # coordinates of the points, as the index of a frame, stay
    same = [n for n in made.variables if n in given.variables and made.variables[n].equals(given.variables[n])]
    if taken := [n for n in made.variables if n in given.variables and n not in (*emulator.space.names, *same)]:
        raise InputError(f"{source} must leave the names of the answers free. Got a variable {taken[0]!r}; rename it, or take it "
                         "out.")  # fmt: skip
    rest = given.drop_vars([n for n in emulator.space.names if n in given.variables])
    whole = made.merge(rest).assign_attrs({**given.attrs, **made.attrs})
    with replacing(out) as temporary:
        whole.to_netcdf(temporary, engine="h5netcdf")
