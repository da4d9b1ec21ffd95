"""The schema that editors complete from, judged by the jsonschema library: it takes what the loader takes."""

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from emulate import registry
from emulate.errors import InputError
from pipelines import yaml12
from pipelines.config import load_study
from pipelines.schema import schema

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
ENTRIES = [(room, name) for room in registry.ROOMS for name in registry.names(room)]
SMALL = "name: x\nsimulator: linear_gaussian\nemulators: {polynomial: }\ninfer: {likelihood: {absolute_error: 1}}\n"


@pytest.fixture(scope="module")
def judge():
    made = json.loads(json.dumps(schema(), allow_nan=False))
    Draft202012Validator.check_schema(made)
    return Draft202012Validator(made)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_config_keeps_the_schema(judge, path):
    assert [e.message for e in judge.iter_errors(yaml12.read(path).data)] == []


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_resolved_study_keeps_the_schema(judge, path, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert [e.message for e in judge.iter_errors(load_study(path.relative_to(ROOT)).to_dict())] == []


@pytest.mark.parametrize(
    ("more", "good"),
    [
        ("", True),
        ("seed: 4", True),
        ("seeed: 4", False),
        ("seed: -1", False),
        ("parameters: {a: {uniform: [0, 1]}}", True),
        ("parameters: {a: {normal: {mean: 0, sd: 1}, unit: km, label: a}}", True),
        ("parameters: {a: {uniform: [0]}}", False),
        ("parameters: {a: {uniform: [0, 1], normal: [0, 1]}}", False),
        ("parameters: {}", False),
        ("design: {runs: 40}", True),
        ("design: latin_hypercube", True),
        ("design: {use: latin_hypercube, held_out: 30}", True),
        ("design: {use: latin, runs: 40}", False),
        ("design: {rums: 40}", False),
        ("design: {runs: many}", False),
        ("design: {fidelities: {coarse: {runs: 9, with: {outputs_count: 3}}}}", True),
        (
            "design: {use: latin_hypercube, fidelities: {a: {runs: 9, with: {noise: 1}}, b: {runs: 2, with: {noise: 2}}}}",
            True,
        ),
        ("design: {fidelities: {}}", False),
        ("design: {fidelities: {coarse: {runs: 9}}}", False),
        ("design: {fidelities: {coarse: {runs: 0, with: {noise: 1}}}}", False),
        ("design: {fidelities: {coarse: {runs: 9, with: {}}}}", False),
        ("design: {fidelities: {coarse: {runs: 9, with: {use: nbody}}}}", False),
        ("design: {fidelities: {training: {runs: 9, with: {noise: 1}}}}", False),
        ("design: {fidelities: {2nd: {runs: 9, with: {noise: 1}}}}", False),
        ("simulate: {timeout: 0}", False),
        ("cluster: {use: slurm, options: {queue: long}}", True),
        ("cluster: {use: slurmm}", False),
        ("validate: {gradient: auto}", True),
        ("validate: {gradient: {use: finite_difference}}", True),
        ("validate: {gradient: {use: finite}}", False),
        ("simulate: {jacobians: none}", True),
        ("simulate: {jacobians: auto}", True),
        ("simulate: {jacobians: reverse}", True),
        ("simulate: {jacobians: {use: finite_difference, step: 0.02}}", True),
        ("simulate: {jacobians: true}", False),
        ("simulate: {jacobians: {use: forwards}}", False),
        ("simulate: {jacobians: {use: simulator, step: 0.1}}", False),
        ("train: {baseline: 3}", False),
        ("checks: {accuracy: {use: accuracy, median: 0.1}}", True),
        ("checks: {accuracy: {median: 0.1}, coverage: }", True),
        ("checks: {accuracy: {mediam: 0.1}}", False),
        ("checks: {mine: {use: acuracy}}", False),
        ("check: {importance_runs: 1}", False),
    ],
)
def test_the_schema_and_the_loader_agree(judge, tmp_path, more, good):
    path = tmp_path / "x.yaml"
    path.write_text(SMALL + more)
    said = ""
    try:
        load_study(path)
    except InputError as e:
        said = str(e)
    assert (not said) == good, said
    assert judge.is_valid(yaml12.read(path).data) == good


def test_a_foreign_class_may_have_any_settings(judge):
    data = yaml12.parse(SMALL).data
    assert judge.is_valid(data | {"emulators": {"mine": {"use": "my_lab.flows:Flow", "depth": 3}, "other": "lab:B"}})
    assert not judge.is_valid(data | {"emulators": {"mine": {"use": "flow", "depth": 3}}})


@pytest.mark.parametrize("way", ["simulator", "{use: simulator}"])
def test_a_simulator_with_a_jacobian_of_its_own_may_use_it(judge, tmp_path, way):
    path = tmp_path / "x.yaml"
    path.write_text(SMALL.replace("linear_gaussian", "nbody")
                    + f"simulate: {{jacobians: {way}}}\nvalidate: {{gradient: {way}}}\n")  # fmt: skip
    assert judge.is_valid(yaml12.read(path).data)
    assert load_study(path).gradient_spec("tangent") == {"use": "simulator"}


@pytest.mark.parametrize(("room", "name"), ENTRIES)
def test_every_entry_is_described(judge, room, name):
    entry = judge.schema["$defs"][f"{room}.{name}"]
    assert entry["description"] == registry.sentence(room, name)
    assert "space" not in entry["properties"]
    silent = [k for k, v in entry["properties"].items() if not v.get("description")]
    assert silent == [], f"{room}/{name}: a comment on each field's line, or a line of the docstring, says what it is"


def test_every_section_is_described(judge):
    for name in ("DesignPart", "SimulatePart", "ClusterPart", "TrainPart", "CheckPart", "TrackingPart", "Observation"):
        assert judge.schema["$defs"][name]["description"]
    for key in ("SimulatePart", "ClusterPart", "TrainPart", "CheckPart"):
        assert all(v["description"] for v in judge.schema["$defs"][key]["properties"].values())
    assert judge.schema["$defs"]["SimulatePart"]["properties"]["timeout"]["default"] == 600.0
