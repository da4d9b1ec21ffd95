"""Points that are run several times: seeds, plans, resumption, splits, and noise that is known in closed form."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import chi2, norm
from typer.testing import CliRunner

import emulate
from configs.my_noise import noise, signal
from emulate.comparison import deal_runs
from emulate.emulators._places import dealt, parted, shuffled
from emulate.emulators.noisy_gp import NoisyGP
from emulate.errors import InputError
from emulate.keys import run_seed
from emulate.runs import Field, Outputs, Runs, places
from emulate.space import Parameter, Space, Uniform
from emulate.store import RunStore
from pipelines import engine, fidelities, files, shard
from pipelines.cli import app
from pipelines.config import load_study
from pipelines.stages import design, simulate
from pipelines.terminal import Terminal
from pipelines.workbench import Workbench
from tests.stored import where

QUIET = Terminal(quiet=True)
FIRST = 8611523412812443723  # run_seed(1, [0.5, -0.25]) before there were replicates
STUDY = """\
name: repeated
simulator: {use: linear_gaussian, noise: 0.5}
design: {runs: 6, replicates: 2, held_out: 4}
cluster: {use: serial}
emulators: {polynomial: {degree: 1}}
infer: {likelihood: {use: gaussian, absolute_error: 1}}
check: {importance_runs: 4}
tracking: {uri: 'off'}
output: out
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("study.yaml").write_text(STUDY)
    return tmp_path


def made(*overrides: str) -> RunStore:
    engine.run(load_study("study.yaml", overrides), ["design", "simulate"], QUIET)
    return RunStore("out/store")


def campaign(*overrides: str) -> RunStore:
    """The runs alone, without the stages."""
    with Workbench(load_study("study.yaml", overrides), QUIET) as bench:
        bench.campaign(design.points(bench), "simulate")
        return bench.store


def content(store: RunStore) -> dict[Path, bytes]:
    """Every record and result; what took how long is no part of a result."""
    files = sorted(p for p in store.path.glob("runs/*/*/*") if p.name != "about.json")
    return {p.relative_to(store.path): p.read_bytes() for p in files}


def told(*words: str) -> str:
    result = CliRunner().invoke(app, list(words))
    return " ".join(re.sub(r"[│┃━╇]", " ", result.output + result.stderr).split())


# -- seeds -----------------------------------------------------------------------------------------------------------


def test_a_first_run_has_the_seed_that_it_had_before_there_were_replicates():
    """Printed by the release before them; a seed that changed would run every stored study again."""
    assert run_seed(1, [0.5, -0.25]) == run_seed(1, [0.5, -0.25], replicate=0) == FIRST
    assert run_seed(1, [0.5, -0.25], replicate=3, stochastic=False) == 0
    with pytest.raises(InputError, match=r"^replicate must be at least 0, the number of a run at one point. Got -1\.$"):
        run_seed(1, [0.5], replicate=-1)


def test_seeds_of_replicates_are_all_different_and_independent():
    """10,000 seeds collide nowhere, and the first draws that they give are as independent normal ones: by z-scores."""
    theta = np.linspace(0, 1, 2500)
    seeds = np.array([[run_seed(7, [t], replicate=k) for k in range(4)] for t in theta])
    assert len(set(seeds.ravel().tolist())) == seeds.size
    x = np.array([[np.random.default_rng(s).standard_normal() for s in row] for row in seeds])
    n = len(theta)
    between = [(x[:, i] * x[:, j]).mean() * n**0.5 for i in range(4) for j in range(i)]
    beside = [(x[1:, i] * x[:-1, j]).mean() * n**0.5 for i in range(4) for j in range(4)]
    assert np.abs([*between, *beside]).max() < norm.isf(1e-4 / 22)
    assert 1e-3 < chi2.cdf((x**2).sum(), x.size) < 1 - 1e-3


# -- plans and runs --------------------------------------------------------------------------------------------------


