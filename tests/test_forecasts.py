"""Forecasts by two derivatives against closed forms; what noise adds to them, by drawing it many times."""

import math

import numpy as np
import pytest
import torch

from emulate.forecasts import compare, prior_slope
from emulate.space import LogUniform, Normal, Parameter, Space, Uniform


def _normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.as_tensor(np.random.default_rng(seed).standard_normal(shape))


def _case(g: int = 6, m: int = 12, d: int = 3, seed: int = 1):
    true = 4 * _normal(seed, g, m, d)
    root = torch.eye(m, dtype=torch.float64) + 0.2 * _normal(seed + 1, m, m).tril(-1)
    return true, (root @ root.mT).expand(g, m, m)


def test_a_derivative_that_is_too_large_promises_too_much_by_that():
    """Where the prior says nothing, F grows as the square: 1.2 J gives sd / 1.2 along every direction."""
    true, covariance = _case()
    made = compare(1.2 * 1e3 * true, 1e3 * true, torch.zeros_like(true), covariance)
    torch.testing.assert_close(made.ratio, torch.full_like(made.ratio, 1 / 1.2), rtol=1e-6, atol=0)
    assert made.typical == (pytest.approx(math.log(1.2), rel=1e-6), 0)


def test_the_worst_direction_is_the_one_of_definition():
    """Of one point: the largest |ln| of (v F^-1 v)^1/2 by both over ten thousand random directions comes close from below."""
    true, covariance = _case(g=1)
    ours = true + 0.4 * _normal(9, *true.shape)
    made = compare(ours, true, torch.zeros_like(true), covariance)
    f = [torch.linalg.inv(j[0].mT @ torch.linalg.inv(covariance[0]) @ j[0] + torch.eye(3)) for j in (ours, true)]
    v = _normal(3, 10000, 3)
    ratio = (((v @ f[0]) * v).sum(1) / ((v @ f[1]) * v).sum(1)).sqrt()
    best = ratio[ratio.log().abs().argmax()]
    assert float(made.ratio[0]) == pytest.approx(float(best), rel=0.01)
    assert abs(float(made.ratio[0].log())) >= abs(float(best.log()))
    across = torch.linalg.solve(f[1], made.direction[0])  # F v for v a generalised eigenvector of the two inverses
    assert torch.allclose(torch.linalg.solve(f[0], made.direction[0]) * made.ratio[0] ** 2, across, rtol=1e-6)


def test_a_prior_alone_leaves_nothing_to_differ():
    true, covariance = _case()
    made = compare(3e-4 * true, 1e-4 * true, torch.zeros_like(true), covariance)
    assert made.typical.value < 1e-4


def test_noise_of_the_derivatives_is_no_difference():
    """The emulator is right and the simulator's derivatives are noisy: found nothing, within what it says of itself."""
    values, errors, naive = [], [], []
    for seed in range(40):
        true, covariance = _case(g=10, seed=3)
        noise = torch.full_like(true, 0.4)
        seen = true + noise * _normal(100 + seed, *true.shape)
        made = compare(true, seen, noise, covariance, seed=seed)
        values.append(made.typical.value)
        errors.append(made.typical.error)
        naive.append(compare(true, seen, torch.zeros_like(true), covariance).typical.value)
    assert np.mean(values) < 0.35 * np.mean(naive)
    assert np.mean(np.array(values) < 2 * np.array(errors)) > 0.85


def test_a_difference_is_found_beneath_the_noise():
    true, covariance = _case(g=10, seed=3)
    noise = torch.full_like(true, 0.2)
    found = [compare(1.3 * true, true + noise * _normal(seed, *true.shape), noise, covariance) for seed in range(40)]
    typical, error = np.array([f.typical for f in found]).T
    assert abs(typical.mean() - math.log(1.3)) < 0.05
    assert np.mean(np.abs(typical - math.log(1.3)) < 2 * error + 0.02) > 0.85


def test_the_slope_of_the_prior_is_its_own_coordinate():
    space = Space(
        (Parameter("a", Normal(1.0, 3.0)), Parameter("b", Uniform(0.0, 2.0)), Parameter("c", LogUniform(1.0, 10.0)))
    )
    theta = torch.tensor([[1.7, 1.0, 10**0.5]], dtype=torch.float64)
    density = 1 / math.sqrt(2 * math.pi)  # of the normal at the median, where b and c lie
    expected = [3.0, 2.0 * density, 10**0.5 * math.log(10) * density]
    assert prior_slope(space, theta)[0].tolist() == pytest.approx(expected, rel=1e-9)
