"""What of the user's files a command is made of: read once, hashed for the key, and held to stay as they were."""

import functools
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from emulate.errors import InputError, RunFailed, nearest
from emulate.simulators._callables import source
from emulate.simulators.command.folder import judge_name
from emulate.simulators.command.settings import Working
from emulate.simulators.command.templates import MAX_TEXT, Template, compiled

_FILES = 100_000  # of a working folder


class Filled(NamedTuple):
    """A template of a working file, with the rights of its source."""

    template: Template
    mode: int


@dataclass(frozen=True)
class Sources:
    """Everything that a run takes from outside its folder.

    `digest` is the sha256 of all that is hashed, `files` the digest of every file on which a run relies as it lies there.
    """

    digest: str
    steps: tuple[tuple[Template, ...], ...]
    programs: tuple[Path, ...]  # of each step; relative where a working file is the program
    launcher: Path | None
    environment: Mapping[str, Template]
    templates: Mapping[str, Filled]
    files: Mapping[Path, str]

    def judge(self) -> None:
        """Complain when a file has changed since it was hashed: its runs would be stored under the old content's key."""
        for path, digest in self.files.items():
            try:
                same = _digest(path) == digest
            except InputError:
                same = False
            if not same:
                raise RunFailed("error", f"{path} has changed since this campaign began. Start it again, so that its runs are "
                                         "stored under the new content.")  # fmt: skip


def gather(command) -> Sources:
    """The sources of a `Command`; every complaint about a file that is missing or a template that is wrong is made here."""
    values = (*command.space.names, *(("seed",) if command.stochastic else ()))
    hashed, files = hashlib.sha256(), {}
    targets = _judged_targets(command.templates, command.files)
    programs = tuple(_program(step[0], targets) for step in command.command)
    launcher = _program(command.launcher[0], {}) if command.launcher else None
    templates = {t: _template(Path(p).expanduser(), t, values) for t, p in sorted(command.templates.items())}
    for target, filled in templates.items():
        hashed.update(
            f"template:{target}:{filled.mode & 0o111}:{_digest(Path(command.templates[target]).expanduser())}\n".encode()
        )
    for target, working in sorted(command.files.items()):
        place = Path(working.copy or working.link).expanduser()
        for inner, path in _below(place, target) if working.hashed else ():
            files[path.absolute()] = digest = _digest(path.absolute())
            hashed.update(f"file:{target}:{inner}:{path.stat().st_mode & 0o111}:{digest}\n".encode())
    for word, path in zip((s[0] for s in command.command), programs, strict=True):
        if "/" in word and path.is_absolute():
            files[path] = _digest(path)
            hashed.update(f"program:{files[path]}\n".encode())
    if command.decode:
        hashed.update(f"decode:{_digest(source(command.decode, 'decode').absolute())}\n".encode())
    steps = tuple(tuple(compiled(a, f"command: argument {a!r}", values) for a in step[1:]) for step in command.command)
    environment = {k: compiled(v, f"environment.{k}", values) for k, v in command.environment.items()}
    made = Sources(hashed.hexdigest()[:16], steps, programs, launcher, environment, templates, files)
    _judge_seed(command, made)
    return made


def _judge_seed(command, made: Sources) -> None:
    everywhere = [f.template for f in made.templates.values()] + [t for s in made.steps for t in s]
    if command.stochastic and not any("seed" in t.names for t in [*everywhere, *made.environment.values()]):
        raise InputError("a stochastic program must be given the seed of its run. Write {{ seed }} into an argument, a template, "
                         "or the environment; or say stochastic: false.")  # fmt: skip


