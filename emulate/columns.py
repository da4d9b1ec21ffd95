"""Columns of numbers out of a table that somebody wrote: data points, their errors, runs that are there already."""

import csv
import math
import re
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from emulate.errors import InputError, nearest
from emulate.labelled import agree

_MARKS = (",", ";", "\t")  # between columns
_ERRORS = ("#n/a", "#div/0!", "#value!", "#ref!", "#name?", "#num!", "#null!")  # of spreadsheets
_EMPTY = ("", "nan", "na", "n/a", "none", "null", "-", *_ERRORS)  # as tables write what is not there
_COMMA = re.compile(r"[-+]?\d+,\d+([eE][-+]?\d+)?")  # a number as much of Europe writes it


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
        names = [h if h == name else unit_of(h)[0] for h in head]
        if len(head) > 1 and name not in names:
            raise InputError(f"{path} must have a column {name!r}, or one column alone. It has {', '.join(head)}; rename "
                             f"one.{nearest(name, head)}")  # fmt: skip
        at = names.index(name) if name in names else 0
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


def table(path: str | Path, units: Mapping[str, str], *, gaps: Collection[str] = ()) -> tuple[np.ndarray, list[int]]:
    """The numbers `[n, k]` of the columns that `units` names, in that order, and the line of each row.

    A column is called by its name alone, or with its unit behind: `h [km/s]`. Those in `gaps` may be empty, or no finite
    number, which is NaN in what is given back. Raises InputError with the line where a table is something else.
    """
    head, rows = named(path)
    at = {name: _place(path, head, name, unit) for name, unit in units.items()}
    found = np.empty((len(rows), len(at)))
    for i, (line, cells) in enumerate(rows):
        if len(cells) != len(head):
            raise InputError(f"{path}, line {line}: must have {len(head)} values, as the header has. Got {len(cells)}; look for "
                             "a comma too many or too few.")  # fmt: skip
        for j, (name, place) in enumerate(at.items()):
            found[i, j] = _number(cells[place])
            if not math.isfinite(found[i, j]):
                empty = cells[place].lower() in _EMPTY or not math.isnan(found[i, j])
                if name not in gaps or not empty:
                    left = " (empty is a run that failed)" if name in gaps else ""
                    point = " write a point for the comma of decimals," if _COMMA.fullmatch(cells[place]) else ""
                    raise InputError(f"{path}, line {line}, column {name}: must be a finite number{left}. Got "
                                     f"{cells[place]!r};{point} mend it, or take the row out.")  # fmt: skip
                found[i, j] = math.nan
    return found, [line for line, _ in rows]


def named(path: str | Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The names above the columns of a table, and the line and cells of every row below."""
    rows = _rows(Path(path))
    if len(rows) < 2 or any(math.isfinite(_number(cell)) for cell in rows[0][1]):
        raise InputError(f"{path} must have names above its columns, and rows below. Got "
                         f"{shown_head(rows[0][1]) if rows else 'nothing'}; write them in the first line.")  # fmt: skip
    head = rows[0][1]
    if twice := [name for name in head if head.count(name) > 1]:
        raise InputError(f"{path} must name every column once. Got {twice[0]!r} twice; rename one.")
    return head, rows[1:]


def odd(rows: list[tuple[int, list[str]]], place: int) -> tuple[int, str, float]:
    """The line and the cell of the first in a column that is no number, and the share of those that are meant as numbers."""
    cells = [(line, cells[place]) for line, cells in rows if place < len(cells) and cells[place].lower() not in _EMPTY]
    words = [(line, c) for line, c in cells if math.isnan(_number(c))]
    meant = len(cells) - sum(not _COMMA.fullmatch(c) for _, c in words)
    return (*words[0], meant / len(cells)) if words else (0, "", 1.0)


def shown_head(cells: list[str]) -> str:
    """The first cells of a line, for a sentence."""
    return ", ".join(cells[:4]) + (", ..." if len(cells) > 4 else "")


def unit_of(column: str) -> tuple[str, str]:
    """The name of a column and its unit.

    >>> unit_of("h [km/s]"), unit_of("a[m]"), unit_of("pk[k=0.1]"), unit_of("x[0]"), unit_of("mass")
    (('h', 'km/s'), ('a', 'm'), ('pk[k=0.1]', ''), ('x[0]', ''), ('mass', ''))
    """
    found = re.fullmatch(r"(.*\S)\s+\[(.*)\]|(.*\S)\[([^\]=\d]+)\]", column)
    return (found[1] or found[3], found[2] or found[4] or "") if found else (column, "")


def _place(path: str | Path, head: list[str], name: str, unit: str) -> int:
    met = [i for i, column in enumerate(head) if name in (column, unit_of(column)[0])]
    if not met:
        raise InputError(f"{path} must have a column {name!r}. It has {shown_head(head)}; rename one"
                         f".{nearest(name, [unit_of(h)[0] for h in head])}")  # fmt: skip
    if len(met) > 1:
        raise InputError(
            f"{path} must have one column of {name}. Got {head[met[0]]!r} and {head[met[1]]!r}; rename one."
        )
    agree(f"{path}: {name}", unit, unit_of(head[met[0]])[1])
    return met[0]


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """The number and the cells of every line that holds any."""
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        hint = "; save it as CSV" if isinstance(e, UnicodeDecodeError) else ""
        raise InputError(f"{path} must be a text file of numbers. It could not be read: {e}{hint}") from None
    kept = [(i, line) for i, line in enumerate(lines, 1) if line.strip() and not _comment(line)]
    if not any(mark in line for _, line in kept for mark in _MARKS):  # as np.savetxt writes it
        return [(i, line.split()) for i, line in kept]
    mark = max(_MARKS, key=re.sub(r'"[^"]*"', "", kept[0][1]).count)
    return [(i, [c.strip() for c in next(csv.reader([line], delimiter=mark))]) for i, line in kept]


def _comment(line: str) -> bool:
    return line.lstrip().startswith("#") and not line.lstrip().lower().startswith(_ERRORS)


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return math.nan
