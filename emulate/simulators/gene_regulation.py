"""A gene whose protein represses it after a delay: Monk's model of Hes1."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Gt
from torch import Tensor

from emulate.contracts import Simulator, Truth
from emulate.delays import Past, Solution, real, solve
from emulate.errors import InputError, RunFailed
from emulate.paper import COLOURS, DASHES, lined
from emulate.runs import Field, Outputs
from emulate.simulators._mass_action import need_names, need_times, plain
from emulate.space import Parameter, Space, Uniform

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HES1 = {
    "alpha_m": 1.0,
    "alpha_p": 1.0,
    "mu_m": 0.03,
    "mu_p": 0.03,
    "p0": 100.0,
    "hill": 5.0,
    "tau_m": 8.0,
    "tau_p": 14.0,
}
_SPACE = Space((Parameter("tau_m", Uniform(5.0, 13.0), unit="min", label=r"\tau_m"),
                Parameter("tau_p", Uniform(10.0, 20.0), unit="min", label=r"\tau_p"),
                Parameter("mu_m", Uniform(0.025, 0.035), unit="1/min", label=r"\mu_m"),
                Parameter("p0", Uniform(80.0, 120.0), label="p_0")))  # fmt: skip
_NAMES = ("mrna", "protein")
_DEAD = 1e-3  # of the steady state: swings below it count as none
_STEP = 1e-30  # of a complex number: its square is nothing
_SOURCES = ("by steps: y(t) = sum_k (-1)^k (t - (k - 1) tau)^k / k!, k up to t / tau + 1", "Monk 2003; the phase of the "
            "characteristic equation at i omega", "Monk's equations at Hes1's numbers")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class GeneRegulation(Simulator):
    r"""mRNA m and protein p: dm/dt = alpha_m / (1 + (p(t - tau_m) / p0)^n) - mu_m m, dp/dt = alpha_p m(t - tau_p) - mu_p p.

    Monk (2003) with the numbers of Hes1: 1/min for both alpha, mu_m = mu_p = 0.03 / min, p0 = 100 molecules, n (here `hill`)
    = 5. tau_m is what transcription takes, tau_p translation, min. The outputs are the numbers of molecules that `observed`
    names, at `times`. Before 0 both stood still: m = `mrna`, p = `protein`, by default what that much mRNA keeps up,
    alpha_p mrna / mu_p.

    From such a start mRNA alone tells tau_m + tau_p and nothing else of the two: q(t) = p(t - tau_m) obeys dq/dt = alpha_p
    m(t - tau_m - tau_p) - mu_p q, with the sum in both equations. Beyond a sum of 18.2 min (`onset`) the steady state gives
    way to oscillations, of a period of 167 min at 30 min.

    At the default step outputs are right to 1e-7, and halving it lowers their error by 2^4. One run takes five milliseconds,
    `jacobian` ten for each parameter (by complex steps), a derivative by torch's graph a second. Any of the eight parameters
    may be in the space; `fixed` holds others than Monk's for the rest.

    >>> simulator = GeneRegulation(observed=("mrna",), times=(60.0, 120.0))
    >>> simulator.run(torch.tensor([8.0, 14.0, 0.03, 100.0], dtype=torch.float64), seed=0).round(decimals=3)
    tensor([6.1100, 1.9710], dtype=torch.float64)
    """

    space: Space = _SPACE
    fixed: dict[str, float] = field(default_factory=dict)  # parameters not in the space, where they are not Monk's
    observed: tuple[Literal["mrna", "protein"], ...] = ("mrna", "protein")  # the courses that a run gives
    mrna: Annotated[float, Gt(0)] = 3.0  # molecules until t = 0
    protein: Annotated[float, Gt(0)] | None = None  # molecules until t = 0; empty: what that mRNA keeps up
    times: tuple[float, ...] = tuple(20.0 * i for i in range(2, 13))  # of the outputs, min
    step: Annotated[float, Gt(0)] = 1.0  # at most so long, min

    differentiable: ClassVar[bool] = True
    example: ClassVar[dict] = {"times": (60.0, 120.0, 240.0), "step": 2.0}  # for the tests that differentiate

    def __post_init__(self):
        others = {k: v for k, v in HES1.items() if k not in self.space.names}
        need_names("gene_regulation", tuple(HES1), self.space.names, {**others, **self.fixed})
        need_times("gene_regulation", self.times)
        if not self.observed or len(set(self.observed)) < len(self.observed):
            raise InputError(f"gene_regulation: observed must be mrna, protein or both. Got {list(self.observed)}.")

    @property
    def outputs(self) -> Outputs:
        return Outputs(tuple(Field(name, positive=True, coordinate="t", at=self.times, at_unit="min")
                             for name in self.observed))  # fmt: skip

    @property
    def stochastic(self) -> bool:
        return False

    def run(self, theta: Tensor, *, seed: int = 0) -> Tensor:
        """y `[m]` at theta `[d]`: by plain numbers, where nobody differentiates, for they take a hundredth of the time."""
        if plain(theta):
            return torch.tensor(self._values(theta.tolist()), dtype=torch.float64)
        return torch.stack([torch.as_tensor(x) for x in self._values(theta.unbind(-1))])

    def jacobian(self, theta: Tensor, *, seed: int) -> tuple[Tensor, Tensor]:
        """The outputs `[m]` and their derivatives `[m, d]`, by complex steps (Squire and Trapp 1998)."""
        values = theta.detach().tolist()
        columns = [[x.imag / _STEP for x in self._values([complex(v, _STEP * (i == j)) for j, v in enumerate(values)])]
                   for i in range(len(values))]  # fmt: skip
        return self.run(theta.detach(), seed=seed), torch.tensor(columns, dtype=torch.float64).T.contiguous()

    def courses(self, theta: Sequence[Any], horizon: float) -> Solution:
        """(m, p) at any time up to the horizon, for parameters in the order of the space, of any kind of number."""
        of = self._named(theta)
        m, p = self.mrna, self.protein
        p = of["alpha_p"] * m / of["mu_p"] if p is None else p

        def slope(t: Any, y: tuple, past: Past) -> tuple:
            made = of["alpha_m"] / (1.0 + (past(0, 1) / of["p0"]) ** of["hill"])
            return made - of["mu_m"] * y[0], of["alpha_p"] * past(1, 0) - of["mu_p"] * y[1]

        return solve(slope, lambda t: (m, p), (of["tau_m"], of["tau_p"]), horizon, self.step)

    def steady(self, theta: Sequence[float]) -> tuple[float, float]:
        """(m, p) at which nothing moves: mu_m mu_p p = alpha_m alpha_p / (1 + (p / p0)^n), by bisection."""
        of = self._named(theta)
        gain = of["alpha_m"] * of["alpha_p"] / (of["mu_m"] * of["mu_p"])
        low, high = 0.0, gain
        for _ in range(200):
            p = 0.5 * (low + high)
            low, high = (p, high) if p * (1.0 + (p / of["p0"]) ** of["hill"]) < gain else (low, p)
        return of["mu_p"] * p / of["alpha_p"], p

    def onset(self, theta: Sequence[float]) -> float:
        """The sum of the delays, min, at which the steady state gives way to oscillations (Hopf), infinite where none does.

        A root i omega of (s + mu_m)(s + mu_p) + b e^{-s tau}, b = -alpha_m alpha_p dG/dp: its size gives omega, its phase tau.
        """
        of, (_, p) = self._named(theta), self.steady(theta)
        x = (p / of["p0"]) ** of["hill"]
        b = of["alpha_m"] * of["alpha_p"] * of["hill"] / p * x / (1.0 + x) ** 2
        u, v = of["mu_m"] ** 2, of["mu_p"] ** 2
        if b**2 <= u * v:
            return math.inf
        omega = math.sqrt(0.5 * (math.sqrt((u - v) ** 2 + 4 * b**2) - u - v))
        return (math.pi - math.atan(omega / of["mu_m"]) - math.atan(omega / of["mu_p"])) / omega

    def period(self, theta: Sequence[float], horizon: float = 6000.0) -> float:
        """The time between the last two rises of p through its steady state before the horizon, min; NaN without them, or where
        they have died away to a thousandth of it."""
        (_, p), solution = self.steady(theta), self.courses(theta, horizon)
        steps = range(len(solution.begins) - 1, 0, -1)
        rises: list[float] = []
        for n in steps:
            low, high = solution.reals[n - 1], solution.reals[n]
            if not solution(low)[1] < p <= solution(high)[1]:
                continue
            for _ in range(60):
                t = 0.5 * (low + high)
                low, high = (t, high) if solution(t)[1] < p else (low, t)
            rises.append(low)
            if len(rises) == 2:
                between = [solution(t)[1] for t in solution.reals if rises[1] < t < rises[0]]
                return rises[0] - rises[1] if max(between) - min(between) > _DEAD * p else math.nan
        return math.nan

    def truths(self) -> tuple[Truth, ...]:
        """The linear equation with one delay by its sum of powers, Monk's onset and period, and what mRNA alone cannot tell."""
        hes1 = GeneRegulation(space=Space(_SPACE.parameters[:2]))

        def linear(t: float, part: str) -> float:
            y = solve(lambda t, y, past: (-past(0, 0),), lambda t: (1.0,), (complex(1.0, _STEP),), t, 0.02)(t)[0]
            return y.imag / _STEP if part == "dy/dtau" else y.real

        def unlike() -> float:
            seen = GeneRegulation(observed=("mrna",), mrna=4.0)
            slope = seen.jacobian(seen.space.from_unit(torch.full((4,), 0.5, dtype=torch.float64)), seed=0)[1]
            a, b = slope[:, 0] / slope[:, 0].norm(), slope[:, 1] / slope[:, 1].norm()
            return 0.5 * float((a - b).square().sum())  # 1 - cos, without the rounding of the difference

        facts = [
            (3.0, "y", -1 / 6),
            (3.0, "dy/dtau", -1.0),
            (10.0, "y", 0.020241126543),
            (10.0, "dy/dtau", 0.438268849206),
        ]
        return (
            *(Truth(f"{part} at t = {t:g} of dy/dt = -y(t - tau), y = 1 before 0, tau = 1", lambda t=t, part=part: linear(t, part),
                    expected, 1e-8, _SOURCES[0]) for t, part, expected in facts),
            Truth("tau_m + tau_p at which Hes1 begins to oscillate, min", lambda: hes1.onset((8.0, 14.0)), 18.246719, 1e-6,
                  _SOURCES[1]),
            Truth("the period of Hes1 at tau_m + tau_p = 30 min, min", lambda: hes1.period((12.0, 18.0)), 167.443, 0.167,
                  _SOURCES[2], slow=True),
            Truth("1 - cos of what tau_m and tau_p do to mRNA from a compatible constant history", unlike, 0.0, 1e-10,
                  "q(t) = p(t - tau_m) knows their sum alone"),
        )  # fmt: skip

    def picture(self, points: Mapping[str, Tensor]) -> "Figure":
        """Molecules of mRNA and protein in time, and against each other: a steady state draws a spiral into a point,
        oscillations a loop. The sum of the delays stands beside the sum at which oscillations begin.

        The observed times are marked by dots on the time courses of the first point.
        """
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7.0, 4.2), layout="constrained", facecolor="white")
        axes = figure.subplot_mosaic([["mrna", "phase"], ["protein", "phase"]], width_ratios=(1.35, 1))
        horizon = max(self.times[-1], self.step)
        t = [horizon * i / 500 for i in range(501)]
        for i, (name, theta) in enumerate(points.items()):
            values = theta.detach().tolist()
            solution = self.courses(values, horizon)
            m, p = zip(*(solution(x) for x in t), strict=True)
            of = self._named(values)
            said = f"{name}: delays of {of['tau_m'] + of['tau_p']:.3g} min, onset at {self.onset(values):.3g} min"
            style = {"color": COLOURS[i % 4], "linestyle": DASHES[i % 4], "linewidth": 1.6}
            axes["mrna"].plot(t, m, label=said, **style)
            axes["protein"].plot(t, p, **style)
            axes["phase"].plot(m, p, **style)
            axes["phase"].plot(*self.steady(values), marker="+", markersize=9, color=COLOURS[i % 4])
            for name_ in self.observed if i == 0 else ():
                seen = [solution(x)[_NAMES.index(name_)] for x in self.times]
                axes[name_].plot(self.times, seen, ".", color=COLOURS[0], markersize=4)
        for key, x, y in (("mrna", "", "mRNA [molecules]"), ("protein", "t [min]", "protein [molecules]"),
                          ("phase", "mRNA [molecules]", "protein [molecules]")):  # fmt: skip
            axes[key].set_xlabel(x)
            axes[key].set_ylabel(y)
            lined(axes[key])
        axes["phase"].set_title("+ steady state", fontsize=9, loc="left")
        figure.legend(loc="outside upper left", fontsize=9, frameon=False)
        return figure

    def _values(self, theta: Sequence[Any]) -> list[Any]:
        try:
            solution = self.courses(theta, max(self.times[-1], self.step))
            both = [solution(t) for t in self.times]
            lost = not all(abs(real(x)) < float("inf") for x in both[-1])
        except OverflowError:
            lost = True
        if lost:
            raise RunFailed("nonfinite", f"steps of {self.step:g} min must be short against the rates. Got molecules that run "
                                         "away; give the simulator a smaller step, or narrow the prior.")  # fmt: skip
        return [state[_NAMES.index(name)] for name in self.observed for state in both]

    def _named(self, theta: Sequence[Any]) -> Mapping[str, Any]:
        return {**HES1, **self.fixed, **dict(zip(self.space.names, theta, strict=True))}
