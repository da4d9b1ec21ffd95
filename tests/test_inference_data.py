"""Posterior files judged by what reads them: arviz itself, xarray, and a second writing."""

import numpy as np
import pytest
import torch
import xarray

from emulate.derived import read
from emulate.errors import InputError
from emulate.inference_data import inference_data, save
from emulate.runs import Field, Outputs
from emulate.space import Parameter, Space, Uniform

SPACE = Space((Parameter("a", Uniform(0, 1), unit="K", label=r"\alpha"), Parameter("b", Uniform(0, 1))))
OUTPUTS = Outputs((Field("pk", unit="Mpc", coordinate="k", at=(0.1, 0.2, 0.3), at_unit="1/Mpc"), Field("count")))


@pytest.fixture(scope="module")
def given():
    generator = torch.Generator().manual_seed(1)
    random = lambda *shape: torch.rand(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    return {"theta": random(4, 100, 2), "data": random(4), "predictive": random(4, 10, 4), "prior": random(50, 2),
            "log_likelihood": -random(4, 100), "lp": -random(4, 100), "diverging": random(4, 100) > 0.99}  # fmt: skip


def tree(given):
    return inference_data(
        SPACE, given["theta"], derived=read({"c": {"expression": "a * b", "unit": "K"}}, SPACE), outputs=OUTPUTS,
        data=given["data"], predictive=given["predictive"], thin=10, prior=given["prior"],
        log_likelihood=given["log_likelihood"], stats={"lp": given["lp"], "diverging": given["diverging"]},
        attrs={"study": "line", "seed": 1})  # fmt: skip


@pytest.fixture(scope="module")
def path(given, tmp_path_factory):
    return save(tree(given), tmp_path_factory.mktemp("nc") / "posterior.nc")


def test_xarray_reads_back_every_number(path, given):
    found = xarray.open_datatree(path)
    assert set(found.children) == {"posterior", "sample_stats", "log_likelihood", "posterior_predictive", "observed_data",
                                   "prior"}  # fmt: skip
    a, b = given["theta"].numpy().transpose(2, 0, 1)
    for name, value in {"a": a, "b": b, "c": a * b}.items():
        np.testing.assert_array_equal(found["posterior"][name], value)
    np.testing.assert_array_equal(found["sample_stats"]["lp"], given["lp"])
    np.testing.assert_array_equal(found["sample_stats"]["diverging"], given["diverging"])
    np.testing.assert_array_equal(found["log_likelihood"]["observation"], given["log_likelihood"])
    np.testing.assert_array_equal(found["posterior_predictive"]["pk"], given["predictive"][..., :3])
    np.testing.assert_array_equal(found["observed_data"]["pk"], given["data"][:3])
    assert float(found["observed_data"]["count"]) == given["data"][3]
    np.testing.assert_array_equal(found["prior"]["a"][0], given["prior"][:, 0])


def test_units_coordinates_and_provenance_are_kept(path):
    found = xarray.open_datatree(path)
    assert found["posterior"]["a"].attrs == {"units": "K", "long_name": r"$\alpha$"}
    assert found["posterior"]["c"].attrs == {"units": "K", "expression": "a * b"}
    assert found["posterior_predictive"]["draw"].values.tolist() == list(range(0, 100, 10))
    assert found["observed_data"]["pk_k"].values.tolist() == [0.1, 0.2, 0.3]
    assert found["observed_data"]["pk_k"].attrs == {"units": "1/Mpc"}
    assert found["observed_data"]["pk"].attrs == {"units": "Mpc"}
    assert (found.attrs["study"], found.attrs["seed"]) == ("line", 1)


@pytest.mark.filterwarnings("ignore")
def test_arviz_reads_it(path, given):
    arviz = pytest.importorskip("arviz", reason="arviz reads the file in this test; install arviz to run it")
    found = arviz.from_netcdf(path)
    assert {"posterior", "posterior_predictive", "observed_data", "sample_stats", "prior"} <= set(found.groups())
    table = arviz.summary(found, round_to="none")
    assert table.loc["a", "mean"] == pytest.approx(float(given["theta"][..., 0].mean()))


def test_the_same_numbers_are_the_same_bytes(path, given, tmp_path):
    assert save(tree(given), tmp_path / "again.nc").read_bytes() == path.read_bytes()


def test_a_parameter_may_be_called_as_a_dimension_or_as_an_output():
    space = Space((Parameter("draw", Uniform(0, 1)), Parameter("count", Uniform(0, 1), unit="s")))
    found = inference_data(space, torch.zeros(4, 5, 2), outputs=OUTPUTS, data=torch.ones(4))
    assert set(found["posterior"].data_vars) == {"draw_", "count"}
    assert found["posterior"]["count"].attrs["units"] == "s"
    assert found["observed_data"]["count"].attrs["units"] == ""


def test_a_wrong_shape_is_told():
    with pytest.raises(InputError, match=r"theta must have shape \[chains, draws, 2\]. Got \(5, 2\)"):
        inference_data(SPACE, torch.zeros(5, 2))


@pytest.mark.filterwarnings("error")
def test_many_chains_of_few_draws_are_no_mistake():
    made = inference_data(SPACE, torch.full((32, 10, 2), 0.5, dtype=torch.float64), derived=read({"c": "a * b"}, SPACE))
    assert made.posterior["c"].shape == (32, 10)
