"""`emulate init --table`: the study of a table of runs is that of its columns, and loads."""

import functools
from pathlib import Path

import pytest

from pipelines.config import load_study
from tests import commands

TABLE = """\
load [kN],who,length,pk[k=0.1],pk[k=0.25],max stress [MPa],shift
1,me,2,10,20,7,-1
2,you,3,11,,8,0
4,me,2.5,12,22,9,1
3,me,2.2,13,23,9,1
1.5,you,2.8,14,24,9,1
"""
emulate = functools.partial(commands.emulate, Path(), "init", "mine.yaml", "--table", "runs.csv")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs.csv").write_text(TABLE)
    return tmp_path


def fields(study):
    return {f.name: (f.unit, f.positive, f.coordinate, f.at) for f in study.simulator.outputs.fields}


def test_all_other_numbers_are_outputs_with_their_units_and_vectors_in_one(here):
    code, said = emulate("--parameter", "load", "--parameter", "length=1:10:log")
    assert code == 0, said
    assert said == ("mine.yaml is written: 2 parameters, 4 values of a run. Left out: who holds 'me' in line 2. Next: emulate run "
                    "mine.yaml")  # fmt: skip
    study = load_study("mine.yaml")
    load, length = study.space.parameters
    assert (load.unit, load.prior.low, load.prior.high) == ("kN", 1.0, 4.0)
    assert (type(length.prior).__name__, length.prior.low, length.prior.high) == ("LogUniform", 1.0, 10.0)
    assert fields(study) == {
        "max_stress": ("MPa", True, "", ()),
        "shift": ("", False, "", ()),
        "pk": ("", True, "k", (0.1, 0.25)),
    }
    assert study.simulator.rows().tolist()[:3] == [[1.0, 2.0], [2.0, 3.0], [4.0, 2.5]]
    assert study.simulator.run(study.simulator.rows()[2], seed=0).tolist() == [9.0, 1.0, 12.0, 22.0]


def test_outputs_may_be_named_and_parameters_are_asked_for(here):
    code, said = emulate("--output", "shift", typed="load, length\n")
    assert code == 0, said
    assert "The parameters, of load, length, pk[k=0.1], pk[k=0.25], max stress, shift (commas between)" in said
    assert set(fields(load_study("mine.yaml"))) == {"shift"}


@pytest.mark.parametrize(("words", "said"), [
    (["--parameter", "lod"], "runs.csv must have a column of numbers called 'lod'"),
    (["--parameter", "lod"], 'Did you mean "load"?'),
    (["--parameter", "who"], "must have a column of numbers called 'who'. Got one that holds 'me' in line 2"),
    (["--parameter", "load", "--parameter", "load"], "a parameter must be named once. Got load twice"),
    (["--parameter", "load", "--output", "load"], "a column must be a parameter or an output. Got load as both"),
    (["--parameter", "max stress"], "rename it there, such as max_stress"),
    (["--parameter", "load", "--output", "size"], "must have a column of numbers called 'size'"),
    (["--parameter", "load=1"], "a parameter must be NAME=LOW:HIGH[:log]"),
    (["--parameter", "load=2:5"], "the range of a parameter must hold all runs. Got load=2:5, and runs from 1 to 4 in runs.csv"),
    (["--parameter", "load", "--command", "echo"], "init must have a program or a table of runs"),
    ([], "--parameter must be given where nobody can be asked"),
])  # fmt: skip
def test_a_wrong_answer_is_told_and_leaves_nothing(here, words, said):
    code, met = emulate(*words, typed="")
    assert code == 2
    assert said in met
    assert [p.name for p in here.iterdir()] == ["runs.csv"]


@pytest.mark.parametrize(("text", "said"), [
    ("", "runs.csv must have names above its columns, and rows below. Got nothing"),
    ("a,b\nx,y\n", "runs.csv must have columns of numbers. Got none in 1 row. Left out: a holds 'x' in line 2"),
    ("a,f\n1,2\n2,FAILED\n3,4\n", "line 3, column f: must be a finite number (empty is a run that failed). Got 'FAILED'"),
    ("a;f\n1;2,5\n2;3,5\n3;4,5\n", "line 2, column f: must be a finite number (empty is a run that failed). Got '2,5'; write a "
     "point for the comma of decimals"),
    ("a,f [N],f [kN]\n1,2,3\n2,3,4\n", "must have one column of f. Got 'f [N]' and 'f [kN]'"),
    ("a,f\nm,N\n1,2\n2,3\n", "line 2, column a: must be a finite number"),
    ("a,b\n1,2\n1,3\n", "a parameter must differ between runs. Got a = 1 in all of runs.csv"),
    ("a\n1\n2\n", "must have an output beside a"),
])  # fmt: skip
def test_a_table_that_gives_no_study_is_told(here, text, said):
    (here / "runs.csv").write_text(text)
    code, met = emulate("--parameter", "a")
    assert code == 2
    assert said in met


def test_nothing_is_overwritten_unless_forced(here):
    (here / "mine.yaml").write_text("keep me")
    assert emulate("--parameter", "load")[0] == 2
    assert (here / "mine.yaml").read_text() == "keep me"
    assert emulate("--parameter", "load", "--force")[0] == 0


def test_odd_names_and_columns_that_count_the_rows_make_a_study_that_loads(here):
    """Words of YAML, names that fall together, a vector beside a number of its name, an index that pandas wrote."""
    head = ["", "null", "sag 1", "sag-1", "true", "pk[k=0.1]", "pk[k=0.2]", "pk", "x[k=1] [m]", "x[k=2] [s]", "id"]
    rows = [[i, 1 + 0.5 * i, *(10 * i + j for j in range(8)), i + 1] for i in range(6)]
    (here / "runs.csv").write_text("\n".join(",".join(map(str, r)) for r in (head, *rows)) + "\n")
    code, said = emulate("--parameter", "null")
    assert code == 0, said
    assert "Left out: number 1 has no name; id counts the rows." in said
    study = load_study("mine.yaml")
    assert study.space.names == ("null",)
    assert list(fields(study)) == ["sag_1", "sag_1_2", "true", "pk_k_0_1", "pk_k_0_2", "pk", "x_k_1", "x_k_2"]
    assert study.simulator.run(study.simulator.rows()[2], seed=0).tolist() == [20.0 + j for j in range(8)]