def test_a_plan_counts_runs_and_not_points(here):
    whole = "6 points x 2 replicates and 4 held out: 16 runs"
    assert f"16 runs to do, 0 stored ({whole})" in told("run", "study.yaml", "--dry-run")
    made()
    assert f"Its design: {whole}." in told("status", "study.yaml")
    assert "16 runs are stored" in told("status", "study.yaml")
    assert "runs 16 0" in told("costs", "study.yaml")
    with Workbench(load_study("study.yaml"), QUIET) as bench:
        training, held_out = bench.runs_of("training"), bench.runs_of("held_out")
        asked = bench.tasks({which: bench.points(which) for which in ("training", "held_out")})
    assert (len(training), len(held_out), len(asked)) == (12, 4, 16)
    np.testing.assert_array_equal(places(training.theta), np.repeat(np.arange(6), 2))
    assert len({(*t, s) for t, s in zip(training.theta.tolist(), training.seed.tolist(), strict=True)}) == 12
    with open("out/simulate/runs.csv", newline="") as f:
        assert [r["set"] for r in csv.DictReader(f)] == ["training"] * 12 + ["held_out"] * 4
    with open("out/design/points.csv", newline="") as f:
        assert len(list(csv.DictReader(f))) == 10


def test_more_replicates_make_only_the_runs_that_are_new(here):
    first = where(campaign("design.replicates=1"))
    two = where(campaign())
    four = where(campaign("design.replicates=4"))
    assert (len(first), len(two), len(four)) == (10, 16, 28)
    assert first.items() <= two.items() <= four.items()
    assert where(campaign()) == four, "fewer replicates make nothing, and lose nothing"
    assert simulate.forecast(Workbench(load_study("study.yaml", ["design.replicates=5"]), QUIET)).startswith(
        "6 runs to do, 28"
    )


@pytest.mark.slow
def test_bytes_are_the_same_in_any_order_and_by_shares(here):
    one = content(campaign())
    study = load_study("study.yaml", ["output=shares"])
    with Workbench(study, QUIET) as bench:
        bench.write_points("design/points.csv", design.points(bench))
    for i in (3, 1, 2):
        assert shard.run(study, (i, 3), QUIET) == 0
    assert len(one) == 2 * 16
    assert content(RunStore("shares/store")) == one


@pytest.mark.slow
def test_bytes_are_the_same_on_one_and_two_workers(here):
    found = [content(campaign("cluster.use=local", f"cluster.workers={n}", f"output=by{n}")) for n in (1, 2)]
    assert found[0] == found[1] == content(campaign())


def test_until_counts_runs(here):
    made("simulate.until=15")
    with Workbench(load_study("study.yaml"), QUIET) as bench:
        assert len(bench.points("training")) == 8
        assert len(bench.runs_of("training")) == 16


def test_a_point_that_a_file_names_twice_is_run_with_other_seeds(here):
    made()
    path = Path("out/design/points.csv")
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:7], lines[1].replace("training,0", "training,6"), *lines[7:], ""]))
    engine.run(load_study("study.yaml"), ["simulate"], QUIET)
    with Workbench(load_study("study.yaml"), QUIET) as bench:
        runs = bench.runs_of("training")
    same = (runs.theta == runs.theta[0]).all(1)
    assert same.tolist() == [True, True] + [False] * 10 + [True, True]
    expected = [run_seed(1, runs.theta[0], replicate=k) for k in range(4)]
    assert runs.seed[same].tolist() == expected


def test_a_point_to_train_on_is_never_held_out_too(here):
    made()
    path = Path("out/design/points.csv")
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[1].replace("training,0", "held_out,4"), ""]))
    with pytest.raises(
        InputError, match=r"points\.csv must hold out other points than those to train on\. Got .* in both; "
    ):
        engine.run(load_study("study.yaml"), ["simulate"], QUIET)


def test_runs_of_a_fidelity_share_the_seeds_and_are_compared_run_by_run(here):
    """The coarse version is the fine one less half its noise: at one seed they are a straight line, at two they are not."""
    study = load_study("study.yaml", ["design.fidelities={calm: {runs: 8, with: {noise: 0.25}}}"])
    assert "; calm: 16 to do, 0 stored" in simulate.forecast(Workbench(study, QUIET))
    engine.run(study, ["design", "simulate"], QUIET)
    with Workbench(study, QUIET) as bench:
        own, calm = bench.runs_of("training"), bench.runs_of("calm")
        assert calm.seed[:12].tolist() == own.seed.tolist()
    mean = own.theta @ study.simulator.matrix.numpy().T
    np.testing.assert_allclose((own.y - mean) / 2, calm.y[:12] - mean, atol=1e-12)
    met = fidelities.agreement(own, calm)
    assert (met.points, len(met.own)) == (6, 12)
    np.testing.assert_array_equal(met.own, own.y)
    np.testing.assert_array_equal(met.other, calm.y[:12])


