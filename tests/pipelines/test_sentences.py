"""Every error that the pipelines raise says what is allowed or what to do next: read from the code itself."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "pipelines"
KINDS = ("InputError", "CampaignError", "StoreError")
ALLOWED = re.compile(r"\bmust\b|Keys allowed|it has |the ending chooses|this is not YAML|paths start")
NEXT = re.compile(  # an imperative behind a stop, a comma, a semicolon or an "or"
    r"(?:^|[.;,:] |\bor |\band |`)(?:[Rr]un|[Gg]ive|[Mm]end|[Cc]hoose|[Ww]rite|[Ss]et|[Ii]nstall|[Cc]heck|[Tt]ake|[Rr]aise|[Nn]ame|"
    r"[Ww]ait|[Aa]dd|[Rr]ename|[Ss]ee|[Ll]ook|[Ss]tart|[Uu]se|[Ss]ave|[Dd]elete|[Cc]opy|[Rr]each|[Ll]ower|[Oo]verwrite|emulate|"
    r"change|make|leave|try|keep)\b|did not|Train it"
)


def sentences() -> Iterator[tuple[str, str]]:
    """(place, text) of what is raised with a text of its own; what is put in is `{}`, what is elsewhere is left out."""
    for path in sorted(ROOT.rglob("*.py")):
        constants = {t.id: n.value for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Assign)
                     for t in n.targets if isinstance(t, ast.Name)}  # fmt: skip
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and ast.unparse(node.exc.func) in KINDS:
                text = said(node.exc.args[0], constants)
                if len(text) > 12 and not text.endswith("{}"):  # whose end is made elsewhere
                    yield f"{path.relative_to(ROOT.parent)}:{node.lineno}", text


def said(node: ast.expr, constants: dict[str, ast.expr]) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(said(v.value if isinstance(v, ast.FormattedValue) else v, constants) for v in node.values)
    if isinstance(node, ast.Name) and isinstance(constants.get(node.id), ast.Constant):
        return str(constants[node.id].value)
    return "{}"


@pytest.mark.parametrize(("place", "text"), sentences(), ids=[p for p, _ in sentences()])
def test_an_error_says_what_is_allowed_or_what_to_do(place, text):
    assert ALLOWED.search(text) or NEXT.search(text), text


def test_a_complaint_without_advice_would_be_met():
    for text in ("the file {} is broken.", "{} failed: {}.", "no runs were found in {}."):
        assert not ALLOWED.search(text)
        assert not NEXT.search(text)
