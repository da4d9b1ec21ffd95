"""`RunStore`: finished and failed runs on disk, one folder per run, safe against kills, full disks and racing writers.

    store.json                        the layout's version, written last when a store is made
    runs/<2 hex>/<key>/record.json    what was asked: canonical JSON whose sha256 is the key
                       result.safetensors    y [m]; for a derivative also jacobian and standard_error [m, d]
                       about.json     seconds, host, failure, log tail, and the checksums
    outputs/<id>.json                 names and units of a simulator's parameters and outputs, for exports
    tmp/  forgotten/  conflicts/  damaged/    half-written runs; failures that were retried; second, different answers;
                                      runs that failed their checksums and were moved aside
    under_way/                        notes of workers on what they are making; no part of the results

A folder under `runs` *is* a committed run: it is written under `tmp`, flushed, and renamed. The first writer wins.
A failed run is a committed run without `result.safetensors`. There is no index beside the folders that could disagree
with them: listing 100,000 runs takes a fraction of a second, reading all of them with their checksums about ten.
"""

import errno
import json
import os
import re
import stat
import uuid
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from emulate.disk import age, discard, entries, flush_folder, kind, replace, write_new
from emulate.errors import CampaignError, InputError, RunFailed, StoreError
from emulate.keys import SCHEMA, canonical, identity, key_of, record_of, run_seed
from emulate.record import RECORD, RESULT, TEXT_LIMIT, Damaged, Record, decode, encode, read_plain

if TYPE_CHECKING:
    from emulate.runs import Runs

__all__ = ["Record", "RunStore", "run_seed"]

STALE = 24 * 3600.0  # seconds after which a half-written run has no living writer
KEY = re.compile(r"[0-9a-f]{64}")
_MANY = 500  # keys from which listing the whole store is quicker than asking for each


