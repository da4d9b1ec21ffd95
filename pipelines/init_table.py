"""`emulate init --table`: a commented study of a table of runs; parameters are named, and all other numbers are outputs."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from emulate import columns
from emulate.errors import InputError, nearest
from pipelines import init

RANGE = "NAME[=LOW:HIGH[:log]]"
_LABEL = re.compile(r"(\w+)\[(\w+)=([^\]]+)\]")  # of one value of a vector, as tables of runs are written


@dataclass(frozen=True)
class Column:
    """A column of numbers: its name without the unit, the unit, the least and the greatest."""

    name: str
    unit: str
    low: float
    high: float


def write(study: Path, file: Path, parameters: Sequence[str], outputs: Sequence[str], ask: Callable[..., str], *,
          force: bool = False) -> str:  # fmt: skip
    """Write the study of a table; what comes next, in words.

    Raises InputError where the study is there already, or a column is not.
    """
    init.free(study, force)
    found = read(file)
    parameters = list(parameters) or _asked(ask, found)
    known = {c.name: c for c in found}
    chosen = [_parameter(p, known, file) for p in parameters]
    names = [line.partition(":")[0] for line in chosen]
    rest = [_known(o, known, file) for o in outputs] if outputs else [c for c in found if c.name not in names]
    if not rest:
        raise InputError(f"{file} must have an output beside {', '.join(names)}. Got no other column of numbers; name fewer "
                         "parameters.")  # fmt: skip
    study.parent.mkdir(parents=True, exist_ok=True)
    init.place(study, _text(study, file, chosen, rest))
    return f"{study} is written: {len(chosen)} parameters, {len(rest)} values. Next:\n  emulate run {study}"


def read(file: Path) -> list[Column]:
    """The columns of numbers, in their order; those with a word in them are left out."""
    head, rows = columns.named(file)
    units = dict(map(columns.unit_of, head))
    found = []
    for name, unit in units.items():
        try:
            x = columns.table(file, {name: ""}, gaps=(name,))[0][:, 0]
        except InputError:
            continue
        if np.isfinite(x).any():
            found.append(Column(name, unit, float(np.nanmin(x)), float(np.nanmax(x))))
    if not found:
        raise InputError(f"{file} must have columns of numbers. Got none in {len(rows)} rows.")
    return found


def _asked(ask: Callable[..., str], found: Sequence[Column]) -> list[str]:
    question = f"The parameters, of {', '.join(c.name for c in found)} (commas between)"
    try:
        return [w for w in re.split(r"[,\s]+", str(ask(question)).strip()) if w]
    except (EOFError, RuntimeError) as e:  # typer's Abort is a RuntimeError
        raise InputError("--parameter must be given where nobody can be asked. Got the end of the input.") from e


def _known(name: str, known: dict[str, Column], file: Path) -> Column:
    if name not in known:
        raise InputError(f"{file} must have a column of numbers called {name!r}. It has {', '.join(known)}; name one of them"
                         f".{nearest(name, known)}")  # fmt: skip
    return known[name]


def _parameter(answer: str, known: dict[str, Column], file: Path) -> str:
    """`load: {uniform: [0.5, 5.0], unit: kN}`, from the least to the greatest where no range is given."""
    name = answer.partition("=")[0].strip()
    column = _known(name, known, file)
    if "=" not in answer and column.low == column.high:
        raise InputError(
            f"a parameter must differ between runs. Got {name} = {column.low:g} in all of {file}; take it out."
        )
    given = answer if "=" in answer else f"{name}={column.low!r}:{column.high!r}"
    name, prior, low, high = init.parameter(given)
    unit = f", unit: {init.quoted(column.unit)}" if column.unit else ""
    return f"{name}: {{{prior}: [{low}, {high}]{unit}}}"


def _text(study: Path, file: Path, parameters: Sequence[str], outputs: Sequence[Column]) -> str:
    fields, listed = _fields(outputs)
    lines = [
        f"# A study of runs that are there already, in {file}; one in five is held out and judges the emulator.",
        f"#   emulate run {study}",
        f"name: {init.quoted(init.named(study))}",
        "parameters:                 # the range of each is that of the table, unless you know better",
        *(f"  {p}" for p in parameters),
        "simulator:",
        "  use: table",
        f"  file: {init.quoted(str(file))}",
        "  outputs:                  # positive: true for what is above zero by nature; emulators may then learn its logarithm",
        *(f"    - {f}" for f in fields),
        *([f"  columns: {{{', '.join(f'{k}: {init.quoted(v)}' for k, v in listed.items())}}}"] if listed else []),
        "  # stochastic: true        # runs of the same parameters would have differed",
        "# design: {held_out: 20}    # empty: one in five, 20 at most",
        "emulators: {gp: {use: gp}}  # or auto: the best of several, in some minutes",
        "infer: null                 # or observation: {file: PATH} with data of yours, and likelihood: {use: gaussian, ...}",
    ]
    return "\n".join(lines) + "\n"


def _fields(outputs: Sequence[Column]) -> tuple[list[str], dict[str, str]]:
    """The fields as YAML, vectors in one, and the columns that are not called by their field."""
    vectors: dict[tuple[str, str], list[Column]] = {}
    fields: list[str] = []
    listed: dict[str, str] = {}
    for c in outputs:
        if (label := _LABEL.fullmatch(c.name)) and math.isfinite(_number(label[3])):
            vectors.setdefault((label[1], label[2]), []).append(c)
            continue
        name = re.sub(r"\W+", "_", c.name).strip("_") or "y"
        name = name if name.isidentifier() else f"y_{name}"
        if name != c.name:
            listed[name] = c.name
        unit = f", unit: {init.quoted(c.unit)}" if c.unit else ""
        fields.append(f"{{name: {name}{unit}, positive: {str(c.low > 0).lower()}}}")
    for (name, coordinate), some in vectors.items():
        at = ", ".join(_LABEL.fullmatch(c.name)[3] for c in some)  # type: ignore[index]
        unit = f", unit: {init.quoted(some[0].unit)}" if some[0].unit else ""
        positive = str(all(c.low > 0 for c in some)).lower()
        fields.append(f"{{name: {name}{unit}, positive: {positive}, coordinate: {coordinate}, at: [{at}]}}")
    return fields, listed


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        return math.nan
