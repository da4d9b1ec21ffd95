"""A table of runs as a simulator: what is in the file comes out, to the last bit, and nothing else does."""

import csv

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emulate import Field, Outputs, Parameter, Runs, Space, Uniform
from emulate.errors import InputError, RunFailed
from emulate.keys import identity
from emulate.simulators.table import Table

SPACE = Space((Parameter("a", Uniform(0, 10), unit="m"), Parameter("b", Uniform(-10, 10))))
HEAD = "b,who,a [m],y [s],z"
ROWS = ["0.1,x,1,2.5,7", "0.2,y,2,,8", "0.3,z,3,4.5,9"]
Y = Outputs((Field("y", "s"),))


def made(folder, rows=ROWS, head=HEAD, **settings):
    path = folder / "runs.csv"
    path.write_text("\n".join([head, *rows]) + "\n")
    return Table(**{"space": SPACE, "file": str(path), "outputs": Y, **settings})


def answer(simulator, *theta):
    return simulator.run(torch.tensor(theta, dtype=torch.float64), seed=0).tolist()


def test_a_row_is_found_by_its_parameters_whatever_the_order_of_columns(tmp_path):
    simulator = made(tmp_path)
    assert simulator.rows().tolist() == [[1.0, 0.1], [2.0, 0.2], [3.0, 0.3]]
    assert answer(simulator, 3.0, 0.3) == [4.5]
    both = made(tmp_path, outputs=Outputs((Field("z"), Field("y"))))
    assert answer(both, 1.0, 0.1) == [7.0, 2.5]


def test_an_empty_output_is_a_failed_run_and_other_parameters_are_told(tmp_path):
    simulator = made(tmp_path)
    with pytest.raises(RunFailed, match=r"an output of this run is empty, or no finite number, in .*runs\.csv") as met:
        answer(simulator, 2.0, 0.2)
    assert (met.value.kind, met.value.log) == ("nonfinite", "line 3")
    with pytest.raises(RunFailed, match="has no run at these parameters, and no other can be made"):
        answer(simulator, 1.0, 0.2)


def test_the_table_of_the_house_is_what_beam_theory_says():
    """A cantilever of steel, 50 mm wide, with a load at its end: sag F L^3 / 3 E I, stress F L / W (Euler and Bernoulli)."""
    space = Space(
        [Parameter(n, Uniform(0, 200), unit=u) for n, u in (("load", "kN"), ("length", "m"), ("height", "mm"))]
    )
    beams = Table(space=space, file="configs/beams.csv", outputs=Outputs((Field("sag", "mm"), Field("stress", "MPa"))))
    rows, failed = beams.rows(), 0
    for load, length, height in rows.tolist():
        try:
            sag, stress = answer(beams, load, length, height)
        except RunFailed:
            failed += 1
            continue
        force, h = 1e3 * load, 1e-3 * height
        inertia = 0.05 * h**3 / 12
        assert sag == pytest.approx(1e3 * force * length**3 / (3 * 210e9 * inertia), rel=1e-7)
        assert stress == pytest.approx(1e-6 * force * length * h / 2 / inertia, rel=1e-7)
    assert (len(rows), failed) == (60, 1)


def test_what_pandas_wrote_of_runs_is_read_again(tmp_path):
    outputs = Outputs((Field("pk", coordinate="k", at=(0.1, 0.25)), Field("n")))
    theta = np.array([[1.0, 0.5], [2.0, -0.5]])
    runs = Runs.of(SPACE, outputs, theta, np.array([[1 / 3, 2.0, 3.0], [4.0, 5.0, 2 / 3]]))
    runs.to_pandas().to_csv(tmp_path / "runs.csv")
    simulator = Table(space=SPACE, file=str(tmp_path / "runs.csv"), outputs=outputs)
    assert [answer(simulator, *t) for t in theta.tolist()] == runs.y.tolist()


@pytest.mark.parametrize(
    "listed", [{"x": ["k1", "k2", "k3"]}, {"x": ["k1:k3"]}, {"x": "k1:k3"}, {"x": ["k1", "k2:k3"]}]
)
def test_columns_of_a_vector_may_have_names_of_their_own(tmp_path, listed):
    head, rows = "a,b,k1,k2 [s],k3,n", ["1,2,10,20,30,4"]
    outputs = [{"name": "x", "size": 3}, {"name": "n"}]
    from emulate import registry

    path = tmp_path / "runs.csv"
    path.write_text("\n".join([head, *rows]))
    spec = {"use": "table", "file": str(path), "outputs": outputs, "columns": listed}
    assert answer(registry.build("simulators", spec, space=SPACE), 1.0, 2.0) == [10.0, 20.0, 30.0, 4.0]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    table=st.dictionaries(st.tuples(st.floats(0, 10), st.floats(-10, 10)), st.floats(allow_nan=False, allow_infinity=False),
                          min_size=1, max_size=12),
    mark=st.sampled_from([",", ";", "\t"]), more=st.text(st.characters(codec="ascii", exclude_categories=["C"]), max_size=8),
)  # fmt: skip
def test_every_float_comes_back_to_the_bit_between_all_marks_and_words(tmp_path, table, mark, more):
    rows = [[repr(a), repr(b), repr(y), f"w{more}"] for (a, b), y in table.items()]
    with open(tmp_path / "t.csv", "w", newline="") as f:
        csv.writer(f, delimiter=mark).writerows([["a", "b", "y", "word"], *rows])
    simulator = Table(space=SPACE, file=str(tmp_path / "t.csv"))
    for (a, b), y in table.items():
        assert answer(simulator, a, b) == [y]


