"""The diagnosis on programs that it was not tuned on: recall, false alarms, calls, sites; and the sets of Clarke."""

import itertools
import json
import math

import numpy as np
import pytest
import torch
from torch.distributions import Bernoulli, Normal

from emulate import registry
from emulate.diagnosis import TROUBLES, diagnose
from emulate.errors import InputError
from emulate.replication import Program, lift
from emulate.roughness import Lines
from emulate.spots import descend
from tests.gradients.gallery import CASES, HELD, TUNED, Case


def counted(case: Case, met: list[int]) -> Program:
    """The program of a case, with its runs counted one by one; a batch of n is one run here."""
    f = lift(case.f)
    return Program(lambda theta, noise: [met.append(1), f(theta, noise)][1], f.source)


def right(case: Case, d) -> bool:
    return (
        d.trouble in case.troubles and d.evidence["output"] == case.output
        if case.output
        else d.trouble in case.troubles
    )


def test_the_gallery_is_split_by_a_rule_and_holds_every_class_on_both_sides():
    assert len(CASES) == len(TUNED) + len(HELD) >= 40
    assert len({c.name for c in CASES}) == len(CASES)
    for half in (TUNED, HELD):
        assert {c.trouble for c in half} == set(TROUBLES) - {"no finite derivative"}
    assert {t for c in CASES for t in c.troubles} <= set(TROUBLES)


@pytest.mark.parametrize("case", HELD, ids=lambda c: c.name)
@pytest.mark.filterwarnings("ignore")
def test_a_program_it_was_not_tuned_on(case):
    """Class, site, method and price of one seed."""
    met: list[int] = []
    d = diagnose(counted(case, met), case.theta, seed=3)
    assert right(case, d), str(d)
    assert not case.site or d.site in case.site.split(" or "), str(d)
    assert d.method in case.methods, str(d)
    assert len(met) <= d.evidence["calls"] <= 2000
    json.dumps(d.evidence, allow_nan=False)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_recall_and_false_alarms_over_seeds(capsys):
    """Of the half that it was not tuned on: 95 % of troubles found and named, at most 1 % alarms of smooth programs."""
    seeds, named, seen, alarms, smooth = range(10, 20), 0, 0, 0, 0
    missed = []
    for case, seed in itertools.product(HELD, seeds):
        d = diagnose(case.f, case.theta, seed=seed)
        assert d.evidence["calls"] <= 2000
        if case.trouble == "smooth":
            smooth, alarms = smooth + 1, alarms + (d.trouble != "smooth")
        else:
            seen, named = seen + 1, named + right(case, d)
        if not right(case, d):
            missed.append(f"{case.name} (seed {seed}): {d}")
    with capsys.disabled():
        print(
            f"\nrecall {named}/{seen} = {named / seen:.3f} (bar 0.95), false alarms {alarms}/{smooth} (bar 1 %)",
            *missed,
            sep="\n",
        )
    assert named >= 0.95 * seen
    assert alarms <= 0.01 * smooth


@pytest.mark.parametrize(("theta", "low", "high"), [(0.0, 0.0, 2.0), (2.0, 2.0, 4.0)])
def test_a_kink_at_theta_is_reported_as_a_set(theta, low, high):
    """min(theta^2, 2 theta): slopes 2 theta and 2 on the two sides (Clarke 1983, sec. 2.1)."""
    d = diagnose(lambda t: torch.minimum(t**2, 2 * t), torch.tensor([theta], dtype=torch.float64))
    assert d.trouble == "kink"
    ((left, right),) = d.evidence["clarke"]
    assert (left, right) == (pytest.approx(low, abs=1e-6), pytest.approx(high, abs=1e-6))
    assert f"[{left:.6g}, {right:.6g}]" in str(d)


def test_the_nearest_kink_is_located():
    d = diagnose(lambda t: (t - 0.52).abs(), torch.tensor([0.5], dtype=torch.float64))
    assert d.trouble == "kink"
    assert d.evidence["nearest"] == [pytest.approx(0.52, abs=1e-8)]
    assert d.method == "reverse"


@pytest.mark.parametrize(("f", "theta", "most"), [
    (lambda t: t**2, [1.0], 15),
    (lambda t: t.exp().sum(), [1.0, 0.3], 60),
    (lambda t: float(np.sin(t.numpy()).prod()), [0.4] * 8, 200),
    (lambda t: t.detach() * t, [2.0], 15),
    (lambda t: torch.minimum(t**2, 2 * t), [2.0], 120),
    (lambda t: torch.floor(10 * t) + t, [0.43], 120),
])  # fmt: skip
def test_what_is_not_random_takes_few_runs(f, theta, most):
    met: list[int] = []
    d = diagnose(lambda t: [met.append(1), f(t)][1], torch.tensor(theta, dtype=torch.float64), seed=2)
    assert len(met) == d.evidence["calls"] <= most


@pytest.mark.parametrize("trouble", ["kink", "jump"])
def test_a_spot_is_found_wherever_it_lies_and_however_small_it_is(trouble):
    """At 60 places within the reach of 0.1, from 1 to 1/1000 of what a smooth function varies beside it; none is where the
    polynomials have their places."""
    at = np.random.default_rng(5).uniform(-0.095, 0.095, 60)
    for x, size in zip(at, np.logspace(0, -3, 60)):

        def f(t, x=float(x), size=float(size)):
            spot = (t - 1 - x).abs() / 0.1 if trouble == "kink" else (t > 1 + x).double() * 0.3
            return torch.sin(3 * t) + size * spot

        d = diagnose(f, torch.ones(1, dtype=torch.float64), seed=1)
        assert d.trouble == trouble, (x, size)
        assert d.evidence["nearest"] == [pytest.approx(1 + x, abs=1e-7)]


