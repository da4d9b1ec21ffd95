"""What the store asks of a disk: files that are there when the call returns, and looks that do not mistake silence.

A file is written whole under a new name, flushed, and renamed into place.
"""

import contextlib
import errno
import os
import shutil
import stat
import time
import uuid
from pathlib import Path
from typing import Any

from emulate.errors import StoreError


def write_new(file: str | os.PathLike, data: bytes) -> None:
    """A new file with this content."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]  # a disk may take less than it was given
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace(file: Path, data: bytes) -> None:
    """A file with this content, whole or as it was before."""
    temporary = file.with_name(f"{file.name}.{uuid.uuid4().hex}")
    try:
        write_new(temporary, data)
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)
    flush_folder(file.parent)


def flush_folder(folder: str | os.PathLike) -> None:
    """The names in a folder, as they are now."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def discard(folder: str | os.PathLike) -> None:
    """Remove a folder that nobody counts on, as far as the disk lets; `rmtree` alone lets errors of `close` through."""
    with contextlib.suppress(OSError):
        shutil.rmtree(folder)


def age(path: Path) -> float:
    """Seconds since a file or folder was written; 0 when its writer has renamed or removed it meanwhile."""
    try:
        return time.time() - path.lstat().st_mtime
    except FileNotFoundError:
        return 0.0


def entries(folder: str) -> list[os.DirEntry]:
    """What a folder holds; nothing when there is no such folder."""
    try:
        with os.scandir(folder) as found:
            return list(found)
    except OSError as e:
        return absent(e, folder, [])


def kind(path: str) -> int:
    """What lies there, as in `stat.S_IFDIR`; 0 when nothing does."""
    try:
        return stat.S_IFMT(os.stat(path).st_mode)
    except OSError as e:
        return absent(e, path, 0)


def absent(error: OSError, path: str, nothing: Any) -> Any:
    """`nothing` when it is not there; a disk that does not answer must not pass for one without runs."""
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
        return nothing
    raise StoreError(f"{path} must be readable. Got {type(error).__name__}: {error.strerror}; mend the disk or its "
                     "permissions, then start the same command again.") from error  # fmt: skip
