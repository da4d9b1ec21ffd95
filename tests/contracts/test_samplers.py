"""Laws of the room of samplers: right on a Gaussian, keyed by the seed, blind to the neighbours' targets, no NaN."""

import re

import pytest
import torch

from emulate import registry
from emulate.contracts import Draws
from emulate.diagnostics import diagnose
from emulate.errors import InputError
from tests.entries import entries

NAMES = entries("samplers")
MEAN = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
FACTOR = torch.tensor([[1.0, 0.0, 0.0], [0.05, 0.02, 0.0], [2.0, 1.0, 3.0]], dtype=torch.float64)
COVARIANCE = FACTOR @ FACTOR.T


def gaussian(x: torch.Tensor) -> torch.Tensor:
    whitened = torch.linalg.solve_triangular(FACTOR, (x - MEAN)[..., None], upper=False)[..., 0]
    return -0.5 * (whitened**2).sum(-1)


def _start(chains: int, seed: int = 9) -> torch.Tensor:
    return torch.randn(chains, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(params=NAMES)
def sampler(request):
    return registry.build("samplers", {"use": request.param, **registry.find("samplers", request.param).example})


@pytest.fixture(scope="module", params=NAMES)
def draws(request) -> Draws:
    built = registry.build("samplers", {"use": request.param, **registry.find("samplers", request.param).example})
    return built.draw(gaussian, _start(32), 500, seed=1)


def test_shapes_and_types(draws):
    assert draws.x.shape == (32, 500, 3)
    assert draws.log_density.shape == draws.divergent.shape == (32, 500)
    assert draws.rhat.shape == draws.ess.shape == (3,)
    assert draws.x.dtype == draws.log_density.dtype == torch.float64
    assert draws.divergent.dtype == torch.bool
    assert not draws.x.requires_grad


def test_moments_of_a_gaussian_by_z_scores(draws):
    """Means and second moments over the standard error that each moment's own effective sample size gives it."""
    whitened = torch.linalg.solve_triangular(FACTOR, (draws.x - MEAN).reshape(-1, 3).T, upper=False).T
    whitened = whitened.reshape(draws.x.shape)
    products = torch.stack([whitened[..., i] * whitened[..., j] for i in range(3) for j in range(i + 1)], -1)
    expected = torch.tensor([float(i == j) for i in range(3) for j in range(i + 1)], dtype=torch.float64)
    for found, truth in ((whitened, torch.zeros(3, dtype=torch.float64)), (products, expected)):
        _, ess = diagnose(found)
        z = (found.mean((0, 1)) - truth) / (found.std((0, 1)) / ess.sqrt())
        assert z.abs().max() < 4
        assert ess.min() > 1000


def test_the_diagnostics_are_those_of_the_draws(draws):
    rhat, ess = diagnose(draws.x)
    assert torch.equal(draws.rhat, rhat)
    assert torch.equal(draws.ess, ess)
    assert rhat.max() < 1.01
    assert not draws.divergent.any()
    assert all(isinstance(v, float) for v in draws.diagnostics.values())


def test_the_log_density_belongs_to_the_draws(draws):
    torch.testing.assert_close(gaussian(draws.x), draws.log_density)


def test_the_seed_decides_every_bit(sampler):
    state = torch.get_rng_state()
    one, same, other = (sampler.draw(gaussian, _start(4), 20, seed=s) for s in (3, 3, 4))
    assert torch.equal(one.x, same.x)
    assert torch.equal(one.log_density, same.log_density)
    assert not torch.equal(one.x, other.x)
    assert torch.equal(torch.get_rng_state(), state)


def test_every_group_may_have_a_target_of_its_own(sampler):
    """Three targets a million scales apart in one batch, each with the right mean, spread and R-hat."""
    centre = torch.tensor([0.0, 2.0, -3.0], dtype=torch.float64).repeat_interleave(16)[:, None]
    scale = torch.tensor([1.0, 1e-6, 0.03], dtype=torch.float64).repeat_interleave(16)[:, None]

    def many(x: torch.Tensor) -> torch.Tensor:
        return -0.5 * (((x - centre) / scale) ** 2).sum(-1)

    start = centre + scale * _start(48)
    draws = sampler.grouped(3).draw(many, start, 400, seed=2)
    assert draws.rhat.max() < 1.02
    for g in range(3):
        rows = slice(16 * g, 16 * g + 16)
        whitened = (draws.x[rows] - centre[rows, None]) / scale[rows, None]
        _, ess = diagnose(whitened)
        assert (whitened.mean((0, 1)) * ess.sqrt()).abs().max() < 4
        _, ess = diagnose(whitened**2)
        assert ((whitened**2).mean((0, 1)) - 1).mul((ess / 2).sqrt()).abs().max() < 4
        assert (draws.ess <= diagnose(draws.x[rows])[1]).all()


def test_progress_runs_to_its_total(sampler):
    seen = []
    sampler.draw(gaussian, _start(4), 20, seed=3, progress=lambda *told: seen.append(told))
    done, totals, notes = zip(*seen, strict=True)
    assert all(isinstance(note, str) for note in notes)
    assert list(done) == sorted(set(done))
    assert done[-1] == totals[-1]
    assert len(set(totals)) == 1


class Kept:
    """A checkpoint in memory, which tells how often it was asked."""

    def __init__(self):
        self.state, self.saved = None, 0

    def load(self):
        return self.state

    def save(self, state):
        self.state, self.saved = {k: v.clone() for k, v in state.items()}, self.saved + 1


def test_interruptions_leave_every_bit(sampler):
    """Killed when progress is told for the last time but two, again for the last, and called again."""
    told, kept = [], Kept()
    whole = sampler.draw(gaussian, _start(6), 60, seed=3, progress=lambda *t: told.append(t))

    for at in sorted({told[max(0, len(told) - 3)][0], told[-1][0]}):

        def kill(done, *_, at=at):
            if done == at:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            sampler.draw(gaussian, _start(6), 60, seed=3, progress=kill, checkpoint=kept)
    again = sampler.draw(gaussian, _start(6), 60, seed=3, checkpoint=kept)
    assert sampler.resumable == (kept.saved > 0)
    assert torch.equal(whole.x, again.x)
    assert torch.equal(whole.log_density, again.log_density)
    assert torch.equal(whole.divergent, again.divergent)
    told = whole.diagnostics.keys() - {"seconds"}
    assert {k: whole.diagnostics[k] for k in told} == {k: again.diagnostics[k] for k in told}


def test_more_draws_continue_the_chains(sampler):
    """From 40 draws to 60 only the last 20 are paid for, the first 40 stay, and all are those of one call for 60."""
    if not sampler.resumable:
        return
    asked, kept = [], Kept()

    def counted(x: torch.Tensor) -> torch.Tensor:
        asked.append(len(x))
        return gaussian(x)

    few = sampler.draw(counted, _start(6), 40, seed=3, checkpoint=kept)
    spent = len(asked)
    more = sampler.draw(counted, _start(6), 60, seed=3, checkpoint=kept)
    assert len(asked) - spent < 0.6 * spent
    assert torch.equal(more.x[:, :40], few.x)
    assert torch.equal(more.x, sampler.draw(gaussian, _start(6), 60, seed=3).x)
    back = sampler.draw(counted, _start(6), 40, seed=3, checkpoint=kept)
    assert torch.equal(back.x, few.x)
    assert len(kept.state["x"]) == 60, "fewer draws throw nothing away"


def test_a_checkpoint_that_does_not_fit_is_not_read(sampler):
    kept = Kept()
    sampler.draw(gaussian, _start(6), 20, seed=3, checkpoint=kept)
    other = lambda x: -0.5 * x.square().sum(-1)  # noqa: E731
    start = torch.zeros(4, 2, dtype=torch.float64) + torch.arange(4)[:, None]
    told = sampler.draw(other, start, 20, seed=3, checkpoint=kept)
    assert torch.equal(told.x, sampler.draw(other, start, 20, seed=3).x)
    kept.state = {"x": torch.zeros(3)}
    assert torch.equal(told.x, sampler.draw(other, start, 20, seed=3, checkpoint=kept).x)


def test_gradients_may_be_switched_off_around_it(sampler):
    with torch.no_grad():
        assert sampler.draw(gaussian, _start(4), 20, seed=3).x.isfinite().all()


def _bounded(x: torch.Tensor) -> torch.Tensor:
    return torch.where((x > 0).all(-1), -x.sum(-1), -torch.inf)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"n": 3}, "n must be at least 4 draws for each chain. Got 3; R-hat compares halves."),
        ({"groups": 3}, "start must split into 3 equal groups of chains. Got 4 rows; give a multiple of 3."),
        ({"start": torch.full((4, 3), torch.nan)}, "start must be finite numbers of shape [chains, d]. Got shape (4, "
         "3) with 12 numbers that are not finite."),
        ({"start": torch.zeros(3)}, "start must be finite numbers of shape [chains, d]. Got shape (3,) with 0 numbers "
         "that are not finite."),
        ({"density": _bounded, "start": torch.tensor([[1.0], [-1.0]])}, "start: the log density and its gradient must "
         "be finite at every start. Got 1 rows of 2 where they are not, first row 1; start where the density is "
         "above 0."),
        ({"density": lambda x: x}, "log_density must give one number for each row of x. Got shape (4, 3) for x of "
         "shape (4, 3)."),
    ],
)  # fmt: skip
def test_refusals(sampler, change, sentence):
    given = {"density": gaussian, "start": _start(4), "n": 10, "groups": 1} | change
    with pytest.raises(InputError, match=f"^{re.escape(sentence)}$"):
        sampler.grouped(given["groups"]).draw(given["density"], given["start"], given["n"], seed=1)


def test_a_density_with_holes_never_gives_a_draw_that_is_not_a_number(sampler):
    """ln p is NaN or -inf on part of the plane; every draw and every density of an accepted draw stays a number."""

    def holes(x: torch.Tensor) -> torch.Tensor:
        return torch.where(x[..., 0] > 2.5, torch.nan, -0.5 * (x**2).sum(-1))

    draws = sampler.draw(holes, 0.1 * _start(8), 200, seed=1)
    assert draws.x.isfinite().all()
    assert draws.rhat.isfinite().all()
