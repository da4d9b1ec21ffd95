"""Paths: the Greeks of Black and Scholes, implicit derivatives, and a bias that is unknown wherever a path may jump."""

import pytest
import torch
from torch.distributions import Bernoulli, Gamma, Normal

from emulate.errors import InputError
from emulate.gradients.pathwise import Pathwise
from tests.gradients.programs import call, log_gamma, numbers, square
from tests.reference.gradients.expectations import DELTA, DELTA_VARIANCE, TRIGAMMA, VEGA

MARKET = numbers(100.0, 0.2)


def test_the_variance_of_a_square():
    e = Pathwise().estimate(square, numbers(1.0), seed=1, n=100_000)
    assert float(e.standard_error) ** 2 * 100_000 == pytest.approx(4, rel=0.05)
    assert abs(float(e.gradient) - 2) < 4 * float(e.standard_error)


def test_delta_and_vega_of_a_call():
    z = []
    for seed in range(20):
        e = Pathwise().estimate(call, MARKET, seed=seed, n=20_000)
        z.append(((e.gradient - numbers(DELTA, VEGA)) / e.standard_error)[0])
    assert torch.stack(z).abs().max() < 3.5
    assert float(e.standard_error[0, 0]) ** 2 * 20_000 == pytest.approx(DELTA_VARIANCE, rel=0.05)
    assert float(e.bias_bound.max()) == 0


@pytest.mark.slow
def test_delta_and_vega_over_twenty_seeds():
    estimates = [Pathwise().estimate(call, MARKET, seed=100 + seed, n=10**6) for seed in range(20)]
    z = torch.stack([((e.gradient - numbers(DELTA, VEGA)) / e.standard_error)[0] for e in estimates])
    variance = float(torch.stack([e.standard_error[0, 0] ** 2 * 10**6 for e in estimates]).mean())
    print(f"delta and vega: largest z of 20 seeds {z.abs().max(0).values.tolist()}, bar 3; variance of delta {variance:.6f}, "
          f"in closed form {DELTA_VARIANCE}")  # fmt: skip
    assert z.abs().max() < 3
    assert variance == pytest.approx(DELTA_VARIANCE, rel=0.05)


def test_the_shape_of_a_gamma_law_by_its_implicit_derivative():
    e = Pathwise().estimate(log_gamma, numbers(2.0), seed=1, n=50_000)
    assert abs(float(e.gradient) - TRIGAMMA) < 4 * float(e.standard_error)
    assert float(e.standard_error) < 0.01


@pytest.mark.parametrize(("f", "words"), [
    (lambda theta, noise: noise.draw("k", Bernoulli(theta[0])),
     r"^pathwise must have draws that are continuous in theta\. Got Bernoulli at the site k, whose parameters depend on "
     r"theta; use enumerate, score, measure_valued or mixed\.$"),
    (lambda theta, noise: noise.above("hit", noise.draw("x", Normal(theta[0], 1.0))),
     r"^pathwise must have no hard decision on theta\. Got one at the site hit, whose derivative is zero almost "
     r"everywhere; use conditional, score, smooth or common_random_numbers\.$"),
])  # fmt: skip
def test_what_a_path_cannot_pass_is_refused(f, words):
    with pytest.raises(InputError, match=words):
        Pathwise().estimate(f, numbers(0.4), seed=1, n=4)


def _x(theta, noise):
    return noise.draw("x", Normal(theta[0], 1.0))


@pytest.mark.parametrize(("f", "reads"), [
    (lambda theta, noise: 1.0 if _x(theta, noise) > 0 else 0.0, "gt"),
    (lambda theta, noise: (_x(theta, noise) < 0.5).double(), "lt"),
    (lambda theta, noise: float(_x(theta, noise)) * theta[0], "float"),
    (lambda theta, noise: torch.round(_x(theta, noise)) + theta[0], "round"),
    (lambda theta, noise: _x(theta, noise).detach() * theta[0], "detach"),
    (lambda theta, noise: theta[0] * torch.tensor(theta)[0], "tensor"),
])  # fmt: skip
@pytest.mark.filterwarnings("ignore")
def test_what_reads_theta_without_a_derivative_is_named_and_leaves_the_bias_unknown(f, reads):
    e = Pathwise().estimate(f, numbers(0.4), seed=1, n=6)
    assert reads in e.diagnostics["reads"]
    assert e.bias_bound.isnan().all()


def guarded(theta, noise):
    """Checks of theta itself, before anything is drawn and after."""
    if theta[0] <= 0 or (theta != theta).any():
        raise ValueError("theta must be above 0")
    x = noise.draw("x", Normal(theta[0], 1.0))
    return x**2 if theta[0] < 10 else x


def guarded_and_branching(theta, noise):
    return guarded(theta, noise) + (1.0 if noise.draw("z", Normal(0.0, 1.0)) > 0 else 0.0)


@pytest.mark.parametrize("f", [guarded, guarded_and_branching])
def test_a_check_of_theta_itself_is_no_trouble(f):
    e = Pathwise().estimate(f, numbers(0.4), seed=1, n=50)
    assert e.diagnostics["reads"] == []
    assert bool(e.diagnostics["alone"]) == (f is guarded_and_branching)
    assert float(e.bias_bound) == 0


@pytest.mark.parametrize("f", [
    lambda theta, noise: torch.relu(_x(theta, noise)),
    lambda theta, noise: torch.clamp(_x(theta, noise), min=0.1).abs(),
    lambda theta, noise: torch.minimum(noise.draw("g", Gamma(theta[0], theta[0])), theta[0]),
    lambda theta, noise: (1.0 if noise.draw("z", Normal(0.0, 1.0)) > 0 else -1.0) * theta[0],
])  # fmt: skip
def test_kinks_and_branches_on_what_theta_does_not_touch_are_no_trouble(f):
    e = Pathwise().estimate(f, numbers(0.4), seed=1, n=20)
    assert e.diagnostics["reads"] == []
    assert float(e.bias_bound) == 0
