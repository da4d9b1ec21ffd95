"""The study of events in configs: a flow learns the whole distribution of a stochastic simulator."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

import emulate
from pipelines import engine
from pipelines.config import load_study
from pipelines.terminal import Terminal

ROOT = Path(__file__).parents[2]


@pytest.mark.filterwarnings("ignore::emulate.errors.ExtrapolationWarning")
def test_the_config_learns_two_channels_that_one_gaussian_blurs(tmp_path, monkeypatch):
    """The density of both channels is known: a normal and an exponential, in the shares of the mixing."""
    monkeypatch.chdir(ROOT)
    changes = [f"output={tmp_path}", "tracking.uri=off", "cluster.use=serial", "design.runs=200", "design.held_out=20",
               "train.folds=0"]  # fmt: skip
    engine.run(
        load_study("configs/events.yaml", changes), ["design", "simulate", "train", "validate"], Terminal(quiet=True)
    )
    theta = torch.tensor([[1.5, 0.4], [2.0, 0.6], [2.5, 0.5]], dtype=torch.float64)
    y = torch.linspace(0.0, 5.0, 1001, dtype=torch.float64)
    gap = {}
    for name in ("flow", "quadratic"):
        emulator = emulate.load(tmp_path / "emulators" / name)
        found = torch.stack([emulator.predict(t).log_prob(y[:, None]) for t in theta]).detach().numpy()
        parts = [
            mix * stats.norm.pdf(y, mass / 2, 0.1) + (1 - mix) * stats.expon.pdf(y, mass, 0.3)
            for mass, mix in theta.numpy()
        ]
        true = np.stack(parts)
        gap[name] = float((true * (np.log(np.maximum(true, 1e-300)) - found)).sum() * 0.005 / 3)
    print(f"nats from the truth: {gap}")
    assert gap["flow"] < 0.6 * gap["quadratic"]
