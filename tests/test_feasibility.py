"""Where the simulator runs: known regions, no failure, one failure, nothing but failures; the file under damage."""

import json

import numpy as np
import pytest
import torch

import emulate
from emulate import artefact
from emulate.distributions import Exact
from emulate.errors import InputError, StoreError
from emulate.feasibility import Feasibility
from emulate.likelihoods.gaussian import Gaussian
from emulate.posterior import Posterior
from emulate.runs import Field, Outputs, Runs
from emulate.space import LogUniform, Normal, Parameter, Space, Uniform

SPACE = Space((Parameter("omega", Uniform(0.2, 0.4), "kg"), Parameter("rate", LogUniform(1e-3, 1e-1)),
               Parameter("shift", Normal(5.0, 2.0))))  # fmt: skip


def runs(n: int, works, seed: int = 1) -> Runs:
    """n runs of a Sobol design; `works(u)` `[n]` says which finish."""
    u = torch.quasirandom.SobolEngine(3, scramble=True, seed=seed).draw(n, dtype=torch.float64)
    y = np.where(works(u.numpy())[:, None], 1.0, np.nan)
    return Runs.of(SPACE, Outputs((Field("y"),)), SPACE.from_unit(u).numpy(), y)


@pytest.fixture(scope="module")
def half() -> Feasibility:
    return Feasibility.fit(runs(128, lambda u: u[:, 0] < 0.7), seed=0)


def test_the_region_is_found_in_physical_units_and_said_in_words(half):
    theta = {"omega": [0.25, 0.38], "rate": [0.01, 0.01], "shift": [5.0, 5.0]}
    assert half.probability(theta).tolist() == pytest.approx([1, 0], abs=0.05)
    assert half.inside(theta).tolist() == [True, False]
    assert half.share() == pytest.approx(0.3, abs=0.03)
    said = half.sentence()
    assert said.startswith("38 of 128 runs failed. Failure is likelier than success in ")
    assert said.endswith(" kg.")
    assert "rate" not in said
    edge = float(said.split("omega above ")[1].split()[0])
    assert edge == pytest.approx(0.34, abs=0.006)


def test_two_sided_and_low_ranges_are_said():
    middle = Feasibility.fit(runs(200, lambda u: np.abs(u[:, 0] - 0.5) > 0.2), seed=0).sentence()
    assert "omega from 0.2" in middle
    assert "rate below 0.00" in Feasibility.fit(runs(128, lambda u: u[:, 1] > 0.3), seed=0).sentence()
    ball = Feasibility.fit(runs(200, lambda u: ((u - 0.5) ** 2).sum(1) < 0.25), seed=0).sentence()
    assert ball.endswith("no parameter's range alone says where; see the figure.")


def test_no_failure_is_never_certainty():
    f = Feasibility.fit(runs(64, lambda u: u[:, 0] < 2), seed=0)
    theta = SPACE.pack(runs(8, lambda u: u[:, 0] < 2, 5).theta).requires_grad_()
    assert f.probability(theta).tolist() == pytest.approx([64.5 / 65] * 8)
    assert torch.autograd.grad(f.log_prob(theta).sum(), theta)[0].abs().max() == 0
    assert f.sentence() == "All 64 runs finished: a new one fails with a probability of about 0.0077."
    assert f.inside(theta).all()


def test_nothing_but_failures_says_so():
    f = Feasibility.fit(runs(16, lambda u: u[:, 0] > 2), seed=0)
    assert f.rate == pytest.approx(0.5 / 17)
    assert not f.inside(runs(8, lambda u: u[:, 0] < 2, 5).theta).any()
    assert f.sentence() == "16 of 16 runs failed. Where the simulator runs cannot be said before one finishes."


@pytest.mark.parametrize("n", [16, 64])
def test_one_failure_moves_the_rate_and_draws_no_region(n):
    f = Feasibility.fit(runs(n, lambda u: np.arange(len(u)) != 5), seed=0)
    p = f.probability(runs(512, lambda u: u[:, 0] < 2, 9).theta)
    assert float(p.mean()) == pytest.approx((n - 0.5) / (n + 1), abs=0.03)
    assert float(p.min()) > 0.5
    assert f.sentence() == f"1 of {n} runs failed. Nowhere in the prior is failure likelier than success."


def test_failures_at_random_are_told_from_a_region():
    """One run in ten fails anywhere: the log score is that of the rate."""
    broken = np.random.default_rng(4).random(200) < 0.1
    f = Feasibility.fit(runs(200, lambda u: ~broken), seed=0)
    p = f.probability(runs(1024, lambda u: u[:, 0] < 2, 9).theta)
    score = 0.9 * p.log() + 0.1 * (1 - p).log()
    assert float(score.mean()) > 0.9 * np.log(0.9) + 0.1 * np.log(0.1) - 0.03
    assert f.inside(runs(1024, lambda u: u[:, 0] < 2, 9).theta).all()