def test_a_jump_between_three_values_on_a_straight_line_is_found():
    """y = 0, 1, 2 at t = -1, 0, 1, and a jump at 0.5 that the first second difference does not see."""

    def f(theta):
        t = (theta - 1) * 8
        return torch.where(t < 0.5, t + 1, 2.0)

    lines = Lines(lift(f), torch.ones(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64), 0, 500, random=False)
    t = (-0.125, 0.0, 0.125)
    spot = descend(lines, 0, t, tuple(lines.along(0, t)), 0, 1e-12)
    assert spot.exponent == pytest.approx(0, abs=0.01)
    assert spot.t == pytest.approx(0.0625, abs=1e-8)
    straight = descend(lines, 0, (-0.125, -0.0625, 0.0), tuple(lines.along(0, (-0.125, -0.0625, 0.0))), 0, 1e-12)
    assert (straight.size, straight.exponent) == (0, 2)


def test_waves_that_meet_all_places_at_zero_are_no_constant():
    """sin of period 1/80 of the reach: every place of 9, 17 or 33 sees 0, and those of the seed do not."""
    d = diagnose(lambda t: torch.sin(2 * math.pi * 800 * (t - 1)), torch.ones(1, dtype=torch.float64), seed=1)
    assert "places" not in d.evidence
    assert (d.trouble, d.method) == ("smooth", "reverse")


@pytest.mark.parametrize(("order", "f"), [
    (0.0, lambda t, z: (t + z) ** 2), (-1.0, lambda t, z: (t + z > 1).double()),
])  # fmt: skip
def test_the_variance_of_a_difference_goes_with_the_step_as_it_must(order, f):
    """Mean over 12 seeds: 0 where f is smooth, -1 where it jumps."""
    found = [diagnose(lambda t, noise: f(t, noise.draw("z", Normal(0.0, 1.0))), torch.tensor([1.0], dtype=torch.float64),
                      seed=seed).evidence["exponent"][0] for seed in range(12)]  # fmt: skip
    assert np.mean(found) == pytest.approx(order, abs=0.15)


def test_noise_that_is_another_at_every_theta_has_exponent_minus_two():
    def f(theta, seed):
        return np.random.default_rng([seed, int(float(theta[0]) * 2**40)]).normal()

    d = diagnose(f, torch.tensor([1.0], dtype=torch.float64), seed=1)
    assert d.trouble == "unsynchronised noise"
    assert d.evidence["exponent"][0] == pytest.approx(-2, abs=0.3)


@pytest.mark.filterwarnings("ignore")
def test_the_seed_decides_everything():
    def f(theta, noise):
        return noise.draw("coin", Bernoulli(theta[0])) * noise.draw("z", Normal(theta[1], 1.0))

    theta = torch.tensor([0.4, 1.0], dtype=torch.float64)
    state = torch.get_rng_state()
    one, same = (diagnose(f, theta, seed=5) for _ in range(2))
    assert one == same
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("calls", [500, 800])
def test_fewer_calls_are_kept_to(calls):
    d = diagnose(lambda t, noise: noise.above("cut", t + noise.draw("z", Normal(0.0, 1.0))),
                 torch.tensor([0.3], dtype=torch.float64), calls=calls)  # fmt: skip
    assert d.evidence["calls"] <= calls
    assert (d.trouble, d.site) == ("jump", "cut")


def test_a_program_that_is_refused_nearby_is_looked_at_closer():
    """Defined for theta in (0.98, 1.02) alone."""

    def f(theta):
        if not 0.98 < float(theta[0]) < 1.02:
            raise ValueError("outside")
        return theta.abs() ** 0.5

    d = diagnose(f, torch.tensor([1.0], dtype=torch.float64))
    assert d.trouble == "smooth"


def test_a_program_that_fails_at_theta_fails_the_diagnosis():
    def broken(theta):
        raise ArithmeticError("the box is empty")

    with pytest.raises(ArithmeticError, match=r"^the box is empty$"):
        diagnose(broken, torch.ones(1))


def test_too_few_calls_are_refused():
    with pytest.raises(InputError, match=r"^calls must be at least 500 for a diagnosis\. Got 10\.$"):
        diagnose(lambda t: t, torch.ones(1), calls=10)


def test_where_the_graph_was_left_is_told():
    def f(theta):
        return theta.detach() * theta

    d = diagnose(f, torch.tensor([2.0], dtype=torch.float64))
    assert d.trouble == "detached graph"
    assert "detach, line" in d.sentence
    assert "test_diagnosis.py" in d.sentence


def test_a_derivative_that_is_not_finite_is_told():
    """sqrt((theta - 1)^4) = (theta - 1)^2 is smooth, and reverse mode gives 0 * inf at 1."""
    d = diagnose(lambda t: torch.sqrt((t - 1) ** 4), torch.ones(1, dtype=torch.float64))
    assert d.trouble == "no finite derivative"
    assert d.method == "finite_difference"
    assert math.isfinite(d.evidence["calls"])


def test_a_program_whose_backward_pass_refuses_is_diagnosed_without_it():
    histogram = registry.build("histograms", {"use": "hard", "edges": [0.0, 0.5, 1.0]})

    def f(theta, noise):
        return histogram.counts(theta[0] + noise.draw("x", Normal(torch.zeros(20).double(), 1.0))).values

    found = diagnose(f, [0.3], seed=1)
    assert found.trouble == "jump"
    assert found.evidence["graph"].startswith("f does not run under reverse mode: hard counts have no derivative")