class RunStore:
    """The runs under a folder, which is made when it does not exist (`create=False`: which must exist).

    >>> import tempfile
    >>> from emulate.keys import key_of, record_of
    >>> store = RunStore(tempfile.mkdtemp() + "/runs")
    >>> who = {"simulator": "s", "version": "1", "settings": {}, "parameters": ["a"], "stochastic": False}
    >>> record = record_of(who, [0.5], seed=0)
    >>> store.commit(record, y=np.array([1.0, 2.0])), store.commit(record, y=np.array([1.0, 2.0]))
    (True, False)
    >>> store.read(key_of(record)).y
    array([1., 2.])
    """

    def __init__(self, path: str | os.PathLike, *, create: bool = True):
        self.path = Path(path).absolute()
        self._runs = str(self.path / "runs")  # joined as text: pathlib would take half of the time of a listing
        label = self.path / "store.json"
        with self.sentences():
            if create and not label.exists():
                self.path.mkdir(parents=True, exist_ok=True)
                self._write_label(label)
        try:
            met = json.loads(read_plain(label, TEXT_LIMIT))["schema"]
        except Damaged as e:
            if os.path.lexists(label):
                raise StoreError(f"{label} must say the version of the store. Got {e.met}; put the file back, or use a "
                                 "new folder.") from None  # fmt: skip
            raise StoreError(f"{self.path} must be a run store that this machine can see. Got no store.json there; "
                             "give every worker the same shared folder.") from None  # fmt: skip
        except (ValueError, KeyError, TypeError, RecursionError) as e:
            raise StoreError(f"{label} must say the version of the store. Got {type(e).__name__}: {e}; "
                             "put the file back, or use a new folder.") from None  # fmt: skip
        if met != SCHEMA:
            raise StoreError(f"{self.path} must be a run store of version {SCHEMA}. Got version {met!r}; "
                             "open it with the release that made it, or use a new folder.")  # fmt: skip

    @staticmethod
    def key(simulator: Any, theta: Sequence[float], seed: int, product: str = "y",
            gradient: Mapping[str, Any] | None = None) -> str:  # fmt: skip
        """The key of one run: sha256 of its canonical record."""
        return key_of(record_of(identity(simulator), theta, seed, product, gradient))

    def has(self, key: str) -> bool:
        """Whether a run is stored under a key, finished or failed."""
        return kind(self._folder(key)) == stat.S_IFDIR

    def held(self, keys: Iterable[str]) -> set[str]:
        """Those of the keys that are in the store; for many, one listing of its folders."""
        keys = set(keys)
        return {k for k in keys if self.has(k)} if len(keys) < _MANY else keys.intersection(self.keys())

    def failed(self, key: str) -> bool:
        """Whether the run is in the store and failed."""
        folder = self._folder(key)
        return not kind(f"{folder}/{RESULT}") and kind(folder) == stat.S_IFDIR

    def differentiated(self, key: str) -> bool:
        """Whether the run is in the store, finished, and with its Jacobian."""
        folder = self._folder(key)
        if not kind(f"{folder}/{RESULT}"):
            return False
        record = f"{folder}/{RECORD}"
        try:
            return json.loads(read_plain(record, TEXT_LIMIT))["product"] == "jacobian"
        except (ValueError, KeyError, TypeError, RecursionError):
            raise Damaged(record) from None

    def keys(self) -> list[str]:
        """The keys of all committed runs, sorted."""
        found: list[str] = []
        for shelf in entries(self._runs):
            found += [e.name for e in entries(shelf.path) if e.name.startswith(shelf.name) and _is_run(e)]
        return sorted(found)

    def commit(self, record: bytes, *, y: np.ndarray | None = None, jacobian: np.ndarray | None = None,
               standard_error: np.ndarray | None = None, failure: RunFailed | None = None,
               about: Mapping[str, Any] | None = None) -> bool:  # fmt: skip
        """Store one run for ever: arrays, or a failure. False when it was there already; the first writer wins.

        A second answer that differs from the first is kept under `conflicts` and warned about: such a simulator
        does not give the same answer twice.
        """
        given = {"y": y, "jacobian": jacobian, "standard_error": standard_error}
        arrays = {n: np.ascontiguousarray(a, np.float64) for n, a in given.items() if a is not None}
        if (failure is None) == (y is None):
            raise InputError("a run is committed with y, or with its failure. Got both or neither.")
        if not all(np.isfinite(a).all() for a in arrays.values()):
            raise InputError("a finished run must be finite. Got NaN or infinity; commit it as a failure.")
        key = key_of(record)
        return self.adopt(key, encode(record, arrays, failure, about or {}))

    def adopt(self, key: str, files: Mapping[str, bytes]) -> bool:
        """Commit a run that another store holds, byte for byte; `files` are what `emulate.record.decoded` has judged."""
        with self.sentences():
            written = self._write(key, files)
            try:
                return self._rename(written, key)
            finally:
                discard(written)  # a committed run is no longer there

    def read(self, key: str) -> Record:
        """The run under a key, its checksums verified."""
        try:
            return decode(self._folder(key), key)
        except Damaged:
            if self.has(key):
                raise
            raise StoreError(f"there is no run {key} in {self.path}; run the study's campaign first.") from None

    def forget(self, key: str) -> None:
        """Move a failed run aside, into `forgotten`, so that it is run again. Finished runs are never moved."""
        if self.has(key) and not self.failed(key):
            raise StoreError(f"only failed runs can be forgotten. Run {key} finished; keep it.")
        self._aside(key, "forgotten")

    def quarantine(self, key: str) -> None:
        """Move a run that cannot be read aside, into `damaged`, so that it is run again. A whole run is never moved."""
        try:
            decode(self._folder(key), key)
        except Damaged:
            self._aside(key, "damaged")
        else:
            raise StoreError(f"only damaged runs can be moved aside. Run {key} is whole; keep it.")

    def remove(self, key: str) -> None:
        """Delete a run, whole or not at all: it leaves `runs` in one step, and is deleted where it is no run any more."""
        gone = self._aside(key, "tmp")
        if gone:
            discard(gone)

    def folder(self, key: str) -> Path:
        """Where the run under a key lies, or would."""
        return Path(self._folder(key))

    def sweep(self) -> int:
        """Remove what writers that were killed more than a day ago left half-written; how many there were."""
        old = [p for p in self.path.glob("tmp/*") if age(p) > STALE]
        for p in old:
            discard(p)
        return len(old)

    def table(self, simulator: Any, theta: np.ndarray, seeds: Sequence[int], product: str = "y",
              gradient: Mapping[str, Any] | None = None) -> "Runs":  # fmt: skip
        """The runs at theta `[n, d]` with seeds `[n]`, finished and failed, in that order; see `rows`."""
        who = identity(simulator)
        pairs = zip(np.asarray(theta), seeds, strict=True)
        return self.rows(simulator, theta, [key_of(record_of(who, t, s, product, gradient)) for t, s in pairs])

    def rows(self, simulator: Any, theta: np.ndarray, keys: Sequence[str]) -> "Runs":
        """The runs under these keys, one for each row of theta `[n, d]`; with their Jacobians where all have been asked.

        A run that is not in the store is a `CampaignError` that says how many are missing, never a number.
        """
        from emulate.runs import Runs  # here, because it needs torch, and workers that only write do not

        held = self.held(keys)
        missing = sum(k not in held for k in keys)
        if missing:
            raise CampaignError(f"{missing} of {len(keys)} runs of {simulator.entry_name()} are not in {self.path}. "
                                "Run the campaign to its end; finished runs are kept.")  # fmt: skip
        records = [self.read(k) for k in keys]
        m, d = simulator.outputs.size, simulator.space.d
        shapes = {"y": (m,)}
        if records and all(r.inputs["product"] == "jacobian" for r in records):
            shapes |= {"jacobian": (m, d), "standard_error": (m, d)}
        made = {name: _stacked(records, name, shape) for name, shape in shapes.items()}
        return Runs(simulator.space, simulator.outputs, np.array(theta, np.float64), made["y"],
                    seed=np.array([r.inputs["seed"] for r in records], np.int64),
                    ok=np.array([r.ok for r in records], bool),
                    reason=tuple("" if r.ok else str(r.failure) for r in records),
                    seconds=np.array([r.about.get("seconds", np.nan) for r in records], np.float64),
                    key=tuple(r.key for r in records), stochastic=bool(simulator.stochastic),
                    jacobian=made.get("jacobian"), jacobian_error=made.get("standard_error"))  # fmt: skip

    def _folder(self, key: str) -> str:
        return f"{self._runs}/{key[:2]}/{key}"

    def _aside(self, key: str, where: str) -> Path | None:
        """Move a run out of `runs`; None when there is none, or another process has moved it."""
        target = self.path / where / f"{key}.{uuid.uuid4().hex}"
        with self.sentences():
            target.parent.mkdir(exist_ok=True)
            try:
                os.rename(self._folder(key), target)
            except FileNotFoundError:
                return None
        return target

    def _write_label(self, label: Path) -> None:
        """The shelves first: a run must not be lost with its shelf because another writer, now dead, made that."""
        for i in range(256):
            os.makedirs(f"{self._runs}/{i:02x}", exist_ok=True)
        flush_folder(self._runs)
        replace(label, canonical({"schema": SCHEMA, "what": "emulate run store"}))

    def _write(self, key: str, files: Mapping[str, bytes]) -> Path:
        folder = self.path / "tmp" / f"{key}.{uuid.uuid4().hex}"
        try:
            folder.mkdir(parents=True)
            for name, data in files.items():
                write_new(folder / name, data)
            flush_folder(folder)
        except BaseException:
            discard(folder)
            raise
        return folder

    def _rename(self, written: Path, key: str) -> bool:
        target = Path(self._folder(key))
        if not target.parent.exists():  # only in a store that an older release made
            target.parent.mkdir(parents=True, exist_ok=True)
            flush_folder(target.parent.parent)
            flush_folder(self.path)
        try:
            os.rename(written, target)
        except OSError as e:
            if e.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            self._second(written, target)
            return False
        flush_folder(target.parent)
        return True

    def _second(self, written: Path, target: Path) -> None:
        """What to do with a run that somebody committed first."""
        mine, first = written / RESULT, target / RESULT
        if mine.exists() and first.exists() and mine.read_bytes() != first.read_bytes():
            (self.path / "conflicts").mkdir(exist_ok=True)
            os.rename(written, self.path / "conflicts" / written.name)
            warnings.warn(f"run {target.name} gave two different answers; the first is kept, the second lies in "
                          f"{self.path / 'conflicts'}. The simulator must give the same answer for the same seed.",
                          RuntimeWarning, stacklevel=5)  # fmt: skip

    @contextmanager
    def sentences(self) -> Iterator[None]:
        """Errors of the disk as sentences."""
        try:
            yield
        except OSError as e:
            if e.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StoreError(f"the disk that holds {self.path} is full ({e.strerror}). Free space there and start "
                                 "the same command again; committed runs are kept.") from e  # fmt: skip
            where = str(e.filename2 or e.filename or "")
            if e.errno in (errno.ENOTDIR, errno.ELOOP, errno.EISDIR, errno.EEXIST) and where.startswith(self._runs):
                raise StoreError(f"{where} must be a folder of the store. Got {e.strerror}: something else lies there, or on "
                                 f"the way; `emulate store verify {self.path}` names all that is odd, --quarantine moves "
                                 "it aside.") from e  # fmt: skip
            raise StoreError(f"{self.path} must be a folder that can be written to. Got {type(e).__name__}: "
                             f"{e.strerror}; mend its permissions, or use another folder.") from e  # fmt: skip


def _stacked(records: list[Record], name: str, shape: tuple[int, ...]) -> np.ndarray:
    """One array of every run, NaN where it failed."""
    stacked = np.full((len(records), *shape), np.nan)
    for i, r in enumerate(records):
        if r.ok and getattr(r, name).shape != shape:
            raise StoreError(f"run {r.key} holds {name} of shape {getattr(r, name).shape}, the simulator declares "
                             f"{shape}; change the simulator's version when its outputs change.")  # fmt: skip
        if r.ok:
            stacked[i] = getattr(r, name)
    return stacked


def _is_run(entry: os.DirEntry) -> bool:
    return bool(KEY.fullmatch(entry.name)) and (entry.is_dir(follow_symlinks=False) or os.path.isdir(entry.path))
