"""The one call: what it takes for theta and for a method, what it chooses, and what it refuses."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import Bernoulli, Gamma, Normal, Poisson

import emulate
from emulate import gradients
from emulate.errors import InputError
from emulate.gradients.score import Score
from emulate.noise import Noise
from emulate.simulators.linear_gaussian import LinearGaussian

estimate = gradients.estimate


def normal(theta, noise):
    return noise.draw("x", Normal(theta[0], 1.0)) ** 2


def test_it_is_one_function_at_both_doors():
    assert emulate.estimate is gradients.estimate


@pytest.mark.parametrize("theta", [[1.0], (1,), np.array([1.0]), np.array([1], dtype=np.float32), torch.tensor([1.0])])
def test_theta_in_any_form(theta):
    e = estimate(normal, theta, n=2000, seed=1)
    assert e.gradient.dtype == torch.float64
    assert abs(float(e.gradient) - 2) < 4 * float(e.standard_error)


def test_theta_by_name_where_f_has_a_space():
    simulator = LinearGaussian()
    names = simulator.space.names
    theta = dict(zip(reversed(names), np.linspace(0.2, 0.5, len(names))))
    e = estimate(simulator, theta, n=4, seed=1)
    torch.testing.assert_close(e.gradient, simulator.matrix)


@pytest.mark.parametrize("method", ["score", {"use": "score", "baseline": "optimal"}, Score(baseline="none")])
def test_a_method_by_name_by_settings_or_as_it_is(method):
    e = estimate(normal, [1.0], method=method, n=2000, seed=1)
    assert e.diagnostics["method"]["use"] == "score"
    assert e.diagnostics["method"]["baseline"] in ("leave_one_out", "optimal", "none")
    assert abs(float(e.gradient) - 2) < 4 * float(e.standard_error)


def opaque_jump(theta, seed):
    return float(np.random.default_rng(seed).normal() < theta[0])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("f", "expected"), [
    (lambda theta: theta**2, {"reverse"}),
    (lambda theta: float(theta.numpy()[0] ** 2), {"finite_difference"}),
    (normal, {"pathwise"}),
    (lambda theta, noise: torch.log(noise.draw("x", Gamma(theta[0] + 1, 1.0))), {"pathwise"}),
    (lambda theta, noise: noise.draw("x", Bernoulli(theta[0])), {"enumerate"}),
    (lambda theta, noise: noise.draw("x", Poisson(theta[0])), {"mixed", "score", "measure_valued"}),
    (lambda theta, noise: 1.0 * (noise.draw("x", Normal(theta[0], 1.0)) > 0.1), {"score", "measure_valued"}),
    (opaque_jump, {"common_random_numbers"}),
    (lambda theta, noise: float(noise.draw("x", Normal(0.0, 1.0)) < theta[0]), {"common_random_numbers", "conditional"}),
    (lambda theta, noise: noise.draw("x", Normal(0.0, 1.0)) * theta.detach()[0], {"common_random_numbers"}),
])  # fmt: skip
def test_the_automatic_choice_never_takes_a_method_that_would_be_wrong(f, expected):
    e = estimate(f, [0.5], n=200, seed=1)
    assert e.diagnostics["method"]["use"] in expected
    assert e.bias_bound.isfinite().all()


def test_the_automatic_choice_tells_the_diagnosis_and_what_it_passed_over():
    e = estimate(lambda theta, noise: noise.draw("x", Poisson(theta[0])), [0.5], n=50, seed=1)
    assert e.diagnostics["diagnosis"].startswith("discrete choice at the site 'x': ")
    assert "passed" not in e.diagnostics

    def hidden(theta, noise):  # read past the draw by a branch, which makes the bias of a score unknown
        return (
            noise.draw("x", Normal(theta[0], 1.0)) * theta[0]
            if noise.uniform("u") < 0.5 + 0.1 * theta[0]
            else theta[0] * 0
        )

    assert estimate(hidden, [0.5], n=50, seed=1).diagnostics["method"]["use"] == "common_random_numbers"


def test_what_is_not_random_runs_once_whatever_n():
    met = []
    e = estimate(lambda theta: [met.append(1), theta**2][1], [0.5], method="reverse", n=10**6, seed=1)
    assert e.calls == len(met) < 10
    met.clear()
    e = estimate(lambda theta: [met.append(1), theta**2][1], [0.5], n=10**6, seed=1)
    assert e.calls == len(met) < 2000  # the diagnosis
    assert float(e.standard_error) == 0


def test_a_method_with_noise_of_its_own_gets_all_replicates():
    e = estimate(
        lambda theta: (theta > 0.5).double(), [0.5, 0.4], method={"use": "smooth", "rule": "directions"}, n=30, seed=1
    )
    assert e.replicates == 30
    assert e.standard_error.isfinite().all()


def test_calls_count_the_probe_and_the_diagnosis():
    met = []

    def f(theta, seed):
        met.append(seed)
        return opaque_jump(theta, seed)

    assert len(met) <= estimate(f, [0.5], n=20, seed=1).calls <= len(met) + 40
    assert len(met) <= 500 + 5 * 20 + 40  # the diagnosis, the estimate, and what was tried


def test_the_seed_decides_every_bit_and_no_global_state_is_touched():
    state = torch.get_rng_state()
    one, same = (estimate(normal, [0.5], n=50, seed=7) for _ in range(2))
    assert torch.equal(one.gradient, same.gradient)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("arguments", "words"), [
    ({"theta": [math.nan]}, r"^theta must be finite\. Got nan for parameter 0; give a number\.$"),
    ({"theta": [1.0, math.inf]}, r"^theta must be finite\. Got inf for parameter 1; give a number\.$"),
    ({"theta": [[1.0]]}, r"^theta must be one point \[d\]\. Got shape \[1, 1\]; estimate point by point\.$"),
    ({"theta": 1.0}, r"^theta must be one point \[d\]\. Got shape \[\]; estimate point by point\.$"),
    ({"theta": []}, r"^theta must be one point \[d\]\. Got shape \[0\]; estimate point by point\.$"),
    ({"theta": ["a"]}, r"^theta must be real numbers \[d\]\. Got \['a'\] \(.*\)\.$"),
    ({"theta": torch.tensor([1j])}, r"^theta must be real numbers \[d\]\. Got torch\.complex64; give its real part\.$"),
    ({"theta": {"a": 1.0}}, r"^theta must be an array \[d\] where f has no parameter space\. Got a mapping by name; give f "
                            r"as a simulator or an emulator, which know their parameters, or the values in order\.$"),
    ({"n": 0}, r"^n must be a whole number of replicates, at least 1\. Got 0\.$"),
    ({"n": True}, r"^n must be a whole number of replicates, at least 1\. Got true\.$"),
    ({"n": 2.5}, r"^n must be a whole number of replicates, at least 1\. Got 2\.5\.$"),
    ({"seed": 1.0}, r"^seed must be a whole number\. Got 1\.0\.$"),
    ({"method": "scor"}, r'^method\.use: there is no entry \'scor\' in gradients; .* Did you mean "score"\?$'),
    ({"method": {"use": "score", "base": "none"}}, r"^method\.base: this key is not known\. Keys allowed here: baseline\."),
    ({"method": 3}, r"^method: must be an entry's name or a mapping \{use: NAME, \.\.\.\}\. Got 3\.$"),
])  # fmt: skip
def test_what_cannot_be_is_told(arguments, words):
    with pytest.raises(InputError, match=words):
        estimate(normal, **{"theta": [1.0], "n": 10, "seed": 1, **arguments})


def test_a_function_that_fails_fails_with_its_own_words():
    def broken(theta, noise: Noise):
        raise ArithmeticError("the box is empty")

    with pytest.raises(ArithmeticError, match=r"^the box is empty$"):
        estimate(broken, [1.0], n=10, seed=1)
