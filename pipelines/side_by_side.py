"""Every method of the room of gradients beside what is known in closed form, where a simulator shows its inside."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from pipelines import files
from pipelines.derivatives import inside
from pipelines.workbench import Workbench

if TYPE_CHECKING:
    from emulate.contracts import Simulator
    from emulate.side_by_side import Side

HEADER = ("method", "bias, over the truth", "± standard error", "sd of one replicate", "runs for each", "verdict")
_RUNS, _MOST = 4, 40_000  # the replicates of so many runs, and at most so many


def known(simulator: "Simulator") -> bool:
    """Whether it shows its inside, and tells its derivatives in closed form by `exact`."""
    return bool(inside(simulator)) and callable(getattr(simulator, "exact", None))


def sides(bench: Workbench, theta: Tensor, seed: int, scope: str) -> "tuple[Side, ...]":
    """All methods at theta `[d]`; every derivative goes into `methods.csv` of the scope."""
    from emulate.side_by_side import compare

    simulator = bench.study.simulator
    n = min(_RUNS * getattr(simulator, "replicates", 1), _MOST) if simulator.stochastic else 1
    found = compare(
        simulator, theta, simulator.exact(theta)[1], seed=seed, n=n, ladders=getattr(simulator, "ladders", None)
    )
    labels, names = simulator.outputs.labels, simulator.space.names
    lines = [(labels[j], names[i], float(s.truth[j, i]), *s.row(j, i).values()) for s in found
             for j in range(len(labels)) for i in range(len(names))]  # fmt: skip
    files.write_csv(
        bench.study.folder / scope / "methods.csv", ("output", "parameter", "truth", *found[0].row(0, 0)), lines
    )
    bench.journal.append("artifact", scope, path=f"{scope}/methods.csv")
    return found


def table(simulator: "Simulator", found: "Sequence[Side]") -> tuple[str, list[tuple[str, ...]]]:
    """The title and the rows of one derivative: the output in the middle by the first parameter."""
    j = simulator.outputs.size // 2
    title = f"d {simulator.outputs.labels[j]} / d {simulator.space.names[0]} by every method"
    return title, [_told(s.row(j, 0)) for s in found]


def _told(row: dict[str, Any]) -> tuple[str, ...]:
    if row["verdict"] == "refused":
        return (row["method"], "", "", "", "", "refused")
    scatter = ["" if row[k] == 0 else f"{row[k]:.1e}" for k in ("error", "deviation")]
    return (row["method"], f"{row['bias']:+.1e}", *scatter, f"{row['calls']:.4g}", row["verdict"])
