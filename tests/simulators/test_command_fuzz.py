"""Random templates and random, cut and mutated output files: a number, a failed run or wrong input, and never a hang."""
# ruff: noqa: E501 - tables of odd pieces

import io
import json

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.io import netcdf_file

from emulate.errors import InputError, RunFailed
from emulate.simulators.command.decoders import FORMATS, open_content, select
from emulate.simulators.command.folder import judge_name
from emulate.simulators.command.templates import compiled

LIMIT = 2**16
QUIET = {"deadline": 5000, "suppress_health_check": list(HealthCheck), "derandomize": True}

PIECES = st.sampled_from([
    "{{", "}}", "{%", "%}", "{#", "#}", "a", "b", "for", "in", "if", "endif", "endfor", "else", "range", "(", ")", "[", "]", "'", '"',
    "|", "*", "**", "%", "+", "-", "/", "//", "~", ".", ",", ":", "1", "9999", "0", "1e308", "exp", "log", "set", "=", "==", "<", "not",
    "is", "and", "loop", ".index", "format", "'%d'", "'%s'", "'%9999d'", "__class__", "['__class__']", "\n", " ", " ", " ", "-%}", "{%-",
    "{{ a }}", '{{ "%.6e" % a }}', "{% if a %}", "{% for i in range(3) %}", "{% endfor %}", "{{ i }}", "{% set c = a %}", "\\x00", "é",
    "macro", "include", "raw", "endraw", "filter", "round", "sum", "int", "length", "upper", "self", "recursive", "{", "}", "lower",
])  # fmt: skip


@settings(max_examples=700, **QUIET)
@given(st.one_of(st.lists(PIECES, max_size=14).map("".join), st.lists(PIECES, max_size=14).map(" ".join),
                 st.lists(PIECES, max_size=8).map(lambda x: "{{ " + " ".join(x) + " }}"), st.text(max_size=60)))  # fmt: skip
def test_templates(text):
    try:
        made = compiled(text, "in.j2", ("a", "b")).render({"a": 0.5, "b": -2.0})
    except (InputError, RunFailed):
        return
    assert isinstance(made, str)
    assert "object at 0x" not in made


@settings(max_examples=200, **QUIET)
@given(st.floats(allow_nan=False, allow_infinity=False), st.integers(0, 17))
def test_a_value_in_a_template_reads_back(x, digits):
    assert float(compiled("{{ a }}", "in.j2", ("a",)).render({"a": x})) == x
    formatted = compiled(f'{{{{ "%.{digits}e" % a }}}}', "in.j2", ("a",)).render({"a": x})
    assert formatted == f"{x:.{digits}e}"


@settings(max_examples=300, **QUIET)
@given(st.text(st.sampled_from("./ax\0\n~\\é"), max_size=12))
def test_names_that_are_let_through_stay_inside(tmp_path_factory, name):
    import os.path

    try:
        judge_name(name, "x")
    except InputError:
        return
    assert os.path.normpath(os.path.join("/run", name)) == f"/run/{name}"


def decoded(kind, content, key="", column=None, row=None):
    """Whether numbers came out; the two errors that may are let pass."""
    try:
        found = select(open_content(io.BytesIO(content), "out", kind, LIMIT), "out", key=key, column=column, row=row)
    except (RunFailed, InputError):
        return False
    assert found.dtype == np.float64
    assert found.ndim == 1
    return True


def _saved(save):
    out = io.BytesIO()
    save(out)
    return out.getvalue()


def _netcdf():
    out = io.BytesIO()
    f = netcdf_file(out, "w")
    f.createDimension("k", 3)
    f.createVariable("pk", "f8", ("k",))[:] = [1.0, 2.0, 3.0]
    f.flush()
    return out.getvalue()


