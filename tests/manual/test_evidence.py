"""Every test that the page of evidence names exists, and is slow where the page has its star."""

import ast
import re

import pytest

from tests.pages import MANUAL, ROOT

TEXT = (MANUAL / "evidence.md").read_text()
SLOW = (ROOT / "tests" / "slow.txt").read_text().splitlines()
ROWS = [row for row in TEXT.splitlines() if row.startswith("| ") and "`tests/" in row]


def _tests(row: str) -> list[tuple[str, str]]:
    return re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", row)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip())
def test_what_is_named_exists(row):
    slow = []
    for file, name in _tests(row):
        module = ast.parse((ROOT / file).read_text())
        found = {f.name: f for f in ast.walk(module) if isinstance(f, ast.FunctionDef) and f.name.startswith("test_")}
        assert found, f"{file} holds no test"
        assert not name or name in found, f"{file} has no test {name}"
        if name:
            marks = " ".join(ast.unparse(d) for d in found[name].decorator_list) + _of(module)
            slow.append("mark.slow" in marks or "SLOW" in marks or file in SLOW or f"{file}::{name}" in SLOW)
    if slow:
        starred = "` *" in row
        assert starred == any(slow), f"{'a star, but nothing is slow' if starred else 'slow, without its star'}"


def _of(module: ast.Module) -> str:
    """Marks of a whole file."""
    return " ".join(ast.unparse(x.value) for x in module.body if isinstance(x, ast.Assign)
                    and any(getattr(t, "id", "") == "pytestmark" for t in x.targets))  # fmt: skip


def test_every_row_has_a_claim_a_judge_and_a_test():
    lines = [row for row in TEXT.splitlines() if row.startswith("| ") and not row.startswith("| claim")]
    assert len(lines) == len(ROWS) > 40
    assert [row for row in ROWS if any(len(cell.strip()) < 3 for cell in row.strip("|").split("|")[:3])] == []
