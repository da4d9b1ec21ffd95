"""What a simulator draws of itself at parameters that a stage found, with its caption."""

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from pipelines.workbench import Workbench

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "picture"  # of the figure beside a stage's own


def picture(bench: Workbench, points: Mapping[str, Tensor | None]) -> dict[str, tuple["Figure", str]]:
    """The simulator's picture at the parameters that are known, as `Workbench.figures` takes it; nothing where it has none."""
    simulator, known = bench.study.simulator, {n: t.detach() for n, t in points.items() if t is not None}
    try:
        figure = simulator.picture(known)
    except Exception as e:  # a user's simulator may raise anything, and a picture is no reason to lose a posterior
        bench.terminal.warn(f"the simulator's picture could not be drawn: {type(e).__name__}: {e}. Mend its `picture`.")
        return {}
    return {} if figure is None else {NAME: (figure, caption(simulator))}


def caption(simulator: object) -> str:
    """The first paragraph of what its `picture` says of itself."""
    return " ".join((inspect.getdoc(simulator.picture) or "").split("\n\n")[0].split())