def test_jacobians_are_those_of_each_run(here):
    made("simulate.jacobians=auto")
    with Workbench(load_study("study.yaml", ["simulate.jacobians=auto"]), QUIET) as bench:
        runs = bench.runs_of("training")
    assert runs.jacobian.shape[0] == 12
    assert (runs.y[::2] != runs.y[1::2]).all()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["simulator.noise=0"], "design.replicates: must be 1 for a simulator that is not stochastic, whose runs at one point "
         "are all the same. Got 2 with linear_gaussian; take it out, or raise design.runs."),
        (["design.replicates=0"], "design.replicates: must be at least 1. Got 0."),
        (["design.replicates=1.5"], "design.replicates: must be a whole number. Got 1.5."),
        (["design.use=active"], "design.replicates: must be 1 with active, which weighs every run alone against design.budget."),
        (["design.runs=100000", "design.replicates=11"], "design.replicates: must leave at most 1000000 runs. Got 11 at each of "
         "design.runs = 100000 points; lower one of them."),
    ],
)  # fmt: skip
def test_what_cannot_be_repeated_is_refused(here, changes, said):
    with pytest.raises(InputError) as e:
        load_study("study.yaml", changes)
    assert said in str(e.value)


# -- a point is the unit ---------------------------------------------------------------------------------------------


def table(n: int = 40, each: int = 4, *, seed: int = 0) -> Runs:
    """Runs of `configs/my_noise.py` made by hand, the runs of a point not one after the other."""
    rng = np.random.default_rng(seed)
    theta = np.tile(rng.uniform([0.5, 0.2], [2.0, 1.5], (n, 2)), (each, 1))
    y = [signal(*t) + noise(*t) * rng.standard_normal() for t in theta]
    space = Space((Parameter("gain", Uniform(0.5, 2.0)), Parameter("drive", Uniform(0.2, 1.5))))
    return Runs.of(space, Outputs((Field("voltage"),)), theta, y, stochastic=True)


def apart(theta: np.ndarray, out: np.ndarray) -> bool:
    """Whether no place lies on both sides."""
    return not set(map(tuple, theta[out].tolist())) & set(map(tuple, theta[~out].tolist()))


def test_every_split_keeps_the_runs_of_a_point_together():
    runs = table()
    u, n = runs.space.scaled(torch.from_numpy(runs.theta)), len(runs)
    rest, out = runs.split(0.25, seed=3)
    assert (len(rest), len(out)) == (120, 40)
    assert not set(map(tuple, rest.theta.tolist())) & set(map(tuple, out.theta.tolist()))
    fold = deal_runs(runs, 5, seed=2)
    generator = torch.Generator().manual_seed(0)
    folds = {
        "compared": fold,
        "of ten": dealt(u, 10).numpy(),
        "of members": shuffled(u, generator, least=5).numpy() % 5,
    }
    for name, f in folds.items():
        assert all(apart(runs.theta, f == k) for k in set(f.tolist())), name
        assert np.bincount(f).max() - np.bincount(f).min() <= 4, name
    seen, held = (rows.numpy() for rows in parted(u, 0.2, generator, least=5))
    assert (len(held), len({*seen, *held})) == (32, n)
    assert apart(runs.theta, np.isin(np.arange(n), held))


def test_splits_of_runs_that_are_not_repeated_stay_as_they_were():
    """As the releases before replicates dealt them, in the words of those: a fit keeps its bits."""
    runs = table(each=1)
    u = torch.from_numpy(runs.theta)
    assert dealt(u, 10).tolist() == (torch.arange(40) % 10).tolist()
    order = torch.randperm(40, generator=torch.Generator().manual_seed(5))
    assert shuffled(u, torch.Generator().manual_seed(5), least=10).tolist() == order.tolist()
    seen, out = parted(u, 0.2, torch.Generator().manual_seed(5), least=10)
    assert (seen.tolist(), out.tolist()) == (order[8:].tolist(), order[:8].tolist())
    rest = np.random.default_rng(3).permutation(40)
    np.testing.assert_array_equal(runs.split(0.25, seed=3)[1].theta, runs.theta[np.sort(rest[:10])])


LEFT_OUT = (
    {"use": "gp", "kernel": "rbf", "mean": "constant", "starts": 1},
    {"use": "mlp", "members": 5, "epochs": 10, "trend": "constant"},
    {"use": "noisy_gp", "starts": 1},
    {"use": "residual", "first": {"use": "polynomial", "degree": 1}, "then": {"use": "noisy_gp", "starts": 1}},
)


