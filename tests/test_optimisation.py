"""Optima of emulators judged by closed forms, by scipy's global optimiser, and by simulators that disagree."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import differential_evolution

from emulate.distributions import Exact, Gaussian
from emulate.emulator import fit
from emulate.emulators.polynomial import Polynomial
from emulate.errors import InputError
from emulate.optimisation import optimise
from emulate.runs import Field, Outputs, Runs
from emulate.space import Normal, Parameter, Space, Uniform


class Toy:
    """An emulator of a function; `sd` its error at theta, the same for all outputs."""

    def __init__(self, function, *ranges, m=1, sd=None):
        priors = [r if isinstance(r, Normal) else Uniform(*r) for r in ranges]
        self.space = Space(tuple(Parameter(f"x{i + 1}", p) for i, p in enumerate(priors)))
        self.outputs = Outputs((Field("y") if m == 1 else Field("y", coordinate="i", at=tuple(map(float, range(m)))),))
        self.function, self.sd, self.m = function, sd, m

    def predict(self, theta):
        y = self.function(theta)
        if self.sd is None:
            return Exact(y)
        one = torch.ones(1, self.m, dtype=torch.float64)
        return Gaussian(y, self.sd(theta).square(), one, torch.zeros_like(y))


class Truth:
    """A simulator for a toy."""

    def __init__(self, function, noise=0.0):
        self.function, self.noise, self.stochastic = function, noise, noise > 0

    def made(self):
        return self

    def run(self, theta, *, seed):
        e = torch.randn(1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        return self.function(theta[None])[0] + self.noise * e


def branin(t):
    a, b = t[..., 0], t[..., 1]
    y = (
        (b - 5.1 / (4 * math.pi**2) * a**2 + 5 / math.pi * a - 6) ** 2
        + 10 * (1 - 1 / (8 * math.pi)) * torch.cos(a)
        + 10
    )
    return y[..., None]


def test_branin_s_three_minima_are_all_found():
    """f* = 0.397887 at (-pi, 12.275), (pi, 2.275) and (9.42478, 2.475): Dixon and Szego (1978)."""
    found = optimise(Toy(branin, (-5, 10), (0, 15)), "y", seed=1)
    places = sorted([found.theta.tolist(), *(t.tolist() for t, v in found.others if v < 0.3979)])
    assert np.array(places) == pytest.approx(
        np.array([[-math.pi, 12.275], [math.pi, 2.275], [3 * math.pi, 2.475]]), abs=1e-4
    )
    assert found.value == pytest.approx(0.397887, abs=1e-6)
    assert found.agree >= 5
    assert found.converged
    assert "no true run has confirmed it" in found.sentence


def test_a_maximum_at_a_corner_is_said_to_be_at_the_edge():
    found = optimise(Toy(branin, (-5, 10), (0, 15)), "y", maximise=True, seed=1)
    theirs = differential_evolution(lambda x: -float(branin(torch.tensor(x)[None])[0, 0]), [(-5, 10), (0, 15)], rng=1)
    assert found.value == pytest.approx(-theirs.fun, rel=1e-6)
    assert found.edges == ("x1", "x2")
    assert "at the edge of the box in x1, x2" in found.sentence


def test_expressions_of_outputs_and_parameters_with_constraints():
    """Hock and Schittkowski (1981), problem 71, in names."""
    toy = Toy(lambda t: t, *[(1, 5)] * 4, m=4)
    found = optimise(toy, "y[0] * y[3] * (y[0] + y[1] + y[2]) + x3", seed=1,
                     subject_to=["x1 * x2 * x3 * x4 >= 25", "y[0]**2 + x2**2 + x3**2 + x4**2 == 40"])  # fmt: skip
    assert found.value == pytest.approx(17.0140173, abs=2e-5)
    assert [c.active for c in found.constraints] == [True, True]
    assert [c.price for c in found.constraints] == pytest.approx([0.5523, 0.1615], abs=1e-3)
    assert found.feasible
    assert "held by x1 * x2 * x3 * x4 >= 25" in found.sentence


def test_rastrigin_s_many_minima_as_scipy_finds_the_best():
    def rastrigin(t):
        return (20 + (t**2 - 10 * torch.cos(2 * math.pi * t)).sum(-1))[..., None]

    found = optimise(Toy(rastrigin, (-4, 5), (-4, 5)), "y", seed=1, starts=128)
    theirs = differential_evolution(
        lambda x: float(rastrigin(torch.tensor(x)[None])[0, 0]), [(-4, 5)] * 2, rng=1, tol=1e-10
    )
    assert found.value == pytest.approx(theirs.fun, abs=1e-6)


def test_constraints_that_cannot_be_met_are_told():
    found = optimise(Toy(lambda t: t, (1, 5), (1, 5), m=2), "x1", subject_to=["x1 + x2 <= 1"], seed=1)
    assert not found.feasible
    assert "no point was found that meets every constraint; the nearest breaks x1 + x2 <= 1 by 1" in found.sentence


@pytest.mark.parametrize("k", [0.0, 1.0, 2.0])
def test_a_robust_optimum_moves_where_the_emulator_is_sure(k):
    """mean (x - 0.2)^2, sd 0.4 (1 - x): mean + k sd is least at 0.2 + 0.2 k; 512 draws know the mean to 4.4 % of the sd."""
    toy = Toy(lambda t: (t - 0.2).square(), (0, 1), sd=lambda t: 0.4 * (1 - t))
    found = optimise(toy, "y", robust=k, seed=1)
    error = 0.2 * math.hypot(1 / math.sqrt(512), k / math.sqrt(1024))
    assert abs(float(found.theta) - (0.2 + 0.2 * k)) < 4 * error
    assert found.value == pytest.approx((float(found.theta) - 0.2) ** 2)
    assert found.sd == pytest.approx(0.4 * (1 - float(found.theta)), rel=4 / math.sqrt(1024))


def test_a_robust_maximum_is_cautious_too():
    toy = Toy(lambda t: -(t - 0.2).square(), (0, 1), sd=lambda t: 0.4 * (1 - t))
    found = optimise(toy, "y", maximise=True, robust=2.0, seed=1)
    assert float(found.theta) == pytest.approx(0.6, abs=0.06)


def test_a_robust_constraint_keeps_its_distance():
    """y <= 0.5 with sd 0.1: y = x may reach 0.5 - 2 x 0.1."""
    toy = Toy(lambda t: t, (0, 1), sd=lambda t: 0 * t + 0.1)
    found = optimise(toy, "x1", maximise=True, subject_to=["y <= 0.5"], robust=2.0, seed=1)
    assert float(found.theta) == pytest.approx(0.3, abs=4 * 0.1 * math.hypot(1 / math.sqrt(512), 2 / math.sqrt(1024)))
    assert found.constraints[0].sd == pytest.approx(0.1, rel=0.13)


def test_parameters_that_are_met_with_a_tolerance_are_averaged_over():
    """E[exp(x) + exp(-4 x)] over x ~ N(x0, s^2) is least at (ln 4 + 7.5 s^2) / 5."""
    toy = Toy(lambda t: t.exp() + (-4 * t).exp(), (-1, 2))
    plain, averaged = (optimise(toy, "y", seed=1, tolerance=t) for t in ({}, {"x1": 0.2}))
    assert float(plain.theta) == pytest.approx(math.log(4) / 5, abs=1e-6)
    assert float(averaged.theta) == pytest.approx((math.log(4) + 7.5 * 0.04) / 5, abs=0.015)


def test_a_function_serves_as_an_objective():
    toy = Toy(lambda t: t, (0, 1), (0, 1), m=2)
    found = optimise(toy, lambda theta, p: (p.mean - 0.25).square().sum(-1) + theta[..., 0], seed=1,
                     subject_to=[lambda theta, p: 0.5 - theta[..., 1]])  # fmt: skip
    assert found.theta.tolist() == pytest.approx([0.0, 0.5], abs=1e-5)


def test_a_prior_without_edges_ends_three_standard_deviations_out():
    found = optimise(Toy(lambda t: t, Normal(1, 2)), "y", seed=1)
    assert float(found.theta) == pytest.approx(1 - 3 * 2)
    assert found.edges == ("x1",)


def bowl(t):
    return (t - 0.5).square().sum(-1, keepdim=True)


def test_a_gain_is_claimed_of_true_runs_alone():
    toy = Toy(bowl, (0, 1), (0, 1))
    good = optimise(toy, "y", seed=1, simulator=Truth(bowl), reference={"x1": 0.1, "x2": 0.1})
    assert good.confirmed.gained
    assert good.confirmed.gain == pytest.approx(0.32)
    assert "a gain of 0.32 over the reference" in good.sentence
    lies = Truth(lambda t: 3 - bowl(t))
    bad = optimise(toy, "y", seed=1, simulator=lies, reference={"x1": 0.1, "x2": 0.1})
    assert not bad.confirmed.gained
    assert bad.confirmed.gain == pytest.approx(-0.32)
    assert "no gain is shown" in bad.sentence


def test_a_gain_in_noise_is_claimed_at_most_once_in_twenty():
    """Where optimum and reference are the same, two standard errors are exceeded upwards in 2.3 % of the time or so."""
    toy, claims = Toy(lambda t: 0 * t + 1, (0, 1)), 0
    for seed in range(60):
        found = optimise(toy, "y + 0 * x1", seed=seed, starts=1, simulator=Truth(lambda t: 0 * t + 1, noise=1.0), confirm=32,
                         reference=[0.9])  # fmt: skip
        claims += found.confirmed.gained
    assert claims <= 6  # 99.9 % of a binomial with 3 %


def test_a_single_random_run_shows_no_gain():
    toy = Toy(bowl, (0, 1), (0, 1))
    found = optimise(toy, "y", seed=1, simulator=Truth(bowl, noise=1e-9), reference=[0.1, 0.1])
    assert not found.confirmed.gained


def test_a_constraint_that_the_true_run_breaks_is_told():
    toy = Toy(lambda t: t, (0, 1))
    found = optimise(toy, "y", subject_to=["y >= 0.4"], seed=1, simulator=Truth(lambda t: t - 0.1), reference=[0.9])
    assert found.confirmed.broken == ("y >= 0.4",)
    assert not found.confirmed.gained


@pytest.fixture(scope="module")
def lopsided():
    """Runs in one half of the box only, of a function that falls into the other."""
    space = Space((Parameter("x1", Uniform(0, 1)), Parameter("x2", Uniform(0, 1))))
    x = torch.quasirandom.SobolEngine(2, scramble=True, seed=1).draw(128, dtype=torch.float64)
    x = x[x[:, 0] < 0.45]
    x = x.numpy()
    return fit(Polynomial(), Runs.of(space, Outputs((Field("y"),)), x, 1 - x[:, :1]), seed=1)


def test_an_optimum_where_no_run_is_near_is_said_or_refused(lopsided):
    found = optimise(lopsided, "y", seed=1)
    assert found.thin
    assert "no run is near" in found.sentence
    with pytest.raises(InputError, match="must lie where the design is dense"):
        optimise(lopsided, "y", seed=1, outside="refuse")
    assert not optimise(lopsided, "y", seed=1, subject_to=["x1 <= 0.4", "0.2 <= x2 <= 0.8"], outside="refuse").thin


def test_the_same_seed_gives_the_same_bits(lopsided):
    one, two = (optimise(lopsided, "y + x2", seed=4, robust=1.0) for _ in range(2))
    assert torch.equal(one.theta, two.theta)
    assert one.to_dict() == two.to_dict()


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"objective": "z"}, "must be made of y, x1, x2"),
        ({"subject_to": ["x1 + x2"]}, "must compare two sides"),
        ({"robust": -1.0}, "robust must be a number of standard deviations"),
        ({"tolerance": {"x3": 0.1}}, "tolerance must be standard deviations of parameters, x1, x2. Got x3"),
        ({"starts": 0}, "starts and steps must be at least 1"),
        ({"objective": "log(-1 - x1)"}, "finite somewhere in the box"),
        ({"objective": lambda theta, p: p.mean}, "must give one number for each point"),
    ],
)
def test_what_cannot_be_optimised_is_refused(how, said):
    with pytest.raises(InputError, match=said):
        optimise(Toy(bowl, (0, 1), (0, 1)), **({"objective": "y", "seed": 1} | how))


@pytest.mark.parametrize("method", ["bfgs", "adam"])
def test_the_path_leads_downhill_from_a_start_to_the_optimum(method):
    found = optimise(Toy(branin, (-5, 10), (0, 15)), "y", seed=1, method=method, starts=4)
    value = branin(found.path)[:, 0]
    assert torch.equal(found.path[-1], found.theta)
    assert len(found.path) > 3
    assert (found.path[1:] != found.path[:-1]).any(-1).all()  # no step stands still
    assert float(value[0]) > float(value[-1]) + 1e-3
    if method == "bfgs":
        assert (value.diff() < 1e-9).all()


def test_a_long_path_is_thinned_and_still_goes_all_the_way(monkeypatch):
    toy = Toy(branin, (-5, 10), (0, 15))
    whole = optimise(toy, "y", seed=1, method="adam", starts=4).path
    monkeypatch.setattr("emulate.optimisation._HELD", 500)
    thin = optimise(toy, "y", seed=1, method="adam", starts=4).path
    assert len(thin) <= 64 < len(whole)
    assert torch.equal(thin[0], whole[0])
    assert torch.equal(thin[-1], whole[-1])
