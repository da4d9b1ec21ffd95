"""Observables against brute force and numpy."""

import itertools

import numpy as np
import pytest
import torch

from emulate.errors import InputError
from emulate.lund import Events, Flavours, String, generate
from emulate.lund.observables import charged_multiplicity, counts, gradient, scaled_momentum, thrust, transverse


@pytest.fixture(scope="module")
def events():
    return generate((0.68, 0.98, 0.335), 300, seed=2, string=String(energy=20.0, flavours=Flavours.pions()))


def momenta(events, i):
    rows = slice(int(events.offsets[i]), int(events.offsets[i + 1]))
    return np.stack([getattr(events, k)[rows].numpy() for k in ("px", "py", "pz")], 1)


def test_thrust_is_the_best_of_all_signs(events):
    """Over all 2^m choices of signs, not only those that a plane makes."""
    found = thrust(events)
    for i in range(60):
        p = momenta(events, i)
        signs = np.array(list(itertools.product((1, -1), repeat=len(p))))
        sums = signs @ p
        best = np.linalg.norm(sums, axis=1).max()
        assert float(found.value[i]) == pytest.approx(best / np.linalg.norm(p, axis=1).sum(), rel=1e-12)
        along = np.abs(p @ found.axis[i].numpy()).sum() / np.linalg.norm(p, axis=1).sum()
        assert along == pytest.approx(float(found.value[i]), rel=1e-12)


def test_thrust_of_few_and_of_isotropic_hadrons():
    generator = np.random.default_rng(1)
    sizes = [2, 2, 3, 9]
    p = [np.array([[1.0, 2.0, 2.0], [-1.0, -2.0, -2.0]]), np.array([[3.0, 0, 0], [-3.0, 0, 0]]),
         np.array([[1.0, 0, 0], [-0.5, 0.75**0.5, 0], [-0.5, -(0.75**0.5), 0]]), generator.normal(size=(9, 3))]  # fmt: skip
    x, y, z = torch.tensor(np.concatenate(p)).T
    offsets = torch.tensor([0, *np.cumsum(sizes)])
    found = thrust(Events(offsets, x, y, z, x.abs() + 9, 0 * x, torch.full((16,), 211)))
    assert found.value[:3].tolist() == pytest.approx([1, 1, 2 / 3], abs=1e-12)
    rough = generator.normal(size=(20_000, 3))
    rough /= np.linalg.norm(rough, axis=1)[:, None]
    best = np.abs(rough @ p[3].T).sum(1).max() / np.linalg.norm(p[3], axis=1).sum()
    assert best <= float(found.value[3]) <= best * 1.001


def test_the_rest_is_what_numpy_says(events):
    axis = thrust(events).axis
    n, x, pt, pt_thrust = (
        charged_multiplicity(events),
        scaled_momentum(events),
        transverse(events),
        transverse(events, axis),
    )
    for i in range(20):
        rows = slice(int(events.offsets[i]), int(events.offsets[i + 1]))
        p = momenta(events, i)
        assert n[i] == np.sum(np.abs(events.code[rows].numpy()) == 211)
        np.testing.assert_allclose(x[rows], np.linalg.norm(p, axis=1) / 10.0, rtol=1e-12)
        np.testing.assert_allclose(pt[rows], np.hypot(p[:, 0], p[:, 1]), rtol=1e-12)
        a = axis[i].numpy()
        np.testing.assert_allclose(
            pt_thrust[rows], np.linalg.norm(p - np.outer(p @ a, a), axis=1), rtol=1e-9, atol=1e-12
        )


def test_counts_are_those_of_numpy():
    generator = np.random.default_rng(0)
    x, edges = generator.normal(size=500), np.array([-1.0, -0.2, 0.5, 2.0])
    found = counts(torch.tensor(x), torch.tensor(edges))
    assert found.sum(1).unique().tolist() == [1.0]
    np.testing.assert_array_equal(found.sum(0)[1:-1], np.histogram(x, edges)[0])
    assert found.sum(0)[[0, -1]].tolist() == [(x < -1).sum(), (x >= 2).sum()]


def test_wrong_shapes_are_told(events):
    with pytest.raises(InputError, match=r"axis must be one unit vector for each of 300 events. Got shape \[3\]"):
        transverse(events, torch.ones(3))
    with pytest.raises(InputError, match=r"h must be \[n, m\] and score \[n, d\]"):
        gradient(torch.ones(5), torch.ones(5, 3))