@pytest.mark.parametrize("spec", LEFT_OUT, ids=lambda s: s["use"])
def test_error_bars_come_from_points_that_were_left_out_with_all_their_runs(spec):
    """30 independent levels of spread 1, each run eight times with a noise of 0.01. Nothing tells one level of another, so
    who left out a run alone errs by 0.01, and who left out its point by 1: replicates in both parts made it 0.011."""
    rng = np.random.default_rng(1)
    u, level = np.repeat(rng.uniform(-0.5, 0.5, (30, 4)), 8, 0), np.repeat(rng.standard_normal(30), 8)
    z = torch.from_numpy(level + 0.01 * rng.standard_normal(240))[:, None]
    core = emulate.build("emulators", spec).train(torch.from_numpy(u), (z - z.mean()) / z.std(), noisy=True, seed=1)
    assert (core.left_out.mean - (z - z.mean()) / z.std()).square().mean().sqrt() > 0.8


# -- noise -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """`configs/noise.yaml` with one process, trained; its runs and its emulator."""
    out = tmp_path_factory.mktemp("noise")
    changes = ["cluster.use=serial", "tracking.uri=off", "train.folds=0", "design.held_out=8", "check.recovery=2"]
    study = load_study(Path(__file__).parents[2] / "configs" / "noise.yaml", [f"output={out}", *changes])
    engine.run(study, ["design", "simulate", "train"], QUIET)
    with Workbench(study, QUIET) as bench:
        return bench.runs_of("training"), bench.emulator("noisy")


def test_runs_of_a_study_scatter_as_the_simulator_does(measured):
    """Sums of squares within points are chi-square of n (r - 1) degrees, those of all about the mean of n r."""
    runs, _ = measured
    x = np.array([(y - signal(*t)) / noise(*t) for t, y in zip(runs.theta, runs.y[:, 0], strict=True)]).reshape(48, 8)
    within = (x - x.mean(1, keepdims=True)) ** 2
    assert 1e-3 < chi2.cdf(within.sum(), 48 * 7) < 1 - 1e-3
    assert 1e-3 < chi2.cdf((x**2).sum(), 48 * 8) < 1 - 1e-3
    assert abs(x.sum() / x.size**0.5) < 3.3


def test_noisy_gp_learns_the_noise_of_a_study(measured):
    """ln of the predicted variance of a run against the known one, at 64 new points, in the standard deviations that the
    process of the noise states: none beyond 4, their mean square about 1."""
    _, e = measured
    u = torch.quasirandom.SobolEngine(2, scramble=True, seed=5).draw(64, dtype=torch.float64)
    theta = e.space.from_unit(0.05 + 0.9 * u)
    p, told = e.predict(theta), e.core.noise(e.space.scaled(theta))
    known = torch.tensor([2 * np.log(noise(*t)) for t in theta.tolist()])
    z = (p.variance[:, 0].log() - known) / told.variance[:, 0].sqrt()
    assert z.abs().max() < 4
    assert z.square().mean() < 2.5
    assert np.corrcoef(p.variance[:, 0].log(), known)[0, 1] > 0.95
    miss = (p.mean[:, 0] - torch.tensor([signal(*t) for t in theta.tolist()])).abs()
    assert (miss < p.variance[:, 0].sqrt()).all(), "the mean of eight runs at 48 points is known better than a run"


def test_a_study_and_a_table_of_ones_own_give_the_same_emulator(measured):
    runs, e = measured
    own = Runs.of(runs.space, runs.outputs, runs.theta, runs.y, stochastic=True)
    again = emulate.fit(NoisyGP(), own, seed=e.provenance["seed"])
    theta = torch.from_numpy((runs.theta[:-8:8] + runs.theta[8::8]) / 2)
    for name in ("mean", "variance"):
        assert torch.equal(getattr(e.predict(theta), name), getattr(again.predict(theta), name))


@pytest.mark.slow
def test_the_config_runs_to_its_end_and_passes(tmp_path):
    changes = [f"output={tmp_path / 'noise'}", "cluster.use=serial", "tracking.uri=off"]
    study = load_study(Path(__file__).parents[2] / "configs" / "noise.yaml", changes)
    assert engine.run(study, study.stages, QUIET)
    verdict = files.read_json(tmp_path / "noise" / "check" / "findings.json")["emulators"]["noisy"]
    assert {f["name"]: f["passed"] for f in verdict if f["blocking"]} == {"recovery.joint": True}
