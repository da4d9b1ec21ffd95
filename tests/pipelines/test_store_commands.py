"""`emulate store`: what the commands print, their exit codes, and files that are read by xarray and pandas alone."""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas
import pytest
import xarray

from emulate.contracts import Simulator
from emulate.errors import InputError, RunFailed
from emulate.export import groups
from emulate.keys import identity, key_of, record_of
from emulate.runs import Field, Outputs
from emulate.simulators.linear_gaussian import LinearGaussian
from emulate.space import Normal, Parameter, Space, Uniform
from emulate.store import RunStore
from emulate.units import describe
from pipelines import writing
from pipelines.writing import write
from tests import commands

STUDY = """
name: line
seed: 5
simulator: {use: linear_gaussian, outputs_count: 4}
design: {use: sobol, runs: 8, held_out: 4}
cluster: {use: serial}
emulators: {quadratic: {use: polynomial}}
infer: {likelihood: {use: gaussian, absolute_error: 0.2}, observation: {parameters: {a: 0.5, b: -0.5}}}
tracking: {uri: "off"}
"""


class Spectrum(LinearGaussian):
    @property
    def outputs(self):
        return Outputs((Field("pk", "(Mpc/h)^3", True, "k", (0.1, 0.2, 0.5), "h/Mpc"), Field("time", "Gyr")))


SPACE = Space((Parameter("mass", Normal(0.0, 1.0), "GeV"), Parameter("seed", Normal(0.0, 1.0))))
SIMULATOR = Spectrum(space=SPACE, outputs_count=4, noise=0.1)
THETA = np.array([[0.5, -0.0], [0.1, 1e-300], [2.0, 1 / 3]])
SEEDS = [2**63 - 1, 2**53 + 1, 0]
Y = np.array([[1.0, 2.0, 3.0, 13.8], [np.pi, 1e-300, 1e300, -0.0]])


@pytest.fixture
def store(tmp_path):
    """Two finished runs and a failed one of a simulator with units, whose names are those of other columns."""
    store, who = RunStore(tmp_path / "store"), identity(SIMULATOR)
    describe(store, SIMULATOR)
    about = {"seconds": 1.5, "host": "nöde", "memory_mib": 3.5, "time": "2026-11-25T00:00:00+00:00"}
    for t, s, y in zip(THETA[:2], SEEDS, Y, strict=False):
        store.commit(record_of(who, t, s), y=y, about=about)
    store.commit(record_of(who, THETA[2], SEEDS[2]), failure=RunFailed("timeout", 'slow, "very"\n#'), about=about)
    return store


def emulate(*words, folder=None) -> tuple[int, str]:
    return commands.emulate(folder or Path(), "store", *map(str, words))


def order(keys):
    """Rows of a table in the order of THETA."""
    mine = [key_of(record_of(identity(SIMULATOR), t, s)) for t, s in zip(THETA, SEEDS, strict=True)]
    return [list(keys).index(k) for k in mine]


def test_netcdf_is_read_by_xarray_alone(store, tmp_path):
    code, said = emulate("export", store.path, tmp_path / "runs.nc")
    assert code == 0, said
    with xarray.open_dataset(tmp_path / "runs.nc") as opened:
        d = opened.load()
    d = d.isel(run=order(d["key"].values))
    assert d["mass"].values.tolist() == THETA[:, 0].tolist()
    assert d["mass"].units == "GeV"
    assert d["pk"].dims == ("run", "pk_k")
    assert d["pk"].units == "(Mpc/h)^3"
    assert (d["pk_k"].values.tolist(), d["pk_k"].units) == ([0.1, 0.2, 0.5], "h/Mpc")
    assert d["pk"].values[:2].tobytes() == Y[:, :3].tobytes()
    assert np.isnan(d["pk"].values[2]).all()
    assert d["time"].units == "Gyr"
    assert [int(s) for s in d["run_seed"].values] == SEEDS
    assert d["seed"].values.tolist() == THETA[:, 1].tolist()
    assert d["ok"].values.tolist() == [1, 1, 0]
    assert d["reason"].values.tolist() == ["", "", 'slow, "very"\n#']
    assert d["kind"].values.tolist() == ["", "", "timeout"]
    assert d["host"].values.tolist() == ["nöde"] * 3
    assert (d["seconds"].values.tolist(), d["seconds"].units) == ([1.5] * 3, "s")
    assert (d.attrs["simulator"], d.attrs["version"]) == (SIMULATOR.entry_name(), "1")
    assert json.loads(d.attrs["settings"]) == {"noise": 0.1, "outputs_count": 4}
    assert d.attrs["made_with"].startswith("emulate ")


