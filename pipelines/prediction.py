"""`emulate predict`, `describe` and `export`: an emulator's answers for points, what it is, its graph for other programs."""

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from emulate import portrait
from emulate.distributions import drawn
from emulate.domain import THIN
from emulate.emulator import Emulator
from emulate.errors import ExtrapolationWarning, InputError
from emulate.loading import load
from pipelines import grids, points, tabled
from pipelines.terminal import Terminal, count

_EDGE = 1e-9  # box widths that a point may lie outside by rounding


@dataclass(frozen=True)
class Asked:
    """What to predict: parameters by name, a file of points, where the answers go and what they are."""

    assignments: list[str] = field(default_factory=list)
    points: Path | None = None
    out: Path | None = None
    strict: bool = False
    outside: str = "warn"
    jacobian: bool = False
    samples: int = 0
    seed: int = 0


def run(terminal: Terminal, emulator: str, asked: Asked, *, device: str = "cpu") -> int:
    with terminal.bar("loading the emulator"):
        loaded = load(emulator, device=device)
    terminal.give(emulator=emulator, parameters=list(loaded.space.names), outputs=list(loaded.outputs.labels))
    _doubt(terminal, loaded)
    fixed = _fixed(loaded, asked.assignments)
    outside = "refuse" if asked.strict else asked.outside
    if outside == "warn" and loaded.design is None:  # saved before the places of the runs were kept
        outside = "box"
    if asked.points is None:
        return _point(terminal, loaded, asked, fixed, outside)
    if asked.out is None and terminal.json:
        raise InputError(
            "--json must stand with --out FILE where the points are a file: the answers are a table. Add --out."
        )
    if asked.points.suffix == ".nc":
        given, theta = grids.read(asked.points, loaded.space, fixed)
        seen = _Seen(loaded, outside, str(asked.points))
        for part in theta.split(points.ROWS):
            seen.look(part, [])
        with terminal.bar("predicting"):
            grids.write(loaded, given, asked.points, asked.out, outside="inflate" if outside == "inflate" else "ignore",
                        jacobian=asked.jacobian, samples=asked.samples, seed=asked.seed)  # fmt: skip
    else:
        seen = _table(terminal, loaded, asked, fixed, outside)
    seen.told(terminal)
    if asked.out is not None:
        terminal.say(f"{count(seen.rows, 'prediction')} written to {asked.out}")
    terminal.give(out=asked.out and str(asked.out), rows=seen.rows, outside=seen.far, thin=seen.thin)
    return 0


def export(terminal: Terminal, emulator: str, out: Path, *, jacobian: bool) -> int:
    from emulate.program import RESULTS, about
    from emulate.program import export as write

    with terminal.bar("loading the emulator"):
        loaded = load(emulator)
    _doubt(terminal, loaded)
    with terminal.bar(f"writing {out.name}"):
        write(loaded, out, jacobian=jacobian)
    results = [r for r in RESULTS if jacobian or r != "jacobian"]
    terminal.say(f"{out}: theta [n, {loaded.space.d}] -> {', '.join(results)}. Refuse points where `outside` is above 0; the graph "
                 "itself extrapolates.")  # fmt: skip
    terminal.give(out=str(out), **about(loaded, results))
    return 0


def describe(terminal: Terminal, emulator: str) -> int:
    """What an emulator asks and answers, what it was taught by, and what its checks found."""
    with terminal.bar("loading the emulator"):
        loaded = load(emulator)
    for line in loaded.extra_repr().splitlines():
        terminal.say(line)
    terminal.give(emulator=emulator, parameters=loaded.space.to_dict(), outputs=loaded.outputs.to_dict(),
                  provenance=loaded.provenance, scores=dict(loaded.scores),
                  findings=[f.to_dict() for f in loaded.findings])  # fmt: skip
    return 0


def _doubt(terminal: Terminal, emulator: Emulator) -> None:
    failed = [f for f in emulator.findings if f.blocking and not f.passed]
    if failed:
        more = f" ({count(len(failed) - 1, 'more finding')} failed)" if len(failed) > 1 else ""
        terminal.warn(
            f"this emulator did not pass its checks: {portrait.missed(failed[0])}. {failed[0].sentence}{more}"
        )


def _fixed(emulator: Emulator, assignments: list[str]) -> dict[str, float]:
    names, values = emulator.space.names, {}
    for text in assignments:
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"--set must be NAME=VALUE. Got {text!r}; write for example --set {names[0]}=0.3.")
        try:
            values[name.strip()] = float(value)
        except ValueError:
            values[name.strip()] = np.nan
        if not np.isfinite(values[name.strip()]):
            raise InputError(f"--set {name}: must be a finite number. Got {value!r}.")
    if unknown := [n for n in values if n not in names]:
        emulator.space.pack(dict.fromkeys(names, 0.5) | {unknown[0]: 0.5})  # which says it
    return values


def _point(terminal: Terminal, emulator: Emulator, asked: Asked, fixed: dict[str, float], outside: str) -> int:
    if not fixed:
        raise InputError(
            f"predict must be given a point: --set NAME=VALUE for each of {', '.join(emulator.space.names)}, or --points FILE."
        )
    theta = emulator.space.pack(fixed)[None]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ExtrapolationWarning)
        emulator.look(theta, outside)
    for w in caught:
        terminal.warn(str(w.message))
    columns = {n: float(c[0]) for n, c in _answers(emulator, theta, asked, outside, seed=asked.seed).items()}
    labels = emulator.outputs.labels
    told = {n: x for n, x in columns.items() if n not in labels and not n.startswith("sd(")}
    terminal.give(theta=theta.tolist(), mean=[[columns[n] for n in labels]], sd=[[columns[f"sd({n})"] for n in labels]],
                  **({"more": told} if told else {}))  # fmt: skip
    if asked.out is not None:
        piece = points.Piece({n: [repr(float(x))] for n, x in zip(emulator.space.names, theta[0])}, ["the point"])
        with tabled.opened(asked.out) as table:
            table.write(piece, {n: np.array([x]) for n, x in columns.items()})
        terminal.say(f"1 prediction written to {asked.out}")
        return 0
    terminal.say(", ".join(asked.assignments))
    terminal.table(
        "", ("output", "mean", "sd"), [(n, f"{columns[n]:.6g}", f"{columns[f'sd({n})']:.2g}") for n in labels]
    )
    if told:
        terminal.table("", ("", "value"), [(n, f"{x:.6g}") for n, x in told.items()])
    return 0


