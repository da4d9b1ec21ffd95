"""The scratch folder of one run: filled without leaving it, read without following what a program planted, and cleaned.

Every name inside is relative, made of plain components; files are opened component by component without following
links. A folder is locked while its run lives, so that what a killed process left behind is found and removed.
"""

import contextlib
import errno
import fcntl
import functools
import os
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from emulate.errors import InputError, RunFailed, nearest, shown

PRINTED = ("stdout.txt", "stderr.txt")
_DEPTH, _COMPONENT = 16, 255
_YOUNG = 60.0  # seconds in which a folder may not be locked yet


def judge_name(name: str, setting: str, *, printed: bool = False) -> None:
    """Complain about a name that does not stay inside the run's folder."""
    parts = name.split("/")
    said = ""
    if not name or name.startswith("/") or any(p in ("", ".", "..") for p in parts):
        said = "be relative to the run's folder, without `..`, `.` and empty parts"
    elif any(not c.isprintable() for c in name):
        said = "be made of printable characters"
    elif len(parts) > _DEPTH or any(len(os.fsencode(p)) > _COMPONENT for p in parts):
        said = f"have at most {_DEPTH} parts of {_COMPONENT} bytes"
    elif name in PRINTED and not printed:
        said = f"not be {name}, which holds what the program prints"
    if said:
        raise InputError(f"{setting} must {said}. Got {shown(name)}; name it another way.")


@contextlib.contextmanager
def scratch(base: str, keep: str) -> Iterator[Path]:
    """A fresh folder, locked; what becomes of it afterwards, `keep` says: never, failed or always.

    A failure of a run whose folder stays says so at the end of its log.
    """
    root = Path(base or tempfile.gettempdir()).expanduser().absolute()
    try:
        root.mkdir(parents=True, exist_ok=True)
        _sweep(str(root))
        kind = "run" if keep == "never" else "kept"
        folder = Path(tempfile.mkdtemp(prefix=f"emulate-{kind}-{socket.gethostname()[:32]}-", dir=root))
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as e:
        raise RunFailed("error", f"no folder for the run can be made in {root}: {e.strerror}; free or name another "
                                 "place by `scratch`.") from None  # fmt: skip
    try:
        with contextlib.suppress(OSError):  # some network file systems know no locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder
    except BaseException as e:
        if keep == "never":
            remove(folder)
        elif isinstance(e, RunFailed):
            raise RunFailed(e.kind, e.reason, f"{e.log}\nThe run's folder is kept: {folder}".lstrip()) from None
        raise
    else:
        if keep != "always":
            remove(folder)
    finally:
        os.close(lock)


def remove(folder: Path) -> None:
    """Delete a folder, also one whose program took its own rights away."""

    def again(function, path, _):
        with contextlib.suppress(OSError):
            os.chmod(os.path.dirname(path), 0o700)
            if not os.path.islink(path):
                os.chmod(path, 0o700)
            function(path) if function is not os.open else shutil.rmtree(path, ignore_errors=True)

    shutil.rmtree(folder, onerror=again)
    if folder.exists():
        shutil.rmtree(folder, ignore_errors=True)


@functools.cache
def _sweep(root: str) -> None:
    """Remove what killed processes of this user left, once per process: old, unlocked, and not to be kept."""
    for entry in os.scandir(root):
        if not entry.name.startswith("emulate-run-"):
            continue
        with contextlib.suppress(OSError):
            found = entry.stat(follow_symlinks=False)
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or time.time() - found.st_ctime < _YOUNG:
                continue
            descriptor = os.open(entry.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove(Path(entry.path))
            finally:
                os.close(descriptor)


def write(folder: Path, name: str, data: bytes, mode: int = 0o666) -> None:
    """A new file in the folder; the folders above it are made."""
    descriptor, last = _parent(folder, name, make=True)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(last, flags, mode, dir_fd=descriptor), "wb") as f:
            f.write(data)
    finally:
        os.close(descriptor)


def place(folder: Path, name: str, source: Path, *, link: bool) -> None:
    """A file or folder of the user's, copied or linked to its name in the folder."""
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    if link:
        target.symlink_to(source)
    elif source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        shutil.copy(source, target)


def open_file(folder: Path, name: str, what: str, *, limit: int | None = None) -> BinaryIO:
    """A regular file that the program left, opened without following a link. `what` leads complaints.

    Raises `RunFailed` when there is none, or when it is larger than `limit` bytes.
    """
    try:
        descriptor, last = _parent(folder, name)
        try:
            # a pipe must not make the open wait
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            file = os.open(last, flags, dir_fd=descriptor)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise RunFailed("error", f"{what} must be there when the program has ended. There is no {name}{_there(folder, name)}"
                        ) from None  # fmt: skip
    except OSError as e:
        link = e.errno in (errno.ELOOP, errno.EMLINK, errno.ENOTDIR)
        said = "a link, or below one; write the file itself" if link else f"one that cannot be opened: {e.strerror}"
        raise RunFailed("error", f"{what} must be a file in the run's folder. {name} is {said}.") from None
    found = os.fstat(file)
    if not stat.S_ISREG(found.st_mode):
        os.close(file)
        raise RunFailed("error", f"{what} must be a file. {name} is a folder or a device.")
    if limit is not None and found.st_size > limit:
        os.close(file)
        raise RunFailed("error", f"{what} must have at most {limit / 2**20:g} MiB. {name} has {found.st_size / 2**20:.1f} MiB; "
                                 "raise `output_mib`, or write less.")  # fmt: skip
    return os.fdopen(file, "rb")


def tail(folder: Path, name: str, size: int) -> str:
    """The last bytes of a text file of the folder, empty where there is none."""
    try:
        with open_file(folder, name, name) as f:
            f.seek(max(0, os.fstat(f.fileno()).st_size - size))
            return f.read(size).decode(errors="replace").replace("\0", "\ufffd").strip()
    except (RunFailed, OSError):
        return ""


def _parent(folder: Path, name: str, *, make: bool = False) -> tuple[int, str]:
    """The open folder that holds the name, and its last part."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    here = os.open(folder, flags)
    *above, last = name.split("/")
    for part in above:
        try:
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, dir_fd=here)
            inner = os.open(part, flags, dir_fd=here)
        finally:
            os.close(here)
        here = inner
    return here, last


def _there(folder: Path, name: str) -> str:
    """What the folder holds instead."""
    names = []
    for root, folders, files in os.walk(folder):
        folders[:] = folders if len(Path(root).relative_to(folder).parts) < 3 else []
        names += [str((Path(root) / f).relative_to(folder)) for f in files]
        if len(names) > 200:
            break
    listed = ", ".join(sorted(n for n in names if n.isprintable())[:8])
    return f"; it holds {listed or 'nothing'}{', ...' if len(names) > 8 else ''}.{nearest(name, names)}"