def test_parquet_is_read_by_pandas_alone(store, tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="the extra that writes Parquet")
    code, said = emulate("export", store.path, tmp_path / "runs.parquet")
    assert code == 0, said
    f = pandas.read_parquet(tmp_path / "runs.parquet")
    f = f.iloc[order(f["key"])]
    assert f["run_seed"].tolist() == SEEDS
    assert f["pk[k=0.2]"].tolist()[:2] == Y[:, 1].tolist()
    assert f["ok"].tolist() == [True, True, False]
    assert f["reason"].tolist() == ["", "", 'slow, "very"\n#']
    assert f["simulator"].tolist() == [SIMULATOR.entry_name()] * 3
    assert f.attrs["units"]["mass"] == "GeV"
    column = pyarrow.parquet.read_schema(tmp_path / "runs.parquet").field("pk[k=0.1]")
    assert column.metadata[b"units"] == b"(Mpc/h)^3"


@pytest.mark.filterwarnings("ignore:.*float_precision")  # the default of older pandas rounds
def test_csv_is_read_by_pandas_alone_bit_for_bit(store, tmp_path):
    code, said = emulate("export", store.path, tmp_path / "runs.csv")
    assert code == 0, said
    f = pandas.read_csv(tmp_path / "runs.csv", float_precision="round_trip", keep_default_na=False)
    f = f.iloc[order(f["key"])]
    assert f["run_seed"].tolist() == SEEDS
    assert f["mass [GeV]"].tolist() == THETA[:, 0].tolist()
    assert f["pk[k=0.5] [(Mpc/h)^3]"].astype(str).tolist() == ["3.0", "1e+300", ""]
    assert f["seconds [s]"].tolist() == [1.5] * 3
    assert f["reason"].tolist() == ["", "", 'slow, "very"\n#']


def test_jacobians_go_into_netcdf(tmp_path):
    store, s = RunStore(tmp_path / "store"), LinearGaussian(outputs_count=3)
    a = s.matrix.numpy()
    how = {"use": "reverse"}
    store.commit(
        record_of(identity(s), [0.0, 1.0], 0, "tangent", how), y=a @ [0.0, 1.0], jacobian=a, standard_error=0 * a
    )
    store.commit(record_of(identity(s), [2.0, 1.0], 0, "tangent", how), failure=RunFailed("oom", "big"))
    store.commit(record_of(identity(s), [2.0, 1.0], 0), y=a @ [2.0, 1.0])
    code, said = emulate("export", store.path, tmp_path / "x.nc", "--product", "jacobian")
    assert code == 0, said
    assert "does not say the names and units" in said
    with xarray.open_dataset(tmp_path / "x.nc") as d:
        row = int(np.flatnonzero(d["ok"].values)[0])
        assert d["jacobian"].dims == ("run", "output", "parameter")
        assert d["jacobian"].values[row].tolist() == a.tolist()
        assert d["standard_error"].values[row].tolist() == (0 * a).tolist()
        assert np.isnan(d["jacobian"].values[1 - row]).all()
        assert d["parameter"].values.tolist() == ["a", "b"]
    table = groups(store, product="jacobian")[0].to_runs(s.space)
    assert table.ok.sum() == 1
    assert table.jacobian[table.ok][0].tolist() == a.tolist()
    assert (table.jacobian_error[table.ok] == 0).all()


