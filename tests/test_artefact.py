"""The emulator's folder under tampering, truncation, foreign files, future versions and crashes while writing."""

import hashlib
import json
import math
import os
import pickle
import re
import shutil
import sys
import threading
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

import emulate
from emulate import artefact, loading
from emulate.contracts import Core, Finding, Recipe
from emulate.emulators.polynomial import Polynomial, _Fitted
from emulate.errors import InputError, StoreError
from emulate.runs import Field, Outputs, Runs
from emulate.space import Parameter, Space, Uniform
from tests import laws

FOUND = (
    Finding("accuracy.worst", 0.02, None, 0.01, "The worst error is 2 %.", "accuracy"),
    Finding("coverage", math.nan, 0.9, 0.99, "Cannot say.", blocking=False),
)


@pytest.fixture(scope="module")
def emulator():
    return emulate.fit(Polynomial(), laws.runs(), seed=0)


@pytest.fixture
def folder(emulator, tmp_path):
    return emulator.save(tmp_path / "stand-in")


def rewrite(folder: Path, change, *, body: bool = True) -> None:
    """Change the document and, with `body`, make its checksum right again."""
    file = folder / artefact.DOCUMENT
    document = json.loads(file.read_text())
    change(document["body"] if body else document)
    if body:
        document["sha256"] = artefact._digest(document["body"])
    file.write_text(json.dumps(document))


def refused(folder, kind=StoreError) -> str:
    with pytest.raises(kind) as caught:
        emulate.load(folder)
    return str(caught.value)


def test_the_folder_holds_two_files_of_data(folder):
    assert sorted(f.name for f in folder.iterdir()) == ["emulator.json", "weights.safetensors"]
    body = json.loads((folder / "emulator.json").read_text())["body"]
    assert body["recipe"]["use"] == "polynomial"
    assert [p["name"] for p in body["space"]] == ["a", "b", "c"]
    weights = (folder / "weights.safetensors").read_bytes()
    assert body["weights"]["sha256"] == hashlib.sha256(weights).hexdigest()
    assert load_tensors(weights).keys() >= {"core.coefficients", "transform.basis"}


def test_two_saves_are_the_same_bytes(emulator, folder, tmp_path):
    again = emulator.save(tmp_path / "again")
    for name in ("emulator.json", "weights.safetensors"):
        assert (again / name).read_bytes() == (folder / name).read_bytes()


def test_a_missing_path_is_the_users_mistake(tmp_path):
    path = tmp_path / "nowhere"
    assert refused(path, InputError) == f"there is no emulator at {path}: the folder does not exist. Check the path."


def test_a_foreign_folder(tmp_path):
    (tmp_path / "model.pkl").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    assert (
        refused(tmp_path) == f"{tmp_path} is no emulator: it holds no emulator.json. Give the folder that `save` wrote."
    )


def test_a_folder_of_emulators_names_them(tmp_path):
    there = [tmp_path / "pk" / "emulators" / name for name in ("gp", "mlp")]
    for folder in there:
        folder.mkdir(parents=True)
        (folder / "emulator.json").write_text("{}")
    for place in (tmp_path / "pk", tmp_path / "pk" / "emulators"):
        said = f"{place} is no emulator: it holds no emulator.json. Give the folder that `save` wrote. There are "
        assert refused(place) == f"{said}{there[0]}, {there[1]}."


@pytest.mark.parametrize(("name", "instead"), [
    ("emulator.json", "Give the folder of that file, {}."),
    ("gp.onnx", "It looks like an exported graph, which torch.export.load or onnxruntime reads; give the folder that it was "
     "made of."),
    ("gp.tar.gz", "Unpack it, and give the folder that holds emulator.json."),
    ("gp.pkl", "Give the folder that `save` wrote; other programs' files are never opened."),
])  # fmt: skip
def test_a_file_says_what_to_give_instead(tmp_path, name, instead):
    (tmp_path / name).write_text("{}")
    said = f"{tmp_path / name} is a file, and an emulator is a folder. {instead.format(tmp_path)}"
    assert refused(tmp_path / name) == said


