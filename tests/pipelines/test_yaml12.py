"""The strict reader against the YAML 1.2 specification, against PyYAML where both must agree, and against rubbish."""

import contextlib
import math
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from emulate.errors import InputError
from pipelines import yaml12
from pipelines.yaml12 import parse, read


def refused(text: str) -> str:
    with pytest.raises(InputError) as caught:
        parse(text, "f.yaml")
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [  # the table of the core schema, YAML 1.2.2, section 10.3.2
        ("null", None), ("Null", None), ("~", None), ("", None), ("nul", "nul"),
        ("true", True), ("True", True), ("FALSE", False), ("tRUE", "tRUE"),
        ("yes", "yes"), ("no", "no"), ("on", "on"), ("Off", "Off"), ("y", "y"), ("n", "n"),
        ("0", 0), ("-19", -19), ("+12", 12), ("012", 12), ("08", 8), ("0o14", 12), ("0xC", 12), ("-0", 0),
        ("1_000", "1_000"), ("0b1", "0b1"), ("1:30", "1:30"), ("190:20:30", "190:20:30"), ("-0xC", "-0xC"),
        ("0.", 0.0), ("-0.0", -0.0), (".5", 0.5), ("+12e03", 12000.0), ("-2E+05", -2e5), ("1e-3", 1e-3), ("1e3", 1e3),
        (".inf", math.inf), ("-.Inf", -math.inf), ("+.INF", math.inf), ("inf", "inf"), ("nan", "nan"), (".", "."),
        ("e3", "e3"), ("1e", "1e"), ("2024-01-01", "2024-01-01"), ("=", "="), ("<<", "<<"), ("١٢", "١٢"),
        ('"12"', "12"), ("'true'", "true"), ("'it''s'", "it's"), (r'"\u00fc"', "ü"),
    ],
)  # fmt: skip
def test_scalars_are_those_of_yaml_1_2(text, value):
    met = parse(f"key: {text}").data["key"]
    assert (type(met), met) == (type(value), value)


def test_not_a_number_is_read_as_one():
    assert math.isnan(parse(".nan").data)


def test_every_key_and_item_knows_its_line():
    d = parse("# comment\na: 1\nb:\n  - x\n  - {c: 2,\n     d: [3]}\n", "f.yaml")
    assert d.data == {"a": 1, "b": ["x", {"c": 2, "d": [3]}]}
    assert d.lines == {("a",): 2, ("b",): 3, ("b", 0): 4, ("b", 1): 5, ("b", 1, "c"): 5, ("b", 1, "d"): 6,
                       ("b", 1, "d", 0): 6}  # fmt: skip


def test_aliases_are_copies():
    data = parse("a: &x {b: [1]}\nc: *x\nd: &y 3\ne: *y").data
    data["a"]["b"].append(2)
    assert data == {"a": {"b": [1, 2]}, "c": {"b": [1]}, "d": 3, "e": 3}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: 2\na: 3", "f.yaml:3:1: a: a key must stand once. Got it twice, first in line 1; delete or rename "
                             "one of them."),
        ("a: {b: 1, b: 2}", "f.yaml:1:11: a.b: a key must stand once. Got it twice, first in line 1; delete or rename "
                            "one of them."),
        ("a: 1\n\tb: 2", "f.yaml:2:1: this is not YAML: found character tab that cannot start any token. Indent "
                         "with spaces, not with tabs, and put text with such signs in quotes."),
        ("a: b: c", "f.yaml:1:5: this is not YAML: mapping values are not allowed here. A text that holds \": \" needs "
                    "quotes; keys of one level start in one column."),
        ("a: [1\nb: 2", "f.yaml:2:2: this is not YAML: expected ',' or ']', but got ':' (begun in line 1). Values "
                        "between brackets or braces need commas, and a closing bracket or brace."),
        ('a: "x\nb: 2', "f.yaml:2:5: this is not YAML: found unexpected end of stream (begun in line 1). Close the "
                        "quote."),
        ("a: 1\n b: 2", "f.yaml:2:3: this is not YAML: mapping values are not allowed here. A text that holds \": \" "
                        "needs quotes; keys of one level start in one column."),
        ("- a\nb: 1", "f.yaml:2:1: this is not YAML: expected <block end>, but found '?'. Keys and list items of one "
                      "level must start in one column."),
        ("a: \0", "f.yaml:1: this is not YAML: the character #x0000 is not allowed in text. Delete it."),
        ("a: *x", "f.yaml:1:4: the alias *x must follow its anchor &x. There is none above."),
        ("omega: &omega 1\nb: *omgea", "f.yaml:2:4: the alias *omgea must follow its anchor &omgea. There is none "
                                       'above. Did you mean "omega"?'),
        ("a: &x [*x]", "f.yaml:1:8: the alias *x must not stand inside its own anchor."),
        ("a: !!str 1", "f.yaml:1:4: tags (!, !!str, !!python) are not read here. Delete the tag; quotes make a text."),
        ("!!python/object/apply:os.system [ls]", "f.yaml:1:1: tags (!, !!str, !!python) are not read here. Delete the "
                                                 "tag; quotes make a text."),
        ("1: a", "f.yaml:1:1: a key must be text. Got '1'; put it in quotes."),
        ("? [a]\n: b", "f.yaml:1:3: a key must be text. Got something else."),
        ("--- a\n--- b", "f.yaml:2:1: a file must hold one document. Got a second `---`; delete it."),
        (r'a: "\ud800"', "f.yaml:1:4: a text must hold characters. Got half of a surrogate pair; mend the escape."),
        ("a: " + "9" * 2000, "f.yaml:1:4: a whole number must have at most 1000 digits. Got 2000."),
        ("[" * 1000, "f.yaml:1:25: values must be nested at most 24 deep."),
        ("{", "f.yaml:1:2: this is not YAML: expected the node content, but found '<stream end>' (begun in line 1). "
              "Close the bracket or brace."),
        ("a: " * 3, "f.yaml:1:5: this is not YAML: mapping values are not allowed here. A text that holds \": \" needs "
                    "quotes; keys of one level start in one column."),
    ],
)  # fmt: skip
def test_refusals_say_where_and_what_to_do(text, said):
    assert refused(text) == said


