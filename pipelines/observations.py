"""The observation of a study: what it names, and as the infer stage keeps it."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from emulate.errors import CampaignError, InputError
from pipelines import files
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
        return Observation(_read(bench, choice.file), None, f"observation read from {choice.file}")
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


def _read(bench: Workbench, name: str) -> Tensor:
    """A CSV with a header that names every output (`pk[k=0.1]`), or one number per line in the order of the outputs."""
    labels = bench.study.simulator.outputs.labels
    path = bench.study.resolve(name)
    try:
        lines = [x.strip() for x in path.read_text().splitlines() if x.strip()]
        row = files.read_csv(path)
        named = dict(row[0]) if row and set(labels) <= set(row[0]) else None
        values = [float(named[x]) for x in labels] if named else [float(x) for x in lines]
    except FileNotFoundError:
        raise InputError(f"infer.observation.file: {path} does not exist; paths start at the study file.") from None
    except (ValueError, UnicodeDecodeError) as e:
        raise InputError(
            f"infer.observation.file: {path} must hold one number per line, or a header with "
            f"{labels[0]}, ... and one row. Got: {e}."
        ) from None
    lost = [x for x, v in zip(labels, values, strict=False) if not np.isfinite(v)]
    if len(values) != len(labels) or lost:
        what = (
            "one number" if len(labels) == 1 else f"{len(labels)} numbers, one for each of {labels[0]} to {labels[-1]}"
        )
        got = f"one that is not finite, for {lost[0]}" if lost else f"{len(values)}"
        raise InputError(f"infer.observation.file: {path} must hold {what}, all finite. Got {got}.")
    return torch.tensor(values, dtype=torch.float64)