@pytest.fixture
def kinds(tmp_path):
    """Runs of two settings of one simulator, their outputs of unlike length, and the Jacobian of one."""
    store, fine, coarse = RunStore(tmp_path / "kinds"), Spectra(bins=3), Spectra(bins=2)
    about = {"seconds": 1.5, "host": "nöde", "memory_mib": 3.5, "time": "2026-11-25T00:00:00+00:00"}
    for s in (fine, coarse):
        describe(store, s)
        for x in (0.25, 0.5):
            y = x * np.arange(1.0, s.bins + 1)
            store.commit(record_of(identity(s), [x], 0), y=y, about={**about, "seconds": s.bins / 2})
    a = np.arange(1.0, 4)[:, None]
    store.commit(record_of(identity(fine), [0.25], 0, "tangent", {"use": "reverse"}), y=a[:, 0] / 4, jacobian=a,
                 standard_error=0 * a, about=about)  # fmt: skip
    return store


ONE = Space((Parameter("x", Uniform(0.0, 1.0), "GeV"),))


@dataclass(frozen=True, kw_only=True)
class Spectra(Simulator):
    space: Space = ONE
    bins: int = 3
    version = "7"
    stochastic = False

    @property
    def outputs(self):
        return Outputs((Field("pk", "(Mpc/h)^3", True, "k", tuple(0.1 * (i + 1) for i in range(self.bins)), "h/Mpc"),))

    def run(self, theta, *, seed): ...


WORDS = {"fine": identity(Spectra(bins=3)), "coarse": identity(Spectra(bins=2))}


def test_several_kinds_of_runs_are_groups_of_one_file(kinds, tmp_path):
    code, said = emulate("export", kinds.path, tmp_path / "x.nc")
    assert code == 0, said
    names = [g.name for g in groups(kinds)]
    assert len({n.rpartition("_")[2] for n in names[:2]}) == 2  # six digits tell them apart
    assert names[2] == "Spectra_jacobian"
    assert f"x.nc, group {names[0]}: {Spectra.entry_name()} version 7: 2 runs of y, 0 failed." in said
    with pytest.raises(InputError, match=r"^the space must have the parameters x, in this order\. Got mass, seed\.$"):
        groups(kinds)[0].to_runs(SPACE)
    tree = xarray.open_datatree(tmp_path / "x.nc", engine="h5netcdf")
    assert set(tree.children) == set(names)
    assert tree.attrs["groups"].count(" version 7: ") == 3
    sizes = {}
    for name in names[:2]:
        d = tree[name].to_dataset()
        bins = json.loads(d.attrs["settings"])["bins"]
        sizes[bins] = d.sizes["pk_k"]
        assert (d.attrs["version"], d["pk"].units, d["pk_k"].units, d["x"].units) == ("7", "(Mpc/h)^3", "h/Mpc", "GeV")
        assert d["seconds"].values.tolist() == [bins / 2] * 2
        d = d.sortby("x")
        assert d["pk"].values.tolist() == [[x * (i + 1) for i in range(bins)] for x in (0.25, 0.5)]
    assert sizes == {3: 3, 2: 2}
    assert tree["Spectra_jacobian"]["jacobian"].values.ravel().tolist() == [1.0, 2.0, 3.0]
    tree.close()


def test_a_file_of_groups_is_read_without_this_project_and_without_xarray(kinds, tmp_path):
    """In a process of its own, where importing `emulate` would fail, by h5py alone."""
    write(tmp_path / "x.nc", groups(kinds, fidelities=WORDS))
    code = (
        "import sys; sys.modules['emulate'] = sys.modules['xarray'] = None\n"
        "import h5py, json\n"
        "f = h5py.File(sys.argv[1])\n"
        "g = f['coarse']\n"
        "print(json.dumps({'groups': sorted(f), 'settings': json.loads(g.attrs['settings']), 'units': g['pk'].attrs['units'],"
        " 'k': g['pk_k'][:].tolist(), 'y': sorted(g['pk'][:].tolist()), 'host': [h.decode() for h in g['host'][:]],"
        " 'seed': [s.decode() for s in g['seed'][:]], 'fidelity': g.attrs['fidelity'], 'seconds': g['seconds'][:].tolist(),"
        " 'along': [d[0].name for d in g['pk'].dims]}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "x.nc")], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == {
        "groups": ["coarse", "fine", "fine_jacobian"], "settings": {"bins": 2}, "units": "(Mpc/h)^3", "k": [0.1, 0.2],
        "y": [[0.25, 0.5], [0.5, 1.0]], "host": ["nöde"] * 2, "seed": ["0", "0"], "fidelity": "coarse",
        "seconds": [1.0, 1.0], "along": ["/coarse/run", "/coarse/pk_k"]}  # fmt: skip


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_several_kinds_of_runs_are_tables_of_their_own(kinds, tmp_path, ending):
    read = {"parquet": pandas.read_parquet, "csv": pandas.read_csv}[ending]
    written = write(tmp_path / f"x.{ending}", groups(kinds, fidelities=WORDS))
    assert {n: p.name for n, p in written.items()} == {
        "fine": f"x_fine.{ending}", "coarse": f"x_coarse.{ending}", "fine_jacobian": f"x_fine_jacobian.{ending}"}  # fmt: skip
    assert not (tmp_path / f"x.{ending}").exists()
    whole = pandas.concat([read(written["fine"]), read(written["coarse"])])
    assert whole["fidelity"].tolist() == ["fine"] * 2 + ["coarse"] * 2
    assert set(whole["version"].astype(str)) == {"7"}


