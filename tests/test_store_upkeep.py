import json
import os
import shutil

import numpy as np
import pytest

from emulate.errors import InputError, RunFailed, StoreError
from emulate.keys import canonical, identity, key_of, record_of
from emulate.record import encode, sealed
from emulate.runs import Field, Outputs
from emulate.simulators.linear_gaussian import LinearGaussian
from emulate.store import RunStore
from emulate.units import describe, description, take_over
from emulate.upkeep import merge, prunable, verify

WHO = {"simulator": "s", "version": "1", "settings": {}, "parameters": ["a"], "stochastic": True}
DAY = 24 * 3600.0


def record(x, seed=1):
    return record_of(WHO, [x], seed)


def key(x):
    return key_of(record(x))


def filled(path, xs, y=None):
    store = RunStore(path)
    for x in xs:
        store.commit(record(x), y=np.array([x, 1.0] if y is None else y))
    return store


def content(path):
    return {p.relative_to(path): p.read_bytes() for p in sorted((path / "runs").rglob("*")) if p.is_file()}


@pytest.fixture
def ours(tmp_path):
    return filled(tmp_path / "ours", [0.0, 1.0])


@pytest.fixture
def theirs(tmp_path):
    return filled(tmp_path / "theirs", [1.0, 2.0])


# verify


def test_a_whole_store_has_no_finding_and_the_progress_is_told(ours):
    told = []
    assert verify(ours, lambda done, total: told.append((done, total))) == []
    assert told == [(1, 2), (2, 2)]


@pytest.mark.parametrize("name", ["record.json", "result.safetensors", "about.json"])
def test_a_flipped_byte_is_found_and_named(ours, name):
    file = ours.folder(key(1.0)) / name
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 0xFF
    file.write_bytes(raw)
    (found,) = verify(ours)
    assert (found.key, found.file) == (key(1.0), str(file))
    assert found.sentence.startswith(
        f"{file} must be as it was written. Got other bytes; restore it from a backup, or "
    )


def test_a_damaged_run_is_moved_aside_whole_and_made_again(ours):
    folder = ours.folder(key(1.0))
    (folder / "result.safetensors").write_bytes(b"")
    ours.quarantine(key(1.0))
    assert ours.keys() == [key(0.0)]
    (aside,) = (ours.path / "damaged").iterdir()
    assert {p.name for p in aside.iterdir()} == {"record.json", "result.safetensors", "about.json"}
    assert ours.commit(record(1.0), y=np.array([1.0, 1.0]))
    assert verify(ours) == []


def test_names_that_are_no_runs_are_told_and_left(ours):
    runs = ours.path / "runs"
    (runs / "notes.txt").write_text("")
    (runs / "ab" / "half a name").mkdir()
    (runs / "ab" / ("cd" * 32)).mkdir()  # on another's shelf
    (runs / "ab" / ("ab" * 32)).symlink_to(ours.folder(key(0.0)))
    assert sorted(os.path.basename(d.file) for d in verify(ours) if not d.key) == [
        "ab" * 32, "cd" * 32, "half a name", "notes.txt"]  # fmt: skip
    assert len(list((runs / "ab").iterdir())) == 3


@pytest.mark.parametrize("call", ["stat", "scandir"])
@pytest.mark.parametrize("number", [5, 13, 116])
def test_a_disk_that_does_not_answer_does_not_pass_for_one_without_runs(ours, monkeypatch, call, number):
    def dead(path, *args, **kwargs):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, dead)
    with pytest.raises(StoreError, match=r"must be readable\. Got \w+: .*; mend the disk or its permissions, then"):
        ours.has(key(0.0)) if call == "stat" else ours.keys()
    if call == "stat":
        with pytest.raises(StoreError, match="must be readable"):
            ours.failed(key(0.0))


@pytest.mark.parametrize(("number", "name"), [(13, "EACCES"), (24, "EMFILE"), (116, "ESTALE"), (5, "EIO")])
def test_a_file_that_cannot_be_read_now_is_not_moved_aside(ours, monkeypatch, number, name):
    """Only a disk that says it lost the bytes (EIO) has damaged a run."""
    real = os.open

    def dead(path, *args, **kwargs):
        if str(path).endswith("about.json"):
            raise OSError(number, os.strerror(number))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", dead)
    if name == "EIO":
        assert {d.key for d in verify(ours)} == {key(0.0), key(1.0)}
        return
    for act in (verify, lambda store: store.read(key(0.0)), lambda store: store.quarantine(key(0.0))):
        with pytest.raises(StoreError, match=r"about\.json must be readable\. Got \w+: .*; mend the disk or its perm"):
            act(ours)
    assert len(ours.keys()) == 2
    assert not (ours.path / "damaged").exists()


