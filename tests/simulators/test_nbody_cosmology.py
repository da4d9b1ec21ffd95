"""Transfer functions and linear power against two public codes, both normalisations, and their derivatives."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.integrate import simpson

from emulate.simulators.nbody.cosmology import Cosmology, top_hat

REFERENCE = json.loads((Path(__file__).parents[1] / "reference" / "nbody_linear_power.json").read_text())
NUMBERS = ("omega_m", "omega_b", "h", "n_s", "sigma_8")


def f64(x) -> torch.Tensor:
    return torch.tensor(x, dtype=torch.float64)


def universe(case: dict, **changes) -> Cosmology:
    return Cosmology.of(**{name: case[name] for name in NUMBERS}, **changes)


@pytest.mark.parametrize("case", REFERENCE["cases"], ids=lambda c: f"omega_m={c['omega_m']}")
def test_transfer_functions_are_those_of_colossus(case):
    # 2e-7: Colossus writes the base of the natural logarithm with six digits
    k = f64(REFERENCE["k"])
    np.testing.assert_allclose(universe(case).transfer_function(k), case["transfer"], rtol=2e-7)
    np.testing.assert_allclose(
        universe(case, transfer="no_wiggle").transfer_function(k), case["transfer_no_wiggle"], rtol=2e-7
    )


@pytest.mark.parametrize("case", REFERENCE["cases"], ids=lambda c: f"omega_m={c['omega_m']}")
def test_linear_power_is_near_the_boltzmann_code(case):
    """Eisenstein & Hu claim a few per cent; the largest departure is on the oscillations."""
    departure = universe(case).power(f64(REFERENCE["k"])) / f64(case["camb"]) - 1
    assert departure.abs().max() < 0.045
    assert departure.square().mean().sqrt() < 0.02


def test_transfer_is_one_on_large_scales_and_wiggles_about_the_smooth_one():
    case = REFERENCE["cases"][0]
    assert float(universe(case).transfer_function(f64(1e-6))) == pytest.approx(1.0, abs=1e-4)
    k = torch.logspace(-2.5, 0, 200, dtype=torch.float64)
    ratio = universe(case).transfer_function(k) / universe(case, transfer="no_wiggle").transfer_function(k)
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
