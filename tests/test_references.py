"""The file of references, by another parser, and docstrings against it: whoever names a work by its year is understood."""

import inspect
import re

import pytest
from pybtex.database import parse_string

from emulate import registry
from emulate.references import Reference, cited, references

ENTRIES = [(room, name) for room in registry.ROOMS for name in registry.names(room)]
NEEDED = {"article": {"journal", "year"}, "book": {"publisher", "year"}, "inproceedings": {"booktitle", "year"},
          "incollection": {"booktitle", "publisher", "year"}, "techreport": {"institution", "year"}, "misc": {"eprint", "year"},
          "software": set()}  # fmt: skip
NAMED = re.compile(r"(?:[A-Z][\w'-]+|et al\.) \(?((?:1[789]|20)\d\d)\b")  # "Owen 1998", "Yee (1966)", "Lei et al. 2018"


def test_another_parser_reads_the_same():
    read = parse_string("\n\n".join(r.bibtex for r in references().values()), "bibtex")
    assert list(read.entries) == list(references())
    for key, entry in read.entries.items():
        own = references()[key]
        assert entry.type == own.kind
        assert {k.lower(): str(v) for k, v in entry.fields.items()} == {
            k: v for k, v in own.fields.items() if k != "author"
        }
        assert len(entry.persons["author"]) == own.fields["author"].count(" and ") + 1


@pytest.mark.parametrize("work", references().values(), ids=lambda w: w.key)
def test_a_work_is_complete(work):
    assert {"author", "title", *NEEDED[work.kind]} <= set(work.fields)
    assert work.fields.get("year", "") in ("", *re.findall(r"\d{4}$", work.key))
    assert re.fullmatch(r"\d{4}\.\d{4,5}|[a-z-]+/\d{7}", work.fields.get("eprint", "2101.00001"))
    assert ("eprint" in work.fields) == ("archiveprefix" in work.fields)
    assert re.fullmatch(r"10\.\d{4,5}/\S+", work.fields.get("doi", "10.1000/x"))
    assert work.bibtex.isascii()


@pytest.mark.parametrize(("room", "name"), ENTRIES)
def test_what_an_entry_cites_is_in_the_file(room, name):
    text = " ".join((inspect.getdoc(registry.find(room, name)) or "").split())
    known = {references()[key].fields["year"] for key in cited(text)}
    assert {m[1] for m in NAMED.finditer(text)} <= known, "add the work to emulate/references.bib"


def test_a_text_is_read_by_first_author_and_year():
    assert cited("by Rasmussen and Williams (2006, eq. 2.42)") == ["rasmussen2006"]
    assert cited("Griewank & Walther 2000; Chen et al. 2016 for the root") == ["chen2016", "griewank2000"]
    assert cited("ter Braak and Vrugt 2008") == ["terbraak2008"]
    for other in ("Rasmussen and Williams 2005", "Williams and Rasmussen 2006", "2006 runs of Rasmussen",
                  "Rasmussen 1996; Neal 2006", "Rasmussen says so. Another did in 2006"):  # fmt: skip
        assert cited(other) == []


def test_an_accent_is_no_letter():
    assert Reference("a", "misc", {"author": r"Sj{\"o}strand, T. and Gon{\c c}alves, P."}, "").surname == "Sjostrand"
    assert Reference("a", "misc", {"author": r"Gon{\c c}alves, P."}, "").surname == "Goncalves"
