"""Attacks on the sandbox of templates, on paths, and by files that a program leaves: each is tried and refused in words."""
# ruff: noqa: E501 - tables of whole sentences

import io
import json
import os
import resource
import struct
import time
import zipfile
import zlib

import h5py
import numpy as np
import pytest
import torch

from emulate import registry
from emulate.errors import InputError, RunFailed
from emulate.simulators.command import folder
from emulate.simulators.command.decoders import open_content, select
from emulate.simulators.command.templates import compiled
from emulate.space import Parameter, Space, Uniform

SPACE = Space((Parameter("a", Uniform(0.0, 1.0)),))
THETA = torch.tensor([0.5], dtype=torch.float64)
LIMIT = 2**20
SECRET = "the canary sings"


def command(*arguments, **settings):
    spec = {"use": "command", "command": list(arguments), "outputs": [{"name": "y", "file": "stdout.txt"}], **settings}
    return registry.build("simulators", spec, space=SPACE)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "secret.txt").write_text(SECRET)
    return tmp_path


ESCAPES = [
    "{{ ''.__class__ }}",
    "{{ ''['__class__'] }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ a.__class__.__base__ }}",
    "{{ a['__class__'] }}",
    "{{ (1).__class__ }}",
    "{{ [].append(1) }}",
    "{{ [1]['append'] }}",
    "{{ {}['__class__'] }}",
    "{{ {}.items() }}",
    "{{ '{0.__class__}'.format(1) }}",
    "{{ '{0.__class__}'|format(1) or ''|attr('x') }}",
    "{{ ''|attr('__class__') }}",
    "{{ self }}",
    "{{ self._TemplateReference__context }}",
    "{{ self.__init__.__globals__ }}",
    "{{ cycler.__init__.__globals__.os }}",
    "{{ joiner }}",
    "{{ namespace() }}",
    "{{ lipsum.__globals__['os'].popen('id').read() }}",
    "{{ lipsum() }}",
    "{{ dict(a=1) }}",
    "{{ config }}",
    "{{ request.application.__globals__ }}",
    "{{ __builtins__ }}",
    "{{ __import__('os') }}",
    "{{ open('secret.txt').read() }}",
    "{{ exp.__self__ }}",
    "{{ exp }}",
    "{{ range.__class__ }}",
    "{{ (exp if a else log)(1) }}",
    "{{ exp(*[1]) }}",
    "{{ exp(**{}) }}",
    "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "{% for x in [1] %}{{ loop.__class__ }}{% endfor %}",
    "{% for x in [1] %}{{ loop['__class__'] }}{% endfor %}",
    "{% for x in [1] %}{{ loop.changed.__globals__ }}{% endfor %}",
    "{% for x in [1] %}{{ loop.cycle('a') }}{% endfor %}",
    "{% include 'secret.txt' %}",
    "{% import 'secret.txt' as x %}",
    "{% from 'secret.txt' import x %}",
    "{% extends 'secret.txt' %}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{% call exp() %}{% endcall %}",
    "{% set x.y = 1 %}",
    "{% block x %}{% endblock %}",
    "{% filter upper %}x{% endfilter %}",
    "{% with %}{% endwith %}",
    "{% autoescape true %}{% endautoescape %}",
    "{% debug %}",
    "{{ _ }}",
    "{{ __turns }}",
    "{{ [1]|__turns }}",
    "{{ [1]|map('upper') }}",
    "{{ a is callable }}",
    "{{ caller() }}",
]


