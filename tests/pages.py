"""The Markdown that users read: README, the manual, the page of the N-body code; its blocks, commands, links, headings."""

import re
from dataclasses import dataclass
from pathlib import Path

from pipelines.manual.markdown import anchor

ROOT = Path(__file__).parents[1]
MANUAL = ROOT / "pipelines" / "manual"
PAGES = [ROOT / "README.md", ROOT / "emulate" / "simulators" / "nbody" / "README.md", *sorted(MANUAL.rglob("*.md"))]


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and what an HTML comment before it says."""

    language: str
    text: str
    said: str


def blocks(path: Path, language: str) -> list[Block]:
    """The fenced blocks of a page in one of some languages, `bash|sh`."""
    found = re.findall(rf"(?:<!-- ([^>]*?) -->\n)?^```({language})\n(.*?)^```", path.read_text(), re.S | re.M)
    return [Block(kind, text, said) for said, kind, text in found]


def commands(path: Path) -> list[str]:
    """Every `emulate COMMAND ...` of a page, in blocks and between backticks."""
    lines = "\n".join(b.text for b in blocks(path, "bash|sh|console")).replace("\\\n", " ").splitlines()
    lines += re.findall(r"`((?:uv run )?emulate [a-z][^`\n]*)`", path.read_text())
    found = [m.group(0).strip() for line in lines for m in re.finditer(r"\bemulate [a-z][^|&#]*", line)]
    return sorted({c for c in found if not c.startswith("emulate store export ...")})


def links(path: Path) -> list[str]:
    """Where the links of a page lead to, those out of the repository left out."""
    return re.findall(r"\]\((?!https?:)([^)\s]+)\)", re.sub(r"```.*?```", "", path.read_text(), flags=re.S))


def anchors(path: Path) -> set[str]:
    """What can be linked to within a page."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.S | re.M)
    return {anchor(re.sub(r"[`*]", "", h)) for h in re.findall(r"^#+ (.+)$", text, re.M)}


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))
