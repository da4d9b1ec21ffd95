"""A posterior where no run finished: what infer, check, predict and the emulator's own folder say of it."""

import re
import shutil

import pytest

import emulate as library
from pipelines import files
from tests.pipelines.test_stages import emulate

SIMULATOR = """
def slab(theta):
    if theta["a"] > 0.7:
        raise ValueError("the solver diverged")
    return [theta["a"] + 0.3 * theta["b"], theta["b"]]
"""
STUDY = """
name: slab
seed: 3
parameters: {a: {uniform: [0, 1]}, b: {uniform: [0, 1]}}
simulator: {use: function, call: "slab_of_the_domain:slab", outputs: [{name: y, coordinate: i, at: [1, 2]}]}
design: {runs: 64, held_out: 20}
simulate: {require: 0.3}
cluster: {use: serial}
emulators: {plane: {use: polynomial, degree: 1}, rival: {use: polynomial}}
train: {champion: plane, baseline: null}
validate: {gradient: {use: finite_difference}, gradient_points: 3}
infer:
  observation: {file: seen.csv}
  likelihood: {use: gaussian, absolute_error: 0.05}
  sampler: {use: laplace}
  draws: 100
  chains: 8
check: {importance_runs: 20, recovery: 5}
checks: {domain: , accuracy: }
tracking: {uri: "off"}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The study up to its posterior, and what infer said."""
    path = tmp_path_factory.mktemp("slab")
    (path / "slab_of_the_domain.py").write_text(SIMULATOR)
    (path / "study.yaml").write_text(STUDY)
    (path / "seen.csv").write_text("0.87\n0.5\n")  # a = 0.72, b = 0.5
    for stage in ("design", "simulate", "train", "validate", "infer"):
        code, output = emulate(path, stage, "study.yaml")
        assert code in (0, 1), output
    (path / "said").write_text(" ".join(output.split()))
    return path


def test_infer_says_that_the_posterior_lies_where_no_run_does(folder):
    said = re.search(r"(\d+)% of the draws lie where the design is thin: they are up to ([\d.]+) times as far from their nearest "
                     r"runs as runs are from each other, in a; what the emulator says there was learned elsewhere\. Run the "
                     r"simulator there\.", (folder / "said").read_text())  # fmt: skip
    assert said
    share = files.read_json(folder / "runs" / "slab" / "infer" / "summary.json")["thin"]
    assert 0.2 < share < 0.8
    assert (int(said[1]), float(said[2]) > 3) == (round(100 * share), True)


def test_infer_refuses_it_by_choice_and_writes_nothing(folder, tmp_path):
    shutil.copytree(folder, here := tmp_path / "x")
    shutil.rmtree(here / "runs" / "slab" / "infer")
    code, output = emulate(here, "infer", "study.yaml", "--set", "infer.outside=refuse")
    assert code == 3
    assert "and infer.outside is refuse. Run the simulator there, narrow the prior" in " ".join(output.split())
    assert not (here / "runs" / "slab" / "infer" / "draws.safetensors").exists()


@pytest.mark.slow
def test_infer_inflates_by_choice_and_the_posterior_is_wider(folder, tmp_path):
    shutil.copytree(folder, here := tmp_path / "x")
    before = files.read_json(here / "runs" / "slab" / "infer" / "summary.json")["parameters"]["a"]["sd"]
    code, output = emulate(
        here,
        "infer",
        "study.yaml",
        "--set",
        "infer.outside=inflate",
        "--set",
        "infer.sampler.use=hmc",
        "--set",
        "infer.draws=4000",
    )
    assert code == 0, output
    assert "the variance was widened there" in " ".join(output.split())
    assert files.read_json(here / "runs" / "slab" / "infer" / "summary.json")["parameters"]["a"]["sd"] > 0.99 * before


def test_the_emulators_carry_what_was_found_of_them(folder, tmp_path):
    """After validate its findings and scores; after check those of both; the stages behind are not stale by it."""
    shutil.copytree(folder, here := tmp_path / "x")
    plane = library.load(here / "runs" / "slab" / "emulators" / "plane")
    assert {f.name.split(".")[0] for f in plane.findings} == {"accuracy"}
    scores = files.read_json(here / "runs" / "slab" / "train" / "scores.json")["emulators"]["plane"]
    assert plane.scores["median"] == scores["median"]
    code, output = emulate(here, "check", "study.yaml", "--set", "check.importance_runs=20")
    found = (
        files.read_json(here / "runs" / "slab" / "check" / "findings.json")["emulators"]["plane"] if code < 2 else []
    )
    if found:  # where true runs could be weighed
        again = library.load(here / "runs" / "slab" / "emulators" / "plane")
        assert [f.name for f in again.findings][-len(found) :] == [f["name"] for f in found]
    _, output = emulate(here, "status", "study.yaml")
    assert "train" in output
    assert not re.search(r"(validate|infer)\s+stale", output), output


def test_predict_says_it_too(folder):
    where = str(folder / "runs" / "slab" / "emulators" / "plane")
    point = ("--set", "a=0.95", "--set", "b=0.5")
    code, output = emulate(folder, "predict", where, *point)
    assert code == 0
    assert "theta must lie where the design is dense. Got points that lie" in " ".join(output.split())
    _, quiet = emulate(folder, "predict", where, *point, "--outside", "ignore")
    assert "dense" not in quiet
    code, output = emulate(folder, "predict", where, *point, "--outside", "refuse")
    assert code == 2
    code, output = emulate(folder, "predict", where, *point, "--outside", "warm")
    assert code == 2
    assert 'Did you mean "warn"?' in output
    sd = [float(re.search(r"y\[i=1\]\s+\S+\s+(\S+)", o)[1]) for o in
          (quiet, emulate(folder, "predict", where, *point, "--outside", "inflate")[1])]  # fmt: skip
    assert sd[1] > 1.5 * sd[0]


def test_predict_says_that_an_emulator_failed_its_checks(folder, tmp_path):
    shutil.copytree(folder / "runs" / "slab" / "emulators" / "plane", tmp_path / "e")
    bad = library.load(tmp_path / "e").findings[0]
    from dataclasses import replace

    from emulate.loading import keep

    keep(tmp_path / "e", [replace(bad, value=9.0, high=1.0, blocking=True)], {})
    _, output = emulate(tmp_path, "predict", "e", "--set", "a=0.3", "--set", "b=0.5")
    told = f"this emulator did not pass its checks: {bad.name} is 9, and must be {replace(bad, high=1.0).bound}. {bad.sentence}"
    assert told in " ".join(output.split())
