"""The report as a browser shows it: on a desk, on a telephone, on a dark page, by keyboard and on paper."""

import json
import re

import pytest
from matplotlib.figure import Figure

from pipelines import files, report

FAILED = {"name": "accuracy.median", "value": 0.02, "low": None, "high": 0.01, "figure": "accuracy", "blocking": True,
          "passed": False, "sentence": "Half of the 20 held-out runs are matched to 2 % +- 0.1 or better."}  # fmt: skip


def drawn(width: float = 7.0) -> Figure:
    figure = Figure(figsize=(width, 3), layout="constrained", facecolor="white")
    axes = figure.subplots(1, 2)
    for ax in axes:
        ax.plot([0, 1], [0, 1], color="#0072B2")
        ax.set(xlabel="k [h/Mpc]", ylabel="residual [%]")
    return figure


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> str:
    """A report with long words, a wide table and a wide figure, as the address of its file."""
    folder = tmp_path_factory.mktemp("study")
    study = {"name": "a_name_that_no_line_of_a_telephone_can_hold_" * 2, "seed": 1, "design": {"runs": 20, "held_out": 20},
             "simulator": {"use": "nbody"}, "parameters": {"omega_m": {"uniform": {"low": 0.1, "high": 0.5}}}}  # fmt: skip
    (folder / "study.json").write_text(json.dumps(study))
    for stage, name in (("design", "design"), ("validate", "accuracy")):
        files.write_figures(folder / stage, {name: (drawn(7.0 if stage == "design" else 5.0), f"The figure {name}.")})
    files.write_json(folder / "train" / "scores.json", {"champion": "gp", "emulators": {"gp": {
        "recipe": {"use": "gp"}, "median": 0.02, "worst99": 0.1, "worst": 0.2, "coverage": 0.9, "log_score": 1.0,
        "runs": 20, "seconds": 1.0}}})  # fmt: skip
    files.write_json(folder / "validate" / "findings.json", {"emulators": {"gp": [FAILED]}})
    files.write_json(folder / "provenance.json", {"versions": {"emulate": "0.1.0"}, "hashes": {"train": "0f" * 32}})
    return report.write(folder).as_uri()


@pytest.fixture
def opened(browser, address):
    """`opened(width, scheme)`: the page, and all that it asked for or complained of."""
    pages = []

    def opening(width: int = 1200, scheme: str = "light"):
        page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        pages.append(page)
        page.asked, page.said = [], []
        page.on("request", lambda r: page.asked.append(r.url))
        page.on("console", lambda m: page.said.append(m.text))
        page.goto(address)
        return page

    yield opening
    for page in pages:
        page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 390, 1200])
def test_nothing_sticks_out_at_the_side_and_every_picture_is_there(opened, shot, width, scheme):
    page = opened(width, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("[...document.images].map(i => i.complete && i.naturalWidth > 0)") == [True, True]
    letters = (
        "[...document.querySelectorAll('p, td, li, figcaption')].map(e => parseFloat(getComputedStyle(e).fontSize))"
    )
    assert min(page.evaluate(letters)) >= 13
    shot(page, f"report-{width}-{scheme}", full_page=True)


def test_it_asks_for_nothing_and_complains_of_nothing(opened, address):
    page = opened()
    assert [url for url in page.asked if not url.startswith("data:")] == [address]
    assert page.said == []


def test_a_figure_is_dark_on_a_dark_page_and_white_on_paper(opened):
    """Its corner is the page's own colour: read from the pixels that the browser shows."""
    for scheme, paper in (("light", (255, 255, 255)), ("dark", (0x14, 0x17, 0x1B))):
        page = opened(1200, scheme)
        assert corner(page.locator("figure img").first.screenshot()) == pytest.approx(paper, abs=2)
    page.emulate_media(media="print", color_scheme="light")
    assert page.evaluate("getComputedStyle(document.querySelector('.plate img')).filter") == "none"


def corner(png: bytes) -> tuple[int, ...]:
    from io import BytesIO

    from PIL import Image

    return Image.open(BytesIO(png)).convert("RGB").getpixel((1, 1))


def test_a_screen_reader_finds_headings_tables_and_words_for_pictures(opened):
    page = opened()
    heads = page.get_by_role("heading", level=2).all_inner_texts()
    assert heads[:2] == ["1 Question", "2 Design"]
    assert [int(h.split()[0]) for h in heads] == list(range(1, len(heads) + 1))
    assert page.get_by_role("img", name="2 panels: residual [%] against k [h/Mpc].").count() == 2
    assert page.get_by_role("table", name=re.compile(r"^Table 1\. Parameters and their priors")).count() == 1
    assert page.get_by_role("main").count() == page.get_by_role("navigation").count() == 1
    assert page.get_by_role("link", name="Figure 1 as PDF").get_attribute("href") == "figures/design-design.pdf"


def test_a_keyboard_skips_to_the_report_and_reaches_every_wide_table(opened):
    page = opened(390)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the report"
    page.keyboard.press("Enter")
    assert page.url.endswith("#question")
    wide = "[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth).map(e => e.tabIndex)"
    assert set(page.evaluate(wide)) == {0}


def test_paper_has_page_numbers_the_whole_study_and_no_links_to_press(opened):
    page = opened()
    pdf = page.pdf(format="A4", print_background=True)
    assert pdf.startswith(b"%PDF")
    assert 2 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 12
    page.emulate_media(media="print")
    assert not page.get_by_role("navigation").is_visible()
    assert not page.locator(".files").first.is_visible()
    # what is wider than the sheet's 180 mm would be cut off: 680 pixels of paper
    page.set_viewport_size({"width": 680, "height": 960})
    cut = "[...document.querySelectorAll('table, img')].filter(e => e.getBoundingClientRect().right > 681).length"
    assert page.evaluate(cut) == 0
