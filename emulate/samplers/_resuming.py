"""What a sampler that was interrupted needs to go on, as arrays and tensors: no pickle."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from emulate.contracts import Checkpoint, Progress
from emulate.diagnostics import running

_OFTEN = 50  # draws from one R-hat to the next


class Record:
    """What every draw left: arrays `[n, ...]` by name, of which the first `done` are filled; `x` is `[n, g, c, d]`."""

    def __init__(self, n: int, rows: Mapping[str, Any]):
        """Room for n draws like `rows`, none of which is filled."""
        self.done = 0
        self.parts = {name: np.empty((n, *np.shape(row)), np.asarray(row).dtype) for name, row in rows.items()}

    def add(self, rows: Mapping[str, Any]) -> None:
        """One draw more."""
        for name, row in rows.items():
            self.parts[name][self.done] = row
        self.done += 1

    def fill(self, state: Mapping[str, np.ndarray]) -> None:
        """The draws of a stored state, as many as there is room for."""
        n = len(self.parts["x"])
        self.done = min(n, len(state["x"]))
        for name, part in self.parts.items():
            part[: self.done] = state[name][:n]

    def filled(self) -> dict[str, np.ndarray]:
        """The draws so far."""
        return {name: part[: self.done] for name, part in self.parts.items()}

    def chains(self, name: str, device: torch.device) -> Tensor:
        """`[g c, n, ...]`."""
        return torch.from_numpy(self.parts[name]).flatten(1, 2).transpose(0, 1).contiguous().to(device)


class Told:
    """Progress with the divergences and the R-hat of the draws so far."""

    def __init__(self, progress: Progress | None, total: int):
        self.progress, self.total, self.said, self.seen = progress, total, "", 0

    def __call__(self, done: int, made: Record) -> None:
        if self.progress is None:
            return
        if made.done >= self.seen + _OFTEN:
            self.seen = made.done
            lost = int(made.parts["divergent"][: made.done].sum()) if "divergent" in made.parts else 0
            self.said = f"R-hat {running(made.parts['x'][: made.done]):.3f}" + (f", {lost} divergent" if lost else "")
        self.progress(done, self.total, self.said if made.done else "warming up")


def stored(checkpoint: Checkpoint | None, shape: tuple[int, ...], names: set[str]) -> dict[str, np.ndarray] | None:
    """The state of a checkpoint; None where there is none with these `names` and draws `[done, *shape]`."""
    state = checkpoint.load() if checkpoint is not None else None
    if state is None or set(state) != names or tuple(state["x"].shape[1:]) != shape or not len(state["x"]):
        return None
    return {name: value.cpu().numpy().copy() for name, value in state.items()}


def save(checkpoint: Checkpoint | None, state: Mapping[str, Any]) -> None:
    """Arrays and numbers, as tensors."""
    if checkpoint is not None:
        checkpoint.save({name: torch.from_numpy(np.asarray(value)) for name, value in state.items()})


def written(rng: np.random.Generator) -> np.ndarray:
    """The state of a generator as bytes."""
    return np.frombuffer(json.dumps(rng.bit_generator.state).encode(), np.uint8).copy()


def restore(rng: np.random.Generator, state: np.ndarray) -> None:
    """Put a generator where it was."""
    rng.bit_generator.state = json.loads(state.tobytes())
