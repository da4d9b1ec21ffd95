"""What other libraries wrote is read as they would read it: numpy, json, csv, yaml, h5py, scipy, xarray are the judges."""

import csv
import io
import json

import h5py
import numpy as np
import pytest
import xarray
import yaml
from scipy.io import netcdf_file

from emulate.errors import RunFailed
from emulate.simulators.command.decoders import open_content, select

PK = np.random.default_rng(0).normal(size=7) * 10.0 ** np.arange(-3, 4)
K = np.linspace(0.1, 0.7, 7)
LIMIT = 2**20


def read(content, name, kind="auto", skip=0, **place):
    content = content.encode() if isinstance(content, str) else content
    return select(open_content(io.BytesIO(content), name, kind, LIMIT, skip), name, **place)


def table(header="", form="%.17g", sep=" ", **how):
    out = io.StringIO()
    np.savetxt(out, np.stack([K, PK], 1), header=header, fmt=form, delimiter=sep, **how)
    return out.getvalue()


@pytest.mark.parametrize(("content", "name", "place"), [
    (table(), "pk.txt", {"column": 2}),
    (table("k pk"), "pk.dat", {"column": "pk"}),
    (table("k pk", comments=""), "pk", {"column": "pk"}),
    (table("run 3\nk pk"), "pk.out", {"column": "pk"}),
    ("\ufeff" + table("k pk", comments="! "), "pk.txt", {"column": "pk"}),
    (table("k pk").replace("\n", "\r\n"), "pk.txt", {"column": 2}),
    (table().replace("e", "D"), "fortran.txt", {"column": 2}),
    (table("x y z\n3 words", comments=""), "pk.txt", {"column": 2, "skip": 2}),
    (table(sep=","), "pk.csv", {"column": 2}),
    (table("k,pk", sep=",", comments=""), "pk.csv", {"column": "pk"}),
    (table("k;pk", sep=";", comments=""), "pk.csv", {"column": "pk"}),
    (table("k\tpk", sep="\t", comments=""), "pk.tsv", {"column": "pk"}),
    ("# made by x\n\n" + table('"k [h/Mpc]","pk, now"', sep=",", comments=""), "pk.csv", {"column": "pk, now"}),
])  # fmt: skip
def test_tables(content, name, place):
    np.testing.assert_array_equal(read(content, name, **place), PK)


def test_tables_with_words_in_other_columns():
    out = io.StringIO()
    csv.writer(out).writerows([["name", "pk"], *[[f"run, {i}", repr(float(x))] for i, x in enumerate(PK)]])
    np.testing.assert_array_equal(read(out.getvalue(), "x.csv", column="pk"), PK)
    with pytest.raises(RunFailed, match=r"^error: x\.csv must hold numbers\. Row 1 has 'run, 0'\.$"):
        read(out.getvalue(), "x.csv", column="name")


def test_a_line_of_units_and_a_decimal_comma_are_told_from_other_words():
    units = "k,pk\nh/Mpc,Mpc3\n0.1,2.5\n"
    with pytest.raises(RunFailed, match=r"^error: x\.csv must hold numbers\. Row 1 has 'Mpc3'\. If that is a line of units, read "
                                        r"below it: `row: -1` is the last row, and `skip: 2` leaves out names and units, with "
                                        r"`column` a number\.$"):  # fmt: skip
        read(units, "x.csv", column="pk")
    assert read(units, "x.csv", column="pk", row=-1).tolist() == [2.5]
    assert read(units, "x.csv", column=2, skip=2).tolist() == [2.5]
    with pytest.raises(
        RunFailed, match=r"Row 1 has '2,5'\. Its decimal mark is a comma; let the program write points\.$"
    ):
        read("k;pk\n0,1;2,5\n", "x.csv", column="pk")


def test_one_row_one_column_and_single_numbers():
    assert read("1 2 3\n", "x").tolist() == [1, 2, 3]
    assert read("1\n2\n3\n", "x").tolist() == [1, 2, 3]
    assert read("4.5", "x").tolist() == [4.5]
    assert read("a b\n1 2\n", "x", column="b").tolist() == [2]
    assert read(table(), "x", column=1, row=-1).tolist() == [K[-1]]
    assert read(table(), "x", row=2).tolist() == [K[1], PK[1]]


@pytest.mark.parametrize(("tree", "key"), [
    (PK.tolist(), ""),
    ({"pk": PK.tolist()}, "pk"),
    ({"runs": [{"x": 1}, {"a b": {"pk": PK.tolist()}}]}, "runs.1.a b.pk"),
    ({"pk": PK.reshape(7, 1).tolist()}, "pk"),
])  # fmt: skip
def test_trees(tree, key):
    np.testing.assert_array_equal(read(json.dumps(tree), "x.json", key=key), PK)
    np.testing.assert_array_equal(read(yaml.safe_dump(tree), "x.yaml", key=key), PK)


