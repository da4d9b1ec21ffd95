"""Methods side by side on E[X^2], X ~ N(theta, 1), whose variances are known; a wrong truth is told, and the plot shows them."""

import math

import pytest
import torch
from matplotlib.figure import Figure
from torch.distributions import Normal

from emulate.side_by_side import compare, finding
from emulate.simulators.option import Option
from emulate.trade_off import draw
from pipelines.side_by_side import known, table

AT, SLOPE = torch.tensor([1.0], dtype=torch.float64), torch.tensor([[2.0]], dtype=torch.float64)
METHODS = ("mixed", "pathwise", "measure_valued", "score", "adjoint", "smooth")
LADDERS = {"score": ({"baseline": "none"}, {"baseline": "mean"}), "smooth": ({"width": 0.05}, {"width": 0.2})}


def moment(theta, noise):
    return noise.draw("x", Normal(theta[0], 1.0)) ** 2


@pytest.fixture(scope="module")
def sides():
    return compare(moment, AT, SLOPE, seed=3, n=20_000, methods=METHODS, ladders=LADDERS)


def test_each_has_the_scatter_that_is_known_of_it(sides):
    """Variances of one replicate at theta = 1: Mohamed, Rosca, Figurnov & Mnih 2020, sec. 3, worked out for this case."""
    found = {s.name: s for s in sides}
    variances = {
        "pathwise": 4.0,
        "measure_valued": 16 / math.pi - 4,
        "score, baseline none": 30.0,
        "score, baseline mean": 18.0,
    }
    for name, variance in variances.items():
        assert float(found[name].deviation) ** 2 == pytest.approx(variance, rel=0.1), name
    assert {n: s.verdict for n, s in found.items()} == {
        "mixed": "exact", "adjoint": "refused", **dict.fromkeys(variances, "holds"),
        "smooth, width 0.05": "holds", "smooth, width 0.2": "holds"}  # fmt: skip
    assert found["adjoint"].refused.startswith("adjoint must be given an emulate.dynamics.Trajectory")
    assert found["pathwise"].row(0, 0)["bias"] == pytest.approx(float(found["pathwise"].bias) / 2)


def test_an_interval_that_misses_is_told():
    moved = compare(moment, AT, SLOPE + 0.2, seed=3, n=20_000, methods=METHODS[:3])
    told = finding(moved)
    assert [s.verdict for s in moved] == ["WRONG"] * 3
    assert not told.passed
    assert "their intervals must hold the derivative" in told.sentence
    assert "WRONG: mixed, pathwise, measure_valued." in told.sentence


def test_a_verdict_passes_where_all_hold(sides):
    told = finding(sides)
    assert told.passed
    assert "their intervals hold the derivative" in told.sentence
    assert "refused: adjoint." in told.sentence


def test_the_plot_has_a_mark_for_all_that_did_not_refuse(sides):
    ax = Figure().subplots()
    looks = draw(ax, sides, 0, 0)
    assert list(looks) == ["mixed", "pathwise", "measure_valued", "score", "smooth"]
    assert len({(look["color"], look["marker"]) for look in looks.values()}) == len(looks)
    assert len([line for line in ax.lines if line.get_marker() not in ("None", "", None)]) == 7
    assert (
        len([line for line in ax.lines if len(line.get_xdata()) == 2 and line.get_linestyle() == "-"]) == 2
    )  # the two ladders


def test_a_table_has_a_row_for_each_and_says_which_derivative():
    simulator = Option(strikes=(90.0, 100.0), paths=200)
    assert known(simulator)
    theta = torch.tensor([0.2, 0.05], dtype=torch.float64)
    found = compare(
        simulator, theta, simulator.exact(theta)[1], seed=0, n=400, methods=("score", "pathwise", "reverse")
    )
    title, rows = table(simulator, found)
    assert title == "d price[strike=100] / d sigma by every method"
    assert [row[0] for row in rows] == ["score", "pathwise", "reverse"]
    assert [row[-1] for row in rows] == ["holds", "refused", "bias unknown"]
    assert rows[2][1] == "+1.0e+00"  # vega is negative here, and lost: all of it is bias
