"""Split conformal error bars against their definition, and against the coverage that they promise."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

import emulate
from emulate import conformal
from emulate.contracts import rows_of
from emulate.distributions import Gaussian
from emulate.emulators.flow import Flow
from emulate.emulators.gp import GP
from emulate.emulators.mlp import MLP
from emulate.emulators.polynomial import Polynomial
from emulate.errors import CampaignError, InputError
from emulate.runs import Field, Outputs, Runs
from emulate.space import Parameter, Space, Uniform
from tests import laws
from tests.rivals import Bent

SPACE = Space((Parameter("a", Uniform(0.0, 1.0)), Parameter("b", Uniform(0.0, 1.0))))
OUTPUTS = Outputs((Field("rough"), Field("steep", positive=True)))
SMALL = MLP(members=3, width=4, layers=1, epochs=2, trend="linear", calibrate="conformal")


def drawn(n: int, seed: int) -> Runs:
    """Random points and noise that grows with a: a wave no parabola follows, and a positive output."""
    rng = np.random.default_rng([seed, 7])
    u = rng.random((n, 2))
    noise = rng.standard_normal((n, 2)) * (0.1 + u[:, :1])
    y = np.stack([np.sin(9 * u[:, 0]) + u[:, 1] + noise[:, 0], np.exp(3 * u[:, 0] ** 2 + 0.5 * noise[:, 1])], 1)
    return Runs.of(SPACE, OUTPUTS, u, y, stochastic=True)


def covered(recipe: Any, seed: int, n: int) -> np.ndarray:
    """Share `[2]` of 500 new runs inside the central 95 % interval, after a fit to n."""
    new = drawn(500, seed + 10**6)
    p = emulate.fit(recipe, drawn(n, seed), seed=seed).predict(new.theta)
    return (p.standard(torch.from_numpy(new.y)).abs() <= stats.norm.ppf(0.975)).double().mean(0).numpy()


def z_of(shares: list[np.ndarray], h: int) -> np.ndarray:
    """Of the mean coverage against 0.95; of one fit it is Beta(k, h + 1 - k), seen through 500 new runs."""
    k = 0.95 * (h + 1)
    variance = stats.beta(k, h + 1 - k).var() + 0.95 * 0.05 / 500
    return (np.mean(shares, 0) - 0.95) / np.sqrt(variance / len(shares))


@pytest.mark.parametrize("stated", [0.1, 1.0, 10.0])
def test_intervals_of_a_wrong_model_hold_what_they_promise(stated):
    """Boastful, as it is, and shy: mean coverage over 150 designs within 3.5 standard errors of 95 %."""
    z = z_of([covered(Bent(stated=stated, calibrate="conformal"), seed, 50) for seed in range(150)], 19)
    assert (np.abs(z) < 3.5).all(), z
    if stated != 1.0:
        z = z_of([covered(Bent(stated=stated), seed, 50) for seed in range(20)], 19)
        assert (z < -20 if stated < 1 else z > 3.5).all(), z


def test_intervals_of_a_hasty_network_hold_what_they_promise():
    z = z_of([covered(SMALL, seed, 195) for seed in range(25)], 39)
    assert (np.abs(z) < 3.5).all(), z


def test_shy_and_boastful_are_the_same_in_the_end():
    new = drawn(9, 99).theta
    boastful, shy = (
        emulate.fit(Bent(stated=s, calibrate="conformal"), drawn(60, 0), seed=0).predict(new) for s in (0.1, 10.0)
    )
    torch.testing.assert_close(shy._w_variance, boastful._w_variance, rtol=1e-6, atol=0.0)
    torch.testing.assert_close(shy.loc, boastful.loc, rtol=0.0, atol=0.0)


@pytest.mark.parametrize("h", [19, 20, 38, 39, 199])
def test_the_widening_is_the_quantile_of_the_definition(h):
    r = np.random.default_rng(h).standard_t(3, (h, 4))
    k = int(np.ceil(round((h + 1) * 0.95, 9)))
    twin = np.sort(np.abs(r), 0)[k - 1] / stats.norm.ppf(0.975)
    np.testing.assert_allclose(conformal.widening(torch.from_numpy(r)), twin, rtol=1e-14)


@pytest.mark.parametrize(("n", "h"), [(20, 19), (99, 19), (195, 39), (1000, 199), (9000, 999)])
def test_a_fifth_of_the_places_is_held_out_where_the_level_is_exact(n, h):
    theta = np.random.default_rng(0).random((n, 2))
    learnt, scored = conformal.held_out(theta, 0)
    assert len(scored) == h
    assert sorted([*learnt, *scored]) == list(range(n))
    assert conformal.held_out(theta, 0)[1].tolist() == scored.tolist() != conformal.held_out(theta, 1)[1].tolist()


def test_runs_that_repeat_a_place_stay_together():
    theta = np.repeat(np.random.default_rng(0).random((40, 2)), 3, 0)
    learnt, scored = conformal.held_out(theta, 3)
    assert (len(learnt), len(scored)) == (3 * 21, 19)
    assert not {tuple(t) for t in theta[learnt]} & {tuple(t) for t in theta[scored]}


def test_covariances_keep_their_correlations_and_gradients_follow():
    """D C D of the same fit, D the widening; the mean of a logarithm's exponential and its slope know of it."""
    emulator = emulate.fit(GP(kernel="rbf", mean="constant", starts=1, calibrate="conformal"), laws.runs(60), seed=0)
    s, theta = emulator.transform.widening, laws.points(5, seed=1)
    bare = emulate.transforms.OutputTransform({**emulator.transform.state_dict(), "widening": torch.ones_like(s)})
    p, plain = emulator.predict(theta), bare.push(emulator.core(emulator.space.scaled(theta)))
    torch.testing.assert_close(p._w_covariance, s[:, None] * plain._w_covariance * s, rtol=1e-12, atol=0.0)
    assert (s - 1).abs().max() > 0.05
    twin = rows_of(lambda t: emulator.predict(t).mean, theta)
    torch.testing.assert_close(emulator.jacobian(theta), twin, rtol=1e-9, atol=1e-12 * float(twin.abs().max()))
    draws = p.sample((20_000,), generator=torch.Generator().manual_seed(0))
    ratio = draws.var(0) / p.variance
    assert (ratio - 1).abs().max() < 0.1


