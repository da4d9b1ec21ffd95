"""Tables of answers, written piece by piece, each file whole or not at all: the columns of the points, then the new ones."""

import csv
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from emulate.errors import InputError
from pipelines.files import replacing
from pipelines.points import TABLES, Piece, need_arrow


class Table(Protocol):
    """Where pieces go; `new` are float64 columns `[n]` by name."""

    def write(self, piece: Piece, new: dict[str, np.ndarray]) -> None: ...


@contextmanager
def opened(out: Path | None) -> Iterator[Table]:
    """A CSV or Parquet file, or a CSV on standard output."""
    if out is None:
        yield _Csv(sys.stdout)
        return
    if out.suffix not in TABLES:
        raise InputError(f"--out must end in .csv or .parquet for points from a table, and in .nc for points from NetCDF. Got "
                         f"{out}; give it another ending.")  # fmt: skip
    if out.suffix == ".parquet":
        need_arrow(out)
    with replacing(out) as temporary:
        if out.suffix == ".csv":
            with open(temporary, "w", newline="", encoding="utf-8") as f:
                yield _Csv(f)
        else:
            table = _Parquet(temporary)
            try:
                yield table
            finally:
                table.close()


class _Csv:
    def __init__(self, stream: IO[str]):
        self.writer, self.begun = csv.writer(stream), False

    def write(self, piece: Piece, new: dict[str, np.ndarray]) -> None:
        names = list(piece.columns)
        if not self.begun:
            self.writer.writerow([*names, *new])
            self.begun = True
        numbers = np.stack(list(new.values()), 1).tolist()
        self.writer.writerows([*old, *map(repr, row)] for old, row in zip(piece.text(names), numbers, strict=True))


class _Parquet:
    def __init__(self, path: Path):
        self.path, self.file = path, None

    def write(self, piece: Piece, new: dict[str, np.ndarray]) -> None:
        import pyarrow
        from pyarrow import parquet

        old = {n: pyarrow.array(c) if isinstance(c, list) else c for n, c in piece.columns.items()}
        known = (
            list(piece.metadata) if piece.metadata is not None else [pyarrow.field(n, pyarrow.string()) for n in old]
        )
        fields = [*known, *(pyarrow.field(n, pyarrow.float64()) for n in new)]
        schema = pyarrow.schema(fields, piece.metadata.metadata if piece.metadata is not None else None)
        if self.file is None:
            self.file = parquet.ParquetWriter(self.path, schema)
        self.file.write_table(pyarrow.table([*old.values(), *map(pyarrow.array, new.values())], schema))

    def close(self) -> None:
        if self.file is not None:
            self.file.close()


def apart(columns: list[str], new: list[str], source: Any) -> None:
    """Complain about columns of the points that the answers would be called by."""
    held = {c.split(" [")[0] for c in columns} | set(columns)  # a unit may stand behind a name
    if taken := [n for n in new if n in held]:
        raise InputError(f"{source} must leave the names of the answers free. Got a column {taken[0]!r}; rename it.")
