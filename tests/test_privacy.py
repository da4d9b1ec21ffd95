"""The promise of privacy: what it costs by closed forms and another accountant, and what a ledger lets through."""

import math
import sys

import numpy as np
import pytest
import torch
from scipy import optimize, stats

from emulate import privacy
from emulate.errors import InputError
from emulate.privacy import Ledger, Privacy, Release, epsilon
from emulate.runs import Field, Outputs

pytest.importorskip("dp_accounting", reason="privacy needs dp-accounting: pip install emulate[dp]")

RANGES = {"y": (0.0, 1.0)}
DELTA = 1e-5
Z = 4.5  # standard errors that a Monte Carlo mean may lie off


def exact(noise: float, steps: int, delta: float = DELTA) -> float:
    """Epsilon of sums over all runs: delta = Phi(m/2 - e/m) - exp(e) Phi(-m/2 - e/m), m = sqrt(steps) / noise (Balle and Wang
    2018, theorem 8)."""
    m = math.sqrt(steps) / noise

    def off(e: float) -> float:
        return stats.norm.cdf(m / 2 - e / m) - math.exp(e + stats.norm.logcdf(-m / 2 - e / m)) - delta

    return optimize.brentq(off, 0.0, 200.0, xtol=1e-12)


def ledger(runs: int, *, p: int = 1, sums: int = 0, **settings) -> Ledger:
    made = Ledger(Privacy(ranges=RANGES, **settings), runs, torch.arange(p), seed=1)
    made.open(sums=sums)
    return made


# -- what is spent ---------------------------------------------------------------------------------------------------


def test_the_known_epsilon_of_subsampled_steps():
    """q = 0.01, sigma = 1.1, 1000 steps, delta = 1e-5: 1.7118 by Renyi divergences."""
    private = Privacy(ranges=RANGES, noise=1.1, sampling=0.01, steps=1000, delta=DELTA)
    assert private.spent(1000) == pytest.approx(1.7118, rel=0.01)
    assert epsilon([Release(1.1, 0.01, 1000)], DELTA, "pld") < private.spent(1000)


@pytest.mark.parametrize("accountant", ["rdp", "pld"])
@pytest.mark.parametrize(("noise", "steps"), [(20.0, 100), (2.0, 1), (30.0, 10)])
def test_full_batches_never_cost_less_than_they_do(accountant, noise, steps):
    assert exact(20.0, 100) == pytest.approx(1.9930914, abs=1e-7)
    told = epsilon([Release(noise, 1.0, steps)], DELTA, accountant)
    truth = exact(noise, steps)
    assert truth <= told <= 1.15 * truth


@pytest.mark.slow  # loads opacus
def test_opacus_adds_up_to_the_same():
    accountants = pytest.importorskip("opacus.accountants", reason="the other accountant is that of opacus")
    other = accountants.RDPAccountant()
    other.history = [(2.0, 0.05, 300), (10.0, 1.0, 2)]
    told = epsilon([Release(2.0, 0.05, 300), Release(10.0, 1.0, 2)], DELTA)
    assert told == pytest.approx(other.get_epsilon(DELTA), rel=0.01)


def test_the_least_noise_keeps_the_budget_and_a_little_less_does_not():
    private = Privacy(ranges=RANGES, epsilon=2.0, sampling=0.1, steps=200)
    noise, steps = private.plan(sums=2)
    assert steps == 200
    assert private.spent(steps, sums=2, noise=noise) <= 2.0 < private.spent(steps, sums=2, noise=0.99 * noise)


def test_the_budget_stops_training():
    private = Privacy(ranges=RANGES, epsilon=2.0, noise=3.0, sampling=0.1, steps=10_000)
    _, steps = private.plan(sums=1)
    assert 2 <= steps < 10_000
    assert private.spent(steps, sums=1) <= 2.0 < private.spent(steps + 1, sums=1)
    book = ledger(100, epsilon=2.0, noise=3.0, sampling=0.1, steps=10_000, sums=1)
    for _ in range(book.steps):
        book.step(torch.zeros(0, 1, dtype=torch.float64))
    with pytest.raises(InputError, match=f"the privacy budget allows {steps} steps, and all are spent"):
        book.step(torch.zeros(0, 1, dtype=torch.float64))
    told = book.statement()
    assert told["stopped"]
    assert "where the budget stopped it" in told["promise"]
    assert told["epsilon"] <= 2.0


