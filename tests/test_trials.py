"""Methods tried side by side: what is counted, who wins, and who is out."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Gamma, Normal, Poisson

from emulate import estimation, gradients, registry, trials
from emulate.contracts import Estimate, Gradient
from emulate.noise import Noise
from emulate.trials import FEWEST, Trial, attempt, race

ONE = torch.tensor([1.0], dtype=torch.float64)


def square(theta, noise):
    return noise.draw("x", Normal(theta[0], 1.0)) ** 2


def branching(theta, noise):
    x = noise.draw("x", Normal(theta[0], 1.0))
    return x**2 if x > 0 else x


def log_of_gamma(theta, noise):
    return torch.log(noise.draw("x", Gamma(theta[0], 1.0)))


@dataclass(frozen=True, kw_only=True)
class Made(Gradient):
    """Gives what it is told, after so many sums of ten numbers a replicate."""

    gradient: float
    variance: tuple[float, ...]  # of one replicate, by the size of the trial: the first, the second
    sums: int = 1

    def estimate(self, f: Any, theta: Tensor, *, seed: int, n: int = 1) -> Estimate:
        for _ in range(self.sums):
            torch.ones(10).sum()
        y = f(theta, Noise(seed))
        if n > 32 and len(self.variance) == 1:
            raise RuntimeError("too many")
        error = (self.variance[n > 32] / n) ** 0.5
        return Estimate(y, torch.full((1, 1), self.gradient, dtype=torch.float64), torch.full((1, 1), error, dtype=torch.float64),
                        n, 0.0)  # fmt: skip


def run(**methods: Made):
    first = {k: attempt(m, square, ONE, seed=1) for k, m in methods.items()}
    return race(methods, first, square, ONE, seed=1, n=1000, outputs=[0])


@pytest.mark.parametrize("method", ["pathwise", "score", "mixed", "measure_valued"])
def test_work_is_counted_and_the_seed_decides_it(method):
    made = registry.build("gradients", method)
    one, same, other = (attempt(made, square, ONE, seed=s) for s in (1, 1, 2))
    assert one.work(1000) == same.work(1000) > 0
    assert torch.equal(one.made.gradient, same.made.gradient)
    assert not torch.equal(one.made.gradient, other.made.gradient)


def test_a_batch_is_one_run_and_what_branches_is_not():
    made = registry.build("gradients", "score")
    batched = [attempt(made, square, ONE, seed=1, n=n) for n in (32, 96)]
    alone = [attempt(made, branching, ONE, seed=1, n=n) for n in (32, 96)]
    assert batched[0].runs == batched[1].runs < 5
    assert alone[0].runs >= 32
    assert alone[1].runs >= 96
    assert alone[0].work(96, batched=False) == pytest.approx(alone[1].work(96), rel=0.1)
    assert batched[0].work(96) == pytest.approx(batched[1].work(96), rel=0.1)


@pytest.mark.parametrize("method", ["score", "measure_valued"])
def test_more_operations_than_enough_are_told_by_the_runs_of_f(method, monkeypatch):
    made = registry.build("gradients", method)
    all_of_it = attempt(made, branching, ONE, seed=1)
    monkeypatch.setattr(trials, "ENOUGH", 300)
    told = attempt(made, branching, ONE, seed=1)
    assert torch.equal(told.made.gradient, all_of_it.made.gradient)
    assert told.runs == all_of_it.runs
    assert told.work(1000) == pytest.approx(all_of_it.work(1000), rel=0.4)


def test_a_refusal_is_told_with_the_runs_until_it():
    found = attempt(registry.build("gradients", "measure_valued"), log_of_gamma, 2 * ONE, seed=1)
    assert found.reason.startswith("measure_valued must have draws whose weak derivative is known")
    assert found.calls == 1


def test_a_first_that_refuses_in_its_second_trial_leaves_its_place():
    ran = run(first=Made(gradient=2.0, variance=(1.0,)), other=Made(gradient=2.0, variance=(1.0, 1.0)))
    assert ran.winner == "other"
    assert ran.out == {"first": "too many"}


def test_the_first_stays_where_the_others_are_not_surely_better():
    ran = run(first=Made(gradient=2.0, variance=(1.0, 1.3)), other=Made(gradient=2.0, variance=(0.8, 1.2)))
    assert (ran.winner, ran.out) == ("first", {})
    assert ran.calls == 2 * 96


def test_the_least_product_of_variance_and_work_wins():
    quiet = Made(gradient=2.0, variance=(0.1, 0.1))
    dear = Made(gradient=2.0, variance=(0.05, 0.05), sums=100)
    ran = run(first=Made(gradient=2.0, variance=(1.0, 1.0)), dear=dear, quiet=quiet)
    assert ran.winner == "quiet"
    assert ran.figures["quiet"]["variance"] == pytest.approx(0.1)
    assert ran.figures["dear"]["work"] > 4 * ran.figures["quiet"]["work"]


def test_what_is_exact_wins_over_any_noise_and_needs_no_second_trial():
    ran = run(first=Made(gradient=2.0, variance=(1.0, 1.0)), exact=Made(gradient=2.0, variance=(0.0, 0.0), sums=1000))
    assert ran.winner == "exact"
    assert ran.calls == 96


def test_what_contradicts_the_first_is_out():
    ran = run(first=Made(gradient=2.0, variance=(1.0, 1.0)), wrong=Made(gradient=9.0, variance=(0.01, 0.01)))
    assert ran.winner == "first"
    assert ran.out == {"wrong": "it contradicts first by more than 5 standard errors."}


def test_what_is_hopeless_is_not_tried_again():
    ran = run(first=Made(gradient=2.0, variance=(1.0, 1.0)), noisy=Made(gradient=2.0, variance=(100.0, 0.001)))
    assert ran.winner == "first"
    assert list(ran.figures) == ["first"]


def test_a_bias_counts_as_an_error():
    error = torch.full((1, 1), 0.1, dtype=torch.float64)
    made = Estimate(ONE, 2 * error, error, 4, 0.0, bias_bound=2 * error)
    assert float(Trial(made, 4, 1, 1, 1).square(3 * ONE, 16)) == pytest.approx(9 * (0.01 * 4 / 16 + 0.04))


@pytest.mark.parametrize(("f", "theta", "expected"), [
    (log_of_gamma, 2.0, {"mixed"}),  # ln x is the score itself but for a constant
    (lambda theta, noise: noise.draw("x", Bernoulli(theta[0])) * noise.draw("z", Normal(0.0, 1.0)), 0.4, {"measure_valued"}),
    (lambda theta, noise: noise.draw("k", Poisson(theta[0])) ** 2, 3.0, {"measure_valued"}),
    (lambda theta, noise: sum(noise.draw("up", Bernoulli(theta[0])) for _ in range(4)) ** 2, 0.4, {"enumerate"}),
    (lambda theta, noise: (theta[0] + noise.draw("z", Normal(0.0, 1.0))) ** 2, 1.0, {"pathwise"}),
])  # fmt: skip
@pytest.mark.filterwarnings("ignore")
def test_the_one_call_takes_the_winner(f, theta, expected):
    e = gradients.estimate(f, [theta], n=FEWEST, seed=3)
    assert e.diagnostics["method"]["use"] in expected
    again = gradients.estimate(f, [theta], n=FEWEST, seed=3)
    assert torch.equal(e.gradient, again.gradient)
    assert e.diagnostics == again.diagnostics
    assert e.calls > e.diagnostics["choice_calls"] > 200


def test_slopes_of_both_signs_that_add_up_to_zero_are_no_lost_derivative():
    """With an even number of replicates half the slopes of |theta + z| at 0 are 1 and half are -1, once in some seeds."""

    def f(theta, noise):
        return (theta[0] + noise.draw("z", Normal(0.0, 1.0))).abs()

    found = [gradients.choose(f, 0 * ONE, seed=seed, n=20) for seed in range(6)]
    assert {c.method.entry_name() for c in found} == {"pathwise"}


def test_fewer_replicates_than_a_race_pays_for_follow_the_diagnosis():
    e = gradients.estimate(log_of_gamma, [2.0], n=FEWEST - 1, seed=3)
    assert e.diagnostics["method"]["use"] == "pathwise"
    assert "race" not in e.diagnostics


def test_all_runs_of_a_race_are_counted(monkeypatch):
    monkeypatch.setattr(estimation, "FEWEST", 20)
    met = []

    def f(theta, noise):
        met.append(1)
        return branching(theta, noise)

    e = gradients.estimate(f, [1.0], n=20, seed=1)
    assert "race" in e.diagnostics
    assert len(met) <= e.calls + 10  # a batch that the branch ends is no run
