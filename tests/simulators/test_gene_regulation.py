"""Hes1 against scipy's integrator, Monk's published onset, and what its equations say of mRNA alone."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from emulate.errors import InputError, RunFailed
from emulate.gradients.finite_difference import FiniteDifference
from emulate.identifiability import identify
from emulate.simulators.gene_regulation import GeneRegulation
from emulate.space import Parameter, Space, Uniform

MIDDLE = torch.full((4,), 0.5, dtype=torch.float64)
DELAYS = Space((Parameter("tau_m", Uniform(1.0, 20.0)), Parameter("tau_p", Uniform(1.0, 20.0))))


def by_steps(theta, times, start=(3.0, 100.0)):
    """m and p `[2, t]` by the method of steps: pieces no longer than the shorter delay, DOP853 to 1e-12."""
    tau_m, tau_p, mu_m, p0 = theta
    pieces = []

    def past(t):
        return start if t <= 0 else next(s for end, s in pieces if t <= end + 1e-12)(t)

    ends = sorted(
        {0.0, times[-1], *(s for i in range(8) for j in range(8) if 0 < (s := i * tau_m + j * tau_p) < times[-1])}
    )
    y, found = list(start), {}
    for begin, end in itertools.pairwise(ends):
        n = int(np.ceil((end - begin) / (0.9 * min(tau_m, tau_p))))
        for left, right in zip(*(np.linspace(begin, end, n + 1)[part] for part in (slice(-1), slice(1, None)))):
            made = solve_ivp(lambda t, y: (1 / (1 + (past(t - tau_m)[1] / p0) ** 5) - mu_m * y[0],
                                           past(t - tau_p)[0] - 0.03 * y[1]), (left, right), y, method="DOP853", rtol=1e-12,
                             atol=1e-12, dense_output=True)  # fmt: skip
            pieces.append((right, made.sol))
            y = made.y[:, -1]
            found |= {t: made.sol(t) for t in times if left < t <= right + 1e-12}
    return np.array([found[t] for t in times]).T


def test_courses_are_those_of_scipy():
    times = (10.0, 47.0, 90.0, 150.0)
    simulator = GeneRegulation(times=times)
    for u in (0.2, 0.7):
        theta = simulator.space.from_unit(torch.tensor([u, 1 - u, 0.4, u], dtype=torch.float64))
        y = simulator.run(theta, seed=0).numpy().reshape(2, -1)
        np.testing.assert_allclose(y, by_steps(theta.tolist(), times), rtol=1e-7)


def test_jacobians_by_complex_steps_reverse_mode_and_differences_are_one():
    simulator = GeneRegulation(times=(40.0, 70.0), step=2.0)
    theta = simulator.space.from_unit(MIDDLE)
    y, slope = simulator.jacobian(theta, seed=0)
    by_reverse = torch.autograd.functional.jacobian(lambda t: simulator.run(t, seed=0), theta)
    by_differences = FiniteDifference().estimate(simulator, theta, seed=0).gradient
    torch.testing.assert_close(y, simulator.run(theta, seed=0), rtol=0, atol=0)
    torch.testing.assert_close(slope, by_reverse, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(slope, by_differences, rtol=1e-4, atol=1e-3)


def test_halving_the_step_lowers_the_error_sixteen_times():
    theta = GeneRegulation().space.from_unit(torch.tensor([0.31, 0.77, 0.5, 0.5], dtype=torch.float64))
    fine = GeneRegulation(step=0.25).run(theta, seed=0)
    off = [float((GeneRegulation(step=h).run(theta, seed=0) / fine - 1).abs().max()) for h in (4.0, 2.0, 1.0)]
    assert off[-1] < 1e-6
    assert np.polyfit(np.log([4.0, 2.0, 1.0]), np.log(off), 1)[0] > 3.5


def growth(tau):
    """The rate at which a small perturbation of Hes1's steady state grows, 1/min, from its course alone."""
    hes1 = GeneRegulation(space=DELAYS)
    theta = (0.4 * tau, 0.6 * tau)
    m, p = hes1.steady(theta)
    moved = replace(hes1, mrna=m * (1 + 1e-5), protein=p)
    solution, d = moved.courses(theta, 2000.0), 20.0
    x = np.array([solution(800.0 + d * k)[1] - p for k in range(60)])
    # a pair of roots obeys x_(k+2) = 2 e^(s d) cos(w d) x_(k+1) - e^(2 s d) x_k
    square = np.linalg.lstsq(np.stack([x[1:-1], -x[:-2]], 1), x[2:], rcond=None)[0][1]
    return np.log(square) / (2 * d)


