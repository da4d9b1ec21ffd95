"""What a stage works with: the study, its folder, the terminal, the journal, and a cluster that starts when needed."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from emulate.errors import InputError, nearest
from emulate.runs import Runs, places
from emulate.store import RunStore, run_seed
from emulate.units import describe
from pipelines import files, positive, underway
from pipelines.journal import Journal
from pipelines.pace import Remaining
from pipelines.study import SETS
from pipelines.tasks import Task, Tasks, missing
from pipelines.terminal import Terminal, duration

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from emulate.emulator import Emulator
    from pipelines.config import Study

__all__ = ["EXTRA", "FIDELITIES", "SETS", "Workbench", "one_thread", "warn_of_unread", "with_jacobians"]

EXTRA = "simulate/extra.csv"  # training points beside those of the design
FIDELITIES = "design/fidelities.csv"  # points of the simulator's other fidelities; there when the study has any
Points = np.ndarray | Mapping[str, np.ndarray]  # theta `[n, d]` to run once each, or points by their set


class Workbench(ExitStack):
    """Close it (a `with` block) and the cluster, if one was started, is gone."""

    def __init__(self, study: "Study", terminal: Terminal):
        super().__init__()
        self.study, self.terminal = study, terminal
        self.folder: Path = study.folder
        self.journal = Journal(self.folder / "journal.jsonl")
        self.crossed = False  # whether it was said that a field declared positive is not

    @cached_property
    def store(self) -> RunStore:
        return RunStore(self.folder / "store")

    @cached_property
    def executor(self) -> Any:
        from pipelines.campaign import open_cluster

        return self.enter_context(open_cluster(self.study.cluster, self.terminal.say))

    def seed(self, purpose: str) -> int:
        """A seed of its own for every purpose, keyed by the study's: the order of work does not matter."""
        key = hashlib.sha256(f"{self.study.seed}/{purpose}".encode()).digest()
        return int.from_bytes(key[:4], "big")

    # -- points and runs ---------------------------------------------------------------------------------------------
    #
    # A point is the unit of a study: files of points, folds and what is held out know nothing of replicates. `planned` alone
    # turns points into runs, so that whoever plans, makes, counts, reads or forgets them means the same ones.

    def points(self, which: str) -> np.ndarray:
        """theta `[n, d]` of a fidelity, or of the training or the held-out points: those of the design stage, and the
        training points that the simulate stage added because some failed."""
        if which in self.study.fidelities:
            theta = self._points(self.folder / FIDELITIES, which, "design")
            if not len(theta):
                raise InputError(f"{self.folder / FIDELITIES} must have the points of {which}. Got none; run `emulate "
                                 "design` first, or `emulate run`.")  # fmt: skip
            return theta
        more = self.folder / EXTRA
        return np.concatenate([self._points(self.folder / "design" / "points.csv", which, "design"),
                               *([self._points(more, which, "simulate")] if more.exists() else [])])  # fmt: skip

    def _points(self, file: Path, which: str, stage: str) -> np.ndarray:
        rows = [r for r in files.read_csv(file) if r["set"] == which]
        try:
            theta = [[float(r[n]) for n in self.study.space.names] for r in rows]
        except (KeyError, TypeError, ValueError):
            raise InputError(f"{file} must have a number for each of {', '.join(self.study.space.names)} in every row. "
                             f"Run `emulate {stage} --force`.") from None  # fmt: skip
        return np.array(theta, dtype=np.float64).reshape(-1, self.study.space.d)

    def write_points(self, name: str, sets: Mapping[str, np.ndarray], start: int = 0) -> int:
        """A file of points, one row each with its set and number; how many there are."""
        rows = [[which, i, *map(float, t)] for which, theta in sets.items() for i, t in enumerate(theta, start)]
        files.write_csv(self.folder / name, ["set", "index", *self.study.space.names], rows)
        return len(rows)

    def planned(self, points: Points, fidelity: str = "") -> tuple[np.ndarray, np.ndarray]:
        """theta `[n, d]` and the replicate `[n]` of every run, the runs of a point one after the other.

        An array is run once, replicate 0, and so are points of a name that is no set of the study. Points of a set are run
        `Study.replicates_of` it; a point that stands in a set twice, as in a file written by hand, goes on counting where
        the simulator is stochastic, for the same run twice would look like one without noise.
        """
        if not isinstance(points, Mapping):
            return points, np.zeros(len(points), np.int64)
        stochastic = self.study.simulator_of(fidelity).stochastic
        theta, replicate = [], []
        for which, some in points.items():
            r, own = self.study.replicates_of(which), which in (*SETS, *self.study.fidelities)
            before = _met_before(some) if stochastic and own else np.zeros(len(some), np.int64)
            theta.append(np.repeat(some, r, axis=0) if r > 1 else some)
            replicate.append((r * before[:, None] + np.arange(r)).ravel())
        return np.concatenate(theta), np.concatenate(replicate)

    def seeds(self, theta: np.ndarray, replicate: np.ndarray, fidelity: str = "") -> np.ndarray:
        """One seed per run, keyed by its parameters and replicate, the same at every fidelity; 0 if nothing is random."""
        stochastic, pairs = self.study.simulator_of(fidelity).stochastic, zip(theta, replicate.tolist(), strict=True)
        seeds = [run_seed(self.study.seed, t, stochastic=stochastic, replicate=k) for t, k in pairs]
        return np.array(seeds, dtype=np.int64)

    def runs(self, points: Points, product: str = "y", fidelity: str = "") -> Runs:
        """The stored runs at these points, finished and failed; with their Jacobians where all were run with one."""
        asked = self.tasks(points, product, fidelity)
        simulator = self.study.simulator_of(self._fidelity(points, fidelity))
        return self.store.rows(simulator, asked.theta, list(asked.keys()))

    def runs_of(self, which: str) -> Runs:
        """The stored runs of a fidelity of the study, or its "training" or "held_out" runs, finished and failed."""
        allowed = (*SETS, *self.study.fidelities)
        if which not in allowed:
            raise InputError(f"runs must be those of {', '.join(allowed)}. Got {which!r}.{nearest(which, allowed)}")
        return self.runs({which: self.points(which)})

    def tasks(self, points: Points, product: str = "y", fidelity: str = "") -> Tasks:
        """What makes the runs at these points; `fidelity` where an array of points is not for the study's own simulator.

        A training point is run with its Jacobian if the study asks for those, whoever needs its y, and training points
        are those given where the design stage has not written them yet. Runs of a fidelity carry none.
        """
        study, fidelity = self.study, self._fidelity(points, fidelity)
        theta, replicate = self.planned(points, fidelity)
        which, asked = np.zeros(len(theta), np.uint8), [(product, study.gradient_spec(product))]
        if product == "y" and study.simulate.jacobians is not None and not fidelity:
            asked.append(("tangent", study.gradient_spec("tangent")))
            given = points.get("training") if isinstance(points, Mapping) else None
            with_jacobian = set(map(tuple, (self.points("training") if given is None else given).tolist()))
            which[:] = [t in with_jacobian for t in map(tuple, theta.tolist())]
        return Tasks.of(study.simulator_of(fidelity), theta, self.seeds(theta, replicate, fidelity), which, asked)

    def _fidelity(self, points: Points, fidelity: str) -> str:
        named = points if isinstance(points, Mapping) else ()
        return fidelity or next((name for name in named if name in self.study.fidelities), "")

    def missing(self, tasks: Iterable[Task]) -> Sequence[Task]:
        """Those that are not in the store, each once, without making a store."""
        there = (self.folder / "store" / "store.json").exists()
        return missing(tasks, self.store if there else None)

    def campaign(self, points: Points, what: str, product: str = "y", fidelity: str = "") -> None:
        """Make the runs at these points that are not in the store yet."""
        fidelity = self._fidelity(points, fidelity)
        self.make(self.tasks(points, product, fidelity), what, fidelity)

    def make(self, tasks: Iterable[Task], what: str, fidelity: str = "") -> None:
        """Run what is not in the store yet, with a bar; every run is committed when it ends."""
        todo = self.missing(tasks)
        if not todo:
            return
        describe(self.store, self.study.simulator_of(fidelity))
        with self.terminal.bar(what + with_jacobians(todo), total=len(todo), left=False) as tick:
            remaining, look = Remaining(self.study.cluster.workers), positive.lookout(self, todo, fidelity)

            def progress(done: int, failed: int, total: int, seconds: float, lengths: Sequence[float]) -> None:
                remaining.ran(lengths)
                remaining.saw(done, total, seconds)
                tick(done, total, remaining.note(failed, underway.listing(self.store)))
                look()

            self.executor.campaign(
                todo,
                store=self.folder / "store",
                simulator=self.study.spec_of(fidelity),
                limits=self.study.simulate.limits,
                progress=progress,
            )

    # -- emulators ---------------------------------------------------------------------------------------------------

    def emulator(self, name: str) -> "Emulator":
        from emulate.loading import load

        return load(self.folder / "emulators" / name, recipe=type(self.study.emulators[name]))

    @cached_property
    def champion(self) -> str:
        """The emulator that inference uses: chosen by the validate stage, or named in the study."""
        return files.read_json(self.folder / "validate" / "champion.json")["champion"]

    # -- what is kept ------------------------------------------------------------------------------------------------

    def figures(self, stage: str, figures: Mapping[str, tuple["Figure", str]]) -> None:
        """Save figures with their captions beside the stage's files, and note them for MLflow."""
        files.write_figures(self.folder / stage, figures)
        for name in figures:
            self.journal.append("figure", stage, path=f"{stage}/{name}.png")

    def findings(self, stage: str, found: Mapping[str, list[dict]], used: str = "") -> None:
        """Save findings by emulator, and note all of them for MLflow, which tells those of the one that is used apart."""
        files.write_json(self.folder / stage / "findings.json", {"emulators": found})
        for name, findings in found.items():
            for f in findings:
                scope = f"{stage}/{name}" if len(found) > 1 else stage
                self.journal.append("finding", scope, finding=f, used=name == used or len(found) == 1)

    def note(self, text: str, seconds: float | None = None) -> None:
        self.terminal.say(f"  {text}" + (f" ({duration(seconds)})" if seconds is not None else ""))


def _met_before(theta: np.ndarray) -> np.ndarray:
    """How often each of the points `[n, d]` stands in a row before its own, `[n]`."""
    place = places(theta)
    order = np.argsort(place, kind="stable")
    first = np.searchsorted(place[order], place[order])
    before = np.empty(len(theta), np.int64)
    before[order] = np.arange(len(theta)) - first
    return before


def warn_of_unread(study: "Study", terminal: Terminal) -> None:
    """A parameter that a program never gets is a line that somebody forgot."""
    if unread := getattr(study.simulator, "unread", ()):
        terminal.warn(f"no input file, argument or variable of the environment names {', '.join(unread)}, so no run depends "
                      "on it. Write {{ " + unread[0] + " }} where the program reads it, or take the parameter out.")  # fmt: skip


def with_jacobians(tasks: Iterable[Task]) -> str:
    """`, 64 of them with a Jacobian` for training runs that carry one."""
    n = sum(t.product == "tangent" for t in tasks)
    return f", {n} of them with a Jacobian" if n else ""


def one_thread() -> None:
    """The driver computes on one thread: the same bits on every machine, and the workers keep their cores."""
    torch.set_num_threads(1)
