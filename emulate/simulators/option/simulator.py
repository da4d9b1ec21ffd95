"""Options on a price that wanders: what they pay on average, by paths drawn at random."""

import importlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Len
from torch import Tensor
from torch.distributions import Normal

from emulate.contracts import Simulator, Truth
from emulate.errors import InputError, nearest
from emulate.noise import Noise
from emulate.replication import each
from emulate.runs import Field, Outputs
from emulate.simulators.option.black_scholes import Greeks, Payoff, greeks
from emulate.space import Parameter, Space, Uniform

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_USUAL = {
    "spot": 100.0,
    "sigma": 0.2,
    "rate": 0.05,
    "dividend": 0.0,
    "time": 1.0,
}  # of what is neither varied nor fixed
_SLOPES = {"spot": "delta", "sigma": "vega", "rate": "rho", "dividend": "epsilon"}  # and time: less theta
_SPACE = Space((Parameter("sigma", Uniform(0.1, 0.4), unit="1/yr^0.5", label=r"\sigma"),
                Parameter("rate", Uniform(0.0, 0.1), unit="1/yr", label="r")))  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Option(Simulator):
    r"""Options under Black and Scholes, vanilla or digital: the mean pay-off at each strike over paths drawn at random.

    The logarithm of the price goes in `steps` normal steps, ln S -> N(ln S + (r - q - sigma^2 / 2) h, sigma^2 h), h = T / steps,
    and at expiry pays (S - K)^+ (`call`), (K - S)^+ (`put`), or 1 where S ends above K (`digital_call`) or below
    (`digital_put`), discounted by exp(-r T) (Black & Scholes 1973). Price and Greeks are in closed form: `exact`.

    Parameters are any of `spot`, `sigma` (1/yr^1/2), `rate` and `dividend` (1/yr) and `time` (yr), in any order; `fixed`
    holds others, and what is in neither is 100, 0.2, 0.05, 0 and 1. Prices are in the currency of spot and strike.

    For fixed noise a digital pay-off is a step in every parameter: its derivative is zero wherever there is one, and reverse
    mode loses the Greeks without a word. `program` is one path; it draws at the site `log_price` and decides at `exercise`,
    so that all of `emulate.gradients` can be tried on it, as `sides` does (Glasserman 2003, ch. 7). The noise of a run
    is exp(-r T) (p (1 - p) / paths)^1/2 for a digital one of chance p. Ten thousand paths take some milliseconds.

    >>> simulator = Option(strikes=(100.0,), paths=20_000)
    >>> theta = torch.tensor([0.2, 0.05], dtype=torch.float64)
    >>> price, (slopes,) = simulator.exact(theta)
    >>> price.round(decimals=4), slopes.round(decimals=4)
    (tensor([0.5323], dtype=torch.float64), tensor([-0.6567,  1.3439], dtype=torch.float64))
    >>> bool((simulator.run(theta, seed=1) - price).abs() < 0.01)
    True
    """

    space: Space = _SPACE
    fixed: dict[str, float] = field(default_factory=dict)  # values of parameters that are not in the space
    payoff: Payoff = "digital_call"  # call, put, digital_call or digital_put
    strikes: Annotated[tuple[float, ...], Len(1)] = (80.0, 90.0, 100.0, 110.0, 120.0)  # in the unit of spot
    paths: Annotated[int, Ge(1)] = 10_000  # of which a run is the mean
    steps: Annotated[int, Ge(1)] = 1  # of a path; more are the same law, drawn in more pieces

    ladders: ClassVar[dict] = {  # settings at which a method stands beside the others
        "finite_difference": ({"step": 0.1},),
        "common_random_numbers": tuple({"step": h} for h in (0.01, 0.03, 0.1, 0.3)),
        "surrogate": ({"width": 0.3},),
        "smooth": tuple({"width": s} for s in (0.01, 0.03, 0.1)),
    }
    example: ClassVar[dict] = {"paths": 250}  # the laws draw pictures
    pathologies: ClassVar[tuple[str, ...]] = ("jump",)

    def __post_init__(self):
        for name in (*self.space.names, *self.fixed):
            if name not in _USUAL:
                raise InputError(f"option: the parameters must be among {', '.join(_USUAL)}. Got {name!r}; change their "
                                 f"priors, keep their names.{nearest(name, _USUAL)}")  # fmt: skip
        if twice := sorted(set(self.space.names) & set(self.fixed)):
            raise InputError(f"option: a parameter must be varied or fixed, not both. Got {', '.join(twice)} in the space "
                             "and in fixed; leave out one.")  # fmt: skip
        if min(self.strikes) <= 0:
            raise InputError(f"option: strikes must be above 0. Got {min(self.strikes):g}.")

    @property
    def outputs(self) -> Outputs:
        return Outputs((Field("price", coordinate="strike", at=tuple(self.strikes)),))

    @property
    def stochastic(self) -> bool:
        return True

    @property
    def replicates(self) -> int:
        """How many times `program` is run for a run: the paths."""
        return self.paths

    def run(self, theta: Tensor, *, seed: int) -> Tensor:
        return each(lambda noise: self.program(theta, noise), seed, self.paths).answer.mean(0)

    def program(self, theta: Tensor, noise: Noise) -> Tensor:
        """The discounted pay-off `[m]` of one path."""
        market = self.market(theta)
        h, sigma = market["time"] / self.steps, market["sigma"]
        drift, x = market["rate"] - market["dividend"] - sigma**2 / 2, torch.log(market["spot"])
        for _ in range(self.steps):
            x = noise.draw("log_price", Normal(x + drift * h, sigma * h.sqrt()))
        w = -1.0 if self.payoff.endswith("put") else 1.0
        if self.payoff.startswith("digital"):
            paid = noise.above("exercise", w * (x - self._strikes.log()))
        else:
            paid = torch.relu(w * (x.exp() - self._strikes))
        return torch.exp(-market["rate"] * market["time"]) * paid

    def greeks(self, theta: Tensor) -> Greeks:
        """The price and its derivatives in closed form, each `[..., m]` at theta `[..., d]`."""
        return self.closed_form({name: value[..., None] for name, value in self.market(theta).items()}, self._strikes)

    def closed_form(self, market: Mapping[str, Tensor], strike: Tensor) -> Greeks:
        """The Greeks of this pay-off in any market: spot, sigma, rate, dividend and time by name."""
        return greeks(self.payoff, strike=strike, **market)

    def exact(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """E[y] `[m]` and dE[y]/dtheta `[m, d]` in closed form."""
        g = self.greeks(theta)
        return g.price, torch.stack(
            [-g.theta if name == "time" else getattr(g, _SLOPES[name]) for name in self.space.names], -1
        )

    def sides(self, theta: Tensor, *, seed: int = 0, n: int = 0) -> "tuple[Any, ...]":
        """Every method of `emulate.gradients` on n paths (0: those of four runs, at most 40 000), each beside the Greeks in
        closed form: bias, scatter and price; see `emulate.side_by_side.Side`. Differences and smoothing stand there at several
        lengths, for their bias grows with it."""
        return importlib.import_module("emulate.side_by_side").compare(
            self, theta, self.exact(theta)[1], seed=seed, n=n or min(4 * self.paths, 40_000), ladders=self.ladders)  # fmt: skip

    def truths(self) -> tuple[Truth, ...]:
        return _truths()

    def picture(self, points: Mapping[str, Tensor]) -> "Figure | None":
        """Above: the price at each strike, and delta against the price of the asset as expiry comes near. Below: what each way
        to differentiate gets wrong (bias) and how much it scatters (standard deviation of one path), both over the derivative
        in closed form, for this option and for its kin without a jump. Lines join one method at several lengths of its step,
        where bias is bought with scatter; an arrow leads down from what could have been seen where no bias is; a hollow mark
        is a method that does not know its bias.
        """
        from emulate.simulators.option._pictures import picture

        return picture(self, points)

    def of_spot(self, theta: Tensor, strike: float) -> "tuple[Option, Tensor]":
        """The same option as a function of today's price, whose derivative is delta, and of the rate, which keeps a torch graph
        in the discount; and the values of both at theta."""
        at = {name: float(value) for name, value in self.market(theta).items()}
        varied = {name: at.pop(name) for name in ("spot", "rate")}
        space = Space(tuple(Parameter(name, Uniform(-1.0, 2 * value + 1)) for name, value in varied.items()))
        return replace(self, space=space, fixed=at, strikes=(strike,)), theta.new_tensor(list(varied.values()))

    def vanilla(self) -> "Option":
        """The same market's option without a jump."""
        return replace(self, payoff=self.payoff.removeprefix("digital_"))

    @property
    def _strikes(self) -> Tensor:
        return torch.tensor(self.strikes, dtype=torch.float64)

    def market(self, theta: Tensor) -> dict[str, Tensor]:
        """Spot, sigma, rate, dividend and time at theta `[..., d]`, each `[...]`."""
        given = dict(zip(self.space.names, theta.unbind(-1), strict=True))
        known = {name: theta.new_full(theta.shape[:-1], value) for name, value in {**_USUAL, **self.fixed}.items()}
        return {name: given.get(name, known[name]) for name in _USUAL}


def _truths() -> tuple[Truth, ...]:
    def of(payoff: Payoff, what: str, *market: float) -> float:
        keys = ("spot", "strike", "sigma", "rate", "dividend", "time")
        given = dict(zip(keys, torch.tensor(market, dtype=torch.float64), strict=True))
        return float(getattr(greeks(payoff, **given), what))

    def parity() -> float:
        sides = [of(kind, "price", 100.0, 95.0, 0.3, 0.04, 0.02, 0.7) for kind in ("call", "put")]
        return sides[0] - sides[1]

    def error(payoff: Payoff) -> float:
        """Of the mean of ten thousand paths, in standard errors."""
        simulator = Option(payoff=payoff, strikes=(110.0,))
        theta = torch.tensor([0.2, 0.05], dtype=torch.float64)
        y = each(lambda noise: simulator.program(theta, noise), 1, simulator.paths).answer[:, 0]
        return float((y.mean() - simulator.exact(theta)[0][0]) / (y.std() / len(y) ** 0.5))

    price, slope = (42.0, 40.0, 0.2, 0.1, 0.0, 0.5), (49.0, 50.0, 0.2, 0.05, 0.0, 0.3846)
    prices, slopes = "Hull 2018, ch. 15", "Hull 2018, ch. 19"
    return (
        Truth("a call's price", lambda: of("call", "price", *price), 4.76, 0.005, prices),
        Truth("a put's price", lambda: of("put", "price", *price), 0.81, 0.005, prices),
        Truth("a call's delta", lambda: of("call", "delta", *slope), 0.522, 0.0005, slopes),
        Truth("a call's gamma", lambda: of("call", "gamma", *slope), 0.066, 0.0005, slopes),
        Truth("a call's vega", lambda: of("call", "vega", *slope), 12.1, 0.05, slopes),
        Truth("a call's theta, per year", lambda: of("call", "theta", *slope), -4.31, 0.005, slopes),
        Truth("a call's rho", lambda: of("call", "rho", *slope), 8.91, 0.005, slopes),
        Truth("a digital put that pays 10", lambda: 10 * of("digital_put", "price", 100.0, 80.0, 0.35, 0.06, 0.06, 0.75),
              2.6710, 0.00005, "Haug 2007, p. 175"),
        Truth("a call less a put", parity, 100 * math.exp(-0.014) - 95 * math.exp(-0.028), 1e-12, "put-call parity"),
        Truth("simulated digital price, standard errors off", lambda: error("digital_call"), 0.0, 4.0, "Black & Scholes 1973"),
        Truth("simulated call price, standard errors off", lambda: error("call"), 0.0, 4.0, "Black & Scholes 1973"),
    )  # fmt: skip
