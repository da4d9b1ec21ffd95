"""`RunStore`: finished and failed runs on disk, one folder per run, safe against kills, full disks and racing writers.

    store.json                        the layout's version
    runs/<2 hex>/<key>/record.json    what was asked: canonical JSON whose sha256 is the key
                       result.safetensors    y [m]; for a derivative also jacobian and standard_error [m, d]
                       about.json     seconds, host, failure, log tail, and the checksums
    tmp/  forgotten/  conflicts/      half-written runs; failures that were retried; second, different answers

A folder under `runs` *is* a committed run: it is written under `tmp`, flushed, and renamed. The first writer wins.
A failed run is a committed run without `result.safetensors`.
"""

import errno
import hashlib
import json
import os
import shutil
import time
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from emulate.errors import CampaignError, InputError, RunFailed, StoreError
from emulate.keys import SCHEMA, canonical, identity, key_of, record_of, run_seed

if TYPE_CHECKING:
    from emulate.runs import Runs

__all__ = ["Record", "RunStore", "run_seed"]

_RECORD, _RESULT, _ABOUT = "record.json", "result.safetensors", "about.json"
_STALE = 24 * 3600.0  # seconds after which a half-written run has no living writer


@dataclass(frozen=True)
class Record:
    """One committed run: `failure` is None and the arrays are there, or the other way round."""

    key: str
    inputs: dict[str, Any]
    y: np.ndarray | None = None
    jacobian: np.ndarray | None = None
    standard_error: np.ndarray | None = None
    failure: RunFailed | None = None
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return self.failure is None


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
        label = self.path / "store.json"
        with self._sentences():
            if create and not label.exists():
                self.path.mkdir(parents=True, exist_ok=True)
                self._write_label(label)
        try:
            met = json.loads(label.read_text())["schema"]
        except FileNotFoundError:
            raise StoreError(f"{self.path} must be a run store that this machine can see. Got no store.json there; "
                             "give every worker the same shared folder.") from None  # fmt: skip
        except (OSError, ValueError, KeyError, TypeError) as e:
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
        return self._folder(key).is_dir()

    def failed(self, key: str) -> bool:
        """Whether the run is in the store and failed."""
        return self.has(key) and not (self._folder(key) / _RESULT).exists()

    def differentiated(self, key: str) -> bool:
        """Whether the run is in the store, finished, and with its Jacobian."""
        if not self.has(key) or self.failed(key):
            return False
        record = self._folder(key) / _RECORD
        try:
            return json.loads(self._bytes(record))["product"] == "jacobian"
        except (ValueError, KeyError, TypeError):
            raise _damaged(record) from None

    def keys(self) -> list[str]:
        """The keys of all committed runs, sorted."""
        return sorted(p.name for p in self.path.glob("runs/??/*") if len(p.name) == 64)

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
        with self._sentences():
            written = self._write(key, _files(record, arrays, failure, about or {}))
            try:
                return self._rename(written, key)
            finally:
                shutil.rmtree(written, ignore_errors=True)  # a committed run is no longer there

    def read(self, key: str) -> Record:
        """The run under a key, its checksums verified."""
        folder = self._folder(key)
        if not folder.is_dir():
            raise StoreError(f"there is no run {key} in {self.path}; run the study's campaign first.")
        record, body = self._bytes(folder / _RECORD), self._about(folder / _ABOUT)
        about, digests = body["about"], body["files"]
        if key_of(record) != key or digests.get(_RECORD) != key:
            raise _damaged(folder / _RECORD)
        if about["kind"]:
            failure = RunFailed(about["kind"], about["reason"], about["log"])
            return Record(key, json.loads(record), failure=failure, about=about)
        result = self._bytes(folder / _RESULT)
        if hashlib.sha256(result).hexdigest() != digests.get(_RESULT):
            raise _damaged(folder / _RESULT)
        from safetensors.numpy import load  # here, because workers only write

        return Record(key, json.loads(record), **load(result), about=about)

    def forget(self, key: str) -> None:
        """Move a failed run aside, into `forgotten`, so that it is run again. Finished runs are never moved."""
        if self.has(key) and not self.failed(key):
            raise StoreError(f"only failed runs can be forgotten. Run {key} finished; keep it.")
        with self._sentences():
            (self.path / "forgotten").mkdir(exist_ok=True)
            if self.has(key):
                os.rename(self._folder(key), self.path / "forgotten" / f"{key}.{uuid.uuid4().hex}")

    def sweep(self) -> int:
        """Remove what writers that were killed more than a day ago left half-written; how many there were."""
        old = [p for p in self.path.glob("tmp/*") if time.time() - p.stat().st_mtime > _STALE]
        for p in old:
            shutil.rmtree(p, ignore_errors=True)
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

        missing = sum(not self.has(k) for k in keys)
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

    def _folder(self, key: str) -> Path:
        return self.path / "runs" / key[:2] / key

    def _write_label(self, label: Path) -> None:
        temporary = self.path / f"store.json.{uuid.uuid4().hex}"
        _flush(temporary, canonical({"schema": SCHEMA, "what": "emulate run store"}))
        os.replace(temporary, label)
        _flush_folder(self.path)

    def _write(self, key: str, files: dict[str, bytes]) -> Path:
        folder = self.path / "tmp" / f"{key}.{uuid.uuid4().hex}"
        try:
            folder.mkdir(parents=True)
            for name, data in files.items():
                _flush(folder / name, data)
            _flush_folder(folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return folder

    def _rename(self, written: Path, key: str) -> bool:
        target = self._folder(key)
        if not target.parent.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            _flush_folder(target.parent.parent)
            _flush_folder(self.path)
        try:
            os.rename(written, target)
        except OSError as e:
            if e.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            self._second(written, target)
            return False
        _flush_folder(target.parent)
        return True

    def _second(self, written: Path, target: Path) -> None:
        """What to do with a run that somebody committed first."""
        mine, first = written / _RESULT, target / _RESULT
        if mine.exists() and first.exists() and mine.read_bytes() != first.read_bytes():
            (self.path / "conflicts").mkdir(exist_ok=True)
            os.rename(written, self.path / "conflicts" / written.name)
            warnings.warn(f"run {target.name} gave two different answers; the first is kept, the second lies in "
                          f"{self.path / 'conflicts'}. The simulator must give the same answer for the same seed.",
                          RuntimeWarning, stacklevel=4)  # fmt: skip

    def _bytes(self, file: Path) -> bytes:
        try:
            return file.read_bytes()
        except OSError:
            raise _damaged(file) from None

    def _about(self, file: Path) -> dict[str, Any]:
        raw = self._bytes(file)
        try:
            body = json.loads(raw)
            good = raw == _sealed(body["about"], body["files"])
        except (ValueError, KeyError, TypeError):
            good = False
        if not good:
            raise _damaged(file)
        return body

    @contextmanager
    def _sentences(self) -> Iterator[None]:
        """Errors of the disk as sentences."""
        try:
            yield
        except OSError as e:
            if e.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StoreError(f"the disk that holds {self.path} is full ({e.strerror}). Free space there and start "
                                 "the same command again; committed runs are kept.") from e  # fmt: skip
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


def _files(record: bytes, arrays: dict[str, np.ndarray], failure: RunFailed | None, about: Mapping) -> dict[str, bytes]:
    files = {_RECORD: record}
    if arrays:
        from safetensors.numpy import save

        files[_RESULT] = save(arrays)
    said = {"kind": "", "reason": ""}
    if failure:
        said = {"kind": failure.kind, "reason": failure.reason, "log": failure.log}
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    return {**files, _ABOUT: _sealed({"log": "", **about, **said}, digests)}


def _sealed(about: Mapping[str, Any], files: Mapping[str, str]) -> bytes:
    """about.json: its last line is the sha256 of the rest."""
    body = {"about": about, "files": files}
    seal = hashlib.sha256(canonical(body)).hexdigest()
    return (json.dumps({**body, "sha256": seal}, indent=1, sort_keys=True) + "\n").encode()


def _damaged(file: Path) -> StoreError:
    return StoreError(f"{file} must be as it was written. Got other bytes; restore it from a backup, or remove its "
                      "folder and start the campaign again.")  # fmt: skip


def _flush(file: Path, data: bytes) -> None:
    with open(file, "xb") as f:
        f.write(data)
        f.flush()
        os.fsync(f.fileno())


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
