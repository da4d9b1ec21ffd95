"""The figures of a report: in which section each stands, its number, its picture inside the page and its files beside it."""

import base64
import shutil
import struct
from collections.abc import Iterable, Mapping
from itertools import count
from pathlib import Path
from typing import Any

from pipelines import files
from pipelines.stages import ORDER

FOLDER = "figures"  # beside the page
_SECTIONS = {("validate", "scores"): "emulators", ("validate", "calibration"): "calibration",
             ("validate", "pit"): "calibration", ("validate", "regions"): "calibration",
             ("validate", "crps"): "calibration", ("validate", "gradient"): "gradient", "design": "design",
             "simulate": "runs", "train": "emulators", "learning_curve": "emulators", "privacy": "emulators",
             "sensitivity": "sensitivity", "identifiability": "identifiability", "optimise": "optimum", "verify": "gradient",
             "validate": "accuracy", "infer": "posterior", "check": "posterior"}  # fmt: skip
_COMMANDS = ("learning_curve", "privacy", "sensitivity", "identifiability", "verify")  # no stages, and draw as well
_CORNER = ("check", "corner")  # opens its section, and holds all that the corner of `infer` shows
_PNG = b"\x89PNG\r\n\x1a\n"
_PIXELS = 125  # of a page, an inch of a figure: the widest, 7 inches, fills a column of text


def of(folder: Path, sections: Iterable[str]) -> dict[str, list[dict[str, Any]]]:
    """The figures by section of the page, numbered through; of two pictures that are the same the first."""
    placed: dict[str, list[dict[str, Any]]] = {section: [] for section in _SECTIONS.values()}
    for stage in (*ORDER, *_COMMANDS):
        path = folder / stage / "figures.json"
        for f in files.read_json(path) if path.exists() else ():
            section = _SECTIONS.get((stage, f["name"])) or _SECTIONS.get(stage)
            if section:
                placed[section].append({"alt": "", **f, "stage": stage, "id": f"figure-{stage}-{f['name']}",
                                        **_embedded(folder / stage, f["file"])})  # fmt: skip
    seen, numbers = set(), count(1)
    for section in sections:
        drawn = sorted(placed.get(section, ()), key=lambda f: (f["stage"], f["name"]) != _CORNER)
        if drawn and (drawn[0]["stage"], drawn[0]["name"]) == _CORNER and drawn[0]["source"]:
            drawn = [f for f in drawn if (f["stage"], f["name"]) != ("infer", "corner")]
        placed[section] = [
            f for f in drawn if f["source"] is None or not (f["source"] in seen or seen.add(f["source"]))
        ]
        for f in placed[section]:
            f["number"] = next(numbers)
    return placed


def lay_beside(folder: Path, figures: Mapping[str, list[dict[str, Any]]]) -> None:
    """Copies of the figures, `report/figures/STAGE-NAME.png` and `.pdf`, and none of an earlier report's."""
    beside = folder / "report" / FOLDER
    wanted = {name: folder / f["stage"] / original for drawn in figures.values() for f in drawn
              for name, original in f["files"].items()}  # fmt: skip
    for old in beside.glob("*-*.p*"):
        if old.name not in wanted and old.suffix in (".png", ".pdf"):
            old.unlink()
    for name, original in wanted.items():
        with files.replacing(beside / name) as temporary:
            shutil.copyfile(original, temporary)


def _embedded(folder: Path, name: str) -> dict[str, Any]:
    """A PNG as a data URL with its size on the page, and the names of its files beside the page by those it has here.

    A file that is missing, no PNG, or outside the stage's folder is not shown and not copied.
    """
    path = folder / name
    content = path.read_bytes() if Path(name).name == name and path.is_file() else b""
    if not content.startswith(_PNG) or len(content) < 24:
        return {"source": None, "files": {}}
    width, height = (max(1, round(n * _PIXELS / files.DOTS)) for n in struct.unpack(">II", content[16:24]))
    both = [p.name for p in (path, path.with_suffix(".pdf")) if p.is_file()]
    return {"source": "data:image/png;base64," + base64.b64encode(content).decode(), "width": width, "height": height,
            "files": {f"{folder.name}-{n}": n for n in both}}  # fmt: skip
