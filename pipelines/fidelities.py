r"""Fidelities of a campaign: the study's simulator with other settings, cheaper or dearer, at points of the same design.

Their runs lie in the one store, for settings are part of the key of a run; what they are worth is measured at the
points that both ran: the ratio of the outputs and their correlation over the design, as in the autoregressive model

    y(theta) = rho * y_coarse(theta) + delta(theta)

of Kennedy and O'Hagan (2000), where rho near 1 and a high correlation leave little for delta.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from emulate.errors import CampaignError
from emulate.runs import Outputs, Runs
from pipelines import files, tables
from pipelines.stages import design
from pipelines.workbench import Workbench

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUMMARY = "simulate/fidelities.json"
_FEW = 3  # points that both ran, below which nothing is compared


@dataclass(frozen=True)
class Agreement:
    """The study's own output and a fidelity's at n points that both finished, for the k values that both have.

    >>> from emulate.runs import Field
    >>> from emulate.space import Parameter, Space, Uniform
    >>> space, x = Space((Parameter("a", Uniform(0, 1)),)), np.array([[0.2], [0.4], [0.8]])
    >>> outputs = Outputs((Field("y", positive=True),))
    >>> met = agreement(Runs.of(space, outputs, x, 3 * x), Runs.of(space, outputs, x, x))
    >>> met.middle.round(6).tolist(), met.correlation.round(6).tolist()
    ([[3.0], [3.0], [3.0]], [1.0])
    """

    outputs: Outputs  # the study's own
    columns: np.ndarray  # [k], where the values stand in the study's own y
    own: np.ndarray  # [n, k]
    other: np.ndarray  # [n, k]
    points: int  # n, or fewer where points were run several times

    @property
    def positive(self) -> np.ndarray:
        """bool `[k]`: which values are compared by their ratio."""
        return self.outputs.positive[self.columns] & (self.other > 0).all(0)

    @property
    def middle(self) -> np.ndarray:
        """`[3, k]`: the 5 % quantile over the points, the median and the 95 % quantile of own / other; for values that
        may be negative of (own - other) / sd(own)."""
        spread = np.where((sd := self.own.std(0)) > 0, sd, 1.0)
        ratio = self.own / np.where(self.positive, self.other, 1.0)
        return np.quantile(np.where(self.positive, ratio, (self.own - self.other) / spread), [0.05, 0.5, 0.95], axis=0)

    @property
    def correlation(self) -> np.ndarray:
        """`[k]`: Pearson's, over the points; NaN where a value is the same at all of them."""
        own, other = (y - y.mean(0) for y in (self.own, self.other))
        both = np.sqrt((own**2).sum(0) * (other**2).sum(0))
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(both > 0, (own * other).sum(0) / both, np.nan)

    def to_dict(self) -> dict[str, Any]:
        names = [self.outputs.labels[c] for c in self.columns]
        values = zip(names, self.positive, self.middle.T, self.correlation, strict=True)
        return {
            "points": self.points,
            "outputs": {
                name: {
                    "correlation": float(r),
                    "ratio" if good else "difference": dict(zip(("low", "median", "high"), map(float, q), strict=True)),
                }
                for name, good, q, r in values
            },
        }


def agreement(own: Runs, other: Runs) -> Agreement | None:
    """What both have: fields of one name, at the coordinates of both. None where that is nothing, or too few points.

    Where both are stochastic, runs of a point are paired by their seed, which fidelities share."""
    mine, theirs = _shared_columns(own.outputs, other.outputs)
    seeded = own.stochastic and other.stochastic
    rows = defaultdict(list)
    for i in np.flatnonzero(own.ok):
        rows[_at(own, i, seeded)].append(i)
    pairs = [(i, j) for j in np.flatnonzero(other.ok) for i in rows.get(_at(other, j, seeded), ())]
    points = len({tuple(own.theta[i]) for i, _ in pairs})
    if not len(mine) or points < _FEW:
        return None
    i, j = np.array(pairs).T
    return Agreement(own.outputs, mine, own.y[i][:, mine], other.y[j][:, theirs], points)


def _at(runs: Runs, i: int, seeded: bool) -> tuple[float, ...]:
    return (*runs.theta[i].tolist(), int(runs.seed[i]) if seeded else 0)


def _shared_columns(own: Outputs, other: Outputs) -> tuple[np.ndarray, np.ndarray]:
    mine, theirs = [], []
    for f in own.fields:
        for g in (g for g in other.fields if (g.name, g.unit, g.coordinate) == (f.name, f.unit, f.coordinate)):
            same = np.isclose(np.reshape(f.at or (0.0,), (-1, 1)), g.at or (0.0,), rtol=1e-9, atol=0.0)
            i, j = np.nonzero(same)
            mine += (i + own.slices[f.name].start).tolist()
            theirs += (j + other.slices[g.name].start).tolist()
    return np.array(mine, int), np.array(theirs, int)


def forecast(bench: Workbench) -> str:
    """The part of a plan: `; coarse: 256 to do, 0 stored`."""
    said = ""
    for name, theta in design.fidelities(bench).items():
        asked = {t.key: t for t in bench.tasks({name: theta})}
        todo = len(bench.missing(asked.values()))
        said += f"; {name}: {todo} to do, {len(asked) - todo} stored"
    return said


