"""A study of two data sets, a spectrum with a common scale and counts, to the verdict: parts, files and fingerprints."""

import json

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from emulate.errors import InputError
from emulate.runs import Field
from pipelines import files, yaml12
from pipelines.config import load_study
from pipelines.schema import schema
from tests.pipelines.test_stages import emulate

SIMULATOR = """
from math import exp

def survey(theta):
    a, b = theta["a"], theta["b"]
    return {"pk": [exp(2 + a * x + 0.3 * b) for x in (0.5, 1.0, 2.0)], "counts": [exp(3 + b), exp(2 + b - 0.5 * a)]}
"""
STUDY = """
name: survey
seed: 4
parameters: {a: {uniform: [0, 1]}, b: {uniform: [-1, 1]}}
simulator:
  use: function
  call: "survey_of_two:survey"
  outputs:
    - {name: pk, coordinate: k, at: [0.5, 1, 2], positive: true}
    - {name: counts, size: 2, positive: true}
design: {runs: 32, held_out: 20}
cluster: {use: serial}
emulators: {plane: {use: polynomial}}
validate: {gradient: {use: finite_difference}, gradient_points: 3}
infer:
  likelihood:
    use: combined
    parts:
      pk: {use: gaussian, covariance_file: data/pk.csv, simulations: 40, scale_error: 0.1, discrepancy: {share: 0.02, length: 1}}
      counts: {use: negative_binomial, dispersion: 0.02}
  sampler: {use: laplace}
  draws: 200
  chains: 8
check: {importance_runs: 40, recovery: 20}
checks: {posterior: {share: 0.2}, recovery: }
tracking: {uri: "off"}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("survey")
    (path / "survey_of_two.py").write_text(SIMULATOR)
    (path / "study.yaml").write_text(STUDY)
    (path / "data").mkdir()
    np.savetxt(path / "data" / "pk.csv", np.diag([0.5, 0.7, 1.5]) ** 2 + 0.05, delimiter=",")
    return path


@pytest.fixture(scope="module")
def judge():
    return Draft202012Validator(json.loads(json.dumps(schema())))


def test_the_study_comes_to_a_verdict(folder):
    code, output = emulate(folder, "run", "study.yaml")
    assert code == 0, output
    findings = {
        f["name"]: f
        for f in files.read_json(folder / "runs" / "survey" / "check" / "findings.json")["emulators"]["plane"]
    }
    print({k: v["value"] for k, v in findings.items()})
    assert findings["recovery.joint"]["passed"]
    assert findings["posterior.ess"]["value"] > 0.9  # the emulator is good: the same likelihood stands on both sides
    data = files.read_json(folder / "runs" / "survey" / "infer" / "observation.json")["data"]
    assert all(float(n).is_integer() for n in data[3:])
    assert "the emulator's own error widens the answer by less than 0.1 % in every parameter" in " ".join(
        output.split()
    )


def test_files_of_parts_lie_beside_the_study_and_make_infer_stale(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)  # files lie beside the study, wherever it is run
    monkeypatch.syspath_prepend(folder)
    study = load_study(folder / "study.yaml")
    name = "infer.likelihood.parts.pk.covariance_file"
    assert study.data_files()[name] == folder / "data" / "pk.csv"
    before = study.section("infer")["digests"][name]
    np.savetxt(folder / "data" / "pk.csv", np.eye(3), delimiter=",")
    assert study.section("infer")["digests"][name] != before
    assert study.likelihood.parts["pk"].outputs.fields == (Field("pk", coordinate="k", at=(0.5, 1, 2), positive=True),)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            "infer.likelihood.parts.pks=poisson",
            'parts.pks: there is no such output. Fields are pk, counts. Did you mean "pk"?',
        ),
        ("infer.likelihood.parts.pk.simulations=5", "simulations must be more than 5 for 3 outputs"),
        ("infer.likelihood.parts.pk.covariance_file=pk.csv", "there is no file"),
        ("infer.likelihood.parts.counts.dispersion=0", "dispersion must be a finite number above 0"),
    ],
)
def test_what_is_wrong_with_a_part_is_told_before_any_run(folder, change, said):
    code, output = emulate(folder, "design", "study.yaml", "--dry-run", "--set", change)
    assert code == 2
    assert said in " ".join(output.split())


@pytest.mark.slow
def test_an_error_of_unknown_size_is_integrated_out_and_told(folder):
    like = (
        "{use: marginal, of: {use: gaussian, relative_error: 0.05}, over: {relative_error: {log_uniform: [0.01, 0.5]}}}"
    )
    out = ("--set", "output=runs/unknown", "--set", f"infer.likelihood={like}", "--set", "check.importance_runs=20")
    code, output = emulate(folder, "run", "study.yaml", *out)
    assert code in (0, 1), output
    told = files.read_json(folder / "runs" / "unknown" / "infer" / "summary.json")["settings"]["relative_error"]
    assert told["mean"] - told["sd"] > 0.01
    assert told["mean"] + told["sd"] < 0.5
    assert f"by the best fit relative_error is {told['mean']:.3g} +- {told['sd']:.2g}" in " ".join(output.split())


@pytest.mark.parametrize(
    ("likelihood", "good"),
    [
        ("{use: combined, parts: {pk: {use: gaussian, absolute_error: 1}, counts: poisson}}", True),
        (
            "{use: combined, parts: {pk: {use: gaussian, absolute_error: 1}, counts: {use: poisson, scale_error: 0.1}}}",
            True,
        ),
        ("{use: combined, parts: {pk: {absolute_error: 1}, counts: poisson}}", False),
        ("{use: combined, parts: {pk: {use: gaussian, absolute_eror: 1}, counts: poisson}}", False),
        ("{use: combined, parts: poisson}", False),
        ("{use: combined}", False),
        ("{absolute_error: 1, discrepancy: {share: 0.1, length: 2, log: false}}", True),
        ("{absolute_error: 1, discrepancy: {share: 0.1, lenght: 2}}", False),
        ("{absolute_error: 1, error_dof: 2}", False),
        ("{absolute_error: 1, correction: bartlett}", False),
        ("{use: negative_binomial, dispersion: [0.1, 0.1, 0.1, 0.2, 0.2]}", True),
        ("{use: negative_binomial}", False),
        (
            "{use: marginal, of: {use: gaussian, absolute_error: 1}, over: {absolute_error: {log_uniform: [0.1, 9]}}}",
            True,
        ),
        ("{use: marginal, of: {use: gaussian, absolute_error: 1}, over: {absolute_error: 3}}", False),
        ("{use: marginal, of: {absolute_error: 1}, over: {absolute_error: {uniform: [1, 2]}}}", False),
        ("{use: marginal, of: poisson}", False),
    ],
)
def test_the_schema_and_the_loader_agree_on_likelihoods(folder, judge, monkeypatch, likelihood, good):
    monkeypatch.chdir(folder)
    head, rest = STUDY.split("  likelihood:\n")
    text = head + f"  likelihood: {likelihood}\n" + rest[rest.index("  sampler:") :]
    (folder / "other.yaml").write_text(text)
    said = ""
    try:
        made = load_study(folder / "other.yaml")
        assert judge.is_valid(made.to_dict())
    except InputError as e:
        said = str(e)
    assert (not said) == good, said
    assert judge.is_valid(yaml12.parse(text).data) == good
