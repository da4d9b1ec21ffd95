"""Runs that are there already, in a table."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import BeforeValidator
from torch import Tensor

from emulate.columns import named, table, unit_of
from emulate.contracts import Simulator
from emulate.errors import InputError, RunFailed, nearest
from emulate.runs import Field, Outputs
from emulate.simulators._fields import NUMBER, OutputsSetting
from emulate.space import Parameter, Space, Uniform


def _listed(value: Any) -> Any:
    """The columns of each output, one of them without a list."""
    if not isinstance(value, Mapping):
        raise ValueError(f"columns must be outputs with their columns, such as {{x: [x1, x2]}}. Got {value!r}.")
    return {k: (v,) if isinstance(v, str) else v for k, v in value.items()}


ColumnsSetting = Annotated[dict[str, tuple[str, ...]], BeforeValidator(_listed)]


@dataclass(frozen=True, kw_only=True)
class Table(Simulator):
    """Runs that are there already, in a table: a column for each parameter and each output, a row for each run.

    For runs of last year, of a colleague, of a code that is not at hand. It answers at its rows alone: a study splits them
    into runs to train on and runs held out, and judges emulators by these; what needs a run elsewhere, as the gradient of the
    simulator or the true posterior, nobody can say. An empty output is a run that failed.

    The table is text, between commas, semicolons, tabs or blanks. A column has the name of its parameter or output, with the
    unit behind it or without (`load [kN]`), those of a vector the labels that `Runs.to_pandas` writes (`pk[k=0.1]`), or names
    of their own, which `columns` lists: `{pk: [k1, k2]}`, or from the first to the last as they stand, `{pk: "k1:k2"}`. Other
    columns are left alone. The content of the file enters the key of every run.

    >>> import numpy as np
    >>> _ = open("beams.csv", "w").write("load [kN],sag [mm],who\\n1,0.5,me\\n2,1.0,you\\n3,,me\\n")
    >>> space = Space((Parameter("load", Uniform(0, 5), unit="kN"),))
    >>> beams = Table(space=space, file="beams.csv", outputs=Outputs((Field("sag", "mm"),)))
    >>> beams.rows().ravel().tolist(), beams.run(torch.tensor([2.0], dtype=torch.float64), seed=0)
    ([1.0, 2.0, 3.0], tensor([1.], dtype=torch.float64))
    """

    space: Space
    file: str  # the table; paths start where emulate runs
    outputs: OutputsSetting = NUMBER  # fields, each with name, size or at, unit ...
    columns: ColumnsSetting = field(default_factory=dict)  # of an output whose columns have names of their own
    stochastic: bool = False  # a run of the same parameters would have given another answer

    incidental: ClassVar[tuple[str, ...]] = ("file",)
    example: ClassVar[dict] = {"file": "configs/beams.csv", "space": Space((
        Parameter("load", Uniform(0.5, 5.0), unit="kN"), Parameter("length", Uniform(1.0, 2.0), unit="m"))),
        "outputs": [{"name": "sag", "unit": "mm", "positive": True}]}  # fmt: skip

    def __post_init__(self):
        names = [f.name for f in self.outputs.fields]
        if unknown := [n for n in self.columns if n not in names]:
            raise InputError(f"columns must name outputs: {', '.join(names)}. Got {unknown[0]!r}.")
        if both := [n for n in names if n in self.space.names]:
            raise InputError(f"an output must not be called as a parameter. Got {both[0]!r} for both; rename one.")

    @property
    def version(self) -> str:
        """The first digits of the sha256 of the table."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        """Of the very content that the rows are of: it is read once."""
        _ = self._read  # a table that cannot be read is met here
        return hashlib.sha256(Path(self.file).read_bytes()).hexdigest()[:16]

    def rows(self) -> Tensor:
        return torch.from_numpy(self._read[0].copy())

    def run(self, theta: Tensor, *, seed: int) -> Tensor:
        _, at, y, lines = self._read
        i = at.get(tuple(theta.detach().double().tolist()))
        if i is None:
            raise RunFailed("error", f"{self.file} has no run at these parameters, and no other can be made. Ask for points of "
                                     "the table, or name the simulator itself.")  # fmt: skip
        if not np.isfinite(y[i]).all():
            raise RunFailed(
                "nonfinite", f"an output of this run is empty, or no finite number, in {self.file}.", f"line {lines[i]}"
            )
        return torch.from_numpy(y[i].copy())

    @cached_property
    def _read(self) -> tuple[np.ndarray, dict[tuple[float, ...], int], np.ndarray, list[int]]:
        """theta `[n, d]`, the row of each, y `[n, m]` and the line of each row."""
        if not Path(self.file).is_file():
            met = "is a folder" if Path(self.file).is_dir() else "is not there"
            raise InputError(f"simulator.file: must be a table. Got {self.file!r}, which {met}; paths start where emulate runs, "
                             f"here {Path.cwd()}.")  # fmt: skip
        units = {p.name: p.unit for p in self.space.parameters}
        wanted = {c: f.unit for f in self.outputs.fields for c in self._columns_of(f)}
        if both := [c for c in wanted if c in units]:
            raise InputError(
                f"simulator.columns: must be columns of outputs. Got {both[0]}, which is a parameter; name another."
            )
        if len(wanted) < self.outputs.size:
            raise InputError(f"{self.file} must have a column for each of the {self.outputs.size} values. Got "
                             f"{len(wanted)} names; give coordinates that differ, or name `columns`.")  # fmt: skip
        numbers, lines = table(self.file, units | wanted, gaps=wanted)
        theta, y = numbers[:, : len(units)], numbers[:, len(units) :]
        at: dict[tuple[float, ...], int] = {}
        for i, point in enumerate(map(tuple, theta.tolist())):
            if (first := at.setdefault(point, i)) != i:
                raise InputError(f"{self.file}, line {lines[i]}: must be at other parameters than line {lines[first]}, which a "
                                 "study would take for the same run. Keep one; runs that repeat a point are learnt in Python, by "
                                 "Runs.from_pandas.")  # fmt: skip
        return theta, at, y, lines

    def _columns_of(self, f: Field) -> tuple[str, ...]:
        listed = self.columns.get(f.name)
        if listed is None:
            return Outputs((f,)).labels
        made = tuple(c for part in listed for c in self._between(part))
        if len(made) != f.size:
            raise InputError(f"columns.{f.name}: must be as many as the output has values, {f.size}. Got {len(made)}; mend one of "
                             "them.")  # fmt: skip
        return made

    def _between(self, part: str) -> tuple[str, ...]:
        """`FIRST:LAST` as the columns from one to the other; the name of a column as it is."""
        given = named(self.file)[0]
        head = [unit_of(h)[0] for h in given]
        first, mark, last = (unit_of(p.strip())[0] for p in part.partition(":"))
        if part in (*head, *given) or not mark:
            return (unit_of(part)[0],)
        for end in (first, last):
            if end not in head:
                raise InputError(f"simulator.columns: {part} must be from one column to another. Got {end!r}, and {self.file} has "
                                 f"{', '.join(head[:6])}{', ...' if len(head) > 6 else ''}.{nearest(end, head)}")  # fmt: skip
        if head.index(last) < head.index(first):
            raise InputError(
                f"simulator.columns: {part} must be from left to right. Got {last!r} before {first!r}; swap them."
            )
        return tuple(head[head.index(first) : head.index(last) + 1])