def test_a_table_without_rows_is_refused():
    with pytest.raises(InputError, match=r"needs at least one run, finished or failed. Got none"):
        Feasibility.fit(runs(8, lambda u: u[:, 0] < 2).select(slice(0, 0)), seed=0)


def test_a_threshold_must_be_a_probability(half):
    with pytest.raises(InputError, match=r"least must be a probability between 0 and 1. Got 1; 0.5 is the boundary."):
        half.inside(SPACE.pack([[0.3, 0.01, 5.0]]), least=1)


def test_gradients_reach_theta_in_float64(half):
    theta = torch.tensor([0.34, 0.01, 5.0], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(half.probability(theta), theta)
    assert gradient.dtype == torch.float64
    assert float(gradient[0]) < -10  # from 1 to 0 within a few hundredths
    assert torch.autograd.gradcheck(lambda t: half.log_prob(t), theta.detach().requires_grad_(), eps=1e-7, atol=1e-3)


def test_the_same_rows_and_seed_give_the_same_bits_and_the_file_keeps_them(half, tmp_path):
    theta = runs(50, lambda u: u[:, 0] < 2, 9).theta
    again = Feasibility.fit(runs(128, lambda u: u[:, 0] < 0.7), seed=0)
    read = Feasibility.load(half.save(tmp_path / "feasibility"))
    assert torch.equal(half.log_prob(theta), again.log_prob(theta))
    assert torch.equal(half.log_prob(theta), read.log_prob(theta))
    assert read.sentence() == half.sentence()
    assert {f.suffix for f in (tmp_path / "feasibility").iterdir()} == {".json", ".safetensors"}


def test_a_file_without_a_boundary_is_kept_too(tmp_path):
    f = Feasibility.fit(runs(64, lambda u: u[:, 0] < 2), seed=0)
    assert Feasibility.load(f.save(tmp_path / "f")).sentence() == f.sentence()


def test_damaged_and_foreign_files_are_refused(half, tmp_path):
    folder = half.save(tmp_path / "feasibility")
    with pytest.raises(StoreError, match=r"must have the format 'emulate.emulator'. Got 'emulate.feasibility'"):
        emulate.load(folder)
    document = json.loads((folder / artefact.DOCUMENT).read_text())
    del document["body"]["space"]
    document["sha256"] = artefact._digest(document["body"])
    (folder / artefact.DOCUMENT).write_text(json.dumps(document))
    with pytest.raises(StoreError, match=r"holds no whole feasibility: KeyError\('space'\) is missing or wrong"):
        Feasibility.load(folder)
    weights = bytearray((half.save(tmp_path / "second") / artefact.WEIGHTS).read_bytes())
    weights[-1] ^= 1
    (tmp_path / "second" / artefact.WEIGHTS).write_bytes(weights)
    with pytest.raises(StoreError, match="is damaged: its sha256"):
        Feasibility.load(tmp_path / "second")


def test_a_posterior_restricted_to_where_the_simulator_runs():
    """A flat likelihood: the restricted posterior is the prior times P(finishes), known up to the edge's width."""
    space = Space((Parameter("a", Uniform(0.0, 1.0)),))
    x = np.linspace(0.01, 0.99, 50)[:, None]
    f = Feasibility.fit(Runs.of(space, Outputs((Field("y"),)), x, np.where(x < 0.6, x, np.nan)), seed=0)
    flat = Posterior(space, lambda t: None, None, torch.zeros(1))
    z = torch.linspace(-6, 6, 2001, dtype=torch.float64)[:, None].requires_grad_()  # a is uniform: x is standard normal
    log_density = f.restrict(lambda z: -0.5 * z.square().sum(-1), flat.theta)(z)
    p = torch.softmax(log_density, 0).detach()
    theta = flat.theta(z.detach())[:, 0]
    assert float(p @ theta) == pytest.approx(0.3, abs=0.01)
    assert float(p[theta > 0.65].sum()) < 0.01
    assert float(p[theta < 0.55].sum()) == pytest.approx(0.55 / 0.6, abs=0.03)
    (gradient,) = torch.autograd.grad(log_density.sum(), z)
    assert torch.isfinite(gradient).all()


def test_a_restriction_of_the_posterior_is_the_restricted_density(half):
    y = torch.tensor([0.38], dtype=torch.float64)
    plain, told = (Posterior(SPACE, lambda t: Exact(t[..., :1]), Gaussian(absolute_error=0.05), y, r)
                   for r in (None, half.log_prob))  # fmt: skip
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(
        told.log_density(x), half.restrict(plain.log_density, plain.theta)(x), rtol=1e-13, atol=0
    )
    assert float(told.find_map(seed=1).theta[0]) < 0.345 < float(plain.find_map(seed=1).theta[0])
