"""What earlier versions saved still loads and still says the same; `tests/reference/emulators/write.py` made the files."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import emulate
from emulate import artefact, registry

HERE = Path(__file__).parent / "reference" / "emulators"
SAVED = sorted(p.parent for p in HERE.glob("*/*/emulator.json"))


@pytest.mark.parametrize("folder", SAVED, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_a_saved_emulator_says_what_it_said(folder):
    """Mean to 1e-11 of each output's size, Jacobian to 1e-10, variance to 1e-7: what processors and BLAS libraries differ by."""
    said = {k: np.array(v) for k, v in json.loads(folder.with_suffix(".json").read_text()).items()}
    emulator = emulate.load(folder)
    p, jacobian = emulator.predict(said["theta"]), emulator.jacobian(said["theta"])
    size = np.abs(said["mean"]).max(0)
    assert (np.abs(p.mean.numpy() - said["mean"]) <= 1e-11 * size).all()
    np.testing.assert_allclose(p.variance.numpy(), said["variance"], rtol=1e-7)
    slope = np.abs(said["jacobian"]).max(0)
    assert (np.abs(jacobian.numpy() - said["jacobian"]) <= 1e-10 * slope).all()


@pytest.mark.parametrize("folder", SAVED, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_what_is_saved_again_is_the_same_emulator(folder, tmp_path):
    emulator = emulate.load(folder)
    again = emulate.load(emulator.save(tmp_path / "x"))
    theta = json.loads(folder.with_suffix(".json").read_text())["theta"]
    assert torch.equal(again.predict(theta).mean, emulator.predict(theta).mean)
    assert (again.provenance, again.design is None) == (emulator.provenance, emulator.design is None)


def test_the_golden_files_are_small_and_of_every_kind():
    missing = set(registry.names("emulators")) - {p.name for p in SAVED}
    assert not missing, f"python tests/reference/emulators/write.py VERSION {' '.join(sorted(missing))}"
    assert {json.loads((p / artefact.DOCUMENT).read_text())["version"] for p in SAVED} == {1}
    assert sum(f.stat().st_size for f in HERE.rglob("*") if f.is_file()) < 400_000
    assert emulate.load(HERE / "v1" / "gp").design is None, "saved before the places of the runs were kept"
