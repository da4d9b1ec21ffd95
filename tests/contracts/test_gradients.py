"""Laws of the room of gradients: closed forms within the claimed error, honest errors under noise, keyed seeds."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from emulate import registry
from emulate.dynamics import ODE, Trajectory
from emulate.noise import Noise
from emulate.replication import lift
from tests.entries import entries

NAMES = entries("gradients")
THETA = torch.tensor([0.7, -1.3], dtype=torch.float64)


@pytest.fixture(params=NAMES)
def gradient(request):
    made = registry.build("gradients", {"use": request.param, **registry.find("gradients", request.param).example})
    return Told(made) if "dynamics" in made.needs else made


class Told:
    """A method that takes what is told step by step, given any function as one step, or as an equation that stands still."""

    def __init__(self, method) -> None:
        self.method, self.needs = method, method.needs

    def estimate(self, f, theta: Tensor, *, seed: int, n: int = 1):
        if "rhs" in self.needs:
            f = ODE(lambda t, state, at: 0 * state, lambda t: t.clone(), 1.0, 2, lambda t, state, f=f: f(state, 0))
        else:
            lifted = lift(f)
            f = Trajectory(lambda t: 0 * t, lambda t, state, k, noise: lifted(t, noise), 1, lambda t, state: state)
        return self.method.estimate(f, theta, seed=seed, n=n)


def smooth(theta: Tensor, seed: int) -> Tensor:
    a, b = theta
    return torch.stack([torch.sin(a) * torch.exp(b), a**2 + 3 * b, 1e6 * a * b])


def smooth_slope() -> Tensor:
    a, b = (float(x) for x in THETA)
    return torch.tensor([[math.cos(a) * math.exp(b), math.sin(a) * math.exp(b)], [2 * a, 3.0], [1e6 * b, 1e6 * a]],
                        dtype=torch.float64)  # fmt: skip


def hidden(theta: Tensor, seed: int) -> Tensor:
    """E[y] = (a, a b); the seed's slopes scatter by 0.2 and 0.5 around it, and nobody sees where it draws."""
    e = torch.randn(2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.stack([theta[0] * (1 + 0.2 * e[0]), theta[0] * theta[1] + 0.5 * e[1] * theta[1] + e[0]])


def named(theta: Tensor, noise: Noise) -> Tensor:
    """The same expectations, from draws that are seen and that depend on theta, as do the slopes of their paths."""
    x = noise.draw("x", Normal(theta[0], 0.2))
    y = noise.draw("y", Normal(x * theta[1], 0.5))
    return torch.stack([x * noise.draw("factor", Normal(1.0, 0.2)), y])


NOISY_SLOPE = torch.tensor([[1.0, 0.0], [-1.3, 0.7]], dtype=torch.float64)


@pytest.fixture
def noisy(gradient):
    """A random program that the method can serve."""
    if "rhs" in gradient.needs:
        pytest.skip("an ODE has no noise")
    return named if "sites" in gradient.needs else hidden


def counted(f, met: list):
    """f, with what it was called with kept: the seed, or the replicate of the noise."""
    if f is hidden:
        return lambda theta, seed: [met.append(seed), f(theta, seed)][1]
    return lambda theta, noise: [met.append(noise), f(theta, noise)][1]


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
    e = gradient.estimate(lambda t, s: matrix.to(t.dtype) @ t, THETA, seed=1)
    torch.testing.assert_close(e.gradient, matrix, rtol=1e-9, atol=1e-9)
    assert e.standard_error.max() < 1e-9


def test_z_scores_of_noisy_functions_are_standard(gradient, noisy):
    """Over 200 estimates of n replicates: mean 0, and the spread that n - 1 degrees of freedom give. What scores and
    measures average is skewed, which takes more replicates."""
    n = 8 if noisy is hidden else 150
    spread = (n - 1) / (n - 3)
    z = []
    for s in range(200):
        e = gradient.estimate(noisy, THETA, seed=s, n=n)
        z.append(((e.gradient - NOISY_SLOPE) / e.standard_error)[[0, 1], [0, 1]])
    z = torch.stack(z)
    assert (z.mean(0).abs() * math.sqrt(200) < 4 * math.sqrt(spread)).all()
    assert ((z.square().mean(0) / spread - 1).abs() < 0.6).all()


def test_one_replicate_of_a_noisy_function_claims_no_error_bar(gradient, noisy):
    e = gradient.estimate(noisy, THETA, seed=1)
    assert e.standard_error.isnan().all()
    assert e.gradient.isfinite().all()
    assert gradient.estimate(smooth, THETA, seed=1).standard_error.isfinite().all()


def test_one_replicate_runs_under_the_noise_that_was_given(gradient, noisy):
    met = []
    e = gradient.estimate(counted(noisy, met), THETA, seed=11)
    torch.testing.assert_close(e.value, lift(noisy)(THETA, Noise(11)), rtol=0, atol=0)
    assert noisy is named or met[0] == 11


@pytest.mark.parametrize("n", [1, 2, 5])
def test_every_call_is_counted_and_timed(gradient, noisy, n):
    met = []
    e = gradient.estimate(counted(hidden, met), THETA, seed=1, n=n) if "sites" not in gradient.needs else None
    if e is None:
        e, met = gradient.estimate(named, THETA, seed=1, n=n), list(range(max(n, 2)))
    assert e.calls >= len(set(met)) == max(n, 2)
    assert e.calls == len(met) or {"sites", "dynamics"} & set(gradient.needs)  # those run steps again
    assert e.seconds > 0


def test_the_seed_decides_every_bit(gradient, noisy):
    state = torch.get_rng_state()
    one, same, other = (gradient.estimate(noisy, THETA, seed=s, n=3) for s in (3, 3, 4))
    assert torch.equal(one.gradient, same.gradient)
    assert torch.equal(one.standard_error, same.standard_error)
    assert not torch.equal(one.gradient, other.gradient)
    assert torch.equal(torch.get_rng_state(), state)


def test_more_replicates_shrink_the_error_as_one_over_the_root(gradient, noisy):
    few, many = (gradient.estimate(noisy, THETA, seed=1, n=n).standard_error[0, 0] for n in (64, 576))
    assert float(few / many) == pytest.approx(3, rel=0.3)


def test_the_covariance_belongs_to_the_standard_error_and_the_interval_holds_the_gradient(gradient, noisy):
    e = gradient.estimate(noisy, THETA, seed=1, n=50)
    torch.testing.assert_close(e.covariance.diagonal(dim1=-2, dim2=-1).sqrt(), e.standard_error)
    low, high = e.interval(0.9)
    assert ((low <= e.gradient) & (e.gradient <= high)).all()
    assert e.replicates == 50


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
