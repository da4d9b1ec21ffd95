"""Windows and ensembles of chaotic runs: where they are exact they are the adjoint; elsewhere bias and variance trade places."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from emulate import estimation
from emulate.dynamics import Trajectory
from emulate.errors import InputError
from emulate.gradients.adjoint import Adjoint
from emulate.gradients.ensemble import Ensemble
from emulate.gradients.window import Window, memory
from emulate.noise import Noise
from tests.gradients.equations import lorenz
from tests.reference.gradients.dynamics import CLIMATE, autoregressive_slopes, logistic_slopes, squared_slope

RHO = torch.tensor([28.0], dtype=torch.float64)
MEMBERS = Ensemble(spread=0.5, spinup=500)


def linear(theta: Tensor, state: Tensor, k: int, noise: Noise) -> Tensor:
    return theta[0] * state + theta[1]


def test_one_window_is_the_adjoint():
    f = lorenz(30)
    one, whole = Window(length=30).estimate(f, RHO, seed=0), Adjoint().estimate(f, RHO, seed=0)
    assert torch.equal(one.gradient, whole.gradient)
    assert one.bias_bound.max() == one.standard_error.max() == 0
    assert "bias" not in one.diagnostics


def test_a_window_of_a_linear_map_is_a_geometric_sum():
    """s' = a s + b, the readout the last state: d/db over the last L steps is (1 - a^L) / (1 - a), the growth a^L."""
    f = Trajectory(lambda theta: theta[:1] * 0 + 1, linear, 10, lambda theta, s: s)
    e = Window(length=4).estimate(f, torch.tensor([0.9, 0.3], dtype=torch.float64), seed=0)
    assert float(e.gradient[0, 1]) == pytest.approx((1 - 0.9**4) / 0.1, rel=1e-12)
    assert e.diagnostics["growth"] == pytest.approx(0.9**4, rel=1e-12)
    assert e.diagnostics["exponent"] == pytest.approx(math.log(0.9), rel=1e-12)
    assert e.bias_bound.isnan().all()
    assert e.diagnostics["bias"] == ("unknown: what theta does to an output more than 4 steps later is left out; compare "
                                     "several lengths")  # fmt: skip


def test_windows_of_one_run_give_its_error():
    e = Window(length=50).estimate(lorenz(1000), RHO, seed=0)
    assert e.replicates == 20
    assert 0.3 < float(e.gradient) < 1.5
    assert 0 < float(e.standard_error) < 0.3
    assert 0.002 < e.diagnostics["exponent"] < 0.05  # the Lyapunov exponent is 0.906 for each unit of time, 100 steps


def test_an_ensemble_without_spread_is_the_adjoint_of_its_noise():
    def kicked(theta: Tensor, state: Tensor, k: int, noise: Noise) -> Tensor:
        return theta[0] * torch.sin(state) + 0.1 * noise.draw("kick", Normal(0.0, 1.0))

    f = Trajectory(lambda theta: theta, kicked, 6, lambda theta, s: s**2)
    one, other = (m.estimate(f, RHO / 14, seed=2, n=20) for m in (Ensemble(), Adjoint()))
    assert torch.equal(one.gradient, other.gradient)
    assert one.bias_bound.max() == 0


def test_spin_up_and_spread_make_members_whose_start_carries_nothing():
    f = Trajectory(lambda theta: theta[:1], linear, 2, lambda theta, s: s)
    theta = torch.tensor([0.9, 0.3], dtype=torch.float64)
    e = Ensemble(spinup=400).estimate(f, theta, seed=1)  # from the fixed point b / (1 - a), s_2 = a (a s + b) + b
    assert float(e.gradient[0, 1]) == pytest.approx(1.9, rel=1e-12)
    assert float(e.gradient[0, 0]) == pytest.approx(2 * 0.9 * 3 + 0.3, rel=1e-9)
    assert e.bias_bound.isnan().all()
    assert e.standard_error.max() == 0
    spread = Ensemble(spread=0.1).estimate(
        f, theta, seed=1, n=2000
    )  # ds_2/da of s_0 = a (1 + 0.1 Z): scatters by 2 a s_0
    assert float(spread.standard_error[0, 0]) * math.sqrt(2000) == pytest.approx(2 * 0.9 * 0.09, rel=0.1)


