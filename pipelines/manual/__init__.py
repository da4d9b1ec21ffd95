"""The manual: Markdown pages beside this file. Those in `reference/` are made by `python -m pipelines.manual`."""

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from emulate.errors import InputError, nearest

if TYPE_CHECKING:
    from pipelines.terminal import Terminal

HERE = Path(__file__).parent
INDEX = HERE / "README.md"


def pages() -> dict[str, str]:
    """What each page is about by its name, in the order of the index."""
    rows = re.findall(r"^\| \[[^\]]+\]\(([\w/]+)\.md\) \| (.+) \|$", INDEX.read_text("utf-8"), re.M)
    return {name: re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", what) for name, what in rows}


def text(page: str) -> str:
    """The Markdown of a page, without what is said to machines; `reference/` may be left out of its name."""
    known = pages()
    short = {name.rsplit("/", 1)[-1]: name for name in known}
    asked = page.strip("/").removesuffix(".md")
    name = asked if asked in known else short.get(asked)
    if name is None:
        raise InputError(f"PAGE must be one of {', '.join(known)}. Got {page!r}{'.' + nearest(asked, known)}")
    return re.sub(r"<!--.*?-->\n*", "", (HERE / f"{name}.md").read_text("utf-8"), flags=re.S)


def show(terminal: "Terminal", page: str) -> int:
    """The list of pages, or one of them: formatted on a terminal, Markdown elsewhere."""
    if not page:
        terminal.table("", ("page", "what it is about"), list(pages().items()))
        terminal.say(f"\n`emulate manual PAGE` shows one. They are files of Markdown in {HERE}.")
    elif terminal.console.is_terminal:
        from rich.markdown import Markdown

        terminal.console.print(Markdown(text(page), hyperlinks=False))
    else:
        sys.stdout.write(text(page))
    return 0