@pytest.mark.parametrize("text", ESCAPES)
def test_a_template_reaches_nothing_but_its_values(text):
    with pytest.raises(InputError) as caught:
        compiled(text, "in.j2", ("a",)).render({"a": 0.5})
    assert str(caught.value).startswith("in.j2")
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("text", [
    "{{ 'x' * 1000000000 }}",
    "{{ [1] * 1000000000 }}",
    "{{ 1000000000 * 'x' }}",
    "{{ 10 ** (10 ** (10 ** 10)) }}",
    "{{ 2 ** 1000000000 }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '%.1000000000f' % a }}",
    "{{ '%*d' % (1000000000, 1) }}",
    "{{ '%1000000000d'|format(1) }}",
    "{{ 5|round(-1000000000) }}",
    "{{ range(1000000000)|sum }}",
    "{{ range(1000000000)|length }}",
    "{% for i in range(1000000000) %}{% endfor %}",
    "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
    "{% for i in 'abcdefghij' %}" * 8 + "{% endfor %}" * 8,
    "{% for i in range(10000) %}{{ 'x' * 10000 }}{% endfor %}",
    "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
    "{{ " + "-" * 5000 + "1 }}",
    "{% if a %}" * 1000 + "{% endif %}" * 1000,
    "x" * (5 * 2**20),
])  # fmt: skip
def test_a_template_bomb_costs_a_moment(text):
    start = time.monotonic()
    with pytest.raises((InputError, RunFailed)):
        compiled(text, "in.j2", ("a",)).render({"a": 0.5})
    assert time.monotonic() - start < 20


NAMES = ["../x", "x/../../y", "..", ".", "", "/etc/passwd", "/tmp/x", "x//y", "x/./y", "x/", "./x", "x\0y", "x\ny", "x\x1b[2J",
         "n" * 300, "é" * 130, "/".join("abcdefghijklmnopq"), "x\u202ey"]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("key", ["output", "template", "copy", "link", "log", "done", "pattern"])
def test_a_name_stays_inside_the_folder_of_the_run(here, name, key):
    (here / "t").write_text("x")
    settings = {
        "output": {"outputs": [{"name": "y", "file": name}]},
        "template": {"templates": {name: "t"}},
        "copy": {"files": {name: {"copy": "t"}}},
        "link": {"files": {name: {"link": "t"}}},
        "log": {"logs": [name]},
        "done": {"success": {"file": name}},
        "pattern": {"success": {"pattern": {"file": name, "text": "x"}}},
    }[key]
    if key == "done" and not name:
        return  # no file is named
    with pytest.raises(
        InputError, match=r" must (be relative to the run's folder|be made of printable|have at most 16 parts of 255)"
    ):
        _ = command("echo", "1", **settings).version


@pytest.mark.parametrize("target", ["stdout.txt", "stderr.txt"])
def test_what_is_printed_cannot_be_replaced_by_a_working_file(here, target):
    with pytest.raises(InputError, match=f"must not be {target}, which holds what the program prints"):
        _ = command("echo", "1", templates={target: "secret.txt"}).version


PLANTED = {
    "link": "ln -s {secret} out.txt",
    "dangling link": "ln -s /no/such out.txt",
    "link in between": "ln -s {here} d",
    "link to itself": "ln -s out.txt out.txt",
    "folder": "mkdir out.txt",
    "pipe": "mkfifo out.txt",
    "device": "ln -s /dev/zero out.txt",
    "proc": "ln -s /proc/self/environ out.txt",
    "printed": "rm stdout.txt; ln -s {secret} stdout.txt",
}


@pytest.mark.parametrize("kind", PLANTED)
@pytest.mark.parametrize("use", ["output", "success", "log"])
def test_a_link_that_the_program_plants_is_not_followed(here, kind, use):
    name = {"link in between": "d/secret.txt", "printed": "stdout.txt"}.get(kind, "out.txt")
    script = PLANTED[kind].format(secret=here / "secret.txt", here=here)
    settings = {
        "output": {"outputs": [{"name": "y", "file": name}]},
        "success": {"success": {"pattern": {"file": name, "text": "canary"}}},
        "log": {"logs": [name], "success": {"exit_code": 9}},
    }[use]
    with pytest.raises(RunFailed) as caught:
        command("sh", "-c", script, scratch="runs", **settings).run(THETA, seed=0)
    assert SECRET not in caught.value.reason + caught.value.log
    assert (here / "secret.txt").read_text() == SECRET
    assert list((here / "runs").iterdir()) == []


