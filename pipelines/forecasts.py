"""Before, during and after a campaign in core-hours: what is to come, from the runs of the study that are stored.

`sentence` is what `emulate simulate --dry-run` adds, `command` is `emulate costs`; both fit `pipelines.costs`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from emulate.errors import InputError
from pipelines import files, given
from pipelines.costs import Bill, CostModel, bill
from pipelines.pace import stragglers
from pipelines.stages import design
from pipelines.terminal import count, duration
from pipelines.workbench import Workbench
from pipelines.worker import Task

if TYPE_CHECKING:
    from pipelines.study import Study
    from pipelines.terminal import Terminal

_MOST = 1000  # stored runs that are read; more say nothing new about the seconds
_UNNOTICED = 1.0  # s that a run may take longer than the others without a word
_WORDS = {"y": "runs", "tangent": "runs with a Jacobian", "jacobian": "Jacobians"}


@dataclass(frozen=True)
class Part:
    """The runs of one product and fidelity, for a derivative costs more than a value, and a coarse run less: theta and
    seconds of those that are stored, theta of those to do."""

    fidelity: str  # "" for the study's own simulator
    product: str
    theta: np.ndarray
    seconds: np.ndarray
    todo: np.ndarray

    @property
    def name(self) -> str:
        """What tells it from the others, also as the name of a file."""
        return f"{self.product}_{self.fidelity}" if self.fidelity else self.product

    @property
    def words(self) -> str:
        return f"{_WORDS[self.product]} of {self.fidelity}" if self.fidelity else _WORDS[self.product]


def of_fidelities(bench: Workbench) -> dict[str, Iterable[Task]]:
    """The runs of every fidelity that the study asks for."""
    return {name: bench.tasks({name: theta}) for name, theta in design.fidelities(bench).items()}


def parts(bench: Workbench, asked: Mapping[str, Iterable[Task]]) -> list[Part]:
    """What is known and what is to do, by fidelity and product, in the order in which they are met. Writes nothing."""
    return [p for fidelity, tasks in asked.items() for p in _parts(bench, fidelity, tasks)]


def _parts(bench: Workbench, fidelity: str, tasks: Iterable[Task]) -> list[Part]:
    asked = {t.key: t for t in tasks}
    todo = {t.key for t in bench.missing(asked.values())}
    found = []
    for product in dict.fromkeys(t.product for t in asked.values()):
        mine = [t for t in asked.values() if t.product == product]
        kept = [t for t in mine if t.key not in todo]
        kept = kept[:: max(1, -(-len(kept) // _MOST))]
        seconds = [bench.store.read(t.key).about.get("seconds", np.nan) for t in kept]
        d = bench.study.space.d
        theta, left = (np.array([t.theta for t in ts], float).reshape(-1, d)
                       for ts in (kept, [t for t in mine if t.key in todo]))  # fmt: skip
        found.append(Part(fidelity, product, theta, np.array(seconds, float), left))
    return found


def models(bench: Workbench, known: Iterable[Part]) -> dict[str, CostModel]:
    """By name, of every part of which a run is stored."""
    return {p.name: CostModel.fit(bench.study.space, p.theta, p.seconds)
            for p in known if np.isfinite(p.seconds).any()}  # fmt: skip


def quote(bench: Workbench, known: list[Part]) -> Bill | None:
    """What is to do; None where a part that is to do has never been run."""
    fitted = models(bench, known)
    todo = [p for p in known if len(p.todo)]
    if not todo or any(p.name not in fitted for p in todo):
        return None
    return bill([(fitted[p.name], p.todo) for p in todo], bench.study.cluster.workers, seed=bench.seed("costs"))


def sentence(bench: Workbench, asked: Mapping[str, Iterable[Task]]) -> str:
    """The tail of a plan: `; 3.2 core-hours (2.9 to 3.6), 48 min on 4 workers`, or why that cannot be said."""
    if bench.study.recorded:
        return ""
    known = parts(bench, asked)
    if not any(len(p.todo) for p in known):
        return ""
    made = quote(bench, known)
    return f"; {_said(bench, made)}" if made else "; their cost is not known yet: `emulate costs STUDY --pilot 5`"


def command(study: "Study", terminal: "Terminal", *, pilot: int = 0) -> int:
    """Print and keep what the runs of a study took and what those to do will take; `pilot` runs are made first."""
    from pipelines.figures import campaigns

    if study.recorded:
        raise InputError(f"costs must be those of runs that are made. Got {given.origin(study)}, which holds the only runs there "
                         "are, and nobody noted what they took; ask for the costs of a study of the simulator itself.")  # fmt: skip
    with Workbench(study, terminal) as bench:
        sets = design.points(bench)
        if pilot:
            _pilot(bench, sets, pilot)
        own = bench.tasks(sets)
        known = parts(bench, {"": own, **of_fidelities(bench)})
        fitted, made = models(bench, known), quote(bench, known)
        rows = [(p.words, str(len(p.theta)), str(len(p.todo)), _spread(p.seconds)) for p in known]
        terminal.table(
            f"{study.name}: what its runs cost", ("what", "measured", "to do", "s per run, 5 % 50 % 95 %"), rows
        )
        for p in known:
            if p.name in fitted:
                terminal.say(f"{p.words}: {fitted[p.name].sentence()}")
                _name_stragglers(bench, p)
        if made:
            terminal.say(f"To do: {_said(bench, made)}, workers' start and queues aside.")
        elif any(len(p.todo) for p in known):
            terminal.say("What is to do cannot be costed before a run of its kind is stored; run a few: --pilot 5.")
        else:
            terminal.say("Every run is stored; nothing is to do.")
        folder = study.folder / "costs"
        summary = _summary(bench, known, fitted, made)
        files.write_json(folder / "summary.json", summary)
        terminal.give(study=study.name, **summary, paths={"folder": str(folder)})
        for p in known:
            if p.name in fitted:
                files.write_figure(folder / f"{p.name}.png", campaigns.costs(p.theta, p.seconds, fitted[p.name]))
    return 0


def _pilot(bench: Workbench, sets: dict[str, np.ndarray], n: int) -> None:
    """The first points of each set: of a Sobol design the best spread, and runs of the campaign like any other."""
    if not (bench.folder / "design" / "points.csv").exists():
        from pipelines import engine

        engine.run(bench.study, ["design"], bench.terminal)
    kinds = list(sets) if bench.study.gradient_spec("tangent") is not None else ["training"]
    bench.campaign(np.concatenate([sets[kind][:n] for kind in kinds]), "pilot")
    for name, theta in design.fidelities(bench).items():
        bench.campaign(theta[:n], f"pilot of {name}", fidelity=name)


def _said(bench: Workbench, made: Bill) -> str:
    cores, workers = bench.study.simulate.threads, bench.study.cluster.workers
    unit, size = ("core-hours", 3600) if cores * made.work.middle >= 360 else ("core-seconds", 1)
    low, middle, high = (f"{float(f'{cores * x / size:.2g}'):g}" for x in vars(made.work).values())
    return f"{middle} {unit} ({low} to {high}), {made.wall} on {count(workers, 'worker')}"


def _spread(seconds: np.ndarray) -> str:
    seconds = seconds[np.isfinite(seconds)]
    return "  ".join(f"{x:.3g}" for x in np.quantile(seconds, [0.05, 0.5, 0.95])) if len(seconds) else "not known"


def _name_stragglers(bench: Workbench, p: Part) -> None:
    known = np.flatnonzero(np.isfinite(p.seconds))
    late = known[stragglers(p.seconds[known])]
    late = late[p.seconds[late] > np.median(p.seconds[known]) + _UNNOTICED]
    if len(late):
        worst = late[np.argmax(p.seconds[late])]
        at = ", ".join(f"{n} = {x:.4g}" for n, x in zip(bench.study.space.names, p.theta[worst], strict=True))
        bench.terminal.say(f"  {count(len(late), 'run')} took far longer than the others: up to "
                           f"{duration(p.seconds[worst])}, at {at}.")  # fmt: skip


def _summary(bench: Workbench, known: list[Part], fitted: dict[str, CostModel], made: Bill | None) -> dict[str, Any]:
    return {
        "workers": bench.study.cluster.workers,
        "cores_per_run": bench.study.simulate.threads,
        "work_seconds": vars(made.work) if made else None,
        "wall_seconds": vars(made.wall) if made else None,
        "products": {p.product: _priced(p, fitted) for p in known if not p.fidelity},
        **({"fidelities": others} if (others := {p.fidelity: _priced(p, fitted) for p in known if p.fidelity}) else {}),
    }


def _priced(p: Part, fitted: Mapping[str, CostModel]) -> dict[str, Any]:
    return {
        "measured": len(p.theta),
        "todo": len(p.todo),
        "seconds": float(np.nansum(p.seconds)),
        "slopes": fitted[p.name].slopes() if p.name in fitted else None,
        "scatter": fitted[p.name].sigma if p.name in fitted else None,
    }