def _table(terminal: Terminal, emulator: Emulator, asked: Asked, fixed: dict[str, float], outside: str) -> "_Seen":
    space, seen = emulator.space, _Seen(emulator, outside, str(asked.points))
    bar = (
        terminal.bar("predicting") if asked.out is not None else contextlib.nullcontext(lambda done: None)
    )  # a CSV is printed
    with points.opened(asked.points) as (columns, pieces), bar as tick:
        at = points.found(space, columns, list(fixed), asked.points)
        tabled.apart(columns, _names(emulator, asked), asked.points)
        with tabled.opened(asked.out) as table:
            for k, piece in enumerate(pieces):
                theta = {n: np.full(len(piece), fixed[n]) if n in fixed else piece.theta(n, at[n]) for n in space.names}
                packed = space.pack(theta)
                seen.look(packed, piece.where)
                added = {n: theta[n] for n in space.names if n in fixed and n not in at}
                table.write(piece, added | _answers(emulator, packed, asked, outside, seed=asked.seed + k))
                tick(seen.rows)
            if not seen.rows:
                raise InputError(f"{asked.points} must have rows below its header. Got none.")
    return seen


def _names(emulator: Emulator, asked: Asked) -> list[str]:
    labels = emulator.outputs.labels
    names = [*labels, *(f"sd({x})" for x in labels)]
    names += [f"d({x})/d({p})" for x in labels for p in emulator.space.names] if asked.jacobian else []
    return names + [f"draw{i + 1}({x})" for i in range(asked.samples) for x in labels]


def _answers(
    emulator: Emulator, theta: torch.Tensor, asked: Asked, outside: str, *, seed: int
) -> dict[str, np.ndarray]:
    """Columns `[n]` of mean, sd, derivatives and draws."""
    mean, sd, slopes, draws = answers(
        emulator, theta, outside=outside, jacobian=asked.jacobian, samples=asked.samples, seed=seed
    )
    parts = [mean, sd, *([] if slopes is None else [slopes.reshape(len(mean), -1)]), *draws]
    return dict(zip(_names(emulator, asked), np.concatenate(parts, 1).T, strict=True))


def answers(emulator: Emulator, theta: torch.Tensor, *, outside: str, jacobian: bool, samples: int,
            seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray]:  # fmt: skip
    """Mean and sd `[n, m]`, derivatives `[n, m, d]` and draws `[samples, n, m]`, without a word about the box."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", ExtrapolationWarning)
        p = emulator.predict(theta, outside="inflate" if outside == "inflate" else "ignore")
        draws = drawn(p, (samples,), seed=seed) if samples else p.mean.new_empty(0, *p.mean.shape)
        slopes = emulator.jacobian(theta) if jacobian else None
        made = (p.mean, p.variance.sqrt(), slopes, draws)
    return tuple(None if x is None else x.cpu().numpy() for x in made)


class _Seen:
    """How many points were seen, and which of them lie outside the box or where the design is thin: one sentence of all."""

    def __init__(self, emulator: Emulator, outside: str, source: str):
        self.emulator, self.outside, self.source = emulator, outside, source
        self.rows = self.far = self.thin = 0
        self.first: dict[str, str] = {}

    def look(self, theta: torch.Tensor, where: list[str]) -> None:
        if self.outside != "ignore":
            far = self.emulator.domain(theta) > _EDGE
            thin = self.emulator.remoteness(theta) > THIN if self.outside in ("warn", "refuse") else far & False
            for name, bad in (("far", far), ("thin", thin & ~far)):
                for i in self._rows(bad):
                    place = where[i] if where else f"{self.source}, point {self.rows + i + 1}"
                    self.first.setdefault(name, place)
                    if self.outside == "refuse":
                        self._refuse(theta[i], place)
                setattr(self, name, getattr(self, name) + int(bad.sum()))
        self.rows += len(theta)

    def told(self, terminal: Terminal) -> None:
        if self.outside in ("box", "warn") and self.far:
            terminal.warn(f"{count(self.far, 'point')} of {self.rows} {_lie(self.far)} outside the box that the emulator was "
                          f"trained in, the first at {self.first['far']}; the prediction there is an extrapolation.")  # fmt: skip
        if self.outside == "warn" and self.thin:
            terminal.warn(f"{count(self.thin, 'point')} of {self.rows} {_lie(self.thin)} where the design is thin, the first at "
                          f"{self.first['thin']}; no run has taught the emulator there.")  # fmt: skip

    def _refuse(self, theta: torch.Tensor, place: str) -> None:
        try:
            self.emulator.look(theta, "refuse")
        except InputError as e:
            raise InputError(f"{place}: {e}") from None

    @staticmethod
    def _rows(bad: torch.Tensor) -> Iterator[int]:
        yield from bad.nonzero()[:1, 0].tolist()


def _lie(n: int) -> str:
    return "lies" if n == 1 else "lie"
