"""How many simulated events a tune takes: a response by scores against Professor-style polynomials for each bin.

    pytest -m benchmark -s tests/benchmarks/test_tune.py

Precision is what the events add to the tune of 20,000 observed ones: the rms over parameters and four places of the box
of (theta - theta of infinitely many events) over the statistical error. Professor (Buckley et al. 2010) fits a quadratic for
each bin through the means of runs over the box; a second one is fitted to half of the events in a box of five
statistical errors around the first answer, as tuners zoom. Both sides see the same generator, and every event counts.
"""

import itertools
import math

import pytest
import torch

from emulate import polynomials, responses
from emulate.simulators.lund import Lund
from tests.test_tune import SETTINGS, points

SIM = Lund(**{**SETTINGS, "bandwidth": 0.0})
SPACE, OBSERVED, PLACES, RUNS = SIM.space, 20_000, 4, 30
BUDGETS = (25_000, 50_000, 100_000, 200_000)
LARGE = 600_000  # events of what the tune of infinitely many stands for


def sobol(n, seed, low=0.0, high=1.0):
    return low + (high - low) * torch.quasirandom.SobolEngine(3, scramble=True, seed=seed).draw(n, dtype=torch.float64)


def scored(n, seed):
    """Events at parameters of their own over the box: u, rows, scores with respect to u."""
    u = sobol(n, seed)
    theta = SPACE.from_unit(u)
    parts = [SIM.scored(part, seed=seed + i) for i, part in enumerate(theta.split(25_000))]
    rows, scores = (torch.cat(p) for p in zip(*parts, strict=True))
    return u, rows, scores / SPACE.stretch(theta)


def runs(u, n, seed):
    """The means of n events at each u `[k, 3]`."""
    theta = SPACE.from_unit(u).repeat_interleave(n, 0)
    parts = [SIM.measure(SIM.fragment(part, seed=seed + i)) for i, part in enumerate(theta.split(25_000))]
    return torch.cat(parts).reshape(len(u), n, -1).mean(1)


def quadratic(u, y, around=None):
    """beta of a quadratic for each bin in u, or in u around a middle in widths `[3]`."""
    products = polynomials.terms(3, 2)
    middle, width = around or (torch.full((3,), 0.5, dtype=torch.float64), torch.ones(3, dtype=torch.float64))
    inside = lambda v: 0.5 + (v - middle) / width  # noqa: E731
    beta = torch.linalg.lstsq(polynomials.basis(inside(u), products), y).solution
    return lambda v: polynomials.basis(inside(v), products) @ beta


def tune(mean, data, inverse, start):
    """u of the least chi2, by Gauss and Newton with steps that are held inside the box."""
    u = start.clone()
    for _ in range(30):
        jacobian = torch.func.jacrev(mean)(u)
        step = torch.linalg.solve(jacobian.T @ inverse @ jacobian, jacobian.T @ inverse @ (data - mean(u)))
        u = (u + step.clamp(-0.1, 0.1)).clamp(-0.2, 1.2)
    return u


@pytest.mark.benchmark
def test_events_to_equal_precision():
    middle = torch.full((3,), 0.5, dtype=torch.float64)
    events = [SIM.measure(SIM.fragment(t, seed=50 + i, n=LARGE // PLACES)) for i, t in enumerate(points(PLACES, 7))]
    data = [e.mean(0) for e in events]
    inverses = [torch.linalg.inv(torch.cov(e.T)) * OBSERVED for e in events]
    truth = responses.fit(*scored(LARGE, 3), degree=4)
    best = [tune(truth.mean, d, c, middle) for d, c in zip(data, inverses, strict=True)]
    slopes = [torch.func.jacrev(truth.mean)(u) for u in best]
    fisher = [j.T @ c @ j for j, c in zip(slopes, inverses, strict=True)]
    sd = [torch.linalg.inv(f).diagonal().sqrt() for f in fisher]
    print(
        f"\n{'events':>8} {'response':>9} {'quadratic':>9} {'and zoom':>9}   rms error that they add, in statistical sigma"
    )
    found = {}
    for n in BUDGETS:
        off = {"response": [], "quadratic": [], "zoom": []}
        for repeat in range(2):
            seed = 1000 * (repeat + 1) + n
            fit = responses.fit(*scored(n, seed), degree=4).mean
            design = sobol(RUNS, seed)
            whole, half = (quadratic(design, runs(design, k // RUNS, seed)) for k in (n, n // 2))
            for i in range(PLACES):
                judge = lambda mean, i=i: tune(mean, data[i], inverses[i], middle)  # noqa: E731
                first = judge(half)
                width = 10 * sd[i]
                near = first + (sobol(RUNS // 2, seed + i) - 0.5) * width
                inside = near.clamp(0.0, 1.0)
                zoomed = quadratic(inside, runs(inside, n // 2 // (RUNS // 2), seed + 77 * i), (first, width))
                for name, u in (("response", judge(fit)), ("quadratic", judge(whole)), ("zoom", judge(zoomed))):
                    off[name].append((u - best[i]) / sd[i])
        rms = {name: float(torch.stack(x).square().mean().sqrt()) for name, x in off.items()}
        found[n] = rms
        print(f"{n:8} {rms['response']:9.2f} {rms['quadratic']:9.2f} {rms['zoom']:9.2f}", flush=True)
    for n in BUDGETS[:-1]:
        told = ", ".join(f"{name} {times(found, name, n)}" for name in ("quadratic", "zoom"))
        print(f"events over the response's for its precision with {n:,}: {told}")


def times(found, name, n):
    """How many times as many events reach the precision that the response has with n, by interpolation of logarithms."""
    level, known = found[n]["response"], [(m, found[m][name]) for m in BUDGETS]
    for (low, a), (high, b) in itertools.pairwise(known):
        if b <= level <= a:
            share = math.log(a / level) / math.log(a / b)
            return f"{math.exp(math.log(low) + share * math.log(high / low)) / n:.1f} times"
    return f"more than {BUDGETS[-1] / n:.0f} times"
