"""Numbers out of the files that programs write: tables, CSV, JSON, YAML, NPY, NPZ, HDF5, NetCDF.

A file is a stranger's: sizes are held against a limit before memory is taken, nothing is unpickled, links to other
files are refused, and whatever a library says about a file that is not what its name says becomes a failed run.
"""

from collections.abc import Callable
from typing import BinaryIO

import numpy as np

from emulate.errors import InputError, RunFailed
from emulate.simulators.command.arrays import hdf5, netcdf, npy, npz, real
from emulate.simulators.command.text import Table, csv_table, json_tree, of_table, of_tree, rows_of, table, yaml_tree

SUFFIXES = {"csv": "csv", "tsv": "csv", "json": "json", "npy": "npy", "npz": "npz", "h5": "hdf5", "hdf5": "hdf5",
            "hdf": "hdf5", "nc": "netcdf", "nc4": "netcdf", "cdf": "netcdf", "yaml": "yaml", "yml": "yaml"}  # fmt: skip

Content = Table | np.ndarray | Callable[[str], np.ndarray] | dict | list | float | int | str | None


def open_content(stream: BinaryIO, name: str, kind: str, limit: int, skip: int = 0) -> Content:
    """What a file holds; `name` leads complaints, `limit` bounds in bytes what may be taken into memory."""
    kind = SUFFIXES.get(name.rpartition(".")[2].lower(), "table") if kind == "auto" else kind
    try:
        return FORMATS[kind](stream, name, limit, skip)
    except (RunFailed, InputError):
        raise
    except Exception as e:  # the file may be anything, and each library complains in its own way
        raise RunFailed("error", f"{name} cannot be read as {kind}: {_short(e)}.") from None


def select(content: Content, name: str, *, key: str = "", column: int | str | None = None,
           row: int | None = None) -> np.ndarray:  # fmt: skip
    """float64 `[n]`: the numbers at a place of a file's content."""
    where = f"{name}{f', {key}' if key else ''}"
    try:
        if isinstance(content, Table):
            return of_table(content, name, column, row)
        if not isinstance(content, np.ndarray):
            content = content(key) if callable(content) else of_tree(content, name, key)
        return _of_array(real(content, where), where, column, row)
    except (RunFailed, InputError):
        raise
    except Exception as e:
        raise RunFailed("error", f"{where} cannot be read: {_short(e)}.") from None


def _short(e: Exception) -> str:
    said = " ".join(f"{type(e).__name__}: {e}".removesuffix(": ").split())
    return (said if len(said) <= 200 else f"{said[:196]} ...").rstrip(".")


FORMATS: dict[str, Callable[[BinaryIO, str, int, int], Content]] = {
    "table": table, "csv": csv_table, "json": json_tree, "yaml": yaml_tree, "npy": npy, "npz": npz, "hdf5": hdf5,
    "netcdf": netcdf}  # fmt: skip


def _of_array(a: np.ndarray, where: str, column: int | str | None, row: int | None) -> np.ndarray:
    """float64 `[n]` of an array; rows and columns are those of its first two axes."""
    if isinstance(column, str):
        raise RunFailed("badshape", f"{where} is an array without names of columns; give `column` as a number.")
    if row is not None:
        a = rows_of(np.atleast_1d(a), where, row)
    if column is not None:
        if a.ndim != 2 or column > a.shape[1]:
            raise RunFailed("badshape", f"{where} must have a column {column}. Its shape is {a.shape}; columns are counted "
                                        "from 1.")  # fmt: skip
        a = a[:, column - 1]
    return a.ravel()