def campaigns(bench: Workbench) -> dict[str, Runs]:
    """Make the runs of every fidelity that are not stored, and read them; nothing but the store is written."""
    made = {}
    for name in bench.study.fidelities:
        bench.campaign({name: bench.points(name)}, f"simulate {name}")
        made[name] = bench.runs_of(name)
    return made


def keep(bench: Workbench, training: Runs, alike: Runs, made: Mapping[str, Runs]) -> dict[str, tuple["Figure", str]]:
    """Write a table for every fidelity and one summary; the figure that compares them, with its caption.

    `training` are the study's own runs at the points that fidelities share, `alike` own runs that took as long as runs
    without a Jacobian take.
    """
    _sweep(bench)
    if not made:
        return {}
    met = {name: a for name, runs in made.items() if (a := agreement(training, runs))}
    parts = {name: _summary(bench, name, runs, alike, met.get(name)) for name, runs in made.items()}
    for name, runs in made.items():
        tables.write(table(bench.folder, name), {name: runs})
    files.write_json(bench.folder / SUMMARY, parts)
    for name, part in parts.items():
        bench.note(sentence(name, part))
        _journal(bench, name, part)
    if not met:
        return {}
    from pipelines.figures import fidelities as drawn

    caption = ("What other fidelities are worth, at points that both ran: the study's own output over that of the "
               "fidelity (median, and 5 to 95 % of the points; the difference in standard deviations for outputs that may "
               "be negative), and how far their correlation over the design is from 1.")  # fmt: skip
    told = " ".join(sentence(name, parts[name]) for name in met)
    return {"fidelities": (drawn.fidelities(met), f"{caption} {told}")}


def table(folder: Path, fidelity: str) -> Path:
    """Where the table of a fidelity's runs lies."""
    return folder / "simulate" / f"runs_{fidelity}.csv"


def sentence(name: str, part: Mapping[str, Any]) -> str:
    """What a fidelity's runs took and are worth; `part` is its part of the summary."""
    said = f"{name}: {part['finished']} of {part['planned']} runs finished"
    if (each := part["seconds"]["median"]) is not None:
        said += f", {each:.2g} s each"
    if (speed := part["speed"]) is not None:
        times, word = (speed, "faster") if speed >= 1 else (1 / speed, "slower")
        said += f", {times:.{0 if times >= 10 else 1}f} times {word} than the study's own"
    if part["agreement"]:
        known = [c for o in part["agreement"]["outputs"].values() if np.isfinite(c := o["correlation"])]
        at = f"at {part['agreement']['points']} points"
        if known:
            ends = dict.fromkeys(f"{c:.5g}" for c in (min(known), max(known)))
            said += f"; outputs of both correlate by {' to '.join(ends)} {at}"
        else:
            said += f"; outputs do not vary {at}"
    return f"{said}."


def require(bench: Workbench, made: Mapping[str, Runs]) -> None:
    """Fall short in words, as the study's own runs do: each fidelity must finish the share that the study asks for."""
    need = bench.study.simulate.require
    for name, runs in made.items():
        if runs.ok.mean() < need or not runs.ok.any():
            raise CampaignError(f"{runs.ok.sum()} of {len(runs)} runs of {name} finished; the study asks for {need:.0%} "
                                f"(simulate.require). {tables.most_frequent([runs])} All failures stand in "
                                f"{bench.folder / SUMMARY} (`emulate status --failed`); mend the simulator and run again "
                                f"with --retry-failed, lower simulate.require, or take design.fidelities.{name} out.")  # fmt: skip


def _summary(bench: Workbench, name: str, runs: Runs, alike: Runs, met: Agreement | None) -> dict[str, Any]:
    own, mine = (_median(r.seconds) for r in (alike, runs))
    part = {k: v for k, v in tables.summary(runs).items() if k != "jacobians"}
    failures = part.pop("failures")
    return {
        "settings": bench.study.fidelities[name].settings,
        **part,
        "speed": own / mine if own and mine else None,  # of its runs take the time of one of the study's own
        "agreement": met.to_dict() if met else None,
        "failures": failures,
    }


def _median(seconds: np.ndarray) -> float | None:
    known = seconds[np.isfinite(seconds)]
    return float(np.median(known)) if len(known) else None


def _journal(bench: Workbench, name: str, part: Mapping[str, Any]) -> None:
    path = table(bench.folder, name)
    numbers = {"planned": part["planned"], "finished": part["finished"], "failed": part["failed"],
               "seconds_per_run": part["seconds"]["median"], "seconds_of_runs": part["seconds"]["total"],
               "speed": part["speed"]}  # fmt: skip
    bench.journal.append("metrics", "simulate", metrics={f"{name}_{k}": v for k, v in numbers.items() if v is not None})
    bench.journal.append(
        "dataset",
        "simulate",
        name=f"{bench.study.name}-runs-{name}",
        path=f"simulate/{path.name}",
        rows=part["planned"],
        digest=files.digest(path),
    )


def _sweep(bench: Workbench) -> None:
    """Remove what is left of fidelities that the study no longer names; their runs stay in the store."""
    kept = {table(bench.folder, name) for name in bench.study.fidelities}
    for path in {*(bench.folder / "simulate").glob("runs_*.csv")} - kept:
        path.unlink()
    if not kept:
        (bench.folder / SUMMARY).unlink(missing_ok=True)
