"""What a good run is: its exit code, a file, a text; and of its outputs the size, the coordinate, and finite numbers."""

import re
import signal
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from emulate.errors import RunFailed, shown
from emulate.runs import Field
from emulate.simulators.command.decoders import Content, select
from emulate.simulators.command.folder import open_file
from emulate.simulators.command.settings import Read, Success

_RTOL = 1e-6  # by which a coordinate in a file may differ from the declared one


def judge_exit(success: Success, code: int, what: str, arguments: Sequence[str], folder: Path) -> None:
    """Raise when a step ended in another way than it may; `what` names the step."""
    if code in success.exit_code:
        return
    if code < 0:
        raise RunFailed("crashed", f"{what} was ended by the signal {_signal(-code)}")
    allowed = " or ".join(map(str, success.exit_code)) or "none"
    lost = next((a for a in arguments if "/" in a or "." in a if Path(a).is_file() and not (folder / a).exists()), "")
    advice = (f" The argument {shown(lost)} is a file where emulate was started, but not in the run's folder: add "
              f"files: {{{Path(lost).name}: {{copy: {lost}}}}}.") if lost else ""  # fmt: skip
    raise RunFailed("error", f"{what} ended with exit code {code}, where {allowed} is allowed.{advice}")


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def judge_success(success: Success, folder: Path, limit: int) -> None:
    """Raise when the file or the text that tells a good end is not there."""
    if success.file:
        open_file(folder, success.file, "success.file").close()
    if success.pattern:
        pattern = success.pattern
        with open_file(folder, pattern.file, "success.pattern", limit=limit) as f:
            text = f.read(limit).decode(errors="replace")
        if not (pattern.text in text if pattern.text else re.search(pattern.regex, text, re.MULTILINE)):
            raise RunFailed("error", f"{pattern.file} must hold {shown(pattern.text or pattern.regex)}. It does not.")


def field_of(field: Field, place: Read, content: Content) -> np.ndarray:
    """float64 `[size]`: the values of a field from the content of its file, its coordinate held against `at`."""
    a = select(content, place.file, key=place.key, column=place.column, row=place.row)
    if a.size != field.size:
        raise RunFailed("badshape", f"{_where(field, place)} must have the declared {field.size} values. Got {a.size}.")
    if place.at_column is not None or place.at_key:
        x = select(content, place.file, key=place.at_key or place.key, column=place.at_column, row=place.row)
        at = np.array(field.at or (0.0,))
        near = x.shape == at.shape and np.isclose(x, at, rtol=_RTOL, atol=1e-12 * np.abs(at).max())
        if not np.all(near):
            i = int(np.argmin(near))
            met = f"{x.size} values"
            if x.shape == at.shape:
                met = f"{float(x[i])!r} at value {i + 1}, where `at` has {float(at[i])!r}"
            raise RunFailed("badshape", f"{_where(field, place)}: the coordinate {field.coordinate} must be the declared one in "
                                        f"every run. Got {met}.")  # fmt: skip
    return a


def _where(field: Field, place: Read) -> str:
    at = ", ".join(f"{k} {v}" for k, v in (("key", place.key), ("column", place.column), ("row", place.row)) if v)
    return f"output {field.name} in {place.file}{f' ({at})' if at else ''}"


def finite(field: Field, values: np.ndarray, file: str) -> np.ndarray:
    """The values, none of which may be NaN or infinite."""
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        i = int(bad[0])
        at = f" ({field.coordinate} = {field.at[i]:.6g})" if field.at else ""
        raise RunFailed("nonfinite", f"output {field.name} in {file} must be finite numbers. {bad.size} of {values.size} are "
                                     f"not, the first is value {i + 1}{at}: {values[i]}.")  # fmt: skip
    return values
