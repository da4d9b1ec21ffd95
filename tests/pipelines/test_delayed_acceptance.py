"""Chains in the true posterior on request: what they cost is said, their runs are stored, their answer is the closed form."""

import re
import shutil

import numpy as np
import pytest
import torch

from emulate.errors import InputError
from pipelines import files, report
from pipelines.config import load_study
from tests.commands import printed as emulate
from tests.pipelines.test_stages import STUDY

SMALL = STUDY.replace("held_out: 20", "held_out: 5").replace("recovery: 20", "recovery: 2, delayed_acceptance: 12")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("delayed")
    (folder / "study.yaml").write_text(SMALL + "checks: {posterior: }\n")
    return folder, emulate(folder, "run", "study.yaml", "--set", "validate.gradient_points=1")[1]


def test_the_cost_is_said_before_and_the_runs_after(study):
    folder, output = study
    lines = " ".join(output.split())
    assert "delayed acceptance: 12 steps of 16 chains, up to 192 true runs, about " in lines
    told = re.search(r"delayed acceptance: (\d+) true runs, R-hat ", lines)
    assert lines.index("up to 192 true runs") < told.start()
    assert 160 < int(told.group(1)) <= 192, "two chains may meet at one draw"
    assert "accepted 100% of the draws and 100% of the short walks" in lines, "the emulator is exact"
    _, plan = emulate(folder, "check", "study.yaml", "--dry-run", "--force", "--set", "validate.gradient_points=1")
    assert "up to 192 true runs for its chains" in " ".join(plan.split())


def test_no_observation_is_recovered_where_no_check_asks_for_it(study):
    folder, output = study
    assert "recovered observations" not in output
    stored = files.read_tensors(folder / "runs" / "line" / "check" / "evidence.safetensors")
    assert {k.split(".")[0] for k in stored} == {"weighted"}


def test_the_chains_are_the_corrected_posterior(study):
    folder, _ = study
    check = folder / "runs" / "line" / "check"
    made, drawn = files.read_json(check / "corrected.json"), files.read_tensors(check / "corrected.safetensors")
    assert (made["by"], made["warmup"]) == ("delayed_acceptance", 3)
    assert drawn["theta"].shape == (16, 9, 2)
    a = np.cos(np.outer(np.arange(1, 5), np.arange(1, 3)))
    v = np.linalg.inv(a.T @ a / 0.2**2 + np.eye(2))
    mean = v @ a.T @ (a @ [0.5, -0.5]) / 0.2**2
    for p, right, sd in zip(made["parameters"].values(), mean, np.sqrt(v.diagonal()), strict=True):
        assert abs(p["corrected"] - right) < 3.5 * sd / made["ess"] ** 0.5
    assert "by chains that accept a draw with a true run" in report.render(check.parent)


def test_longer_chains_add_their_steps_to_the_runs_that_are_there(study, tmp_path):
    folder, _ = study
    shutil.copytree(folder, here := tmp_path / "x")
    store = here / "runs" / "line" / "store" / "runs"
    before = set(store.glob("*/*"))
    emulate(here, "check", "study.yaml", "--set", "check.delayed_acceptance=16", "--set", "validate.gradient_points=1")
    added = set(store.glob("*/*")) - before
    assert before
    assert 3 * 16 < len(added) <= 4 * 16
    first = files.read_tensors(folder / "runs" / "line" / "check" / "corrected.safetensors")["theta"]
    more = files.read_tensors(here / "runs" / "line" / "check" / "corrected.safetensors")["theta"]
    assert torch.equal(first[:, 1:], more[:, : first.shape[1] - 1])  # one more step is warm-up


@pytest.mark.parametrize(
    ("change", "said"),
    [("check.delayed_acceptance=3", "check.delayed_acceptance: must be 0, or at least 8 steps"),
     ("infer.likelihood=predictive", "check.delayed_acceptance: must be 0 with predictive: a true run is a draw")],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_a_sentence(study, change, said):
    with pytest.raises(InputError, match=said):
        load_study(study[0] / "study.yaml", [change])
