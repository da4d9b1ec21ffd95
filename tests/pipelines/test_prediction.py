"""`emulate predict` on tables and grids: what is kept, what is refused and in which words; judged by the function itself."""

import json
import re
from pathlib import Path

import numpy as np
import pandas
import pytest
import xarray
from typer.testing import CliRunner

import emulate
from emulate.emulators.polynomial import Polynomial
from emulate.runs import Field, Outputs, Runs
from emulate.space import Parameter, Space, Uniform
from pipelines.cli import app

SPACE = Space((Parameter("a", Uniform(0.0, 1.0), "km/s"), Parameter("b", Uniform(0.0, 1.0))))
OUTPUTS = Outputs((Field("y", "K"), Field("pk", "Mpc3", False, "k", (0.1, 0.2), "h/Mpc")))


def truth(a, b):
    return np.stack([1 + 2 * a - b, a * b, b**2], -1)


@pytest.fixture(scope="module")
def emulator(tmp_path_factory):
    x = np.linspace(0, 1, 9)
    a, b = (g.ravel() for g in np.meshgrid(x, x))
    runs = Runs.of(SPACE, OUTPUTS, np.stack([a, b], 1), truth(a, b))
    return str(emulate.fit(Polynomial(), runs, seed=0).save(tmp_path_factory.mktemp("e") / "e"))


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(*words: str, typed: str | None = None) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["predict", *words], input=typed)
    return result.exit_code, result.stdout, " ".join(result.stderr.split())


def test_a_csv_keeps_its_columns_and_order(emulator, here):
    (here / "p.csv").write_text('run,b,a [km / s],note\nx1,0.5,0.25,"hi, there"\n\nx2,0.75,0.5,\n')
    code, _, _ = said(emulator, "--points", "p.csv", "--out", "o.csv", "--jacobian", "--samples", "2", "--seed", "7")
    assert code == 0
    made = pandas.read_csv("o.csv", keep_default_na=False)
    labels = ["y", "pk[k=0.1]", "pk[k=0.2]"]
    assert list(made)[:10] == ["run", "b", "a [km / s]", "note", *labels, *(f"sd({n})" for n in labels)]
    assert (list(made["run"]), list(made["note"])) == (["x1", "x2"], ["hi, there", ""])
    np.testing.assert_allclose(made[labels], truth(made["a [km / s]"], made["b"]), atol=1e-9)
    np.testing.assert_allclose(made["d(y)/d(a)"], 2, atol=1e-9)
    np.testing.assert_allclose(made["d(pk[k=0.1])/d(b)"], made["a [km / s]"], atol=1e-9)
    assert [n for n in made if n.startswith("draw")] == [f"draw{i}({n})" for i in (1, 2) for n in labels]
    assert (made["draw1(y)"] != made["draw2(y)"]).all()
    np.testing.assert_allclose(made["draw1(y)"], made["y"], atol=1e-6)


FRONT = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("points", "out"), re.findall(r"--points (\S+) --out ([\w.]+)", FRONT))
def test_the_commands_of_the_front_page_work(emulator, here, points, out):
    frame = pandas.DataFrame({"a": [0.5, 0.25], "b": [1.0, 0.0]})
    if points.endswith(".nc"):
        frame.to_xarray().to_netcdf(points, engine="h5netcdf")
    else:
        frame.to_csv(points, index=False)
    code, _, err = said(emulator, "--points", points, "--out", out)
    assert code == 0, err
    made = xarray.load_dataset(out, engine="h5netcdf") if out.endswith(".nc") else pandas.read_csv(out)
    np.testing.assert_allclose(made["y"], truth(frame["a"], frame["b"])[:, 0], atol=1e-9)


def test_the_front_page_has_such_commands():
    assert len(re.findall(r"--points \S+ --out", FRONT)) == 2


def test_standard_input_to_standard_output(emulator, here):
    code, out, _ = said(emulator, "--points", "-", "--set", "b=0.5", typed="a\n0.5\n0.25\n")
    assert code == 0
    header, *rows = out.splitlines()
    assert header.startswith("a,b,y,pk[k=0.1],pk[k=0.2],sd(y)")
    assert [float(r.split(",")[1]) for r in rows] == [0.5, 0.5]
    assert [float(r.split(",")[2]) for r in rows] == pytest.approx([1.5, 1.0])


def test_parquet_keeps_types_and_the_index(emulator, here):
    index = pandas.Index(["u", "v"], name="run")
    frame = pandas.DataFrame({"a": [0.5, 0.25], "n": [3, 4], "b": [1, 0]}, index=index)
    frame.to_parquet("p.parquet")
    assert said(emulator, "--points", "p.parquet", "--out", "o.parquet")[0] == 0
    made = pandas.read_parquet("o.parquet")
    pandas.testing.assert_frame_equal(made[["a", "n", "b"]], frame)
    np.testing.assert_allclose(made["y"], [1.0, 1.5], atol=1e-9)


def test_many_pieces_are_one_table(emulator, here):
    a = np.random.default_rng(0).random(2500)
    pandas.DataFrame({"a": a}).to_csv("p.csv", index=False)
    code, out, _ = said(emulator, "--points", "p.csv", "--set", "b=1", "--out", "o.parquet", "--json")
    assert (code, json.loads(out)["rows"]) == (0, 2500)
    made = pandas.read_parquet("o.parquet")
    np.testing.assert_allclose(made["y"], 2 * a, atol=1e-9)


