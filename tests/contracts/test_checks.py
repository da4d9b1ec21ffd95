"""Laws of the room of checks: each one passes the honest stand-in, catches a liar, and never passes on NaN."""

import re
from dataclasses import fields

import pytest

from emulate import registry
from emulate.contracts import Evidence
from emulate.errors import InputError
from tests.checks.stand_ins import KINDS, evidence, spoiled
from tests.entries import entries

NAMES = entries("checks")
FIGURES = {
    "accuracy",
    "calibration",
    "confirmation",
    "crps",
    "gradient",
    "corner",
    "pit",
    "ranks",
    "recovery",
    "regions",
    "replicas",
}


def _build(name: str):
    return registry.build("checks", {"use": name, **registry.find("checks", name).example})


def _find(name: str, material: Evidence):
    return _build(name).find(material)


@pytest.fixture(scope="module")
def material():
    return {kind: evidence(kind) for kind in KINDS}


@pytest.mark.parametrize("name", NAMES)
def test_says_its_stage_and_reads_what_it_names(name):
    check = registry.find("checks", name)
    assert check.stage in ("validate", "check")
    assert check.needs
    assert set(check.needs) <= {f.name for f in fields(Evidence)}


def test_all_blocking_tests_together_fail_what_is_right_one_time_in_twenty():
    """Their chances add up to less, with the 0.005 that the weights of true runs are measured to take."""
    checks = [_build(name) for name in NAMES]
    assert sum(c.alarms * c.chance for c in checks if c.alarms) + 0.005 <= 0.05 + 1e-12
    assert all(c.alarms for c in checks if hasattr(c, "chance"))


@pytest.mark.parametrize("name", NAMES)
def test_needs_no_more_than_it_says(name, material):
    check, whole = _build(name), material["honest"]
    bare = Evidence(whole.emulator, **{need: getattr(whole, need) for need in check.needs})
    assert repr(check.find(bare)) == repr(check.find(whole))


@pytest.mark.parametrize("name", NAMES)
def test_passes_the_honest_stand_in(name, material):
    assert [f for f in _find(name, material["honest"]) if not f.passed] == []


@pytest.mark.parametrize("name", NAMES)
def test_stops_a_liar(name, material):
    caught = {k for k in KINDS if any(f.blocking and not f.passed for f in _find(name, material[k]))}
    assert caught, f"no blocking finding of {name} fails for any of {KINDS}"
    assert "honest" not in caught


@pytest.mark.parametrize("name", NAMES)
def test_one_nan_anywhere_never_passes(name):
    for need in registry.find("checks", name).needs:
        for where, material in spoiled(need):
            assert [f.name for f in _find(name, material) if f.blocking and f.passed] == [], f"NaN in {need}.{where}"


@pytest.mark.parametrize("name", NAMES)
def test_missing_evidence_is_asked_for(name, material):
    check = _build(name)
    missing = " and ".join(check.needs)
    expected = (f"the check {name!r} must be given {missing}. Got None; run `emulate {check.stage}`, which makes it, "
                f"or leave the check out.")  # fmt: skip
    with pytest.raises(InputError, match=f"^{re.escape(expected)}$"):
        check.find(Evidence(material["honest"].emulator))


@pytest.mark.parametrize("name", NAMES)
def test_same_evidence_same_findings(name, material):
    for kind in KINDS:
        assert repr(_find(name, material[kind])) == repr(_find(name, evidence(kind)))


@pytest.mark.parametrize("name", NAMES)
def test_findings_are_named_once_and_every_blocking_one_has_a_bound(name, material):
    found = _find(name, material["honest"])
    assert any(f.blocking for f in found)
    assert all(f.bound != "none" for f in found if f.blocking)
    assert all(f.figure in FIGURES for f in found)
    assert all(re.fullmatch(r"[A-Za-z0-9_./-]+", f.name) for f in found), "a tracker must accept the name"


def test_no_two_checks_share_a_name(material):
    names = [f.name for name in NAMES for f in _find(name, material["honest"])]
    assert sorted(names) == sorted(set(names))


def _all_findings():
    for name in NAMES:
        for kind in KINDS:
            yield from _find(name, evidence(kind))
        for need in registry.find("checks", name).needs:
            for _, material in spoiled(need):
                yield from _find(name, material)


def test_sentences_read_as_sentences():
    """A capital or a digit first, a full stop last, no space lost or doubled, no Python in it."""
    faults = re.compile(
        r"  |\s[.,;:)]|\(\s"  # doubled or stray spaces
        r"|[a-z][.;,:!?][A-Za-z]|\d[,;:][A-Za-z]|[a-z][A-Z]|[%)\]][A-Za-z0-9(]|[a-z]\(|\d\.[A-Z]"  # lost ones
        r"|\b\d+(?!e[-+]\d)[a-df-z]\w"  # a number that touches a word
        r"|\bnan\b|\binf\b|tensor|None|\[|\{|\bNaN\b.*\bNaN\b|e[+-]0\d\d|\d{8}|\d\.\d{7}"
    )
    sentences = {f.sentence for f in _all_findings()}
    assert len(sentences) > 3 * len(NAMES)
    for s in sentences:
        assert re.match(r"[A-Z0-9]", s), s
        assert s.endswith("."), s
        fault = faults.search(s)
        assert fault is None, f"{fault.group()!r} in: {s}"
