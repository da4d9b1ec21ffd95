"""Linear spectra from a file and from the Boltzmann code: values, ranges, derivatives, and what is refused."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from emulate.errors import InputError
from emulate.simulators.nbody import boltzmann
from emulate.simulators.nbody.cosmology import Cosmology
from emulate.simulators.nbody.table import Grid, LinearTable

REFERENCE = json.loads((Path(__file__).parents[1] / "reference" / "nbody_linear_power.json").read_text())
STANDARD = {"omega_m": 0.3, "omega_b": 0.049, "h": 0.68, "n_s": 0.96}
NUMBERS = ("omega_m", "omega_b", "h", "n_s", "A_s", "omega_k", "w0", "wa")
K = torch.logspace(-2.9, 0.9, 60, dtype=torch.float64)


def f64(x) -> torch.Tensor:
    return torch.tensor(x, dtype=torch.float64)


def numbers(universe: dict) -> dict:
    return {name: value for name, value in universe.items() if name in NUMBERS}


@pytest.fixture
def formula(monkeypatch):
    """A smooth response in place of CAMB; the list of its calls."""
    calls: list[tuple[float, ...]] = []

    def response(*point):
        calls.append(point)
        return quadratic(*map(f64, point)).numpy()

    monkeypatch.setattr(boltzmann, "_log_response", response)
    return calls


def quadratic(omega_m, omega_b, h, omega_k, w0, wa):
    """Of second degree in each number, where central differences are exact."""
    x = torch.log(Grid(*boltzmann.RANGE, 2048).k)
    tilt = -x * (0.3 + omega_m**2 + 2 * omega_b * h) + 0.1 * torch.sin(x)
    return tilt + omega_k * x**2 / 50 + w0 * wa + 0.1 * w0**2 - 0.2 * omega_k**2


# ---- tables from a file


@pytest.mark.parametrize(
    ("header", "separator", "quantity"),
    [("# k [h/Mpc]  P [(Mpc/h)^3]\n", "  ", "P"), ("k,P\n", ",", "P"), ("", "\t", "T"), ("#\n\nk T\n", " ", "T")],
)
def test_a_table_gives_back_the_spectrum_it_was_made_of(tmp_path, header, separator, quantity):
    truth = Cosmology.of(**STANDARD, sigma_8=0.8)
    k = torch.logspace(-3, 1.2, 300, dtype=torch.float64)
    column = truth.power(k) if quantity == "P" else truth.transfer_function(k)
    path = tmp_path / "linear.txt"
    path.write_text(header + "".join(f"{a!r}{separator}{b!r}\n" for a, b in zip(k.tolist(), column.tolist())))
    table = LinearTable.read(path, quantity, n_s=0.96 if quantity == "P" else None)
    given = replace(truth, transfer=table)
    torch.testing.assert_close(given.power(K), truth.power(K), rtol=3e-5, atol=0)
    tilted, truly = replace(given, n_s=f64(1.02)), replace(truth, n_s=f64(1.02))
    torch.testing.assert_close(tilted.power(K), truly.power(K), rtol=3e-5, atol=0)
    torch.testing.assert_close(replace(given, sigma_8=f64(0.4)).power(K), given.power(K) / 4, rtol=1e-12, atol=0)


def test_the_shortest_table_loses_next_to_nothing_of_sigma_8():
    truth = Cosmology.of(**STANDARD, sigma_8=0.8)
    k = torch.logspace(np.log10(5e-3), np.log10(2.0), 200, dtype=torch.float64)
    short = replace(truth, transfer=LinearTable(k, truth.transfer_function(k)))
    ratio = float(short.power(f64([0.1]))) / float(truth.power(f64([0.1])))
    assert ratio == pytest.approx(1, abs=4e-4)
    assert ratio > 1  # the missing variance is made up for


def test_table_is_differentiable_in_what_it_depends_on():
    k = torch.logspace(-3, 1, 100, dtype=torch.float64)
    table = LinearTable(k, 1 / (1 + (k / 0.02) ** 2))

    def power(n_s, sigma_8, k):
        return Cosmology(*map(f64, (0.3, 0.05, 0.7)), n_s, sigma_8, transfer=table).power(k).log()

    inputs = [f64(0.96).requires_grad_(), f64(0.8).requires_grad_(), f64([0.013, 0.17]).requires_grad_()]
    assert torch.autograd.gradcheck(power, inputs, check_forward_ad=True)


def test_grid_interpolates_cubics_exactly_and_refuses_the_rest():
    grid = Grid(1e-2, 1e1, 50)
    x, k = torch.log(grid.k), torch.exp(torch.linspace(np.log(1e-2), np.log(1e1), 333, dtype=torch.float64))
    y = 1 + x - 0.3 * x**2 + 0.1 * x**3
    x = torch.log(k)
    torch.testing.assert_close(grid.at(y, k), 1 + x - 0.3 * x**2 + 0.1 * x**3, rtol=1e-11, atol=1e-11)
    for k in (0.009, 10.1):
        with pytest.raises(
            InputError, match=r"k must be within the table, 0\.01 to 10 h/Mpc\. Got .* not extrapolated"
        ):
            grid.at(y, f64([0.1, k]))


@pytest.mark.parametrize(
    ("k", "T", "sentence"),
    [
        (np.geomspace(1e-3, 10, 5), np.ones(5), r"at least 8 numbers\. Got shapes \[5\] and \[5\]"),
        (np.geomspace(1e-3, 10, 9), np.ones(8), r"two columns .* Got shapes \[9\] and \[8\]"),
        (np.geomspace(10, 1e-3, 9), np.ones(9), r"k in increasing order"),
        (np.geomspace(1e-3, 10, 9), -np.ones(9), r"positive numbers"),
        (np.geomspace(1e-3, 1, 9), np.ones(9), r"from 0\.005 to 2\.0 h/Mpc.* Got 0\.001 to 1;"),
    ],
)
def test_what_is_not_a_table_is_refused(k, T, sentence):
    with pytest.raises(InputError, match=sentence):
        LinearTable(torch.from_numpy(k.copy()), torch.from_numpy(T))


@pytest.mark.parametrize(
    ("text", "quantity", "n_s", "sentence"),
    [
        ("1 2\n", "P", None, r'quantity must be "P", with the n_s of the table'),
        ("1 2\n", "T", 0.96, r'or "T", without\. Got quantity = \'T\', n_s = 0\.96'),
        ("1 2 3\n", "T", None, r"must have two columns of numbers"),
        ("k T\n1 two\n", "T", None, r"must have two columns of numbers"),
        ("# nothing\n", "T", None, r"must have two columns of numbers"),
        (None, "T", None, r"must be a readable text file\. Got .*missing"),
    ],
)
def test_files_that_hold_no_table_are_refused(tmp_path, text, quantity, n_s, sentence):
    path = tmp_path / "missing"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=sentence):
        LinearTable.read(path, quantity, n_s)


# ---- the Boltzmann code, with a formula in its place


def test_camb_runs_once_for_a_value_and_twice_for_each_derivative_asked_for(formula):
    c = Cosmology.of(**STANDARD, A_s=2e-9, transfer="camb")
    c.power(K)
    assert len(formula) == 1
    h = f64(0.68).requires_grad_()
    replace(c, h=h).power(K).sum().backward()
    assert sorted(point[2] for point in formula) == pytest.approx([0.68 * 0.985, 0.68, 0.68, 0.68 * 1.015])


@pytest.mark.parametrize("amplitude", ["A_s", "sigma_8"])
def test_derivatives_with_camb_are_those_of_its_response(formula, monkeypatch, amplitude):
    names = (*NUMBERS[:4], amplitude, *NUMBERS[5:])
    point = tuple(map(f64, (0.31, 0.05, 0.7, 0.96, 2e-9 if amplitude == "A_s" else 0.8, 0.03, -0.9, 0.1)))

    def log_power(*x):
        return Cosmology(**dict(zip(names, x)), transfer="camb").power(K[::10]).log()

    everything = tuple(range(8))
    forward = torch.func.jacfwd(log_power, argnums=everything)(*point)
    reverse = torch.func.jacrev(log_power, argnums=everything)(*point)
    plain = torch.autograd.functional.jacobian(log_power, point)
    monkeypatch.setattr(boltzmann._Response, "apply", quadratic)
    truth = torch.func.jacfwd(log_power, argnums=everything)(*point)
    for i in everything:
        for one in (forward[i], reverse[i], plain[i]):
            torch.testing.assert_close(one, truth[i], rtol=1e-8, atol=1e-8)


def test_batches_of_cosmologies_run_camb_row_by_row(formula):
    def power(omega_m):
        numbers = dict(zip(NUMBERS, map(f64, (0.3, 0.049, 0.68, 0.96, 2e-9))))
        return Cosmology(**{**numbers, "omega_m": omega_m}, transfer="camb").power(K)

    batch = f64([0.28, 0.3])
    rows = torch.stack([power(x) for x in batch])
    torch.testing.assert_close(torch.func.vmap(power)(batch), rows, rtol=1e-11, atol=0)
    slopes = torch.stack([torch.func.jacfwd(power)(x) for x in batch])
    torch.testing.assert_close(torch.func.vmap(torch.func.jacfwd(power))(batch), slopes, rtol=1e-9, atol=0)


def test_second_derivatives_with_camb_are_refused_not_wrong(formula):
    def power(h):
        return replace(Cosmology.of(**STANDARD, A_s=2e-9, transfer="camb"), h=h).power(K).log().sum()

    for twice in (torch.func.hessian, lambda f: torch.func.jacrev(torch.func.jacrev(f))):
        with pytest.raises(InputError, match=r'first ones where transfer = "camb"\. Got a second one'):
            twice(power)(f64(0.7))


def test_k_outside_the_table_of_camb_is_refused(formula):
    c = Cosmology.of(**STANDARD, A_s=2e-9, transfer="camb")
    with pytest.raises(InputError, match=r"k must be within the table, 0\.0005 to 20 h/Mpc\. Got 0\.1 to 21;"):
        c.power(f64([0.1, 21.0]))


def test_without_camb_the_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "camb", None)
    c = Cosmology.of(**{**STANDARD, "omega_m": 0.3123}, A_s=2e-9, transfer="camb")
    with pytest.raises(InputError, match=r'transfer = "camb" needs .* pip install emulate\[cosmology\]'):
        c.power(K)


# ---- the Boltzmann code itself


@pytest.mark.parametrize(
    "universe",
    [REFERENCE["universes"][0], *(pytest.param(u, marks=pytest.mark.slow) for u in REFERENCE["universes"][1:])],
    ids=lambda u: f"omega_k={u.get('omega_k', 0)}, w0={u.get('w0', -1)}",
)
def test_power_with_camb_is_that_of_camb(universe):
    pytest.importorskip("camb")
    c = Cosmology.of(**numbers(universe), transfer="camb")
    np.testing.assert_allclose(c.power(f64(REFERENCE["k"])), universe["camb"], rtol=5e-4)
    assert float(c.sigma()) == pytest.approx(universe["camb_sigma_8"], rel=1e-3)
    assert float(c.transfer_function(f64([3e-3]))) == pytest.approx(1, abs=0.1)  # as T of the fitting formulae
    twin = replace(c, A_s=None, sigma_8=c.sigma())
    torch.testing.assert_close(twin.power(K), c.power(K), rtol=1e-9, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["omega_m", "omega_b", "h", "omega_k", "w0", "wa"])
def test_slopes_of_camb_are_the_same_with_other_steps(name):
    """A stencil of five points and a step half as large; the noise of the Boltzmann code is what is left."""
    pytest.importorskip("camb")
    c = Cosmology.of(**STANDARD, A_s=2e-9, transfer="camb", omega_k=0.01, w0=-0.95, wa=0.1)
    x, k = getattr(c, name), torch.logspace(-2.5, 0.9, 60, dtype=torch.float64)

    def log_power(x):
        return replace(c, **{name: x}).power(k).log()

    slope = torch.func.jacfwd(log_power)(x)
    step = {"omega_m": 0.006, "omega_b": 0.001, "h": 0.006, "omega_k": 0.006, "w0": 0.02, "wa": 0.06}[name]
    y = [log_power(x + i * step) for i in (-2, -1, 1, 2)]
    other = (8 * (y[2] - y[1]) - (y[3] - y[0])) / (12 * step)
    assert float((slope - other).abs().max() / other.abs().max()) < 0.02
    assert float((slope - other).square().mean().sqrt() / other.abs().max()) < 0.005


@pytest.mark.slow
def test_camb_gives_the_same_bits_again_and_refuses_in_words():
    pytest.importorskip("camb")
    point = (0.3, 0.05, 0.7, 0.0, -1.0, 0.0)
    one = boltzmann._log_response(*point)
    boltzmann._log_response.cache_clear()
    assert np.array_equal(one, boltzmann._log_response(*point))
    with pytest.raises(InputError, match=r"table of CAMB must begin below 0\.0005 h/Mpc\. Got .* use less curvature"):
        boltzmann._log_response(0.3, 0.05, 0.7, -0.4, -1.0, 0.0)
    with pytest.raises(InputError, match=r"ones that CAMB accepts\. Got omega_m = 0\.3, .* narrow the priors"):
        boltzmann._log_response(0.3, 0.05, 0.7, 0.0, -1.0, 2.0)
