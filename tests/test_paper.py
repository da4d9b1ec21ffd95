"""The paper of figures: colours that any colour vision tells apart, on a light page and on a dark one."""

import re
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pytest

from emulate.paper import COLOURS, GREY, INK

# what is left of linear RGB where one kind of cone is missing: Machado, Oliveira and Fernandes (2009), severity 1
VISIONS = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
WHITE = TO_XYZ.sum(1)
GREYS = np.full((3, 3), [0.213, 0.715, 0.072])
PAGE = {"light": "#ffffff", "dark": "#14171b"}


def rgb(colour: str) -> np.ndarray:
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255


def linear(c: np.ndarray) -> np.ndarray:
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def shown(colour: str, page: str) -> np.ndarray:
    """sRGB as the page shows it: a dark one applies invert(1) hue-rotate(180deg), by the matrix of Filter Effects 1."""
    c = rgb(colour)
    return c if page == "light" else np.clip((2 * GREYS - np.eye(3)) @ (1 - c), 0, 1)


def lab(light: np.ndarray) -> np.ndarray:
    """CIE L*a*b* (1976) of linear RGB."""
    t = TO_XYZ @ np.clip(light, 0, 1) / WHITE
    x, y, z = np.where(t > (6 / 29) ** 3, np.cbrt(t), t / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def contrast(colour: str, page: str) -> float:
    """(L1 + 0.05) / (L2 + 0.05) of WCAG 2.1."""
    one, other = sorted(TO_XYZ[1] @ linear(c) for c in (shown(colour, page), rgb(PAGE[page])))
    return float((other + 0.05) / (one + 0.05))


@pytest.mark.parametrize(("page", "vision"), list(product(PAGE, VISIONS)))
def test_any_colour_vision_tells_the_colours_apart(page, vision):
    """By at least 12 units of colour difference; 2.3 are just noticed side by side (Mahy et al. 1994)."""
    seen = {c: lab(np.asarray(VISIONS[vision]) @ linear(shown(c, page))) for c in COLOURS}
    near = [(a, b) for a, b in combinations(COLOURS, 2) if np.linalg.norm(seen[a] - seen[b]) < 12]
    assert near == []


def test_the_judge_sees_a_red_and_a_green_that_deuteranopes_mix_up():
    red, green = (lab(np.asarray(VISIONS["deuteranopia"]) @ linear(rgb(c))) for c in ("#b05030", "#708030"))
    assert np.linalg.norm(red - green) < 12


@pytest.mark.parametrize("page", PAGE)
def test_letters_and_lines_stand_out_from_the_page(page):
    assert contrast(INK, page) > 7
    assert contrast(GREY, page) > 4.5
    assert min(contrast(c, page) for c in COLOURS[:4]) > 3  # the first four; the others lean on markers and dashes
    assert min(contrast(c, page) for c in COLOURS) > 2.2


def test_hues_stay_what_they_are_on_a_dark_page():
    for colour in COLOURS:
        a, b = (lab(linear(shown(colour, page)))[1:] for page in PAGE)
        turn = np.angle(complex(*a) / complex(*b), deg=True)
        assert abs(turn) < 30, colour


def test_the_report_shows_figures_on_a_dark_page_as_these_tests_say():
    template = (Path(__file__).parents[1] / "pipelines" / "report.html.j2").read_text()
    assert re.search(
        r"prefers-color-scheme: dark\) \{ \.plate img \{ filter: invert\(1\) hue-rotate\(180deg\);", template
    )
    assert f"--paper: {PAGE['dark']}" in template