def test_the_climate_of_lorenz():
    """Half a unit of time: most of the response has come, and the scatter is still small (Lea, Allen & Haine 2000)."""
    e = MEMBERS.estimate(lorenz(50), RHO, seed=1, n=300)
    assert abs(float(e.gradient) - CLIMATE) < 4 * float(e.standard_error) + 0.2
    assert float(e.standard_error) < 0.1
    assert e.bias_bound.isnan().all()


@pytest.mark.slow
def test_short_windows_are_biased_and_long_ones_scatter():
    """The middle one is right to some 15 % (Lea, Allen & Haine 2000 speak of 10 %): 0.82 +- 0.03 over 8000 members."""
    members = Ensemble(spread=0.5, spinup=1500)
    short, middle, long = (members.estimate(lorenz(steps), RHO, seed=1, n=4000) for steps in (25, 100, 250))
    for name, e in (("0.25", short), ("1", middle), ("2.5", long)):
        print(f"\nwindow {name}: d<z>/drho {float(e.gradient):.3f} +- {float(e.standard_error):.3f}, climate {CLIMATE}")
    assert float(short.gradient) < CLIMATE - 0.4
    assert abs(float(middle.gradient) - CLIMATE) < 0.2 + 3 * float(middle.standard_error)
    assert float(long.standard_error) > 5 * float(middle.standard_error)
    assert long.diagnostics["largest"] > middle.diagnostics["largest"]


def test_the_one_call_gives_an_ensemble_its_members():
    e = estimation.estimate(lorenz(10), RHO, method={"use": "ensemble", "spread": 0.5}, n=7, seed=1)
    assert e.replicates == 7
    assert e.standard_error.isfinite().all()


def tent(theta: Tensor, state: Tensor, k: int, noise: Noise) -> Tensor:
    assert theta > 0  # what is asked of theta alone jumps nowhere that matters
    return theta * torch.where(state < 0.5, state, 1 - state)


def kicked_tent(theta: Tensor, state: Tensor, k: int, noise: Noise) -> Tensor:
    return tent(theta, state, k, noise) + 0.01 * noise.draw("kick", Normal(0.0, 1.0))


def smooth_tent(theta: Tensor, state: Tensor, k: int, noise: Noise) -> Tensor:
    assert theta > 0
    return theta * (0.5 - (state - 0.5).abs()) + 0.01 * noise.draw("kick", Normal(0.0, 1.0))


def _of(step, at=(), readout=lambda theta, s: s.mean(0)) -> Trajectory:
    return Trajectory(lambda theta: theta * 0 + 0.3, step, 12, readout, at=at)


@pytest.mark.parametrize(
    ("method", "f", "reads"),
    [
        (Window(length=4), _of(tent, tuple(range(13))), ["lt"]),  # of one run, from step to step
        (Window(length=4), _of(kicked_tent, tuple(range(13))), ["lt"]),
        (Window(length=12), _of(kicked_tent, tuple(range(13))), ["lt"]),
        (Ensemble(), _of(kicked_tent, readout=lambda theta, s: s), ["lt"]),
        (Ensemble(spread=0.1), _of(tent, readout=lambda theta, s: s), ["lt"]),
        (Ensemble(), _of(smooth_tent, readout=lambda theta, s: s * (s > 0.5)), ["gt"]),
        (Window(length=12), _of(smooth_tent, readout=lambda theta, s: s * 1, at=()), []),
        (Ensemble(), _of(smooth_tent, readout=lambda theta, s: s * 1), []),
    ],
)
def test_a_plain_comparison_of_the_state_is_named_and_leaves_the_bias_unknown(method, f, reads):
    e = method.estimate(f, torch.tensor([1.9], dtype=torch.float64), seed=1, n=5)
    assert e.diagnostics["reads"] == reads
    assert bool(e.bias_bound.isnan().all()) == bool(reads)


@pytest.mark.parametrize("method", [Window(length=4), Ensemble()])
def test_a_decision_on_the_state_is_refused(method):
    def step(theta: Tensor, state: Tensor, k: int, noise: Noise) -> Tensor:
        return theta * state * noise.above("edge", state - 0.5)

    with pytest.raises(
        InputError,
        match=rf"^{type(method).__name__.lower()} must have no hard decision on theta\. Got one at the site edge",
    ):
        method.estimate(_of(step, readout=lambda theta, s: s), torch.tensor([1.9], dtype=torch.float64), seed=1, n=3)