def test_a_foreign_document(folder):
    file = folder / "emulator.json"
    rewrite(folder, lambda d: d.update(format="keras"), body=False)
    assert (
        refused(folder)
        == f"{file} must have the format 'emulate.emulator'. Got 'keras'; this is another program's file."
    )
    file.write_text("[1, 2]")
    assert (
        refused(folder)
        == f"{file} must have the format 'emulate.emulator'. Got 'list'; this is another program's file."
    )
    file.write_text('{"format": "emul')
    assert refused(folder).startswith(f"{file} cannot be read as JSON: Unterminated string")
    file.write_text("[" * 100_000)
    assert refused(folder).startswith(f"{file} cannot be read as JSON: ")


def test_a_future_version(folder):
    rewrite(folder, lambda d: d.update(version=2), body=False)
    assert refused(folder) == (f"{folder / 'emulator.json'} has format version 2; this emulate reads version 1. "
                               "Load it with the emulate that wrote it, or train it again.")  # fmt: skip


def test_a_changed_document(folder):
    file = folder / "emulator.json"
    text = file.read_text()
    assert '"low": -1.0' in text
    file.write_text(text.replace('"low": -1.0', '"low": -2.0'))
    assert refused(folder) == f"{file} is damaged: its sha256 is not that of its content; copy or train it again."


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty"])
def test_damaged_weights(folder, damage):
    file = folder / "weights.safetensors"
    weights = bytearray(file.read_bytes())
    if damage == "flip":
        weights[-3] ^= 1
    file.write_bytes(weights if damage == "flip" else weights[:-8] if damage == "truncate" else b"")
    assert refused(folder) == f"{file} is damaged: its sha256 is not the one in emulator.json; copy or train it again."


def test_missing_weights(folder):
    (folder / "weights.safetensors").unlink()
    assert (
        refused(folder)
        == f"{folder / 'weights.safetensors'} cannot be read: No such file or directory; copy or train it again."
    )


def replace_weights(folder: Path, weights: bytes) -> None:
    (folder / "weights.safetensors").write_bytes(weights)
    rewrite(folder, lambda b: b["weights"].update(sha256=hashlib.sha256(weights).hexdigest()))


def test_weights_that_are_no_safetensors(folder):
    replace_weights(folder, b"not tensors")
    assert refused(folder).startswith(f"{folder / 'weights.safetensors'} cannot be read as safetensors: ")


def test_weights_that_are_not_finite(folder):
    tensors = load_tensors((folder / "weights.safetensors").read_bytes())
    tensors["core.variance"][0] = float("nan")
    replace_weights(folder, save_tensors(tensors))
    file = folder / "weights.safetensors"
    assert refused(folder) == f"{file} holds NaN or infinity in 'core.variance'; copy or train it again."


@pytest.mark.parametrize("part", ["core.coefficients", "transform.basis"])
def test_weights_of_another_recipe(folder, part):
    tensors = load_tensors((folder / "weights.safetensors").read_bytes())
    del tensors[part]
    replace_weights(folder, save_tensors(tensors))
    said = refused(folder)
    assert part.split(".")[1] in said
    assert said.endswith("Train it again.")


@pytest.mark.parametrize("part", ["recipe", "space", "outputs", "history", "provenance", "weights"])
def test_a_document_without_a_part(folder, part):
    rewrite(folder, lambda b: b.pop(part))
    said = refused(folder)
    assert part in said
    assert said.endswith("rain it again.")


def test_settings_that_the_recipe_does_not_know(folder):
    rewrite(folder, lambda b: b["recipe"]["settings"].update(degree=99))
    assert refused(folder, InputError) == (f"{folder}: recipe.degree: must be at most 6. Got 99.")


@dataclass(frozen=True, kw_only=True)
class Mine(Recipe):
    """A recipe of another package."""

    def minimum_runs(self, d: int) -> int:
        return 20

    def train(self, u: Tensor, z: Tensor, *, noisy: bool, seed: int) -> Core:
        return Polynomial().train(u, z, noisy=noisy, seed=seed)

    def rebuild(self, state: dict[str, Tensor]) -> Core:
        return _Fitted(state)


def test_a_recipe_from_outside_is_passed_never_imported(tmp_path):
    emulator = emulate.fit(Mine(), laws.runs(), seed=0)
    folder = emulator.save(tmp_path / "mine")
    name = Mine.entry_name()
    assert refused(folder, InputError) == (
        f"this emulator was trained by {name!r}, which is not part of emulate, and a file must not choose "
        "what is imported. Import that class and pass it: load(path, recipe=...).")  # fmt: skip
    theta = laws.points(3, seed=0)
    assert torch.equal(emulate.load(folder, recipe=Mine).predict(theta).mean, emulator.predict(theta).mean)
    with pytest.raises(InputError) as caught:
        emulate.load(folder, recipe=Polynomial)
    assert str(caught.value) == f"this emulator was trained by {name!r}. Got recipe = 'polynomial'; pass the right one."


