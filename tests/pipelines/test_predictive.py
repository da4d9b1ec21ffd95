"""A study whose observation is a run of its stochastic simulator: infer and check, and what cannot be asked of it."""

import shutil

import numpy as np
import pytest

import emulate as library
from emulate.errors import InputError
from pipelines import figures, files, report
from pipelines.config import load_study
from pipelines.typeset import prose
from tests.pipelines.test_stages import emulate

NOISE = 0.5
STUDY = """\
name: noisy
seed: 2
simulator: {use: linear_gaussian, noise: 0.5}
design: {runs: 96, held_out: 30}
cluster: {use: serial}
emulators: {line: {use: polynomial, degree: 1}}
train: {champion: line, baseline: null}
validate: {gradient_points: 1}
infer:
  observation: {parameters: {a: 0.4, b: -0.3}}
  likelihood: {use: predictive}
  sampler: {use: laplace}
  draws: 200
  chains: 8
check: {recovery: 10}
checks: {recovery: , feasible: , confirmation: }
tracking: {uri: 'off'}
output: out
"""
CHECKS = "checks: {recovery: , feasible: , confirmation: }\n"


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The study's folder, what was printed, and the errors that the figure of the observation drew."""
    folder, drawn = tmp_path_factory.mktemp("noisy"), {}
    (folder / "study.yaml").write_text(STUDY)
    draw = figures.posterior_prediction

    def noted(outputs, data, sigma, some, truth=None):
        drawn.update(sigma=sigma.numpy(), truth=truth)
        return draw(outputs, data, sigma, some, truth=truth)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "posterior_prediction", noted)
        code, output = emulate(folder, "run", "study.yaml")
    assert code == 0, output
    return folder / "out", " ".join(output.split()), drawn


def test_the_posterior_is_that_of_one_run(study):
    """Its closed form with the known noise; the emulator learnt mean and noise from 96 runs, which says how near: the
    error of a coefficient is about 1 / sqrt(96) of a posterior sd, that of the noise 1 / sqrt(2 x 96 x 5)."""
    folder, output, _ = study
    seen = files.read_json(folder / "infer" / "observation.json")
    assert seen["sentence"] == "observation made by a run at given parameters", "no noise was added"
    a, y = np.cos(np.outer(np.arange(1, 6), np.arange(1, 3))), np.array(seen["data"])
    v = np.linalg.inv(a.T @ a / NOISE**2 + np.eye(2))
    mean, sd = v @ a.T @ y / NOISE**2, np.sqrt(np.diag(v))
    found = files.read_json(folder / "infer" / "summary.json")["parameters"]
    assert np.abs([found[n]["mean"] for n in "ab"] - mean).max() < 4 * sd.max() / 96**0.5 * np.abs(y).max()
    assert np.abs(np.log([found[n]["sd"] for n in "ab"] / sd)).max() < 4 / (2 * 96) ** 0.5
    assert "no point of the box explains the observation" not in output


def test_the_observation_is_drawn_with_the_scatter_of_a_run(study):
    folder, _, drawn = study
    best = files.read_tensors(folder / "infer" / "draws.safetensors")["map"]
    sd = library.load(folder / "emulators" / "line").predict(best).variance.sqrt()
    np.testing.assert_allclose(drawn["sigma"], sd.numpy(), rtol=1e-12)
    assert drawn["truth"] is None, "the run is the observation itself"


def test_no_true_run_is_weighed(study):
    folder, output, _ = study
    stored = files.read_tensors(folder / "check" / "evidence.safetensors")
    assert stored["weighted.theta"].shape == (0, 2)
    assert len(stored["weighted.draws"]) == 1600
    assert "10 recovered observations (" in output
    assert "true runs at draws" not in output