def test_a_group_is_chosen_by_its_name_or_number(kinds, tmp_path):
    name = groups(kinds)[1].name
    for which in (name, 2):
        code, said = emulate("export", kinds.path, tmp_path / "one.csv", "--group", which)
        assert (code, said) == (0, f"{tmp_path / 'one.csv'}: {Spectra.entry_name()} version 7: 2 runs of y, 0 failed.")
    code, said = emulate("export", kinds.path, tmp_path / "one.csv", "--group", name[:-1])
    assert code == 2
    assert f"--group must name one kind of runs: {groups(kinds)[0].name}, {name}, Spectra_jacobian. Got " in said
    assert f'Did you mean "{name}"?' in said


def test_groups_in_one_file_need_netcdf_4(kinds, tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "find_spec", lambda name: None if name == "h5netcdf" else name)
    code, said = emulate("export", kinds.path, tmp_path / "x.nc")
    assert code == 2
    assert (
        "several kinds of runs stand in groups of one file, and NetCDF 3 has no groups. Got 3 kinds; install the "
        in said
    )
    assert "pip install h5netcdf; or choose one by --group NAME; or export to .parquet, one file each: " in said
    assert "Spectra_jacobian: " in said
    assert not (tmp_path / "x.nc").exists()
    assert emulate("export", kinds.path, tmp_path / "x.nc", "--product", "jacobian")[0] == 0


def test_a_name_from_a_store_leads_nowhere(tmp_path):
    """A store may come from a stranger, and its simulators are named as he likes."""
    store, x = RunStore(tmp_path / "store"), {"version": "1", "settings": {}, "parameters": ["a"], "stochastic": False}
    for name in ("../../evil", "a:/root", "Flow", "flow", "::", "", "x" * 300, "na\u0000me"):
        store.commit(record_of({"simulator": name, **x}, [0.5], 0), y=np.ones(1))
    names = [g.name for g in groups(store)]
    assert len({n.lower() for n in names}) == len(names) == 8
    assert all(re.fullmatch(r"\w{1,70}", n, re.ASCII) for n in names)
    written = write(tmp_path / "out" / "x.csv", groups(store))
    assert {p.parent for p in written.values()} == {tmp_path / "out"}
    write(tmp_path / "x.nc", groups(store))
    tree = xarray.open_datatree(tmp_path / "x.nc", engine="h5netcdf")
    assert len(tree.children) == 8
    tree.close()


@pytest.mark.parametrize("out", ["runs.nc", "runs.csv", "runs.parquet"])
def test_an_export_is_whole_or_absent(store, tmp_path, out, monkeypatch):
    def full(*args):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    code, said = emulate("export", store.path, tmp_path / out)
    assert code == 2
    assert f"{out} cannot be written: the disk is full" in said
    assert sorted(p.name for p in tmp_path.iterdir()) == ["store"]


