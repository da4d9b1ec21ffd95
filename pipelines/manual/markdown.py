"""Pieces of Markdown: tables, headings, and the note that a page is made."""

import re
from collections.abc import Iterable, Sequence


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; columns that are empty in every row are left out."""
    rows = [[_cell(x) for x in row] for row in rows]
    kept = [i for i in range(len(header)) if any(row[i] for row in rows)]
    lines = [[header[i] for i in kept], ["---"] * len(kept), *([row[i] for i in kept] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def code(text: str) -> str:
    """Text as it is typed; nothing for nothing."""
    return f"`{text}`" if text else ""


def page(title: str, source: str, *parts: str) -> str:
    """A page of the reference, which says what it is made from."""
    note = f"<!-- Made by `python -m pipelines.manual` from {source}. Change that, and make it again. -->"
    return "\n\n".join([f"# {title}", note, *(part.strip("\n") for part in parts if part.strip())]) + "\n"


def first_paragraph(docstring: str | None) -> str:
    """The first paragraph of a docstring in one line."""
    return " ".join((docstring or "").strip().split("\n\n", 1)[0].split())


def anchor(heading: str) -> str:
    """The name that GitHub gives to a heading, to link to."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