@pytest.mark.parametrize("use", ["antigravity:Thing", "../gp", "os", 3, None])
def test_a_file_cannot_choose_what_is_imported(folder, use):
    sys.modules.pop("antigravity", None)
    rewrite(folder, lambda b: b["recipe"].update(use=use))
    refused(folder, InputError)
    assert "antigravity" not in sys.modules


def test_an_emulator_is_replaced_and_anything_else_is_kept(emulator, folder, tmp_path):
    other = emulate.fit(Polynomial(degree=1), laws.runs(), seed=0)
    assert emulate.load(other.save(folder)).recipe == Polynomial(degree=1)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("1")
    (tmp_path / "file").write_text("1")
    for path in (tmp_path / "thesis", tmp_path / "file"):
        with pytest.raises(StoreError) as caught:
            emulator.save(path)
        assert (
            str(caught.value)
            == f"{path} must be free or hold an emulator. Got something else there; choose another folder."
        )
    assert (tmp_path / "thesis" / "chapter.tex").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "stand-in", "thesis"], "nothing half-written stays"


@pytest.mark.parametrize("call", ["mkdir", "fsync", "rename"])
def test_a_write_that_fails_leaves_what_was_there(emulator, folder, call, monkeypatch):
    before = {f.name: f.read_bytes() for f in folder.iterdir()}

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as m:
        m.setattr(*((Path, call) if call == "mkdir" else (os, call)), full)
        with pytest.raises(StoreError) as caught:
            emulator.save(folder)
    assert str(caught.value) == (f"the emulator could not be written to {folder}: [Errno 28] No space left on device. "
                                 "Free space, or choose another folder.")  # fmt: skip
    assert {f.name: f.read_bytes() for f in folder.iterdir()} == before
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


def test_a_folder_that_is_replaced_while_it_is_read_is_read_again(folder, monkeypatch):
    content, other, calls = artefact._content, emulate.fit(Polynomial(degree=1), laws.runs(), seed=0), []

    def replaced(at, name):
        calls.append(name)
        if len(calls) == 2:  # the document is read, its weights are not
            other.save(folder)
        return content(at, name)

    monkeypatch.setattr(artefact, "_content", replaced)
    assert emulate.load(folder).recipe == other.recipe
    assert calls == ["emulator.json", "weights.safetensors", "findings.json"] * 2


def test_readers_find_an_emulator_while_another_process_replaces_it_again_and_again(emulator, folder, tmp_path):
    """Each with the weights and the findings that belong to it; one writer, three readers."""
    line = emulate.fit(Polynomial(degree=1), laws.runs(), seed=0)
    for one, passed in ((emulator, True), (line, False)):
        one.findings, one.scores = FOUND, {"mine": float(passed)}
    over, faults, seen = threading.Event(), [], []

    def read():
        while not over.is_set():
            try:
                found = emulate.load(folder)
                assert found.scores["mine"] == float(found.recipe == emulator.recipe)
                seen.append(found.recipe)
            except Exception as e:
                faults.append(e)

    emulator.save(folder)
    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    try:
        for i in range(30):
            (line, emulator)[i % 2].save(folder)
    finally:
        over.set()
        for reader in readers:
            reader.join()
        emulator.findings, emulator.scores = (), {}
    assert faults == []
    assert len(set(map(repr, seen))) == 2


def test_a_writer_that_was_killed_between_two_renames_keeps_nobody_waiting_for_long(folder, monkeypatch):
    folder.rename(folder.with_name(f".{folder.name}.0123"))
    monkeypatch.setattr(artefact, "_PATIENCE", 0.05)
    assert refused(folder, InputError).startswith(f"there is no emulator at {folder}: the folder does not exist.")


