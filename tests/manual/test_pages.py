"""What the Markdown pages say holds: their commands, files, links, studies and Python."""

import functools
import io
import re
import shlex

import numpy as np
import pytest
import torch
from jsonschema import Draft202012Validator

import emulate
from pipelines import manual, yaml12
from pipelines.config import load_study
from pipelines.manual.commands import commands
from pipelines.schema import schema as study_schema
from tests import pages
from tests.commands import printed
from tests.pages import PAGES, ROOT

KNOWN = {c.name: " ".join(w.typed for w in c.words) for c in commands()}
TYPED = sorted({c for path in PAGES for c in pages.commands(path)})
FILE = re.compile(r"(?<![\w/.-])((?:tests|configs|emulate|pipelines|notebooks)/[\w/.-]*\w)")


@pytest.mark.parametrize("command", TYPED)
def test_every_command_exists_with_its_options(command):
    words = shlex.split(command)[1:]
    name = " ".join(words[:2]) if " ".join(words[:2]) in KNOWN else words[0]
    assert name in KNOWN or words[1:] == ["--help"], f"`{command}`: there is no command {name}"
    for word in words[1:]:
        if word.startswith("-") and word != "--help":
            option = re.escape(word.split("=")[0])
            assert re.search(rf"(^|[\s,]){option}([\s,]|$)", KNOWN[name]), f"`{command}`: {name} has no option {word}"
        if word.endswith(".yaml"):
            assert (ROOT / word).exists() or word.isupper() or word == "STUDY.yaml", f"`{command}` names no file"


def test_every_command_is_in_the_readme_or_the_manual():
    text = "".join(path.read_text() for path in PAGES if "reference" not in path.parts)
    assert [n for n in KNOWN if f"emulate {n}" not in text] == []


@pytest.mark.parametrize("path", PAGES, ids=pages.name)
def test_every_link_leads_somewhere(path):
    lost = []
    for link in pages.links(path):
        file, _, place = link.partition("#")
        target = path if not file else (path.parent / file).resolve()
        if not target.exists() or (place and place not in pages.anchors(target)):
            lost.append(link)
    assert lost == []


@pytest.mark.parametrize("path", PAGES, ids=pages.name)
def test_every_file_that_is_named_exists(path):
    lost = {f for f in FILE.findall(re.sub(r"\]\([^)]*\)", "]", path.read_text())) if not (ROOT / f).exists()}
    assert {f for f in lost if not list(ROOT.glob(f"{f}*"))} == set()


@functools.cache
def _judge() -> Draft202012Validator:
    return Draft202012Validator(study_schema())


@pytest.mark.parametrize("path", [p for p in PAGES if pages.blocks(p, "yaml")], ids=pages.name)
def test_every_part_of_a_study_keeps_the_schema(path):
    small = {"name": "x", "simulator": "linear_gaussian", "emulators": {"polynomial": None}}
    judge = _judge()
    for block in pages.blocks(path, "yaml"):
        assert [e.message for e in judge.iter_errors(small | yaml12.parse(block.text).data)] == [], block.text


@pytest.mark.parametrize("path", [p for p in PAGES if pages.blocks(p, "python")], ids=pages.name)
@pytest.mark.filterwarnings("ignore::emulate.errors.ExtrapolationWarning")
def test_the_python_of_a_page_runs(path, tmp_path, monkeypatch):
    """Its blocks one after the other, as one would type them; those that another test runs, or none can, say so. What the
    README has word for word from a page is run there."""
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    elsewhere = {b.text for p in PAGES[1:] for b in pages.blocks(p, "python")} if path == PAGES[0] else set()
    for block in pages.blocks(path, "python"):
        if block.text in elsewhere:
            continue
        file = re.fullmatch(r"run by (\S+)", block.said)
        if file:
            assert path.stem in (ROOT / file[1]).read_text(), f"{file[1]} does not read {path.name}"
        elif not block.said.startswith("not run:"):
            if "runs/quickstart" in block.text:
                _quickstart()
            exec(compile(block.text, path.name, "exec"), names)


def _quickstart() -> None:
    """An emulator where that of the quickstart would be, of its parameters and outputs, fitted to a power law."""
    simulator = load_study(ROOT / "configs" / "quickstart.yaml").simulator
    u = emulate.build("designs", "sobol").points(40, simulator.space.d, seed=1)
    theta = simulator.space.from_unit(torch.from_numpy(u)).numpy()
    k = np.array(simulator.outputs.fields[0].at)
    y = 1e4 * theta[:, 1:2] ** 2 * (k / 0.05) ** (theta[:, 2:3] - 2.5)
    runs = emulate.Runs.of(simulator.space, simulator.outputs, theta, y)
    emulate.fit(emulate.build("emulators", "polynomial"), runs, seed=1).save("runs/quickstart/emulators/gp")


@pytest.mark.parametrize("path", PAGES, ids=pages.name)
def test_what_is_not_run_says_why(path):
    said = [b.said for b in pages.blocks(path, "python") if b.said]
    assert all(re.fullmatch(r"not run: .{10,}|run by \S+\.py", s) for s in said)


def test_the_index_has_every_page_and_the_command_shows_each(tmp_path):
    there = {str(p.relative_to(pages.MANUAL).with_suffix("")) for p in pages.MANUAL.rglob("*.md")} - {"README"}
    assert set(manual.pages()) == there
    code, said = printed(tmp_path, "manual")
    assert code == 0
    assert all(re.search(rf"^{page} ", said, re.M) for page in there)
    for page in there:
        code, said = printed(tmp_path, "manual", page.rsplit("/", 1)[-1])
        assert (code, said[:2], "<!--" in said) == (0, "# ", False)


def test_a_page_that_is_none(tmp_path):
    code, said = printed(tmp_path, "manual", "choosin")
    assert code == 2
    assert 'Did you mean "choosing"?' in " ".join(said.split())


@pytest.mark.parametrize("width", [60, 140])
def test_pages_are_formatted_on_a_terminal_of_any_width(width, monkeypatch):
    from rich.console import Console

    from pipelines.terminal import Terminal

    terminal = Terminal()
    terminal.console = Console(width=width, force_terminal=True, color_system=None, record=True, file=io.StringIO())
    for page in manual.pages():
        assert manual.show(terminal, page) == 0
    shown = terminal.console.export_text()
    assert "How to choose" in shown
    assert max(map(len, shown.splitlines())) <= width
