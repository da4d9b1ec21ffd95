"""Options under Black and Scholes: prices and Greeks against integrals over the log-normal law, and every way to differentiate
against the Greeks."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import integrate

from emulate import registry
from emulate.diagnosis import diagnose
from emulate.errors import InputError
from emulate.side_by_side import finding
from emulate.simulators.option import Option
from emulate.simulators.option.black_scholes import greeks
from emulate.space import Parameter, Space, Uniform
from pipelines.derivatives import differentiate

THETA = torch.tensor([0.2, 0.05], dtype=torch.float64)
PAYOFFS = ("call", "put", "digital_call", "digital_put")
MARKET = {"spot": 103.0, "sigma": 0.27, "rate": 0.04, "dividend": 0.015, "time": 0.8}
ALL = Space(tuple(Parameter(name, Uniform(0.5 * value, 1.5 * value)) for name, value in MARKET.items()))
WHERE = torch.tensor(list(MARKET.values()), dtype=torch.float64)


def by_integral(
    payoff: str, strike: float, spot: float, sigma: float, rate: float, dividend: float, time: float
) -> float:
    """The discounted mean over the log-normal law, from the strike on, by quadrature in z."""
    at = (math.log(strike / spot) - (rate - dividend - sigma**2 / 2) * time) / (sigma * math.sqrt(time))
    low, high = (at, 12.0) if payoff.endswith("call") else (-12.0, at)

    def paid(z: float) -> float:
        end = spot * math.exp((rate - dividend - sigma**2 / 2) * time + sigma * math.sqrt(time) * z)
        worth = 1.0 if payoff.startswith("digital") else abs(end - strike)
        return worth * math.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)

    return math.exp(-rate * time) * integrate.quad(paid, low, high, epsabs=1e-13, epsrel=1e-13, limit=200)[0]


@pytest.mark.parametrize("payoff", PAYOFFS)
@pytest.mark.parametrize("strike", [80.0, 105.0, 140.0])
def test_prices_and_greeks_are_those_of_the_log_normal_law(payoff, strike):
    price, slopes = Option(space=ALL, payoff=payoff, strikes=(strike,)).exact(WHERE)
    assert float(price) == pytest.approx(by_integral(payoff, strike, **MARKET), rel=1e-10)
    for i, (name, value) in enumerate(MARKET.items()):
        h = 1e-3 * value
        near, far = ((by_integral(payoff, strike, **{**MARKET, name: value + k * h})
                      - by_integral(payoff, strike, **{**MARKET, name: value - k * h})) / (2 * k * h) for k in (1, 2))  # fmt: skip
        assert float(slopes[0, i]) == pytest.approx((4 * near - far) / 3, rel=1e-6, abs=1e-9), name


@pytest.mark.parametrize("payoff", PAYOFFS)
def test_gamma_is_the_slope_of_delta_and_the_equation_of_black_and_scholes_holds(payoff):
    of = {name: torch.tensor(value, dtype=torch.float64) for name, value in MARKET.items()}
    strike, h = torch.tensor(97.0, dtype=torch.float64), 1e-3
    g = greeks(payoff, strike=strike, **of)
    up, down = (greeks(payoff, strike=strike, **{**of, "spot": of["spot"] + s * h}) for s in (1, -1))
    assert float(g.gamma) == pytest.approx(float(up.delta - down.delta) / (2 * h), rel=1e-6)
    s, v, r, q = of["spot"], of["sigma"], of["rate"], of["dividend"]
    left = g.theta + v**2 * s**2 * g.gamma / 2 + (r - q) * s * g.delta
    assert float(left) == pytest.approx(float(r * g.price), rel=1e-10)


def test_a_digital_is_the_slope_of_a_call_in_its_strike():
    of = {name: torch.tensor(value, dtype=torch.float64) for name, value in MARKET.items()}
    strike = torch.tensor(110.0, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(greeks("call", strike=strike, **of).price, strike)
    assert float(-slope) == pytest.approx(float(greeks("digital_call", strike=strike.detach(), **of).price), rel=1e-12)


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("payoff", PAYOFFS)
def test_runs_have_the_mean_and_the_scatter_of_the_law(payoff, steps):
    simulator = Option(payoff=payoff, steps=steps, paths=2000)
    y = torch.stack([simulator.run(THETA, seed=s) for s in range(40)])
    z = (y.mean(0) - simulator.exact(THETA)[0]) / (y.std(0) / len(y) ** 0.5)
    assert float(z.abs().max()) < 4.5
    if payoff.startswith("digital"):
        p = simulator.exact(THETA)[0] * math.exp(0.05)
        expected = math.exp(-0.05) * (p * (1 - p) / simulator.paths).sqrt()
        assert float((y.std(0) / expected).min()) > 0.6  # of 40: chi at one in a thousand
        assert float((y.std(0) / expected).max()) < 1.45


def test_a_jump_is_found_where_it_is_and_a_call_has_but_a_kink():
    found = diagnose(Option(strikes=(100.0,)), THETA)
    assert (found.trouble, found.site, found.method) == ("jump", "exercise", "conditional")
    assert diagnose(Option(payoff="call", strikes=(100.0,)), THETA).trouble in ("kink", "smooth")


@pytest.fixture(scope="module")
def sides():
    return {payoff: {s.name: s for s in Option(payoff=payoff, strikes=(100.0,)).sides(THETA, seed=1, n=10_000)}
            for payoff in ("digital_call", "call")}  # fmt: skip


def test_no_method_of_the_room_misses_a_greek_that_it_says_it_knows(sides):
    for payoff, found in sides.items():
        told = finding(list(found.values()))
        assert told.passed, f"{payoff}: {told.sentence}"
        assert {s.method for s in found.values()} == set(registry.names("gradients"))


def test_what_each_method_is_on_a_jump_and_without_one(sides):
    jump, smooth = ({name: s.verdict for name, s in found.items()} for found in sides.values())
    for name in ("pathwise", "adjoint", "checkpointed", "continuous_adjoint", "enumerate"):
        assert jump[name] == "refused", name
    for name in ("score", "measure_valued"):
        assert jump[name] == smooth[name] == "holds", name
    assert jump["reverse"] == "bias unknown"
    assert bool((sides["digital_call"]["reverse"].made.gradient[:, 0] == 0).all())  # vega, lost without a word
    assert smooth["pathwise"] == smooth["reverse"] == "holds"
    off = sides["digital_call"]["conditional"]
    assert float((off.bias / off.truth).abs().max()) < 1e-10  # all the noise there is, integrated


def test_scatter_of_differences_grows_as_the_root_of_a_short_step_at_a_jump_alone(sides):
    """Variance h^-1 and h^0: Glasserman 2003, sec. 7.1."""
    for payoff, power in (("digital_call", -0.5), ("call", 0.0)):
        ladder = [s for s in sides[payoff].values() if s.method == "common_random_numbers"]
        steps = [s.settings["step"] for s in ladder]
        found = np.polyfit(np.log(steps[:4]), np.log([float(s.deviation[0, 0]) for s in ladder[:4]]), 1)[0]
        assert found == pytest.approx(power, abs=0.12), payoff


def test_the_bias_of_a_difference_is_that_of_the_price_in_closed_form(sides):
    simulator = Option(strikes=(100.0,))
    for side in sides["digital_call"].values():
        if side.method == "common_random_numbers":
            h = side.settings["step"] * THETA
            moved = [[float(simulator.exact(THETA + s * h * e)[0]) for s in (1, -1)] for e in torch.eye(2).double()]
            expected = torch.tensor([(up - down) / (2 * float(w)) for (up, down), w in zip(moved, h, strict=True)])
            assert float(((side.made.gradient[0] - expected) / side.error[0]).abs().max()) < 4.5, side.name


@pytest.mark.parametrize("use", ["conditional", "score", "measure_valued"])
def test_stages_differentiate_path_by_path(use):
    """What validate asks of a digital option: four runs of 500 paths are 2000 replicates, not four."""
    simulator = Option(strikes=(100.0,), paths=500)
    e = differentiate(simulator, {"use": use}, THETA, seed=3, n=4)
    if use != "conditional":
        assert e.replicates == 2000
    assert bool(((e.gradient - simulator.exact(THETA)[1]).abs() <= 4.5 * e.standard_error + e.bias_bound + 1e-10).all())


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"fixed": {"spott": 1.0}}, r"^option: the parameters must be among spot, sigma, rate, dividend, time\. Got 'spott'; "
         r"change their priors, keep their names\. Did you mean \"spot\"\?$"),
        ({"fixed": {"sigma": 0.3}}, r"^option: a parameter must be varied or fixed, not both\. Got sigma in the space and in "
         r"fixed; leave out one\.$"),
    ],
)  # fmt: skip
def test_a_market_that_is_none_is_refused(settings, sentence):
    with pytest.raises(InputError, match=sentence):
        Option(**settings)


def test_a_strike_is_a_price():
    with pytest.raises(InputError, match=r"^option: strikes must be above 0\. Got -5\.$"):
        Option(strikes=(100.0, -5.0))


def test_fixed_values_are_read():
    simulator = replace(Option(strikes=(95.0,)), fixed={"spot": 90.0, "time": 0.5})
    expected = by_integral("digital_call", 95.0, 90.0, 0.2, 0.05, 0.0, 0.5)
    assert float(simulator.exact(THETA)[0]) == pytest.approx(expected, rel=1e-10)
