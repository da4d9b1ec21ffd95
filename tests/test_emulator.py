"""`fit` and `Emulator`: provenance, failed runs, priors with tails, extrapolation, and the front door."""

import hashlib
import subprocess
import sys
import warnings
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import emulate
from emulate.emulators.gp import GP
from emulate.emulators.polynomial import Polynomial
from emulate.errors import CampaignError, ExtrapolationWarning, InputError
from emulate.runs import Field, Outputs, Runs
from emulate.space import Normal, Parameter, Space, Uniform
from tests import laws

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def emulator():
    return emulate.fit(Polynomial(), laws.runs(), seed=0)


def test_provenance_says_what_would_repeat_the_fit(emulator):
    p = emulator.provenance
    assert p["recipe"] == {"use": "polynomial", "degree": 2, "log": True, "truncation": 1e-10, "calibrate": True}
    assert (p["seed"], p["runs"], p["failed"], p["stochastic"]) == (0, 48, 0, False)
    assert p["versions"]["torch"] == version("torch")
    assert p["versions"]["emulate"] == version("emulate")


def test_the_hash_of_the_runs_is_that_of_their_sorted_keys():
    table = laws.runs(24)
    table = replace(table, key=tuple(f"{i:064x}" for i in range(24)), ok=np.arange(24) != 5,
                    y=np.where(np.arange(24)[:, None] != 5, table.y, np.nan))  # fmt: skip
    keys = sorted(k for i, k in enumerate(table.key) if i != 5)
    p = emulate.fit(Polynomial(), table, seed=0).provenance
    assert p["runs_sha256"] == hashlib.sha256("\n".join(keys).encode()).hexdigest()
    assert (p["runs"], p["failed"]) == (23, 1)
    shuffled = table.select(np.random.default_rng(0).permutation(24))
    assert emulate.fit(Polynomial(), shuffled, seed=0).provenance["runs_sha256"] == p["runs_sha256"]


def test_runs_without_keys_are_told_apart_by_their_values():
    table = laws.runs(24)
    other = replace(table, y=table.y * (1 + 1e-15))
    first, second = (emulate.fit(Polynomial(), t, seed=0).provenance["runs_sha256"] for t in (table, other))
    assert first != second


def test_it_knows_the_runs_that_taught_it(tmp_path):
    """By the keys of the store where runs have them, by their numbers where not; failed runs taught nothing."""
    table = laws.runs(24)
    keyed = replace(table, key=tuple(f"{i:064x}" for i in range(24)), ok=np.arange(24) != 5,
                    y=np.where(np.arange(24)[:, None] != 5, table.y, np.nan))  # fmt: skip
    for runs, missing in ((table, []), (keyed, [5])):
        emulator = emulate.load(emulate.fit(Polynomial(), runs, seed=0).save(tmp_path / "x"))
        assert np.flatnonzero(~emulator.taught_by(runs)).tolist() == missing
        assert not emulator.taught_by(laws.runs(8, seed=2)).any()
        assert emulator.taught_by(runs.select(slice(0))).shape == (0,)
    assert [bytes(row).hex() for row in emulator.taught.numpy()[:2]] == [f"{i:064x}" for i in range(2)]


def test_points_come_as_tensors_arrays_dicts_and_frames(emulator):
    theta = laws.points(4, seed=1)
    expected = emulator.predict(theta).mean
    frame = pd.DataFrame(theta.numpy(), columns=["a", "b", "c"])[["c", "a", "b"]]
    for given in (theta.numpy(), theta.tolist(), frame, {"c": theta[:, 2], "a": theta[:, 0], "b": theta[:, 1].numpy()}):
        assert torch.equal(emulator.predict(given).mean, expected)
    assert torch.equal(emulator.jacobian(frame), emulator.jacobian(theta))
    assert torch.equal(emulator(theta).mean, expected)


def test_the_jacobian_is_that_of_plain_reverse_mode(emulator):
    theta = laws.points(3, seed=2)
    jacobian = emulator.jacobian(theta)
    for i, t in enumerate(theta):
        twin = torch.autograd.functional.jacobian(lambda t: emulator.predict(t).mean, t)
        torch.testing.assert_close(jacobian[i], twin, rtol=1e-10, atol=0.0)
    with torch.no_grad():
        assert torch.equal(emulator.jacobian(theta), jacobian)


