"""One column of numbers out of a small table that somebody wrote: data points, their errors."""

import csv
import math
from pathlib import Path

import numpy as np

from emulate.errors import InputError, nearest

_MARKS = (",", ";", "\t")  # between columns


def column(path: str | Path, name: str) -> np.ndarray:
    """The numbers `[n]` of the column `name`, or of the only column: between commas, semicolons, tabs or blanks, empty lines
    and comments (#) left out.

    Raises InputError where there is no such column, or a cell that is no finite number.
    """
    rows = _rows(Path(path))
    if not rows:
        raise InputError(f"{path} must hold a number on every line. It is empty.")
    head, at = rows[0][1], 0
    if any(math.isfinite(_number(cell)) for cell in head):
        if len(head) > 1:
            raise InputError(f"{path} must have a header that names a column {name!r}, or one number on every line. Got "
                             f"{len(head)} columns without names; write names above them.")  # fmt: skip
    else:
        rows = rows[1:]
        if len(head) > 1 and name not in head:
            raise InputError(f"{path} must have a column {name!r}, or one column alone. It has {', '.join(head)}; rename "
                             f"one.{nearest(name, head)}")  # fmt: skip
        at = head.index(name) if name in head else 0
    made = []
    for line, cells in rows:
        if len(cells) != len(head):
            raise InputError(
                f"{path}, line {line}: must have {len(head)} values, as the first line has. Got {len(cells)}."
            )
        made.append(_number(cells[at]))
        if not math.isfinite(made[-1]):
            raise InputError(f"{path}, line {line}: must be a finite number. Got {cells[at]!r}; mend it, or take the line out if "
                             "it is no data.")  # fmt: skip
    return np.array(made)


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """The number and the cells of every line that holds any."""
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(f"{path} must be a text file of numbers. It could not be read: {e}") from None
    kept = [(i, line) for i, line in enumerate(lines, 1) if line.strip() and not line.lstrip().startswith("#")]
    if not any(mark in line for _, line in kept for mark in _MARKS):  # as np.savetxt writes it
        return [(i, line.split()) for i, line in kept]
    mark = max(_MARKS, key=kept[0][1].count)
    return [(i, [c.strip() for c in next(csv.reader([line], delimiter=mark))]) for i, line in kept]


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return math.nan
