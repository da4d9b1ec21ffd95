"""`Record`: one committed run, as an object and as the bytes of its three files.

`encode` makes the files, `decode` reads them back and believes nothing: a file that is missing, cut, changed, no plain
file, or well formed but not what a run is made of is `Damaged`, which names it.
"""

import errno
import hashlib
import json
import math
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from json.encoder import encode_basestring_ascii
from typing import Any

import numpy as np

from emulate.disk import absent
from emulate.errors import RunFailed, StoreError
from emulate.keys import SCHEMA, canonical, key_of

RECORD, RESULT, ABOUT = FILES = "record.json", "result.safetensors", "about.json"
ARRAYS = ("y", "jacobian", "standard_error")
TEXT_LIMIT = 64 * 2**20  # bytes of record.json and about.json; a log is a few kilobytes
_BROKEN = (errno.EIO, errno.EISDIR, errno.ELOOP, errno.ENODEV, errno.ENOTDIR, errno.ENXIO)
_ASKED = {"simulator": str, "version": str, "settings": dict, "parameters": list, "stochastic": bool, "schema": int,
          "theta": dict, "replicates": int, "seed": int, "product": str, "gradient": dict | None}  # fmt: skip


class Damaged(StoreError):
    """A file of a run is not what was written; `file` is its path, `met` what was found in words."""

    def __init__(self, file: str | os.PathLike, met: str = "other bytes"):
        super().__init__(f"{file} must be as it was written. Got {met}; restore it from a backup, or move the run aside "
                         "with `emulate store verify --quarantine` and start the campaign again.")  # fmt: skip
        self.file, self.met = str(file), met


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

    @property
    def theta(self) -> list[float]:
        """theta `[d]` in the order of the simulator's parameters."""
        return [float.fromhex(self.inputs["theta"][n]) for n in self.inputs["parameters"]]


def encode(record: bytes, arrays: Mapping[str, np.ndarray], failure: RunFailed | None,
           about: Mapping[str, Any]) -> dict[str, bytes]:  # fmt: skip
    """The files of one run by name."""
    files = {RECORD: record}
    if arrays:
        from safetensors.numpy import save  # here, because a failed run needs none

        files[RESULT] = save(dict(arrays))
    said = {"kind": "", "reason": ""}
    if failure:
        said = {"kind": failure.kind, "reason": failure.reason, "log": failure.log}
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    return {**files, ABOUT: sealed({"log": "", **about, **said}, digests)}


def decode(folder: str | os.PathLike, key: str, *, limit: int | None = None) -> Record:
    """The run in a folder, all its checksums verified; `limit` bytes are the most that its result may have."""
    return decoded(load(folder, limit=limit), folder, key)


def load(folder: str | os.PathLike, *, limit: int | None = None) -> dict[str, bytes]:
    """The bytes of a run's files by name, without the result where there is none."""
    files = {name: read_plain(os.path.join(folder, name), TEXT_LIMIT) for name in (RECORD, ABOUT)}
    result = os.path.join(folder, RESULT)
    return {**files, RESULT: read_plain(result, limit)} if os.path.lexists(result) else files


def decoded(files: Mapping[str, bytes], folder: str | os.PathLike, key: str) -> Record:
    """The run that these bytes are; `folder` is named in complaints."""
    named = {name: os.path.join(folder, name) for name in FILES}
    inputs = _question(files[RECORD], key, named[RECORD])
    about, digests = _unsealed(files[ABOUT], named[ABOUT])
    if digests.get(RECORD) != key:
        raise Damaged(named[RECORD])
    if about["kind"]:
        if RESULT in files or RESULT in digests:
            raise Damaged(named[RESULT], "a result beside a failure")
        return Record(key, inputs, failure=RunFailed(about["kind"], about["reason"], about["log"]), about=about)
    if RESULT not in files:
        raise Damaged(named[RESULT], "no such file")
    if hashlib.sha256(files[RESULT]).hexdigest() != digests.get(RESULT):
        raise Damaged(named[RESULT])
    arrays = _arrays(files[RESULT], named[RESULT])
    return Record(key, inputs, arrays["y"], arrays.get("jacobian"), arrays.get("standard_error"), about=about)


