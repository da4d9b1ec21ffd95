"""Runs that an active design needs for a given error, of a posterior or over the prior, against a Sobol sequence; printed
with the spread.

    pytest -m benchmark -s tests/benchmarks/test_active.py
"""

import numpy as np
import pytest
import torch

from emulate.designs.active import Active
from emulate.designs.sobol import Sobol
from emulate.emulator import Emulator, fit
from emulate.emulators.gp import GP
from emulate.likelihoods.gaussian import Gaussian
from emulate.posterior import Posterior
from emulate.runs import Field, Outputs, Runs
from emulate.space import Parameter, Space, Uniform

pytestmark = pytest.mark.benchmark

SPACE = Space((Parameter("omega", Uniform(1.0, 6.0)), Parameter("gamma", Uniform(0.05, 1.0))))
TIMES = torch.linspace(0.5, 4.0, 8, dtype=torch.float64)
OUTPUTS = Outputs((Field("x", coordinate="t", at=tuple(TIMES.tolist())),))
SIGMA, FIRST, BATCH, MOST, BOUND = 0.05, 12, 4, 100, 0.1
RECIPE = GP(kernel="rbf", kernels=2, calibrate=False)  # a fit in 0.1 s, for some hundred are made
NOISE = Gaussian(absolute_error=SIGMA)
SIDE = (torch.arange(150, dtype=torch.float64) + 0.5) / 150
GRID = SPACE.from_unit(torch.cartesian_prod(SIDE, SIDE))


def wave(theta: torch.Tensor) -> torch.Tensor:
    """A damped oscillation whose phase turns four times over the box: exp(-gamma t) cos(omega t)."""
    return torch.exp(-theta[..., 1:] * TIMES) * torch.cos(theta[..., :1] * TIMES)


def emulator(u: np.ndarray, seed: int) -> Emulator:
    theta = SPACE.from_unit(torch.from_numpy(u))
    return fit(RECIPE, Runs.of(SPACE, OUTPUTS, theta.numpy(), wave(theta).numpy()), seed=seed)


class Observed:
    """An observation of parameters drawn from the middle of the prior, and its exact posterior on the grid."""

    def __init__(self, seed: int):
        generator = torch.Generator().manual_seed(seed)
        u = 0.2 + 0.6 * torch.rand(2, generator=generator, dtype=torch.float64)
        noise = SIGMA * torch.randn(len(TIMES), generator=generator, dtype=torch.float64)
        self.data = wave(SPACE.from_unit(u)) + noise
        self.exact = torch.softmax(-0.5 * ((self.data - wave(GRID)) / SIGMA).square().sum(-1), 0)

    @torch.no_grad()
    def error(self, e: Emulator) -> float:
        """Total variation between the posterior through the emulator and the exact one: 0 equal, 1 apart."""
        log = torch.cat([NOISE.log_prob(e.predict(part, outside="ignore"), self.data) for part in GRID.split(4000)])
        return 0.5 * float((torch.softmax(log, 0) - self.exact).abs().sum())

    def needed(self, errors) -> int:
        """The first number of runs whose posterior, and that of the next, keeps the bound; MOST where none does."""
        before = None
        for n, e in errors:
            if (good := self.error(e) <= BOUND) and before is not None:
                return before
            before = n if good else None
        return MOST


def by_sobol(seed: int):
    for n in range(FIRST, MOST + 1, BATCH):
        yield n, emulator(Sobol().points(n, 2, seed=seed), seed)


def by_active(seed: int, data: torch.Tensor):
    design = Active(aim="posterior", batch=BATCH)
    u = design.points(FIRST, 2, seed=seed)
    while len(u) <= MOST:
        e = emulator(u, seed)
        yield len(u), e
        posterior = Posterior(SPACE, lambda t, e=e: e.predict(t, outside="ignore"), NOISE, data)
        u = np.concatenate([u, design.points(BATCH, 2, seed=1000 * seed + len(u), emulator=e, posterior=posterior)])


