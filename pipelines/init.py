"""`emulate init`: a commented study for a program of one's own, or for a table of runs, from a few answers; it is loaded before
it is written."""

import json
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from emulate.errors import InputError

_INPUTS = (".ini", ".cfg", ".txt", ".dat", ".in", ".json", ".yaml", ".toml", ".nml", ".par", ".param")
PARAMETER, OUTPUT = "NAME=LOW:HIGH[:log]", "NAME=FILE[:PLACE][*VALUES]"


@dataclass(frozen=True)
class Answers:
    """What is asked: the command line as one would type it, parameters and outputs in the forms above.

    `input` is the name of the file that the program reads its parameters from, empty when it takes arguments.
    """

    command: str
    parameters: Sequence[str]
    outputs: Sequence[str]
    input: str = ""
    name: str = ""


def asked(command: str, input_: str | None, parameters: Sequence[str], outputs: Sequence[str],
          ask: Callable[..., str]) -> Answers:  # fmt: skip
    """The answers given, and `ask(question, default=...)` for those that are not; an end of input is told with the option."""

    def one(question: str, option: str, default: str | None = None) -> str:
        try:
            return str(ask(question, default=default, show_default=bool(default))).strip()
        except (EOFError, RuntimeError) as e:  # typer's Abort is a RuntimeError
            raise InputError(f"{option} must be given where nobody can be asked. Got the end of the input.") from e

    def several(question: str, option: str) -> list[str]:
        found = [one(f"{question}", option)]
        while more := one("  one more, or enter to go on", option, ""):
            found.append(more)
        return found

    command = command or one("The program, as you would type it (such as python3 code.py input.ini)", "--command")
    if input_ is None:
        guess = next((w for w in command.split()[1:] if Path(w).suffix in _INPUTS), "")
        input_ = one("The input file that it reads its parameters from (enter for none)", "--input", guess)
    return Answers(command, parameters or several(f"A parameter with its range, {PARAMETER}", "--parameter"),
                   outputs or several(f"An output, {OUTPUT} (place: column or key)", "--output"), input_)  # fmt: skip


def advice(written: Sequence[Path], answers: Answers) -> str:
    """What was written, and what comes next."""
    study, *templates = written
    said = [f"{study} is written. Next:"]
    said += [f"  put {{{{ name }}}} into {t} where {answers.input} has the value of a parameter" for t in templates]
    return "\n".join([*said, f"  emulate simulate {study} --only 0 --verbose", f"  emulate run {study}"])


def write(study: Path, answers: Answers, *, force: bool = False) -> tuple[Path, ...]:
    """Write the study, and the template of its input file where there is none yet; the paths written.

    Raises InputError when the study is there already, or when an answer is not of its form.
    """
    free(study, force)
    template = study.parent / f"{PurePosixPath(answers.input).name}.j2" if answers.input else None
    names = [_split(p, PARAMETER)[0] for p in answers.parameters]
    made: list[Path] = []
    study.parent.mkdir(parents=True, exist_ok=True)
    try:
        if template is not None and not template.exists():
            template.write_text(_template(Path(answers.input), names))
            made.append(template)
        place(study, text(answers, study, template))
    except BaseException:
        for path in made:
            path.unlink(missing_ok=True)
        raise
    return (study, *made)


def free(study: Path, force: bool) -> None:
    """Complain about a study that is there already."""
    if study.exists() and not force:
        raise InputError(f"{study} is there already. Name another file, or overwrite it with --force.")


def place(study: Path, content: str) -> None:
    """Put the study in its place when it can be loaded, and leave nothing otherwise."""
    from pipelines.config import load_study

    descriptor, draft = tempfile.mkstemp(prefix=f".{study.stem}-", suffix=".yaml", dir=study.parent)
    try:
        with os.fdopen(descriptor, "w") as f:
            f.write(content)
        os.chmod(draft, 0o644)
        try:
            load_study(Path(draft))
        except InputError as e:
            raise InputError(str(e).replace(draft, str(study))) from None
        os.replace(draft, study)
    finally:
        Path(draft).unlink(missing_ok=True)


