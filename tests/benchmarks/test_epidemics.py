"""Posteriors of an epidemic and of predators by the studies in configs, against long Markov chains on the simulators; beside
them the same number of runs spread over the prior, and what the checks say of either. The table is printed.

    pytest -m benchmark -s tests/benchmarks/test_epidemics.py            some minutes a study

C2ST is the accuracy of a classifier between 2,000 draws of each: 0.5 cannot tell them apart, 1 always can (Lopez-Paz and
Oquab 2017), by the network and folds of Lueckmann et al. (2021), who report 0.815 on `sir` by neural posterior estimation
with 1,000 runs. `tests/reference/epidemics/write.py` made the observations and their posteriors.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.model_selection import KFold, cross_val_score
from sklearn.neural_network import MLPClassifier

from pipelines import engine, files, rounds
from pipelines.config import load_study
from pipelines.terminal import Terminal
from pipelines.workbench import Workbench

pytestmark = pytest.mark.benchmark

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "tests" / "reference" / "epidemics"
STAGES = ["design", "simulate", "train", "validate", "infer", "check"]
DRAWS = 2000


def c2st(a: np.ndarray, b: np.ndarray) -> float:
    scale = a.mean(0), a.std(0)
    both = np.concatenate([(x - scale[0]) / scale[1] for x in (a, b)])
    width = 10 * a.shape[1]
    network = MLPClassifier((width, width), max_iter=10_000, random_state=1)
    folds = KFold(5, shuffle=True, random_state=1)
    return float(cross_val_score(network, both, np.repeat([0, 1], len(a)), cv=folds).mean())


class Answer:
    """A study of one observation, run, and its posterior."""

    def __init__(self, task: str, number: int, folder: Path, *changes: str):
        kept = json.loads((REFERENCE / f"{task}.json").read_text())[number]
        self.exact = np.load(REFERENCE / f"{task}.npz")[str(number)].astype(np.float64)
        data = folder / "data.csv"
        folder.mkdir(parents=True, exist_ok=True)
        data.write_text("\n".join(map(repr, kept["data"])) + "\n")
        self.study = load_study(ROOT / "configs" / f"{task}.yaml", [
            f"output={folder / 'out'}", "tracking.uri=off", "cluster.use=serial", f"seed={number + 1}",
            f"infer.observation={{file: {data}}}", *changes])  # fmt: skip
        engine.run(self.study, STAGES, Terminal(quiet=True))
        theta = files.read_tensors(folder / "out" / "infer" / "draws.safetensors")["theta"].flatten(0, 1)
        self.draws = theta[torch.randperm(len(theta), generator=torch.Generator().manual_seed(1))[:DRAWS]].numpy()
        with Workbench(self.study, Terminal(quiet=True)) as bench:
            self.runs, self.training = len(list(bench.store.keys())), len(bench.points("training"))
        found = files.read_json(folder / "out" / "check" / "findings.json")["emulators"]["gp"]
        self.findings = {f["name"]: f for f in found}

    @property
    def failed(self) -> list[str]:
        return [n for n, f in self.findings.items() if f["blocking"] and not f["passed"]]

    def words(self) -> str:
        shift = (self.draws.mean(0) - self.exact.mean(0)) / self.exact.std(0)
        width = self.draws.std(0) / self.exact.std(0)
        k = self.findings["posterior.pareto_k"]["value"]
        said = f"failed: {', '.join(self.failed)}" if self.failed else "all checks passed"
        return (f"C2ST {c2st(self.exact, self.draws):.3f}, {self.runs} runs ({self.training} to train on), shift "
                f"{np.abs(shift).max():.2f} sigma, width x {width[np.abs(np.log(width)).argmax()]:.2f}, k-hat "
                f"{'none' if k is None else f'{k:.2f}'}; {said}")  # fmt: skip

    def table(self) -> None:
        for r in rounds.kept(self.study):
            told = rounds._told(r)
            print("    round", r["round"], *(f"{k} {v:.3g}" for k, v in told.items()), flush=True)


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("task", ["sir", "lotka_volterra"])
@pytest.mark.parametrize("number", range(3))
def test_the_posterior_of_a_hundred_runs_is_that_of_long_chains_on_the_simulator(task, number, tmp_path):
    torch.set_num_threads(1)
    active = Answer(task, number, tmp_path / "active")
    print(f"\n{task} {number}: by rounds    {active.words()}", flush=True)
    active.table()
    wide = Answer(task, number, tmp_path / "wide", f"design={{use: sobol, runs: {active.training}, held_out: 24}}")
    print(f"{task} {number}: prior-wide   {wide.words()}", flush=True)
    assert c2st(active.exact, active.draws) < 0.53
    assert active.runs <= 300
    assert not active.failed
    if np.abs((wide.draws.mean(0) - wide.exact.mean(0)) / wide.exact.std(0)).max() > 1:
        assert wide.failed, "a posterior that is off by more than sigma is told by the checks"
