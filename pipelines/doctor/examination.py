"""The whole examination: every look in turn, a table, one JSON object, an exit code."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from emulate.errors import EmulateError
from pipelines.doctor import disks, installation, machine, services, studies
from pipelines.doctor.notes import Note, Place

if TYPE_CHECKING:
    from pipelines.terminal import Terminal

Look = Callable[[Place], Iterator[Note]]
LOOKS: tuple[Look, ...] = (
    installation.python, installation.packages, installation.extras, installation.openmp, installation.pictures,
    machine.cores, machine.threads, machine.memory, machine.gpu, machine.clock, machine.language, machine.open_files,
    disks.results, disks.temporary, services.loopback, services.dask, services.mlflow, studies.study,
)  # fmt: skip
_COLOURS = {"fine": "green", "advice": "yellow", "wrong": "red"}


def command(terminal: "Terminal", path: Path | None, changes: list[str]) -> int:
    """Print what was found and what mends it; 1 where something is wrong."""
    from rich.text import Text

    found = []
    with terminal.bar("looking", total=len(LOOKS)) as tick:
        place, complaint = _place(path, changes)
        for i, look in enumerate(LOOKS):
            tick(i, len(LOOKS), look.__name__.replace("_", " "))
            found += [*_seen(look, place)]
    found += complaint
    rows = [(n.topic if i == 0 or found[i - 1].topic != n.topic else "", Text(n.verdict, style=_COLOURS[n.verdict]),
             n.found + (f"\n> {n.mend}" if n.mend else "")) for i, n in enumerate(found)]  # fmt: skip
    shown = [r for r, n in zip(rows, found, strict=True) if not terminal.quiet or n.verdict != "fine"]
    if shown:
        terminal.table("", ("what", "verdict", "found, and > what to do"), shown)
    wrong, advice = ([n for n in found if n.verdict == v] for v in ("wrong", "advice"))
    terminal.give(passed=not wrong, versions=installation.versions(), notes=[vars(n) for n in found])
    terminal.say(f"{len(wrong)} wrong, {len(advice)} advice, {len(found) - len(wrong) - len(advice)} fine."
                 if wrong or advice else "All is well.")  # fmt: skip
    return 1 if wrong else 0


def _place(path: Path | None, changes: list[str]) -> tuple[Place, list[Note]]:
    """Where to look; a study that cannot be read is a note, and the look goes on without it."""
    environment = dict(os.environ)
    if path is None:
        return Place(Path.cwd(), environment=environment), []
    from pipelines.config import load_study

    try:
        study = load_study(path, changes)
    except EmulateError as e:
        return Place(Path.cwd(), environment=environment), [
            Note("study", "wrong", str(e), f"mend {path}; `emulate schema` has every key")
        ]
    return Place(study.folder, study.tracking.uri, study, environment), []


def _seen(look: Look, place: Place) -> Iterator[Note]:
    """What a look finds; one that fails on a machine that it did not foresee must not end the others."""
    try:
        yield from look(place)
    except Exception as e:
        yield Note(look.__name__.replace("_", " "), "advice", f"could not be looked at: {type(e).__name__}: {e}")
