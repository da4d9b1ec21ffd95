"""The coordinate of an output, read from a file that is there already: an earlier run's, or a table of the user's."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from emulate.errors import InputError, RunFailed, shown
from emulate.simulators.command.decoders import FORMATS, open_content, select

_KEYS = ("file", "format", "column", "row", "key", "skip")
_LIMIT = 64 * 2**20  # bytes


def coordinate_of(name: str, at: Mapping[str, Any]) -> list[float]:
    """The numbers that `at: {file: PATH, column: 1}` of the output `name` names."""
    form = f"output {name!r}: at"
    known = {"file": str, "format": str, "column": int | str, "row": int, "key": str, "skip": int}
    if not isinstance(at.get("file"), str) or any(
        k not in known or not isinstance(v, known[k]) or isinstance(v, bool) for k, v in at.items()
    ):
        raise InputError(f"{form} must be numbers, or {{file: PATH, column: 1}} with keys of {', '.join(_KEYS)}. "
                         f"Got {shown(dict(at))}.")  # fmt: skip
    if at.get("format", "auto") not in ("auto", *FORMATS):
        raise InputError(f"{form}: format must be one of {', '.join(FORMATS)}. Got {shown(at['format'])}.")
    path = Path(at["file"]).expanduser()
    try:
        if not path.is_file():
            raise InputError(
                f"{form}: there is no file {path}. Paths are relative to the folder where emulate is started."
            )
        with open(path, "rb") as stream:
            content = open_content(stream, str(path), at.get("format", "auto"), _LIMIT, max(0, at.get("skip", 0)))
            place = {k: at[k] for k in ("column", "row", "key") if k in at}
            return select(content, str(path), **place).tolist()
    except RunFailed as e:
        raise InputError(f"{form}: {e.reason}") from None
    except (OSError, ValueError) as e:
        if isinstance(e, InputError):
            raise
        raise InputError(f"{form}: {path} cannot be read: {getattr(e, 'strerror', None) or e}.") from None