def test_far_outside_it_says_so_for_every_parameter_and_share(emulator):
    theta = torch.tensor([[1.0, 0.01, 5.0], [7.0, 0.1 * 10**0.5, 5.0]], dtype=torch.float64)
    with pytest.warns(ExtrapolationWarning) as caught:
        emulator.predict(theta)
    assert str(caught[0].message) == (
        "theta must lie in the box that the emulator was trained in. Got a by 1 of its range, b by 0.25 of its range outside, "
        "in 50% of the points; the prediction is an extrapolation.")  # fmt: skip
    assert caught[0].filename == __file__
    torch.testing.assert_close(emulator.domain(theta), torch.tensor([0.0, (1 + 0.25**2) ** 0.5], dtype=torch.float64))


def test_rounding_at_the_edge_is_no_extrapolation(emulator):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        emulator.predict([3.0 + 1e-12, 0.1 + 1e-16, 5.0])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_point_that_is_not_finite_is_refused(emulator, bad):
    with pytest.raises(InputError) as caught:
        emulator.predict([bad, 0.01, 5.0])
    assert str(caught.value) == "theta must be finite. Got NaN or infinity; look where it was computed."


def test_an_infinite_value_under_a_prior_with_tails_is_refused_too(emulator):
    with pytest.raises(InputError, match=r"theta must be finite\. Got NaN or infinity"):
        emulator.predict([1.0, 0.01, float("inf")])


def test_a_line_stays_a_line_under_a_prior_with_tails():
    """y = theta is smooth in theta, not in the prior's distribution function: the tails are predicted all the same."""
    space = Space((Parameter("x", Normal(0.0, 1.0)),))
    theta = space.from_unit(torch.linspace(0.01, 0.99, 20, dtype=torch.float64)[:, None]).numpy()
    emulator = emulate.fit(Polynomial(degree=1), Runs.of(space, Outputs((Field("y"),)), theta, 3 * theta), seed=0)
    assert float(emulator.predict({"x": 3.5}).mean) == pytest.approx(10.5, rel=1e-9)


def test_no_finished_run_at_all_is_refused():
    table = Runs.of(laws.SPACE, laws.OUTPUTS, laws.points(30, seed=1).numpy(), np.full((30, 5), np.nan))
    with pytest.raises(CampaignError) as caught:
        emulate.fit(GP(), table, seed=0)
    assert caught.value.exit_code == 3
    assert str(caught.value) == ("gp must have at least 3 finished runs for 3 parameters. Got 0 (30 failed); run more points, "
                                 "or choose a recipe that needs fewer.")  # fmt: skip


def test_a_fit_inside_no_grad_is_the_same():
    with torch.no_grad():
        inside = emulate.fit(GP(), laws.runs(16), seed=0)
    theta = laws.points(3, seed=2)
    assert torch.equal(inside.predict(theta).mean, emulate.fit(GP(), laws.runs(16), seed=0).predict(theta).mean)


@pytest.mark.parametrize("recipe", [Polynomial(), GP(kernel="rbf", mean="linear")])
def test_inference_mode_changes_nothing_and_leaves_no_trace(recipe, tmp_path):
    plain, theta = emulate.fit(recipe, laws.runs(), seed=0), laws.points(3, seed=1)
    folder = plain.save(tmp_path / "e")
    with torch.inference_mode():
        inside, loaded, asked = emulate.fit(recipe, laws.runs(), seed=0), emulate.load(folder), theta.clone()
        assert torch.equal(plain.predict(asked).mean, plain.predict(theta).mean)
        assert torch.equal(plain.jacobian(asked), plain.jacobian(theta))
    assert torch.equal(inside.jacobian(asked), plain.jacobian(theta))
    for made in (inside, loaded):
        bound = theta.clone().requires_grad_()
        made.predict(bound).mean.sum().backward()
        assert torch.isfinite(bound.grad).all()
        assert torch.equal(made.jacobian(theta), plain.jacobian(theta))


def test_it_stays_in_float64(emulator):
    theta = laws.points(3, seed=1)
    before = emulator.predict(theta).mean
    for change in (emulator.float, emulator.half, lambda: emulator.to(torch.float32)):
        with pytest.raises(
            InputError, match=r"^an emulator must stay in float64.* Got torch\.float(16|32); turn its answers"
        ):
            change()
    assert torch.equal(emulator.to("cpu").double().predict(theta).mean, before)


