"""Points where an emulator should know more."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from annotated_types import Ge, Gt

from emulate.contracts import Design
from emulate.designs.sobol import Sobol

if TYPE_CHECKING:
    from emulate.lookahead import Lookahead


@dataclass(frozen=True, kw_only=True)
class Active(Design):
    """Sobol points first, then batches where runs take most off the emulator's error, until a target or a budget.

    A study simulates the Sobol points, fits its emulator, asks for `batch` points to run in parallel, and so on. The
    points of a batch are chosen one by one, each as if those before it were run: the variance of a Gaussian process does
    not ask for their answers (see `emulate.lookahead`). `aim` says which error:

    - "prior": the mean square of the emulator's error over the prior; `target` is its root in units of the spread of the
      outputs over the runs, 0.01 for 1 %. Points go where left-out runs were missed by more than the emulator says.
    - "posterior": the error over the posterior of the study's observation, by its noise; `target` is the standard
      deviation of ln p(data | theta) that the emulator's error makes, 0.1 for a density known to a tenth.

    Both are what the emulator says of itself; the checks of the study hold it against the simulator. Over a posterior every
    round also says by how much it moved since the round before, and how well the round's runs had been foretold. Where runs failed,
    points count by the probability that a run finishes. On a damped oscillation of two parameters, ten observations, the
    posterior was within 0.1 in total variation after 22 runs in the median (20 to 30), of a Sobol sequence after 58 (48
    to 69). The four rates of `configs/lotka_volterra.yaml` took 96 runs until no classifier told the posterior from the
    simulator's own. Without an emulator the points are those of `Sobol`.

    >>> Active().points(4, 2, seed=1).shape
    (4, 2)
    """

    aim: Literal["prior", "posterior"] = "prior"  # over what the emulator should err less
    batch: Annotated[int, Ge(1)] = 8  # points of a round, run in parallel
    budget: Annotated[int, Ge(1)] = 64  # training runs in all, those of the first design included
    target: Annotated[float, Gt(0)] | None = None  # error at which no round follows; empty: the budget is spent
    emulator: str = ""  # that of the study which says where; empty: the first that is not the baseline
    candidates: Annotated[int, Ge(16)] = 1024  # points that a batch is chosen from

    extensible: ClassVar[bool] = True

    def points(self, n: int, dim: int, *, seed: int, emulator: Any | None = None, posterior: Any | None = None,
               feasibility: Any | None = None) -> np.ndarray:  # fmt: skip
        """With an emulator the next batch; over the prior where no posterior is given, see `look`."""
        if emulator is None:
            return Sobol().points(n, dim, seed=seed)
        return self.look(emulator, seed=seed, posterior=posterior, feasibility=feasibility).choose(n)[0]

    def look(self, emulator: Any, *, seed: int, posterior: Any | None = None,
             feasibility: Any | None = None) -> "Lookahead":  # fmt: skip
        """How far the emulator errs by its own account, and what chooses the points that mend it."""
        from emulate.lookahead import look  # here, because it imports torch

        return look(emulator, posterior=posterior, feasibility=feasibility, seed=seed, candidates=self.candidates)