@pytest.mark.parametrize("there", [True, False])
def test_of_two_processes_that_save_to_one_folder_the_last_stays(emulator, folder, there, monkeypatch):
    rename, calls, copy = os.rename, [], folder.parent / "copy"
    emulate.fit(Polynomial(degree=1), laws.runs(), seed=0).save(copy)
    if not there:
        shutil.rmtree(folder)

    def crowded(a, b):
        if Path(b) == folder and not calls:
            calls.append(shutil.copytree(copy, folder))  # the other is quicker
        rename(a, b)

    monkeypatch.setattr(os, "rename", crowded)
    emulator.save(folder)
    monkeypatch.undo()
    assert calls
    assert emulate.load(folder).recipe == emulator.recipe
    assert sorted(p.name for p in folder.parent.iterdir()) == ["copy", folder.name]


def test_a_rename_that_fails_gives_the_old_one_back(emulator, folder, monkeypatch):
    rename, calls = os.rename, []

    def second_fails(a, b):
        calls.append(a)
        if len(calls) == 2:
            raise OSError(5, "Input/output error")
        rename(a, b)

    monkeypatch.setattr(os, "rename", second_fails)
    with pytest.raises(StoreError):
        emulator.save(folder)
    monkeypatch.undo()
    assert emulate.load(folder).recipe == emulator.recipe
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


def test_a_scheme_that_nothing_answers_is_named(tmp_path):
    with pytest.raises(InputError) as caught:
        emulate.load("ftp://somewhere/model")
    assert str(caught.value) == ("nothing installed can load ftp://somewhere/model: schemes must be one of models, runs. "
                                 "Got 'ftp'; give a folder, or install the package that fetches it.")  # fmt: skip
    assert refused("C:\\models\\p", InputError).startswith("there is no emulator at C:")


def test_a_scheme_is_answered_by_its_package(folder, monkeypatch):
    asked = []

    class Entry:
        name = "lab"

        def load(self):
            return lambda uri: asked.append(uri) or str(folder)

    monkeypatch.setattr(loading, "entry_points", lambda group: [Entry()] if group == "emulate.loaders" else [])
    assert emulate.load("lab:power/3").recipe == Polynomial()
    assert asked == ["lab:power/3"]


def test_a_folder_whose_name_looks_like_a_scheme(emulator, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    emulator.save("run:3")
    assert emulate.load("run:3").recipe == emulator.recipe


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3), max_leaves=8,
)  # fmt: skip
tensors = st.dictionaries(
    st.text("abc.", min_size=1, max_size=5),
    arrays.arrays(np.float64, arrays.array_shapes(min_dims=0, max_dims=3, max_side=4, min_side=0),
                  elements=st.floats(allow_nan=False, allow_infinity=False)),
    max_size=3,
)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(json_values, tensors)
def test_whatever_is_written_is_read(tmp_path_factory, value, held):
    path = tmp_path_factory.mktemp("artefact") / "x"
    artefact.write(path, {"value": value}, {k: torch.from_numpy(v) for k, v in held.items()})
    body, again = artefact.read(path)
    assert body["value"] == value
    assert again.keys() == held.keys()
    for name, t in again.items():
        assert t.numpy().tobytes() == held[name].tobytes()


def test_numbers_that_json_does_not_know_are_refused(tmp_path):
    with pytest.raises(ValueError, match="Out of range float values are not JSON compliant"):
        artefact.write(tmp_path / "x", {"value": float("nan")}, {})
    assert list(tmp_path.iterdir()) == []


# -- every byte, every stranger ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """An emulator of 4 kB with findings, its files, and what it answers."""
    space = Space((Parameter("x", Uniform(0.0, 1.0)),))
    x = np.linspace(0.0, 1.0, 9)[:, None]
    made = emulate.fit(
        Polynomial(degree=1), Runs.of(space, Outputs((Field("y"),)), x, 3 * x + 0.01 * np.cos(9 * x)), seed=0
    )
    made.findings, made.scores = FOUND, {"median": 1e-3, "log_score": -math.inf}
    path = made.save(tmp_path_factory.mktemp("small") / "x")
    return path, {f.name: f.read_bytes() for f in path.iterdir()}, answers(made)


def answers(e) -> tuple:
    theta = torch.linspace(0, 1, 5, dtype=torch.float64)[:, None]
    p = e.predict(theta)
    said = [(f.name, repr(f.value), f.low, f.high, f.sentence, f.figure, f.blocking) for f in e.findings]
    return (p.mean.tolist(), p.variance.tolist(), e.remoteness(theta).tolist(), said, {k: repr(v) for k, v in e.scores.items()},
            e.space, e.outputs, e.recipe, e.provenance, e.history)  # fmt: skip