@pytest.mark.parametrize(("change", "sentence"), [
    ({"recipe": "gp"}, "a recipe must be built, such as GP() or emulate.build('emulators', {'use': 'gp'}). Got 'gp'."),
    ({"recipe": GP}, "a recipe must be built, such as GP() or emulate.build('emulators', {'use': 'gp'}). Got "
     "<class 'emulate.emulators.gp.GP'>."),
    ({"runs": ([[0.1]], [1.0])}, "runs must be a table of runs. Got tuple; make one of arrays by Runs.of."),
    ({"seed": -1}, "seed must be a whole number, at least 0. Got -1."),
    ({"seed": None}, "seed must be a whole number, at least 0. Got None."),
    ({"seed": 0.5}, "seed must be a whole number, at least 0. Got 0.5."),
])  # fmt: skip
def test_what_cannot_be_fitted_is_told(change, sentence):
    given = {"recipe": Polynomial(), "runs": laws.runs(), "seed": 0} | change
    with pytest.raises(InputError) as caught:
        emulate.fit(given["recipe"], given["runs"], seed=given["seed"])
    assert str(caught.value) == sentence
    with pytest.raises(InputError) as caught:
        emulate.compare({"mine": given["recipe"]}, given["runs"], seed=given["seed"])
    assert str(caught.value) == sentence


def test_a_comparison_needs_names_and_a_number_of_folds():
    with pytest.raises(InputError, match=r"^recipes must stand under names, such as \{'gp': GP\(\)\}\. Got list\.$"):
        emulate.compare([Polynomial()], laws.runs())
    for folds in (1, 2.5, "5", 49):
        with pytest.raises(InputError, match=r"^folds must be a whole number, at least 2 and at most 48, the places"):
            emulate.compare({"p": Polynomial()}, laws.runs(), folds=folds)
    assert emulate.compare({}, laws.runs()).choice.name == ""


def test_a_stochastic_simulator_is_predicted_with_its_noise():
    """Sixty noisy runs of a line: 95 % intervals hold new *runs*, not only the mean."""
    rng = np.random.default_rng(0)
    space = Space((Parameter("x", Uniform(0.0, 1.0)),))
    x, new = rng.random((60, 1)), rng.random((2000, 1))
    table = Runs.of(space, Outputs((Field("y"),)), x, x + 0.1 * rng.normal(size=x.shape), stochastic=True)
    for recipe in (GP(), Polynomial()):
        p = emulate.fit(recipe, table, seed=0).predict(new)
        y = torch.from_numpy(new + 0.1 * rng.normal(size=new.shape))
        inside = float(((y - p.mean).abs() < 1.96 * p.stddev).double().mean())
        assert 0.9 < inside < 0.99
        assert float(p.stddev.mean()) == pytest.approx(0.1, rel=0.25)


def test_the_front_door_is_light_and_opens_every_name():
    code = ("import sys, emulate; light = set(sys.modules); [getattr(emulate, n) for n in emulate.__all__]; "
            "heavy = {'torch', 'numpy', 'scipy', 'pandas', 'xarray', 'pydantic', 'gpytorch', 'sklearn', 'matplotlib', "
            "'dask', 'mlflow'}; never = {'dask', 'distributed', 'mlflow', 'yaml', 'typer', 'gpytorch', 'matplotlib'}; "
            "print(sorted(heavy & light), sorted(never & set(sys.modules)))")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[] []"


@pytest.mark.parametrize("room", ["emulators", "gradients"])
def test_what_is_slow_to_import_is_not_paid_for_at_the_loading_of_an_emulator(room):
    code = (f"import importlib, sys; from emulate import registry; [importlib.import_module(f'emulate.{room}.{{n}}') for n in "
            f"registry.names({room!r})]; print(sorted({{'scipy.stats', 'gpytorch', 'zuko'}} & set(sys.modules)))")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


def test_the_front_door_names_what_it_has():
    assert set(emulate.__all__) == set(dir(emulate))
    with pytest.raises(
        AttributeError, match="module 'emulate' has no attribute 'Gp'; it has Space, Parameter, Uniform"
    ):
        emulate.Gp  # noqa: B018
