"""The parts of a command's settings: working files, where outputs are read, and what counts as success."""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator

from emulate.errors import InputError, nearest, shown
from emulate.runs import Field
from emulate.simulators.command.coordinates import coordinate_of
from emulate.simulators.command.folder import judge_name

Format = Literal["auto", "table", "csv", "json", "yaml", "npy", "npz", "hdf5", "netcdf"]
Selector = int | str | None


class Part:
    """What all parts share: no unknown keys."""

    __pydantic_config__: ClassVar[dict] = {"extra": "forbid", "allow_inf_nan": False}


@dataclass(frozen=True, kw_only=True)
class Working(Part):
    """A file or folder of the user's that a run finds in its folder."""

    copy: str = ""  # the file or folder to copy
    link: str = ""  # the file or folder to link: for large ones that the program only reads
    hashed: bool = True  # its content enters the key of every run; false for huge data, which `revision` speaks for

    def __post_init__(self):
        if bool(self.copy) == bool(self.link):
            raise InputError("a working file must have one of `copy` and `link`. Got "
                             f"{'both' if self.copy else 'neither'}; write {{copy: PATH}} or {{link: PATH}}.")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Read(Part):
    """Where an output stands: a file of the run's folder, and the place in it."""

    file: str  # relative to the run's folder; stdout.txt and stderr.txt hold what the program printed
    format: Format = "auto"  # auto: by the file's ending, else a table of numbers between spaces
    column: Selector = None  # of a table, CSV or array: its number from 1, or its name in the header
    row: int | None = None  # of a table, CSV or array: its number from 1, or from the end, -1 the last
    key: str = ""  # in JSON and YAML names and numbers from 0 with dots between; in NPZ, HDF5, NetCDF the array's path
    at_column: Selector = None  # where the coordinate stands in the file; every run is held against `at`
    at_key: str = ""  # the same for a format that is read by keys
    skip: int = 0  # lines to leave out at the start of a table or CSV

    def __post_init__(self):
        judge_name(self.file, "outputs: file", printed=True)
        for name, value in (("column", self.column), ("at_column", self.at_column)):
            if isinstance(value, bool) or value == "" or (isinstance(value, int) and value < 1):
                raise InputError(f"outputs: {name} must be a name, or a number counted from 1. Got {shown(value)}.")
        if self.row == 0 or isinstance(self.row, bool) or self.skip < 0:
            raise InputError("outputs: row must be counted from 1, or from the end by -1, and skip must not be below 0. "
                             f"Got row = {self.row}, skip = {self.skip}.")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Pattern(Part):
    """A text that a file of the run's folder must hold."""

    file: str  # of the run's folder that holds it; stdout.txt and stderr.txt hold what was printed
    text: str = ""  # as it stands
    regex: str = ""  # or a regular expression, ^ and $ at every line

    def __post_init__(self):
        judge_name(self.file, "success.pattern.file", printed=True)
        if bool(self.text) == bool(self.regex):
            raise InputError("success.pattern must have one of `text` and `regex`. "
                             f"Got {'both' if self.text else 'neither'}.")  # fmt: skip
        try:
            re.compile(self.regex)
        except (re.error, OverflowError, RecursionError) as e:
            raise InputError(
                f"success.pattern.regex must be a regular expression. Got {shown(self.regex)}: {e}."
            ) from None


def _codes(value: Any) -> Any:
    return (value,) if isinstance(value, int) and not isinstance(value, bool) else value


Codes = Annotated[tuple[int, ...], BeforeValidator(_codes, json_schema_input_type=int | list[int])]


@dataclass(frozen=True, kw_only=True)
class Success(Part):
    """When a run has finished well; each that is given must hold."""

    exit_code: Codes = (0,)  # of the program; one, or a list of which each is good
    file: str = ""  # a file that the program makes when it is done
    pattern: Pattern | None = None  # a text that a file must hold

    def __post_init__(self):
        if self.file:
            judge_name(self.file, "success.file")


def _steps(value: Any) -> Any:
    """One argument list, or a list of them, as a tuple of tuples of text."""
    if isinstance(value, str):
        try:
            words = shlex.split(value)
        except ValueError:
            words = value.split()
        raise InputError(f"command must be a list of arguments, for no shell reads it. Got {shown(value)}; "
                         f"write [{', '.join(words)}].")  # fmt: skip
    if not isinstance(value, list | tuple) or not value:
        raise InputError(f"command must be a list of arguments, or a list of such lists. Got {shown(value)}.")
    steps = value if all(isinstance(step, list | tuple) for step in value) else [value]
    return tuple(tuple(_argument(a) for a in step) for step in steps if _started(step))


def _started(step: Any) -> bool:
    if not step or not isinstance(step[0], str) or not step[0].strip():
        raise InputError(f"command: every step must start with a program. Got {shown(step)}.")
    return True


def _argument(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or "\0" in value:
        raise InputError(f"command: every argument must be text. Got {shown(value)}; put it in quotes, steps in brackets "
                         "of their own.")  # fmt: skip
    return value


Steps = Annotated[tuple[tuple[str, ...], ...],
                  BeforeValidator(_steps, json_schema_input_type=list[str | int] | list[list[str | int]])]  # fmt: skip

_FIELD = ("name", "size", *(f for f in Field.__dataclass_fields__ if f != "name"))
_READ = tuple(Read.__dataclass_fields__)


def separated(outputs: Any, read: Any) -> tuple[Any, Any]:
    """The list of a study, where what an output is stands beside where it is read, as two settings."""
    if not isinstance(outputs, list | tuple) or not isinstance(read, Mapping | None):
        return outputs, read
    what, where = [], dict(read or {})
    for entry in outputs:
        if not isinstance(entry, Mapping):
            what.append(entry)
            continue
        name = entry.get("name")
        for key in entry:
            if key not in (*_FIELD, *_READ):
                raise InputError(f"output {name!r}: the key {key!r} is not known; keys are {', '.join((*_FIELD, *_READ))}"
                                 f".{nearest(str(key), (*_FIELD, *_READ))}")  # fmt: skip
        place = {k: v for k, v in entry.items() if k in _READ}
        if place and name in where:
            raise InputError(f"output {name!r} must be read at one place. Got keys beside it, and under `read`.")
        if place:
            where[name] = place
        rest = {k: v for k, v in entry.items() if k not in _READ}
        what.append(
            rest | ({"at": coordinate_of(name or "", rest["at"])} if isinstance(rest.get("at"), Mapping) else {})
        )
    return what, where