def test_a_store_that_cannot_be_written_is_read_and_a_commit_says_what_to_do(ours, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError(30, os.strerror(30))

    real = os.open
    for call in ("mkdir", "write", "rename", "replace", "unlink", "rmdir"):
        monkeypatch.setattr(os, call, refuse)
    monkeypatch.setattr(
        os, "open", lambda f, flags, *a, **k: refuse() if flags & os.O_CREAT else real(f, flags, *a, **k)
    )
    store = RunStore(ours.path)
    assert store.keys() == ours.keys()
    assert store.read(key(0.0)).y.tolist() == [0.0, 1.0]
    assert verify(store) == []
    assert store.sweep() == 0
    assert prunable(store)
    with pytest.raises(StoreError, match=r"must be a folder that can be written to\. Got OSError: Read-only file system; "
                                         r"mend its permissions, or use another folder\.$"):  # fmt: skip
        store.commit(record(9.0), y=np.ones(2))


# merge


def test_runs_are_copied_by_content_and_the_first_writer_stays(ours, theirs, tmp_path):
    before = content(ours.path)
    done = merge(ours, theirs)
    assert (done.copied, done.present, done.conflicts, done.refused) == (1, 1, [], [])
    assert content(ours.path) == content(theirs.path) | before
    again = merge(ours, theirs)
    assert (again.copied, again.present) == (0, 2)
    new = RunStore(tmp_path / "new")
    assert merge(new, ours).copied == 3
    assert content(new.path) == content(ours.path)


def test_conflicts_are_told_and_nothing_is_changed(ours, tmp_path):
    theirs = filled(tmp_path / "other", [0.0], y=[9.0, 9.0])
    theirs.commit(record(1.0), failure=RunFailed("oom", "big"))
    before = content(ours.path), content(theirs.path)
    done = merge(ours, theirs)
    assert (done.copied, done.present, done.refused) == (0, 0, [])
    assert sorted(done.conflicts) == sorted([
        f"run {key(0.0)} is kept as it is here (finished); in {theirs.folder(key(0.0))} it is another (finished).",
        f"run {key(1.0)} is kept as it is here (finished); in {theirs.folder(key(1.0))} it is another "
        "(failed: 'oom: big').",
    ])  # fmt: skip
    assert (content(ours.path), content(theirs.path)) == before


def test_a_store_is_not_merged_with_itself_or_with_another_schema(ours, tmp_path):
    (tmp_path / "same").symlink_to(ours.path)
    with pytest.raises(InputError, match=r"^a store must be merged with another one\. Got .* twice\.$"):
        merge(ours, RunStore(tmp_path / "same"))
    RunStore(tmp_path / "new")
    (tmp_path / "new" / "store.json").write_text('{"schema": 2}')
    with pytest.raises(StoreError, match=r"must be a run store of version 1\. Got version 2; open it with the release"):
        RunStore(tmp_path / "new", create=False)


def test_a_disk_that_fills_up_stops_the_merge_and_the_next_one_goes_on(ours, tmp_path, monkeypatch):
    theirs = filled(tmp_path / "many", [float(i) for i in range(2, 12)])
    real, calls = os.write, []

    def full(*args):
        calls.append(args)
        if len(calls) > 10:
            raise OSError(28, os.strerror(28))
        return real(*args)

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StoreError, match=r"^the disk that holds .* is full .* committed runs are kept\.$"):
        merge(ours, theirs)
    monkeypatch.undo()
    assert 2 < len(ours.keys()) < 12
    assert verify(ours) == []
    done = merge(ours, theirs)
    assert done.copied + done.present == 10
    assert len(ours.keys()) == 12


# a stranger's store: nothing is read outside it, nothing is written outside ours


def replaced(path, make):
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    make(path)


def secret(tmp_path):
    (tmp_path / "secret").mkdir(exist_ok=True)
    (tmp_path / "secret" / "record.json").write_text("the user's")
    return tmp_path / "secret"