def test_a_grid_gives_a_grid(emulator, here):
    given = xarray.Dataset(
        {"more": ("a", [7.0, 8.0])}, {"a": ("a", [0.5, 0.25], {"units": "km/s"}), "b": [0.0, 0.5, 1.0]}
    )
    given.to_netcdf("p.nc", engine="h5netcdf")
    code, _, _ = said(emulator, "--points", "p.nc", "--out", "o.nc", "--jacobian", "--samples", "3")
    assert code == 0
    made = xarray.load_dataset("o.nc")
    assert (made.pk.dims, made.y_sd.dims, made.y_draw.dims) == (("a", "b", "pk_k"), ("a", "b"), ("draw", "a", "b"))
    assert (made.pk.attrs["units"], made.pk_k.attrs["units"], made.a.attrs["units"]) == ("Mpc3", "h/Mpc", "km/s")
    np.testing.assert_allclose(made.y, 1 + 2 * given.a - given.b, atol=1e-9)
    np.testing.assert_allclose(made.jacobian.sel(output="y", parameter="b"), -1, atol=1e-9)
    assert made.more.equals(given.more)


@pytest.mark.parametrize(
    ("text", "words", "sentence"),
    [
        ("a,b\n1,0.5\n1,zz\n", (), "p.csv, row 2 (line 3), column b: must be a finite number. Got 'zz'"),
        ("a,b\n\n1,nan\n", (), "p.csv, row 1 (line 3), column b: must be a finite number. Got 'nan'"),
        ("a,b\n1,\n", (), "p.csv, row 1 (line 2), column b: must be a finite number. Got ''"),
        ("a,b\n1,0.5\n1\n", (), "p.csv, line 3: must have 2 values, as the header has. Got 1"),
        (
            "a;b\n1;0,5\n",
            (),
            "p.csv must have commas between its columns. Got 'a;b', which holds ';'; write it with commas, and "
            "points in its numbers.",
        ),
        ("a,B\n1,0.5\n", (), "p.csv must have a column for each of a, b. Missing: b"),
        ("a [m/s],b\n1,0.5\n", (), "p.csv: a must be in km/s. Got the unit 'm/s'"),
        ("a,b,y\n1,0.5,2\n", (), "p.csv must leave the names of the answers free. Got a column 'y'"),
        ("a,b,a\n1,0.5,2\n", (), "p.csv must name every column once. Got 'a' twice"),
        (
            "a,b\n1,0.5\n",
            ("--set", "b=1"),
            "b must be given once. Got the column 'b' of p.csv and --set b; take one out.",
        ),
        ("a,b\n", (), "p.csv must have rows below its header. Got none."),
        ("", (), "p.csv must have a header"),
        ("a,b\n1,0.5\n", ("--out", "o.txt"), "--out must end in .csv or .parquet"),
        ("a,b\n0.5,0.5\n1.5,0.5\n", ("--strict",), "p.csv, row 2 (line 3): theta must lie in the box"),
        ("a,b\n1,0.5\n", ("--device", "cuda"), "this machine has no GPU that torch can use"),
        (
            "a,b\n1,0.5\n",
            ("--device", "tpu9"),
            "device must be cpu, cuda, cuda:N for the N-th GPU, or auto. Got 'tpu9'.",
        ),
    ],
)
def test_a_wrong_file_is_refused_with_its_row(emulator, here, text, words, sentence):
    if "cuda" in words and emulate_has_a_gpu():
        pytest.skip("there is a GPU")
    (here / "p.csv").write_text(text)
    code, _, err = said(emulator, "--points", "p.csv", *words)
    assert code == 2
    assert sentence in err
    assert sorted(p.name for p in here.iterdir()) == ["p.csv"]


def emulate_has_a_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def test_a_wrong_grid_is_refused_with_its_place(emulator, here):
    grid = xarray.Dataset(coords={"a": ("a", [0.5, np.nan]), "b": 0.5})
    grid.to_netcdf("p.nc", engine="h5netcdf")
    code, _, err = said(emulator, "--points", "p.nc", "--out", "o.nc")
    assert (code, "p.nc, a at index a = 1: must be finite" in err) == (2, True)
    grid.assign_coords(a=("a", [0.5, 0.6], {"units": "m/s"})).to_netcdf("q.nc", engine="h5netcdf")
    code, _, err = said(emulator, "--points", "q.nc", "--out", "o.nc")
    assert (code, "q.nc: a must be in km/s. Got the unit 'm/s'" in err) == (2, True)
    code, _, err = said(emulator, "--points", "q.nc", "--out", "o.csv", "--set", "a=0.5")
    assert (code, "points from NetCDF must be answered in NetCDF. Got o.csv; add --out q_predicted.nc." in err) == (
        2,
        True,
    )


def test_points_outside_are_counted_once(emulator, here):
    (here / "p.csv").write_text("a,b\n0.5,0.5\n1.5,0.5\n-1,0.5\n")
    code, _, err = said(emulator, "--points", "p.csv", "--out", "o.csv")
    assert code == 0
    assert ("2 points of 3 lie outside the box that the emulator was trained in, the first at p.csv, row 2 (line 3); the "
            "prediction there is an extrapolation.") in err  # fmt: skip
    assert "extrapolation" not in said(emulator, "--points", "p.csv", "--out", "o.csv", "--outside", "ignore")[2]


def test_one_point_as_json(emulator, here):
    code, out, _ = said(emulator, "--set", "a=0.5", "--set", "b=0.5", "--json")
    assert code == 0
    assert json.loads(out)["mean"][0][0] == pytest.approx(1.5)


def test_describe_prints_what_the_emulator_says_of_itself(emulator, here):
    result = CliRunner().invoke(app, ["describe", emulator])
    assert result.exit_code == 0
    told = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert told == emulate.load(emulator).extra_repr().splitlines()
    assert told[1] == "parameter a in km/s: Uniform(low=0.0, high=1.0)"
