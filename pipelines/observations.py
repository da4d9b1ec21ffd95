"""The observation of a study: what it names, and as the infer stage keeps it."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from emulate.errors import CampaignError
from pipelines import files, observed
from pipelines.workbench import Workbench


@dataclass(frozen=True)
class Observation:
    """data `[m]`, and the parameters `[d]` behind it where they are known."""

    data: Tensor
    truth: Tensor | None
    sentence: str


def named(bench: Workbench) -> Observation:
    """The observation that the study names: a held-out run, a run at given parameters, or a file."""
    study = bench.study
    choice = study.infer.observation
    if choice.file:
        return Observation(observed.read(study), None, f"observation read from {choice.file}")
    if choice.parameters is not None:
        theta = study.space.pack(choice.parameters).numpy()
        bench.campaign(theta[None], "observation")
        sentence = "observation made by a run at given parameters"
    else:
        theta = bench.points("held_out")[choice.held_out]
        sentence = f"observation made from held-out run {choice.held_out}"
    runs = bench.runs(theta[None])
    if not runs.ok[0]:
        raise CampaignError(
            f"the run that makes the observation failed: {runs.reason[0]}. Choose another "
            "held-out run with infer.observation.held_out."
        )
    data = torch.from_numpy(runs.y[0])
    if choice.noise and study.likelihood.adds_noise:
        data = study.likelihood.sample(data, seed=bench.seed("infer/observation"))
        sentence += " with noise added"
    return Observation(data, torch.from_numpy(np.asarray(theta)), sentence)


def load(bench: Workbench) -> Observation:
    """The observation as the stage wrote it."""
    stored = files.read_json(bench.folder / "infer" / "observation.json")
    as_tensor = lambda v: None if v is None else torch.tensor(v, dtype=torch.float64)  # noqa: E731
    return Observation(as_tensor(stored["data"]), as_tensor(stored["truth"]), stored["sentence"])


def write(bench: Workbench, o: Observation) -> None:
    """For later stages."""
    files.write_json(
        bench.folder / "infer" / "observation.json",
        {"data": o.data.tolist(), "truth": None if o.truth is None else o.truth.tolist(), "sentence": o.sentence},
    )