def test_true_runs_at_the_posterior_mean_confirm_it(study):
    """32 runs with seeds of their own; the correction agrees with its closed form on the very runs in the store."""
    folder, output, _ = study
    made = files.read_json(folder / "check" / "corrected.json")
    stored = files.read_tensors(folder / "check" / "evidence.safetensors")
    y, theta = (stored[f"confirmation.{name}"].numpy() for name in ("y", "theta"))
    draws = files.read_tensors(folder / "infer" / "draws.safetensors")["theta"].reshape(-1, 2).numpy()
    assert (made["runs"], made["failed"], y.shape) == (32, 0, (32, 5))
    assert len(np.unique(y, axis=0)) == 32, "every run has its own seed"
    np.testing.assert_allclose(theta, draws.mean(0), rtol=1e-12)
    emulator = library.load(folder / "emulators" / "line")
    j = emulator.jacobian(theta)[:, :].numpy()
    mean, c = (x.numpy() for x in emulator.predict(theta).gaussian())
    v = np.linalg.inv(j.T @ np.linalg.solve(c, j) + np.eye(2))  # of normal priors of unit width
    delta = v @ j.T @ np.linalg.solve(c, y.mean(0) - mean)
    found = made["parameters"]
    assert [found[n]["delta"] for n in "ab"] == pytest.approx(
        delta, abs=0.1 * np.sqrt(v.diagonal().max())
    )  # C moves a little
    assert [found[n]["corrected"] for n in "ab"] == pytest.approx(theta - [found[n]["delta"] for n in "ab"], abs=1e-12)
    findings = {f["name"]: f for f in files.read_json(folder / "check" / "findings.json")["emulators"]["line"]}
    worst = max(abs(found[n]["delta"] / found[n]["sd"]) for n in "ab")
    assert findings["confirmation.shift"]["value"] == pytest.approx(worst)
    assert {"confirmation.chi2", "confirmation.shift.a", "confirmation.shift.b"} < set(findings)
    assert "32 true runs at the posterior mean, 10 recovered observations" in output
    assert (folder / "check" / "confirmation.png").exists()


def test_the_one_number_comes_from_the_true_runs_at_the_mean(study):
    """The root of delta^T V^-1 delta less the noise of the runs, first in the terminal and in the page."""
    folder, output, _ = study
    told = files.read_json(folder / "check" / "bias.json")
    found = files.read_json(folder / "check" / "corrected.json")
    assert found["by"] == "confirmation"
    assert "factor" not in told
    parameters = found["parameters"].values()
    off, noise = (sum((p[k] / p["sd"]) ** 2 for p in parameters) for k in ("delta", "error"))
    assert told["move"]["value"] == pytest.approx(max(off - noise, 0) ** 0.5, abs=0.1)  # but for the correlation
    lines = " ".join(output.split())
    assert told["sentence"].endswith("; no true run says what it does to its width.")
    assert lines.index(told["sentence"]) < lines.index("check (line)")
    page = report.render(folder)
    assert prose(told["sentence"]) in page
    assert "made at its mean; to first order in the shift" in page


def test_a_second_check_makes_no_run_again_and_fewer_take_the_first(study, tmp_path):
    folder, *_ = study
    shutil.copytree(folder.parent, here := tmp_path / "x")
    before = set(here.glob("out/store/runs/*/*"))
    _, output = emulate(here, "check", "study.yaml", "--set", "check.confirm=24")
    assert "24 true runs at the posterior mean" in " ".join(output.split())
    assert files.read_json(here / "out" / "check" / "corrected.json")["runs"] == 24
    assert set(here.glob("out/store/runs/*/*")) == before
    emulate(here, "check", "study.yaml", "--set", "check.confirm=0", "--set", "checks={recovery: }")
    assert not (here / "out" / "check" / "corrected.json").exists()


def test_noise_of_the_observation_counts_beside_that_of_a_run(study, tmp_path):
    """With 1.5 beside the 0.5 of a run the answer is less sure, and as many true runs tell its shift the better."""
    folder, *_ = study
    shutil.copytree(folder.parent, here := tmp_path / "x")
    parts = ", ".join(f"y{i}: {{absolute_error: 1.5}}" for i in range(5)).replace("{", "{use: gaussian, ")
    like = ("--set", f"infer.likelihood={{use: combined, parts: {{{parts}}}}}", "--set", "check.importance_runs=2")
    for stage in ("infer", "check"):
        code, output = emulate(here, stage, "study.yaml", *like)
        assert code == 0, output
    assert "32 true runs at the posterior mean, 2 true runs at draws" in " ".join(output.split())
    stored = files.read_tensors(here / "out" / "check" / "evidence.safetensors")
    own = library.load(folder / "emulators" / "line").predict(stored["confirmation.theta"]).gaussian()[1]
    np.testing.assert_allclose(stored["confirmation.spread"], own.numpy() + 1.5**2 * np.eye(5), rtol=1e-9, atol=1e-12)
    sure, less = (files.read_json(x / "check" / "corrected.json")["parameters"] for x in (folder, here / "out"))
    assert all(less[n]["error"] / less[n]["sd"] < 0.6 * sure[n]["error"] / sure[n]["sd"] for n in "ab")


