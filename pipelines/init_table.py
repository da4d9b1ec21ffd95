"""`emulate init --table`: a commented study of a table of runs; parameters are named, and all other numbers are outputs."""

import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from emulate import columns
from emulate.errors import InputError, nearest
from pipelines import init
from pipelines.terminal import count

RANGE = "NAME[=LOW:HIGH[:log]]"
_MEANT = 0.5  # share of the cells that are numbers from which on a column is meant to hold nothing else
_LABEL = re.compile(r"(\w+)\[(\w+)=([^\]]+)\]")  # of one value of a vector, as tables of runs are written


@dataclass(frozen=True)
class Column:
    """A column of numbers: its name without the unit, the unit, the least and the greatest; whether it counts the rows."""

    name: str
    unit: str
    low: float
    high: float
    counts: bool = False


def write(study: Path, file: Path, parameters: Sequence[str], outputs: Sequence[str], ask: Callable[..., str], *,
          force: bool = False) -> str:  # fmt: skip
    """Write the study of a table; what was left out and what comes next, in words.

    Raises InputError where the study is there already, or a column is not.
    """
    init.free(study, force)
    found, lost = read(file)
    known = {c.name: c for c in found}
    chosen: dict[str, str] = {}
    for answer in list(parameters) or _asked(ask, found):
        name, line = _parameter(answer, known, lost, file)
        if name in chosen:
            raise InputError(f"a parameter must be named once. Got {name} twice; take one out.")
        chosen[name] = line
    rest = [_known(o, known, lost, file) for o in dict.fromkeys(outputs)] or [c for c in found if c.name not in chosen]
    if both := [c.name for c in rest if c.name in chosen]:
        raise InputError(f"a column must be a parameter or an output. Got {both[0]} as both; take one out.")
    if not outputs:
        lost |= {c.name: "counts the rows" for c in rest if c.counts}
        rest = [c for c in rest if not c.counts]
    if not rest:
        raise InputError(f"{file} must have an output beside {', '.join(chosen)}. Got no other column of numbers; name fewer "
                         f"parameters.{_left_out(lost)}")  # fmt: skip
    study.parent.mkdir(parents=True, exist_ok=True)
    init.place(study, _text(study, file, chosen, rest))
    said = (
        f"{study} is written: {count(len(chosen), 'parameter')}, {count(len(rest), 'value')} of a run.{_left_out(lost)}"
    )
    return f"{said} Next:\n  emulate run {study}"


def read(file: Path) -> tuple[list[Column], dict[str, str]]:
    """The columns of numbers in their order, and why the others are left out.

    Raises InputError where a column of numbers holds something else: it would be missing, and nobody told.
    """
    head, rows = columns.named(file)
    found, lost = [], {}
    for place, (name, unit) in enumerate(map(columns.unit_of, head)):
        line, cell, share = columns.odd(rows, place)
        if not name or (cell and share < _MEANT):
            lost[name or f"number {place + 1}"] = f"holds {cell!r} in line {line}" if name else "has no name"
            continue
        x = columns.table(file, {name: ""}, gaps=(name,))[0][:, 0]
        if np.isfinite(x).any():
            counts = bool((np.diff(x) == 1).all() and x[0] in (0, 1)) and len(x) > 2
            found.append(Column(name, unit, float(np.nanmin(x)), float(np.nanmax(x)), counts))
        else:
            lost[name] = "is empty"
    if not found:
        raise InputError(
            f"{file} must have columns of numbers. Got none in {count(len(rows), 'row')}.{_left_out(lost)}"
        )
    return found, lost


def _left_out(lost: Mapping[str, str]) -> str:
    return f" Left out: {'; '.join(f'{name} {why}' for name, why in lost.items())}." if lost else ""


def _asked(ask: Callable[..., str], found: Sequence[Column]) -> list[str]:
    question = f"The parameters, of {', '.join(c.name for c in found)} (commas between)"
    try:
        return [w for w in re.split(r"[,\s]+", str(ask(question)).strip()) if w]
    except (EOFError, RuntimeError) as e:  # typer's Abort is a RuntimeError
        raise InputError("--parameter must be given where nobody can be asked. Got the end of the input.") from e


def _known(name: str, known: Mapping[str, Column], lost: Mapping[str, str], file: Path) -> Column:
    name = columns.unit_of(name)[0]
    if name in lost:
        raise InputError(
            f"{file} must have a column of numbers called {name!r}. Got one that {lost[name]}; mend it, or name another."
        )
    if name not in known:
        raise InputError(f"{file} must have a column of numbers called {name!r}. It has {', '.join(known)}; name one of them"
                         f".{nearest(name, known)}")  # fmt: skip
    return known[name]