def survives(path: Path, truth: tuple) -> None:
    """Either the same answers, or a sentence of ours; never a traceback of another kind, never another answer."""
    try:
        found = answers(emulate.load(path))
    except (StoreError, InputError) as e:
        found, said = truth, str(e)
    else:
        said = "Nothing."
    assert found == truth
    assert re.fullmatch(r"(?s).+[.?\"]", said), f"no sentence: {said}"


def test_a_flip_of_any_byte_is_a_sentence_or_nothing(small, tmp_path):
    """One bit of every byte of every file, another bit for every byte; whatever loads answers as before."""
    path, files, truth = small
    here = tmp_path / "x"
    shutil.copytree(path, here)
    rng = np.random.default_rng(0)
    for name, content in files.items():
        for i, bit in enumerate(rng.integers(0, 8, len(content))):
            flipped = bytearray(content)
            flipped[i] ^= 1 << int(bit)
            (here / name).write_bytes(flipped)
            survives(here, truth)
        (here / name).write_bytes(content)
    assert answers(emulate.load(here)) == truth


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_damage_is_a_sentence_or_nothing(small, tmp_path_factory, data):
    """Bytes replaced, inserted, cut out; files swapped for each other."""
    path, files, truth = small
    here = tmp_path_factory.mktemp("damage") / "x"
    shutil.copytree(path, here)
    name = data.draw(st.sampled_from(sorted(files)))
    content = files[name]
    at = data.draw(st.integers(0, len(content)))
    cut = data.draw(st.sampled_from([0, 1, 8, len(content)]))
    put = data.draw(
        st.one_of(st.binary(max_size=12), st.sampled_from([b"9", b"1e999", b"NaN", b"null", b"{", *files.values()]))
    )
    (here / name).write_bytes(content[:at] + put + content[at + cut :])
    survives(here, truth)


def test_a_number_that_became_infinite_is_damage(small, tmp_path):
    path, files, _ = small
    shutil.copytree(path, here := tmp_path / "x")
    text = files["emulator.json"].replace(b"1e-10", b"1e910")
    assert text != files["emulator.json"]
    (here / "emulator.json").write_bytes(text)
    assert (
        refused(here)
        == f"{here / 'emulator.json'} is damaged: its sha256 is not that of its content; copy or train it again."
    )


class Bomb:
    """What a pickle can do to who opens it."""

    opened: ClassVar[list] = []

    def __reduce__(self):
        return Bomb.opened.append, (1,)


@pytest.mark.parametrize("kind", ["pickle", "zip", "torch", "npz", "json", "empty", "noise", "folder"])
@pytest.mark.parametrize("where", ["file", "emulator.json", "weights.safetensors", "findings.json"])
def test_strangers_are_told_apart_and_never_opened(small, tmp_path, kind, where):
    path, _, _ = small
    target = tmp_path / "x"
    if where != "file":
        shutil.copytree(path, target)
        target = target / where
        target.unlink()
    if kind == "pickle":
        target.write_bytes(pickle.dumps(Bomb()))
    elif kind == "zip":
        with zipfile.ZipFile(target, "w") as z:
            z.writestr("emulator.json", "{}")
    elif kind == "torch":
        torch.save({"a": torch.ones(3)}, target)
    elif kind == "npz":
        with target.open("wb") as f:
            np.savez(f, a=np.ones(3))
    elif kind == "folder":
        target.mkdir()
    else:
        target.write_bytes({"json": b'{"model": {"layers": [1, 2]}}', "empty": b"", "noise": bytes(range(256))}[kind])
    said = refused(tmp_path / "x")
    assert str(tmp_path / "x") in said
    assert said.endswith(".")
    assert Bomb.opened == []


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_weights_of_any_shape_with_right_checksums_are_a_sentence_or_a_prediction(small, tmp_path_factory, data):
    """A writer who keeps the checksums right may lie about the shapes: that shows when it is loaded, not in an analysis."""
    path, files, _ = small
    here = tmp_path_factory.mktemp("shapes") / "x"
    shutil.copytree(path, here)
    held = load_tensors(files["weights.safetensors"])
    name = data.draw(st.sampled_from(sorted(held)))
    shape = data.draw(arrays.array_shapes(min_dims=0, max_dims=3, max_side=4, min_side=0))
    kind = data.draw(st.sampled_from([torch.float64, torch.float32, torch.int64, torch.bool]))
    held[name] = torch.ones(shape, dtype=kind)
    replace_weights(here, save_tensors(held))
    (here / "findings.json").unlink()
    try:
        made = emulate.load(here)
    except (StoreError, InputError):
        return
    p = made.predict(torch.full((3, 1), 0.5, dtype=torch.float64))
    assert p.mean.shape == p.variance.shape == (3, 1)


