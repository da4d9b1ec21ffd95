"""`emulate verify` where the derivatives of a simulator are known: every method of the room in one table."""

import csv
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from emulate import registry
from pipelines.cli import app

STUDY = """
name: sides
simulator: {use: option, payoff: PAYOFF, strikes: [100], paths: 250}
design: {runs: 32, held_out: 8}
cluster: {use: serial}
emulators: {cubic: {use: polynomial}}
validate: {gradient: {use: METHOD}}
infer: {likelihood: {use: gaussian, absolute_error: 0.1}}
tracking: {uri: "off"}
"""


@pytest.mark.slow
@pytest.mark.parametrize(("payoff", "method"), [("digital_call", "score"), ("call", "pathwise")])
def test_every_method_stands_in_the_table_and_none_misses_what_it_says_it_knows(tmp_path, monkeypatch, payoff, method):
    monkeypatch.chdir(tmp_path)
    Path("study.yaml").write_text(STUDY.replace("PAYOFF", payoff).replace("METHOD", method))
    result = CliRunner().invoke(app, ["verify", "study.yaml", "--points", "1", "--repeats", "40"])
    assert result.exit_code == 0, result.output
    assert "d price[strike=100] / d sigma by every method" in result.output
    with Path("runs/sides/verify/methods.csv").open() as f:
        rows = list(csv.DictReader(f))
    assert {row["method"].split(",")[0] for row in rows} == set(registry.names("gradients"))
    assert {row["parameter"] for row in rows} == {"sigma", "rate"}
    told = {
        f["name"]: f for f in json.loads(Path("runs/sides/verify/findings.json").read_text())["emulators"]["simulator"]
    }
    assert told["methods"]["value"] == 0
    assert "taylor" not in told  # a run of paths has no derivative of its own
