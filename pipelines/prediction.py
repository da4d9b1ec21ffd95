"""`emulate predict`: parameters from the command line or a CSV -> a table of means and standard deviations."""

import csv as csv_module
import sys
import warnings
from pathlib import Path

import numpy as np

from emulate.errors import ExtrapolationWarning, InputError
from emulate.loading import load
from emulate.space import Space
from pipelines import files
from pipelines.terminal import Terminal, count


def run(terminal: Terminal, emulator: str, assignments: list[str], points: Path | None, out: Path | None, *, strict: bool,
        outside: str = "warn") -> int:  # fmt: skip
    with terminal.bar("loading the emulator"):
        loaded = load(emulator)
    theta = _theta(loaded.space, assignments, points)
    if outside == "warn" and loaded.design is None:  # saved before the places of the runs were kept
        outside = "box"
    failed = [f for f in loaded.findings if f.blocking and not f.passed]
    if failed:
        more = f" ({count(len(failed) - 1, 'more finding')} failed)" if len(failed) > 1 else ""
        terminal.warn(f"this emulator did not pass its checks: {failed[0].sentence}{more}")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ExtrapolationWarning)
        prediction = loaded.predict(theta, strict=strict, outside=outside)
    for w in caught:
        terminal.warn(str(w.message))
    mean, sd = prediction.mean.detach().numpy(), prediction.variance.detach().sqrt().numpy()
    labels = loaded.outputs.labels
    told = (
        {"theta": loaded.space.pack(theta).tolist(), "mean": mean.tolist(), "sd": sd.tolist()}
        if out is None
        else {"out": str(out)}
    )
    terminal.give(emulator=emulator, parameters=list(loaded.space.names), outputs=list(labels), **told)
    if points is None and out is None:
        rows = [(label, f"{m:.6g}", f"{s:.2g}") for label, m, s in zip(labels, mean[0], sd[0], strict=True)]
        terminal.say(", ".join(assignments))
        terminal.table("", ("output", "mean", "sd"), rows)
        return 0
    header = [*loaded.space.names, *labels, *(f"sd({x})" for x in labels)]
    rows = np.hstack([loaded.space.pack(theta).numpy(), mean, sd]).tolist()
    if out is None:
        csv_module.writer(sys.stdout).writerows([header, *rows])
    else:
        files.write_csv(out, header, rows)
        terminal.say(f"{count(len(rows), 'prediction')} written to {out}")
    return 0


def _theta(space: Space, assignments: list[str], points: Path | None) -> dict[str, np.ndarray]:
    """Named values `[n]` from `--set name=value` (one point) or a CSV (many); both together fix columns of the CSV."""
    values: dict[str, np.ndarray] = {}
    if points is not None:
        if not points.is_file():
            raise InputError(f"--csv must name a file with one column per parameter. Got {points}, which is "
                             f"{'a folder' if points.is_dir() else 'not there'}.")  # fmt: skip
        rows = files.read_csv(points)
        if not rows:
            raise InputError(f"{points} must have a header with {', '.join(space.names)} and at least one row.")
        known = [n for n in rows[0] if n in space.names]
        values = {n: np.array([_number(r[n], f"{points}, column {n}") for r in rows]) for n in known}
    for text in assignments:
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"--set must be NAME=VALUE. Got {text!r}; write for example --set {space.names[0]}=0.3.")
        values[name.strip()] = np.array([_number(value, f"--set {name}")])
    if not values:
        raise InputError(
            f"predict must be given a point: --set NAME=VALUE for each of {', '.join(space.names)}, or --csv FILE."
        )
    space.pack(values)  # names are checked here, with a sentence
    return {n: np.broadcast_to(v, max(len(x) for x in values.values())) for n, v in values.items()}


def _number(text: str | None, where: str) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        raise InputError(f"{where}: must be a finite number. Got {text!r}.")
    return value
