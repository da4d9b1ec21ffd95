"""Runs as files that need no `emulate` to be read: NetCDF, Parquet or CSV, each written whole or not at all.

One group of runs is one table. Several are the groups of one NetCDF 4 file, `xarray.open_dataset(OUT, group=NAME)` or
`xarray.open_datatree(OUT)`; as Parquet or CSV each is a file of its own, OUT with `_NAME` before its ending.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from emulate.errors import InputError
from pipelines.files import replacing

if TYPE_CHECKING:
    import pandas
    import xarray

    from emulate.export import Group

FORMATS = (".nc", ".parquet", ".csv")
LARGEST = 2**32 - 4  # bytes of one variable of NetCDF 3 with 64-bit offsets


def write(out: Path, groups: "Sequence[Group]") -> dict[str, Path]:
    """Write to `out`, whose ending is one of `FORMATS`; where each group went, by its name."""
    need, extra = {".nc": ("scipy", "scipy"), ".parquet": ("pyarrow", "pyarrow")}.get(out.suffix, ("", ""))
    if need and not find_spec(need):
        raise InputError(f"a {out.suffix} file needs the package {extra}, which is not installed. Install it: "
                         f"pip install {extra}; or export to .csv.")  # fmt: skip
    if len(groups) == 1:
        return {groups[0].name: _one(out, groups[0])}
    if out.suffix == ".nc":
        return dict.fromkeys((g.name for g in groups), _together(out, groups))
    return {g.name: _one(out.with_name(f"{out.stem}_{g.name}{out.suffix}"), g) for g in groups}


def _one(out: Path, group: "Group") -> Path:
    with replacing(out) as temporary:
        if out.suffix == ".nc":
            _netcdf(temporary, group.to_xarray())
        elif out.suffix == ".parquet":
            _parquet(temporary, _told(group))
        else:
            frame = _told(group)
            units = frame.attrs["units"]
            frame.columns = [f"{n} [{units[n]}]" if n in units else n for n in frame.columns]
            frame.to_csv(temporary, index=False)
    return out


def _together(out: Path, groups: "Sequence[Group]") -> Path:
    """The groups of one NetCDF 4 file; its root holds attributes alone, for coordinates of one name may differ."""
    import xarray

    if not find_spec("h5netcdf"):
        listed = "\n".join(f"  {g.name}: {g.sentence}" for g in groups)
        raise InputError("several kinds of runs stand in groups of one file, and NetCDF 3 has no groups. Got "
                         f"{len(groups)} kinds; install the package that writes NetCDF 4: pip install h5netcdf; or choose "
                         f"one by --group NAME; or export to .parquet, one file each:\n{listed}")  # fmt: skip
    said = "; ".join(f"{g.name}: {g.sentence}" for g in groups)
    root = {"title": "Runs of simulators, in groups", "groups": said, "made_with": groups[0].made_with}
    with replacing(out) as temporary:
        xarray.Dataset(attrs=root).to_netcdf(temporary, engine="h5netcdf")
        for g in groups:
            g.to_xarray().to_netcdf(temporary, engine="h5netcdf", mode="a", group=g.name)
    return out


def _netcdf(path: Path, data: "xarray.Dataset") -> None:
    """NetCDF 4 where h5netcdf is installed, else NetCDF 3."""
    four = find_spec("h5netcdf") is not None
    big = [str(n) for n, v in data.variables.items() if v.nbytes > LARGEST]
    if big and not four:
        raise InputError(f"a variable of NetCDF 3 must have at most {LARGEST} bytes. Got {data[big[0]].nbytes} in {big[0]}; "
                         "install the package that writes NetCDF 4: pip install h5netcdf; or export to .parquet.")  # fmt: skip
    data.to_netcdf(path, engine="h5netcdf" if four else "scipy")


def _told(group: "Group") -> "pandas.DataFrame":
    """Every row says which simulator it is of: tables are concatenated, and attributes lost."""
    frame = group.to_pandas()
    for name in ("product", "fidelity", "version", "simulator"):
        if name in frame.attrs and name not in frame:
            frame.insert(0, name, frame.attrs[name])
    return frame


def _parquet(path: Path, frame: "pandas.DataFrame") -> None:
    """Units stand in the metadata of each column, the simulator in that of the table."""
    import pyarrow
    from pyarrow import parquet

    units = frame.attrs["units"]
    table = pyarrow.Table.from_pandas(frame, preserve_index=False)
    columns = [f.with_metadata({"units": units[f.name]}) if f.name in units else f for f in table.schema]
    metadata = {**(table.schema.metadata or {}), **{k: str(v) for k, v in frame.attrs.items() if k != "units"}}
    parquet.write_table(table.cast(pyarrow.schema(columns, metadata)), path)
