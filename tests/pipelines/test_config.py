"""What a user types: every mistake is met with its line, what was met and what is allowed; what is right is built."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from emulate import registry
from emulate.errors import InputError
from emulate.space import Space, Uniform
from pipelines.config import load_raw, load_study

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
STAGES = ("design", "simulate", "train", "validate", "infer", "check", "report")
STUDY = """\
name: small
seed: 3
parameters:
  a: {uniform: [0.2, 0.4], label: '\\alpha'}
  b: {normal: {mean: 0, sd: 1.5}, unit: km}
simulator: {use: linear_gaussian, noise: 0.5}
design: {use: sobol, runs: 32, held_out: 12}
simulate:
cluster: {use: serial}
emulators:
  quadratic: {use: polynomial}
  second: {use: polynomial, log: false}
train: {champion: auto, baseline: quadratic}
validate: {gradient: {use: reverse}, gradient_points: 5}
infer:
  observation: {held_out: 0}
  likelihood: {use: gaussian, relative_error: 0.02}
  sampler: {use: hmc}
  draws: 200
  chains: 4
check: {importance_runs: 50}
tracking: {uri: off}
"""
TOP = ("Keys allowed here: name, seed, parameters, simulator, design, simulate, cluster, emulators, train, validate, "
       "infer, check, optimise, checks, tracking, output.")  # fmt: skip
LEAST = registry.find("emulators", "polynomial")().minimum_runs(2)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.yaml").write_text(STUDY)
    return tmp_path


def changed(old: str, new: str, *overrides: str) -> str:
    """What is said of the study with one change."""
    assert STUDY.count(old) == 1
    Path("study.yaml").write_text(STUDY.replace(old, new))
    with pytest.raises(InputError) as caught:
        load_study("study.yaml", overrides)
    return str(caught.value)


def overridden(*overrides: str) -> str:
    with pytest.raises(InputError) as caught:
        load_study("study.yaml", overrides)
    return str(caught.value)


def test_a_study_is_built():
    study = load_study("study.yaml")
    assert (study.name, study.seed, study.folder, study.file) == ("small", 3, Path("runs/small"), Path("study.yaml"))
    assert study.space.names == ("a", "b")
    assert study.space.parameters[0].prior == Uniform(0.2, 0.4)
    assert (study.space.parameters[0].label, study.space.parameters[1].unit) == ("\\alpha", "km")
    assert study.simulator.noise == 0.5
    assert study.simulator.space is study.space
    assert (study.design.entry.entry_name(), study.design.runs, study.design.held_out) == ("sobol", 32, 12)
    assert (study.simulate.timeout, study.simulate.require, study.simulate.retry_failed) == (600.0, 0.9, False)
    assert study.emulators["second"].log is False
    assert (study.train.champion, study.train.baseline) == ("auto", "quadratic")
    assert study.gradient_spec("jacobian") == {"use": "reverse"}
    assert (study.simulate.jacobians, study.gradient_spec("tangent"), study.gradient_spec("y")) == (None, None, None)
    assert study.infer.likelihood.relative_error == 0.02
    assert (study.infer.observation.held_out, study.infer.observation.noise) == (0, True)
    assert (study.check.importance_runs, study.check.recovery) == (50, 12)
    assert set(study.checks) == set(registry.names("checks")) - {"confirmation", "softening"}, (
        "runs to ask for, and no bins"
    )
    assert study.tracking.uri == "off"


def test_the_smallest_study():
    """Name, simulator and the noise of the observation; all else has a default."""
    Path("study.yaml").write_text("name: x\nsimulator: linear_gaussian\ninfer: {likelihood: {absolute_error: 1}}\n"
                                  "emulators: {polynomial: }")  # fmt: skip
    study = load_study("study.yaml")
    assert study.space == study.simulator.space
    assert study.design.entry.entry_name() == "sobol"
    assert study.validate.gradient.entry_name() == "reverse"
    assert study.infer.sampler.entry_name() == "hmc"
    assert (study.validate.gradient_points, study.check.recovery) == (10, 20)
    assert (study.train.champion, study.train.baseline) == ("auto", None)


def test_an_ensemble_recovers_observations_of_few_parameters_in_place_of_hmc():
    assert load_study("study.yaml").check.sampler.entry_name() == "ensemble"
    assert load_study("study.yaml", ["infer.sampler.use=laplace"]).check.sampler.entry_name() == "laplace"
    own = load_study("study.yaml", ["check.sampler={use: hmc, warmup: 80}"])
    assert (own.check.sampler.entry_name(), own.check.sampler.warmup) == ("hmc", 80)
    six = "name: x\nsimulator: {use: linear_gaussian, noise: 0.1}\ninfer: {likelihood: {absolute_error: 1}}\nparameters: {%s}\n"
    Path("six.yaml").write_text(six % ", ".join(f"p{i}: {{uniform: [0, 1]}}" for i in range(6)))
    study = load_study("six.yaml")
    assert study.check.sampler is study.infer.sampler
    assert "check.sampler.use: there is no entry 'ensembel'" in overridden("check.sampler.use=ensembel")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_config_loads(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    study = load_study(path.relative_to(ROOT))
    assert study.name == path.stem
    assert load_raw(path) == {"name": study.name, "folder": study.folder}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_the_resolved_study_reads_as_itself(path, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    whole = load_study(path.relative_to(ROOT)).to_dict()
    text = yaml.safe_dump(json.loads(json.dumps(whole, allow_nan=False)), sort_keys=False)
    (tmp_path / "again.yaml").write_text(text)
    assert load_study(tmp_path / "again.yaml").to_dict() == whole


def test_a_worker_builds_the_same_simulator_from_plain_data():
    study = load_study("study.yaml")
    spec = json.loads(json.dumps(study.simulator_spec, allow_nan=False))
    assert registry.build("simulators", {**spec, "space": Space.from_dict(spec["space"])}) == study.simulator


@pytest.mark.parametrize(
    ("override", "touched"),
    [
        ("seed=4", set(STAGES)),
        ("parameters.a.uniform=[0.1, 0.4]", {"design", "simulate"}),
        ("design.runs=33", {"design"}),
        ("simulator.noise=0.6", {"simulate"}),
        ("emulators.second.log=true", {"train"}),
        ("train.champion=second", {"validate"}),
        ("validate.gradient_points=6", {"validate"}),
        ("checks.accuracy.median=0.1", {"validate"}),
        ("infer.draws=300", {"infer"}),
        ("infer.likelihood.relative_error=0.03", {"infer"}),
        ("check.importance_runs=60", {"check"}),
        ("checks.posterior.shift=0.5", {"check"}),
        ("cluster.workers=7", set()),
        ("cluster.use=local", set()),
        ("tracking.uri=sqlite:///x.db", set()),
        ("output=elsewhere", set()),
        ("simulate.timeout=5", set()),
        ("simulate.require=0.5", {"simulate"}),
        ("simulate.jacobians=auto", {"simulate"}),
        ("simulate.retry_failed=true", set()),
    ],
)
def test_a_section_holds_what_its_results_depend_on(override, touched):
    before, after = load_study("study.yaml"), load_study("study.yaml", [override])
    assert {s for s in STAGES if before.section(s) != after.section(s)} == touched
    for s in STAGES:
        json.dumps(after.section(s), allow_nan=False)


def test_a_study_that_says_nothing_of_data_is_told_how_to_go_without(here):
    text = STUDY[: STUDY.index("infer:")]
    (here / "bare.yaml").write_text(text)
    with pytest.raises(InputError, match=r"infer\.likelihood: the observation must have an error\. .* A study without data "
                                         r"must say so\. .* set `infer: null`\.$"):  # fmt: skip
        load_study("bare.yaml")
    (here / "bare.yaml").write_text(f"{text}infer: null\n")
    assert not load_study("bare.yaml").infers


def test_data_files_are_part_of_the_fingerprint_of_inference():
    Path("data.csv").write_text("1\n2\n3\n4\n5\n")
    Path("noise.csv").write_text("\n".join(",".join("1.0" if i == j else "0" for j in range(5)) for i in range(5)))
    changes = ["infer.observation={file: data.csv}", "infer.likelihood={covariance_file: noise.csv}"]
    before = load_study("study.yaml", changes).section("infer")
    assert load_study("study.yaml", changes).section("infer") == before
    Path("data.csv").write_text("1\n3\n3\n4\n5\n")
    after = load_study("study.yaml", changes).section("infer")
    assert {k for k in before["digests"] if before["digests"][k] != after["digests"][k]} == {"infer.observation.file"}
    assert load_study("study.yaml", changes).infer.observation.noise is False


def test_paths_are_relative_to_the_study(here):
    (here / "deep").mkdir()
    (here / "deep" / "study.yaml").write_text(STUDY.replace("{held_out: 0}", "{file: data.csv}"))
    (here / "deep" / "data.csv").write_text("1\n2\n3\n4\n5\n")
    study = load_study("deep/study.yaml")
    assert study.resolve("data.csv") == Path("deep/data.csv")
    assert study.data_files() == {"infer.observation.file": Path("deep/data.csv")}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("seed: 3", "seeed: 3", f'2: seeed: this key is not known. {TOP} Did you mean "seed"?'),
        ("seed: 3", "seed: -1", "2: seed: must be at least 0. Got -1."),
        ("seed: 3", "seed: true", "2: seed: must be a whole number. Got true."),
        ("seed: 3", "seed: '3'", "2: seed: must be a whole number. Got '3'."),
        ("seed: 3", "seed: 9000000000", "2: seed: must be less than 4294967296. Got 9000000000."),
        ("seed: 3", "seed: 1e99", "2: seed: must be a whole number. Got 1e+99."),
        ("name: small", "name: my study", "1: name: must be letters, digits, - and _ (at most 60), with a "
         "letter or digit first. Got 'my study'; rename it."),
        ("name: small", "name: 2024", "1: name: must be text (quotes make a text). Got 2024."),
        ("name: small", "# none", " name: this key is missing. Add it."),
        ("linear_gaussian, noise", "linear_gausian, noise", "6: simulator.use: there is no entry "
         f"'linear_gausian' in simulators; there are {', '.join(registry.names('simulators'))}, or "
         '"package.module:Class". Did you mean "linear_gaussian"?'),
        ("noise: 0.5", "nois: 0.5", "6: simulator.nois: this key is not known. Keys allowed here: "
         'outputs_count, noise. Did you mean "noise"?'),
        ("noise: 0.5", "noise: -0.5", "6: simulator.noise: must be at least 0. Got -0.5."),
        ("noise: 0.5", "noise: .nan", "6: simulator.noise: must be a finite number. Got nan."),
        ("noise: 0.5", "space: []", "6: simulator.space: this key is not known. Write the parameters under "
         "`parameters:`."),
        ("simulator: {use: linear_gaussian, noise: 0.5}", "simulator: [linear_gaussian]", "6: simulator: "
         "must be an entry's name or a mapping {use: NAME, ...}. Got ['linear_gaussian']."),
        ("simulator: {use: linear_gaussian, noise: 0.5}", "simulator:", "6: simulator: this key is missing. "
         f"Add it: {{use: NAME, ...}} with a NAME of {', '.join(registry.names('simulators'))}."),
        ("use: sobol, ", "use: sobel, ", "7: design.use: there is no entry 'sobel' in designs; there are "
         f"{', '.join(registry.names('designs'))}, or \"package.module:Class\". Did you mean \"sobol\"?"),
        ("runs: 32", "rums: 32", "7: design.rums: this key is not known. Keys allowed here: use, runs, "
         'held_out, replicates, file, fidelities. Did you mean "runs"?'),
        ("runs: 32", "runs: many", "7: design.runs: must be a whole number. Got 'many'."),
        ("runs: 32", "runs: 3", f"7: design.runs: must be at least {LEAST}, for emulators.quadratic needs that "
         f"many with 2 parameters. Got 3.\n7: design.runs: must be at least {LEAST}, for emulators.second needs that "
         "many with 2 parameters. Got 3."),
        ("[0.2, 0.4]", "[0.4, 0.2]", "4: parameters.a.uniform: low must be below high. Got low = 0.4, high = "
         "0.2; swap them or widen the range."),
        ("[0.2, 0.4]", "[0.2]", "4: parameters.a.uniform: must be [low, high]. Got [0.2]."),
        ("[0.2, 0.4]", "[0.2, high]", "4: parameters.a.uniform.high: must be a number. Got 'high'."),
        ("[0.2, 0.4]", "[0.2, .inf]", "4: parameters.a.uniform: low and high must be finite. Got [0.2, inf]."),
        ("uniform", "unifrom", "4: parameters.a.unifrom: this key is not known. Keys allowed here: uniform, "
         'log_uniform, normal, log_normal, truncated_normal, unit, label. Did you mean "uniform"?'),
        ("  b: {normal", "  a: {normal", "5:3: parameters.a: a key must stand once. Got it twice, first in "
         "line 4; delete or rename one of them."),
        ("sd: 1.5", "sd: -1.5", "5: parameters.b.normal: sd must be positive. Got -1.5; give a standard "
         "deviation above 0."),
        ("unit: km", "uniform: [0, 1]", "5: parameters.b: must have one prior of uniform, log_uniform, "
         "normal, log_normal, truncated_normal. Got normal and uniform."),
        ("unit: km", "unit: 3", "5: parameters.b.unit: must be text (quotes make a text). Got 3."),
        ("  b: {normal: {mean: 0, sd: 1.5}, unit: km}", "  b c: {uniform: [0, 1]}", "5: parameters.b c: a "
         "parameter's name must be letters, digits and _. Got 'b c'."),
        ("simulate:", "simulate: {timeout: -1}", "8: simulate.timeout: must be greater than 0. Got -1."),
        ("simulate:", "simulate: {retry_failed: no}", "8: simulate.retry_failed: must be true or false. Got "
         "'no'."),
        ("simulate:", "simulate: {require: 1.5}", "8: simulate.require: must be at most 1. Got 1.5."),
        ("simulate:", "simulate: fast", "8: simulate: must be a mapping, {key: value}. Got 'fast'."),
        ("use: serial", "use: seriel", "9: cluster.use: must be one of serial, local, address, slurm, pbs, "
         "lsf, htcondor, sge, oar, moab, or the class of a Dask cluster, package.module:Class. Got 'seriel'. "
         "Did you mean \"serial\"?"),
        ("use: serial", "minimum: 3", "9: cluster.minimum: must be at most cluster.workers = 2. Got 3; raise workers, "
         "which is the most there may be."),
        ("use: serial", "use: serial, minimum: 1", "9: cluster.minimum: is only read where workers can be started. Got "
         "use: serial; take it out."),
        ("use: serial", "use: address", "9: cluster.address: must be the address of a Dask scheduler, such "
         "as tcp://host:8786. Got ''; add it."),
        ("use: serial", "address: tcp://x:1", "9: cluster.address: is only read with `use: address`. Got "
         "use: local; change one of them."),
        ("  second: {", "  2nd emulator: {", "12: emulators.2nd emulator: must be letters, digits, - and _ "
         "(at most 60), with a letter or digit first. Got '2nd emulator'; rename it."),
        ("  second: {", "  auto: {", "12: emulators.auto: the name auto stands for the best emulator in "
         "train.champion. Choose another name."),
        ("baseline: quadratic", "baseline: quadratik", "13: train.baseline: must name an emulator of this "
         "study: quadratic, second. Got 'quadratik'. Did you mean \"quadratic\"?"),
        ("champion: auto", "champion: quadratic", "13: train.champion: must not be the baseline. Got "
         "'quadratic' for both; change one of them."),
        ("  second: {use: polynomial, log: false}", "", "13: train.baseline: must leave another emulator. "
         "There is only quadratic; add one, or take this out."),
        ("gradient_points: 5", "gradient_points: 13", "14: validate.gradient_points: must be at most "
         "design.held_out = 12. Got 13; raise design.held_out or lower this."),
        ("{held_out: 0}", "{held_out: 12}", "16: infer.observation.held_out: must be below design.held_out = "
         "12, for runs are numbered from 0. Got 12."),
        ("{held_out: 0}", "{held_out: 0, file: x}", "16: infer.observation: must have one of held_out, "
         "parameters and file. Got held_out and file; keep one.\n16: infer.observation.file: there is no "
         "file x; paths are relative to the study's file."),
        ("{held_out: 0}", "{file: study.yml, noise: true}", "16: infer.observation.noise: must be false for a "
         "file, which is an observation already. Got true; take it out.\n16: infer.observation.file: there "
         "is no file study.yml; paths are relative to the study's file. Did you mean \"study.yaml\"?"),
        ("{held_out: 0}", "{parameters: {a: 0.5, beta: 1}}", "16: infer.observation.parameters.beta: this "
         "parameter is not known. The study has a, b.\n16: infer.observation.parameters: must name every "
         "parameter. Missing: b.\n16: infer.observation.parameters.a: must lie in the prior, for emulators "
         "know nothing outside. Got 0.5."),
        ("relative_error: 0.02", "relative_error: [0.1, 0.2]", "17: infer.likelihood: relative_error must be "
         "one number, or a list of 5, one per output. Got 2 numbers."),
        ("relative_error: 0.02", "relative_error: two", "17: infer.likelihood.relative_error: must be a number "
         "or must be a list, [ ... ]. Got 'two'."),
        ("relative_error: 0.02", "covariance_file: c.csv", "17: infer.likelihood.covariance_file: there is "
         "no file c.csv; paths are relative to the study's file."),
        ("draws: 200", "draws: 10", "21: check.importance_runs: must be at most infer.draws x infer.chains = "
         "40. Got 50; raise infer.draws or lower this."),
        ("importance_runs: 50", "recovery: 13", "21: check.recovery: must be at most design.held_out = 12. "
         "Got 13; raise design.held_out or lower this."),
        ("tracking: {uri: off}", "tracking: {uri: ./mlruns}", "22: tracking.uri: must be a database or a "
         "server, for MLflow gave up its folders of files. Got './mlruns'; write sqlite:///mlflow.db, or https://... "
         "of a server."),
        ("emulators:\n  quadratic: {use: polynomial}\n  second: {use: polynomial, log: false}\ntrain: {champion: auto, "
         "baseline: quadratic}", "emulators: atuo", "10: emulators: must be auto, or names with entries, such as "
         "{flow: {use: flow}}. Got 'atuo'."),
        ("tracking: {uri: off}", "checks: [accuracy]", "22: checks: must be names with entries, such as "
         "{accuracy: {use: accuracy}}. Got ['accuracy']."),
        ("tracking: {uri: off}", "checks: {a: {use: acuracy}}", "22: checks.a.use: there is no entry "
         f"'acuracy' in checks; there are {', '.join(registry.names('checks'))}, or \"package.module:Class\". Did you "
         'mean "accuracy"?'),
        ("tracking: {uri: off}", "checks: {mine: {median: 1}}", "22: checks.mine.use: must name an entry of "
         f"checks: {', '.join(registry.names('checks'))}. Got nothing."),
        ("tracking: {uri: off}", "output: study.yaml", "22: output: must be a folder. Got 'study.yaml', which "
         "is a file; name another."),
    ],
)  # fmt: skip
def test_mistakes_are_answered_in_a_sentence(old, new, said):
    assert re.sub("^study.yaml:", "", changed(old, new), flags=re.M) == said


def test_all_mistakes_are_told_at_once():
    said = changed("noise: 0.5", "noise: x", "design.runs=0", "parameters.a.uniform=[2, 1]", "infer.chains=one",
                   "emulators.second.lag=1", "simulate.timeout=0")  # fmt: skip
    assert said.splitlines() == [
        "--set design.runs=0: design.runs: must be at least 1. Got 0.",
        "--set simulate.timeout=0: simulate.timeout: must be greater than 0. Got 0.",
        "--set infer.chains=one: infer.chains: must be a whole number. Got 'one'.",
        "--set parameters.a.uniform=[2, 1]: parameters.a.uniform: low must be below high. Got low = 2.0, high = 1.0; "
        "swap them or widen the range.",
        "study.yaml:6: simulator.noise: must be a number. Got 'x'.",
        "--set emulators.second.lag=1: emulators.second.lag: this key is not known. Keys allowed here: "
        f'{", ".join(registry._keys(registry.find("emulators", "polynomial"), ()))}. Did you mean "log"?',
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "study.yaml: a study must be keys and values, such as `name: quickstart`. Got nothing."),
        ("- a\n- b", "study.yaml: a study must be keys and values, such as `name: quickstart`. Got ['a', 'b']."),
        ("name: [small", "study.yaml:1:13: this is not YAML: expected ',' or ']', but got '<stream end>' (begun in "
         "line 1). Values between brackets or braces need commas, and a closing bracket or brace."),
    ],
)  # fmt: skip
def test_a_file_that_is_no_study(text, said):
    Path("study.yaml").write_text(text)
    for load in (load_study, load_raw):
        with pytest.raises(InputError) as caught:
            load("study.yaml")
        assert str(caught.value) == said


def test_a_graph_is_asked_for_where_there_is_none(here, monkeypatch):
    (here / "closed_lab.py").write_text(
        "from dataclasses import dataclass\nfrom emulate.simulators.linear_gaussian import LinearGaussian\n"
        "from typing import ClassVar\n"
        "@dataclass(frozen=True, kw_only=True)\nclass Closed(LinearGaussian):\n"
        "    differentiable: ClassVar[bool] = False\n"
    )
    monkeypatch.syspath_prepend(str(here))
    change = "simulator.use=closed_lab:Closed"
    assert overridden(change) == (
        "study.yaml:14: validate.gradient.use: reverse must have a simulator that carries a torch graph. closed_lab:Closed "
        "carries none; use finite_difference."
    )
    study = load_study("study.yaml", [change, "validate.gradient=auto"])
    assert study.gradient_spec("jacobian")["use"] == "finite_difference"


def test_a_method_that_must_see_the_draws_of_a_simulator_is_refused_in_a_study(here):
    assert overridden("validate.gradient.use=score") == (
        "--set validate.gradient.use=score: validate.gradient.use: score must see the sites of a simulator, which a "
        "study hides from it. Got linear_gaussian; use reverse here, and score in Python."
    )


WAYS = "must be none, auto, or a way to differentiate such as {use: reverse}. "


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("true", f"{WAYS}Got true; write auto."),
        ("false", f"{WAYS}Got false; write none."),
        ("3", f"{WAYS}Got 3; write none."),
        ("[reverse]", f"{WAYS}Got ['reverse']; write none."),
    ],
)
def test_jacobians_are_asked_for_in_a_word(value, said):
    assert overridden(f"simulate.jacobians={value}") == (
        f"--set simulate.jacobians={value}: simulate.jacobians: {said}"
    )


@pytest.mark.parametrize("path", ["simulate.jacobians", "validate.gradient"])
def test_a_way_to_differentiate_that_cannot_be(path, here, monkeypatch):
    ways = ", ".join(registry.names("gradients"))
    assert overridden(f"{path}=sideways") == (f"--set {path}=sideways: {path}.use: there is no entry 'sideways' in "
                                              f'gradients; there are {ways}, or "package.module:Class".')  # fmt: skip
    assert overridden(f"{path}={{use: simulator, step: 1}}") == (
        f"--set {path}={{use: simulator, step: 1}}: {path}.step: this key is not known, for the simulator's own way has no "
        "settings. Take it out.")  # fmt: skip
    assert overridden(f"{path}=simulator") == (
        f"--set {path}=simulator: {path}.use: simulator must have a simulator with a `jacobian` of its own. "
        "linear_gaussian has none; use reverse.")  # fmt: skip
    assert overridden(f"{path}={{step: 0.1}}").endswith(f"{path}.step: this key is not known.")


def test_auto_is_the_first_way_that_the_simulator_allows(here, monkeypatch):
    (here / "ways.py").write_text(
        "from dataclasses import dataclass\nfrom emulate.simulators.linear_gaussian import LinearGaussian\n"
        "from typing import ClassVar\n"
        "@dataclass(frozen=True, kw_only=True)\nclass Knows(LinearGaussian):\n"
        "    def jacobian(self, theta, *, seed):\n        return self.run(theta, seed=seed), self.matrix\n"
        "@dataclass(frozen=True, kw_only=True)\nclass Closed(LinearGaussian):\n"
        "    differentiable: ClassVar[bool] = False\n"
    )
    monkeypatch.syspath_prepend(str(here))
    auto = ["validate.gradient=auto", "simulate.jacobians=auto"]
    for use, first in (("ways:Knows", "simulator"), ("linear_gaussian", "reverse"),
                       ("ways:Closed", "finite_difference")):  # fmt: skip
        study = load_study("study.yaml", [f"simulator.use={use}", *auto])
        assert study.gradient_spec("tangent") == study.gradient_spec("jacobian")
        assert study.gradient_spec("tangent")["use"] == first
        assert study.to_dict()["simulate"]["jacobians"] == study.gradient_spec("tangent")
    width = load_study("study.yaml", ["simulate.jacobians=finite_difference"]).gradient_spec("tangent")["scale"]
    assert width[0] == pytest.approx(0.2)
    assert load_study("study.yaml", ["simulator.use=ways:Knows"]).gradient_spec("jacobian") == {"use": "reverse"}
    assert "jacobians" not in load_study("study.yaml").to_dict()["simulate"]


def test_a_simulator_without_parameters_of_its_own_asks_for_them(here, monkeypatch):
    (here / "lab2.py").write_text(
        "from dataclasses import dataclass\nfrom emulate.contracts import Simulator\n"
        "@dataclass(frozen=True, kw_only=True)\nclass Bare(Simulator):\n    outputs = stochastic = run = None\n"
    )
    monkeypatch.syspath_prepend(str(here))
    start, end = STUDY.index("parameters:"), STUDY.index("simulator:")
    assert changed(STUDY[start:end], "", "simulator={use: 'lab2:Bare'}") == (
        "study.yaml: parameters: this key is missing, and lab2:Bare has no parameters of its own. Add it, such as "
        "{h: {uniform: [0.6, 0.8]}}."
    )


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("design.rums=3", "--set design.rums=3: design.rums: this key is not known. Keys allowed here: use, runs, "
         'held_out, replicates, file, fidelities. Did you mean "runs"?'),
        ("desing.runs=3", f"--set desing.runs=3: desing: this key is not known. {TOP} Did you mean \"design\"?"),
        ("emulators.secnd.log=true", "--set emulators.secnd.log=true: study.yaml has no emulators.secnd; it has "
         'quadratic, second. Did you mean "second"?'),
        ("parameters.a.uniform.0=9", "--set parameters.a.uniform.0=9: parameters.a.uniform: low must be below high. "
         "Got low = 9.0, high = 0.4; swap them or widen the range."),
        ("parameters.a.uniform.2=9", "--set parameters.a.uniform.2=9: '2' must be a place of the list, 0 to 1."),
        ("seed.x=1", "--set seed.x=1: seed has no keys. Got 3; set it as a whole."),
        ("seed", "--set seed: must be KEY.PATH=VALUE, such as --set design.runs=32."),
        (".=1", "--set .=1: must be KEY.PATH=VALUE, such as --set design.runs=32."),
        ("seed=[1", "--set seed=[1:1:3: this is not YAML: expected ',' or ']', but got '<stream end>' (begun in "
         "line 1). Values between brackets or braces need commas, and a closing bracket or brace."),
        ("seed=", "--set seed=: seed: must be a whole number. Got nothing."),
        ("tracking.url=https://ada:lovelace@lab.org", "--set tracking.url=https://***@lab.org: tracking.url: this key "
         'is not known. Keys allowed here: uri. Did you mean "uri"?'),
    ],
)  # fmt: skip
def test_overrides_are_answered_where_they_were_typed(override, said):
    assert overridden(override) == said


def test_overrides_lie_over_the_file_in_order():
    study = load_study("study.yaml", ["design.runs=40", "design.runs=1e2", "emulators.third=polynomial",
                                      "emulators.third.calibrate=false", "parameters.b.normal.sd=2",
                                      "simulate.timeout=0.5", "name=other", "infer.sampler.max_steps=32"])  # fmt: skip
    assert (study.design.runs, study.simulate.timeout, study.folder) == (100, 0.5, Path("runs/other"))
    assert study.emulators["third"].calibrate is False
    assert study.space.parameters[1].prior.sd == 2.0
    assert load_raw("study.yaml", ["name=other"])["folder"] == Path("runs/other")


def test_runs_that_are_held_out_for_error_bars_count_before_the_first_run():
    spec = "emulators.third={use: polynomial, degree: 4, calibrate: conformal}"
    assert load_study("study.yaml", [spec, "design.runs=40"]).emulators["third"].calibrate == "conformal"
    assert overridden(spec, "design.runs=34") == ("--set design.runs=34: design.runs: must be at least 35, for "
                                                  "emulators.third needs that many with 2 parameters. Got 34.")  # fmt: skip
    assert overridden("emulators.third={use: polynomial, calibrate: folds}").endswith(
        "emulators.third.calibrate: must be true or false or must be 'conformal'. Got 'folds'."
    )


def test_secrets_of_the_tracking_server_are_not_written_down():
    study = load_study("study.yaml", ["tracking.uri=https://ada:lovelace@lab.org"])
    assert study.tracking.uri == "https://ada:lovelace@lab.org"
    assert "lovelace" not in json.dumps(study.to_dict())


def test_name_and_folder_need_nothing_heavy():
    code = ("import sys; from pipelines.config import load_raw; print(load_raw('study.yaml')['name']);"
            "print(*{m.split('.')[0] for m in sys.modules})")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          env={"PYTHONPATH": str(ROOT), "PATH": ""})  # fmt: skip
    name, loaded = done.stdout.splitlines()
    assert name == "small"
    assert not {"torch", "mlflow", "dask", "numpy", "scipy"} & set(loaded.split())


_key = st.sampled_from(["name", "seed", "use", "design", "infer", "simulator", "checks", "a", "observation", "runs"])
_value = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.sampled_from(["gp", "sobol", "hmc", ""]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_key, inner, max_size=3), max_leaves=6,
)  # fmt: skip
_path = st.sampled_from([
    "name", "seed", "parameters", "parameters.a", "parameters.a.uniform", "simulator", "simulator.use", "design",
    "design.use", "design.runs", "simulate", "simulate.jacobians", "cluster", "cluster.options", "emulators", "emulators.second",
    "emulators.second.log", "train", "train.champion", "validate", "validate.gradient", "infer", "infer.observation",
    "infer.observation.parameters", "infer.likelihood", "infer.sampler", "infer.draws", "check", "checks",
    "checks.accuracy", "tracking", "output",
])  # fmt: skip


@given(_path, _value)
@settings(max_examples=150, deadline=None)
def test_whatever_stands_anywhere_meets_a_study_or_a_sentence(tmp_path_factory, path, value):
    file = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    file.write_text(STUDY)
    text = json.dumps(value).replace("NaN", ".nan").replace("Infinity", ".inf")
    said = "fuzz.yaml: ok."
    try:
        load_study(file, [f"{path}={text}"])
    except InputError as e:
        said = str(e)
    for line in said.splitlines():
        assert line.startswith(("--set ", str(file), "fuzz.yaml"))
        assert line.endswith((".", "?"))


def test_what_smoothing_does_is_checked_where_histograms_are_smoothed():
    soft = ("simulator={use: lund, events: 100, bandwidth: 0.3}", "infer.likelihood=predictive")
    Path("lund.yaml").write_text("name: lund\nsimulator: lund\n")
    assert "softening" in load_study("lund.yaml", soft).checks
    hard = (soft[0].replace("0.3", "0"), soft[1])
    assert "softening" not in load_study("lund.yaml", hard).checks
    with pytest.raises(
        InputError, match=r"checks\.softening: must have a simulator whose histograms are smoothed by a bandwidth"
    ):
        load_study("lund.yaml", (*hard, "checks={softening: }"))
