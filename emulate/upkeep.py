"""Care of run stores: verify every checksum, merge another store, list what can be removed.

`verify` and `merge` judge each run by its content. A store to merge from is a stranger's: its links, devices, odd names
and forged or huge files are refused in words, and only what `emulate.record` accepts is written, under a name that is
the sha256 of its question.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from emulate.disk import age
from emulate.errors import InputError, RunFailed, StoreError, shown
from emulate.record import FILES, RESULT, Damaged, decoded, load
from emulate.store import KEY, STALE, RunStore
from emulate.units import take_over

__all__ = ["LIMIT", "Damage", "Merged", "merge", "prunable", "verify"]

LIMIT = 2**30  # bytes that the result of a stranger's run may have
Tick = Callable[[int, int], None]  # (done, total)


@dataclass(frozen=True)
class Damage:
    """One finding of `verify`: the run, or "" for a name that is no run's; the file; and what is wrong in words."""

    key: str
    file: str
    sentence: str


@dataclass
class Merged:
    """What `merge` did: numbers of runs, and a sentence for each that was not taken."""

    copied: int = 0
    present: int = 0  # the same run was there
    conflicts: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


def verify(store: RunStore, tick: Tick | None = None) -> list[Damage]:
    """Every run whose files are not what was written, and every name under `runs` that is no run's."""
    found = [Damage("", str(path), sentence) for path, sentence in _strangers(store.path / "runs")]
    keys = store.keys()
    for i, key in enumerate(keys):
        try:
            store.read(key)
        except Damaged as e:
            found.append(Damage(key, e.file, str(e)))
        except StoreError:
            if store.has(key):  # else another campaign moved it aside meanwhile
                raise
        if tick:
            tick(i + 1, len(keys))
    return found


def merge(into: RunStore, source: RunStore, *, limit: int = LIMIT, tick: Tick | None = None) -> Merged:
    """Copy the runs of another store by content; the runs that `into` holds stay as they are.

    >>> import tempfile
    >>> import numpy as np
    >>> from emulate.keys import record_of
    >>> a, b = (RunStore(tempfile.mkdtemp()) for _ in range(2))
    >>> who = {"simulator": "s", "version": "1", "settings": {}, "parameters": ["a"], "stochastic": False}
    >>> a.commit(record_of(who, [0.5], seed=0), y=np.array([1.0])), b.commit(record_of(who, [0.7], seed=0), y=np.ones(1))
    (True, True)
    >>> merge(a, b)
    Merged(copied=1, present=0, conflicts=[], refused=[])
    """
    if os.path.samefile(into.path, source.path):
        raise InputError(f"a store must be merged with another one. Got {into.path} twice.")
    done = Merged(refused=[sentence for _, sentence in _strangers(source.path / "runs")])
    if os.path.islink(source.path / "runs"):
        return done
    keys = source.keys()
    for i, key in enumerate(keys):
        _take(into, source.path / "runs" / key[:2] / key, key, limit, done)
        if tick:
            tick(i + 1, len(keys))
    take_over(into, source)
    return done


def _take(into: RunStore, folder: Path, key: str, limit: int, done: Merged) -> None:
    """Copy one run, or say why not."""
    if folder.is_symlink() or folder.parent.is_symlink():
        return  # `_strangers` said so
    try:
        odd = sorted(set(os.listdir(folder)) - set(FILES))
        if odd:
            raise Damaged(folder, f"{shown(odd[0])} beside the files of a run")
        files = load(folder, limit=limit)
        theirs = decoded(files, folder, key)
    except StoreError as e:
        done.refused.append(str(e))
        return
    if into.has(key):
        try:
            mine = into.read(key)
        except Damaged as e:
            done.conflicts.append(f"run {key} is damaged here: {e}")
            return
        if mine.ok and theirs.ok and (into.folder(key) / RESULT).read_bytes() == files[RESULT]:
            done.present += 1
        elif mine.ok != theirs.ok or mine.ok:
            done.conflicts.append(f"run {key} is kept as it is here ({_said(mine.failure)}); in {folder} it is another "
                                  f"({_said(theirs.failure)}).")  # fmt: skip
        else:
            done.present += 1  # failed in both
    elif into.adopt(key, files):
        done.copied += 1
    else:
        done.present += 1


def prunable(store: RunStore, unused: list[str] | None = None) -> dict[str, list[Path]]:
    """What may be removed, by what it is; a finished run only when it is in `unused`.

    Half-written runs count when their writer must be dead: after a day. `damaged` is left to its owner.
    """
    found = {
        "failures that were run again": _within(store.path / "forgotten"),
        "second answers of runs": _within(store.path / "conflicts"),
        "half-written files": [p for p in _half_written(store.path) if age(p) > STALE],
    }
    return found | ({"runs that the study does not ask for": [store.folder(k) for k in unused]} if unused else {})


def _half_written(path: Path) -> Iterator[Path]:
    yield from _within(path / "tmp")
    yield from path.glob("store.json.*")
    yield from (path / "outputs").glob("*.json.*")


def _within(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() and not folder.is_symlink() else []


def _strangers(runs: Path) -> Iterator[tuple[Path, str]]:
    """Names under `runs` that are no run's, each with what is wrong; nothing behind a link is looked at."""
    if runs.is_symlink():
        yield runs, f"{runs} must be a folder of its own. Got a symbolic link; give the store that it leads to."
        return
    for shelf in _within(runs):
        if shelf.is_symlink() or not shelf.is_dir() or len(shelf.name) != 2:
            yield shelf, _odd(shelf, "a folder named by two hexadecimal digits")
            continue
        for run in _within(shelf):
            if run.is_symlink() or not run.is_dir() or not KEY.fullmatch(run.name) or run.name[:2] != shelf.name:
                yield run, _odd(run, "a run's folder, named by its key")


def _odd(path: Path, what: str) -> str:
    met = "a symbolic link" if path.is_symlink() else "a folder" if path.is_dir() else "something else"
    return f"{path.parent} must hold nothing but {what}. Got {met} named {shown(path.name)}; remove it there."


def _said(failure: RunFailed | None) -> str:
    return "finished" if failure is None else f"failed: {shown(str(failure))}"
