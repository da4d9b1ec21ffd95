"""Adjoints of what is stepped through time: order by table and plot, and windows of chaos, bias against variance.

EMULATE_PICTURES=pictures pytest -m benchmark -s tests/benchmarks/gradients/test_dynamics.py
"""

import math

import pytest
import torch
from matplotlib.figure import Figure

from emulate.dynamics import ODE
from emulate.gradients.adjoint import Adjoint
from emulate.gradients.continuous_adjoint import ContinuousAdjoint
from emulate.gradients.ensemble import Ensemble
from emulate.gradients.window import Window
from tests.gradients.equations import decay, heat, lorenz
from tests.reference.gradients.dynamics import CLIMATE, CLIMATE_ERROR, DECAY, HEAT_SLOPE
from tests.reference.gradients.dynamics import heat as heat_slope

pytestmark = pytest.mark.benchmark

METHODS = {"discrete": Adjoint(), "continuous": ContinuousAdjoint()}


def slope(name: str, f: ODE, theta: float) -> float:
    return float(METHODS[name].estimate(f, torch.tensor([theta], dtype=torch.float64), seed=0).gradient)


def table(title: str, rows: list[tuple[int, dict[str, float]]], truth: float) -> None:
    print(
        f"\n{title}, truth {truth:.10f}\n{'steps':>6s}"
        + "".join(f"{n:>16s}{'error':>11s}{'order':>7s}" for n in METHODS)
    )
    for i, (steps, row) in enumerate(rows):
        line = f"{steps:6d}"
        for name, x in row.items():
            before = abs(rows[i - 1][1][name] - truth) if i else math.nan
            line += f"{x:16.10f}{abs(x - truth):11.1e}{math.log2(before / abs(x - truth)):7.2f}"
        print(line)


def drawn(panels: dict[str, tuple[list[tuple[int, dict[str, float]]], float]]) -> Figure:
    figure = Figure(figsize=(11, 4), layout="constrained")
    for axes, (title, (rows, truth)) in zip(figure.subplots(1, len(panels)), panels.items()):
        for name, marker in zip(METHODS, "os"):
            axes.loglog([n for n, _ in rows], [abs(row[name] - truth) for _, row in rows], f"{marker}-", label=name)
        axes.set(title=title, xlabel="steps", ylabel="error of the derivative")
        axes.set_xticks([n for n, _ in rows], [str(n) for n, _ in rows])
        axes.minorticks_off()
        axes.legend()
    return figure


def test_the_order_of_both_adjoints(picture):
    panels = {}
    for scheme, counts in (("euler", (10, 20, 40, 80, 160)), ("rk4", (10, 20, 40, 80))):
        rows = [(n, {name: slope(name, decay(n, scheme), 1.0) for name in METHODS}) for n in counts]
        table(f"decay, {scheme}", rows, DECAY)
        panels[f"decay, {scheme}"] = rows, DECAY
    truth = heat_slope(16)  # in time alone: the distance of its second differences to the equation is told beside
    rows = [(n, {name: slope(name, heat(16, n, "euler"), 0.1) for name in METHODS}) for n in (40, 80, 160, 320)]
    table(f"heat, Euler on 16 intervals (the equation: {HEAT_SLOPE})", rows, truth)
    panels["heat, euler"] = rows, truth
    print("\nheat, order in space (RK4, 200 steps)")
    errors = {m: abs(slope("discrete", heat(m, 200), 0.1) - HEAT_SLOPE) for m in (4, 8, 16)}
    for m, error in errors.items():
        print(f"{m:6d} intervals, error {error:.2e}, order {math.log2(errors.get(m // 2, math.nan) / error):.2f}")
    picture("order_of_adjoints", drawn(panels))
    assert all(math.log2(errors[m] / errors[2 * m]) > 1.8 for m in (4, 8))


def test_windows_of_chaos(picture):
    rho = torch.tensor([28.0], dtype=torch.float64)
    print(f"\nd<z>/drho of Lorenz 63 at rho = 28, by differences of long runs {CLIMATE} +- {CLIMATE_ERROR}")
    print(
        f"{'window':>7s}{'method':>10s}{'estimate':>10s}{'error':>9s}{'z':>7s}{'growth':>8s}{'largest':>9s}{'seconds':>9s}"
    )
    met: dict[str, list[tuple[int, float, float]]] = {"ensemble": [], "window": []}
    for steps in (12, 25, 50, 100, 150, 200, 250):
        made = {"ensemble": Ensemble(spread=0.5, spinup=1500).estimate(lorenz(steps), rho, seed=1, n=1000)}
        made |= {"window": Window(length=steps).estimate(lorenz(3000), rho, seed=1)} if steps in (25, 50, 100) else {}
        for name, e in made.items():
            x, error = float(e.gradient), float(e.standard_error)
            met[name].append((steps, x, error))
            print(f"{steps / 100:7.2f}{name:>10s}{x:10.3f}{error:9.3f}{(x - CLIMATE) / error:7.1f}{e.diagnostics['growth']:8.1f}"
                  f"{e.diagnostics.get('largest', math.nan):9.3f}{e.seconds:9.1f}")  # fmt: skip
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for name, rows in met.items():
        axes.errorbar(
            [n / 100 for n, _, _ in rows], [x for _, x, _ in rows], [e for _, _, e in rows], fmt="o-", label=name
        )
    axes.axhline(CLIMATE, color="grey", label="by differences of long runs")
    axes.set(
        xlabel="window, units of time",
        ylabel="d<z>/drho",
        ylim=(-2, 2.5),
        title="Short windows miss the response, long ones scatter",
    )
    axes.legend()
    picture("windows_of_chaos", figure)
    errors = [e for _, _, e in met["ensemble"]]
    assert errors[-1] > 10 * errors[0]
