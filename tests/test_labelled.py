"""xarray in and out: parameters broadcast by the names of their dimensions, answers carry coordinates and units."""

import numpy as np
import pytest
import torch
import xarray

import emulate
from emulate.emulators.polynomial import Polynomial
from emulate.errors import ExtrapolationWarning, InputError
from emulate.runs import Field, Outputs, Runs
from emulate.space import Parameter, Space, Uniform

SPACE = Space((Parameter("a", Uniform(0.0, 1.0), "km/s"), Parameter("b", Uniform(0.0, 1.0))))
OUTPUTS = Outputs((Field("y", "K"), Field("pk", "Mpc3", True, "k", (0.1, 0.2), "h/Mpc")))
SHEET = np.stack([g.ravel() for g in np.meshgrid(*[np.linspace(0, 1, 9)] * 2)], 1)


def truth(a, b):
    return np.stack([1 + 2 * a - b, np.exp(a - b), np.exp(a * b)], -1)


def table() -> Runs:
    y = truth(*SHEET.T)
    y[7] = np.nan
    slopes = np.random.default_rng(0).random((81, 3, 2))
    return Runs.of(SPACE, OUTPUTS, SHEET, y, stochastic=True, jacobian=slopes)


@pytest.fixture(scope="module")
def emulator():
    return emulate.fit(Polynomial(), table(), seed=0)


def test_a_grid_is_broadcast_by_name(emulator):
    grid = xarray.Dataset(coords={"b": [0.1, 0.2, 0.3], "a": ("a", [0.5, 0.6], {"units": "km / s"})})
    made = emulator.to_xarray(grid, jacobian=True)
    assert (made.y.dims, made.pk.dims, made.pk_sd.dims) == (("a", "b"), ("a", "b", "pk_k"), ("a", "b", "pk_k"))
    np.testing.assert_allclose(made.y, 1 + 2 * grid.a - grid.b, atol=1e-8)
    np.testing.assert_allclose(made.pk.sel(pk_k=0.1), np.exp(grid.a - grid.b), rtol=1e-8)
    np.testing.assert_allclose(made.jacobian.sel(output="y"), np.broadcast_to([2.0, -1.0], (2, 3, 2)), atol=1e-8)
    assert [made[n].attrs["units"] for n in ("y", "pk_sd", "pk_k")] == ["K", "Mpc3", "h/Mpc"]
    p = emulator.predict({"a": 0.6, "b": 0.2})
    assert made.pk.sel(a=0.6, b=0.2).values.tolist() == pytest.approx(p.mean[1:].tolist(), rel=1e-12)
    assert made.pk_sd.sel(a=0.6, b=0.2).values.tolist() == pytest.approx(p.stddev[1:].tolist(), rel=1e-6)


def test_every_form_gives_the_same_answers(emulator):
    theta = xarray.DataArray([[0.1, 0.2], [0.3, 0.4]], dims=("run", "parameter"), coords={"parameter": ["b", "a"]})
    frame = theta.to_dataset("parameter")
    own = emulator.predict(torch.tensor([[0.2, 0.1], [0.4, 0.3]], dtype=torch.float64)).mean
    for given in (theta, theta.T, frame, frame.assign(more=("run", [1, 2])), frame.set_coords("a").b):
        assert torch.equal(emulator.predict(given).mean, own)
        assert emulator.to_xarray(given).y.dims == ("run",)
    assert emulator.to_xarray([[0.2, 0.1]]).y.dims == ("point",)
    assert emulator.to_xarray({"a": 0.2, "b": 0.1}).y.dims == ()
    assert emulator.to_xarray(frame, samples=4, seed=1).pk_draw.dims == ("draw", "run", "pk_k")


def test_what_is_missing_or_in_another_unit_is_refused(emulator):
    grid = xarray.Dataset(coords={"a": [0.5], "b": [0.1]})
    with pytest.raises(InputError, match=r"^a must be in km/s\. Got the unit 'm/s'; convert the values and mend"):
        emulator.predict(grid.assign_coords(a=("a", [0.5], {"units": "m/s"})))
    with pytest.raises(InputError, match=r"^theta must name every one of a, b\. Missing: b; rename a variable"):
        emulator.predict(grid.rename(b="B"))
    with pytest.raises(
        InputError, match=r"^a DataArray of theta must have a dimension 'parameter' with the names a, b"
    ):
        emulator.predict(xarray.DataArray([[0.1, 0.2]], dims=("x", "y")))


def test_a_warning_is_told_once_of_all_points(emulator):
    grid = xarray.Dataset(coords={"a": np.linspace(0, 2, 3000), "b": 0.5})
    with pytest.warns(ExtrapolationWarning) as caught:
        emulator.to_xarray(grid, jacobian=True)
    assert len(caught) == 1
    with pytest.raises(InputError, match="must lie in the box"):
        emulator.to_xarray(grid, outside="refuse")


@pytest.mark.parametrize("through_a_file", [False, True])
def test_runs_come_back_as_they_were(tmp_path, through_a_file):
    runs = table()
    made = runs.to_xarray()
    if through_a_file:
        made.to_netcdf(tmp_path / "r.nc", engine="h5netcdf")
        made = xarray.load_dataset(tmp_path / "r.nc")
    again = Runs.from_xarray(made)
    for name in ("theta", "y", "seed", "ok", "seconds", "jacobian", "jacobian_error"):
        a, b = getattr(runs, name), getattr(again, name)
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    for name in ("space", "outputs", "reason", "key", "stochastic"):
        assert getattr(runs, name) == getattr(again, name)


def test_a_dataset_of_ones_own_must_say_what_it_holds():
    own = xarray.Dataset({"a": ("run", [0.1, 0.2]), "b": ("run", [0.3, 0.4]), "y": ("run", [1.0, np.inf])})
    with pytest.raises(InputError, match=r"Call Runs\.from_xarray\(dataset, space, outputs\)\.$"):
        Runs.from_xarray(own)
    runs = Runs.from_xarray(own, SPACE, Outputs((Field("y", "K"),)))
    assert (runs.ok.tolist(), runs.theta.tolist()) == ([True, False], [[0.1, 0.3], [0.2, 0.4]])
    with pytest.raises(
        InputError, match=r"^the Dataset must have a, b, y along `run`, their first dimension\. Missing: b;"
    ):
        Runs.from_xarray(own.drop_vars("b"), SPACE, Outputs((Field("y"),)))
    with pytest.raises(InputError, match=r"^y must be in K\. Got the unit 'mK'"):
        Runs.from_xarray(own.assign(y=own.y.assign_attrs(units="mK")), SPACE, Outputs((Field("y", "K"),)))