def test_a_finer_number_format_is_refused(folder):
    held = load_tensors((folder / "weights.safetensors").read_bytes())
    held["core.coefficients"] = held["core.coefficients"].float()
    replace_weights(folder, save_tensors(held))
    assert refused(folder) == (f"{folder / 'weights.safetensors'} must hold float64. Got torch.float32 in "
                               "'core.coefficients'; copy or train it again.")  # fmt: skip


# -- what checks found ---------------------------------------------------------------------------------------------------


def test_findings_come_into_the_folder_and_its_other_files_stay(emulator, folder):
    assert (emulate.load(folder).findings, dict(emulate.load(folder).scores)) == ((), {})
    before = {f.name: f.read_bytes() for f in folder.iterdir()}
    loading.keep(folder, FOUND, {"median": 0.01, "log_score": -math.inf})
    again = emulate.load(folder)
    assert repr(again.findings) == repr(FOUND)
    assert (again.findings[0].passed, again.scores) == (False, {"median": 0.01, "log_score": -math.inf})
    assert {n: (folder / n).read_bytes() for n in before} == before
    loading.keep(folder, FOUND[:1], {})
    assert emulate.load(folder).findings == FOUND[:1]
    assert sorted(f.name for f in folder.iterdir()) == ["emulator.json", "findings.json", "weights.safetensors"]


def test_findings_travel_with_a_copy_and_go_with_another_fit(emulator, folder, tmp_path):
    loading.keep(folder, FOUND[:1], {"median": 0.01})
    copy = emulate.load(folder).save(tmp_path / "copy")
    assert (copy / "findings.json").read_bytes() == (folder / "findings.json").read_bytes()
    emulate.fit(Polynomial(degree=1), laws.runs(), seed=0).save(folder)
    assert emulate.load(folder).findings == ()


def test_findings_of_another_emulator_are_refused(folder, tmp_path):
    other = emulate.fit(Polynomial(degree=1), laws.runs(), seed=0).save(tmp_path / "other")
    loading.keep(other, FOUND, {})
    shutil.copy(other / "findings.json", folder)
    assert refused(folder) == (f"{folder / 'findings.json'} speaks of another emulator than the one beside it. Run `emulate "
                               "validate --force`, or delete the file.")  # fmt: skip


def test_findings_cannot_be_added_to_what_is_no_emulator(tmp_path):
    with pytest.raises(StoreError):
        loading.keep(tmp_path, FOUND, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("settings", [None, "x", 3, ["a"]])
def test_settings_without_names_are_refused(folder, settings):
    rewrite(folder, lambda b: b["recipe"].update(settings=settings))
    assert refused(folder) == (f"{folder} is no whole emulator: the settings of its recipe must be named. Got {settings!r}. "
                               "Train it again.")  # fmt: skip


@pytest.mark.parametrize("path", [None, 3, ["runs"]])
def test_what_is_no_path_is_refused(path):
    assert refused(path, InputError) == (f"load must be given a folder or a URI. Got {path!r}; give the path that `save` "
                                         "returned.")  # fmt: skip


def test_a_path_that_no_disk_knows_is_not_found():
    assert refused("a\0b", InputError).startswith("there is no emulator at a\0b: the folder does not exist.")


def test_weights_of_which_no_number_comes_are_refused(folder):
    tensors = load_tensors((folder / "weights.safetensors").read_bytes())
    tensors["core.variance"] = -1e6 * tensors["core.variance"]
    replace_weights(folder, save_tensors(tensors))
    assert refused(folder) == (f"the weights in {folder} do not fit the recipe 'polynomial': a prediction in the middle of the box "
                               "has a mean that is no number, or a variance that is none or below 0. Train it again.")  # fmt: skip
