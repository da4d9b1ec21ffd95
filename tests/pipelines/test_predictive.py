"""A study whose observation is a run of its stochastic simulator: infer and check, and what cannot be asked of it."""

import numpy as np
import pytest

import emulate as library
from emulate.errors import InputError
from pipelines import figures, files
from pipelines.config import load_study
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
checks: {recovery: , feasible: }
tracking: {uri: 'off'}
output: out
"""


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


def _loaded(tmp_path, *changes: tuple[str, str], overrides: tuple[str, ...] = ()):
    text = STUDY
    for old, new in changes:
        assert text.count(old) == 1
        text = text.replace(old, new)
    (tmp_path / "study.yaml").write_text(text)
    return load_study(tmp_path / "study.yaml", overrides)


def test_checks_that_nobody_named_are_those_that_can_be_made(tmp_path):
    study = _loaded(tmp_path, ("checks: {recovery: , feasible: }\n", ""))
    assert "posterior" not in study.checks
    assert {"recovery", "feasible", "calibration"} <= set(study.checks)
    assert study.infer.observation.noise is False


@pytest.mark.parametrize(("changes", "overrides", "said"), [
    ([("noise: 0.5", "noise: 0")], (), "infer.likelihood.use: predictive must have a simulator that is stochastic, for the "
     "noise of a run is all the noise there is. linear_gaussian is not; use gaussian with the observation's error."),
    ([("feasible: }", "mine: {use: posterior}}")], (), "checks.mine: must not be posterior with predictive: a true run is a "
     "draw and has no density that could weigh it. Take it out."),
    ([("checks: {recovery: , feasible: }\n", "")], ("checks.posterior.shift=0.3",), "checks.posterior: must not be posterior "
     "with predictive: a true run is a draw and has no density that could weigh it. Take it out."),
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