@pytest.mark.timeout(3600)
def test_a_third_of_the_runs_is_saved_at_equal_posterior_error():
    """Medians over 10 observations and designs; the posterior fills about a hundredth of the prior."""
    torch.set_num_threads(1)
    found = []
    for seed in range(10):
        observed = Observed(seed)
        found.append([observed.needed(by_active(seed, observed.data)), observed.needed(by_sobol(seed))])
        print(f"\nobservation {seed}: active {found[-1][0]} runs, Sobol {found[-1][1]}", end="", flush=True)
    active, sobol = np.array(found).T
    share = active / sobol
    print(f"\nruns to a total variation of {BOUND}: active {active.tolist()}, Sobol {sobol.tolist()}")
    for name, x in (("active", active), ("Sobol", sobol), ("active over Sobol", share)):
        low, middle, high = np.quantile(x, [0.1, 0.5, 0.9])
        print(f"{name:18s} median {middle:.3g}, 10 % to 90 % {low:.3g} to {high:.3g}")
    assert np.median(active) <= 0.7 * np.median(sobol)
    assert np.median(share) <= 0.7


# -- over the prior --------------------------------------------------------------------------------------------------

PRIOR = Space((Parameter("a", Uniform(0.0, 1.0)), Parameter("b", Uniform(0.0, 1.0))))
ROUGH = GP(kernel="matern52", mean="quadratic", calibrate=False, log=False)
NEW = torch.quasirandom.SobolEngine(2, scramble=True, seed=999).draw(2000, dtype=torch.float64).numpy()


def peak(u: np.ndarray) -> np.ndarray:
    """A narrow peak on a smooth ground: it fills a fiftieth of the box."""
    return np.sin(3 * u[:, 0]) + u[:, 1] ** 2 + 2 * np.exp(-((u - [0.7, 0.3]) ** 2).sum(1) / (2 * 0.08**2))


def front(u: np.ndarray) -> np.ndarray:
    """A steep front across the box."""
    return np.tanh((u[:, 0] + 0.4 * u[:, 1] - 0.8) / 0.06) + 0.5 * u[:, 1]


def smooth(u: np.ndarray) -> np.ndarray:
    return np.sin(3 * u[:, 0]) * np.exp(u[:, 1]) + u[:, 1] ** 2


def runs_for(f, bound: float, recipe: GP, first: int, seed: int, *, active: bool) -> int:
    """Runs from which on the error, over the standard deviation of f, keeps the bound twice in a row."""
    design, before = Active(aim="prior", batch=4), None
    u = design.points(first, 2, seed=seed)
    while len(u) <= 160:
        e = fit(recipe, Runs.of(PRIOR, Outputs((Field("y"),)), u, f(u)[:, None]), seed=seed)
        off = e.predict(NEW, outside="ignore").mean[:, 0].numpy() - f(NEW)
        good = bool(np.sqrt((off**2).mean()) <= bound * f(NEW).std())
        if good and before is not None:
            return before
        before = len(u) if good else None
        more = design.points(4, 2, seed=1000 * seed + len(u), emulator=e) if active else None
        u = np.concatenate([u, more]) if active else Sobol().points(len(u) + 4, 2, seed=seed)
    return 160


@pytest.mark.timeout(3600)
def test_runs_saved_over_the_prior():
    """Medians over 10 designs: much where the structure is local, nothing where the function is as smooth everywhere."""
    torch.set_num_threads(1)
    cases = {"peak": (peak, 0.05, ROUGH, 16), "front": (front, 0.05, ROUGH, 16),
             "smooth": (smooth, 1e-3, GP(kernel="rbf", starts=1, calibrate=False, log=False), 6)}  # fmt: skip
    share = {}
    for name, (f, bound, recipe, first) in cases.items():
        active, sobol = (np.array([runs_for(f, bound, recipe, first, seed, active=a) for seed in range(10)])
                         for a in (True, False))  # fmt: skip
        share[name] = float(np.median(active / sobol))
        print(f"\n{name}: runs to an error of {bound:g}: active {active.tolist()}, Sobol {sobol.tolist()}")
        for label, x in (("active", active), ("Sobol", sobol), ("active over Sobol", active / sobol)):
            low, middle, high = np.quantile(x, [0.1, 0.5, 0.9])
            print(f"{label:18s} median {middle:.3g}, 10 % to 90 % {low:.3g} to {high:.3g}", flush=True)
    assert share["peak"] <= 0.7
    assert share["front"] <= 0.9
    assert share["smooth"] <= 1.2