GOOD = {
    "table": b"# k pk\n0.1 1.5\n0.2 2.5D+01\n",
    "csv": b'k,"pk"\n0.1,1.5\n0.2,2.5\n',
    "json": json.dumps({"pk": [1.0, 2.5], "n": {"x": [[1, 2], [3, 4]]}}).encode(),
    "yaml": b"pk: [1, 2.5]\nn: {x: &a [1, 2], y: *a}\n",
    "npy": _saved(lambda out: np.save(out, np.arange(6.0).reshape(2, 3))),
    "npz": _saved(lambda out: np.savez_compressed(out, pk=np.arange(6.0), n=np.arange(3))),
    "netcdf": _netcdf(),
}
PLACE = st.fixed_dictionaries({
    "key": st.sampled_from(["", "pk", "n", "n.x", "n.x.1", "no"]),
    "column": st.sampled_from([None, 1, 2, 9, "pk", "no"]),
    "row": st.sampled_from([None, 1, -1, 99]),
})  # fmt: skip
CHANGES = st.lists(st.tuples(st.floats(0, 1), st.sampled_from(["flip", "cut", "insert", "repeat"]), st.binary(min_size=1, max_size=6)),
                   max_size=4)  # fmt: skip


def mutated(content, changes):
    content = bytearray(content)
    for where, how, what in changes:
        i = int(where * len(content))
        if how == "flip" and i < len(content):
            content[i] ^= what[0] or 1
        elif how == "cut":
            del content[i : i + what[0]]
        elif how == "insert":
            content[i:i] = what
        else:
            content[i:i] = content[max(0, i - 4 * what[0]) : i]
    return bytes(content)


@pytest.mark.parametrize("kind", GOOD)
def test_mutated_files(kind):
    assert decoded(
        kind,
        GOOD[kind],
        key="pk" if kind not in ("table", "csv") else "",
        column="pk" if kind in ("table", "csv") else None,
    )

    @settings(max_examples=130, **QUIET)
    @given(CHANGES, PLACE)
    def judge(changes, place):
        decoded(kind, mutated(GOOD[kind], changes), **place)

    judge()


@settings(max_examples=400, **QUIET)
@given(st.sampled_from(sorted(FORMATS)), st.binary(max_size=200), PLACE)
def test_any_bytes(kind, content, place):
    decoded(kind, content, **place)


CELLS = st.one_of(
    st.floats().map(repr),
    st.sampled_from(["", "nan", "1D5", "****", "1_0", "x", "#", '"', ",", ";", "\t", "\ufeff", "-"]),
)


@settings(max_examples=200, **QUIET)
@given(
    st.sampled_from(["table", "csv"]),
    st.lists(st.lists(CELLS, max_size=4), max_size=5),
    st.sampled_from([" ", ",", ";", "\t"]),
    PLACE,
)
def test_tables_of_odd_cells(kind, rows, sep, place):
    decoded(kind, "\n".join(sep.join(r) for r in rows).encode(), **place)


TREES = st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
                     lambda x: st.lists(x, max_size=4) | st.dictionaries(st.sampled_from(["pk", "n", "x", "0"]), x, max_size=3))  # fmt: skip


@settings(max_examples=250, **QUIET)
@given(st.sampled_from(["json", "yaml"]), TREES, PLACE)
def test_trees_of_anything(kind, tree, place):
    decoded(kind, json.dumps(tree).encode(), **place)


def test_mutated_hdf5(tmp_path):
    """Cut anywhere, and with bytes changed anywhere; each ends in words or numbers."""
    with h5py.File(tmp_path / "x.h5", "w") as f:
        f.create_dataset("pk", data=np.arange(50.0), chunks=(10,), compression="gzip", fletcher32=True)
        f["n/x"] = np.arange(3)
    content = (tmp_path / "x.h5").read_bytes()
    assert decoded("hdf5", content, "pk")
    generator = np.random.default_rng(0)
    for cut in generator.integers(0, len(content), 100):
        decoded("hdf5", content[:cut], "pk")
    for n in range(300):
        changed = bytearray(content)
        for at in generator.integers(0, len(content), 3):
            changed[at] = generator.integers(0, 256)
        decoded("hdf5", bytes(changed), ("pk", "n/x")[n % 2])
