"""Figures of a report: in both formats beside the page, numbered in its order, and in words for who cannot see them."""

# ruff: noqa: RUF001  (the letters of formulas are what is tested)
import json
import re

import html5lib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from pipelines import files, report, report_figures
from pipelines.figures.alternatives import alternative

SECTIONS = ("design", "runs", "emulators", "accuracy", "posterior")


def drawn(slope: float = 1.0) -> Figure:
    figure = Figure(figsize=(3.5, 2), layout="constrained")
    ax = figure.subplots()
    ax.plot([0, 1], [0, slope], label="gp")
    ax.set(xlabel=r"$k$ [$h$/Mpc]", ylabel=r"$\partial \ln P\,/\,\partial \Omega_m$", title="error 0.3 %")
    figure.legend(loc="outside upper left")
    return figure


@pytest.fixture
def folder(tmp_path):
    """What stages leave: the design twice, once more as the runs, a corner of the surrogate, then of both."""
    files.write_figures(tmp_path / "design", {"design": (drawn(), "The design.")})
    files.write_figures(tmp_path / "simulate", {"points": (drawn(), "The runs."), "outputs": (drawn(2.0), "Outputs.")})
    files.write_figures(tmp_path / "infer", {"corner": (drawn(3.0), "One."), "prediction": (drawn(4.0), "Data.")})
    files.write_figures(tmp_path / "check", {"corner": (drawn(5.0), "Both.")})
    return tmp_path


def beside(folder) -> list[str]:
    return sorted(p.name for p in (folder / "report" / "figures").iterdir())


def test_a_figure_is_written_as_png_and_pdf_to_the_same_bytes_each_time(tmp_path, monkeypatch, fonts_as_they_are):
    monkeypatch.setattr(files, "FONTS", fonts_as_they_are)
    for name in ("a", "b"):
        files.write_figure(tmp_path / f"{name}.png", drawn())
    for suffix, begin in ((".png", b"\x89PNG"), (".pdf", b"%PDF")):
        one, other = ((tmp_path / name).with_suffix(suffix).read_bytes() for name in ("a", "b"))
        assert one.startswith(begin)
        assert one == other
    assert Image.open(tmp_path / "a.png").size == (700, 400)
    pdf = (tmp_path / "a.pdf").read_bytes()
    width, height = map(float, re.search(rb"/MediaBox \[ ?0 0 ([\d.]+) ([\d.]+)", pdf).groups())
    assert (width, height) == (3.5 * 72, 2 * 72)
    assert b"/Subtype /Type3" not in pdf  # journals refuse letters that are drawings
    assert b"/CreationDate" not in pdf


def test_both_formats_lie_beside_the_page_and_are_the_stages_own(folder):
    report.write(folder)
    assert beside(folder) == ["check-corner.pdf", "check-corner.png", "design-design.pdf", "design-design.png",
                              "infer-prediction.pdf", "infer-prediction.png", "simulate-outputs.pdf",
                              "simulate-outputs.png"]  # fmt: skip
    assert (folder / "report/figures/check-corner.pdf").read_bytes() == (folder / "check/corner.pdf").read_bytes()
    page = (folder / "report" / "index.html").read_text()
    assert {f"figures/{name}" for name in beside(folder)} == set(re.findall(r'href="(figures/[^"]*)"', page))


def test_figures_of_an_earlier_report_go_and_a_users_own_files_stay(folder):
    report.write(folder)
    (folder / "report" / "figures" / "notes.txt").write_text("mine")
    (folder / "report" / "figures" / "mine.png").write_text("mine")
    (folder / "check" / "figures.json").unlink()
    report.write(folder)
    assert "check-corner.png" not in beside(folder)
    assert {"infer-corner.pdf", "notes.txt", "mine.png"} <= set(beside(folder))


def test_figures_are_numbered_in_the_order_of_the_page(folder):
    placed = report_figures.of(folder, SECTIONS)
    told = [(f["number"], f["stage"], f["name"]) for section in SECTIONS for f in placed[section]]
    assert told == [
        (1, "design", "design"),
        (2, "simulate", "outputs"),
        (3, "check", "corner"),
        (4, "infer", "prediction"),
    ]
    page = report.render(folder)
    assert [int(n) for n in re.findall(r"<b>Figure (\d+)\.</b>", page)] == [1, 2, 3, 4]


def test_a_folder_of_an_older_version_has_no_pdf_and_no_words(folder):
    (folder / "design" / "design.pdf").unlink()
    listed = json.loads((folder / "design" / "figures.json").read_text())
    (folder / "design" / "figures.json").write_text(json.dumps([{k: v for k, v in listed[0].items() if k != "alt"}]))
    report.write(folder)
    assert "design-design.png" in beside(folder)
    assert "design-design.pdf" not in beside(folder)
    assert 'alt="The design."' in (folder / "report" / "index.html").read_text()


def test_the_page_parses_without_an_error_of_html5(folder):
    """By the parser of the standard's own rules, which names each thing that a browser would have to guess."""
    parser = html5lib.HTMLParser(strict=False)
    parser.parse(report.render(folder))
    assert parser.errors == []
    parser.parse("<p><ul></p>")
    assert parser.errors  # it does see some


def test_a_figure_is_told_by_its_axes_title_and_legend():
    assert alternative(drawn()) == "1 panel: error 0.3 %: ∂ ln P / ∂ Ω_m against k [h/Mpc]. Legend: gp."


def test_scales_of_colours_are_no_panels_and_many_panels_are_counted():
    figure = Figure()
    axes = figure.subplots(3, 3)
    for i, ax in enumerate(axes.flat):
        ax.set(xlabel=f"x{i}")
    axes[2, 2].set_visible(False)
    figure.colorbar(axes[0, 0].imshow(np.eye(2)), ax=axes[0, 0], label=r"$\sigma_8$")
    assert alternative(figure) == "8 panels: x0; x1; x2; x3; x4; x5; and 2 more. Colours: σ_8."
    assert alternative(Figure()) == "0 panels."
