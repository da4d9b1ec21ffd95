"""Laws of the room of gradients: closed forms within the claimed error, honest errors under noise, keyed seeds."""

import math

import pytest
import torch
from torch import Tensor

from emulate import registry

NAMES = registry.names("gradients")
THETA = torch.tensor([0.7, -1.3], dtype=torch.float64)


@pytest.fixture(params=NAMES)
def gradient(request):
    return registry.build("gradients", {"use": request.param, **registry.find("gradients", request.param).example})


def smooth(theta: Tensor, seed: int) -> Tensor:
    a, b = theta
    return torch.stack([torch.sin(a) * torch.exp(b), a**2 + 3 * b, 1e6 * a * b])


def smooth_slope() -> Tensor:
    a, b = (float(x) for x in THETA)
    return torch.tensor([[math.cos(a) * math.exp(b), math.sin(a) * math.exp(b)], [2 * a, 3.0], [1e6 * b, 1e6 * a]],
                        dtype=torch.float64)  # fmt: skip


def noisy(theta: Tensor, seed: int) -> Tensor:
    """E[y] = (a, a b); the seed's slopes scatter by 0.2 and 0.5 around it."""
    e = torch.randn(2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.stack([theta[0] * (1 + 0.2 * e[0]), theta[0] * theta[1] + 0.5 * e[1] * theta[1] + e[0]])


NOISY_SLOPE = torch.tensor([[1.0, 0.0], [-1.3, 0.7]], dtype=torch.float64)


def test_a_closed_form_lies_within_the_claimed_error(gradient):
    e = gradient.estimate(smooth, THETA, seed=1)
    truth = smooth_slope()
    assert e.gradient.shape == e.standard_error.shape == (3, 2)
    assert e.gradient.dtype == torch.float64
    assert ((e.gradient - truth).abs() <= 3 * e.standard_error + e.bias_bound + 1e-12 * truth.abs()).all()
    assert (e.standard_error + e.bias_bound <= 1e-3 * truth.abs()).all()
    torch.testing.assert_close(e.value, smooth(THETA, 1), rtol=1e-14, atol=0)


def test_a_linear_map_is_differentiated_exactly(gradient):
    matrix = torch.tensor([[1.0, 2.0], [-3.0, 0.5], [0.0, 7.0]], dtype=torch.float64)
    e = gradient.estimate(lambda t, s: matrix @ t, THETA, seed=1)
    torch.testing.assert_close(e.gradient, matrix, rtol=1e-9, atol=1e-9)
    assert e.standard_error.max() < 1e-9


def test_z_scores_of_noisy_functions_are_standard(gradient):
    """Over 200 estimates of 8 seeds: mean 0, and the spread that 7 degrees of freedom give, sqrt(7 / 5)."""
    z = []
    for s in range(200):
        e = gradient.estimate(noisy, THETA, seed=s, n=8)
        z.append(((e.gradient - NOISY_SLOPE) / e.standard_error)[[0, 1], [0, 1]])
    z = torch.stack(z)
    assert (z.mean(0).abs() * math.sqrt(200) < 4 * math.sqrt(7 / 5)).all()
    assert ((z.square().mean(0) / (7 / 5) - 1).abs() < 0.6).all()


def test_one_replicate_of_a_noisy_function_claims_no_error_bar(gradient):
    e = gradient.estimate(noisy, THETA, seed=1)
    assert e.standard_error.isnan().all()
    assert e.gradient.isfinite().all()
    assert gradient.estimate(smooth, THETA, seed=1).standard_error.isfinite().all()


def test_one_replicate_runs_under_the_seed_that_was_given(gradient):
    seeds = []

    def f(theta: Tensor, seed: int) -> Tensor:
        seeds.append(seed)
        return noisy(theta, seed)

    e = gradient.estimate(f, THETA, seed=11)
    torch.testing.assert_close(e.value, noisy(THETA, 11), rtol=0, atol=0)
    assert seeds[0] == 11
    assert e.calls == len(seeds)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_every_call_is_counted_and_timed(gradient, n):
    calls = []
    e = gradient.estimate(lambda t, s: [calls.append(s), noisy(t, s)][1], THETA, seed=1, n=n)
    assert e.calls == len(calls)
    assert e.seconds > 0
    assert len(set(calls)) == max(n, 2)


def test_the_seed_decides_every_bit(gradient):
    state = torch.get_rng_state()
    one, same, other = (gradient.estimate(noisy, THETA, seed=s, n=3) for s in (3, 3, 4))
    assert torch.equal(one.gradient, same.gradient)
    assert torch.equal(one.standard_error, same.standard_error)
    assert not torch.equal(one.gradient, other.gradient)
    assert torch.equal(torch.get_rng_state(), state)


def test_more_replicates_shrink_the_error_as_one_over_the_root(gradient):
    few, many = (gradient.estimate(noisy, THETA, seed=1, n=n).standard_error[0, 0] for n in (100, 1600))
    assert float(few / many) == pytest.approx(4, rel=0.3)


def test_theta_is_left_alone_and_the_answer_carries_no_graph(gradient):
    theta = THETA.clone().requires_grad_()
    e = gradient.estimate(smooth, theta, seed=1)
    assert torch.equal(theta, THETA)
    assert theta.grad is None
    assert not any(t.requires_grad for t in (e.gradient, e.value, e.standard_error))


def test_a_function_that_fails_fails_the_estimate(gradient):
    def broken(theta: Tensor, seed: int) -> Tensor:
        raise ArithmeticError("the box is empty")

    with pytest.raises(ArithmeticError, match=r"^the box is empty$"):
        gradient.estimate(broken, THETA, seed=1)