ATTACKS = {
    "the run is a link": lambda t, run, home: replaced(run, lambda p: p.symlink_to(home)),
    "the run is a link to a whole run": lambda t, run, home: (
        os.rename(run, home / "run"),
        run.symlink_to(home / "run"),
    ),
    "the shelf is a link": lambda t, run, home: (os.rename(run.parent, home / "x"), run.parent.symlink_to(home / "x")),
    "the run is a relative link": lambda t, run, home: replaced(run, lambda p: p.symlink_to("../../../../secret")),
    "the run is a link to itself": lambda t, run, home: replaced(run, lambda p: p.symlink_to(p)),
    "the run is a file": lambda t, run, home: replaced(run, lambda p: p.write_text("x")),
    "the run is a pipe": lambda t, run, home: replaced(run, os.mkfifo),
    "the record is a link": lambda t, run, home: replaced(
        run / "record.json", lambda p: p.symlink_to(home / "record.json")
    ),
    "the result is a link to a device": lambda t, run, home: replaced(
        run / "result.safetensors", lambda p: p.symlink_to("/dev/zero")
    ),
    "the result is a pipe": lambda t, run, home: replaced(run / "result.safetensors", os.mkfifo),
    "the text is huge": lambda t, run, home: os.truncate(run / "about.json", 2**40),
    "the result is huge": lambda t, run, home: os.truncate(run / "result.safetensors", 2**40),
    "another file beside": lambda t, run, home: (run / "run.sh").write_text("rm -rf /"),
    "a hidden file beside": lambda t, run, home: (run / ".bashrc").write_text(""),
    "a folder beside": lambda t, run, home: (run / "x").mkdir(),
    "a link beside": lambda t, run, home: (run / "x").symlink_to(home),
    "a name of 255 characters beside": lambda t, run, home: (run / ("x" * 255)).write_text(""),
    "a name of control characters beside": lambda t, run, home: (run / "\x1b[2J\n").write_text(""),
    "a name that is no text beside": lambda t, run, home: open(os.fsencode(run) + b"/\xff\xfe", "w").close(),
    "another run's content": lambda t, run, home: (run / "record.json").write_bytes(record(77.0)),
    "a key in capitals": lambda t, run, home: os.rename(run, run.with_name(run.name.upper() + "")),
    "a key with dots": lambda t, run, home: os.rename(run, run.with_name("..." + run.name[3:])),
    "the wrong shelf": lambda t, run, home: (
        (t / "runs" / "zz").mkdir(),
        os.rename(run, t / "runs" / "zz" / run.name),
    ),
    "a long shelf": lambda t, run, home: os.rename(run.parent, t / "runs" / ("x" * 200)),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_strangers_store_cannot_reach_out(ours, tmp_path, attack):
    theirs, home = RunStore(tmp_path / "theirs"), secret(tmp_path)
    theirs.commit(record(5.0), y=np.array([1.0]))
    ATTACKS[attack](theirs.path, theirs.folder(key(5.0)), home)
    before = content(ours.path), sorted(p.name for p in tmp_path.iterdir())
    done = merge(ours, theirs)
    assert (done.copied, done.present, done.conflicts) == (0, 0, [])
    assert len(done.refused) == 1
    sentence = done.refused[0]
    assert " must " in sentence
    assert "Got " in sentence
    assert sentence.isprintable()
    assert "the user's" not in sentence
    assert (content(ours.path), sorted(p.name for p in tmp_path.iterdir())) == before


def test_runs_behind_a_link_are_refused_as_a_whole(ours, theirs, tmp_path):
    os.rename(theirs.path / "runs", tmp_path / "elsewhere")
    (theirs.path / "runs").symlink_to(tmp_path / "elsewhere")
    done = merge(ours, theirs)
    assert done.copied == 0
    assert done.refused == [f"{theirs.path / 'runs'} must be a folder of its own. Got a symbolic link; give the store that "
                            "it leads to."]  # fmt: skip


@pytest.mark.parametrize("label", ["link", "pipe", "folder", "huge", "nested", "number"])
def test_a_label_that_is_none_is_refused(tmp_path, label):
    store = RunStore(tmp_path / "store")
    file = store.path / "store.json"
    text = {"nested": "[" * 100_000, "number": "9" * 100_000}.get(label)
    file.unlink()
    if text:
        file.write_text(text)
    elif label == "huge":
        with open(file, "wb") as f:
            f.truncate(2**40)
    else:
        {"link": lambda: file.symlink_to("/dev/zero"), "pipe": lambda: os.mkfifo(file), "folder": file.mkdir}[label]()
    with pytest.raises(
        StoreError, match=r"store\.json must say the version of the store\. Got .*; put the file back, or"
    ):
        RunStore(store.path, create=False)


def test_a_limit_that_can_be_set(ours, tmp_path):
    theirs = RunStore(tmp_path / "theirs")
    theirs.commit(record(5.0), y=np.zeros(10_000))
    done = merge(ours, theirs, limit=10_000)
    assert "result.safetensors must be as it was written. Got 80072 bytes where 10000 are allowed;" in done.refused[0]
    assert merge(ours, theirs).copied == 1


def test_about_of_a_stranger_names_no_place(ours, tmp_path):
    """Fields of about.json are data: none of them is a path that anything opens."""
    theirs = RunStore(tmp_path / "theirs")
    files = encode(record(5.0), {"y": np.zeros(1)}, None, {"host": "../../etc", "log": "\x1b[2J", "theta": "x" * 300})
    folder = theirs.folder(key(5.0))
    folder.mkdir(parents=True)
    for name, raw in files.items():
        (folder / name).write_bytes(raw)
    assert merge(ours, theirs).copied == 1
    assert ours.read(key(5.0)).about["host"] == "../../etc"


# units


class Measured(LinearGaussian):
    @property
    def outputs(self):
        return Outputs((Field("p", "Mpc", True, "k", (0.1, 0.2, 0.5), "h/Mpc"), Field("n")))


def test_names_and_units_are_noted_once_and_travel_with_the_runs(ours, theirs):
    simulator = Measured(outputs_count=4)
    who = identity(simulator)
    assert description(theirs, who) is None
    describe(theirs, simulator)
    describe(theirs, simulator)
    merge(ours, theirs)
    for store in (ours, theirs):
        assert Outputs.from_dict(description(store, who)["outputs"]) == simulator.outputs
        assert [p["name"] for p in description(store, who)["parameters"]] == ["a", "b"]
        assert len(list((store.path / "outputs").iterdir())) == 1


@pytest.mark.parametrize("raw", [b"", b"{}", b"[]", b"[" * 100_000, b"null", b'{"sha256": ""}'])
def test_a_note_that_is_damaged_counts_as_missing_and_is_written_again(ours, theirs, raw):
    simulator = Measured(outputs_count=4)
    describe(theirs, simulator)
    (file,) = (theirs.path / "outputs").iterdir()
    file.write_bytes(raw)
    take_over(ours, theirs)
    assert description(ours, identity(simulator)) is description(theirs, identity(simulator)) is None
    describe(theirs, simulator)
    assert description(theirs, identity(simulator))["outputs"]


def test_a_note_under_another_name_is_not_taken(ours, theirs):
    describe(theirs, Measured(outputs_count=4))
    (file,) = (theirs.path / "outputs").iterdir()
    os.rename(file, file.with_name("0" * 64 + ".json"))
    take_over(ours, theirs)
    assert not (ours.path / "outputs").exists()


# prune


def test_what_may_be_removed(ours):
    ours.commit(record(3.0), failure=RunFailed("oom", "big"))
    ours.forget(key(3.0))
    with pytest.warns(RuntimeWarning, match="gave two different answers"):
        ours.commit(record(0.0), y=np.array([5.0, 5.0]))
    for name, old in (("new", 0.0), ("old", 2 * DAY)):
        made = ours.path / "tmp" / name
        made.mkdir()
        os.utime(made, (made.stat().st_mtime - old,) * 2)
    found = prunable(ours)
    assert {what: [p.name.partition(".")[0] for p in paths] for what, paths in found.items()} == {
        "failures that were run again": [key(3.0)],
        "second answers of runs": [key(0.0)],
        "half-written files": ["old"],
    }
    assert prunable(ours, [key(1.0)])["runs that the study does not ask for"] == [ours.folder(key(1.0))]
    assert ours.keys() == sorted([key(0.0), key(1.0)])
    ours.remove(key(1.0))
    ours.remove(key(1.0))
    assert ours.keys() == [key(0.0)]


def test_a_folder_that_is_a_link_is_not_pruned(ours, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter").write_text("dear")
    (ours.path / "forgotten").symlink_to(tmp_path / "home")
    assert not any(prunable(ours).values())


def test_text_is_written_as_json_writes_it():
    """The fast writer of about.json gives the bytes that releases before it wrote."""
    about = {"b": [1, 2.5, -0.0, 1e-7, [], {}], "a": {"y": None, "x": True, "é\u2028\ud800": '\x00"\\'}, "c": 10**20}
    body = json.loads(sealed(about, {"f": "0"}))
    assert body["about"] == about
    assert sealed(about, {"f": "0"}).decode() == json.dumps(body, indent=1, sort_keys=True) + "\n"
    assert body["sha256"] == key_of(canonical({"about": about, "files": {"f": "0"}}))