def test_what_an_export_needs_is_said(store, tmp_path, monkeypatch):
    code, said = emulate("export", store.path, tmp_path / "runs.xlsx")
    assert code == 2
    assert "OUT must end in .nc, .parquet, .csv. Got 'runs.xlsx'; the ending chooses the format." in said
    code, said = emulate("export", store.path, tmp_path / "runs.csv", "--simulator", "nbody")
    assert code == 2
    assert "must hold runs to export. Got none with simulator 'nbody' of 3." in said
    monkeypatch.setattr(writing, "LARGEST", 23)
    monkeypatch.setattr(writing, "find_spec", lambda name: None if name == "h5netcdf" else name)
    code, said = emulate("export", store.path, tmp_path / "runs.nc")
    assert code == 2
    assert "a variable of NetCDF 3 must have at most 23 bytes. Got 24 in mass; install the package that writes" in said
    monkeypatch.setattr(writing, "find_spec", lambda name: None)
    code, said = emulate("export", store.path, tmp_path / "runs.parquet")
    assert code == 2
    assert "a .parquet file needs the package pyarrow, which is not installed. Install it: pip install pyarrow" in said
    code, said = emulate("export", tmp_path, tmp_path / "runs.csv")
    assert code == 0  # the folder that holds a store
    code, said = emulate("export", tmp_path / "absent", tmp_path / "runs.csv")
    assert code == 2
    assert "must be a run store, the results' folder of a study, or a study's YAML. Got no store.json there" in said


def test_runs_of_two_shapes_are_refused(tmp_path):
    store, s = RunStore(tmp_path / "store"), LinearGaussian()
    store.commit(record_of(identity(s), [0.0, 0.0], 0), y=np.zeros(3))
    store.commit(record_of(identity(s), [1.0, 0.0], 0), y=np.zeros(4))
    with pytest.raises(
        Exception, match=r"runs of one simulator must have one shape\. Got \[\(3,\), \(4,\)\] from linear"
    ):
        groups(store)[0].to_pandas()


def test_a_store_of_failures_alone_is_exported(tmp_path):
    store, s = RunStore(tmp_path / "store"), LinearGaussian()
    store.commit(record_of(identity(s), [0.0, 0.0], 0), failure=RunFailed("oom", "big"))
    for out in ("x.nc", "x.csv", "x.parquet"):
        assert emulate("export", store.path, tmp_path / out)[0] == 0
    assert pandas.read_csv(tmp_path / "x.csv")["kind"].tolist() == ["oom"]


def test_a_flipped_byte_is_named_and_the_run_is_moved_aside(store):
    code, said = emulate("verify", store.path)
    assert (code, said) == (0, f"3 runs in {store.path}: 0 damaged.")
    k = store.keys()[1]
    file = store.folder(k) / "about.json"
    file.write_bytes(file.read_bytes().replace(b"1.5", b"1.6"))
    code, said = emulate("verify", store.path)
    assert code == 1
    assert f"run {k}: {file} must be as it was written. Got other bytes" in said
    code, said = emulate("verify", store.path, "--quarantine")
    assert code == 1
    assert f"2 runs in {store.path}: 1 damaged, moved to {store.path / 'damaged'}; the next campaign makes them" in said
    assert emulate("verify", store.path)[0] == 0
    assert k not in store.keys()  # noqa: SIM118


def test_merge_says_what_it_took(store, tmp_path):
    code, said = emulate("merge", tmp_path / "new", store.path)
    assert (code, said) == (0, f"{store.path}: 3 runs copied, 0 there already, 0 in conflict, 0 refused.")
    (store.path / "runs" / "xy").symlink_to(tmp_path)
    code, said = emulate("merge", tmp_path / "new", store.path)
    assert code == 1
    assert "Got a symbolic link named 'xy'; remove it there." in said
    assert "0 runs copied, 3 there already, 0 in conflict, 1 refused." in said
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("")
    for bad in ("notes", "notes/a.txt"):
        code, said = emulate("merge", tmp_path / bad, store.path)
        assert code == 2
        assert "must be a run store" in said


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    (folder / "study.yaml").write_text(STUDY)
    before = Path.cwd()
    os.chdir(folder)
    try:
        for stage in ("design", "simulate"):
            assert commands.emulate(Path(), stage, "study.yaml")[0] == 0
    finally:
        os.chdir(before)
    return folder


