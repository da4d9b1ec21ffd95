"""The works that this project rests on, `references.bib`, and which of them a text cites.

A docstring cites a work by its first author and its year, "(Rasmussen and Williams 2006, eq. 2.42)": nobody keeps a second
list of what an entry of a room rests on, and a class of another package that names the same works is understood as well.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

from emulate.errors import StoreError

_ENTRY = re.compile(r"^@(\w+)\{([\w-]+),\n(.*?)^\}$", re.M | re.S)
_FIELD = re.compile(r"^  (\w+) = \{(.*)\},?$", re.M)


@dataclass(frozen=True)
class Reference:
    """One work: its key, its kind (`article`, `book` ...), its fields, and the BibTeX text they come from."""

    key: str
    kind: str
    fields: dict[str, str]
    bibtex: str

    @property
    def surname(self) -> str:
        """Of the first author, without accents and braces: `Rasmussen`, `ter Braak`, `Sjostrand`."""
        first = self.fields["author"].split(" and ")[0].split(",")[0]
        return re.sub(r"[{}]", "", re.sub(r"\{\\\S?\s?([A-Za-z])\}", r"\1", first))

    def is_in(self, text: str) -> bool:
        """Whether a text names it: the first author, at most 70 characters on its year, and no other year between."""
        if not (year := self.fields.get("year")):
            return False
        return bool(
            re.search(
                rf"(?<!and )(?<!& )\b{re.escape(self.surname)}\b(?:(?!\d{{4}}|[;.] [A-Z]).){{0,70}}?\b{year}\b", text
            )
        )


@lru_cache(maxsize=1)
def references() -> dict[str, Reference]:
    """All works by their keys, in the order of the file.

    >>> references()["rasmussen2006"].surname, len(references()) > 100
    ('Rasmussen', True)
    """
    text = resources.files("emulate").joinpath("references.bib").read_text(encoding="utf-8")
    found = {m[2]: Reference(m[2], m[1], dict(_FIELD.findall(m[3])), m[0]) for m in _ENTRY.finditer(text)}
    if len(found) != text.count("\n@"):
        raise StoreError("emulate/references.bib is damaged: not every entry of it can be read. Install emulate again.")
    return found


def cited(text: str) -> list[str]:
    """The keys of the works that a text names, in the order of the file.

    >>> cited("Prediction (universal kriging; Rasmussen and Williams 2006, eq. 2.42), by Newton's steps.")
    ['rasmussen2006']
    """
    plain = " ".join(text.split())
    return [key for key, work in references().items() if work.is_in(plain)]
