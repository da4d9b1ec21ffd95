"""The disks: room, what a network file system keeps of the promises that stored runs rest on, and the folder for temporary
files."""

import contextlib
import errno
import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from pipelines.doctor.notes import Note, Place, size

_SHORT, _LITTLE, _FILES = 200 * 2**20, 5 * 2**30, 10_000  # bytes: nothing goes; not much goes. Files that may be made
_NETWORK = ("nfs", "lustre", "gpfs", "beegfs", "ceph", "smb", "cifs", "fuse.sshfs", "9p", "afs", "panfs")
_SKEW = 5.0  # s that a file's time may be off


def results(place: Place) -> Iterator[Note]:
    """The folder of the results: whether it can be written, its room, its locks, its renames, its clock."""
    where = place.there
    if not os.access(where, os.W_OK | os.X_OK):
        yield Note("results", "wrong", f"{where} cannot be written",
                   "emulate run STUDY.yaml --set output=FOLDER, one that you may write")  # fmt: skip
        return
    kind = kind_of(where)
    yield from room("results", where, kind)
    try:
        with tempfile.TemporaryDirectory(dir=where, prefix=".emulate-doctor-") as made:
            yield from promises(Path(made), kind)
    except OSError as e:
        yield Note("results", "wrong", f"{where} on {kind}: {e.strerror or e}",
                   "emulate run STUDY.yaml --set output=FOLDER, one on another disk")  # fmt: skip


def temporary(place: Place) -> Iterator[Note]:
    """$TMPDIR: room, and whether what torch compiles there may be run."""
    where = Path(tempfile.gettempdir())
    kind = kind_of(where)
    yield from room("temporary files", where, kind)
    if os.statvfs(where).f_flag & getattr(os, "ST_NOEXEC", 0):
        yield Note("temporary files", "advice", f"{where} is mounted noexec: what torch.compile and a command of yours put there "
                   "cannot be run", "export TMPDIR=FOLDER, one on another disk")  # fmt: skip


def room(topic: str, where: Path, kind: str) -> Iterator[Note]:
    """Free bytes and files."""
    s = os.statvfs(where)
    free, files = s.f_bavail * s.f_frsize, s.f_favail
    told = f"{where} on {kind}, {size(free)} free"
    if free < _SHORT:
        yield Note(
            topic, "wrong", told, f"du -sh {where}/* shows what fills it; emulate store prune removes what is not used"
        )
    elif free < _LITTLE:
        yield Note(
            topic, "advice", told, f"du -sh {where}/* shows what fills it; emulate store prune removes what is not used"
        )
    elif s.f_files and files < _FILES:
        yield Note(topic, "advice", f"{told}, but only {files} more files may be made, and a run makes four",
                   "emulate run STUDY.yaml --set output=FOLDER, one on another disk")  # fmt: skip
    else:
        yield Note(topic, "fine", told)


def promises(folder: Path, kind: str) -> Iterator[Note]:
    """What the store and the stages rest on, tried in an empty folder: locks that exclude, renames that are one step and
    do not replace a run, folders that can be flushed, times that agree."""
    broken = []
    if said := _lock(folder / "lock"):
        broken.append(said)
    if said := _rename(folder):
        broken.append(said)
    try:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as e:
        broken.append(f"folders cannot be flushed ({e.strerror})")
    if broken:
        yield Note("results", "wrong", f"{kind}: {'; '.join(broken)}",
                   "emulate run STUDY.yaml --set output=FOLDER, one on a local disk")  # fmt: skip
    elif kind.startswith(_NETWORK):
        yield Note(
            "results",
            "fine",
            f"{kind}: locks, renames and flushes hold here; MLflow's database is better on a local disk",
        )
    else:
        yield Note("results", "fine", "locks, renames and flushes hold")
    before = time.time()
    (folder / "time").write_bytes(b"")
    off = (folder / "time").stat().st_mtime - before
    if abs(off) > _SKEW:
        yield Note("clock", "advice", f"the disk's clock is {off:+.0f} s from this machine's: times of runs will not agree",
                   "set both clocks: timedatectl set-ntp true, on the file server too")  # fmt: skip


def _lock(path: Path) -> str:
    """What is wrong with locks: a second one must be refused while the first is held."""
    with open(path, "w") as one, open(path, "w") as other:
        try:
            fcntl.flock(one, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            return f"files cannot be locked ({os.strerror(e.errno or errno.ENOLCK)})"
        try:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return ""
        return "locks exclude nobody, so that two commands may write at once"


def _rename(folder: Path) -> str:
    """What is wrong with renames of folders."""
    for name in ("new", "old"):
        (folder / name).mkdir()
        (folder / name / "y").write_text(name)
    with contextlib.suppress(OSError):
        os.rename(folder / "new", folder / "old")
        return "a folder replaces another that is not empty, so that a stored run could be lost"
    try:
        os.rename(folder / "new", folder / "moved")
    except OSError as e:
        return f"folders cannot be renamed ({e.strerror})"
    return "" if (folder / "moved" / "y").read_text() == "new" else "a renamed folder is not what it was"


def kind_of(where: Path, mounts: Path = Path("/proc/mounts")) -> str:
    """The kind of the file system, `nfs4` or `ext4`, of the longest mount point above; where the system tells."""
    try:
        rows = [line.split() for line in mounts.read_text().splitlines()]
    except OSError:
        return "a file system"
    above = {str(p) for p in (where.resolve(), *where.resolve().parents)}
    found = [
        (len(r[1]), i, r[2])
        for i, r in enumerate(rows)
        if len(r) > 2 and r[1].encode().decode("unicode_escape") in above
    ]
    return max(found)[2] if found else "a file system"
