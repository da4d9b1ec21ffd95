"""Fields that are declared positive and are not: told by the first runs that show it, and refused before any fit."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from emulate.errors import InputError
from emulate.runs import Outputs

if TYPE_CHECKING:
    from emulate.runs import Runs
    from pipelines.tasks import Task
    from pipelines.workbench import Workbench

_FIRST = 64  # runs of a campaign that are looked at while it goes on


def lookout(bench: "Workbench", tasks: "Sequence[Task]", fidelity: str) -> Callable[[], None]:
    """What a campaign calls when runs came in: it looks at its first ones, each once, and warns at most once."""
    outputs = bench.study.simulator_of(fidelity).outputs
    new = {t.key for t in tasks[:_FIRST]} if outputs.positive.any() and _readers(bench) else set()

    def look() -> None:
        for key in bench.store.held(new) if new and not bench.crossed else ():
            new.discard(key)
            record = bench.store.read(key)
            if record.ok and (said := _met(outputs, record.y[None])):
                bench.crossed = True
                bench.terminal.warn(f"{said}, run {key[:12]}; train will refuse it. {_advice(bench)}")
                return

    return look


def tell(bench: "Workbench", runs: "Runs") -> None:
    """Of all runs, where no earlier one has shown it."""
    if not bench.crossed and _readers(bench) and (said := _met(runs.outputs, runs.y[runs.ok])):
        bench.crossed = True
        bench.terminal.warn(f"{said}; train will refuse that. {_advice(bench)}")


def refuse(bench: "Workbench", runs: "Runs") -> None:
    """One sentence for all emulators, before the first fit."""
    if _readers(bench) and (said := _met(runs.outputs, runs.y[runs.ok])):
        raise InputError(f"{said}. {_advice(bench)}")


def _met(outputs: Outputs, y: np.ndarray) -> str:
    """`output q is declared positive, so that emulators work on its logarithm. Got -0.5`; nothing where all is well."""
    bad = (y <= 0) & outputs.positive
    if not bad.any():
        return ""
    runs, j = int(bad.any(1).sum()), int(bad.sum(0).argmax())
    many = f" in {runs} of {len(y)} runs" if len(y) > 1 else ""
    return (f"output {outputs.labels[j]} is declared positive, so that emulators work on its logarithm. Got "
            f"{y[bad[:, j], j].min():g}{many}")  # fmt: skip


def _readers(bench: "Workbench") -> list[str]:
    """The emulators that take logarithms."""
    return [f"emulators.{name}" for name, recipe in bench.study.emulators.items() if recipe.log]


def _advice(bench: "Workbench") -> str:
    return (f"Set `log: false` in {', '.join(_readers(bench))}, which keeps the runs; or `positive: false` where the simulator "
            "declares the field, which makes them anew where that is a setting of it.")  # fmt: skip