def test_an_escape_that_names_no_character_is_refused():
    assert refused(r'a: "\UFFFFFFFF"').startswith("f.yaml: this is not YAML: an escape names no character")


def test_aliases_cannot_multiply():
    laughs = "a0: &a0 [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
        f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9)
    )
    assert re.fullmatch(r"f.yaml:5:\d+: aliases must not make more than 20000 values or 24 levels.", refused(laughs))


def test_size_is_capped(tmp_path):
    assert refused("a" * 300_000) == "f.yaml must be at most 256 kB. Got 292 kB."
    assert "at most 20000 values" in refused("[" + "1," * 30_000 + "]")
    (tmp_path / "big.yaml").write_text("a" * 300_000)
    with pytest.raises(InputError, match=r"big.yaml must be at most 256 kB. A study is text; keep data in its own"):
        read(tmp_path / "big.yaml")


def test_files_that_cannot_be_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart.yaml").write_text("a: 1")
    (tmp_path / "latin.yaml").write_bytes("# fine\nlabel: \xb5m".encode("latin-1"))
    (tmp_path / "utf16.yaml").write_bytes("a: 1".encode("utf-16"))
    (tmp_path / "bom.yaml").write_bytes("a: 1".encode("utf-8-sig"))
    (tmp_path / "empty").mkdir()

    def said(name: str) -> str:
        with pytest.raises(InputError) as caught:
            read(Path(name))
        return str(caught.value)

    assert read(Path("bom.yaml")).data == {"a": 1}
    assert said("quikstart.yaml") == 'there is no file quikstart.yaml. Did you mean "quickstart.yaml"?'
    assert said("zzz.yml") == ("there is no file zzz.yml. There is bom.yaml, latin.yaml, quickstart.yaml, utf16.yaml.")
    assert said("no/where.yaml") == ("there is no file no/where.yaml. There is no folder no either; check the folder "
                                     "you are in.")  # fmt: skip
    assert said("empty/a.yaml") == "there is no file empty/a.yaml. `emulate init empty/a.yaml` writes one."
    assert said(".") == ". is a folder; name a YAML file in it: bom.yaml, latin.yaml, quickstart.yaml, utf16.yaml."
    assert said("latin.yaml") == ("latin.yaml:2: a study must be text in UTF-8. Got byte 0xb5; save the file as UTF-8.")
    assert said("utf16.yaml").startswith("utf16.yaml:1: a study must be text in UTF-8. Got byte 0xff")
    assert said("a\0b") == "a\0b cannot be read: embedded null byte. Check its name and rights."


# Text that looks like a number is left out: `1e3` and `08` are text to PyYAML and numbers to YAML 1.2
_text = st.text(st.characters(exclude_categories=["Cs", "Cc"], include_characters="\n\t"), max_size=20).filter(
    lambda t: t[:1] not in tuple("0123456789+-."))  # fmt: skip
_leaf = st.none() | st.booleans() | st.integers(-(10**18), 10**18) | st.floats(allow_nan=False, allow_infinity=False)
_data = st.recursive(_leaf | _text, lambda x: st.lists(x, max_size=4) | st.dictionaries(_text, x, max_size=4),
                     max_leaves=12)  # fmt: skip


@given(_data)
def test_what_pyyaml_writes_is_read_back(value):
    assert parse(yaml.safe_dump(value, allow_unicode=True, width=10_000)).data == value


@given(st.text(alphabet=st.sampled_from(list("ab01:-,.[]{}&*!|>'\"%#?\\ \n\t~<=eE\0\ud800ü")), max_size=60))
@settings(max_examples=400)
def test_rubbish_meets_a_sentence_and_nothing_else(text):
    _never_breaks(text)


@given(st.text(max_size=60))
def test_any_text_meets_a_sentence_and_nothing_else(text):
    _never_breaks(text)


@given(st.binary(max_size=60))
def test_any_bytes_meet_a_sentence_and_nothing_else(tmp_path_factory, raw):
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_bytes(raw)
    with contextlib.suppress(InputError):
        read(path)


def _never_breaks(text: str) -> None:
    document, said = None, "f.yaml."
    try:
        document = parse(text, "f.yaml")
    except InputError as e:
        said = str(e)
    assert said.startswith("f.yaml")
    assert said.endswith((".", "?"))
    for path in document.lines if document else ():
        value = document.data
        for part in path:
            value = value[part]


def test_caps_are_told_before_the_work_is_done():
    """A deep or long file is refused while it is read: the parser is never run to its end."""
    assert yaml12.MAX_DEPTH * 10 < 1000  # Python's own recursion limit is far away
    assert "nested" in refused("{a: " * 5000)
