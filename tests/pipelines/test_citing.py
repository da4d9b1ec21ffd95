"""What a study rests on: judged by settings that bring a work in or leave it out, and by what the command prints."""

import inspect
import json
import re
from importlib.metadata import version
from pathlib import Path

import pytest
from pybtex.database import parse_string
from typer.testing import CliRunner

from emulate import registry
from emulate.references import cited, references
from pipelines import citing
from pipelines.cli import app
from pipelines.config import load_study
from tests import laws

CONFIGS = Path(__file__).parents[2] / "configs"


def _works(config: str, *changes: str) -> dict[str, list[str]]:
    return citing.works(load_study(CONFIGS / f"{config}.yaml", changes))


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_study_knows_what_it_rests_on(path):
    found = citing.works(load_study(path))
    assert set(found) <= set(references())
    assert {"paszke2019", "harris2020", "virtanen2020"} <= set(found)
    assert all(reasons and all(reasons) for reasons in found.values())


def test_a_posterior_by_hand_and_one_by_a_network():
    assert {"neal2011", "hoffman2014", "vehtari2021", "kumar2019"} <= set(_works("linear"))
    assert not {"neal2011", "vehtari2021", "kumar2019"} & set(_works("linear", "infer=null"))
    assert {"papamakarios2016", "durkan2019", "zuko"} <= set(_works("npe", "infer.method=npe"))


@pytest.mark.parametrize(
    ("config", "change", "key"),
    [
        ("linear", "emulators={s: {use: svgp, exact: true}}", "gardner2018"),
        ("linear", "emulators={m: {use: mlp, heads: variance}}", "seitzer2022"),
        ("linear", "infer.sampler={use: hmc, mass: bent}", "parno2018"),
        ("linear", "emulators={p: {use: polynomial, calibrate: conformal}}", "lei2018"),
        ("linear", "infer.profile=true", "wilks1938"),
        ("linear", "cluster.use=local", "rocklin2015"),
        ("linear", "tracking.uri=sqlite:///x.db", "zaharia2018"),
        ("linear", "check.delayed_acceptance=10", "christen2005"),
        ("nbody", "simulator.scheme=fastpm", "feng2016"),
        ("nbody", "simulator.scheme=bullfrog", "rampf2025"),
        ("nbody", "simulator.pair=true", "angulo2016"),
    ],
)
def test_a_setting_brings_its_work(config, change, key):
    off = {"gardner2018": "emulators={s: {use: svgp}}", "seitzer2022": "emulators={m: {use: mlp}}",
           "parno2018": "infer.sampler={use: hmc, mass: dense}", "lei2018": "seed=1", "wilks1938": "seed=1",
           "rocklin2015": "cluster.use=serial", "zaharia2018": "tracking.uri=off", "christen2005": "seed=1",
           "feng2016": "simulator.scheme=bullfrog", "rampf2025": "simulator.scheme=fastpm",
           "angulo2016": "simulator.amplitudes=gaussian"}[key]  # fmt: skip
    assert key in _works(config, change)
    assert key not in _works(config, off)


def test_tables_and_docstrings_agree():
    names = {name for room in registry.ROOMS for name in registry.names(room)}
    text = {name: inspect.getdoc(registry.find(room, name)) for room in registry.ROOMS for name in registry.names(room)}
    assert set(citing._ONLY) | set(citing._BESIDE) <= names
    for name, works in citing._ONLY.items():
        assert set(works) <= set(cited(text[name])), f"{name}: a condition on a work that its docstring does not name"
    beside = {key for works in citing._BESIDE.values() for key in works}
    tables = beside | {key for key, _, _ in (*citing._METHODS, *citing._LIBRARIES)}
    assert tables <= set(references())
    named = {key for t in text.values() for key in cited(t or "")}
    assert set(references()) == named | tables, "a work that nothing rests on"


def test_the_command_prints_bibtex_and_json():
    printed = CliRunner().invoke(app, ["cite", str(CONFIGS / "linear.yaml")])
    assert printed.exit_code == 0, printed.output
    read = parse_string(re.sub(r"^%.*$", "", printed.stdout, flags=re.M), "bibtex")
    assert read.entries["emulate"].fields["version"] == version("emulate")
    assert "% emulators.quadratic is polynomial\n@book{myers1995," in printed.stdout
    answer = CliRunner().invoke(app, ["cite", str(CONFIGS / "linear.yaml"), "--json"])
    told = json.loads(answer.stdout)
    assert [w["key"] for w in told["references"]] == list(read.entries)
    assert all(w["reasons"] for w in told["references"])


def test_a_study_that_is_no_study_is_told():
    refused = CliRunner().invoke(app, ["cite", "nothing.yaml"])
    assert refused.exit_code == 2


def test_an_emulator_is_cited_by_its_recipe_alone(tmp_path):
    for spec, more, less in (({"use": "gp"}, "rasmussen2006", "zuko"), ({"use": "polynomial"}, "myers1995", "rasmussen2006"),
                             ({"use": "polynomial", "calibrate": "conformal"}, "lei2018", "zuko")):  # fmt: skip
        laws.FIT(registry.build("emulators", spec), laws.runs(40), seed=0).save(tmp_path / more)
        printed = CliRunner().invoke(app, ["cite", str(tmp_path / more)])
        assert printed.exit_code == 0, printed.output
        found = parse_string(re.sub(r"^%.*$", "", printed.stdout, flags=re.M), "bibtex").entries
        assert {"emulate", "paszke2019", "heitmann2006", more} <= set(found)
        assert not {"hunter2007", "zaharia2018", "rocklin2015", less} & set(found)
        assert f"% the emulator is {spec['use']}\n" in printed.stdout
    refused = CliRunner().invoke(app, ["cite", str(tmp_path / "lei2018"), "--set", "seed=2"])
    assert refused.exit_code == 2


def test_a_folder_that_is_no_emulator_is_told(tmp_path):
    refused = CliRunner().invoke(app, ["cite", str(tmp_path / "gp")])
    assert refused.exit_code == 2
    assert "must be told a study, STUDY.yaml, or the folder of an emulator" in " ".join(refused.output.split())