def test_another_content_is_another_simulator_and_another_place_is_not(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
    assert identity(made(one)) == identity(made(other))
    assert identity(made(one)) != identity(made(other, rows=[*ROWS, "0.4,x,4,1,1"]))


@pytest.mark.parametrize(("change", "said"), [
    ({"rows": [*ROWS, "0.1,x,1,9,9"]}, "line 5: must be at other parameters than line 2"),
    ({"rows": [*ROWS, "0.4,x,4,1"]}, "line 5: must have 5 values, as the header has. Got 4"),
    ({"rows": [*ROWS, "0.4,x,,1,1"]}, "line 5, column a: must be a finite number. Got ''"),
    ({"rows": [*ROWS, '0.4,x,4,"1,5",1']}, "Got '1,5'; write a point for the comma of decimals, mend it, or take the row out"),
    ({"columns": {"y": ("a",)}}, "simulator.columns: must be columns of outputs. Got a, which is a parameter"),
    ({"columns": {"y": ("y:zz",)}}, "simulator.columns: y:zz must be from one column to another. Got 'zz'"),
    ({"columns": {"y": ("z:y",)}}, "simulator.columns: z:y must be from left to right. Got 'y' before 'z'"),
    ({"rows": [*ROWS, "0.4,x,4,soon,1"]}, "line 5, column y: must be a finite number (empty is a run that failed). Got 'soon'"),
    ({"head": "b,who,a [km],y [s],z"}, "a must be in m. Got the unit 'km'"),
    ({"head": "b,who,a,y [ms],z"}, "y must be in s. Got the unit 'ms'"),
    ({"head": "b,who,a,a [m],y"}, "must have one column of a. Got 'a' and 'a [m]'"),
    ({"head": "b,who,a,y,y"}, "must name every column once. Got 'y' twice"),
    ({"head": "b,who,c,y,z"}, "must have a column 'a'. It has b, who, c, y, ...; rename one."),
    ({"rows": []}, "must have names above its columns, and rows below. Got b, who, a [m], y [s], ..."),
    ({"head": "1,2,3,4,5"}, "must have names above its columns, and rows below. Got 1, 2, 3, 4, ..."),
    ({"outputs": Outputs((Field("y", coordinate="k", at=(1.00001, 1.00002)),))}, "give coordinates that differ"),
    ({"columns": {"y": ("y", "z")}}, "columns.y: must be as many as the output has values, 1. Got 2"),
    ({"columns": {"y": ("why",)}}, "must have a column 'why'"),
])  # fmt: skip
def test_a_table_that_says_something_else_is_refused(tmp_path, change, said):
    with pytest.raises(InputError) as met:
        made(tmp_path, **change).rows()
    assert said in str(met.value)


@pytest.mark.parametrize(("change", "said"), [
    ({"columns": {"x": ("y",)}}, "columns must name outputs: y. Got 'x'"),
    ({"outputs": Outputs((Field("a"),))}, "an output must not be called as a parameter. Got 'a'"),
])  # fmt: skip
def test_settings_that_contradict_each_other_are_refused(tmp_path, change, said):
    with pytest.raises(InputError) as met:
        made(tmp_path, **change)
    assert said in str(met.value)


def test_a_file_that_is_not_there_is_told(tmp_path):
    for name, met in (("none.csv", "is not there"), ("", "is a folder")):
        with pytest.raises(
            InputError, match=f"simulator.file: must be a table. Got .*, which {met}; paths start where emulate runs"
        ):
            Table(space=SPACE, file=str(tmp_path / name)).rows()
    (tmp_path / "runs.xlsx").write_bytes(b"PK\x03\x04\xff\xfe")
    with pytest.raises(InputError, match=r"runs\.xlsx must be a text file of numbers.*; save it as CSV"):
        Table(space=SPACE, file=str(tmp_path / "runs.xlsx")).rows()


def test_errors_of_a_spreadsheet_are_failed_runs_and_no_comments(tmp_path):
    """A row that begins with one would be taken for a comment."""
    simulator = made(
        tmp_path, rows=["#N/A,1,0.1", "#DIV/0!,2,0.2", "# a comment", "7,3,0.3", "inf,4,0.4"], head="y,a,b"
    )
    assert simulator.rows().tolist() == [[1.0, 0.1], [2.0, 0.2], [3.0, 0.3], [4.0, 0.4]]
    for row in (0, 1, 3):
        with pytest.raises(RunFailed):
            simulator.run(simulator.rows()[row], seed=0)
    assert answer(simulator, 3.0, 0.3) == [7.0]


def test_marks_in_quoted_names_part_no_columns(tmp_path):
    simulator = made(tmp_path, head='"a";"b";"y";"x, y, z, w"', rows=["1;2;3;1", "4;5;6;1"])
    assert answer(simulator, 4.0, 5.0) == [6.0]