def test_a_study_is_exported_with_its_units(study):
    code, said = emulate("export", "study.yaml", "runs.nc", folder=study)
    assert code == 0, said
    assert "12 runs of y, 0 failed" in said
    assert "Warning" not in said
    with xarray.open_dataset(study / "runs.nc") as d:
        assert d.sizes["run"] == 12
        assert set(map(str, d["host"].values)) != {""}


def test_prune_shows_first_and_never_removes_a_run_that_is_asked_for(study):
    store = RunStore(study / "runs" / "line" / "store")
    asked = store.keys()
    assert len(asked) == 12
    s, other = LinearGaussian(outputs_count=4), LinearGaussian(outputs_count=5)
    unused = [record_of(identity(s), [9.0, 9.0], 0), record_of(identity(other), [0.5, -0.5], 0)]
    for raw in (*unused, record_of(identity(s), [0.5, -0.5], 0)):  # the last is the observation
        store.commit(raw, y=np.zeros(4))
    assert emulate("prune", "study.yaml", folder=study) == (0, f"There is nothing to remove in {store.path}.")
    code, said = emulate("prune", "study.yaml", "--unused", "study.yaml", folder=study)
    assert code == 0
    assert "runs that the study does not ask for" in said
    assert "Nothing was removed; add --yes to remove these." in said
    assert len(store.keys()) == 15
    code, said = emulate("prune", "study.yaml", "--unused", "study.yaml", "--yes", folder=study)
    assert (code, said.endswith("2 folders removed.")) == (0, True)
    assert set(store.keys()) == {*asked, key_of(record_of(identity(s), [0.5, -0.5], 0))}


def test_prune_takes_what_no_campaign_needs(store):
    (bad,) = [k for k in store.keys() if store.failed(k)]  # noqa: SIM118
    store.forget(bad)
    code, said = emulate("prune", store.path, "--yes")
    assert code == 0
    assert "failures that were run again" in said
    assert said.endswith("1 folder removed.")
    assert not list((store.path / "forgotten").iterdir())
    assert len(store.keys()) == 2


def test_a_name_that_no_column_may_have():
    with pytest.raises(InputError, match="must be letters"):
        Parameter("a/b", Normal(0.0, 1.0))


def test_what_is_no_text_is_exported_all_the_same(tmp_path):
    store, s = RunStore(tmp_path / "store"), LinearGaussian()
    garbage = "a\0b\udcff \x1b[2J \U0001f4a5"
    store.commit(record_of(identity(s), [0.0, 0.0], 0), failure=RunFailed("error", garbage), about={"host": garbage})
    for ending in ("nc", "csv", "parquet"):
        code, said = emulate("export", store.path, tmp_path / f"x.{ending}")
        assert code == 0, said
    with xarray.open_dataset(tmp_path / "x.nc", engine="h5netcdf") as d:
        assert d["reason"].values.tolist() == d["host"].values.tolist() == ["a\ufffdb? \x1b[2J \U0001f4a5"]


def test_parameters_that_are_called_like_an_axis(tmp_path):
    store = RunStore(tmp_path / "store")
    names = ("run", "output", "parameter", "jacobian", "pk_k_h", "ok")
    space = Space(tuple(Parameter(n, Normal(0.0, 1.0)) for n in names))

    class Named(LinearGaussian):
        @property
        def outputs(self):
            return Outputs((Field("pk", "", True, "k/h", (0.1, 0.2)), Field("time")))

    s = Named(space=space)
    describe(store, s)
    slope = np.arange(18.0).reshape(3, 6)
    how = {"use": "reverse"}
    store.commit(record_of(identity(s), [1.0, 2, 3, 4, 5, 6], 0, "tangent", how), y=np.ones(3), jacobian=slope,
                 standard_error=0 * slope)  # fmt: skip
    code, said = emulate("export", store.path, tmp_path / "x.nc")
    assert code == 0, said
    with xarray.open_dataset(tmp_path / "x.nc", engine="h5netcdf") as d:
        assert [float(d[n].values[0]) for n in names] == [1, 2, 3, 4, 5, 6]
        assert d["dy_jacobian"].values[0].tolist() == slope.tolist()
        assert d["pk"].dims == ("run", "pk_k_h_axis")