def _parameter(answer: str, known: Mapping[str, Column], lost: Mapping[str, str], file: Path) -> tuple[str, str]:
    """Its name, and `load: {uniform: [0.5, 5.0], unit: kN}`, from the least to the greatest where no range is given."""
    given = answer if answer in known else answer.partition("=")[0].strip()
    column = _known(given, known, lost, file)
    name = column.name
    if not name.isidentifier():
        raise InputError(f"a parameter must be called by a word of letters, digits and _. Got the column {name!r} of {file}; "
                         f"rename it there, such as {_word(name)}, its unit behind it as [kN].")  # fmt: skip
    if given == answer and column.low == column.high:
        raise InputError(
            f"a parameter must differ between runs. Got {name} = {column.low:g} in all of {file}; take it out."
        )
    _, prior, low, high = init.parameter(f"{name}={column.low!r}:{column.high!r}" if given == answer else answer)
    if float(low) > column.low or float(high) < column.high:
        raise InputError(f"the range of a parameter must hold all runs. Got {answer}, and runs from {column.low:g} to "
                         f"{column.high:g} in {file}; widen it, or take rows out.")  # fmt: skip
    unit = f", unit: {init.quoted(column.unit)}" if column.unit else ""
    return name, f"{init.quoted(name)}: {{{prior}: [{low}, {high}]{unit}}}"


def _word(name: str) -> str:
    word = re.sub(r"\W+", "_", name).strip("_") or "y"
    return word if word.isidentifier() else f"y_{word}"


def _text(study: Path, file: Path, parameters: Mapping[str, str], outputs: Sequence[Column]) -> str:
    fields, listed = _fields(outputs, set(parameters))
    lines = [
        f"# A study of runs that are there already, in {file}; one in five is held out and judges the emulator.",
        f"#   emulate run {study}",
        f"name: {init.quoted(init.named(study))}",
        "parameters:                 # the range of each is that of the table, unless you know better",
        *(f"  {p}" for p in parameters.values()),
        "simulator:",
        "  use: table",
        f"  file: {init.quoted(str(file))}",
        "  outputs:                  # positive: true for what is above zero by nature; emulators may then learn its logarithm",
        *(f"    - {f}" for f in fields),
        *(
            [f"  columns: {{{', '.join(f'{init.quoted(k)}: {init.quoted(v)}' for k, v in listed.items())}}}"]
            if listed
            else []
        ),
        "  # stochastic: true        # runs of the same parameters would have differed",
        "# design: {held_out: 20}    # empty: one in five, 20 at most",
        "emulators: {gp: {use: gp}}  # or auto: the best of several, in some minutes",
        "infer: null                 # or observation: {file: PATH} with data of yours, and likelihood: {use: gaussian, ...}",
    ]
    return "\n".join(lines) + "\n"


def _fields(outputs: Sequence[Column], taken: set[str]) -> tuple[list[str], dict[str, str]]:
    """The fields as YAML, vectors in one, and the columns that are not called by their field."""
    vectors: dict[str, list[tuple[Column, str, str]]] = {}
    for c in outputs:
        if (label := _LABEL.fullmatch(c.name)) and math.isfinite(_number(label[3])):
            vectors.setdefault(label[1], []).append((c, label[2], label[3]))
    plain = {c.name for c in outputs}
    whole = {name: some for name, some in vectors.items()
             if name not in taken | plain and len({(c.unit, coordinate) for c, coordinate, _ in some}) == 1}  # fmt: skip
    inside = {c.name for some in whole.values() for c, _, _ in some}
    taken, fields, listed = taken | set(whole), [], {}
    for c in outputs:
        if c.name in inside:
            continue
        word = _word(c.name)
        name = next(w for w in itertools.chain([word], (f"{word}_{i}" for i in itertools.count(2))) if w not in taken)
        taken.add(name)
        if name != c.name:
            listed[name] = c.name
        fields.append(_field(name, [c], ""))
    for name, some in whole.items():
        along = f", coordinate: {init.quoted(some[0][1])}, at: [{', '.join(at for _, _, at in some)}]"
        fields.append(_field(name, [c for c, _, _ in some], along))
    return fields, listed


def _field(name: str, some: Sequence[Column], along: str) -> str:
    unit = f", unit: {init.quoted(some[0].unit)}" if some[0].unit else ""
    return f"{{name: {init.quoted(name)}{unit}, positive: {str(all(c.low > 0 for c in some)).lower()}{along}}}"


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        return math.nan
