"""Exponents and horizons, held against maps and flows whose own are known."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from emulate.chaos import Exponents, Growth, exponents, growth
from emulate.dynamics import ODE, Trajectory
from emulate.errors import InputError
from emulate.gradients.ensemble import Ensemble
from emulate.noise import Noise

ONE = torch.ones(1, dtype=torch.float64)


def _linear(a: Tensor, steps: int) -> Trajectory:
    start = torch.arange(1.0, len(a) + 1, dtype=torch.float64)
    return Trajectory(lambda theta: start, lambda theta, s, k, noise: theta * (a @ s), steps, lambda theta, s: s)


def test_the_exponents_of_a_linear_map_are_the_logarithms_of_its_eigenvalues():
    g = torch.Generator().manual_seed(3)
    q, _ = torch.linalg.qr(torch.randn(4, 4, generator=g, dtype=torch.float64))
    sizes = torch.tensor([1.5, 0.9, -0.6, 0.2], dtype=torch.float64)
    found = exponents(_linear(q @ torch.diag(sizes) @ q.mT, 150), ONE, interval=0.5, every=3)
    torch.testing.assert_close(found.values, sizes.abs().log() / 0.5, rtol=0, atol=1e-6)
    assert found.sum == pytest.approx(float(sizes.abs().log().sum()) / 0.5, abs=1e-9)


def test_a_run_that_nothing_scatters_is_made_once_and_has_no_error_bar():
    found = exponents(_linear(torch.eye(2, dtype=torch.float64), 12), ONE, members=5)
    assert found.standard_error.isnan().all()


def test_noise_of_the_program_scatters_its_members():
    def step(theta: Tensor, x: Tensor, k: int, noise: Noise) -> Tensor:
        return x * noise.draw("factor", Normal(0.0, 1.0))

    f = Trajectory(lambda theta: torch.ones(1).double(), step, 300, lambda theta, x: x)
    found = exponents(f, ONE, members=40, every=1)
    expected = -(math.log(2) + np.euler_gamma) / 2  # E[ln |Z|]
    assert abs(found.largest - expected) < 4 * float(found.standard_error[0])
    assert 0 < float(found.standard_error[0]) < 0.03


@pytest.mark.slow
def test_the_exponents_of_lorenz():
    """0.906, 0, -14.572, and a dimension of 2.062 (Sprott 2003); their sum is -(sigma + 1 + beta) = -13.667."""

    def rhs(theta: Tensor, s: Tensor, t: float) -> Tensor:
        x, y, z = s.unbind()
        return torch.stack([10 * (y - x), x * (theta[0] - z) - y, x * y - 8 / 3 * z])

    start = torch.tensor([5.0, 9.0, 15.0], dtype=torch.float64)
    f = ODE(rhs, lambda theta: start, 60.0, 6000, lambda theta, s: s)
    found = exponents(f, 28 * ONE, interval=0.01, members=100, spread=0.3, spinup=600, every=6)
    print(f"\nLorenz 1963: {[round(v, 4) for v in found.values.tolist()]}, dimension {found.dimension:.4f}")
    assert found.largest == pytest.approx(0.906, abs=0.02)
    assert abs(float(found.values[1])) < 0.02
    assert found.sum == pytest.approx(-13.6667, abs=1e-3)
    assert found.dimension == pytest.approx(2.062, abs=0.003)


def test_the_dimension_counts_exponents_while_their_sum_is_above_nothing():
    def of(*values: float) -> float:
        return Exponents(torch.tensor(values), torch.zeros(len(values))).dimension

    assert of(0.9, 0.0, -14.5) == pytest.approx(2 + 0.9 / 14.5)
    assert of(-0.1, -0.2) == 0
    assert of(0.5, -0.2) == 2


def test_derivatives_are_those_that_an_ensemble_finds_after_so_many_steps():
    def logistic(steps: int) -> Trajectory:
        start = torch.tensor([0.3, 0.4], dtype=torch.float64)
        return Trajectory(lambda theta: start * theta[1], lambda theta, x, k, noise: theta[0] * x * (1 - x), steps,
                          lambda theta, x: torch.stack([x.sum() * theta[1], x[0] ** 2]))  # fmt: skip

    theta = torch.tensor([3.7, 1.0], dtype=torch.float64)
    for more in ({}, {"spread": 0.1, "spinup": 30}):
        found = growth(logistic(6), theta, interval=0.1, members=20, seed=3, **more)
        torch.testing.assert_close(found.time, 0.1 * torch.arange(1, 7, dtype=torch.float64))
        for k in (1, 6):
            other = Ensemble(**more).estimate(logistic(k), theta, seed=3, n=20)
            torch.testing.assert_close(found.mean[k - 1], other.gradient, rtol=1e-9, atol=1e-12)
            if more:
                torch.testing.assert_close(found.scatter[k - 1] / 20**0.5, other.standard_error, rtol=1e-9, atol=1e-12)


def _growing(rate: float, scatter: float, members: int = 400) -> Growth:
    """One output by one parameter: 2 on average, with a scatter that grows from `scatter` at time 0."""
    time = 0.1 * torch.arange(1, 61, dtype=torch.float64)
    z = torch.randn(members, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    z = (z - z.mean()) / z.std()
    return Growth(time, (2 + scatter * z[:, None] * (rate * time).exp())[..., None, None])


def test_a_horizon_is_where_scatter_passes_the_signal_and_is_foretold_by_the_exponent():
    """scatter exp(rate t) = n^1/2 signal."""
    signal = torch.full((1, 1), 2.0, dtype=torch.float64)
    for n in (1, 100):
        for found, tight in ((_growing(1.5, 0.05), 1e-9), (_growing(1.5, 0.01), 1e-9)):
            at = float(((n**0.5 * signal / (found.scatter[0] / math.exp(0.15))).log() / 1.5).squeeze())
            assert float(found.measured(signal, n)) == pytest.approx(at, rel=tight)
            assert float(found.predicted(signal, 1.5, n)) == pytest.approx(at, rel=tight)
    assert _growing(0.0, 0.1).measured(signal).isinf().all()
    assert _growing(0.0, 0.1).predicted(signal, 0.0).isinf().all()
    assert float(_growing(1.5, 5.0).measured(signal)) == 0.1  # from the first step on


def test_averages_over_the_run_so_far():
    found = _growing(1.0, 0.2, members=3)
    torch.testing.assert_close(found.averaged().slopes[:, 9], found.slopes[:, :10].mean(1))
    torch.testing.assert_close(found.norm, found.slopes[..., 0, 0].abs().median(0).values)


def test_what_cannot_be_asked_is_refused():
    f = _linear(torch.eye(2, dtype=torch.float64), 2)
    with pytest.raises(
        InputError, match=r"^exponents must be given at least 3 steps, one member, .* Got 2, 8 and 5\.$"
    ):
        exponents(f, ONE)
    with pytest.raises(InputError, match=r"^exponents must be given an emulate\.dynamics\.Trajectory"):
        exponents(lambda theta: theta, ONE)
    along = Trajectory(f.start, f.step, 2, lambda theta, s: s.mean(0), at=(1, 2))
    with pytest.raises(InputError, match=r"^growth must be given a Trajectory whose readout is of one state\."):
        growth(along, ONE)
