"""`emulate init`: what it writes is loaded by the loader, tried by a run, and never overwritten unasked."""

import functools
from pathlib import Path

import pytest
import torch

from pipelines.config import load_study
from tests import commands

OPTIONS = ["--command", "sh code.sh in.txt", "--input", "in.txt", "--parameter", "a=0:1", "--parameter", "b=1e-3:1e-1:log",
           "--output", "y=out.txt:2*3", "--output", "s=s.json:x.total"]  # fmt: skip
CODE = """\
a=$(sed -n 's/a = //p' $1)
for k in 1 2 3; do echo $k $a; done > out.txt
echo '{"x": {"total": 2}}' > s.json
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "code.sh").write_text(CODE)
    return tmp_path


emulate = functools.partial(commands.emulate, Path(), "init")


def test_options_make_a_study_that_runs(here):
    code, said = emulate("mine.yaml", *OPTIONS)
    assert code == 0, said
    assert "mine.yaml is written. Next: put {{ name }} into in.txt.j2" in said
    assert "emulate simulate mine.yaml --only 0 --verbose" in said
    study = load_study("mine.yaml")
    assert study.name == "mine"
    assert study.space.names == ("a", "b")
    assert [type(p.prior).__name__ for p in study.space.parameters] == ["Uniform", "LogUniform"]
    assert study.simulator.files["code.sh"].copy == "code.sh"
    assert study.simulator.run(torch.tensor([0.5, 0.01]).double(), seed=0).tolist() == [0.5, 0.5, 0.5, 2.0]
    assert sorted(p.name for p in here.iterdir()) == ["code.sh", "in.txt.j2", "mine.yaml"]


def test_what_no_option_says_is_asked(here):
    typed = "sh code.sh in.txt\n\na=0:1\n\ny=out.txt:2*3\ns=s.json:x.total\n\n"
    code, said = emulate(typed=typed)
    assert code == 0, said
    assert "[in.txt]" in said  # the guess, taken with enter
    assert load_study("study.yaml").simulator.run(torch.tensor([0.25]).double(), seed=0).tolist() == [
        0.25,
        0.25,
        0.25,
        2.0,
    ]


def test_an_input_file_that_is_here_becomes_the_template(here):
    (here / "in.txt").write_text("a = 0.3\nb = 2\n")
    assert emulate("mine.yaml", *OPTIONS)[0] == 0
    assert (here / "in.txt.j2").read_text() == "a = 0.3\nb = 2\n"
    assert (here / "in.txt").read_text() == "a = 0.3\nb = 2\n"


def test_without_an_input_file_the_parameters_are_arguments(here):
    code, said = emulate(
        "x.yaml", "--command", "echo", "--input", "", "--parameter", "a=0:1", "--output", "y=stdout.txt"
    )
    assert code == 0, said
    assert load_study("x.yaml").simulator.command == (("echo", "--a={{ a }}"),)


def test_nothing_is_overwritten_unless_forced(here):
    (here / "mine.yaml").write_text("keep me")
    (here / "in.txt.j2").write_text("a = {{ a }}\n")
    code, said = emulate("mine.yaml", *OPTIONS)
    assert code == 2
    assert "Error: mine.yaml is there already. Name another file, or overwrite it with --force." in said
    assert (here / "mine.yaml").read_text() == "keep me"
    assert emulate("mine.yaml", *OPTIONS, "--force")[0] == 0
    assert load_study("mine.yaml").space.names == ("a", "b")
    assert (here / "in.txt.j2").read_text() == "a = {{ a }}\n"


@pytest.mark.parametrize(("change", "sentence"), [
    ({"--command": "sh 'code"}, "--command must be a command line. Got \"sh 'code\": No closing quotation."),
    ({"--command": "no_such_program"}, "there is no program 'no_such_program' on the PATH."),
    ({"--parameter": "a"}, "an answer must be NAME=LOW:HIGH[:log], NAME a word of letters, digits and _. Got 'a'."),
    ({"--parameter": "a=x:1"}, "a parameter must be NAME=LOW:HIGH[:log], such as h=0.6:0.8. Got 'a=x:1'."),
    ({"--parameter": "a=1:0"}, "parameters.a.uniform"),
    ({"--parameter": "a=nan:1"}, "parameters.a"),
    ({"--parameter": "a b=0:1"}, "an answer must be NAME=LOW:HIGH[:log]"),
    ({"--output": "y=../x"}, "must be relative to the run's folder"),
    ({"--output": "y: {x=1"}, "an answer must be NAME=FILE[:PLACE][*VALUES]"),
    ({"--output": "y=f*0"}, "size must be a whole number above 0"),
    ({"--input": "../../in.txt"}, "must be relative to the run's folder"),
    ({"--input": "in\nfo: x"}, "must be made of printable characters"),
])  # fmt: skip
def test_a_wrong_answer_is_told_and_leaves_nothing(here, change, sentence):
    given = {"--command": "echo {{ a }}", "--input": "", "--parameter": "a=0:1", "--output": "y=stdout.txt", **change}
    code, said = emulate("mine.yaml", *[w for pair in given.items() for w in pair])
    assert code == 2
    assert sentence in said
    assert sorted(p.name for p in here.iterdir()) == ["code.sh"]


def test_the_end_of_the_input_names_the_option(here):
    code, said = emulate("mine.yaml", "--command", "echo", "--input", "", typed="")
    assert code == 2
    assert "--parameter must be given where nobody can be asked." in said