def text(answers: Answers, study: Path, template: Path | None) -> str:
    """The study as text, a comment beside every part."""
    parameters = [parameter(p) for p in answers.parameters]
    outputs = [_output(o) for o in answers.outputs]
    if not parameters or not outputs:
        raise InputError("a study must have a parameter and an output at least. "
                         f"Write --parameter {PARAMETER} and --output {OUTPUT}.")  # fmt: skip
    words = _words(answers, [p[0] for p in parameters])
    here = [w for w in words[1:] if w != answers.input and _inside(w) and Path(w).is_file()]
    name = answers.name or named(study)
    lines = [
        f"# A study of {words[0]}. Try one point first, then all:",
        f"#   emulate simulate {study} --only 0 --verbose",
        f"#   emulate run {study}",
        f"name: {quoted(name)}",
        "parameters:                 # each a prior: uniform, log_uniform, normal, log_normal, truncated_normal; or unit, label",
        *(f"  {n}: {{{kind}: [{low}, {high}]}}" for n, kind, low, high in parameters),
        "simulator:",
        "  use: command",
        "  # an argument list, or a list of such steps; no shell reads it. Every run starts in an empty folder of its own.",
        f"  command: [{', '.join(map(quoted, words))}]",
    ]
    if template is not None:
        lines += [
            '  # name in the run\'s folder: file with {{ name }} or {{ "%.6e" % name }} for every parameter',
            f"  templates: {{{quoted(answers.input)}: {quoted(str(template))}}}",
        ]
    files = ", ".join(f"{quoted(w)}: {{copy: {quoted(w)}}}" for w in here)
    lines += [
        f"  {'' if here else '# '}files: {{{files or 'data: {link: PATH}'}}}   # what else a run needs: copy, or link large data",
        "  outputs:                  # column of a table, CSV or array; key of JSON, YAML, NPZ, HDF5, NetCDF",
        *(f"    - {o}" for o in outputs),
        "    # a vector may say where its values lie: coordinate: k, at: [0.1, 0.2], or at: {file: PATH, column: 1}",
        "  # success: {exit_code: 0, pattern: {file: stdout.txt, text: converged}}",
        '  # launcher: [mpirun, -n, "4"]',
        "  # environment: {KEY: value}",
        "  # stochastic: true        # the program takes {{ seed }}",
        "  # keep: failed            # the folders of failed runs, for a look",
        "design: {runs: 64, held_out: 20}",
        "simulate:",
        "  timeout: 600              # s for one run, then it is killed and counts as failed",
        "  threads: 1                # cores that a run owns",
        "cluster: {workers: 2}       # runs at a time on this machine",
        "emulators:",
        "  gp: {use: gp}",
        "validate: {gradient: {use: finite_difference}}",
        "infer:                      # null: no data, no posterior",
        "  observation: {held_out: 0}   # a held-out run plays the data; or file: PATH with your own",
        "  likelihood: {use: gaussian, relative_error: 0.05}",
    ]
    return "\n".join(lines) + "\n"


def named(study: Path) -> str:
    """The name of a study by that of its file."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", study.stem).strip("-_") or "study"


def _template(input_: Path, names: Sequence[str]) -> str:
    """A first template: the user's own input file when it is here, else one line per parameter."""
    if input_.is_file() and input_.stat().st_size < 2**20:
        try:
            return input_.read_text()
        except UnicodeDecodeError:
            raise InputError(
                f"{input_} must be text to become a template. Write one by hand as {input_.name}.j2."
            ) from None
    return "".join(f"{n} = {{{{ {n} }}}}\n" for n in names)


def _words(answers: Answers, names: Sequence[str]) -> list[str]:
    try:
        words = shlex.split(answers.command)
    except ValueError as e:
        raise InputError(f"--command must be a command line. Got {answers.command!r}: {e}.") from None
    if not words:
        raise InputError("--command must be a command line. Got nothing.")
    if "/" not in words[0] and shutil.which(words[0]) is None and Path(words[0]).is_file():
        words[0] = f"./{words[0]}"
    if not answers.input and not any("{{" in w for w in words):
        words += [f"--{n}={{{{ {n} }}}}" for n in names]
    return words


def _inside(word: str) -> bool:
    return not word.startswith(("/", "-")) and ".." not in PurePosixPath(word).parts


def _split(answer: str, form: str) -> tuple[str, str]:
    name, mark, rest = answer.partition("=")
    if not name.strip().isidentifier() or not mark or not rest.strip():
        raise InputError(f"an answer must be {form}, NAME a word of letters, digits and _. Got {answer!r}.")
    return name.strip(), rest.strip()


def parameter(answer: str) -> tuple[str, str, str, str]:
    """Name, prior, lower and upper end."""
    name, rest = _split(answer, PARAMETER)
    low, _, high = rest.partition(":")
    high, _, scale = high.partition(":")
    try:
        float(low), float(high)
    except ValueError:
        scale = "?"
    if scale not in ("", "log"):
        raise InputError(f"a parameter must be {PARAMETER}, such as h=0.6:0.8. Got {answer!r}.")
    return name, "log_uniform" if scale else "uniform", repr(float(low)), repr(float(high))


def _output(answer: str) -> str:
    """The field as YAML on one line."""
    name, rest = _split(answer, OUTPUT)
    rest, star, size = rest.rpartition("*") if re.search(r"\*\d+$", rest) else (rest, "", "")
    file, _, place = rest.partition(":")
    key = "column" if not file.endswith((".json", ".yaml", ".yml", ".npz", ".h5", ".hdf5", ".nc")) else "key"
    found = re.fullmatch(r"[1-9]\d*", place) and key == "column"
    where = f", {key}: {place if found else quoted(place)}" if place else ""
    return f"{{name: {name}, file: {quoted(file)}{where}{f', size: {size}' if star else ''}}}"


def quoted(word: str) -> str:
    """A text as YAML reads it again; JSON's quotes are YAML's."""
    plain = re.fullmatch(r"[A-Za-z./][A-Za-z0-9./_-]*", word) and word.lower() not in (
        "true",
        "false",
        "null",
        "y",
        "n",
    )
    return word if plain else json.dumps(word, ensure_ascii=False)
