"""The registry: the folder is the list, settings are strict, and every complaint is a sentence with a path."""

from dataclasses import dataclass
from typing import Annotated, Literal

import pytest
from annotated_types import Ge, Gt, Len
from hypothesis import given
from hypothesis import strategies as st

from emulate import registry
from emulate.errors import InputError, shown
from emulate.simulators.linear_gaussian import LinearGaussian


@dataclass(frozen=True, kw_only=True)
class Inner:
    """A part of a part."""

    __pydantic_config__ = {"extra": "forbid"}
    depth: int = 1


@dataclass(frozen=True, kw_only=True)
class Whole:
    """Every kind of setting."""

    __pydantic_config__ = {"extra": "forbid", "allow_inf_nan": False}
    n: Annotated[int, Ge(1)] = 1
    x: Annotated[float, Gt(0.5)] = 1.0
    flag: bool = False
    word: str = ""
    kind: Literal["fast", "slow"] = "fast"
    pair: Annotated[tuple[float, ...], Len(1, 2)] = (1.0,)
    one_or_many: float | tuple[float, ...] = 0.0
    maybe: int | None = None
    named: dict[str, float] | None = None
    inner: Inner = Inner()


def said(**values) -> str:
    with pytest.raises(InputError) as caught:
        registry.validate(Whole, values, path="part")
    return str(caught.value)


def test_the_folder_is_the_list():
    assert "linear_gaussian" in registry.names("simulators")
    assert not [n for room in registry.ROOMS for n in registry.names(room) if n.startswith("_")]
    assert registry.find("simulators", "linear_gaussian") is LinearGaussian
    assert registry.find("simulators", "emulate.simulators.linear_gaussian:LinearGaussian") is LinearGaussian
    assert registry.build("simulators", "linear_gaussian") == LinearGaussian()


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"n": 0}, "part.n: must be at least 1. Got 0."),
        ({"n": 1.5}, "part.n: must be a whole number. Got 1.5."),
        ({"n": "1"}, "part.n: must be a whole number. Got '1'."),
        ({"n": True}, "part.n: must be a whole number. Got true."),
        ({"n": None}, "part.n: must be a whole number. Got nothing."),
        ({"x": 0.5}, "part.x: must be greater than 0.5. Got 0.5."),
        ({"x": "1e3"}, "part.x: must be a number. Got '1e3'."),
        ({"x": True}, "part.x: must be a number. Got true."),
        ({"x": float("inf")}, "part.x: must be a finite number. Got inf."),
        ({"flag": "yes"}, "part.flag: must be true or false. Got 'yes'."),
        ({"flag": 1}, "part.flag: must be true or false. Got 1."),
        ({"word": 3}, "part.word: must be text (quotes make a text). Got 3."),
        ({"kind": "fst"}, "part.kind: must be 'fast' or 'slow'. Got 'fst'. Did you mean \"fast\"?"),
        ({"kind": 3}, "part.kind: must be 'fast' or 'slow'. Got 3."),
        ({"pair": 1.0}, "part.pair: must be a list, [ ... ]. Got 1.0."),
        ({"pair": []}, "part.pair: must have at least 1 entries. Got []."),
        ({"pair": [1, "2"]}, "part.pair.1: must be a number. Got '2'."),
        ({"one_or_many": "x"}, "part.one_or_many: must be a number or must be a list, [ ... ]. Got 'x'."),
        ({"one_or_many": [1, True]}, "part.one_or_many.1: must be a number. Got true."),
        ({"maybe": "x"}, "part.maybe: must be a whole number. Got 'x'."),
        ({"named": {"a": "b"}}, "part.named.a: must be a number. Got 'b'."),
        ({"named": 3}, "part.named: must be a mapping, {key: value}. Got 3."),
        ({"inner": 3}, "part.inner: must be a mapping, {key: value}. Got 3."),
        ({"inner": {"dept": 3}}, "part.inner.dept: this key is not known. Keys allowed here: depth. Did you mean "
                                 '"depth"?'),
        ({"n": 0, "flag": "on"}, "part.n: must be at least 1. Got 0."),
    ],
)  # fmt: skip
def test_wrong_values_are_answered_in_the_house_form(values, sentence):
    assert sentence in said(**values).splitlines()


