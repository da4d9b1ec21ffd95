"""Figures of costs, failures and learning: axes named, nothing shown, what is drawn is what is known."""

import sys

import matplotlib
import numpy as np
import pytest
import torch

from emulate.feasibility import Feasibility
from emulate.learning_curve import LearningCurve
from emulate.runs import Field, Outputs, Runs
from emulate.space import LogUniform, Normal, Parameter, Space, Uniform
from pipelines.costs import CostModel
from pipelines.fidelities import agreement
from pipelines.figures import campaigns
from pipelines.figures.fidelities import fidelities

matplotlib.use("Agg")
PARAMETERS = (Parameter("omega_m", Uniform(0.2, 0.4), "", r"\Omega_m"), Parameter("box", LogUniform(10.0, 1000.0), "Mpc/h"),
              Parameter("n_s", Normal(0.96, 0.02)), *(Parameter(f"p{i}", Uniform(0, 1)) for i in range(5)))  # fmt: skip


def table(d: int, n: int = 40) -> tuple[Runs, np.ndarray]:
    """Runs of which those with a first parameter above 0.7 of its range failed, and their seconds."""
    space = Space(PARAMETERS[:d])
    u = torch.quasirandom.SobolEngine(d, scramble=True, seed=1).draw(n, dtype=torch.float64).clamp(1e-6, 1 - 1e-6)
    y = np.where(u[:, :1].numpy() < 0.7, 1.0, np.nan)
    return Runs.of(space, Outputs((Field("y"),)), space.from_unit(u).numpy(), y), np.exp(u.sum(1).numpy())


def named(figure) -> list[str]:
    figure.draw_without_rendering()
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
    return [t for ax in figure.axes for t in (ax.get_xlabel(), ax.get_ylabel()) if t]


@pytest.mark.parametrize("d", [1, 2, 3, 8])
def test_where_runs_fail_over_every_pair(d):
    runs, _ = table(d)
    figure = campaigns.feasibility(Feasibility.fit(runs, seed=0), runs)
    said = named(figure)
    assert r"$\Omega_m$" in said
    assert ("a run finishes with" if d == 1 else "probability that a run finishes") in said
    pairs = min(d, 5) - 1
    assert sum(ax.get_visible() for ax in figure.axes) == (1 if d == 1 else pairs * (pairs + 1) // 2 + 1)
    counts = [t.get_text() for t in figure.legends[0].get_texts()]
    assert f"failed ({len(runs.failed())})" in counts
    assert f"finished ({len(runs.finished())})" in counts


def test_a_map_holds_the_region_and_the_parameter_that_tells_is_shown():
    runs, _ = table(8, 64)
    x, _, p = campaigns._map(Feasibility.fit(runs, seed=0), 0, 1)
    assert p[:, x < 0.31].min() > 0.5
    assert p[:, x > 0.37].max() < 0.5
    assert 0 in campaigns._telling(runs)
    assert len(campaigns._telling(runs)) == 5


@pytest.mark.parametrize("d", [1, 3, 8])
def test_costs_over_every_parameter(d):
    runs, seconds = table(d)
    figure = campaigns.costs(runs.theta, seconds, CostModel.fit(runs.space, runs.theta, seconds))
    said = named(figure)
    assert "time of a run [s]" in said
    assert sum(ax.get_visible() for ax in figure.axes) == d


@pytest.mark.parametrize("target", [0.5, 0.01, 1e-6])
def test_a_learning_curve_shows_its_target_and_every_fit(target):
    n = np.repeat([8.0, 16, 32, 64], [4, 4, 2, 1])
    figure = campaigns.learning_curve(LearningCurve.fit(n, 1 / n + 0.001, seed=0), target, "gp")
    assert named(figure) == ["training runs", "median error [%]"]
    shown = [t.get_text() for t in figure.legends[0].get_texts()]
    assert f"target, {100 * target:.3g} %" in shown
    points = figure.axes[0].collections[1].get_offsets()
    assert len(points) == len(n)


def test_fidelities_beside_the_study_itself():
    space, k = Space(PARAMETERS[:1]), tuple(np.geomspace(0.02, 2.0, 20))
    own = Outputs((Field("pk", "m", True, "k", k, "h/Mpc"), Field("mass", "kg", True), Field("tilt"), Field("shift")))
    some = Outputs((Field("pk", "m", True, "k", k[:12], "h/Mpc"), Field("tilt")))
    theta = np.linspace(0.21, 0.39, 9)[:, None]
    pk = theta * np.array(k)
    mine = Runs.of(space, own, theta, np.hstack([pk, theta, theta - 0.3, 0 * theta]))
    met = {"coarse": agreement(mine, Runs.of(space, some, theta, np.hstack([pk[:, :12] / 2, theta**2]))),
           "same": agreement(mine, mine)}  # fmt: skip
    figure = fidelities(met)
    said = named(figure)
    assert said.count("own / fidelity") == 2  # the curve, and the positive number
    assert said.count("(own - fidelity) / sd") == 1
    assert "k [h/Mpc]" in said
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["coarse (9 points)", "same (9 points)"]
    ratio = figure.axes[0].lines[0]
    assert ratio.get_xdata().tolist() == list(k[:12])
    assert ratio.get_ydata().tolist() == pytest.approx([2.0] * 12)
    lost = figure.axes[1].lines[1].get_ydata()  # of the same runs: nothing but rounding
    assert np.nanmax(lost) <= 1e-9
