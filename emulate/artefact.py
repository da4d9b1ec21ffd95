"""An emulator's folder: `emulator.json` and `weights.safetensors`, both under sha256. Data only: no pickle, no code.

Written beside its place and renamed into it, so a folder is whole or absent; a reader waits while one is replaced. What
checks found later comes into a third file, `findings.json`, with a sha256 of its own and that of the emulator it speaks of;
the other two stay as they are.
"""

import hashlib
import json
import math
import os
import shutil
import time
import uuid
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from emulate import disk
from emulate.errors import InputError, StoreError

DOCUMENT, WEIGHTS, FINDINGS = "emulator.json", "weights.safetensors", "findings.json"
FORMAT, VERSION = "emulate.emulator", 1
VERDICT = "emulate.findings"
_TRIES = 5
_SHOWN = 5  # emulators of a folder that an error names
_PATIENCE, _NAP = 2.0, 0.005  # seconds to wait for a folder that is being replaced, and between two looks
_AGAIN = "copy or train it again"


def write(path: str | os.PathLike, body: dict[str, Any], tensors: dict[str, Tensor], *, kind: str = FORMAT,
          verdict: dict[str, Any] | None = None) -> Path:  # fmt: skip
    """Write an emulator's folder; one that stands there already is replaced, any other folder is refused.

    `kind` is the document's format: what is fitted to the runs but predicts no outputs has one of its own. `verdict`:
    what `write_verdict` would add.
    """
    from safetensors.torch import save

    path = Path(path)
    if path.exists() and not _replaceable(path):
        raise StoreError(f"{path} must be free or hold an emulator. Got something else there; choose another folder.")
    weights = save({name: t.detach().cpu().contiguous() for name, t in sorted(tensors.items())})
    body = {**body, "weights": {"file": WEIGHTS, "sha256": hashlib.sha256(weights).hexdigest()}}
    document = {"format": kind, "version": VERSION, "sha256": _digest(body), "body": body}
    fresh = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        fresh.mkdir(parents=True)
        _flush(fresh / WEIGHTS, weights)
        _flush(fresh / DOCUMENT, json.dumps(document, indent=1, allow_nan=False).encode())
        if verdict:
            _flush(fresh / FINDINGS, _verdict(document["sha256"], verdict))
        _place(fresh, path)
    except OSError as e:
        raise StoreError(
            f"the emulator could not be written to {path}: {e}. Free space, or choose another folder."
        ) from e
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return path


