"""The emulator's folder under tampering, truncation, foreign files, future versions and crashes while writing."""

import hashlib
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

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
from emulate.contracts import Core, Recipe
from emulate.emulators.polynomial import Polynomial, _Fitted
from emulate.errors import InputError, StoreError
from tests import laws


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
