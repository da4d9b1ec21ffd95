"""The polynomial against numpy's least squares, its own leave-one-out, and coverage."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression
from sklearn.preprocessing import PolynomialFeatures

import emulate
from emulate.emulators.polynomial import Polynomial
from emulate.errors import InputError
from emulate.runs import Field, Outputs, Runs
from emulate.space import Parameter, Space, Uniform


def table(u: np.ndarray, y: np.ndarray, **kwargs) -> Runs:
    space = Space(tuple(Parameter(f"x{i}", Uniform(0.0, 1.0)) for i in range(u.shape[1])))
    return Runs.of(space, Outputs((Field("y"),)), u, y, **kwargs)


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_the_mean_is_that_of_scikit_learn(degree):
    rng = np.random.default_rng(0)
    u, new = rng.random((60, 3)), rng.random((20, 3))
    y = 1000 + np.sin(3 * u.sum(1))
    features = PolynomialFeatures(degree)
    twin = LinearRegression().fit(features.fit_transform(u), y).predict(features.transform(new))
    p = emulate.fit(Polynomial(degree=degree), table(u, y), seed=0).predict(new)
    np.testing.assert_allclose(p.mean[:, 0].numpy(), twin, rtol=1e-11)


@pytest.mark.parametrize(("d", "degree", "expected"), [(1, 1, 3), (3, 2, 11), (2, 6, 29)])
def test_the_least_number_of_runs_is_one_more_than_the_coefficients(d, degree, expected):
    assert Polynomial(degree=degree).minimum_runs(d) == expected
    assert PolynomialFeatures(degree).fit(np.zeros((1, d))).n_output_features_ + 1 == expected


def test_the_variance_is_that_of_leaving_each_run_out():
    """s^2 against n fits without each run; without `calibrate` it is |e|^2 / (n - k)."""
    rng = np.random.default_rng(0)
    u, z = rng.random((20, 2)), rng.normal(size=20)
    features = PolynomialFeatures(2).fit_transform(u)
    left_out = [z[i] - LinearRegression().fit(np.delete(features, i, 0), np.delete(z, i)).predict(features[[i]])[0]
                for i in range(20)]  # fmt: skip
    uz = torch.from_numpy(u), torch.from_numpy(z)[:, None]
    core = Polynomial().train(*uz, noisy=True, seed=0)
    assert float(core.variance) == pytest.approx(np.mean(np.square(left_out)), rel=1e-9)
    plain = Polynomial(calibrate=False).train(*uz, noisy=True, seed=0)
    residual = z - LinearRegression().fit(features, z).predict(features)
    assert float(plain.variance) == pytest.approx(np.sum(residual**2) / 14, rel=1e-9)


def test_intervals_of_new_noisy_runs_hold_95_percent():
    """Textbook regression, where the predictive law is exact up to Student's t: 200 tables of 40 runs."""
    rng, inside = np.random.default_rng(0), []
    for _ in range(200):
        u, new = rng.random((40, 2)), rng.random((20, 2))
        f = lambda u: u[:, 0] - u[:, 1] ** 2 + 0.3 * rng.normal(size=len(u))  # noqa: E731
        p = emulate.fit(Polynomial(calibrate=False), table(u, f(u), stochastic=True), seed=0).predict(new)
        inside.append(
            ((torch.from_numpy(f(new)) - p.mean[:, 0]).abs() < 2.03 * p.stddev[:, 0]).double().mean()
        )  # t, 34
    assert abs(np.mean(inside) - 0.95) < 4 * np.std(inside) / len(inside) ** 0.5 + 1e-3


def test_runs_at_too_few_places_are_refused_in_words():
    """Twelve runs at six places determine the six products; at four places any answer would fit, and none is given."""
    places = np.random.default_rng(0).random((6, 2))
    u = np.tile(places, (2, 1))
    assert torch.isfinite(emulate.fit(Polynomial(), table(u, u.sum(1)), seed=0).jacobian([[0.5, 0.5]])).all()
    u = np.tile(places[:4], (3, 1))
    with pytest.raises(InputError) as caught:
        emulate.fit(Polynomial(), table(u, u.sum(1)), seed=0)
    sentence = ("polynomial: degree must have coefficients that the runs determine. Got degree = 2 with 6 coefficients and "
                "12 runs that determine 4; choose a lower degree, or run at more places.")  # fmt: skip
    assert str(caught.value) == sentence
