"""An emulator's folder that a simulator's setting names: loaded once, and known by its content in the key of every run."""

import hashlib
import importlib
import json
import os
from functools import lru_cache
from pathlib import Path

from emulate import artefact
from emulate.emulator import Emulator


def saved(path: str | os.PathLike) -> Emulator:
    """The emulator of a folder that `Emulator.save` wrote; loaded once, and again when another takes its place.

    Raises InputError where there is none, StoreError where it is damaged.
    """
    path = Path(path).expanduser().absolute()
    try:
        state = (path / artefact.DOCUMENT).stat()
    except OSError:
        return _loaded(str(path), ())  # `load` has the sentence for it
    return _loaded(str(path), (state.st_mtime_ns, state.st_ino))


@lru_cache(maxsize=8)
def _loaded(path: str, _: tuple[int, ...]) -> Emulator:
    return importlib.import_module("emulate.loading").load(path)  # which finds recipes, and so stands above the rooms


def digest(emulator: Emulator) -> str:
    """sha256 of all that decides an answer; where the emulator lies and what it was trained on is not in it."""
    told = {"space": emulator.space.to_dict(), "recipe": [emulator.recipe.entry_name(), emulator.recipe.settings()]}
    found = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    for name, value in sorted(emulator.state_dict().items()):
        if name not in ("design", "taught"):
            found.update(f"{name} {list(value.shape)}".encode() + value.contiguous().numpy().tobytes())
    return found.hexdigest()
