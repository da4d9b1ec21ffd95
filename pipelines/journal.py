"""The journal of a study: one JSON line per event, on disk before `append` returns. MLflow is a projection of it.

Stages write here and nowhere else, so a tracking server that is down or a process that is killed costs nothing.
"""

import json
import math
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipelines.addresses import redact

NAME = "journal.jsonl"


class Journal:
    """An append-only file of events, `{"time": ..., "event": ..., "scope": ..., ...}` per line; one writer at a time.

    >>> import tempfile
    >>> journal = Journal(Path(tempfile.mkdtemp()) / NAME)
    >>> journal.append("metrics", "train/gp", metrics={"error": float("inf")})
    >>> [(offset, event)] = journal.read()
    >>> event["scope"], event["metrics"], journal.read(after=offset)
    ('train/gp', {'error': 'inf'}, [])
    """

    def __init__(self, path: Path | str):
        self.path = Path(path)

    def append(self, event: str, scope: str = "", **data: Any) -> None:
        """Write one event with the time in UTC. Numbers that are not finite become `"nan"`, `"inf"` and `"-inf"`;
        arrays and tensors become lists, paths text; passwords inside addresses are taken out."""
        record = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, "scope": scope}
        line = json.dumps(record | _plain(data), allow_nan=False).encode() + b"\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self._torn():
            line = b"\n" + line  # a killed writer's half line must not swallow this one
        with self.path.open("ab", buffering=0) as file:
            file.write(line)
            os.fsync(file.fileno())

    def read(self, after: int = 0) -> list[tuple[int, dict]]:
        """The events beyond byte `after`, each with the byte at which its line ends: what to give as `after` next.

        A torn line, of a writer that was killed before `append` returned, is passed over.
        """
        if not self.path.exists():
            return []
        with self.path.open("rb") as file:
            file.seek(after)
            lines = file.read().split(b"\n")[:-1]  # what follows the last newline is not finished
        events = []
        for line in lines:
            after += len(line) + 1
            event = _event(line)
            if event is not None:
                events.append((after, event))
        return events

    def _torn(self) -> bool:
        if not self.path.exists() or self.path.stat().st_size == 0:
            return False
        with self.path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\n"


def _event(line: bytes) -> dict | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and {"time", "event", "scope"} <= event.keys() else None


def _plain(value: Any) -> Any:
    """The value in strict JSON."""
    if isinstance(value, str):
        return redact(value)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # numpy and torch, without importing either
        return _plain(value.tolist())
    raise TypeError(f"an event must hold numbers, text, lists, dicts, arrays and paths. Got {type(value).__name__}.")
