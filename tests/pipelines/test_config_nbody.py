"""The N-body studies: the cluster's is the same one in finer steps, fidelities share their box and their points."""

from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from pipelines.cli import app
from pipelines.config import load_study
from pipelines.stages.design import points
from pipelines.terminal import Terminal
from pipelines.workbench import Workbench
from tests.pages import MANUAL, blocks

ROOT = Path(__file__).parents[2]
NBODY, CLUSTER = ROOT / "configs" / "nbody.yaml", ROOT / "configs" / "nbody_cluster.yaml"


def _block(language: str, word: str) -> str:
    """The one block of the gallery's page in a language that holds a word."""
    (found,) = [b.text for b in blocks(MANUAL / "gallery.md", language) if word in b.text]
    return found


def _points(path: Path, *overrides: str) -> dict[str, np.ndarray]:
    return points(Workbench(load_study(path, overrides), Terminal()))


def test_the_study_of_the_cluster_differs_where_it_says():
    small, large = (load_study(p).to_dict() for p in (NBODY, CLUSTER))
    assert {k for k in small if small[k] != large[k]} == {
        "name",
        "simulator",
        "simulate",
        "cluster",
        "checks",
        "output",
    }
    changed = {k for k, v in small["simulator"].items() if v != large["simulator"][k]}
    assert changed == {"particles"}


def test_the_study_of_the_cluster_plans_without_slurm(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = CliRunner().invoke(app, ["run", str(CLUSTER), "--dry-run"])
    assert said.exit_code == 0, said.output
    assert "296 runs to do" in said.output
    assert list(tmp_path.iterdir()) == []


def test_wavenumbers_of_the_study_end_at_half_the_nyquist_wavenumber():
    (pk,) = load_study(NBODY).simulator.outputs.fields
    fundamental, nyquist = 2 * np.pi / 256, np.pi * 64 / 256
    assert len(pk.at) == 16
    assert nyquist / 2 - fundamental < max(pk.at) <= nyquist / 2 + fundamental / 2


def test_companions_of_the_page_are_one_box_at_three_resolutions():
    names: dict = {}
    exec(_block("python", "companions"), names)
    fine, middle, coarse = (names["spectra"][n].numpy() for n in ("pk", "pk_32", "pk_16"))
    at = {f.name: np.array(f.at) for f in names["box"].outputs.fields}
    assert list(at) == ["pk", "pk_32", "pk_16"]
    low = at["pk"] < 0.1  # half the coarsest one's Nyquist wavenumber
    n = int(low.sum())
    assert n == 4
    np.testing.assert_allclose(at["pk_16"][:n], at["pk"][:n], rtol=1e-12)
    np.testing.assert_allclose(middle[:n] / fine[:n], 1, atol=0.02)
    np.testing.assert_allclose(coarse[:n] / fine[:n], 1, atol=0.1)


def test_companions_share_the_phases_of_the_box():
    """With Gaussian amplitudes each mode has a size of its own, which another box does not have."""
    from emulate.simulators.nbody import NBody

    theta = torch.tensor([0.3, 0.8, 0.96, 0.68], dtype=torch.float64)
    own = NBody(particles=32, companions=(16,), amplitudes="gaussian").run(theta, seed=0).log()
    other = NBody(particles=16, amplitudes="gaussian", phase_seed=1).run(theta, seed=0).log()
    assert float((own[8:10] - own[:2]).abs().max()) < 0.05
    assert float((other[:2] - own[:2]).abs().max()) > 0.2


def test_two_studies_with_one_seed_share_their_points():
    many, few = _points(CLUSTER), _points(NBODY, "design.runs=64", "design.held_out=20")
    for which, n in (("training", 64), ("held_out", 20)):
        assert np.array_equal(many[which][:n], few[which])
    assert not np.isin(_points(NBODY, "seed=2", "design.runs=64")["training"], few["training"]).any()


@pytest.mark.parametrize("simulator", ["{use: nbody, particles: 64, companions: [32, 16]}"])
def test_the_yaml_of_the_page_is_that_simulator(simulator):
    assert simulator in _block("yaml", "companions")
    study = load_study(NBODY, [f"simulator={simulator}"])
    assert [f.name for f in study.simulator.outputs.fields] == ["pk", "pk_32", "pk_16"]