# -- what gets through -----------------------------------------------------------------------------------------------


def test_a_step_is_the_sum_of_cut_gradients_over_the_runs_that_are_expected():
    book = ledger(8, noise=0.0, clip=1.0, sampling=0.5)
    g = torch.tensor([[3.0, 4.0], [0.3, 0.4], [-6.0, 8.0]], dtype=torch.float64)
    torch.testing.assert_close(book.step(g), torch.tensor([0.6 + 0.3 - 0.6, 0.8 + 0.4 + 0.8], dtype=torch.float64) / 4)


def test_no_run_moves_a_sum_by_more_than_the_bound():
    generator = torch.Generator().manual_seed(2)
    rows = torch.randn(40, 3, generator=generator, dtype=torch.float64) * 10.0 ** torch.arange(40)[:, None].sub(20)
    rows[3], rows[7, 1], rows[11] = math.nan, math.inf, 1e200
    book = ledger(40, noise=0.0, clip=0.7, sampling=1.0, steps=200)
    whole = book.step(rows) * 40
    assert whole.isfinite().all()
    for i in range(len(rows)):
        without = torch.cat([rows[:i], rows[i + 1 :]])
        assert torch.linalg.vector_norm(whole - book.step(without) * 40) <= 0.7 * (1 + 1e-12)


@pytest.mark.parametrize("randomness", ["system", "seed"])
def test_the_noise_is_as_wide_as_it_is_booked(randomness):
    book = ledger(
        10, noise=3.0, clip=0.5, sampling=1.0, steps=4, release=7.0, sums=1, randomness=randomness, delta=0.01
    )
    k = 40_000
    for found, sd in ((10 * book.step(torch.zeros(0, k, dtype=torch.float64)), 1.5),
                      (book.total(torch.zeros(10, k, dtype=torch.float64), 2.0), 14.0)):  # fmt: skip
        x = found / sd
        assert abs(float(x.mean())) < Z / k**0.5
        assert abs(float(x.square().mean()) - 1) < Z * (2 / k) ** 0.5
        assert stats.kstest(x.numpy(), "norm").pvalue > 1e-5


def test_a_batch_takes_each_run_by_itself():
    book = ledger(50, noise=1.0, sampling=0.2, delta=1e-3)
    taken = torch.stack([torch.zeros(50).index_fill(0, book.batch(50), 1.0) for _ in range(2000)])
    share = taken.mean(0)
    assert (share - 0.2).abs().max() < Z * (0.16 / 2000) ** 0.5
    sizes = taken.sum(1)  # binomial: were the size fixed, its variance would be 0
    assert float(sizes.var()) == pytest.approx(50 * 0.16, rel=0.2)


def test_what_an_attacker_sees_of_one_run_is_what_was_booked():
    """Full batches with and without a run whose gradient is far over the clip: the two laws of the sum lie 1 / noise apart."""
    n, steps = 20, 4000
    book = ledger(n, noise=2.0, clip=0.3, sampling=1.0, steps=2 * steps, delta=1e-3)
    others = torch.full((n - 1, 1), 0.01, dtype=torch.float64)
    target = torch.full((1, 1), 1e6, dtype=torch.float64)
    without = torch.stack([book.step(others) for _ in range(steps)])[:, 0] * n
    with_it = torch.stack([book.step(torch.cat([others, target])) for _ in range(steps)])[:, 0] * n
    apart = float((with_it.mean() - without.mean()) / without.std())
    assert abs(apart - 0.5) < Z * (2 / steps) ** 0.5 * 1.1


def test_nobody_can_repeat_the_noise_of_the_system():
    zeros, told = torch.zeros(3, 2, dtype=torch.float64), []
    for randomness in ("system", "seed"):
        a, b = (ledger(3, noise=1.0, delta=0.1, randomness=randomness) for _ in range(2))
        told.append(torch.equal(a.step(zeros), b.step(zeros)))
        assert (a.statement()["epsilon"] is None) == (randomness == "seed")
    assert told == [False, True]
    assert "comes from the seed, and whoever knows that can take it off" in a.statement()["promise"]


# -- what is said ----------------------------------------------------------------------------------------------------


