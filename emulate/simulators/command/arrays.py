"""Numbers out of files of arrays that a program wrote: NPY, NPZ, HDF5, NetCDF.

Sizes are held against a limit before memory is taken, nothing is unpickled, links to other files are refused.
"""

import ast
import io
import math
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import numpy as np

from emulate.errors import InputError, RunFailed, nearest, shown

_DEPTH = 32  # of axes, and of names and soft links in a file


def npy(stream: BinaryIO, name: str, limit: int, skip: int) -> np.ndarray:
    """An array whose header is read and held against the limit first; objects, which need pickle, are refused."""
    version = np.lib.format.read_magic(stream)
    size = int.from_bytes(stream.read(2 if version == (1, 0) else 4), "little")
    if size > 65536:
        raise RunFailed("error", f"{name}: a header of NPY must have at most 64 kB. Got {size} bytes.")
    header = ast.literal_eval(stream.read(size).decode("utf-8" if version >= (3, 0) else "latin-1").strip())
    shape, fortran = header["shape"], bool(header["fortran_order"])
    if not isinstance(header["descr"], str) or not isinstance(shape, tuple):
        raise RunFailed(
            "badshape", f"{name} must be an array of plain numbers. It has records: {shown(header['descr'])}."
        )
    dtype = np.dtype(header["descr"])
    if dtype.kind not in "fiub" or not all(type(n) is int and n >= 0 for n in shape) or len(shape) > _DEPTH:
        raise RunFailed(
            "badshape", f"{name} must be an array of real numbers. It is of {shown(header['descr'])}, {shown(shape)}."
        )
    count = math.prod(shape)
    _judge_size(count, dtype.itemsize, name, limit)
    raw = stream.read(count * dtype.itemsize)
    if len(raw) < count * dtype.itemsize:
        raise RunFailed("badshape", f"{name} must hold {count} values, as its header says. It was cut after "
                                    f"{len(raw) // max(dtype.itemsize, 1)}.")  # fmt: skip
    return np.frombuffer(raw, dtype, count).reshape(shape, order="F" if fortran else "C")


def _judge_size(count: int, itemsize: int, where: str, limit: int) -> None:
    if count * itemsize > limit:
        raise RunFailed("error", f"{where} must have at most {limit / 2**20:g} MiB in memory. It has "
                                 f"{count * itemsize / 2**20:.3g} MiB; raise `output_mib`, or write less.")  # fmt: skip


def npz(stream: BinaryIO, name: str, limit: int, skip: int) -> Callable[[str], np.ndarray]:
    archive = zipfile.ZipFile(stream)
    names = [n.removesuffix(".npy") for n in archive.namelist()]

    def get(key: str) -> np.ndarray:
        wanted = _chosen(key, names, name)
        member = next(i for i in archive.infolist() if i.filename.removesuffix(".npy") == wanted)
        _judge_size(member.file_size, 1, f"{name}, {wanted}", limit)
        with archive.open(member) as packed:  # read no further than was judged: a size may lie
            return npy(io.BytesIO(packed.read(limit + 65536)), f"{name}, {wanted}", limit, 0)

    return get


def _chosen(key: str, names: list[str], name: str) -> str:
    if key in names:
        return key
    if not key and len(names) == 1:
        return names[0]
    there = ", ".join(sorted(names)[:20]) or "nothing"
    must = f"hold {key!r}" if key else "be read by `key`"
    raise RunFailed("badshape", f"{name} must {must}. It holds {there}.{nearest(key, names)}")


def hdf5(stream: BinaryIO, name: str, limit: int, skip: int) -> Callable[[str], np.ndarray]:
    try:
        import h5py
    except ImportError:
        raise InputError(
            f"{name} can be read when h5py is there. Install the extra `formats`: emulate[formats]."
        ) from None
    file = h5py.File(stream, "r")

    def get(key: str) -> np.ndarray:
        found = _hdf5_node(h5py, file, key or _only(file, name), name)
        if not isinstance(found, h5py.Dataset):
            raise RunFailed(
                "badshape", f"{name}, {key} must be an array. It is a group of {', '.join(list(found)[:20])}."
            )
        if found.is_virtual or found.external:
            raise RunFailed("error", f"{name}, {key} must lie in the file itself. It lies in other files.")
        if found.dtype.kind not in "fiub" or found.shape is None:
            raise RunFailed("badshape", f"{name}, {key} must be an array of real numbers. It is of {found.dtype}.")
        _judge_size(found.size or 0, max(8, found.dtype.itemsize), f"{name}, {key}", limit)
        chunk = math.prod(found.chunks or (0,)) * found.dtype.itemsize
        _judge_size(chunk, 1, f"{name}, {key}: a chunk", limit)
        return _meant(found[()], dict(found.attrs))

    return get


def _only(file: Any, name: str) -> str:
    return _chosen("", list(file), name)


def _hdf5_node(h5py: Any, file: Any, key: str, name: str) -> Any:
    """Follow names and soft links by hand: h5py would follow a link into any other file of the machine."""
    here, waiting = file, [p for p in key.split("/") if p][::-1]
    for _ in range(_DEPTH):
        if not waiting:
            return here
        part = waiting.pop()
        link: Any = here.get(part, getlink=True) if isinstance(here, h5py.Group) and part not in (".", "..") else None
        if isinstance(link, h5py.ExternalLink):
            raise RunFailed("error", f"{name}, {key} must lie in the file itself. It is a link to another file.")
        if isinstance(link, h5py.SoftLink):
            here = file if link.path.startswith("/") else here
            waiting += [p for p in link.path.split("/") if p][::-1]
        elif link is None:
            there = list(here)[:20] if isinstance(here, h5py.Group) else []
            raise RunFailed("badshape", f"{name} must hold {key!r}. There is {', '.join(there) or 'nothing'}"
                                        f".{nearest(part, there)}")  # fmt: skip
        else:
            here = here[part]
    raise RunFailed("error", f"{name}, {key} must be at most {_DEPTH} names and links deep.")


def _meant(raw: Any, attributes: Mapping[str, Any]) -> np.ndarray:
    """Packed values as the CF conventions mean them: missing is NaN, then scale_factor and add_offset."""
    a = np.asarray(raw, dtype=np.float64)
    for word in ("_FillValue", "missing_value"):
        if word in attributes:
            a = np.where(np.isin(raw, attributes[word]), np.nan, a)
    if "scale_factor" in attributes or "add_offset" in attributes:
        scale, offset = (
            float(np.ravel(attributes.get(k, v))[0]) for k, v in (("scale_factor", 1.0), ("add_offset", 0.0))
        )
        a = a * scale + offset
    return a


def netcdf(stream: BinaryIO, name: str, limit: int, skip: int) -> Callable[[str], np.ndarray]:
    """NetCDF-4 is HDF5; the classic format is read by scipy."""
    start = stream.read(4)
    stream.seek(0)
    if start[:3] != b"CDF":
        return hdf5(stream, name, limit, skip)
    from scipy.io import netcdf_file

    file = netcdf_file(io.BytesIO(stream.read(limit + 1)), "r", mmap=False)

    def get(key: str) -> np.ndarray:
        found = file.variables[_chosen(key, list(file.variables), name)]
        return _meant(real(found.data, f"{name}, {key}"), found._attributes)

    return get


def real(a: np.ndarray, where: str) -> np.ndarray:
    a = np.asarray(a)
    if a.dtype.kind not in "fiub":
        raise RunFailed("badshape", f"{where} must be real numbers. It is of {a.dtype}.")
    return a.astype(np.float64)
