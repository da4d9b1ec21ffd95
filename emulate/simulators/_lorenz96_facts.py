"""What is known of Lorenz's weather, and how its averages, exponents and slopes are measured."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from emulate.chaos import Exponents, Growth, exponents, growth
from emulate.contracts import Truth

if TYPE_CHECKING:
    from emulate.simulators.lorenz96 import Lorenz96

_APART = 0.5  # of the forcing, either way, between which the slope of the average is a difference


def truths() -> tuple[Truth, ...]:
    """At N = 40, F = 8, c = 1 and the default step."""
    from emulate.simulators.lorenz96 import Lorenz96

    simulator = Lorenz96()
    n, f = simulator.sites, 8.0
    theta = simulator.space.pack({"forcing": f, "damping": 1.0})

    def energy() -> float:
        mean, square = moments(simulator, theta, members=100, time=20.0)
        return float(square / mean)

    return (
        Truth("<x^2> / <x> of Lorenz-96 at F = 8, by the balance of energy", energy, f, 0.02, "c <x^2> = F <x>"),
        Truth("the sum of the 40 Lyapunov exponents of Lorenz-96", lambda: spectrum(simulator, theta, time=3.0, members=8).sum,
              -float(n), 1e-3 * n, "the divergence of the flow is -N c", slow=True),
        Truth("the largest Lyapunov exponent of Lorenz-96 at N = 40, F = 8",
              lambda: spectrum(simulator, theta, time=24.0, members=100, count=1).largest, 1.67, 0.05 * 1.67,
              "Lorenz and Emanuel 1998: errors double in 2.1 days, 0.42 units", slow=True),
        Truth("d<x>/dF of Lorenz-96 at F = 8", lambda: float(response(simulator, theta)[0]), 0.135, 0.01,
              "differences of long averages", slow=True),
    )  # fmt: skip


def moments(simulator: "Lorenz96", theta: Tensor, *, members: int, time: float, seed: int = 1) -> tuple[Tensor, Tensor]:
    """<x> and <x^2> over the circle, a time after the spin-up, and members side by side."""
    found = [torch.stack((x.mean(), x.square().mean()))
             for x in simulator.states(theta, simulator.starts(members, seed=seed), time, simulator.spinup)]  # fmt: skip
    mean, square = torch.stack(found).mean(0)
    return mean, square


def response(simulator: "Lorenz96", theta: Tensor, *, members: int = 400, time: float = 40.0, count: int | None = None,
             seed: int = 1) -> Tensor:  # fmt: skip
    """d<x>/dtheta `[d]`, or by the first `count` parameters: differences of averages over members and time, of values of theta
    far apart against the chance in them, near against the bend of the average."""
    found = []
    for i, size in enumerate(theta.tolist()[:count]):
        apart = _APART * size / 8.0 * torch.eye(len(theta), dtype=theta.dtype)[i]
        high, low = (moments(simulator, theta + s * apart, members=members, time=time, seed=seed)[0] for s in (1, -1))
        found.append((high - low) / (2 * apart[i]))
    return torch.stack(found)


def spectrum(simulator: "Lorenz96", theta: Tensor, *, time: float, members: int, count: int | None = None,
             seed: int = 1) -> Exponents:  # fmt: skip
    """All exponents of the flow, or the `count` largest, over two thirds of a time."""
    spun = round(simulator.spinup / simulator.step)
    return exponents(simulator.climate(time, spinup=0.0), theta, interval=simulator.step, members=members, spread=1.0, spinup=spun,
                     every=2, count=count, seed=seed)  # fmt: skip


def slopes(simulator: "Lorenz96", theta: Tensor, *, time: float, members: int, seed: int = 1) -> Growth:
    """The derivative by theta of the mean of x over the circle, after each step of many members' runs."""
    spun = round(simulator.spinup / simulator.step)
    return growth(simulator.climate(time, spinup=0.0, last=True), theta, interval=simulator.step, members=members, spread=1.0,
                  spinup=spun, seed=seed)  # fmt: skip