def test_a_sentence_of_the_entry_itself_keeps_its_question_mark():
    @dataclass(frozen=True)
    class Asking:
        n: int

        def __post_init__(self):
            raise ValueError("there is no 'trails'. Did you mean \"trials\"?" if self.n else "n must not be 0.")

    for n, sentence in ((1, "part: there is no 'trails'. Did you mean \"trials\"?"), (0, "part: n must not be 0.")):
        with pytest.raises(InputError) as caught:
            registry.validate(Asking, {"n": n}, path="part")
        assert str(caught.value) == sentence


def test_unknown_keys_are_answered_with_the_known_ones():
    assert said(knd="fast") == (
        "part.knd: this key is not known. Keys allowed here: n, x, flag, word, kind, pair, one_or_many, maybe, named, "
        'inner. Did you mean "kind"?'
    )


def test_what_is_meant_is_taken():
    made = registry.validate(Whole, {"n": 1e2, "x": 2, "pair": [1, 2], "one_or_many": [1], "maybe": None,
                                     "inner": {"depth": 2}}, path="")  # fmt: skip
    assert (made.n, type(made.n), made.x, made.pair, made.one_or_many) == (100, int, 2.0, (1.0, 2.0), (1.0,))
    assert made.inner == Inner(depth=2)


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        (3, "simulator: must be an entry's name or a mapping {use: NAME, ...}. Got 3."),
        ({}, f"simulator.use: must name an entry of simulators: {', '.join(registry.names('simulators'))}. Got no"),
        ("linear", f"simulator.use: there is no entry 'linear' in simulators; there are "
         f"{', '.join(registry.names('simulators'))}, or \"package.module:Class\"."),
        ("math:pi", "simulator.use: 'math:pi' must be a class that fulfils the contract Simulator. Got 3.14159"),
        ("math:po", "simulator.use: module 'math' has no 'po'; check the name after the colon."),
        ("no_such:Class", "simulator.use: 'no_such:Class' cannot be imported: No module named 'no_such'. Install its "
         "package, or mend the name."),
        ({"use": "linear_gaussian", "nois": 1}, "simulator.nois: this key is not known. Keys allowed here: "
         'outputs_count, noise. Did you mean "noise"?'),
    ],
)  # fmt: skip
def test_a_spec_that_cannot_be_built(spec, sentence):
    with pytest.raises(InputError) as caught:
        registry.build("simulators", spec, path="simulator")
    assert str(caught.value).startswith(sentence)


def test_there_are_rooms():
    with pytest.raises(InputError, match=r"^'ensemble' must be looked up in one room\. Got an entry of gradients and samplers; "
                       r"say which, as in `emulate list gradients ensemble`\.$"):  # fmt: skip
        registry.place("ensemble")
    with pytest.raises(InputError, match=r"there is no room 'emulator'; rooms are .* Did you mean \"emulators\""):
        registry.names("emulator")


_value = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text("abc \t"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc \t"), inner, max_size=3), max_leaves=5,
)  # fmt: skip


_names = st.sampled_from(["n", "x", "flag", "word", "kind", "pair", "one_or_many", "named", "inner", "z"])


@given(st.dictionaries(_names, _value))
def test_any_settings_are_taken_or_answered(values):
    try:
        made = registry.validate(Whole, values, path="part")
    except InputError as e:
        lines = str(e).splitlines()
    else:
        lines = []
        assert type(made.n) is int
        assert type(made.flag) is bool
    assert all(line.startswith("part.") and ": " in line for line in lines)


def test_values_are_shown_as_in_a_study():
    values = {"nothing": None, "true": True, "false": False, "0": 0, "1": 1, "'a'": "a", "[1]": [1]}
    assert {text: shown(value) for text, value in values.items()} == {text: text for text in values}
    assert len(shown("x" * 500)) == 80