def _judged_targets(templates: Mapping[str, str], files: Mapping[str, Working]) -> dict[str, str]:
    """Every name of a working file with its kind; complain about two that are in each other's way."""
    for name in [*templates, *files]:
        judge_name(name, "a working file's name")
    kinds = {name: "link" if w.link else "copy" for name, w in files.items()}
    for name in templates:
        if name in kinds:
            raise InputError(f"{name} must be a template or a working file. Got both; take one out.")
    kinds |= dict.fromkeys(templates, "template")
    for name in kinds:
        for above in (p for p in map(str, Path(name).parents) if p in kinds and kinds[p] != "copy"):
            raise InputError(f"{name} must not lie below {above}, which is a {kinds[above]}. Copy the folder instead.")
    return kinds


def _program(word: str, targets: Mapping[str, str]) -> Path:
    """A program of the run's folder (relative), a file of the user's, or one on the PATH (both absolute)."""
    if "{{" in word or "{%" in word:
        raise InputError(f"command: the program must be named without a template. Got {word!r}.")
    if "/" not in word:
        found = shutil.which(word)
        if found:
            return Path(found).absolute()
        advice = f" The file ./{word} is here: write ./{word}." if Path(word).is_file() else ""
        raise InputError(
            f"command: there is no program {word!r} on the PATH.{advice or ' Install it, or write the path of a file.'}"
        )
    inner = Path(word)
    if not inner.is_absolute() and ".." not in inner.parts and any(str(p) in targets for p in (inner, *inner.parents)):
        return inner
    path = inner.expanduser().absolute()
    if not path.is_file():
        there = [str(p) for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise InputError(f"command: there is no program {path}. Paths are relative to the folder where emulate is started"
                         f".{nearest(str(path), there)}")  # fmt: skip
    if not os.access(path, os.X_OK):
        raise InputError(f"command: {path} must be a program. It may not be executed; `chmod +x` it, or put its interpreter "
                         f"before it and copy it: files: {{{path.name}: {{copy: {word}}}}}.")  # fmt: skip
    return path


def _template(path: Path, target: str, values: tuple[str, ...]) -> Filled:
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise InputError(f"templates: {path} must be a file. It is a folder or a device.")
        with open(path, "rb") as f:
            text = f.read(MAX_TEXT + 1).decode()
    except (OSError, ValueError) as e:
        if isinstance(e, InputError):
            raise
        raise InputError(
            f"templates: {path} cannot be read for {target}: {getattr(e, 'strerror', None) or e}."
        ) from None
    return Filled(compiled(text, str(path), values), stat.S_IMODE(mode) & 0o777)


def _below(place: Path, target: str) -> Iterator[tuple[str, Path]]:
    """The regular files at a place, itself or everything below, sorted by name."""
    try:
        if place.is_file():
            yield "", place
            return
        if not place.is_dir():
            raise InputError(f"files: there is no file or folder {place} for {target}. Paths are relative to the folder where "
                             "emulate is started.")  # fmt: skip
    except ValueError as e:  # a NUL
        raise InputError(f"files: {place!r} is no path: {e}.") from None
    count = 0
    for root, folders, names in os.walk(place, followlinks=True):
        folders.sort()
        for name in folders:
            path = os.path.join(root, name)
            if os.path.islink(path) and os.path.realpath(root).startswith(os.path.realpath(path)):
                raise InputError(f"files: {path} must not be a link to a folder above it. Take it out.")
        for name in sorted(names):
            path = Path(root, name)
            if not path.is_file():
                raise InputError(f"files: {path} must be a file. It is a link to nothing, or a device; take it out.")
            count += 1
            if count > _FILES:
                raise InputError(f"files: {place} must hold at most {_FILES} files. Link it, with hashed: false.")
            yield str(path.relative_to(place)), path


def _digest(path: Path) -> str:
    """sha256 of a file, computed again when its size, time or place on the disk has changed."""
    try:
        s = path.stat()
        return _digest_of(path, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino, s.st_dev)
    except OSError as e:
        raise InputError(f"{path} cannot be read: {e.strerror}.") from None


@functools.lru_cache(maxsize=_FILES)
def _digest_of(path: Path, *_: int) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
