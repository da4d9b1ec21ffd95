"""Answers of the infer stage beside the draws: derived parameters, the file for arviz, the prediction of the data."""

import csv
import re

import numpy as np
import pytest
import xarray

from emulate.errors import InputError
from pipelines import files
from pipelines.config import load_study
from pipelines.report import render
from tests.commands import LINE
from tests.commands import printed as emulate

STUDY = (
    LINE
    + """\
  draws: 200
  chains: 8
  derived:
    total: {expression: a + b, label: t, unit: K}
    double: 2 * total
  profile: [a, total]
check: {importance_runs: 16, recovery: 5}
tracking: {uri: "off"}
"""
)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("answers")
    (folder / "study.yaml").write_text(STUDY)
    for stage in ("design", "simulate", "train", "validate"):
        assert emulate(folder, stage, "study.yaml", "--quiet")[0] in (0, 1)  # what checks say is not asked here
    code, said = emulate(folder, "infer", "study.yaml")
    assert code == 0, said
    (folder / "said").write_text(said)
    return folder / "runs" / "line"


def closed_form():
    """Mean and covariance of (a, b), and of y, under standard normal priors (Bishop 2006, sec. 3.3)."""
    a = np.cos(np.outer(np.arange(1, 5), np.arange(1, 3)))
    covariance = np.linalg.inv(a.T @ a / 0.04 + np.eye(2))
    mean = covariance @ a.T @ (a @ np.array([0.5, -0.5])) / 0.04
    return mean, covariance, a @ mean, a @ covariance @ a.T


def test_a_derived_parameter_is_inferred_as_the_others(study):
    mean, covariance, *_ = closed_form()
    told = files.read_json(study / "infer" / "summary.json")["derived"]
    sd = np.sqrt(covariance.sum())
    z = (told["total"]["mean"] - mean.sum()) / (sd / np.sqrt(told["total"]["ess"]))
    assert abs(z) < 4
    assert told["total"]["map"] == pytest.approx(mean.sum(), abs=1e-6)
    assert told["total"]["truth"] == pytest.approx(0.0, abs=1e-12)
    assert told["double"]["sd"] == pytest.approx(2 * told["total"]["sd"], rel=1e-9)
    said = (study.parents[1] / "said").read_text()
    assert "total" in said
    assert "double" in said
    page = render(study)
    assert re.search(r"total</span></td><td>K</td>", page)
    assert re.search(r"<td>double</td>", page)


def test_the_file_for_arviz_holds_the_study(study):
    found = xarray.open_datatree(study / "infer" / "posterior.nc")
    draws = files.read_tensors(study / "infer" / "draws.safetensors")
    np.testing.assert_array_equal(found["posterior"]["a"], draws["theta"][..., 0])
    np.testing.assert_allclose(found["posterior"]["total"], draws["theta"].sum(-1), rtol=1e-12, atol=1e-12)
    assert found["posterior"]["total"].attrs["units"] == "K"
    y = draws["theta"].numpy() @ np.cos(np.outer(np.arange(1, 5), np.arange(1, 3))).T
    data = np.stack([found["observed_data"][f"y{i}"] for i in range(4)])
    likelihood = -0.5 * ((data - y) / 0.2) ** 2 - np.log(0.2 * np.sqrt(2 * np.pi))
    np.testing.assert_allclose(found["log_likelihood"]["observation"], likelihood.sum(-1), atol=1e-8)
    assert found.attrs["emulator"] == "quadratic"
    assert found.attrs["study"] == "line"


def test_the_prediction_is_the_posterior_s_in_data_space(study):
    _, _, y, spread = closed_form()
    with open(study / "infer" / "prediction.csv") as f:
        rows = list(csv.DictReader(f))
    assert [r["output"] for r in rows] == ["y0", "y1", "y2", "y3"]
    sd, n = np.sqrt(np.diag(spread)), 400
    column = lambda key: np.array([float(r[key]) for r in rows])  # noqa: E731
    z = (column("median") - y) / (1.25 * sd / np.sqrt(n))  # a median's error is 1.25 that of a mean
    assert np.abs(z).max() < 4
    assert np.abs((column("p84") - column("p16")) / (2 * sd * 0.9945) - 1).max() < 0.2
    pull = (column("observation") - column("median")) / np.hypot(0.2, sd)
    assert column("pull") == pytest.approx(pull, abs=0.05)
    predictive = xarray.open_datatree(study / "infer" / "posterior.nc")["posterior_predictive"]
    noisy = np.stack([predictive[f"y{i}"].values.ravel() for i in range(4)], -1)
    assert np.abs(noisy.std(0) / np.hypot(0.2, sd) - 1).max() < 4 / np.sqrt(2 * n)


def test_profiles_that_were_asked_for_are_those_without_the_prior(study):
    a = np.cos(np.outer(np.arange(1, 5), np.arange(1, 3)))
    covariance = np.linalg.inv(a.T @ a / 0.04)
    told = files.read_json(study / "infer" / "profile.json")
    assert set(told) == {"a", "total"}
    for name, best, sd in (("a", 0.5, np.sqrt(covariance[0, 0])), ("total", 0.0, np.sqrt(covariance.sum()))):
        interval = told[name]["intervals"][1]
        assert told[name]["best"] == pytest.approx(best, abs=1e-4)
        assert [interval["low"], interval["high"]] == pytest.approx(
            [best - 1.95996 * sd, best + 1.95996 * sd], abs=1e-4
        )
    assert (study / "infer" / "profile.png").stat().st_size > 10_000
    assert "95% confidence" in (study.parents[1] / "said").read_text()
    assert "Profile likelihoods, in which the prior has no part" in render(study)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("infer.derived={c: a + d}", r"infer\.derived\.c: 'a \+ d' must be made of a, b, pi\. Got d"),
        ("infer.derived={a: b}", r"infer\.derived\.a: .* a parameter of the space"),
        ("infer.derived={c: {text: b}}", r"infer\.derived\.c: must be an expression, or one with its words"),
        ("infer.derived={c: {expression: b, units: K}}", r'infer\.derived\.c\.units: this key is not known.*"unit"'),
        ("infer.derived={c: 3.5}", r"infer\.derived\.c: must be an expression"),
        ("infer.derived={c: log(-1 - a**2)}", r"infer\.derived\.c: .* must be a number somewhere in the prior"),
        ("infer.derived=c", r"infer\.derived: must be names with expressions"),
        ("infer.profile=[a, totl]", r'infer\.profile: must name parameters.*"total"'),
        ("infer.method=npe", r"infer\.profile: must be left out with infer\.method npe"),
        ("infer.profile=3", r"infer\.profile: must be true, or a list of parameters"),
    ],
)
def test_what_a_study_may_not_name_is_told_with_its_key(tmp_path, change, said):
    (tmp_path / "study.yaml").write_text(STUDY)
    with pytest.raises(InputError, match=said):
        load_study(tmp_path / "study.yaml", [change])


def test_a_line_is_told(tmp_path):
    (tmp_path / "study.yaml").write_text(STUDY.replace("2 * total", "2 * totl"))
    with pytest.raises(InputError, match=r'study\.yaml:21: infer\.derived\.double: .*"total"'):
        load_study(tmp_path / "study.yaml")


def test_a_study_without_either_is_as_it_was(tmp_path):
    text = "".join(x for x in STUDY.splitlines(True) if not any(k in x for k in ("derived", "total", "profile")))
    (tmp_path / "study.yaml").write_text(text)
    assert {"derived", "profile"} & set(load_study(tmp_path / "study.yaml").to_dict()["infer"]) == set()
