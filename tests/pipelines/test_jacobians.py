"""Training runs that carry their Jacobians: one campaign, resumed, whoever asks, with any number of workers."""

import functools
from pathlib import Path

import numpy as np
import pytest

from emulate.errors import CampaignError, InputError
from pipelines import files
from pipelines.config import load_study
from pipelines.journal import Journal
from pipelines.stages import design
from pipelines.terminal import Terminal
from pipelines.workbench import Workbench
from tests import commands

LAB = '''
import os
from dataclasses import dataclass
from emulate.simulators.linear_gaussian import LinearGaussian


@dataclass(frozen=True, kw_only=True)
class Knows(LinearGaussian):
    """It knows its matrix, notes what it is asked, and fails where a is above 1.5."""

    def run(self, theta, *, seed):
        self.note("run", theta)
        return super().run(theta, seed=seed)

    def jacobian(self, theta, *, seed):
        self.note("jacobian", theta)
        return super().run(theta, seed=seed), self.matrix

    @staticmethod
    def note(what, theta):
        if "LAB_LOG" in os.environ:
            with open(os.environ["LAB_LOG"], "a") as f:
                f.write(f"{what} {theta.tolist()}\\n")
        if theta[0] > 1.5:
            raise ArithmeticError("a is too large")
'''
STUDY = """
name: line
seed: 5
simulator: {use: 'jacobians_lab:Knows', outputs_count: 4}
design: {use: sobol, runs: 16, held_out: 8}
simulate: {jacobians: auto, require: 0.5}
cluster: {use: serial}
emulators: {quadratic: {use: polynomial}}
validate: {gradient_points: 3}
infer: {likelihood: {use: gaussian, absolute_error: 0.2}, draws: 400, chains: 4}
check: {importance_runs: 100}
tracking: {uri: "off"}
"""
A = np.cos(np.outer(np.arange(1, 5), np.arange(1, 3)))


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "jacobians_lab.py").write_text(LAB)
    (tmp_path / "study.yaml").write_text(STUDY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("LAB_LOG", str(tmp_path / "calls"))
    monkeypatch.delitem(__import__("sys").modules, "lab", raising=False)
    return tmp_path


emulate = functools.partial(commands.emulate, Path())  # where a test stands


def bench(*overrides: str) -> Workbench:
    return Workbench(load_study("study.yaml", overrides), Terminal(quiet=True))


def planned(*overrides: str) -> None:
    """The design stage without its figure."""
    with bench(*overrides) as b:
        rows = [[which, i, *map(float, t)] for which, theta in design.points(b).items() for i, t in enumerate(theta)]
        files.write_csv(b.folder / "design" / "points.csv", ["set", "index", *b.study.space.names], rows)


def everywhere(b: Workbench) -> np.ndarray:
    return np.concatenate([b.points("training"), b.points("held_out")])


def calls() -> list[str]:
    return Path("calls").read_text().splitlines()


def test_a_study_from_the_points_to_the_verdict(here):
    code, output = emulate("run", "study.yaml", "--dry-run")
    assert "24 runs to do, 16 of them with a Jacobian, 0 stored" in output
    code, output = emulate("run", "study.yaml")
    assert code in (0, 1), output
    with bench() as b:
        runs, held_out = (b.runs(b.points(which)) for which in ("training", "held_out"))
        metrics = [e["metrics"] for _, e in Journal(b.folder / "journal.jsonl").read() if e["event"] == "metrics"]
        jacobians = files.read_tensors(b.folder / "validate" / "jacobians.safetensors")
    assert 0 < len(runs.failed()) < 8  # the standard normal prior of a reaches above 1.5
    assert (runs.ok == (runs.theta[:, 0] <= 1.5)).all()
    assert set(runs.failed().reason) == {"error: ArithmeticError: a is too large"}
    good = runs.finished()
    np.testing.assert_allclose(good.y, good.theta @ A.T, rtol=1e-12)
    np.testing.assert_array_equal(good.jacobian, np.broadcast_to(A, (len(good), 4, 2)))
    np.testing.assert_array_equal(good.jacobian_error, 0)
    assert np.isnan(runs.failed().jacobian).all()
    assert held_out.jacobian is None
    np.testing.assert_array_equal(jacobians["value"], np.broadcast_to(A, (3, 4, 2)))
    summary = files.read_json(b.folder / "simulate" / "summary.json")
    assert (summary["jacobians"], summary["held_out"]["jacobians"]) == (len(good), 0)
    assert {m["jacobians"] for m in metrics if "jacobians" in m} == {len(good)}
    assert f"runs finished, {len(good)} with a Jacobian," in output
    assert f"{len(good) + 3} carry a Jacobian." in emulate("status", "study.yaml")[1]
    assert sum(c.startswith("jacobian") for c in calls()) == 16 + 3
    assert len(set(calls())) == len(calls())
    assert not {c.split(" ", 1)[1] for c in calls() if c.startswith("run")} & {str(t.tolist()) for t in runs.theta}


@pytest.mark.slow
def test_a_campaign_that_was_cut_short_is_resumed(here):
    planned()
    with bench() as b:
        b.campaign(b.points("training")[:5], "half of it")
    assert len(calls()) == 5
    assert "19 runs to do, 11 of them with a Jacobian, 5 stored" in emulate("simulate", "study.yaml", "--dry-run")[1]
    emulate("simulate", "study.yaml")
    assert len(calls()) == len(set(calls())) == 24
    emulate("simulate", "study.yaml", "--retry-failed")
    with bench() as b:
        failed = len(b.runs(everywhere(b)).failed())
        b.campaign(everywhere(b), "nothing")
    assert failed > 0
    assert len(calls()) == 24 + failed


def test_a_point_that_stands_in_both_sets_is_run_once(here):
    planned()
    path = here / "runs" / "line" / "design" / "points.csv"
    lines = path.read_text().splitlines()
    training = [x.split(",", 2)[2] for x in lines if x.startswith("training")]
    head = [x for x in lines if not x.startswith("held_out")]
    path.write_text("\n".join([*head, *(f"held_out,{i},{t}" for i, t in enumerate([*training[:4], "0.25,0.5"])), ""]))
    with bench() as b:
        b.campaign(everywhere(b), "simulate")
        held_out = b.runs(b.points("held_out"))
        b.campaign(b.points("held_out")[:4], "gradients of the simulator", product="jacobian")
    assert len(calls()) == len(set(calls())) == 17
    assert len(held_out) == 5
    assert held_out.jacobian is None
    np.testing.assert_allclose(held_out.finished().y, held_out.finished().theta @ A.T, rtol=1e-12)


def test_without_jacobians_nothing_changes(here):
    none = "simulate.jacobians=none"
    planned(none)
    assert "24 runs to do, 0 stored" in emulate("simulate", "study.yaml", "--set", none, "--dry-run")[1]
    assert "0 of 24 runs finished" not in emulate("simulate", "study.yaml", "--set", none)[1]
    assert all(c.startswith("run") for c in calls())
    assert files.read_json(here / "runs" / "line" / "simulate" / "summary.json")["jacobians"] == 0
    with bench(none) as b:
        assert b.runs(b.points("training")).jacobian is None
    assert "Jacobian" not in emulate("status", "study.yaml", "--set", none)[1]
    with bench() as b, pytest.raises(CampaignError, match=r"^16 of 16 runs of jacobians_lab:Knows are not in "):
        b.runs(b.points("training"))


@pytest.mark.parametrize("way", ["reverse", "finite_difference"])
def test_any_way_of_the_room_makes_them(here, way):
    """At the seed of the run: y are the bits of the plain run, and noise that is only added has no slope."""
    changes = ["simulator.use=linear_gaussian", "simulator.noise=0.3"]
    planned(*changes)
    with bench(*changes, f"simulate.jacobians={way}") as b, bench(*changes, "simulate.jacobians=none") as plain:
        theta = b.points("training")
        b.campaign(theta, "with Jacobians")
        plain.campaign(theta, "the same, plain")
        runs, same = b.runs(theta), plain.runs(theta)
    assert runs.stochastic
    assert runs.ok.all()
    assert runs.y.tobytes() == same.y.tobytes()
    assert not set(runs.key) & set(same.key)
    np.testing.assert_allclose(runs.jacobian, np.broadcast_to(A, (16, 4, 2)), rtol=1e-9)
    assert runs.jacobian_error.max() < 1e-9


@pytest.mark.slow
def test_the_bytes_do_not_depend_on_the_number_of_workers(here, monkeypatch):
    monkeypatch.delenv("LAB_LOG")
    kept = []
    for name, cluster in (("one", "{use: serial}"), ("two", "{use: local, workers: 2}")):
        changes = [f"name={name}", f"cluster={cluster}"]
        planned(*changes)
        with bench(*changes) as b:
            b.campaign(everywhere(b), "simulate")
            folders = [b.store.path / "runs" / k[:2] / k for k in b.store.keys()]  # noqa: SIM118
        names = ("record.json", "result.safetensors")
        kept.append({f.name: [(f / n).read_bytes() for n in names if (f / n).exists()] for f in folders})
    assert len(kept[0]) == 24
    assert kept[0] == kept[1]


def test_the_bar_says_how_many_carry_one(here):
    planned()
    said = []

    class Listening(Terminal):
        def bar(self, what, total=None, *, left=True):
            said.append((what, total))
            return super().bar(what, total)

    with Workbench(load_study("study.yaml"), Listening(quiet=True)) as b:
        b.campaign(everywhere(b), "simulate")
    assert said == [("simulate, 16 of them with a Jacobian", 24)]


def test_an_emulator_that_needs_jacobians_is_refused_before_the_first_run_where_there_are_none(here):
    assert load_study("study.yaml", ["emulators.slopes=gradient_gp"]).emulators["slopes"].needs_slopes
    with pytest.raises(InputError) as caught:
        load_study("study.yaml", ["emulators.slopes=gradient_gp", "simulate.jacobians=none"])
    assert str(caught.value) == (
        "--set simulate.jacobians=none: simulate.jacobians: must not be none, for emulators.slopes learns from the "
        "Jacobians of the training runs. Got none; set it to auto, or use an emulator that reads values alone.")  # fmt: skip
