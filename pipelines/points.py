"""Files of points to predict at, read in pieces: CSV or Parquet, one row each. Every column is kept, and so is the order."""

import csv
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import numpy as np

from emulate.errors import InputError, nearest
from emulate.labelled import agree
from emulate.space import Space

TABLES = (".csv", ".parquet")
ROWS = 1024  # points at a time: a million of them need no more memory than these


@dataclass(frozen=True)
class Piece:
    """Some rows of a file: their columns as they stand there, and where each row stands, in words."""

    columns: dict[str, Sequence[Any]]  # of text, or of Arrow
    where: Sequence[str]
    metadata: Any = None  # of a Parquet table: what pandas keeps its index by

    def __len__(self) -> int:
        return len(self.where)

    def text(self, names: list[str]) -> list[list[str]]:
        """The rows as a CSV holds them."""
        columns = [self.columns[n] for n in names]
        plain = [c if isinstance(c, list) else ["" if x is None else _shown(x) for x in c.to_pylist()] for c in columns]
        return [list(row) for row in zip(*plain, strict=True)] if plain else [[] for _ in self.where]

    def theta(self, name: str, column: str) -> np.ndarray:
        """Finite numbers `[n]`; else a sentence with the row."""
        given = self.columns[column]
        values = _parsed(given) if isinstance(given, list) else _arrow_numbers(given, name)
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            i = int(bad[0])
            met = given[i] if isinstance(given, list) else given[i].as_py()
            raise InputError(f"{self.where[i]}, column {name}: must be a finite number. Got {met!r}; mend it, or take the row "
                             "out.")  # fmt: skip
        return values


@contextmanager
def opened(source: Path) -> Iterator[tuple[list[str], Iterator[Piece]]]:
    """The names of the columns, and the rows in pieces; `-` is a CSV from standard input."""
    if str(source) == "-":
        yield _csv(sys.stdin, "standard input")
        return
    if not source.is_file():
        raise InputError(f"the points must be a file with one column per parameter. Got {source}, which is "
                         f"{'a folder' if source.is_dir() else 'not there'}.")  # fmt: skip
    if source.suffix == ".parquet":
        yield _parquet(source)
        return
    if source.suffix != ".csv":
        raise InputError(f"points must be .csv, .parquet or .nc, or - for a CSV from standard input. Got {source}; name it by its "
                         "format.")  # fmt: skip
    with open(source, newline="", encoding="utf-8-sig") as f:
        yield _csv(f, str(source))


def found(space: Space, columns: list[str], fixed: Sequence[str], source: Path) -> dict[str, str]:
    """The column of each parameter that is not fixed otherwise: `h`, or `h [km/s]` with its unit, as exports write it."""
    at: dict[str, str] = {}
    for column in columns:
        match = re.fullmatch(r"\s*(\w+)\s*(?:\[(.*)\])?\s*", column)
        if match and match[1] in space.names:
            agree(f"{source}: {match[1]}", space.parameters[space.names.index(match[1])].unit, match[2] or "")
            if match[1] in at:
                raise InputError(
                    f"{source} must have one column of {match[1]}. Got {at[match[1]]!r} and {column!r}; rename one."
                )
            at[match[1]] = column
    if both := [n for n in at if n in fixed]:
        raise InputError(
            f"{both[0]} must be given once. Got the column {at[both[0]]!r} of {source} and --set {both[0]}; take one out."
        )
    if missing := [n for n in space.names if n not in at and n not in fixed]:
        if len(columns) == 1 and (mark := next((c for c in ";\t|" if c in columns[0]), "")):
            raise InputError(f"{source} must have commas between its columns. Got {columns[0]!r}, which holds {mark!r}; write it "
                             "with commas, and points in its numbers.")  # fmt: skip
        hint = nearest(missing[0], columns)
        raise InputError(f"{source} must have a column for each of {', '.join(space.names)}. Missing: {', '.join(missing)}; name a "
                         f"column so, or fix one for all rows by --set {missing[0]}=VALUE.{hint}")  # fmt: skip
    return at


def need_arrow(path: Path) -> None:
    if not find_spec("pyarrow"):
        raise InputError(f"{path}: Parquet must have the package pyarrow. It is not installed; install the extra: pip install "
                         "'emulate[formats]', or use .csv.")  # fmt: skip


def _csv(stream: IO[str], name: str) -> tuple[list[str], Iterator[Piece]]:
    reader = csv.reader(stream)
    try:
        header = next(reader, None)
    except (UnicodeDecodeError, csv.Error) as e:
        raise InputError(f"{name} must be a text file with comma-separated values. Got {e}.") from None
    if not header:
        raise InputError(f"{name} must have a header with the names of the parameters, and rows below it. Got nothing.")
    if len(set(header)) < len(header):
        twice = next(h for h in header if header.count(h) > 1)
        raise InputError(f"{name} must name every column once. Got {twice!r} twice; rename one.")

    def pieces() -> Iterator[Piece]:
        rows, where = [], []
        for k, row in enumerate(_rows(reader, name, len(header)), 1):
            rows.append(row)
            where.append(f"{name}, row {k} (line {reader.line_num})")
            if len(rows) == ROWS:
                yield Piece({h: list(c) for h, c in zip(header, zip(*rows, strict=True), strict=True)}, where)
                rows, where = [], []
        if rows:
            yield Piece({h: list(c) for h, c in zip(header, zip(*rows, strict=True), strict=True)}, where)

    return header, pieces()


def _rows(reader: Any, name: str, width: int) -> Iterator[list[str]]:
    try:
        for row in reader:
            if not row:
                continue  # a blank line
            if len(row) != width:
                raise InputError(f"{name}, line {reader.line_num}: must have {width} values, as the header has. Got {len(row)}; "
                                 "look for a comma too many or too few.")  # fmt: skip
            yield row
    except (UnicodeDecodeError, csv.Error) as e:
        raise InputError(f"{name} must be a text file with comma-separated values. Got {e}.") from None


def _parquet(source: Path) -> tuple[list[str], Iterator[Piece]]:
    need_arrow(source)
    import pyarrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(source)
    except (pyarrow.ArrowInvalid, OSError) as e:
        raise InputError(f"{source} must be a Parquet file. Got {e}.") from None
    schema = file.schema_arrow
    names = [f"{f.name} [{u}]" if (u := _unit(f)) else f.name for f in schema]

    def pieces() -> Iterator[Piece]:
        k = 0
        for batch in file.iter_batches(ROWS):
            where = [f"{source}, row {k + i + 1}" for i in range(batch.num_rows)]
            k += batch.num_rows
            yield Piece(dict(zip(names, batch.columns, strict=True)), where, schema)

    return names, pieces()


def _unit(field: Any) -> str:
    return (field.metadata or {}).get(b"units", b"").decode()


def _parsed(texts: list[str]) -> np.ndarray:
    try:
        return np.array(texts, dtype=np.float64)
    except ValueError:
        return np.array([_number(t) for t in texts])


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return np.nan


def _arrow_numbers(column: Any, name: str) -> np.ndarray:
    try:
        return column.cast("float64", safe=False).to_numpy(zero_copy_only=False)
    except (ValueError, NotImplementedError, TypeError):
        return np.array([_number(str(x)) for x in column.to_pylist()])


def _shown(value: Any) -> str:
    return repr(value) if isinstance(value, float) else str(value)
