"""Files that are on the disk when the call returns: written whole under a new name, flushed, and renamed into place."""

import contextlib
import os
import shutil
import uuid
from pathlib import Path


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
