"""How findings write numbers, points and outputs."""

import math

import pytest
import torch

from emulate.checks._words import at, count, listing, number, output, percent
from tests.checks.stand_ins import OUTPUTS, SPACE


@pytest.mark.parametrize(
    ("x", "text"),
    [(0.0, "0"), (0.031249, "0.0312"), (12.0, "12"), (999.0, "999"), (1234.5, "1234"), (1e9, "1e+09"), (-0.5, "-0.5"),
     (2e-11, "2e-11"), (math.nan, "not a number"), (math.inf, "infinite"), (torch.tensor(0.25), "0.25")],
)  # fmt: skip
def test_number(x, text):
    assert number(x) == text


def test_percent_never_hides_a_nan():
    assert percent(0.00012) == "0.012 %"
    assert percent(math.nan) == "not a number"


def test_words_agree_in_number_and_are_listed():
    assert [count(n, "run") for n in (0, 1, 2)] == ["0 runs", "1 run", "2 runs"]
    assert [listing(x) for x in ("", "a", "ab", "abc")] == ["", "a", "a and b", "a, b and c"]


def test_a_point_has_units_and_an_output_its_coordinate():
    theta = torch.tensor([0.31, 67.0, 2.1e-9], dtype=torch.float64)
    assert at(SPACE, theta) == "omega_m = 0.31, h0 = 67 km/s/Mpc, amplitude = 2.1e-09"
    assert output(OUTPUTS, 3) == "pk at k = 0.1 h/Mpc"
    assert output(OUTPUTS, 8) == "tilt"