def sealed(about: Mapping[str, Any], files: Mapping[str, str]) -> bytes:
    """about.json: its last line is the sha256 of the rest."""
    body = {"about": about, "files": files}
    seal = hashlib.sha256(canonical(body)).hexdigest()
    return (_indented({**body, "sha256": seal}) + "\n").encode()


def read_plain(file: str | os.PathLike, limit: int | None = None) -> bytes:
    """A plain file's bytes; a link, a device, a pipe or more than `limit` bytes are refused unread."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            met = os.fstat(descriptor)
            if not stat.S_ISREG(met.st_mode):
                raise Damaged(file, "something that is no plain file")
            if limit is not None and met.st_size > limit:
                raise Damaged(file, f"{met.st_size} bytes where {limit} are allowed")
            return b"".join(iter(lambda: os.read(descriptor, met.st_size + 1), b""))
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise Damaged(file, "no such file") from None
    except OSError as e:
        if e.errno not in _BROKEN:  # a disk that does not answer has not lost the run
            absent(e, str(file), None)
        raise Damaged(file, "a symbolic link" if os.path.islink(file) else e.strerror or type(e).__name__) from None


def _question(raw: bytes, key: str, file: str) -> dict[str, Any]:
    """What was asked; the sha256 is checked first, so that a forger must at least name the run by its content."""
    if key_of(raw) != key:
        raise Damaged(file)
    try:
        asked = json.loads(raw)
        good = isinstance(asked, dict) and all(isinstance(asked[n], kind) for n, kind in _ASKED.items())
        good = good and asked["schema"] == SCHEMA and -(2**63) <= asked["seed"] < 2**63 and asked["replicates"] > 0
        good = good and asked["product"] in ("y", "jacobian")
        good = good and set(asked["theta"]) == set(asked["parameters"]) and canonical(asked) == raw
        good = good and all(n.isidentifier() for n in asked["theta"])
        good = good and all(math.isfinite(float.fromhex(x)) for x in asked["theta"].values())
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        good = False
    if not good:
        raise Damaged(file, "what is no question to a simulator")
    return asked


def _unsealed(raw: bytes, file: str) -> tuple[dict[str, Any], dict[str, str]]:
    try:
        body = json.loads(raw)
        about, files = body["about"], body["files"]
        good = raw == sealed(about, files) and isinstance(files, dict)
        good = good and all(isinstance(about[n], str) for n in ("kind", "reason", "log"))
        good = good and isinstance(about.get("seconds", 0.0), int | float)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        good = False
    if not good:
        raise Damaged(file)
    return about, files


def _arrays(raw: bytes, file: str) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load  # here, because workers only write

    try:
        arrays = load(raw)
    except (SafetensorError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        raise Damaged(file, "what is not safetensors") from None
    names = set(arrays)
    if not {"y"} <= names <= set(ARRAYS) or any(a.dtype != np.float64 for a in arrays.values()):
        raise Damaged(file, "other arrays than those of a run in float64")
    if not all(np.isfinite(a).all() for a in arrays.values()):
        raise Damaged(file, "NaN or infinity")
    return arrays


def _indented(value: Any, pad: str = "\n") -> str:
    """`json.dumps(value, indent=1, sort_keys=True)`, several times as fast."""
    if isinstance(value, str):
        return encode_basestring_ascii(value)
    if type(value) in (int, float):
        return repr(value)
    inner = pad + " "
    if isinstance(value, dict) and value:
        rows = [f"{encode_basestring_ascii(k)}: {_indented(value[k], inner)}" for k in sorted(value)]
        return "{" + inner + ("," + inner).join(rows) + pad + "}"
    if isinstance(value, list | tuple) and value:
        return "[" + inner + ("," + inner).join([_indented(v, inner) for v in value]) + pad + "]"
    return json.dumps(value)
