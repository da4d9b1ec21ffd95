"""Notebooks run from top to bottom, use public names of the library alone, and keep small pictures."""

import ast
import json
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import emulate

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
LARGEST = 500_000  # bytes, pictures included


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request) -> Path:
    return request.param


def _code(path: Path) -> list[str]:
    return [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.timeout(1800)
@pytest.mark.slow
def test_it_runs(path, tmp_path):
    """A cell that fails fails the test, with its traceback."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    pictures = [
        [("image/png" in output.get("data", {})) for output in cell.get("outputs", ())] for cell in notebook.cells
    ]
    assert sum(map(sum, pictures)) >= 1


def test_what_it_shows_is_whole_and_small(path):
    """Every cell was run once, in order, without an error; nothing of the machine that ran it stays."""
    assert path.stat().st_size < LARGEST
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == [*range(1, len(cells) + 1)]
    assert not [o for cell in cells for o in cell.outputs if o.output_type == "error" or o.get("name") == "stderr"]
    assert "/site-packages/" not in json.dumps([cell.outputs for cell in cells])


def test_it_uses_public_names_alone(path):
    for node in (node for code in _code(path) for node in ast.walk(ast.parse(code))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "emulate":
            names = [*node.module.split("."), *(alias.name for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [part for alias in node.names for part in alias.name.split(".")]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "emulate":
            assert node.attr in emulate.__all__
            continue
        else:
            continue
        assert not [name for name in names if name.startswith("_")]
