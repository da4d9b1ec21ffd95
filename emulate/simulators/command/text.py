"""Numbers out of text that a program wrote: tables between spaces, CSV, JSON, YAML."""

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, BinaryIO

import numpy as np

from emulate.errors import InputError, RunFailed, nearest, shown

READERS = "emulate.readers"  # entry points: a format, and a function from a text and its name to a document
_COMMENTS = ("#", "%", "!")


@dataclass(frozen=True)
class Table:
    """Rows of text cells, and the names of the columns where a header gives them."""

    names: tuple[str, ...]
    rows: list[list[str]]


def text_of(stream: BinaryIO, name: str, limit: int) -> str:
    raw = stream.read(limit + 1)
    if b"\0" in raw:
        raise RunFailed(
            "error", f"{name} must be text. It holds a NUL at byte {raw.index(0)}; was it cut, or is it binary?"
        )
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise RunFailed("error", f"{name} must be text in UTF-8. Byte {e.start} is 0x{raw[e.start]:02x}.") from None


def table(stream: BinaryIO, name: str, limit: int, skip: int) -> Table:
    """Numbers between spaces; a comment line (#, %, !) right above the numbers may name the columns."""
    rows: list[list[str]] = []
    header: list[str] = []
    for line in text_of(stream, name, limit).splitlines()[skip:]:
        words = line.split()
        if words and words[0].startswith(_COMMENTS):
            header = header if rows else line.strip().lstrip("#%! ").split()
        elif words:
            rows.append(words)
    return _headed(rows, header, name)


def csv_table(stream: BinaryIO, name: str, limit: int, skip: int) -> Table:
    lines = text_of(stream, name, limit).splitlines()[skip:]
    lines = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
    mark = max((",", ";", "\t"), key=lambda c: lines[0].count(c)) if lines else ","
    return _headed([[c.strip() for c in row] for row in csv.reader(lines, delimiter=mark)], [], name)


def _headed(rows: list[list[str]], header: list[str], name: str) -> Table:
    if rows and not any(_is_number(cell) for cell in rows[0]) and len(rows) > 1:
        header, rows = rows[0], rows[1:]
    if not rows:
        raise RunFailed("badshape", f"{name} must hold numbers. It holds no row of them; was it cut?")
    for i, row in enumerate(rows):
        if len(row) != len(rows[0]):
            raise RunFailed("badshape", f"{name}: every row must have {len(rows[0])} values, as the first has. "
                                        f"Row {i + 1} has {len(row)}.")  # fmt: skip
    return Table(tuple(header) if len(header) == len(rows[0]) else (), rows)


def _number(cell: str) -> float:
    if "_" in cell:
        raise ValueError(cell)
    try:
        return float(cell)
    except ValueError:
        return float(cell.lower().replace("d", "e"))  # Fortran writes 1.0D+03


def _is_number(cell: str) -> bool:
    try:
        _number(cell)
    except ValueError:
        return False
    return True


def of_table(table: Table, name: str, column: int | str | None, row: int | None) -> np.ndarray:
    """The numbers of a column, of a row, or of a table that has one of either."""
    width, rows = len(table.rows[0]), rows_of(table.rows, name, row)
    if isinstance(column, str):
        if column not in table.names:
            names = ", ".join(table.names[:20]) or "no header that names columns"
            raise RunFailed(
                "badshape", f"{name} must have a column {column!r}. It has {names}.{nearest(column, table.names)}"
            )
        column = table.names.index(column) + 1
    if column is None and width > 1 and len(rows) > 1:
        raise RunFailed(
            "badshape", f"{name} has {width} columns and {len(rows)} rows; say which by `column`, or `row`."
        )
    if column is not None and column > width:
        raise RunFailed("badshape", f"{name} must have a column {column}. It has {width}; columns are counted from 1.")
    made = []
    for i, cells in enumerate(rows):
        for cell in cells if column is None else cells[column - 1 : column]:
            try:
                made.append(_number(cell))
            except ValueError:
                advice = _advice(cell, i == 0 and _numbers_below(rows, column))
                raise RunFailed("error", f"{name} must hold numbers. Row {i + 1} has {shown(cell)}.{advice}") from None
    return np.array(made)


def _numbers_below(rows: list[list[str]], column: int | None) -> bool:
    """Whether all rows but the first hold numbers, and there are some."""
    return len(rows) > 1 and all(
        _is_number(cell) for cells in rows[1:] for cell in (cells if column is None else cells[column - 1 : column])
    )


def _advice(cell: str, headed: bool) -> str:
    """What a cell that is no number looks like, and what to do about it."""
    if "**" in cell:
        return " Fortran prints stars where a number does not fit."
    if cell.count(",") == 1 and _is_number(cell.replace(",", ".")):
        return " Its decimal mark is a comma; let the program write points."
    if headed:
        return (" If that is a line of units, read below it: `row: -1` is the last row, and `skip: 2` leaves out names and units, "
                "with `column` a number.")  # fmt: skip
    return ""


def rows_of(rows: Any, name: str, row: int | None) -> Any:
    if row is None:
        return rows
    if abs(row) > len(rows):
        raise RunFailed("badshape", f"{name} must have a row {row}. It has {len(rows)}; rows are counted from 1.")
    i = row - 1 if row > 0 else len(rows) + row
    return rows[i : i + 1]


def json_tree(stream: BinaryIO, name: str, limit: int, skip: int) -> Any:
    return json.loads(text_of(stream, name, limit))


def yaml_tree(stream: BinaryIO, name: str, limit: int, skip: int) -> Any:
    found = [e for e in entry_points(group=READERS) if e.name == "yaml"]
    if not found:
        raise InputError(f"nothing installed can read {name}: install emulate with its commands, or write JSON.")
    try:
        return found[0].load()(text_of(stream, name, limit), name).data
    except InputError as e:
        raise RunFailed("error", str(e)) from None


def of_tree(tree: Any, name: str, key: str) -> np.ndarray:
    """The numbers at a path `spectra.pk` or `results.0.value` of plain data."""
    met = tree
    for i, part in enumerate(key.split(".") if key else ()):
        path = ".".join(key.split(".")[: i + 1])
        if isinstance(met, Mapping) and part in met:
            met = met[part]
        elif isinstance(met, list) and part.isdecimal() and len(part) < 10 and int(part) < len(met):
            met = met[int(part)]
        else:
            there = list(met)[:20] if isinstance(met, Mapping) else []
            said = (f"keys {', '.join(map(str, there)) or 'none'}" if isinstance(met, Mapping)
                    else f"a list of {len(met)}" if isinstance(met, list) else shown(met))  # fmt: skip
            raise RunFailed("badshape", f"{name} must hold {path}. There is {said}.{nearest(part, map(str, there))}")
    if isinstance(met, Mapping):
        raise RunFailed("badshape", f"{name}{f', {key}' if key else ''} must be numbers. It has keys "
                                    f"{', '.join(map(str, list(met)[:20]))}; name one by `key`.")  # fmt: skip
    return np.array(_plain_numbers(met, f"{name}{f', {key}' if key else ''}"), dtype=np.float64)


def _plain_numbers(value: Any, where: str) -> Any:
    """Numbers, or lists of them two deep; a whole number too large for a float is infinite."""
    if isinstance(value, list):
        inner = [_plain_numbers(v, where) for v in value]
        if any(isinstance(v, list) for v in inner) and len({len(v) if isinstance(v, list) else -1 for v in inner}) > 1:
            raise RunFailed("badshape", f"{where} must be a number or an even list of numbers. It is ragged.")
        return inner
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RunFailed("error", f"{where} must be numbers. It has {shown(value)}.")
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
