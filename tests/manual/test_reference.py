"""The reference is that of the code, whole, and independent of where it is made."""

import functools
import importlib
import json
import re
from pathlib import Path

import pytest

import emulate
from emulate import registry
from pipelines import manual
from pipelines.manual import commands, library
from pipelines.manual.reference import made
from pipelines.schema import schema as study_schema

REFERENCE = manual.HERE / "reference"
schema = functools.cache(study_schema)


@pytest.fixture(scope="module")
def pages():
    return made()


def test_the_pages_are_those_of_the_code(pages):
    stale = [n for n, text in pages.items() if (REFERENCE / f"{n}.md").read_text() != text]
    assert stale == [], "run `python -m pipelines.manual`, and look at what changed"
    assert {p.stem for p in REFERENCE.glob("*.md")} == set(pages)


def test_a_terminal_does_not_show_in_them(pages, monkeypatch):
    for name, value in (("COLUMNS", "40"), ("FORCE_COLOR", "1"), ("TERMINAL_WIDTH", "40"), ("LANG", "C")):
        monkeypatch.setenv(name, value)
    assert (commands.page(), library.page()) == (pages["commands"], pages["library"])
    assert not re.search(r"0x[0-9a-f]{6}|\x1b", "".join(pages.values())), "an address, or a colour"
    assert str(Path.home()) + "/" not in "".join(pages.values())


def test_every_command_and_option_is_described():
    listed = list(commands.commands())
    assert {"run", "store verify", "manual"} <= {c.name for c in listed}
    silent = [c.name for c in listed if len(c.help) < 10]
    silent += [f"{c.name} {w.typed}" for c in listed for w in c.words if len(w.help) < 5]
    assert silent == []


def test_the_options_are_those_that_the_command_line_takes():
    """Judged by what typer itself makes of the commands."""
    from typer.main import get_command

    from pipelines.cli import app

    whole = get_command(app)
    group, taken = whole.commands, {name for p in whole.params for name in p.opts} - {"--help"}
    assert {w.typed for w in commands.alone()} == taken
    for c in commands.commands():
        first, _, second = c.name.partition(" ")
        made = group[first].commands[second] if second else group[first]
        taken = {name for p in made.params if p.param_type_name == "option" for name in p.opts} - {"--help"}
        told = {o for w in c.words if not w.argument for o in re.findall(r"(?:^|(?<=, ))--?[\w-]+", w.typed)}
        assert told == taken, c.name


def _keys(part, where=""):
    """Every key of the schema with its comment, those of the rooms among them."""
    if isinstance(part, list):
        for one in part:
            yield from _keys(one, where)
    if isinstance(part, dict):
        for key, spec in part.get("properties", {}).items() if isinstance(part.get("properties"), dict) else ():
            yield f"{where}.{key}", spec
        for key, inner in part.items():
            yield from _keys(inner, f"{where}.{key}" if key not in ("properties", "anyOf", "oneOf", "allOf") else where)


def test_every_key_of_a_study_has_a_comment():
    """But for the numbers of a prior, which its formula names, and names of the user's choice."""
    by_choice = {n for room in registry.ROOMS for n in registry.names(room)}
    told = [(where, spec) for where, spec in _keys(schema()) if isinstance(spec, dict)]
    assert len(told) > 400
    silent = {w for w, s in told if not s.get("description") and w.rsplit(".", 1)[-1] not in by_choice
              and not re.search(r"\.(uniform|log_uniform|normal|log_normal|truncated_normal)\.\w+$", w)}  # fmt: skip
    assert silent == set()


@pytest.mark.parametrize("room", registry.ROOMS)
def test_every_entry_and_each_of_its_keys_is_there(room, pages):
    text = pages["rooms"].split(f"\n## {room}\n")[1].split("\n## ")[0]
    for name in registry.names(room):
        part = text.split(f"\n### {name}\n")[1].split("\n### ")[0]
        assert registry.sentence(room, name).replace("|", "\\|") in part.replace("\\|", "|").replace("|", "\\|")
        own = {k for k in schema()["$defs"][f"{room}.{name}"]["properties"] if k not in ("use",)} - {"runs", "held_out"}
        assert {k for k in own if f"`{k}`" not in part} == set()


def test_every_key_of_every_section_is_there(pages):
    text = pages["study"]
    for name, part in schema()["$defs"].items():
        if name.endswith("Part") and "properties" in part:
            assert [k for k in part["properties"] if f"`{k}`" not in text] == []
    assert [k for k in schema()["properties"] if f"`{k}`" not in text] == []
    assert json.dumps(schema()["$defs"]["SimulatePart"]["properties"]["timeout"]["default"]) in text


@pytest.mark.parametrize("name", emulate.__all__)
def test_a_public_name_has_an_example_and_documented_methods(name, pages):
    import ast

    found = library.definition(name)
    doc = ast.get_docstring(found) or ""
    assert ">>>" in doc, f"emulate.{name} needs an example that runs"
    assert f"\n## {name}\n" in pages["library"]
    home = importlib.import_module(getattr(emulate, name).__module__)
    assert ">>>" in Path(home.__file__).read_text(), "tests/test_docstrings.py runs the module"
    prior = home.__name__ == "emulate.space" and hasattr(getattr(emulate, name), "unscaled") and name != "Space"
    methods = [] if prior or not isinstance(found, ast.ClassDef) else found.body  # a prior's are those of its space
    silent = [f.name for f in methods
              if isinstance(f, ast.FunctionDef) and not f.name.startswith("_") and not ast.get_docstring(f)]  # fmt: skip
    assert silent == []
