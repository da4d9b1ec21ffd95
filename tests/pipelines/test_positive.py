"""A field that is declared positive and crosses zero: told once, by the first runs that show it, and once before a fit."""

from pathlib import Path

import pytest

from pipelines import positive
from tests.commands import emulate

STUDY = """
name: crossing
seed: 5
parameters: {a: {uniform: [0, 1]}}
simulator:
  use: function
  call: crossing:run
  outputs: [{name: level, positive: true}, {name: other}]
design: {runs: 20, held_out: 5}
cluster: {use: serial}
emulators: {quadratic: {use: polynomial}, line: {use: polynomial, degree: 1}}
infer: {likelihood: {absolute_error: 0.2}}
tracking: {uri: "off"}
output: out
"""
MODULE = """
def run(named):
    with open("made", "a") as file:
        file.write("1")
    return {"level": named["a"] - 0.4, "other": -1.0}
"""
ADVICE = (
    "Set `log: false` in emulators.quadratic, emulators.line, which keeps the runs; or `positive: false` where the simulator "
    "declares the field, which makes them anew where that is a setting of it."
)


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "study.yaml").write_text(STUDY)
    (tmp_path / "crossing.py").write_text(MODULE)
    return tmp_path


def test_it_is_told_while_runs_are_made_and_once_before_a_fit(folder, monkeypatch):
    made, met = [], positive._met

    def noting(*given):
        said = met(*given)
        if said:
            made.append(len((folder / "made").read_text()))
        return said

    monkeypatch.setattr(positive, "_met", noting)
    code, said = emulate(folder, "run", "study.yaml")
    assert code == 2
    first = "output level is declared positive, so that emulators work on its logarithm. Got -0."
    assert made[0] < 25, "by the first runs, not by all"
    assert said.count("is declared positive") == 2
    assert said.count("train will refuse it") == 1
    assert f"Warning: {first}" in said
    assert said.count(ADVICE) == 2
    refused = said.split("Error: ")[1]
    assert refused.startswith("output level is declared positive, so that emulators work on its logarithm. Got -0.")
    assert "of 20 runs. Set `log: false`" in refused


def test_with_the_advice_the_runs_are_kept_and_the_study_goes_on(folder):
    for stage in ("design", "simulate"):
        assert emulate(folder, stage, "study.yaml")[0] == 0
    plain = (w for name in ("quadratic", "line") for w in ("--set", f"emulators.{name}.log=false"))
    code, said = emulate(folder, "train", "study.yaml", *plain)
    assert code == 0, said
    assert "is declared positive" not in said
    assert len((folder / "made").read_text()) == 25
