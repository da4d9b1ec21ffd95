"""How a simulator is differentiated: by its own `jacobian`, where it has one, or by an entry of the room of gradients.

A simulator often knows a cheaper way to dy/dtheta than the room, which only sees a function of theta. `auto` in a study
means its own way first, then reverse mode where it carries a torch graph, then finite differences. The way is part of
the key of a stored run, for the answers differ by rounding. Nothing heavy is imported before it is needed.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from torch import Tensor

    from emulate.contracts import Estimate, Simulator

OWN = "simulator"  # `use: simulator`


@dataclass(frozen=True)
class Own:
    """The simulator's own `jacobian(theta, seed=...)`; no entry of the room, whose entries differentiate any function.

    >>> Own().entry_name(), Own().settings()
    ('simulator', {})
    """

    needs: ClassVar[tuple[str, ...]] = ()

    @staticmethod
    def entry_name() -> str:
        return OWN

    @staticmethod
    def settings() -> dict[str, Any]:
        return {}


def has_own(simulator: "Simulator") -> bool:
    """Whether the simulator defines a `jacobian` beside `run`.

    >>> from emulate.simulators.linear_gaussian import LinearGaussian
    >>> from emulate.simulators.nbody import NBody
    >>> has_own(LinearGaussian()), has_own(NBody())
    (False, True)
    """
    return callable(getattr(simulator, "jacobian", None))


def inside(simulator: "Simulator") -> frozenset[str]:
    """What a simulator shows of itself to the room of gradients: "sites" by a `program`, "dynamics" by its `dynamics`.

    >>> from emulate.simulators.heat import Heat
    >>> from emulate.simulators.linear_gaussian import LinearGaussian
    >>> inside(LinearGaussian()), inside(Heat())
    (frozenset(), frozenset({'dynamics'}))
    """
    shown = {
        "sites": callable(getattr(simulator, "program", None)),
        "dynamics": getattr(simulator, "dynamics", None) is not None,
    }
    return frozenset(name for name, there in shown.items() if there)


def automatic(simulator: "Simulator") -> str:
    """What `auto` stands for: the first of simulator, reverse and finite_difference that this simulator allows."""
    if has_own(simulator):
        return OWN
    return "reverse" if simulator.differentiable else "finite_difference"


def differentiate(simulator: "Simulator", gradient: Mapping[str, Any], theta: "Tensor", *, seed: int,
                  n: int) -> "Estimate":  # fmt: skip
    """E[y] `[m]` and dE[y]/dtheta `[m, d]` over n seeds keyed from `seed`, the way that the spec `gradient` says.

    n = 1 of a stochastic simulator is the derivative of that very run: its noise stays fixed, and the standard error
    is that of the method alone.
    """
    from emulate import registry

    if gradient["use"] == OWN:
        return _own(simulator, theta, seed=seed, n=n)
    fixed = n == 1 and simulator.stochastic
    entry = registry.build("gradients", gradient)
    if inside(simulator) and not fixed:
        return entry.estimate(simulator, theta, seed=seed, n=n * getattr(simulator, "replicates", 1))
    return entry.estimate(lambda t, s: simulator.run(t, seed=seed if fixed else s), theta, seed=seed, n=n)


def _own(simulator: "Simulator", theta: "Tensor", *, seed: int, n: int) -> "Estimate":
    """The standard error is that of the mean over the seeds: zero for one, as the derivative of a run is exact."""
    import torch

    from emulate.contracts import Estimate
    from emulate.seeds import replicates

    began = time.perf_counter()
    answers = [_pair(simulator.jacobian(theta.clone(), seed=s)) for s in replicates(seed, n)]
    y, slope = (torch.stack(of) for of in zip(*answers, strict=True))
    error = slope.std(0) / math.sqrt(n) if n > 1 else torch.zeros_like(slope[0])
    return Estimate(y.mean(0), slope.mean(0), error, n, time.perf_counter() - began)


def _pair(answer: Any) -> "tuple[Tensor, Tensor]":
    import torch

    from emulate.errors import RunFailed

    if not (isinstance(answer, tuple) and [isinstance(a, torch.Tensor) for a in answer] == [True, True]):
        met = ", ".join(type(a).__name__ for a in answer) if isinstance(answer, tuple) else type(answer).__name__
        raise RunFailed("badshape", f"jacobian must return two tensors, y [m] and dy/dtheta [m, d]. Got {met}.")
    y, slope = answer
    return y.detach().double(), slope.detach().double()