def test_it_is_saved_and_loaded_with_the_emulator(tmp_path):
    emulator = emulate.fit(Polynomial(calibrate="conformal"), laws.runs(60), seed=0)
    again, theta = emulate.load(emulator.save(tmp_path / "x")), laws.points(4, seed=1)
    assert torch.equal(again.transform.widening, emulator.transform.widening)
    assert torch.equal(again.predict(theta).variance, emulator.predict(theta).variance)
    assert again.recipe == emulator.recipe == Polynomial(calibrate="conformal")
    assert again.provenance["held_out"] == 19
    assert again.taught_by(laws.runs(60)).all(), "runs that scaled its error bars are no test of them"
    assert emulate.fit(Polynomial(), laws.runs(60), seed=0).transform.widening is None


def test_an_output_that_is_constant_keeps_an_error_bar():
    runs = drawn(60, 0)
    runs = replace(runs, y=np.stack([np.full(60, 7.0), runs.y[:, 1]], 1))
    p = emulate.fit(Polynomial(calibrate="conformal"), runs, seed=0).predict(runs.theta)
    assert (p.variance > 0).all()
    assert torch.isfinite(p.log_prob(torch.from_numpy(runs.y))).all()


def test_too_few_runs_are_refused_in_words():
    with pytest.raises(CampaignError, match=r"^polynomial must have at least 26 finished runs for 2 parameters, 19 of them "
                       r"held out at places of their own\. Got 25 \(0 failed\); run more points, or choose calibrate: "
                       r"true, or a recipe that needs fewer\.$"):  # fmt: skip
        emulate.fit(Polynomial(calibrate="conformal"), drawn(25, 0), seed=0)
    emulate.fit(Polynomial(calibrate="conformal"), drawn(26, 0), seed=0)


def test_repeated_places_are_no_more_runs():
    few = drawn(21, 0)
    runs = few.select(np.repeat(np.arange(21), 3))
    with pytest.raises(CampaignError, match=r"19 of them held out at places of their own\. Got 63"):
        emulate.fit(Polynomial(degree=2, calibrate="conformal"), runs.select(slice(0, 63)), seed=0)


def test_a_prediction_of_another_shape_is_refused_in_words():
    recipe = Flow(transforms=1, width=4, layers=1, bins=4, epochs=1, points=8, calibrate="conformal")
    with pytest.raises(InputError, match=r"^calibrate: conformal scales the error bars of a normal prediction\. Got one of "
                       r"another shape from flow; set calibrate: true, or choose another recipe\.$"):  # fmt: skip
        emulate.fit(recipe, drawn(60, 0), seed=0)


def test_standard_residuals_are_normal_draws():
    one = torch.ones(3, dtype=torch.float64)
    p = Gaussian(one, 4 * one[:1], one[None], 0 * one, log=torch.tensor([True, False, False]))
    torch.testing.assert_close(
        p.standard(torch.tensor([np.exp(3.0), 3.0, -1.0]).double()), one * torch.tensor([1, 1, -1])
    )
