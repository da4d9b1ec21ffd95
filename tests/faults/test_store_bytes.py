"""What stands in a record's files after a power cut, a bad disk or a forger: never read as another run, never NaN."""

import contextlib
import hashlib
import json
import math
import os
import struct

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from emulate.errors import EmulateError, RunFailed, StoreError
from emulate.export import groups
from emulate.keys import canonical, key_of, record_of
from emulate.record import ABOUT, FILES, RECORD, RESULT, Damaged, decoded, encode, read_plain, sealed
from emulate.store import RunStore
from emulate.upkeep import merge, verify

WHO = {"simulator": "s", "version": "1", "settings": {"n": 3}, "parameters": ["a", "b"], "stochastic": True}
QUESTION = record_of(WHO, [0.5, 1.0], 7)
KEY = key_of(QUESTION)
Y = np.array([1.0, -2.5, 1e300])
GOOD = encode(QUESTION, {"y": Y}, None, {"seconds": 1.25, "host": "h\u00e9", "theta": [0.5, 1.0], "log": "a\nb"})
BAD = encode(QUESTION, {}, RunFailed("timeout", "late", "the log"), {"seconds": 2.0})


def lay(store, files, key=KEY):
    """A run's folder as a disk may hold it."""
    folder = store.folder(key)
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        (folder / name).unlink(missing_ok=True)
    for name, raw in files.items():
        (folder / name).write_bytes(raw)
    return folder


# power cuts: the names reached the disk, the bytes did not


@pytest.mark.parametrize("files", [GOOD, BAD], ids=["finished", "failed"])
@pytest.mark.parametrize("filler", ["cut", "zeros"])
def test_a_file_cut_at_any_byte_is_damaged(files, filler):
    cases = 0
    for name, raw in files.items():
        for n in range(len(raw)):
            left = raw[:n] + (b"\0" * (len(raw) - n) if filler == "zeros" else b"")
            if left == raw:
                continue
            with pytest.raises(Damaged, match=name):
                decoded({**files, name: left}, "folder", KEY)
            cases += 1
    assert cases >= 400


@pytest.mark.parametrize("files", [GOOD, BAD], ids=["finished", "failed"])
def test_a_folder_cut_at_any_byte_of_any_file_is_named_and_made_again(tmp_path, files):
    """Files reach the disk in the order they are written: what follows the cut is missing."""
    store = RunStore(tmp_path / "store")
    names = list(files)
    for i, name in enumerate(names):
        for n in range(0, len(files[name]), 7):
            folder = lay(store, {**{m: files[m] for m in names[:i]}, name: files[name][:n]})
            with pytest.raises(StoreError, match=rf"{KEY}/\S+ must be as it was written"):
                store.read(KEY)
    (found,) = verify(store)
    assert (found.key, os.path.dirname(found.file)) == (KEY, str(folder))
    store.quarantine(KEY)
    assert store.commit(QUESTION, y=Y)
    assert store.read(KEY).y.tobytes() == Y.tobytes()
    with pytest.raises(StoreError, match=r"^only damaged runs can be moved aside\. Run \w+ is whole; keep it\.$"):
        store.quarantine(KEY)


def test_an_empty_folder_is_damaged_and_filled_by_the_next_commit(tmp_path):
    store = RunStore(tmp_path / "store")
    store.folder(KEY).mkdir()
    with pytest.raises(StoreError, match=r"record\.json must be as it was written\. Got no such file; restore it"):
        store.read(KEY)
    assert store.commit(QUESTION, y=Y)
    assert store.read(KEY).ok


# random and forged bytes

BYTES = st.binary(max_size=300) | st.sampled_from([b"", b"null", b"{}", b"[]", b"[" * 50_000, b"9" * 5000, b"NaN"])


@settings(max_examples=500, deadline=None)
@given(files=st.fixed_dictionaries({}, optional=dict.fromkeys(FILES, BYTES)), base=st.sampled_from([GOOD, BAD]))
def test_random_bytes_in_any_file_are_damage(files, base):
    met = {**base, **files}
    if all(base.get(n) == raw for n, raw in met.items()):
        assert decoded(met, "f", KEY)
        return
    with pytest.raises(Damaged):
        decoded(met, "f", KEY)


@settings(max_examples=600, deadline=None)
@given(data=st.data())
def test_a_mutated_file_is_damage(data):
    base = data.draw(st.sampled_from([GOOD, BAD]))
    name = data.draw(st.sampled_from(sorted(base)))
    raw = bytearray(base[name])
    for _ in range(data.draw(st.integers(1, 3))):
        a, b = sorted(data.draw(st.integers(0, len(raw))) for _ in range(2))
        raw[a:b] = data.draw(st.binary(max_size=4) | st.just(bytes(raw[a:b])[::-1]) | st.just(bytes(raw[a:b]) * 2))
    if bytes(raw) != base[name]:
        with pytest.raises(Damaged):
            decoded({**base, name: bytes(raw)}, "f", KEY)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)
ASKED = json.loads(QUESTION)


def tensor(dtype, shape, raw, name="y"):
    header = json.dumps({name: {"dtype": dtype, "shape": shape, "data_offsets": [0, len(raw)]}}).encode()
    return struct.pack("<Q", len(header)) + header + raw


