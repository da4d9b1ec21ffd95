"""The picture of a simulator at parameters that a stage found: drawn, left out, or told why not."""

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from matplotlib.figure import Figure

from emulate.simulators.linear_gaussian import LinearGaussian
from pipelines import pictures


@dataclass(frozen=True, kw_only=True)
class Drawn(LinearGaussian):
    broken: bool = False

    def picture(self, points):
        """The line at every point,
        and its slope.

        What follows is no caption.
        """
        if self.broken:
            raise KeyError("line")
        figure = Figure()
        for name, theta in points.items():
            figure.subplots().plot(self.run(theta, seed=0), label=name)
        return figure


@pytest.fixture
def bench():
    said = []
    return SimpleNamespace(said=said, terminal=SimpleNamespace(warn=said.append), study=SimpleNamespace())


POINTS = {"truth": None, "best fit": torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)}


def test_it_is_drawn_at_the_points_that_are_known_with_its_first_paragraph(bench):
    bench.study.simulator = Drawn()
    made = pictures.picture(bench, POINTS)
    figure, caption = made["picture"]
    assert caption == "The line at every point, and its slope."
    assert [line.get_label() for ax in figure.axes for line in ax.lines] == ["best fit"]


def test_a_simulator_without_one_draws_none(bench):
    bench.study.simulator = LinearGaussian()
    assert pictures.picture(bench, POINTS) == {}
    assert bench.said == []


def test_a_picture_that_fails_costs_a_warning(bench):
    bench.study.simulator = Drawn(broken=True)
    assert pictures.picture(bench, POINTS) == {}
    assert bench.said == ["the simulator's picture could not be drawn: KeyError: 'line'. Mend its `picture`."]