def test_oscillations_begin_where_the_characteristic_equation_says():
    """Monk's onset from the solver's own courses: the delay at which a perturbation neither grows nor decays."""
    low, high = 18.1, 18.4
    a, b = growth(low), growth(high)
    assert a < 0 < b
    between = low - a * (high - low) / (b - a)
    again = growth(between)
    assert between - again * (high - low) / (b - a) == pytest.approx(18.246719, abs=2e-5)
    hes1 = GeneRegulation(space=DELAYS)
    assert hes1.onset((8.0, 14.0)) == pytest.approx(18.246719, abs=1e-6)
    assert GeneRegulation(fixed={"hill": 0.9}).onset((8.0, 14.0, 0.03, 100.0)) == np.inf


@pytest.mark.slow
def test_the_period_is_monks():
    hes1 = GeneRegulation(space=DELAYS)
    assert hes1.period((12.0, 18.0)) == pytest.approx(167.443, rel=1e-5)
    assert replace(hes1, step=0.5).period((10.0, 20.0)) == pytest.approx(167.443, rel=1e-5)
    assert np.isnan(hes1.period((5.0, 10.0)))


def told(simulator):
    theta = torch.stack([simulator.space.from_unit(u * torch.ones(4, dtype=torch.float64)) for u in (0.5, 0.3)])
    pairs = [simulator.jacobian(t, seed=0) for t in theta]
    y, slope = (torch.stack(x) for x in zip(*pairs))
    return identify(simulator.space, theta, slope, torch.diag_embed((0.1 * y).square()))


def test_mrna_alone_tells_the_sum_of_the_delays_and_nothing_else_of_them():
    found = told(GeneRegulation(observed=("mrna",)))
    (only,) = found.combinations
    assert only.text == "tau_m + tau_p"
    assert only.one_minus_cos < 1e-10
    assert found.told == ("mu_m", "p0")
    assert "Of tau_m and tau_p only tau_m + tau_p is told" in found.sentence
    assert torch.isinf(found.together[:2]).all()


def test_protein_beside_it_or_another_history_tells_both():
    for simulator in (GeneRegulation(), GeneRegulation(observed=("mrna",), protein=60.0)):
        assert told(simulator).told == ("tau_m", "tau_p", "mu_m", "p0")


def test_parameters_may_be_fixed_and_in_any_order():
    space = Space((Parameter("p0", Uniform(50.0, 150.0)), Parameter("tau_p", Uniform(5.0, 25.0))))
    some = GeneRegulation(space=space, fixed={"tau_m": 9.0, "mu_m": 0.025})
    y, slope = some.jacobian(torch.tensor([90.0, 13.0], dtype=torch.float64), seed=0)
    whole, slopes = GeneRegulation().jacobian(torch.tensor([9.0, 13.0, 0.025, 90.0], dtype=torch.float64), seed=0)
    torch.testing.assert_close(y, whole)
    torch.testing.assert_close(slope, slopes[:, [3, 1]])


@pytest.mark.parametrize(("make", "said"), [
    (lambda: GeneRegulation(fixed={"tau": 1.0}), "gene_regulation: the parameters must be among alpha_m, alpha_p, mu_m, mu_p, p0, "
     "hill, tau_m, tau_p. Got 'tau'; change their priors, keep their names. Did you mean \"tau_p\"?"),
    (lambda: GeneRegulation(fixed={"tau_m": 1.0}), "gene_regulation: each of alpha_m, alpha_p, mu_m, mu_p, p0, hill, tau_m, tau_p "
     "must be in the space or in fixed, and not in both. Got tau_m in both."),
    (lambda: GeneRegulation(observed=()), "gene_regulation: observed must be mrna, protein or both. Got []."),
    (lambda: GeneRegulation(times=(2.0, 1.0)), "gene_regulation: times must be numbers of at least 0 that rise. Got [2.0, 1.0]."),
])  # fmt: skip
def test_what_does_not_fit_is_said(make, said):
    with pytest.raises(InputError) as caught:
        make()
    assert str(caught.value) == said


def test_steps_too_long_for_the_rates_fail_the_run():
    wild = GeneRegulation(fixed={"mu_p": 40.0}, protein=1.0, step=4.0)
    with pytest.raises(RunFailed, match=r"^nonfinite: steps of 4 min must be short against the rates\. Got molecules that run "
                       r"away; give the simulator a smaller step, or narrow the prior\.$"):  # fmt: skip
        wild.run(wild.space.from_unit(MIDDLE), seed=0)