@pytest.mark.parametrize(("make", "sentence"), [
    (lambda d: (d / "self").symlink_to(d), "must not be a link to a folder above it"),
    (lambda d: (d / "up").symlink_to(".."), "must not be a link to a folder above it"),
    (lambda d: (d / "gone").symlink_to("nowhere"), "must be a file. It is a link to nothing, or a device"),
    (lambda d: os.mkfifo(d / "pipe"), "must be a file. It is a link to nothing, or a device"),
])  # fmt: skip
def test_a_working_folder_that_cannot_be_copied_is_refused_before_any_run(here, make, sentence):
    (here / "data").mkdir()
    make(here / "data")
    with pytest.raises(InputError, match=sentence):
        _ = command("echo", "1", files={"d": {"copy": "data"}}).version


def test_a_template_does_not_write_through_a_link_in_copied_data(here):
    (here / "data").mkdir()
    (here / "data" / "x").symlink_to(here / "secret.txt")
    with pytest.raises(RunFailed, match="the run's folder cannot be filled: File exists"):
        command("true", files={"d": {"copy": "data"}}, templates={"d/x": "secret.txt"}).run(THETA, seed=0)
    assert (here / "secret.txt").read_text() == SECRET


def test_an_argument_is_never_read_by_a_shell(here):
    simulator = command("printf", "%s\n", "$(touch gone)`touch gone`; touch gone | touch gone > gone", "{{ a }}",
                        outputs=[{"name": "y", "file": "stdout.txt", "row": -1}])  # fmt: skip
    assert simulator.run(THETA, seed=0).tolist() == [0.5]
    assert not (here / "gone").exists()


def test_a_nul_in_an_argument_is_refused():
    with pytest.raises(InputError, match="must not hold a NUL"):
        command("echo", "{{ '\\0' }}").run(THETA, seed=0)
    with pytest.raises(InputError, match="every argument must be text"):
        command("echo", "a\0b")


def test_cleaning_follows_no_link(here):
    (here / "mine").mkdir()
    (here / "mine" / "x").write_text("x")
    command(
        "sh", "-c", f"ln -s {here}/mine l; mkdir -p d/e; ln -s {here} d/e/f; chmod 0 d/e d; echo 1", scratch="runs"
    ).run(THETA, seed=0)
    assert (here / "mine" / "x").read_text() == "x"
    assert list((here / "runs").iterdir()) == []


def test_another_users_or_a_planted_folder_is_not_swept(here):
    (here / "runs" / "emulate-run-link").symlink_to(here)
    (here / "runs" / "emulate-run-file").write_text("x")
    folder._sweep.cache_clear()
    folder._sweep(str(here / "runs"))
    assert (here / "secret.txt").exists()
    assert (here / "runs" / "emulate-run-file").exists()


def npy(header, data=b"", magic=b"\x93NUMPY\x01\x00"):
    text = header.encode()
    return magic + struct.pack("<H", len(text)) + text + data


def zipped(content, name="y.npy", **lie):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    raw = out.getvalue()
    for word, value in lie.items():
        at = raw.rindex(b"PK\x01\x02") + {"size": 24, "method": 10, "flags": 8}[word]
        raw = raw[:at] + struct.pack("<I" if word == "size" else "<H", value) + raw[at + (4 if word == "size" else 2) :]
    return raw


def saved(array, **how):
    out = io.BytesIO()
    np.save(out, array, **how)
    return out.getvalue()


def hdf5(tmp_path, build):
    path = tmp_path / "made.h5"
    with h5py.File(path, "w") as f:
        build(f)
    return path.read_bytes()


