"""Where an emulator was taught: distances judged by scikit-learn and closed forms, holes that were cut, and `outside`."""

import warnings
from functools import cache

import numpy as np
import pytest
import torch
from scipy.stats import qmc
from sklearn.neighbors import NearestNeighbors

import emulate
from emulate.checks.domain import Domain as Check
from emulate.contracts import Evidence, Weighted
from emulate.domain import CHOICES, THIN, Domain, Widened
from emulate.emulator import Emulator
from emulate.emulators.polynomial import Polynomial
from emulate.errors import ExtrapolationWarning, InputError
from emulate.runs import Field, Outputs, Runs
from emulate.space import Normal, Parameter, Space, Uniform
from tests import laws


def box(d: int) -> Space:
    return Space(tuple(Parameter(f"p{i}", Uniform(0.0, 1.0)) for i in range(d)))


def design(kind: str, n: int, d: int, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    made = {"random": lambda: rng.random((n, d)), "sobol": lambda: qmc.Sobol(d, rng=rng).random(n),
            "latin": lambda: qmc.LatinHypercube(d, rng=rng).random(n)}  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of numbers that are no power of two
        return torch.from_numpy(made[kind]())


@pytest.mark.parametrize(("n", "d"), [(12, 1), (40, 2), (90, 3), (200, 5)])
def test_remoteness_is_that_of_scikit_learns_neighbours(n, d):
    """The slow twin: the definition in the docstring, projection by projection, with another library's neighbours."""
    runs, x = design("random", n, d).numpy(), np.random.default_rng(1).uniform(-0.2, 1.2, (50, d))
    axes = (
        [(i,) for i in range(d)] + [(i, j) for j in range(d) for i in range(j)] + ([tuple(range(d))] if d > 2 else [])
    )
    k, ratios = max(3, int(np.ceil(0.05 * n))), []
    for p in axes:
        near = NearestNeighbors(n_neighbors=k + 1).fit(runs[:, p])
        own = near.kneighbors(runs[:, p])[0][:, k]  # the first is the run itself
        ratios.append(near.kneighbors(x[:, p])[0][:, k - 1] / np.quantile(own, 0.95))
    found = Domain(box(d), torch.from_numpy(runs)).remoteness(torch.from_numpy(x))
    np.testing.assert_allclose(found.numpy(), np.max(ratios, 0), rtol=1e-12)


def test_on_a_line_of_equal_steps_it_is_known():
    """101 runs at 0, 0.01 ... 1, k = 6: the sixth nearest of x = 1 + b is at b + 0.05, and 95 % of runs have it at 0.04 or
    less, those at the ends aside: a run three steps from an end has its sixth neighbour at 0.03."""
    domain = Domain(box(1), torch.linspace(0, 1, 101, dtype=torch.float64)[:, None])
    own = sorted(sorted(abs(i - j) for j in range(101) if j != i)[5] for i in range(101))
    yard = 0.01 * np.quantile(own, 0.95)
    theta = torch.tensor([[1.0], [1.1], [2.0]], dtype=torch.float64)
    np.testing.assert_allclose(domain.remoteness(theta).numpy(), np.array([0.05, 0.15, 1.05]) / yard, rtol=1e-9)


@pytest.mark.parametrize("kind", ["random", "sobol", "latin"])
@pytest.mark.parametrize(("n", "d"), [(10, 1), (10, 3), (100, 2), (100, 10), (500, 10)])
def test_a_whole_design_has_no_hole_and_a_slab_without_runs_is_one(kind, n, d):
    space, runs = box(d), design(kind, n, d)
    x = design("random", 300, d, seed=5)
    whole = Domain(space, runs)
    assert float(whole.thin(x).double().mean()) <= 0.02
    corners = design("random", 20, d, seed=6).round()
    if kind != "random":
        assert float(whole.thin(corners).double().mean()) <= 0.1, "a corner has runs on one side only"
    if n < 30:
        return
    left = Domain(space, runs[runs[:, 0] < 0.7])
    x[:, 0] = 0.85
    assert float(left.thin(x).double().mean()) == 1.0
    assert left.place(x).names[0] == "p0"
    x[:, 0] = 0.35
    assert float(left.thin(x).double().mean()) <= 0.05


def test_a_corner_that_two_parameters_cut_off_is_found_in_ten_dimensions():
    runs = design("sobol", 200, 10)
    domain = Domain(box(10), runs[runs[:, 2] + runs[:, 7] < 1.3])
    x = design("random", 50, 10, seed=5)
    x[:, [2, 7]] = 0.92
    assert bool(domain.thin(x).all())
    assert domain.place(x).words == "in p2 and p7"


def test_one_run_alone_fills_no_hole():
    runs = torch.cat([0.5 * design("sobol", 64, 2), torch.tensor([[0.9, 0.9]], dtype=torch.float64)])
    assert bool(Domain(box(2), runs).thin(torch.tensor([[0.9, 0.89]], dtype=torch.float64)))


def test_a_run_that_is_repeated_fills_no_hole():
    runs, x = design("sobol", 32, 2), design("random", 50, 2)
    many = runs[torch.randint(32, (300,), generator=torch.Generator().manual_seed(1)).unique().repeat(7)]
    once = torch.from_numpy(np.unique(many.numpy(), axis=0))
    assert torch.equal(Domain(box(2), many).remoteness(x), Domain(box(2), once).remoteness(x))


@pytest.mark.parametrize("d", [1, 2, 3, 4])
def test_a_grid_is_no_hole(d):
    axis = torch.linspace(0, 1, 4, dtype=torch.float64)
    grid = torch.cartesian_prod(*[axis] * d).reshape(-1, d)
    assert not bool(Domain(box(d), grid).thin(design("random", 200, d)).any())


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_few_runs_and_runs_at_one_place(n):
    domain = Domain(box(2), torch.full((n, 2), 0.5, dtype=torch.float64))
    assert bool(domain.remoteness(torch.tensor([[0.5, 0.5], [0.7, 0.1]], dtype=torch.float64)).isfinite().all())
    assert Domain(box(2), design("sobol", 8, 2)).remoteness(torch.zeros(0, 2, dtype=torch.float64)).shape == (0,)


def test_thousands_of_runs_are_as_dense_as_some_of_them():
    """The same density by 512 of 5000 runs: no stride, which would take one corner of a Sobol sequence."""
    runs = design("sobol", 4096, 2)
    domain = Domain(box(2), runs)
    assert not bool(domain.thin(design("random", 500, 2)).any())
    assert bool(Domain(box(2), runs[runs[:, 0] < 0.7]).thin(torch.tensor([[0.85, 0.5]], dtype=torch.float64)))


def test_the_tail_of_a_normal_prior_is_thin_though_it_is_in_the_box():
    space = Space((Parameter("a", Normal(1.0, 0.1)),))
    domain = Domain(space, space.scaled(space.from_unit(design("sobol", 64, 1).clamp(1e-3, 1 - 1e-3))))
    z = torch.tensor([[0.0], [1.5], [4.0], [-5.0]], dtype=torch.float64)
    theta = 1.0 + 0.1 * z
    assert domain.beyond(theta).tolist() == [0.0] * 4
    assert domain.thin(theta).tolist() == [False, False, True, True]


# -- what happens there ----------------------------------------------------------------------------------------------


@cache
def fitted() -> Emulator:
    """A parabola of two parameters that no run has taught above a = 0.7."""
    x = design("sobol", 64, 2)
    x = x[x[:, 0] < 0.7].numpy()
    y = np.stack([x[:, 0] + x[:, 1] ** 2, np.exp(x[:, 0])], 1)
    space = Space((Parameter("a", Uniform(0, 1)), Parameter("b", Uniform(0, 1))))
    return emulate.fit(Polynomial(), Runs.of(space, Outputs((Field("p"), Field("q", "", True))), x, y), seed=0)


DENSE, HOLE, OUT = (torch.tensor(t, dtype=torch.float64) for t in ([0.3, 0.5], [0.95, 0.5], [1.1, 0.5]))


def test_the_domain_is_saved_with_the_emulator(tmp_path):
    again = emulate.load(fitted().save(tmp_path / "x"))
    theta = torch.stack([DENSE, HOLE, OUT])
    assert torch.equal(again.remoteness(theta), fitted().remoteness(theta))
    assert again.remoteness({"a": 0.3, "b": 0.5}) < 1
    assert (again.remoteness(theta) > THIN).tolist() == [False, True, True]


def test_a_hole_warns_where_it_is_asked_for():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted().predict(HOLE)
        fitted().predict(HOLE, strict=True)
        fitted().predict(OUT, outside="ignore")
        fitted().predict(DENSE, outside="warn")
        fitted().predict(DENSE, outside="refuse")
    with pytest.warns(ExtrapolationWarning) as caught:
        fitted().predict(torch.stack([DENSE, HOLE]), outside="warn")
    said = str(caught[0].message)
    assert said.startswith("theta must lie where the design is dense. Got points that lie ")
    assert said.endswith(" times as far from their nearest runs as runs are from each other, in a, in 50% of the points; "
                         "no run has taught the emulator there.")  # fmt: skip
    assert caught[0].filename == __file__


def test_a_hole_is_refused_where_it_is_asked_for():
    with pytest.raises(
        InputError, match=r"runs are from each other, in a; run the simulator there, or stay where it ran\.$"
    ):
        fitted().predict(HOLE, outside="refuse")
    with pytest.raises(InputError, match=r"^theta must lie in the box .* stay inside, or train on a wider prior\.$"):
        fitted().predict(OUT, outside="refuse")
    with pytest.raises(InputError, match=r'^outside must be one of box, warn, refuse, inflate, ignore\. Got "?\'?warm'):
        fitted().predict(HOLE, outside="warm")


def test_inflation_is_the_formula_and_one_where_runs_are():
    e = fitted()
    r = e.remoteness(torch.stack([HOLE, OUT]))
    factor = e.guard.inflation(torch.stack([DENSE, HOLE, OUT]))
    expected = torch.stack([torch.ones(()).double(), (r[0] / 2) ** 2, (1 + 20 * 0.1 + r[1] / 2 - 1) ** 2])
    torch.testing.assert_close(factor, expected, rtol=1e-12, atol=0.0)
    for theta, f in zip((DENSE, HOLE, OUT), factor, strict=True):
        plain, wide = e.predict(theta, outside="ignore"), e.predict(theta, outside="inflate")
        assert torch.equal(wide.mean, plain.mean)
        torch.testing.assert_close(wide.variance, plain.variance * f, rtol=1e-12, atol=0.0)
        torch.testing.assert_close(wide.covariance_matrix, plain.covariance_matrix * f, rtol=1e-12, atol=0.0)
        if f == 1:
            assert torch.equal(wide.log_prob(plain.mean), plain.log_prob(plain.mean))


def test_inflation_is_continuous_and_has_the_gradient_of_its_values():
    a = torch.linspace(0.3, 1.2, 9001, dtype=torch.float64)
    theta = torch.stack([a, torch.full_like(a, 0.5)], -1).requires_grad_()
    sd = fitted().guard.inflation(theta).sqrt()
    assert float(sd.detach().diff().abs().max()) < 0.02, "a jump"
    (slope,) = torch.autograd.grad(sd.sum(), theta)
    assert bool(slope.isfinite().all())
    step = (sd[2:] - sd[:-2]).detach() / (a[2:] - a[:-2])
    off = (step - slope[1:-1, 0]).abs() > 1e-6 * (1 + step.abs())
    assert float(off.double().mean()) < 0.02, "only at kinks, where another run is the k-th nearest"
    assert bool((sd.diff() >= -1e-12)[a[1:] > 0.8].all()), "it falls on the way out"


def test_a_widened_prediction_is_that_of_its_samples():
    wide = fitted().predict(torch.stack([HOLE, OUT]), outside="inflate")
    assert isinstance(wide, Widened)
    y = wide.sample((40000,), generator=torch.Generator().manual_seed(1))
    error = wide.stddev / 200
    assert bool(((y.mean(0) - wide.mean).abs() < 4.5 * error).all())
    torch.testing.assert_close(y.var(0), wide.variance, rtol=0.1, atol=0.0)
    torch.testing.assert_close(wide.rsample((3,)).shape, torch.Size([3, 2, 2]))
    grid = wide.mean[0] + wide.stddev[0] * torch.cartesian_prod(*[torch.linspace(-9, 9, 400).double()] * 2)
    cell = float((18 / 399) ** 2 * wide.stddev[0].prod())
    density = fitted().predict(HOLE, outside="inflate").log_prob(grid).exp()
    assert float(density.sum() * cell) == pytest.approx(1.0, abs=1e-3)


def test_an_emulator_without_its_runs_looks_at_the_box_and_says_what_it_cannot():
    old = fitted()
    bare = Emulator(old.space, old.outputs, old.recipe, old.core, old.transform, old.provenance)
    assert torch.equal(bare.predict(HOLE).mean, old.predict(HOLE).mean)
    assert float(bare.domain(OUT)) == pytest.approx(0.1)
    for outside in set(CHOICES) - {"box", "ignore"}:
        with pytest.raises(InputError, match=r"^this emulator must know where its runs lie\. Got one that was saved before "
                           r'that was kept; train it again, or ask with outside = "box"\.$'):  # fmt: skip
            bare.predict(DENSE, outside=outside)


def test_the_check_counts_the_draws_in_the_hole():
    theta = torch.cat([DENSE.expand(90, 2), HOLE.expand(10, 2)])
    draws = Weighted(theta[:2], torch.zeros(2, dtype=torch.float64), theta)
    (finding,) = Check().find(Evidence(fitted(), weighted=draws))
    assert (finding.value, finding.passed, finding.bound) == (0.1, False, "<= 0.05")
    assert finding.sentence.startswith("At 10 % of 100 draws of the posterior the design is thin: ")
    assert "times that distance, in a. Run the simulator there" in finding.sentence
    assert Check(share=0.2).find(Evidence(fitted(), weighted=draws))[0].passed


def test_the_design_is_the_runs_in_scaled_coordinates():
    table = laws.runs()
    assert torch.equal(
        emulate.fit(Polynomial(), table, seed=0).design, laws.SPACE.scaled(torch.from_numpy(table.theta))
    )
