"""Coordinates of bananas: normal where the draws were bent from normal ones, invertible, of constant volume."""

import numpy as np
import pytest
import torch

from emulate.samplers._coordinates import learnt

TURN = np.linalg.qr(np.random.default_rng(0).standard_normal((5, 5)))[0]


def bananas(n: int, turn: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draws `[n, 1, 64, 5]`, twice bent, and the normal ones that they were bent from."""
    e = np.random.default_rng(seed).standard_normal((n, 1, 64, 5))
    x = e.copy()
    x[..., 0] *= 10
    x[..., 1] += 0.1 * (x[..., 0] ** 2 - 100)
    x[..., 3] = 0.2 * e[..., 3] + e[..., 2] * e[..., 4]
    return e, x @ turn


@pytest.mark.parametrize("turn", [np.eye(5), TURN])
def test_a_banana_is_straightened_wherever_it_points(turn):
    _, x = bananas(40, turn)
    made = learnt(x, "bent")
    new, away = bananas(100, turn, seed=1)
    q = made.q(away.reshape(1, -1, 5))[0]
    rest = np.linalg.lstsq(np.c_[np.ones(len(q)), q], new.reshape(-1, 5), rcond=None)[1] / len(q)
    assert rest.max() < 0.1  # of the variance of the normal draws, which are an orthogonal map of q
    assert np.abs(np.cov(q.T) - np.eye(5)).max() < 0.2


def test_there_and_back_with_a_constant_volume_and_the_gradient_of_the_way():
    made = learnt(bananas(20, TURN)[1], "bent")
    q = np.random.default_rng(2).standard_normal((1, 7, 5))
    x, place = made.x(q)
    np.testing.assert_allclose(made.q(x), q, atol=1e-10)
    factor, bend = (torch.from_numpy(part[0]) for part in (made.factor, made.bend))
    centre = torch.from_numpy(made.centre[0, 0])

    def way(q: torch.Tensor) -> torch.Tensor:
        return centre + factor @ (q + torch.einsum("ijk,j,k->i", bend, q, q))

    slope = np.random.default_rng(2).standard_normal((1, 7, 5))
    pulled = made.pull(slope, place)
    for i in range(7):
        at = torch.from_numpy(q[0, i])
        np.testing.assert_allclose(way(at), x[0, i])
        jacobian = torch.func.jacrev(way)(at)
        np.testing.assert_allclose(jacobian.mT @ torch.from_numpy(slope[0, i]), pulled[0, i])
        torch.testing.assert_close(torch.linalg.det(jacobian), torch.linalg.det(factor))


@pytest.mark.parametrize("d", [2, 5, 12])
def test_straight_draws_are_not_bent(d):
    found = [learnt(np.random.default_rng(s).standard_normal((20, 1, 64, d)), "bent").bend for s in range(10)]
    assert found == [None] * 10


def test_groups_are_not_bent():
    _, x = bananas(20, np.eye(5))
    assert learnt(x.reshape(20, 2, 32, 5), "bent").bend is None


def test_diagonal_coordinates_know_no_correlation():
    factor = learnt(bananas(20, TURN)[1], "diagonal").factor[0]
    assert np.array_equal(factor, np.diag(np.diag(factor)))
