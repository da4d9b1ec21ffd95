"""Heat along a rod whose material is graded, by steps in time on a grid."""

import importlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, NamedTuple

import torch
from annotated_types import Ge, Gt, Len
from torch import Tensor

from emulate.contracts import Simulator, Truth
from emulate.dynamics import ODE
from emulate.errors import InputError, RunFailed
from emulate.runs import Field, Outputs
from emulate.simulators.heat.series import temperature
from emulate.space import LogUniform, Parameter, Space, Uniform

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NAMES = ("diffusivity", "grading")
_SPACE = Space((Parameter("diffusivity", LogUniform(50.0, 150.0), unit="mm2/s", label="a"),
                Parameter("grading", Uniform(0.2, 1.0), label="b")))  # fmt: skip
_REACH = {"rk4": 2.785293563405282, "euler": 2.0}  # -h lambda up to which steps of a decay do not grow


class Orders(NamedTuple):
    """Errors of dy/dtheta at so many steps, over the largest derivative of each parameter: of both orders of differentiating
    and discretising against the equations in time (the grid as it is), and how far apart they are."""

    steps: int
    adjoint: float  # discretise, then differentiate
    continuous: float  # differentiate, then discretise
    gap: float


@dataclass(frozen=True, kw_only=True)
class Heat(Simulator):
    r"""Heat along a graded rod, u_t = (a(x) u_x)_x with the diffusivity a(x) = diffusivity (1 + grading x / length)^2.

    u is the temperature above that of both ends, which are held; it starts as peak sin(pi x / length), and the output is u at
    the sensors after `time`. Fluxes between `cells` equal cells (second order in space), `steps` equal steps in time. Modes,
    and so everything, are in closed form: `series` (Carslaw & Jaeger 1959 for the even rod; Euler and Cauchy's equation).

    A derivative of a run can be had in two orders. Discretise, then differentiate (`adjoint`, `checkpointed`, `reverse`): exact
    for what the computer ran. Differentiate, then discretise (`continuous_adjoint`): the adjoint equation -l_t = (a l_x)_x,
    solved backward by the same scheme; it is the derivative of nothing that was run, but comes to the other at the order of
    the scheme (Giles & Pierce 2000; Hinze et al. 2009, ch. 3). The fluxes make the discrete operator symmetric, so that in
    space both orders agree. `orders` is the table, `picture` the plot, `dynamics` the steps.

    One run takes 40 ms. Explicit steps must be shorter than about h^2 / (2 a): a run that is not says how many it needs.

    >>> simulator = Heat(sensors=(25.0, 50.0, 75.0))
    >>> theta = torch.tensor([100.0, 0.5], dtype=torch.float64)
    >>> simulator.run(theta, seed=0).round(decimals=2), simulator.series(theta)[0].round(decimals=2)
    (tensor([38.1500, 46.0800, 28.2100], dtype=torch.float64), tensor([38.0900, 46.0100, 28.1700], dtype=torch.float64))
    """

    space: Space = _SPACE  # diffusivity at x = 0 (mm2/s) and grading, by these names
    length: Annotated[float, Gt(0)] = 100.0  # mm, of the rod
    time: Annotated[float, Gt(0)] = 5.0  # s, when the sensors are read
    peak: Annotated[float, Gt(0)] = 100.0  # K, in the middle at the start
    sensors: Annotated[tuple[float, ...], Len(1)] = tuple(10.0 * i for i in range(1, 10))  # mm, on the grid
    cells: Annotated[int, Ge(4)] = 20  # of equal length; the error in space falls as their number squared
    steps: Annotated[int, Ge(1)] = 200  # in time, of equal length; their least number grows as cells squared
    scheme: Literal["rk4", "euler"] = "rk4"  # of the steps: fourth order in time, or first

    differentiable: ClassVar[bool] = True

    def __post_init__(self):
        if sorted(self.space.names) != sorted(_NAMES):
            raise InputError(f"heat: the parameters must be {' and '.join(_NAMES)}. Got {', '.join(self.space.names)}; change "
                             "their priors, keep their names.")  # fmt: skip
        lost = [
            x for x in self.sensors if not 0 < x < self.length or abs(self._place(x) - round(self._place(x))) > 1e-9
        ]
        if lost:
            raise InputError(f"heat: sensors must lie inside the rod on its grid, at multiples of {self.length / self.cells:g} mm. "
                             f"Got {lost[0]:g} mm; move it, or change cells.")  # fmt: skip

    @property
    def outputs(self) -> Outputs:
        return Outputs(
            (Field("temperature", unit="K", positive=True, coordinate="x", at=tuple(self.sensors), at_unit="mm"),)
        )

    @property
    def stochastic(self) -> bool:
        return False

    @property
    def dynamics(self) -> ODE:
        """The steps, from the temperatures on the inner points of the grid to those at the sensors."""
        h = self.length / self.cells
        between = (torch.arange(self.cells, dtype=torch.float64) + 0.5) / self.cells
        seen = torch.tensor([round(self._place(x)) - 1 for x in self.sensors])

        def slope(theta: Tensor, u: Tensor, t: float) -> Tensor:
            diffusivity, grading = self.named(theta)
            wide = torch.nn.functional.pad(u, (1, 1))
            flux = diffusivity * (1 + grading * between) ** 2 * (wide[1:] - wide[:-1]) / h**2
            return flux[1:] - flux[:-1]

        return ODE(slope, lambda theta: self._start + 0 * theta[0], self.time, self.steps, lambda theta, u: u[seen],
                   scheme=self.scheme)  # fmt: skip

    def run(self, theta: Tensor, *, seed: int = 0) -> Tensor:
        """The temperatures `[m]` in K.

        Raises:
            RunFailed: the steps are too long for the grid.
        """
        if (needed := self.least_steps(theta)) > self.steps:
            raise RunFailed("error", f"heat must take at least {needed} steps on {self.cells} cells at {theta.tolist()}, or its "
                            f"steps grow without bound. Got {self.steps}; raise steps, or lower cells.")  # fmt: skip
        return self.dynamics(theta)

    def least_steps(self, theta: Tensor) -> int:
        """The least number of steps that do not grow: -h lambda of the fastest mode of the grid stays within the scheme's reach."""
        fastest = -float(torch.linalg.eigvalsh(self.matrix(theta.detach())).min())
        return math.ceil(self.time * fastest / _REACH[self.scheme])

    def matrix(self, theta: Tensor) -> Tensor:
        """A `[cells - 1, cells - 1]` of du/dt = A u on the inner points of the grid, 1/s; symmetric."""
        diffusivity, grading = self.named(theta)
        between = (torch.arange(self.cells, dtype=torch.float64) + 0.5) / self.cells
        a = diffusivity * (1 + grading * between) ** 2 * (self.cells / self.length) ** 2
        return torch.diag(a[1:-1], 1) + torch.diag(a[1:-1], -1) - torch.diag(a[1:] + a[:-1])

    def exact(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """y `[m]` and dy/dtheta `[m, d]` of the steps as they are, by powers of a matrix: R(h A)^steps with R(z) the first
        terms of exp z."""
        h, terms = self.time / self.steps, {"rk4": 4, "euler": 1}[self.scheme]

        def after(t: Tensor) -> Tensor:
            z = h * self.matrix(t)
            step = term = torch.eye(len(z), dtype=z.dtype)
            for i in range(1, terms + 1):
                term = term @ z / i
                step = step + term
            return self._seen(torch.linalg.matrix_power(step, self.steps) @ self._start)

        return _with_slope(after, theta)

    def lines(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """The same of the equations in time on this grid, to which all schemes tend: exp(A t)."""
        return _with_slope(
            lambda t: self._seen(torch.linalg.matrix_exp(self.time * self.matrix(t)) @ self._start), theta
        )

    def series(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """The same of the heat equation itself, in closed form."""
        x = torch.tensor(self.sensors, dtype=torch.float64)
        return _with_slope(
            lambda t: self.peak * temperature(*self.named(t), x, length=self.length, time=self.time), theta
        )

    def orders(self, theta: Tensor, counts: Sequence[int] = (50, 100, 200)) -> tuple[Orders, ...]:
        """Both orders of differentiating and discretising at several numbers of steps: the table of what they are wrong by.

        >>> theta = torch.tensor([100.0, 0.5], dtype=torch.float64)
        >>> for row in Heat(cells=10, sensors=(50.0,), scheme="euler").orders(theta, (40, 80)):
        ...     print(f"{row.steps:3d} steps: adjoint {row.adjoint:.4f}, continuous {row.continuous:.4f}, apart {row.gap:.4f}")
         40 steps: adjoint 0.0112, continuous 0.0111, apart 0.0222
         80 steps: adjoint 0.0056, continuous 0.0055, apart 0.0111
        """
        registry = importlib.import_module("emulate.registry")  # it stands above the rooms
        truth, made = self.lines(theta)[1], []
        size = truth.abs().amax(0)
        for steps in counts:
            f = replace(self, steps=steps)
            one, other = (registry.build("gradients", name).estimate(f, theta, seed=0).gradient
                          for name in ("adjoint", "continuous_adjoint"))  # fmt: skip
            made.append(
                Orders(steps, *(float((d.abs() / size).max()) for d in (one - truth, other - truth, one - other)))
            )
        return tuple(made)

    def truths(self) -> tuple[Truth, ...]:
        return _truths()

    def picture(self, points: Mapping[str, Tensor]) -> "Figure | None":
        """Above: the temperature along the rod at the start, on the way and at the end, with the sensors; and what the end
        says of each parameter, per one per cent of it. Below: what the derivatives of the sensors are wrong by, in both
        orders of differentiating and discretising, against the equations in time on a grid of five cells, and the same as a
        table; the order of each is the slope of its line."""
        from emulate.simulators.heat._pictures import picture

        return picture(self, points)

    @property
    def _start(self) -> Tensor:
        return self.peak * torch.sin(math.pi * torch.arange(1, self.cells, dtype=torch.float64) / self.cells)

    def named(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """diffusivity and grading, whatever their order in the space."""
        diffusivity, grading = (theta[self.space.names.index(name)] for name in _NAMES)
        return diffusivity, grading

    def _place(self, x: float) -> float:
        return x * self.cells / self.length

    def _seen(self, u: Tensor) -> Tensor:
        return u[torch.tensor([round(self._place(x)) - 1 for x in self.sensors])]


def order(counts: Sequence[int], errors: Sequence[float]) -> float:
    """p of errors that fall as counts^-p, by least squares of the logarithms.

    >>> round(order((10, 20, 40), (1.0, 0.25, 0.0625)), 6)
    2.0
    """
    x, y = (torch.tensor(v, dtype=torch.float64).log() for v in (counts, errors))
    x = x - x.mean()
    return -float((x * y).sum() / x.square().sum())


def _with_slope(f, theta: Tensor) -> tuple[Tensor, Tensor]:
    theta = theta.detach()
    return f(theta), torch.func.jacfwd(f)(theta)


def _truths() -> tuple[Truth, ...]:
    theta = torch.tensor([100.0, 0.5], dtype=torch.float64)

    def even() -> float:
        """The middle of a rod that is hardly graded, over the peak, on a grid so fine that it does not matter."""
        x = torch.tensor([50.0], dtype=torch.float64)
        return float(
            temperature(torch.tensor(100.0).double(), torch.tensor(1e-6).double(), x, length=100.0, time=5.0)[0]
        )

    def of_space() -> float:
        cells = (20, 40, 80)
        rods = [Heat(cells=n) for n in cells]
        return order(cells, [float((r.lines(theta)[1] - r.series(theta)[1]).abs().max()) for r in rods])

    def discrete() -> float:
        rod = Heat(cells=10, sensors=(50.0,), steps=60)
        made = importlib.import_module("emulate.registry").build("gradients", "adjoint").estimate(rod, theta, seed=0)
        return float(((made.gradient - rod.exact(theta)[1]) / rod.exact(theta)[1]).abs().max())

    @cache
    def rows(scheme: Literal["rk4", "euler"], counts: tuple[int, ...]) -> tuple[Orders, ...]:
        return Heat(cells=5, sensors=(20.0, 40.0), scheme=scheme).orders(theta, counts)

    def of_time(scheme: Literal["rk4", "euler"], counts: tuple[int, ...], which: str) -> float:
        return order(counts, [getattr(row, which) for row in rows(scheme, counts)])

    said = {"adjoint": "discretise, then differentiate", "continuous": "differentiate, then discretise", "gap": "apart"}
    schemes: tuple[tuple[Literal["rk4", "euler"], tuple[int, ...], float], ...]
    schemes = ("euler", (40, 80, 160), 1.0), ("rk4", (20, 40, 80), 4.0)
    in_time = [
        Truth(f"order in time by {scheme}: {words}", partial(of_time, scheme, counts, which), p, 0.15,
              "the order of the scheme; Butcher 2016", slow=True)
        for scheme, counts, p in schemes
        for which, words in said.items()
    ]  # fmt: skip
    return (
        Truth("an even rod's middle after 5 s, over the peak", even, math.exp(-0.05 * math.pi**2), 1e-6, "Carslaw & Jaeger 1959"),
        Truth("order in space of the derivatives", of_space, 2.0, 0.05, "central fluxes are of second order"),
        Truth("adjoint of the steps, relative, off by", discrete, 0.0, 1e-12, "the same steps by powers of their matrix"),
        *in_time,
    )  # fmt: skip
