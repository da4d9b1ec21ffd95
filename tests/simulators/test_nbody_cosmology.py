"""Growth against closed forms and an integrated equation, the transfer function against two public codes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.integrate import simpson, solve_ivp
from scipy.special import hyp2f1

from emulate.simulators.nbody.cosmology import Cosmology, top_hat
from emulate.simulators.nbody.growth import expansion, growth, scale_factor

REFERENCE = json.loads((Path(__file__).parents[1] / "reference" / "nbody_linear_power.json").read_text())
NUMBERS = ("omega_m", "omega_b", "h", "n_s", "sigma_8")
A = torch.linspace(0.02, 1.0, 30, dtype=torch.float64)


def f64(x) -> torch.Tensor:
    return torch.tensor(x, dtype=torch.float64)


def universe(case: dict, **changes) -> Cosmology:
    return Cosmology.of(**{name: case[name] for name in NUMBERS}, **changes)


def test_einstein_de_sitter_grows_as_the_scale_factor():
    g = growth(f64(1.0), A)
    for value, truth in ((g.D, A), (g.f, torch.ones_like(A)), (g.D2, -3 / 7 * A**2), (g.dD2, -6 / 7 * A)):
        torch.testing.assert_close(value, truth, rtol=1e-12, atol=0)


@pytest.mark.parametrize("omega_m", [0.1, 0.2, 0.3, 0.4, 0.9])
def test_growth_is_the_hypergeometric_function(omega_m):
    def truth(a):
        return a * hyp2f1(1 / 3, 1, 11 / 6, -(1 - omega_m) / omega_m * a**3)

    np.testing.assert_allclose(growth(f64(omega_m), A).D, truth(A.numpy()) / truth(1.0), rtol=1e-12)


@pytest.mark.parametrize("omega_m", [0.15, 0.3, 0.6])
def test_second_order_growth_solves_its_equation(omega_m):
    """D2'' + (2 + E'/E) D2' - 3/2 Omega_m(a) D2 = -3/2 Omega_m(a) D^2 in ln a, from the matter era on."""

    def slope(x, y):
        matter = omega_m * np.exp(-3 * x)
        share = matter / (matter + 1 - omega_m)
        drag = 2 - 1.5 * share
        first, second = 1.5 * share * y[0] - drag * y[1], 1.5 * share * (y[2] - y[0] ** 2) - drag * y[3]
        return [y[1], first, y[3], second]

    a = 1e-4
    start = [a, a, -3 / 7 * a**2, -6 / 7 * a**2]
    times = np.log(A.numpy())
    y = solve_ivp(slope, (np.log(a), 0), start, t_eval=times, method="DOP853", rtol=1e-11, atol=1e-30).y
    g, today = growth(f64(omega_m), A), y[0, -1]
    np.testing.assert_allclose(g.D2, y[2] / today**2, rtol=1e-8)
    np.testing.assert_allclose(g.dD2, y[3] / y[1] / today, rtol=1e-8)
    np.testing.assert_allclose(g.f, y[1] / y[0], rtol=1e-8)


@pytest.mark.parametrize("omega_m", [0.1, 0.3, 1.0])
def test_scale_factor_inverts_growth(omega_m):
    torch.testing.assert_close(scale_factor(f64(omega_m), growth(f64(omega_m), A).D), A, rtol=1e-12, atol=0)


def test_growth_and_its_inverse_are_differentiable():
    def table(omega_m, D):
        g = growth(omega_m, scale_factor(omega_m, D))
        return torch.stack((g.a, g.D, g.f, g.D2, g.dD2))

    D = torch.linspace(0.1, 0.9, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(table, (f64(0.3).requires_grad_(), D.requires_grad_()))


def test_expansion_is_one_today_and_matter_early():
    assert float(expansion(f64(0.3), f64(1.0))) == 1.0
    assert float(expansion(f64(0.3), f64(1e-3))) == pytest.approx((0.3 * 1e9) ** 0.5, rel=1e-8)


@pytest.mark.parametrize("case", REFERENCE["cases"], ids=lambda c: f"omega_m={c['omega_m']}")
def test_transfer_functions_are_those_of_colossus(case):
    # 2e-7: Colossus writes the base of the natural logarithm with six digits
    k = f64(REFERENCE["k"])
    np.testing.assert_allclose(universe(case).transfer(k), case["transfer"], rtol=2e-7)
    np.testing.assert_allclose(universe(case, wiggles=False).transfer(k), case["transfer_no_wiggle"], rtol=2e-7)


@pytest.mark.parametrize("case", REFERENCE["cases"], ids=lambda c: f"omega_m={c['omega_m']}")
def test_linear_power_is_near_the_boltzmann_code(case):
    """Eisenstein & Hu claim a few per cent; the largest departure is on the oscillations."""
    departure = universe(case).power(f64(REFERENCE["k"])) / f64(case["camb"]) - 1
    assert departure.abs().max() < 0.045
    assert departure.square().mean().sqrt() < 0.02


def test_transfer_is_one_on_large_scales_and_wiggles_about_the_smooth_one():
    case = REFERENCE["cases"][0]
    assert float(universe(case).transfer(f64(1e-6))) == pytest.approx(1.0, abs=1e-4)
    k = torch.logspace(-2.5, 0, 200, dtype=torch.float64)
    ratio = universe(case).transfer(k) / universe(case, wiggles=False).transfer(k)
    assert int((torch.diff(torch.sign(torch.diff(ratio))) != 0).sum()) >= 6  # three acoustic peaks at the least
    assert (ratio - 1).abs().max() < 0.08


@pytest.mark.parametrize("case", REFERENCE["cases"], ids=lambda c: f"omega_m={c['omega_m']}")
def test_sigma_8_is_recovered_by_another_quadrature(case):
    x = np.linspace(-9, 4, 40001)
    k = np.exp(x)
    w = 3 * (np.sin(8 * k) - 8 * k * np.cos(8 * k)) / (8 * k) ** 3
    variance = simpson(universe(case).power(f64(k)).numpy() * w**2 * k**3 / (2 * np.pi**2), x=x)
    assert variance**0.5 == pytest.approx(case["sigma_8"], rel=1e-6)


def test_top_hat_series_meets_the_formula():
    x = f64([0.05 - 1e-9, 0.05 + 1e-9])
    below, above = top_hat(x)
    assert float(above - below) == pytest.approx(0.0, abs=1e-9)
    assert float(top_hat(f64(0.0))) == 1.0


def test_power_is_differentiable_in_every_number():
    k = f64([0.01, 0.05, 0.2, 1.0])
    numbers = [f64(REFERENCE["cases"][0][name]).requires_grad_() for name in NUMBERS]
    assert torch.autograd.gradcheck(lambda *x: Cosmology(*x).power(k).log(), numbers, rtol=1e-5)