def test_the_promise_names_the_unit_the_budget_and_what_is_not_covered():
    book = ledger(2000, epsilon=3.0, sampling=0.1, steps=50, sums=1)
    for _ in range(50):
        book.step(torch.zeros(1, 1, dtype=torch.float64))
    book.total(torch.zeros(1, 1, dtype=torch.float64), 1.0)
    told = book.statement()
    assert told["promise"].startswith("Differentially private with epsilon 2.9")
    assert "what is protected is one run of the simulator: its parameters, its answer and its seed" in told["promise"]
    assert any("settings that were chosen by looking at these runs" in thing for thing in told["not_covered"])
    assert (told["runs"], told["steps"], told["sums"], told["stopped"]) == (2000, 50, 1, False)


def test_what_is_printed_is_never_less_than_what_is_spent():
    told = {
        "epsilon": 2.00001,
        "delta": 1e-5,
        "steps": 3,
        "noise": 1.0,
        "stopped": False,
        "sums": 0,
        "runs": 9,
        "sampling": 1.0,
    }
    assert "epsilon 2.0001 " in privacy.promise(told, Privacy(ranges=RANGES, epsilon=3.0))


def test_a_delta_that_allows_to_publish_a_run_is_refused():
    with pytest.raises(
        InputError, match="must be well below one over the runs, for 1 / 100 allows to publish one of them"
    ):
        Ledger(Privacy(ranges=RANGES, epsilon=1.0, delta=0.01), 100, torch.zeros(1), seed=1)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "must have an epsilon, a noise multiplier, or both. Got neither"),
        ({"noise": 1.0, "clip": None}, "privacy.clip must be a length, for the noise is a multiple of it"),
        ({"epsilon": 1.0, "noise": 0.0}, "privacy.noise must be above 0 to keep epsilon = 1"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, said):
    with pytest.raises(InputError, match=said):
        Privacy(ranges=RANGES, **settings)


def test_a_budget_that_the_sums_spend_alone_is_refused():
    with pytest.raises(
        InputError, match=r"2 sums of multiplier 1 spend .* alone\. Got 0\.5; raise it, or raise privacy\.release"
    ):
        Privacy(ranges=RANGES, epsilon=0.5, release=1.0).plan(sums=2)


def test_the_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    privacy._accounting.cache_clear()
    with pytest.raises(InputError, match=r"pip install emulate\[dp\]"):
        epsilon([Release(1.0)], DELTA)
    privacy._accounting.cache_clear()


# -- standardisation -------------------------------------------------------------------------------------------------

OUTPUTS = Outputs((Field("p", "", True, "k", (0.1, 0.2), "h/Mpc"), Field("q")))
BOTH = {"q": (-2.0, 6.0), "p": (1e-3, 1e1)}


def test_outputs_are_standardised_by_their_ranges_alone():
    private = Privacy(ranges=BOTH, epsilon=1.0)
    y = torch.tensor([[1e-3, 0.1, 2.0], [1e1, 0.1, 6.0]], dtype=torch.float64)
    for log, middle in ((True, 0.0), (False, (0.1 - 5.0005) / 4.9995)):
        t = private.transform(OUTPUTS, log=log)
        expected = torch.tensor([[-1.0, middle, 0.0], [1.0, middle, 1.0]], dtype=torch.float64)
        torch.testing.assert_close(t.to_z(y), expected)
        torch.testing.assert_close(t.from_z(t.to_z(y)), y)
    beyond = private.inside(OUTPUTS, torch.tensor([[1e9, -1.0, np.pi]], dtype=torch.float64))
    assert beyond.tolist() == [[10.0, 1e-3, np.pi]]


@pytest.mark.parametrize(
    ("ranges", "said"),
    [
        ({"p": (1.0, 2.0)}, "must give low and high of every field of the outputs: p, q. Got p"),
        ({**BOTH, "q": (1.0, 1.0)}, r"privacy.ranges.q must rise, \[low, high\]. Got \[1, 1\]"),
        ({**BOTH, "p": (0.0, 1.0)}, "the low end of p.* must be above 0, for its logarithm is learnt. Got 0"),
    ],
)
def test_ranges_that_tell_nothing_are_refused(ranges, said):
    with pytest.raises(InputError, match=said):
        Privacy(ranges=ranges, epsilon=1.0).transform(OUTPUTS, log=True)