CHAINS = 25  # independent runs in one state, an output each: so many repeats of an estimate at once


def logistic_map(theta: Tensor, x: Tensor, k: int, noise: Noise) -> Tensor:
    return theta * x * (1 - x)


def unpushed(theta: Tensor, x: Tensor, k: int, noise: Noise) -> Tensor:
    return theta * x + noise.draw("kick", Normal(torch.zeros(CHAINS, dtype=torch.float64), 1.0))


def _long(step, start: Tensor, steps: int) -> Trajectory:
    return Trajectory(lambda theta: start, step, steps, lambda theta, x: x.mean(0), at=tuple(range(1, steps + 1)))


def _windows_of_logistic(seed: int):
    u = torch.rand(CHAINS, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    f = _long(logistic_map, torch.sin(math.pi / 2 * u) ** 2, 400)
    return Window(length=4).estimate(f, torch.tensor([4.0], dtype=torch.float64), seed=seed)


def _windows_of_autoregression(seed: int):
    """Kicks that are given, so that each run is made once; windows of 3 steps in a memory of 5."""
    z = torch.randn(601, CHAINS, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    f = _long(lambda theta, x, k, noise: theta * x + 0.2 + z[k], 1 + z[600] / 0.6, 600)
    return Window(length=3).estimate(f, torch.tensor([0.8], dtype=torch.float64), seed=seed)


def _members_on_logistic(seed: int):
    start = torch.full((CHAINS,), 0.3, dtype=torch.float64)
    f = Trajectory(lambda theta: start, logistic_map, 4, lambda theta, x: x)
    method = Ensemble(spread=0.1, spinup=60)
    return method.estimate(f, torch.tensor([4.0], dtype=torch.float64), seed=seed, n=200)


def _members_of_autoregression(seed: int):
    start = torch.zeros(CHAINS, dtype=torch.float64)
    f = Trajectory(lambda theta: start, unpushed, 5, lambda theta, x: x**2)
    return Ensemble().estimate(f, torch.tensor([0.8], dtype=torch.float64), seed=seed, n=400)


COVERED = {
    "window, logistic map": (_windows_of_logistic, float(logistic_slopes(4).mean())),
    "window, autoregression": (_windows_of_autoregression, float(autoregressive_slopes(0.8, 3).mean())),
    "ensemble, logistic map": (_members_on_logistic, float(logistic_slopes(4)[-1])),
    "ensemble, autoregression": (_members_of_autoregression, squared_slope(0.8, 5)),
}


def _coverage(name: str, repeats: int) -> float:
    """The share of intervals that hold what the windows or members average, whatever that is to the whole response."""
    made, truth = COVERED[name]
    held = []
    for seed in range(repeats // CHAINS):
        e = made(seed)
        low, high = replace(e, bias_bound=torch.zeros_like(e.gradient)).interval(0.95)
        held.append((low <= truth) & (truth <= high))
    return float(torch.stack(held).double().mean())


@pytest.mark.parametrize("name", ["window, logistic map", "ensemble, logistic map", "ensemble, autoregression"])
def test_intervals_cover_roughly(name):
    assert _coverage(name, 2 * CHAINS) > 0.8


@pytest.mark.slow
@pytest.mark.parametrize("name", COVERED)
def test_intervals_cover_in_a_thousand_repeats(name):
    share = _coverage(name, 1000)
    print(f"{name}: 95 % intervals hold the truth in {100 * share:.1f} % of 1000 (bar 92 to 98)")
    assert 0.92 <= share <= 0.98


def test_windows_that_remember_each_other_count_for_fewer():
    """An autoregression x' = rho x + noise: (1 + rho) / (1 - rho); independent numbers, or ones that alternate: 1."""
    z = torch.randn(20_000, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for rho, factor in ((0.0, 1.0), (0.5, 3.0), (0.8, 9.0), (-0.5, 1.0)):
        x = z.clone()
        for before, now in itertools.pairwise(x):
            now += rho * before
        torch.testing.assert_close(memory(x), torch.full((2,), factor, dtype=torch.float64), rtol=0.15, atol=0.02)
