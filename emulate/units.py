"""Names and units of a simulator's parameters and outputs, noted in a store so that an export needs no study.

A file that is not what was written counts as missing; the next campaign notes it again.

outputs/<sha256 of the identity>.json    canonical JSON: who, parameters, outputs, and the sha256 of these
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from emulate.disk import replace
from emulate.keys import canonical, identity
from emulate.record import TEXT_LIMIT, Damaged, read_plain
from emulate.store import RunStore

FOLDER = "outputs"


def describe(store: RunStore, simulator: Any) -> None:
    """Note the names and units of a simulator's parameters and outputs; what is noted already stays.

    >>> import tempfile
    >>> from emulate.keys import identity
    >>> from emulate.simulators.linear_gaussian import LinearGaussian
    >>> store, simulator = RunStore(tempfile.mkdtemp()), LinearGaussian(outputs_count=2)
    >>> describe(store, simulator)
    >>> [f["name"] for f in description(store, identity(simulator))["outputs"]]
    ['y0', 'y1']
    """
    parameters = [{"name": p.name, "unit": p.unit} for p in simulator.space.parameters]
    _note(store, {"who": identity(simulator), "parameters": parameters, "outputs": simulator.outputs.to_dict()})


def description(store: RunStore, who: Mapping[str, Any]) -> dict[str, Any] | None:
    """What was noted of the simulator with this identity: parameters and outputs; None when nothing was."""
    return _read(store.path / FOLDER / _name(who))


def take_over(into: RunStore, source: RunStore) -> None:
    """Note what another store knows."""
    if not (source.path / FOLDER).is_symlink():
        for file in sorted((source.path / FOLDER).glob("*.json")):
            body = _read(file)
            if body:
                _note(into, body)


def _note(store: RunStore, body: dict[str, Any]) -> None:
    file = store.path / FOLDER / _name(body["who"])
    if not _read(file):
        seal = hashlib.sha256(canonical(body)).hexdigest()
        with store.sentences():
            file.parent.mkdir(exist_ok=True)
            replace(file, canonical({**body, "sha256": seal}))


def _read(file: Path) -> dict[str, Any] | None:
    """None for a file that is missing or not what was written: it can be noted again."""
    try:
        raw = read_plain(file, TEXT_LIMIT)
        body = json.loads(raw)
        good = canonical(body) == raw and body.pop("sha256") == hashlib.sha256(canonical(body)).hexdigest()
        good = good and all(isinstance(p[n], str) for p in body["parameters"] for n in ("name", "unit"))
        good = good and isinstance(body["outputs"], list) and os.path.basename(file) == _name(body["who"])
    except (Damaged, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return body if good else None


def _name(who: Mapping[str, Any]) -> str:
    return f"{hashlib.sha256(canonical(who)).hexdigest()}.json"
