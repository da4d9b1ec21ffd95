"""The graded rod: its closed form against the equation itself, its steps against linear algebra, and both orders of
differentiating and discretising against the order of the scheme."""

import itertools
import math
from dataclasses import replace

import pytest
import torch

from emulate import registry
from emulate.diagnosis import diagnose
from emulate.errors import InputError, RunFailed
from emulate.side_by_side import compare, finding
from emulate.simulators.heat import Heat
from emulate.simulators.heat.series import temperature
from emulate.simulators.heat.simulator import order

THETA = torch.tensor([100.0, 0.5], dtype=torch.float64)
ROD = Heat(cells=5, sensors=(20.0, 40.0), steps=20)


def of(method: str, rod: Heat = ROD, **settings):
    return registry.build("gradients", {"use": method, **settings}).estimate(rod, THETA, seed=0)


@pytest.mark.parametrize(
    "grading", [0.5, pytest.param(2.0, marks=pytest.mark.slow), pytest.param(-0.4, marks=pytest.mark.slow)]
)
def test_the_closed_form_solves_the_equation(grading):
    """u_t = (a u_x)_x by central differences of the series, its start, and its ends."""
    a, b, length = torch.tensor(100.0).double(), torch.tensor(grading).double(), 100.0
    x = torch.tensor([7.0, 31.0, 50.0, 88.0], dtype=torch.float64)

    def u(at, time):
        return temperature(a, b, at, length=length, time=time)

    def flux(at, h=0.05):
        return a * (1 + b * at / length) ** 2 * (u(at + h, 2.0) - u(at - h, 2.0)) / (2 * h)

    by_time = (u(x, 2.0 + 1e-3) - u(x, 2.0 - 1e-3)) / 2e-3
    by_space = (flux(x + 0.05) - flux(x - 0.05)) / 0.1
    torch.testing.assert_close(by_time, by_space, rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(u(x, 1e-3), torch.sin(math.pi * x / length), rtol=2e-3, atol=1e-4)
    assert float(u(torch.tensor([0.0, 100.0]).double(), 2.0).abs().max()) < 1e-12


def test_runs_come_to_the_closed_form_at_second_order():
    errors = []
    for cells, steps in ((10, 100), (20, 400), (40, 1600)):
        rod = Heat(cells=cells, steps=steps)
        errors.append(float((rod.exact(THETA)[0] - rod.series(THETA)[0]).abs().max()))
    assert order((10, 20, 40), errors) == pytest.approx(2.0, abs=0.05)
    assert errors[1] < 0.1  # K, on the default grid


def test_the_steps_are_powers_of_their_matrix():
    for scheme, steps in (("rk4", 20), ("euler", 40)):
        rod = replace(ROD, scheme=scheme, steps=steps)
        y, slope = rod.exact(THETA)
        torch.testing.assert_close(rod.run(THETA), y, rtol=1e-12, atol=0)
        torch.testing.assert_close(of("adjoint", rod).gradient, slope, rtol=1e-11, atol=0)


@pytest.mark.parametrize("method", ["adjoint", "checkpointed", "reverse", "complex_step", "forward"])
def test_discretise_then_differentiate_is_exact_for_what_was_run(method):
    torch.testing.assert_close(of(method).gradient, ROD.exact(THETA)[1], rtol=1e-11, atol=0)


def test_no_method_of_the_room_misses_what_it_says_it_knows():
    names = [
        n for n in registry.names("gradients") if n not in ("ensemble", "smooth", "surrogate", "window")
    ]  # of averages
    sides = compare(ROD, THETA, ROD.exact(THETA)[1], seed=0, n=1, methods=names)
    assert finding(sides).passed, finding(sides).sentence
    told = {s.name: s.verdict for s in sides}
    assert told["adjoint"] == told["checkpointed"] == told["reverse"] == told["forward"] == "exact"
    assert told["continuous_adjoint"] == "holds"  # and its bound holds the gap


@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "counts", "p"), [("euler", (80, 160, 320), 1), ("rk4", (40, 80, 160), 4)])
def test_both_orders_come_to_the_equations_and_to_each_other_at_the_order_of_the_scheme(scheme, counts, p):
    rows = replace(ROD, scheme=scheme).orders(THETA, counts)
    for which in ("adjoint", "continuous", "gap"):
        errors = [getattr(row, which) for row in rows]
        assert order(counts, errors) == pytest.approx(p, abs=0.15), which
        assert all(fine < coarse for coarse, fine in itertools.pairwise(errors))


def test_the_adjoint_of_the_steps_is_one_of_the_adjoint_equation():
    """-l_t = (a l_x)_x from g(x) at the end is the same equation backward, so that for J = int sin(pi x / L) u(x, T) dx the
    adjoint at the start is the temperature itself: dJ/du0_i = h u(x_i, T), to second order."""
    errors = []
    for cells in (10, 20, 40):
        rod, h = Heat(cells=cells, steps=30 * (cells // 10) ** 2), 100.0 / cells
        x = h * torch.arange(1, cells, dtype=torch.float64)
        g = torch.sin(math.pi * x / 100.0)
        steps = rod.dynamics.discretised
        start = steps.start(THETA).detach().requires_grad_()
        end = start
        for k in range(steps.steps):
            end = steps.step(THETA, end, k, None)
        (pulled,) = torch.autograd.grad(h * (g * end).sum(), start)
        expected = temperature(*THETA, x, length=100.0, time=5.0)
        errors.append(float((pulled / h - expected).abs().max()))
    assert order((10, 20, 40), errors) == pytest.approx(2.0, abs=0.1)


def test_nothing_stands_in_the_way():
    assert diagnose(ROD, THETA).trouble == "smooth"


def test_what_cannot_be_stepped_is_refused():
    with pytest.raises(RunFailed, match=r"^error: heat must take at least \d+ steps on 20 cells at \[100\.0, 0\.5\], or its "
                       r"steps grow without bound\. Got 20; raise steps, or lower cells\.$"):  # fmt: skip
        Heat(steps=20).run(THETA)
    rod = Heat(cells=10, sensors=(50.0,))
    rod = replace(rod, steps=rod.least_steps(THETA))
    assert 0 < float(rod.run(THETA)) < rod.peak
    with pytest.raises(InputError, match=r"^heat: sensors must lie inside the rod on its grid, at multiples of 5 mm\. Got 12 mm; "
                       r"move it, or change cells\.$"):  # fmt: skip
        Heat(sensors=(50.0, 12.0))


def test_parameters_may_stand_in_any_order():
    swapped = replace(ROD, space=type(ROD.space)(ROD.space.parameters[::-1]))
    torch.testing.assert_close(swapped.run(THETA.flip(0)), ROD.run(THETA))
    torch.testing.assert_close(swapped.series(THETA.flip(0))[1].flip(1), ROD.series(THETA)[1])