class Marked:
    """Says so when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("unpickled",)


def elsewhere(tmp_path):
    """The layout of a dataset whose numbers lie in another file."""
    layout = h5py.VirtualLayout(shape=(1,), dtype="f8")
    layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "y", shape=(1,))
    return layout


# The name of the file, its content, the key that is asked for.
BOMBS = {
    "npy objects": lambda t: ("y.npy", saved(np.array([Marked()], dtype=object), allow_pickle=True), ""),
    "npy header of 2^60": lambda t: ("y.npy", npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1152921504606846976,), }"), ""),
    "npy negative": lambda t: ("y.npy", npy("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }"), ""),
    "npy true": lambda t: ("y.npy", npy("{'descr': '<f8', 'fortran_order': False, 'shape': (True,), }", b"\0" * 8), ""),
    "npy 40 axes": lambda t: ("y.npy", npy("{'descr': '<f8', 'fortran_order': False, 'shape': (" + "1," * 40 + "), }", b"\0" * 8), ""),
    "npy code": lambda t: ("y.npy", npy("__import__('os').mkdir('unpickled')"), ""),
    "npy deep": lambda t: ("y.npy", npy("(" * 9000 + ")" * 9000), ""),
    "npy cut": lambda t: ("y.npy", saved(np.ones(9))[:-1], ""),
    "npy records": lambda t: ("y.npy", saved(np.zeros(1, dtype=[("x", "f8")])), ""),
    "npy text": lambda t: ("y.npy", saved(np.array(["1"])), ""),
    "npy complex": lambda t: ("y.npy", saved(np.array([1j])), ""),
    "npy header of 4 GB": lambda t: ("y.npy", b"\x93NUMPY\x02\x00\xff\xff\xff\xff", ""),
    "npz objects": lambda t: ("y.npz", zipped(saved(np.array([Marked()], dtype=object), allow_pickle=True)), ""),
    "npz bomb": lambda t: ("y.npz", zipped(saved(np.zeros(2**20))), ""),
    "npz bomb that lies": lambda t: ("y.npz", zipped(saved(np.zeros(2**20)), size=100), ""),
    "npz bomb with a small header": lambda t: ("y.npz", zipped(saved(np.zeros(2)) + b"\0" * 2**24, size=144), ""),
    "npz method": lambda t: ("y.npz", zipped(saved(np.zeros(2)), method=99), ""),
    "npz encrypted": lambda t: ("y.npz", zipped(saved(np.zeros(2)), flags=1), ""),
    "npz key outside": lambda t: ("y.npz", zipped(saved(np.zeros(2)), name="../y.npy"), "y"),
    "npz no zip": lambda t: ("y.npz", b"PK\x03\x04" + b"\xff" * 100, ""),
    "json 1e999": lambda t: ("y.json", b"1e999", ""),
    "json deep": lambda t: ("y.json", b"[" * 100_000 + b"]" * 100_000, ""),
    "json deep but allowed": lambda t: ("y.json", b"[" * 900 + b"1" + b"]" * 900, ""),
    "json digits": lambda t: ("y.json", b"9" * 5000, ""),
    "json integer": lambda t: ("y.json", b"9" * 4000, ""),
    "json true": lambda t: ("y.json", b"true", ""),
    "json text": lambda t: ("y.json", b'"1"', ""),
    "json ragged": lambda t: ("y.json", b"[[1, 2], [3]]", ""),
    "json surrogate": lambda t: ("y.json", b'{"\\ud800": 1}', "x"),
    "json key": lambda t: ("y.json", b'{"a": 1}', "__class__"),
    "json index": lambda t: ("y.json", b"[1]", "99999999999999999999"),
    "json NUL": lambda t: ("y.json", b"1\0", ""),
    "csv NUL": lambda t: ("y.csv", b"1,2\0\n", ""),
    "csv field": lambda t: ("y.csv", b'"' + b"1" * 200_000, ""),
    "csv quotes": lambda t: ("y.csv", b'"' * 1001, ""),
    "table underscore": lambda t: ("y.txt", b"1_0\n", ""),
    "table unicode digits": lambda t: ("y.txt", "१x\n".encode(), ""),
    "table UTF-16": lambda t: ("y.txt", "1\n".encode("utf-16"), ""),
    "yaml bomb": lambda t: ("y.yaml", b"a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + b"".join(
            f"{x}: &{x} [{', '.join(['*' + y] * 10)}]\n".encode() for y, x in zip("abcdefgh", "bcdefghi", strict=True)), "i"),
    "yaml tag": lambda t: ("y.yaml", b"!!python/object/apply:os.mkdir [unpickled]\n", ""),
    "yaml deep": lambda t: ("y.yaml", b"[" * 10_000, ""),
    "yaml itself": lambda t: ("y.yaml", b"&a [*a]\n", ""),
    "yaml large": lambda t: ("y.yaml", b"- 1\n" * 100_000, ""),
    "hdf5 external link": lambda t: ("y.h5", hdf5(t, lambda f: f.__setitem__("y", h5py.ExternalLink(str(t / "other.h5"), "y"))), "y"),
    "hdf5 external storage": lambda t: ("y.h5", hdf5(t, lambda f: f.create_dataset("y", (1,), "f8", external=str(t / "raw.bin"))), "y"),
    "hdf5 virtual": lambda t: ("y.h5", hdf5(t, lambda f: f.create_virtual_dataset("y", elsewhere(t))), "y"),
    "hdf5 soft to external": lambda t: ("y.h5", hdf5(t, lambda f: (
            f.__setitem__("e", h5py.ExternalLink(str(t / "other.h5"), "/")), f.__setitem__("y", h5py.SoftLink("/e/y")))), "y"),
    "hdf5 circle": lambda t: ("y.h5", hdf5(t, lambda f: (
            f.__setitem__("y", h5py.SoftLink("/z")), f.__setitem__("z", h5py.SoftLink("/y")))), "y"),
    "hdf5 bomb": lambda t: ("y.h5", hdf5(t, lambda f: f.create_dataset("y", (10**8,), "f8", chunks=(1000,), compression="gzip")), "y"),
    "hdf5 large chunk": lambda t: ("y.h5", hdf5(t, lambda f: f.create_dataset("y", (1,), "f8", chunks=(10**7,), maxshape=(None,))), "y"),
    "hdf5 text": lambda t: ("y.h5", hdf5(t, lambda f: f.__setitem__("y", "words")), "y"),
    "hdf5 empty": lambda t: ("y.h5", hdf5(t, lambda f: f.__setitem__("y", h5py.Empty("f8"))), "y"),
    "hdf5 group": lambda t: ("y.h5", hdf5(t, lambda f: f.create_group("y")), "y"),
    "hdf5 dots": lambda t: ("y.h5", hdf5(t, lambda f: f.__setitem__("y", [1.0])), "../y"),
    "hdf5 references": lambda t: ("y.h5", hdf5(t, lambda f: f.create_dataset("y", (1,), h5py.ref_dtype)), "y"),
    "hdf5 compound": lambda t: ("y.h5", hdf5(t, lambda f: f.create_dataset("y", (1,), [("x", "f8")])), "y"),
    "netcdf counts": lambda t: ("y.nc", b"CDF\x01\xff\xff\xff\xff" + b"\x00\x00\x00\x0a\x7f\xff\xff\xff", "y"),
    "netcdf cut": lambda t: ("y.nc", b"CDF\x01\x00\x00", "y"),
    "hdf5 no file": lambda t: ("y.h5", b"\x89HDF\r\n\x1a\n" + zlib.compress(b"x" * 1000), "y"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BOMBS)
def test_a_file_that_is_a_bomb_or_a_trap_is_a_failed_run(here, kind):
    hdf5(here, lambda f: f.__setitem__("y", [1.0]))
    (here / "made.h5").rename(here / "other.h5")
    (here / "raw.bin").write_bytes(struct.pack("<d", 1.0))
    name, content, key = BOMBS[kind](here)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    said, found = "", None
    try:
        found = select(open_content(io.BytesIO(content), name, "auto", LIMIT), name, key=key)
    except RunFailed as e:
        said = e.reason
    harmless = kind in ("json deep but allowed", "npz bomb with a small header")
    assert said.startswith(name) or harmless or not np.isfinite(found).all(), found
    assert len(said) < 600
    assert time.monotonic() - start < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB
    assert not (here / "unpickled").exists()


def test_a_reason_that_a_program_chose_can_be_written_everywhere():
    simulator = command("sh", "-c", "printf '{\"\\\\ud800\\033[2J\": 1}' > y.json; printf '\\033]0;x\\007' >&2",
                        outputs=[{"name": "y", "file": "y.json", "key": "x"}])  # fmt: skip
    with pytest.raises(RunFailed) as caught:
        simulator.run(THETA, seed=0)
    text = caught.value.reason + caught.value.log
    assert all(c.isprintable() or c in "\n\t" for c in text)
    json.dumps(text).encode()
    text.encode()
