"""Any program as a simulator: each run in a folder of its own, from templates to decoded outputs."""

import contextlib
import os
import sys
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from annotated_types import Ge, Gt
from pydantic import model_validator
from torch import Tensor

from emulate.contracts import Simulator
from emulate.errors import InputError, RunFailed
from emulate.runs import Field
from emulate.simulators._callables import find, numbers
from emulate.simulators._fields import NUMBER, OutputsSetting
from emulate.simulators.command import folder as scratch
from emulate.simulators.command import process
from emulate.simulators.command.decoders import open_content
from emulate.simulators.command.judging import field_of, finite, judge_exit, judge_success
from emulate.simulators.command.settings import Read, Steps, Success, Working, separated
from emulate.simulators.command.sources import Sources, gather
from emulate.simulators.command.templates import Template
from emulate.space import Parameter, Space, Uniform

_THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
_LOG_BYTES = 6000  # of all that is kept with a failure
_ECHO_BYTES = 1000  # of each, kept with a run that finished
_REASON = 1500  # characters
_MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Command(Simulator):
    """Any program, run once per point in a folder of its own: input files from templates, outputs from its files.

    `command` is an argument list (no shell reads it), or a list of such steps that run in order in the same folder. The
    program is one on the PATH, a file of yours (`./code`, relative to the folder where emulate is started), or a working
    file. Arguments, templates and values of the environment may hold `{{ name }}` for every parameter, `{{ seed }}` for a
    stochastic program, formats such as `{{ "%.6e" % name }}`, if, for, and exp, log, log10, sqrt, sin, cos, pi.

    An output names the file that it is read from, with its place: column and row of a table, CSV or array, key of JSON,
    YAML, NPZ, HDF5, NetCDF. `at` may be numbers, or `{file: PATH, column: 1}`: those of a file that is there already.

    The content of templates, working files, decoder and program enters the key of every run, so what has changed is run
    again; `revision` speaks for what is not a file of yours. The program sees your environment without PYTHONPATH; the
    end of what it prints is printed to stderr, and a runner keeps that with the run.

    Raises InputError for what no run can mend, and RunFailed with the log for a run that failed.

    >>> from emulate.runs import Field, Outputs
    >>> space = Space((Parameter("x", Uniform(0.0, 1.0)),))
    >>> echo = Command(space=space, command=(("echo", "{{ 2 * x }}"),), read={"y": Read(file="stdout.txt")},
    ...                outputs=Outputs((Field("y"),)))
    >>> echo.run(torch.tensor([0.25], dtype=torch.float64), seed=0)
    tensor([0.5000], dtype=torch.float64)
    """

    space: Space
    command: Steps  # the program and its arguments, or a list of such steps
    outputs: OutputsSetting = NUMBER  # fields with name, size or at, unit ..., and the file each is read from
    read: dict[str, Read] = field(default_factory=dict)  # where each output is read; may stand beside it under outputs
    decode: str = ""  # or "module:function", given the run's folder; returns a dict of the outputs that name no file
    templates: dict[str, str] = field(default_factory=dict)  # name in the run's folder: file with {{ name }} in it
    files: dict[str, Working] = field(default_factory=dict)  # name in the run's folder: {copy: PATH} or {link: PATH}
    success: Success = field(default_factory=Success)  # what a good end is: exit_code, file, pattern
    launcher: tuple[str, ...] = ()  # put before every step: [mpirun, -n, "4"]
    threads: Annotated[int, Ge(1)] | None = None  # of OpenMP and BLAS in the program; empty: the cores that a run owns
    environment: dict[str, str] = field(default_factory=dict)  # variables of the program, over your own
    stochastic: bool = False  # it takes {{ seed }} and draws its noise from it alone
    revision: str = ""  # any word; change it when a program on the PATH, or what it reads elsewhere, has changed
    keep: Literal["never", "failed", "always"] = "never"  # the folders of runs
    scratch: str = ""  # where those folders are made; empty: the system's place for temporary files
    logs: tuple[str, ...] = ()  # files of the run's folder whose ends are kept with a failure
    output_mib: Annotated[float, Gt(0)] = 64.0  # MiB, the largest file that is decoded
    printed_mib: Annotated[float, Gt(0)] = 256.0  # MiB, the most that a run may print before it is killed

    incidental: ClassVar[tuple[str, ...]] = (
        "templates", "files", "keep", "scratch", "logs", "output_mib", "printed_mib")  # fmt: skip
    example: ClassVar[dict] = {
        "command": ["printf", "%s\\n", "{{ a }}", "{{ a + b }}"], "space": Space((
            Parameter("a", Uniform(0.0, 1.0)), Parameter("b", Uniform(0.0, 1.0)))),
        "outputs": [{"name": "y", "size": 2, "file": "stdout.txt"}]}  # fmt: skip

    @model_validator(mode="before")
    @classmethod
    def _separated(cls, values: Any) -> Any:
        """Take apart what stands in one list of a study: an output, and where it is read."""
        if not isinstance(values, Mapping):
            return values
        outputs, read = separated(values.get("outputs"), values.get("read"))
        given = {k: v for k, v in (("outputs", outputs), ("read", read)) if v is not None}
        return {**values, **given}

    def __post_init__(self):
        names = [f.name for f in self.outputs.fields]
        if unknown := [n for n in self.read if n not in names]:
            raise InputError(f"read must name outputs: {', '.join(names)}. Got {unknown[0]!r}.")
        if lost := [n for n in names if n not in self.read and not self.decode]:
            raise InputError(f"output {lost[0]!r} must say where it is read: file, or `decode` for all. Got neither; write "
                             f"{{name: {lost[0]}, file: FILE, column: 1}}.")  # fmt: skip
        if self.stochastic and "seed" in self.space.names:
            raise InputError("a parameter must not be called seed where the program takes a seed. Rename it.")
        for name in self.logs:
            scratch.judge_name(name, "logs", printed=True)
        for name in self.environment:
            if not name.isidentifier() or not name.isascii():
                raise InputError(f"environment: a name must be made of letters, digits and _. Got {name!r}.")

    @property
    def version(self) -> str:
        """The first digits of the sha256 of everything of the user's that a run is made of, as it was first met."""
        return self._sources.digest

    @cached_property
    def _sources(self) -> Sources:
        made = gather(self)
        with contextlib.suppress(RunFailed):  # at the centre of the prior, so that a wrong template costs no campaign
            values = self._values(self.space.from_unit(torch.full((self.space.d,), 0.5, dtype=torch.float64)), seed=1)
            for template in _templates(made):
                template.render(values)
        return made

    @property
    def unread(self) -> list[str]:
        """The parameters that no file, argument or variable of the environment names: no run depends on them."""
        named = frozenset().union(*(template.names for template in _templates(self._sources)))
        return [name for name in self.space.names if name not in named]

    def _values(self, theta: Tensor, seed: int) -> dict[str, float | int]:
        values: dict[str, float | int] = dict(zip(self.space.names, theta.detach().double().tolist(), strict=True))
        return values | ({"seed": int(seed)} if self.stochastic else {})

    def run(self, theta: Tensor, *, seed: int) -> Tensor:
        sources, values = self._sources, self._values(theta, seed)
        sources.judge()
        try:
            with scratch.scratch(self.scratch, self.keep) as folder, self._logged(folder) as printed:
                self._fill(folder, sources, values)
                self._execute(folder, sources, values, printed)
                judge_success(self.success, folder, self._limit)
                return torch.from_numpy(self._decoded(folder))
        except RunFailed as e:
            raise RunFailed(e.kind, _clean(e.reason)[:_REASON], _clean(e.log)) from None

    @property
    def _limit(self) -> int:
        return int(self.output_mib * _MIB)

    @contextlib.contextmanager
    def _logged(self, folder: Path) -> Iterator[list]:
        """The open files for what is printed; a failure gets their ends, and those of the chosen files, as its log."""
        with contextlib.ExitStack() as stack:
            printed = [stack.enter_context(open(folder / name, "xb", buffering=0)) for name in scratch.PRINTED]
            try:
                yield printed
                self._echo(folder)
            except RunFailed as e:
                names = [*dict.fromkeys((*self.logs, *scratch.PRINTED))]
                ends = {n: scratch.tail(folder, n, _LOG_BYTES // len(names)) for n in names}
                log = "\n".join(f"--- {n}\n{end}" for n, end in ends.items() if end)
                raise RunFailed(e.kind, e.reason, "\n".join(x for x in (e.log, log) if x)) from None

    def _echo(self, folder: Path) -> None:
        """The end of what the program said, to where this process says things: a runner keeps it with the run."""
        outputs = {place.file for place in self.read.values()}
        for name in dict.fromkeys((*self.logs, *scratch.PRINTED)):
            if name not in outputs and (end := scratch.tail(folder, name, _ECHO_BYTES)):
                print(f"--- {name}\n{_clean(end)}", file=sys.stderr)

    def _fill(self, folder: Path, sources: Sources, values: Mapping[str, float | int]) -> None:
        try:
            for name, working in sorted(self.files.items()):
                place = Path(working.copy or working.link).expanduser().absolute()
                scratch.place(folder, name, place, link=bool(working.link))
            for name, (template, mode) in sources.templates.items():
                scratch.write(folder, name, template.render(values).encode(), mode)
        except UnicodeEncodeError as e:
            raise InputError(f"a template must make text. It makes half of a surrogate pair: {e.reason}.") from None
        except OSError as e:
            raise RunFailed("error", f"the run's folder cannot be filled: {e.strerror or e}.") from None

    def _execute(self, folder: Path, sources: Sources, values: Mapping[str, float | int], printed: list) -> None:
        own = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}  # that of this process is not the program's
        threads = str(self.threads or own.get("OMP_NUM_THREADS", "1"))
        given = {k: _without_nul(t.render(values), f"environment.{k}") for k, t in sources.environment.items()}
        environment = {**own, "PYTHONHASHSEED": "0", **dict.fromkeys(_THREADS, threads), **given}
        for i, (program, arguments) in enumerate(zip(sources.programs, sources.steps, strict=True)):
            words = [self.command[i][0], *(_without_nul(t.render(values), t.name) for t in arguments)]
            shown = " ".join(words) if len(" ".join(words)) <= 120 else f"{' '.join(words)[:116]} ..."
            what = f"step {i + 1} of {len(sources.steps)} (`{shown}`)" if len(sources.steps) > 1 else f"`{shown}`"
            start = folder / program
            if sources.launcher:
                words, start = [*self.launcher, str(start), *words[1:]], sources.launcher
            code = process.run(words, start, folder, environment, tuple(printed), int(self.printed_mib * _MIB), what)
            judge_exit(self.success, code, what, words[1:], folder)

    def _decoded(self, folder: Path) -> np.ndarray:
        """float64 `[m]`, every field from its place."""
        made: dict[str, np.ndarray] = {}
        with contextlib.ExitStack() as stack:
            contents: dict[tuple, Any] = {}
            for f in self.outputs.fields:
                if f.name in self.read:
                    place = self.read[f.name]
                    which = (place.file, place.format, place.skip)
                    if which not in contents:
                        stream = scratch.open_file(folder, place.file, f"output {f.name}", limit=self._limit)
                        stack.enter_context(stream)
                        contents[which] = open_content(stream, place.file, place.format, self._limit, place.skip)
                    made[f.name] = field_of(f, place, contents[which])
            rest = [f for f in self.outputs.fields if f.name not in made]
            made |= self._by_function(folder, rest) if rest else {}
        files = {n: place.file for n, place in self.read.items()}
        return np.concatenate([finite(f, made[f.name], files.get(f.name, self.decode)) for f in self.outputs.fields])

    def _by_function(self, folder: Path, fields: list[Field]) -> dict[str, np.ndarray]:
        try:
            answer = find(self.decode, "decode")(folder)
            if not isinstance(answer, Mapping):
                answer = {fields[0].name: answer} if len(fields) == 1 else {}
            if missing := [f.name for f in fields if f.name not in answer]:
                raise RunFailed("badshape", f"{self.decode} must return a dict with every output that names no file. "
                                            f"Missing: {', '.join(missing)}; it has "
                                            f"{', '.join(map(str, answer)) or 'none'}.")  # fmt: skip
            return {f.name: numbers(self.decode, answer[f.name], f.size, f" of {f.name}") for f in fields}
        except (RunFailed, InputError):
            raise
        except Exception as e:  # the user's function may raise anything
            raise RunFailed("error", f"{self.decode} raised {type(e).__name__}: {e}", _tail(e)) from None


def _without_nul(text: str, what: str) -> str:
    if "\0" in text:
        raise InputError(f"{what} must not hold a NUL. Got {text[:60]!r}.")
    return text


def _tail(e: Exception) -> str:
    return "\n".join("".join(traceback.format_exception(e)).splitlines()[-20:])


def _clean(text: str) -> str:
    """Text that any file and terminal takes: what a program wrote may hold anything."""
    text = text.encode("utf-8", "replace").decode()
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)


def _templates(sources: Sources) -> list[Template]:
    everywhere = [f.template for f in sources.templates.values()] + [t for s in sources.steps for t in s]
    return [*everywhere, *sources.environment.values()]