RESULTS = st.one_of(
    st.binary(max_size=60),
    st.builds(tensor, st.sampled_from(["F64", "F32", "I64", "BF16", "BOOL", "U8", "F8_E4M3", "X", ""]),
              st.lists(st.integers(-1, 4), max_size=3), st.binary(max_size=40),
              st.sampled_from(["y", "jacobian", "x", "__metadata__"])),
    st.lists(st.floats(), max_size=4).map(lambda v: tensor("F64", [len(v)], np.array(v, "<f8").tobytes())),
    st.just(tensor("F64", [2**62], b"")),
    st.just(struct.pack("<Q", 2**63) + b"{}"),
)  # fmt: skip


@settings(max_examples=600, deadline=None)
@given(changed=st.dictionaries(st.sampled_from([*ASKED, "more"]), JSON, max_size=2),
       dropped=st.sets(st.sampled_from(list(ASKED)), max_size=1),
       about=JSON | st.fixed_dictionaries({"kind": st.sampled_from(["", "error"]) | JSON, "reason": JSON, "log": JSON})
       | st.just({"kind": "", "reason": "", "log": ""}),
       result=st.none() | RESULTS)  # fmt: skip
@example(changed={"theta": {"a": "inf", "b": "0x1p0"}}, dropped=set(), about={"kind": "", "reason": "", "log": ""},
         result=tensor("F64", [1], np.array([1.0]).tobytes()))  # fmt: skip
@example(changed={"parameters": ["../x"], "theta": {"../x": "0x1p0"}}, dropped=set(),
         about={"kind": "", "reason": "", "log": ""}, result=tensor("F64", [1], np.array([1.0]).tobytes()))  # fmt: skip
def test_a_forger_who_mends_every_checksum_makes_a_whole_run_or_damage(
    tmp_path_factory, changed, dropped, about, result
):
    """The checksums hold no secret: what stands behind them must be judged too."""
    asked = {k: v for k, v in {**ASKED, **changed}.items() if k not in dropped}
    raw = json.dumps(asked, sort_keys=True, separators=(",", ":")).encode()
    key = key_of(raw)
    files = {RECORD: raw} | ({} if result is None else {RESULT: result})
    digests = {n: hashlib.sha256(b).hexdigest() for n, b in files.items()}
    try:
        files[ABOUT] = sealed(about, digests)
    except (ValueError, TypeError):  # NaN, which has no checksum
        files[ABOUT] = json.dumps({"about": about, "files": digests, "sha256": ""}).encode()
    try:
        met = decoded(files, "f", key)
    except StoreError:
        return
    assert met.key == key_of(canonical(met.inputs))
    assert all(map(math.isfinite, met.theta))
    assert met.ok == (met.y is not None)
    assert not met.ok or np.isfinite(met.y).all()
    store = RunStore(tmp_path_factory.getbasetemp() / "forged" / key[:16])
    lay(store, files, key)
    try:
        (group,) = groups(store)
        frame, dataset = group.to_pandas(), group.to_xarray()
    except EmulateError:
        return
    assert len(frame) == dataset.sizes["run"] == 1


def test_a_forged_store_is_merged_as_far_as_its_runs_are_whole(tmp_path):
    theirs, ours = RunStore(tmp_path / "theirs"), RunStore(tmp_path / "ours")
    lay(theirs, GOOD)
    nan = {**GOOD, RESULT: tensor("F64", [1], np.array([np.nan]).tobytes())}
    other = record_of(WHO, [0.25, 1.0], 7)
    digests = {RECORD: key_of(other), RESULT: hashlib.sha256(nan[RESULT]).hexdigest()}
    about = {"kind": "", "reason": "", "log": ""}
    lay(theirs, {RECORD: other, RESULT: nan[RESULT], ABOUT: sealed(about, digests)}, key_of(other))
    done = merge(ours, theirs)
    assert (done.copied, len(done.refused)) == (1, 1)
    assert "Got NaN or infinity" in done.refused[0]
    assert ours.keys() == [KEY]


# files that are none


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", ["link", "loop", "pipe", "folder", "socket", "device"])
def test_what_is_no_plain_file_is_refused_unread(tmp_path, name, kind):
    store = RunStore(tmp_path / "store")
    file = lay(store, GOOD) / name
    (tmp_path / "elsewhere").write_bytes(file.read_bytes())
    file.unlink()
    if kind == "link":
        file.symlink_to(tmp_path / "elsewhere")
    elif kind == "loop":
        file.symlink_to(file)
    elif kind == "pipe":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    elif kind == "socket":
        import socket

        with (
            socket.socket(socket.AF_UNIX) as s,
            contextlib.chdir(file.parent),
        ):  # the path of a socket may have 107 bytes
            s.bind(name)
    else:
        try:
            os.mknod(file, 0o20600, os.makedev(1, 5))  # /dev/zero, which has no end
        except OSError:
            file.symlink_to("/dev/zero")
    with pytest.raises(
        StoreError, match=rf"{name} must be as it was written\. Got (a symbolic link|something that|Is a|No)"
    ):
        store.read(KEY)
    assert [d.key for d in verify(store)] == [KEY]
    done = merge(RunStore(tmp_path / "ours"), store)
    assert (done.copied, len(done.refused)) == (0, 1)


def test_a_file_over_the_limit_is_refused_unread(tmp_path):
    file = tmp_path / "huge"
    with open(file, "wb") as f:
        f.truncate(2**40)  # a hole: nothing is stored
    with pytest.raises(
        Damaged, match=r"huge must be as it was written\. Got 1099511627776 bytes where 1024 are allowed;"
    ):
        read_plain(file, 1024)