def read(path: str | os.PathLike, *, kind: str = FORMAT) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The document's body and the tensors of an emulator's folder, checked against their checksums.

    Raises `InputError` when there is no such folder, `StoreError` when it is not a whole emulator of this format.
    """
    return read_whole(path, kind=kind)[:2]


def read_whole(path: str | os.PathLike, *,
               kind: str = FORMAT) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:  # fmt: skip
    """What `read` gives and what `write_verdict` wrote, or nothing: of one and the same emulator, whoever puts another in
    its place meanwhile. `StoreError` when the verdict is damaged or speaks of another emulator."""
    path = Path(path)
    found = _found(path)
    body = _body(path / DOCUMENT, kind, found[DOCUMENT])
    if not isinstance(body.get("weights"), dict) or "sha256" not in body["weights"]:
        raise StoreError(f"{path / DOCUMENT} names no weights; {_AGAIN}.")
    weights = found[WEIGHTS]
    if isinstance(weights, OSError):
        raise StoreError(f"{path / WEIGHTS} cannot be read: {weights.strerror}; {_AGAIN}.") from weights
    if hashlib.sha256(weights).hexdigest() != body["weights"]["sha256"]:
        raise StoreError(f"{path / WEIGHTS} is damaged: its sha256 is not the one in {DOCUMENT}; {_AGAIN}.")
    return body, _tensors(path / WEIGHTS, weights), _verdict_of(path, found, body)


def _found(path: Path) -> dict[str, bytes | OSError]:
    """The files of an emulator's folder by name, all of one emulator.

    A folder is replaced by two renames, between which there is none, and the old one is removed then: what was read while
    the folder kept its place is whole. Else it is read again, as long as one that is being replaced lies beside it.
    """
    began = time.monotonic()
    while True:
        found = _look(path)
        if found is not None:
            break
        if time.monotonic() - began > _PATIENCE or not (_under_way(path) or path.exists()):
            hint = f" A registered model is named models:/{path}." if "@" in path.name else ""
            raise InputError(f"there is no emulator at {path}: the folder does not exist. Check the path.{hint}")
        time.sleep(_NAP)
    if isinstance(found[DOCUMENT], FileNotFoundError):
        inner = sorted(str(f.parent) for kind in ("*", "emulators/*") for f in path.glob(f"{kind}/{DOCUMENT}"))
        hint = f" There are {', '.join(inner[:_SHOWN])}." if inner else ""
        raise StoreError(f"{path} is no emulator: it holds no {DOCUMENT}. Give the folder that `save` wrote.{hint}")
    return found


def _instead(path: Path) -> str:
    """What to give in place of a file."""
    if path.name in (DOCUMENT, WEIGHTS, FINDINGS):
        return f"Give the folder of that file, {path.parent}."
    if path.suffix in (".pt2", ".onnx"):
        return "It looks like an exported graph, which torch.export.load or onnxruntime reads; give the folder that it was made of."
    if path.suffix in (".zip", ".tar", ".gz", ".tgz", ".xz", ".bz2"):
        return "Unpack it, and give the folder that holds emulator.json."
    return "Give the folder that `save` wrote; other programs' files are never opened."


def _look(path: Path) -> dict[str, bytes | OSError] | None:
    """The files, or why one cannot be read; None where there is no folder, or no more when all was read."""
    try:
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, ValueError):  # a name with a NUL is nobody's
        return None
    except NotADirectoryError:
        raise StoreError(f"{path} is a file, and an emulator is a folder. {_instead(path)}") from None
    except OSError as e:
        raise StoreError(f"{path} cannot be read: {e.strerror}; mend its permissions, or copy it.") from e
    try:
        found = {name: _content(folder, name) for name in (DOCUMENT, WEIGHTS, FINDINGS)}
        return found if os.path.samestat(os.fstat(folder), os.stat(path)) else None
    except FileNotFoundError:
        return None
    finally:
        os.close(folder)


def _content(folder: int, name: str) -> bytes | OSError:
    """A file in an open folder."""
    try:
        with open(os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder), "rb") as file:
            return file.read()
    except OSError as e:
        return e


def _under_way(path: Path) -> bool:
    """Whether a new or an old emulator of that name lies beside it."""
    try:
        return any(p.name.startswith(f".{path.name}.") for p in path.parent.iterdir())
    except OSError:
        return False


def _body(file: Path, kind: str, content: bytes | OSError) -> dict[str, Any]:
    try:
        if isinstance(content, OSError):
            raise content
        document = json.loads(content)
    except (OSError, ValueError, RecursionError) as e:
        raise StoreError(f"{file} cannot be read as JSON: {e}; {_AGAIN}.") from e
    if not isinstance(document, dict) or document.get("format") != kind:
        met = document.get("format") if isinstance(document, dict) else type(document).__name__
        raise StoreError(f"{file} must have the format {kind!r}. Got {met!r}; this is another program's file.")
    if document.get("version") != VERSION:
        raise StoreError(f"{file} has format version {document.get('version')!r}; this emulate reads version {VERSION}. "
                         "Load it with the emulate that wrote it, or train it again.")  # fmt: skip
    body = document.get("body")
    try:
        whole = isinstance(body, dict) and document.get("sha256") == _digest(body)
    except (ValueError, RecursionError):  # a digit that is another one now may make infinity of a number
        whole = False
    if not whole or not isinstance(body, dict):
        raise StoreError(f"{file} is damaged: its sha256 is not that of its content; {_AGAIN}.")
    return body


def write_verdict(path: str | os.PathLike, verdict: dict[str, Any]) -> None:
    """Write what checks found of an emulator into its folder, in place of what stood there; any JSON, any float."""
    path = Path(path)
    of = _digest(_body(path / DOCUMENT, FORMAT, _found(path)[DOCUMENT]))
    try:
        disk.replace(path / FINDINGS, _verdict(of, verdict))
    except OSError as e:
        raise StoreError(
            f"the findings could not be written to {path}: {e}. Free space, and run the stage again."
        ) from e


def _verdict_of(path: Path, found: dict[str, bytes | OSError], emulator: dict[str, Any]) -> dict[str, Any]:
    if isinstance(found[FINDINGS], FileNotFoundError):
        return {}
    body = _body(path / FINDINGS, VERDICT, found[FINDINGS])
    if body.get("emulator") != _digest(emulator):
        raise StoreError(f"{path / FINDINGS} speaks of another emulator than the one beside it. Run `emulate validate "
                         "--force`, or delete the file.")  # fmt: skip
    return _told(body.get("verdict"))


def _verdict(of: str, verdict: dict[str, Any]) -> bytes:
    body = {"emulator": of, "verdict": _tellable(verdict)}
    document = {"format": VERDICT, "version": VERSION, "sha256": _digest(body), "body": body}
    return json.dumps(document, indent=1, allow_nan=False).encode()


def _tellable(value: Any) -> Any:
    """With NaN and the infinities, which JSON does not know, as `{"float": "nan"}`."""
    if isinstance(value, dict):
        return {k: _tellable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_tellable(v) for v in value]
    return {"float": repr(value)} if isinstance(value, float) and not math.isfinite(value) else value


def _told(value: Any) -> Any:
    if isinstance(value, dict):
        return float(value["float"]) if value.keys() == {"float"} else {k: _told(v) for k, v in value.items()}
    return [_told(v) for v in value] if isinstance(value, list) else value


def _tensors(file: Path, weights: bytes) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = {name: t.clone() for name, t in load(weights).items()}  # aligned, so that products have the same bits
    except SafetensorError as e:
        raise StoreError(f"{file} cannot be read as safetensors: {e}; {_AGAIN}.") from e
    for name, t in tensors.items():
        if t.is_floating_point() and t.dtype != torch.float64:
            raise StoreError(f"{file} must hold float64. Got {t.dtype} in {name!r}; {_AGAIN}.")
        if not torch.isfinite(t).all():
            raise StoreError(f"{file} holds NaN or infinity in {name!r}; {_AGAIN}.")
    return tensors


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, allow_nan=False, separators=(",", ":")).encode()).hexdigest()


def _replaceable(path: Path) -> bool:
    try:
        return {f.name for f in path.iterdir()} <= {DOCUMENT, WEIGHTS, FINDINGS}
    except FileNotFoundError:  # another process is replacing it
        return True
    except NotADirectoryError:
        return False


def _flush(file: Path, content: bytes) -> None:
    with open(file, "wb") as f:
        f.write(content)
        f.flush()
        os.fsync(f.fileno())


def _place(fresh: Path, path: Path) -> None:
    for left in reversed(range(_TRIES)):  # the last of several processes that save here at once stays
        old = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        try:
            os.rename(path, old)
        except FileNotFoundError:
            old = None
        try:
            os.rename(fresh, path)
        except OSError:
            if not path.exists():
                if old:
                    os.rename(old, path)
                raise
            if not left:
                raise
        else:
            return
        finally:
            if old:
                shutil.rmtree(old, ignore_errors=True)