def _loaded(tmp_path, *changes: tuple[str, str], overrides: tuple[str, ...] = ()):
    text = STUDY
    for old, new in changes:
        assert text.count(old) == 1
        text = text.replace(old, new)
    (tmp_path / "study.yaml").write_text(text)
    return load_study(tmp_path / "study.yaml", overrides)


def test_checks_that_nobody_named_are_those_that_can_be_made(tmp_path):
    study = _loaded(tmp_path, (CHECKS, ""))
    assert "posterior" not in study.checks
    assert {"recovery", "feasible", "calibration", "confirmation"} <= set(study.checks)
    assert (study.infer.observation.noise, study.check.confirm) == (False, 32)
    assert "confirmation" not in _loaded(tmp_path, (CHECKS, ""), overrides=("check.confirm=0",)).checks


@pytest.mark.parametrize(("checks", "confirm", "runs"), [("", "null", 0), ("", "16", 16), (CHECKS, "null", 32),
                                                         ("checks: {recovery: }\n", "null", 0)])  # fmt: skip
def test_true_runs_are_made_where_something_reads_them(tmp_path, checks, confirm, runs):
    """With noise of its own an observation can weigh true runs, so that confirmation is for those who ask."""
    like = ("{use: predictive}", "{use: gaussian, absolute_error: 1}")
    study = _loaded(tmp_path, (CHECKS, checks), like, overrides=(f"check.confirm={confirm}",))
    assert study.check.confirm == runs
    assert ("confirmation" in study.checks) == (runs > 0)


@pytest.mark.parametrize(("changes", "overrides", "said"), [
    ([("noise: 0.5", "noise: 0")], (), "infer.likelihood.use: predictive must have a simulator that is stochastic, for the "
     "noise of a run is all the noise there is. linear_gaussian is not; use gaussian with the observation's error."),
    ([("feasible: ,", "mine: {use: posterior},")], (), "checks.mine: must not be posterior with predictive: a true run is a "
     "draw and has no density that could weigh it. Take it out."),
    ([(CHECKS, "")], ("checks.posterior.shift=0.3",), "checks.posterior: must not be posterior "
     "with predictive: a true run is a draw and has no density that could weigh it. Take it out."),
    ([], ("check.confirm=0",), "check.confirm: must be at least 2, for checks.confirmation reads these runs. Got 0; raise it, or "
     "take the check out."),
    ([], ("check.confirm=1",), "check.confirm: must be 0, or at least 2 for a standard error. Got 1; raise it, or set it to 0."),
    ([("noise: 0.5", "noise: 0"), ("{use: predictive}", "{use: gaussian, absolute_error: 1}")], (), "checks.confirmation: must "
     "have a simulator that is stochastic, for the true runs of linear_gaussian at one point are all the same. Take it out; the "
     "check posterior weighs true runs."),
    ([("b: -0.3}}", "b: -0.3}, noise: true}")], (), "infer.observation.noise: must be false with predictive, for a run has "
     "all the noise of its observation. Got true; take it out."),
])  # fmt: skip
def test_what_cannot_be_is_refused_in_a_sentence(tmp_path, changes, overrides, said):
    with pytest.raises(InputError) as caught:
        _loaded(tmp_path, *changes, overrides=overrides)
    assert str(caught.value).endswith(f": {said}")
    assert len(str(caught.value).splitlines()) == 1


def test_importance_runs_that_are_not_made_need_no_draws(tmp_path):
    study = _loaded(tmp_path, ("draws: 200", "draws: 10"))
    assert study.check.importance_runs > study.infer.draws * study.infer.chains
