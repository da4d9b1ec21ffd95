"""Replicates in a batch and one by one are the same; programs of all kinds are lifted."""

import numpy as np
import pytest
import torch
from torch.distributions import Distribution, Exponential, Normal, Uniform
from torch.func import jacrev

from emulate.errors import InputError
from emulate.noise import Noise
from emulate.replication import each, lift
from emulate.simulators.linear_gaussian import LinearGaussian

THETA = torch.tensor([0.3, 2.0], dtype=torch.float64)


def smooth(theta, noise):
    x = noise.draw("x", Normal(theta[0], theta[1]))
    y = noise.draw("y", Normal(x, 1.0))  # a distribution of something drawn: its arguments cannot be checked in a batch
    return torch.stack([x * y, y])


def branching(theta, noise):
    k = 0
    while noise.draw("u", Uniform(0.0, 1.0)) > theta[0]:
        k += 1
    return float(k)


@pytest.mark.parametrize(("f", "calls"), [(smooth, 51), (branching, 50)])
def test_a_batch_is_what_one_by_one_gives(f, calls):
    made = each(lambda noise: lift(f)(THETA, noise), 5, 50)
    y = made.answer
    assert made.calls == calls
    assert bool(made.alone) == (f is branching)
    torch.testing.assert_close(y, torch.stack([lift(f)(THETA, Noise(5, i)) for i in range(50)]), rtol=1e-13, atol=0)


def test_more_replicates_keep_the_first_ones_and_can_start_anywhere():
    few = each(lambda noise: lift(smooth)(THETA, noise), 5, 10).answer
    many = each(lambda noise: lift(smooth)(THETA, noise), 5, 100).answer
    late = each(lambda noise: lift(smooth)(THETA, noise), 5, 90, first=10).answer
    torch.testing.assert_close(many[:10], few, rtol=1e-14, atol=0)
    torch.testing.assert_close(many[10:], late, rtol=1e-14, atol=0)


def test_derivatives_of_each_replicate():
    slopes = each(lambda noise: jacrev(lambda t: lift(smooth)(t, noise.again()))(THETA), 5, 40).answer
    assert slopes.shape == (40, 2, 2)
    alone = jacrev(lambda t: lift(smooth)(t, Noise(5, 17)))(THETA)
    torch.testing.assert_close(slopes[17], alone, rtol=1e-13, atol=0)


def test_the_check_of_arguments_is_as_it_was_after_a_batch(monkeypatch):
    monkeypatch.setattr(Distribution, "_validate_args", True)  # zuko turns it off when it is imported
    each(lambda noise: lift(smooth)(THETA, noise), 5, 40)
    with pytest.raises(ValueError, match="Expected parameter rate"):
        Exponential(torch.tensor(-1.0))


def test_what_fails_in_a_batch_fails_with_its_own_words():
    def broken(theta, noise):
        noise.draw("x", Normal(0.0, 1.0))
        raise RuntimeError("the box is empty")

    with pytest.raises(RuntimeError, match=r"^the box is empty$"):
        each(lambda noise: lift(broken)(THETA, noise), 5, 40)


def test_a_site_that_is_not_always_reached_is_run_one_by_one():
    def program(theta, noise):
        x = noise.draw("x", Normal(0.0, 1.0))
        return x + noise.draw("more", Normal(0.0, 1.0)) if float(x) > 0 else x

    made = each(lambda noise: lift(program)(THETA, noise), 5, 30)
    assert made.answer.shape == (30, 1)
    assert made.alone
    assert [place.site for place in made.record.sites] == ["x", "more"]


def test_everything_that_can_be_run_is_lifted():
    simulator = LinearGaussian(noise=0.3)
    noise = Noise(9, 0)
    assert torch.equal(lift(simulator)(THETA, noise.again()), simulator.run(THETA, seed=9))
    assert lift(lambda t: float(t[0]))(THETA, noise.again()).tolist() == [0.3]
    assert lift(lambda t, s: np.array([s, 2]))(THETA, noise.again()).tolist() == [9.0, 2.0]
    assert lift(lift(smooth)) is not None
    assert lift(np.sum)(THETA.numpy(), noise.again()).tolist() == [2.3]


@pytest.mark.parametrize(("f", "words"), [
    (3, r"^f must be a simulator, an emulator, or a function of \(theta\), \(theta, seed\) or \(theta, noise\)\. Got int\.$"),
    (lambda a, b, c: a, r"^f must take one argument \(theta\), or two: \(theta, seed\) or \(theta, noise\)\. Got 3: a, b, c\.$"),
])  # fmt: skip
def test_what_cannot_be_run_is_told(f, words):
    with pytest.raises(InputError, match=words):
        lift(f)


def test_an_output_of_a_wrong_shape_is_told():
    with pytest.raises(InputError, match=r"^f must return one number or a vector \[m\]\. Got shape \[2, 2\]\.$"):
        lift(lambda t: t[:, None] * t)(THETA, Noise(0))


@pytest.mark.parametrize(("checked", "words"), [
    (True, r"Expected parameter scale .* to satisfy the constraint GreaterThan"),
    (False, r"^noise\.draw\('y', \.\.\.\) must be given a distribution with allowed parameters\. Got Normal\(.*\)\.$"),
])  # fmt: skip
def test_a_wrong_argument_of_a_distribution_in_one_replicate_of_a_batch_is_told(checked, words, monkeypatch):
    monkeypatch.setattr(Distribution, "_validate_args", checked)

    def program(theta, noise):
        x = noise.draw("x", Normal(0.0, 1.0))
        return noise.draw("y", Normal(theta[0], 2.5 + x))  # wrong in about one of 160

    with pytest.raises(ValueError if checked else InputError, match=words):
        each(lambda noise: lift(program)(THETA, noise), 5, 2000)


def test_many_replicates_that_cannot_be_batched_are_told():
    def program(theta, noise):
        return 1.0 if noise.uniform("u") > 0.5 else 0.0

    with pytest.warns(UserWarning, match=r"^10001 replicates run one by one, for the program cannot be batched: vmap"):
        each(lambda noise: lift(program)(THETA, noise), 5, 10_001)


@pytest.mark.parametrize("f", [
    lambda theta, seed=0: torch.tensor([float(seed)]),
    lambda theta, *, seed: torch.tensor([float(seed)]),
    lambda theta, n: torch.tensor([float(n)]),
])  # fmt: skip
def test_an_argument_that_is_named_seed_gets_one_whatever_its_default(f):
    made = each(lambda noise: lift(f)(THETA, noise), 5, 6)
    assert made.record.opaque
    assert made.random(made.answer)


def test_noise_by_keyword_and_modules():
    assert lift(lambda theta, *, noise=None: noise.uniform("u"))(THETA, Noise(1)).shape == (1,)
    assert lift(torch.nn.Linear(2, 3, dtype=torch.float64))(THETA, Noise(1)).shape == (3,)