def test_a_wrong_key_is_told_with_what_is_there():
    with pytest.raises(
        RunFailed, match=r'^badshape: x\.json must hold s\.pks\. There is keys pk\. Did you mean "pk"\?$'
    ):
        read('{"s": {"pk": 1}}', "x.json", key="s.pks")
    with pytest.raises(
        RunFailed, match=r"^badshape: x\.json, s must be numbers\. It has keys pk; name one by `key`\.$"
    ):
        read('{"s": {"pk": 1}}', "x.json", key="s")
    with pytest.raises(RunFailed, match=r"^badshape: x\.json must hold 3\. There is a list of 2\.$"):
        read("[1, 2]", "x.json", key="3")


@pytest.mark.parametrize("dtype", ["<f8", ">f8", "<f4", "<i4", ">i2", "u1", "?"])
@pytest.mark.parametrize("shape", [(7,), (7, 1), (1, 7), ()])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_and_npz(dtype, shape, order):
    a = np.array(np.abs(PK[: max(1, int(np.prod(shape)))]).reshape(shape) % 100, dtype=dtype, order=order)
    npy, npz = io.BytesIO(), io.BytesIO()
    np.save(npy, a)
    np.savez_compressed(npz, pk=a, other=np.zeros(3))
    expected = a.astype(np.float64).ravel()
    np.testing.assert_array_equal(read(npy.getvalue(), "x.npy"), expected)
    np.testing.assert_array_equal(read(npz.getvalue(), "x.npz", key="pk"), expected)


def test_columns_and_rows_of_arrays():
    out = io.BytesIO()
    np.save(out, np.stack([K, PK], 1))
    np.testing.assert_array_equal(read(out.getvalue(), "x.npy", column=2), PK)
    np.testing.assert_array_equal(read(out.getvalue(), "x.npy", row=-1), [K[-1], PK[-1]])
    with pytest.raises(RunFailed, match=r"^badshape: x\.npy must have a column 3\. Its shape is \(7, 2\)"):
        read(out.getvalue(), "x.npy", column=3)


@pytest.mark.parametrize(
    "how", [{}, {"compression": "gzip", "chunks": (3,)}, {"dtype": ">f4"}, {"maxshape": (None,), "shuffle": True}]
)
def test_hdf5(tmp_path, how):
    with h5py.File(tmp_path / "x.h5", "w") as f:
        f.create_dataset("a/b/pk", data=PK, **how)
        f["soft"] = h5py.SoftLink("/a/b/pk")
        f["a/relative"] = h5py.SoftLink("b/pk")
        expected = f["a/b/pk"][()].astype(np.float64)
    content = (tmp_path / "x.h5").read_bytes()
    for key in ("a/b/pk", "/a/b/pk", "soft", "a/relative"):
        np.testing.assert_array_equal(read(content, "x.h5", key=key), expected)
    with pytest.raises(RunFailed, match=r'^badshape: x\.h5 must hold \'a/b/pks\'\. There is pk\. Did you mean "pk"\?$'):
        read(content, "x.h5", key="a/b/pks")


@pytest.mark.parametrize("engine", ["h5netcdf", "scipy"])
def test_netcdf_as_xarray_reads_it(tmp_path, engine):
    data = xarray.Dataset({"pk": ("k", PK), "packed": ("k", K), "n": ((), np.int32(5))}, {"k": K})
    packing = {"packed": {"dtype": "i2", "scale_factor": 1e-3, "add_offset": 0.05, "_FillValue": -99}}
    data.to_netcdf(tmp_path / "x.nc", engine=engine, encoding=packing)
    content = (tmp_path / "x.nc").read_bytes()
    with xarray.open_dataset(tmp_path / "x.nc", engine=engine) as judge:
        for key in ("pk", "packed", "k", "n"):
            np.testing.assert_allclose(read(content, "x.nc", key=key), np.ravel(judge[key].to_numpy()), rtol=1e-15)


def test_what_a_netcdf_file_calls_missing_is_not_a_number(tmp_path):
    with netcdf_file(tmp_path / "x.nc", "w") as f:
        f.createDimension("k", 3)
        v = f.createVariable("pk", "f8", ("k",))
        v[:] = [1.0, 2.0**66, 3.0]
        v.missing_value = 2.0**66
    np.testing.assert_array_equal(read((tmp_path / "x.nc").read_bytes(), "x.nc", key="pk"), [1.0, np.nan, 3.0])


def test_the_format_may_be_named_where_the_ending_says_nothing():
    np.testing.assert_array_equal(read(json.dumps(PK.tolist()), "x.dat", kind="json"), PK)
    np.testing.assert_array_equal(read(table(sep=","), "x.out", kind="csv", column=2), PK)


@pytest.mark.parametrize("name", ["x.npy", "x.npz", "x.h5", "x.nc", "x.json", "x.yaml", "x.csv", "x.txt"])
def test_an_empty_file_is_a_failed_run(name):
    with pytest.raises(RunFailed, match=f"^(error|badshape): {name} "):
        read(b"", name)
