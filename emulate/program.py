"""An emulator as one graph of tensor operations, for programs that know torch and not `emulate`."""

import json
import os
import shutil
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from emulate.emulator import Emulator
from emulate.errors import InputError, StoreError


class Moments(torch.nn.Module):
    """theta `[n, d]` float64 -> mean and variance `[n, m]`, without the guard: what is exported or compiled."""

    def __init__(self, emulator: Emulator):
        super().__init__()
        self.emulator = emulator

    def forward(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        return self.emulator.moments(theta)


def export(emulator: Emulator, path: str | os.PathLike) -> Path:
    """Write the graph of mean and variance, for any number of points, to a `.pt2` file as `torch.export.save` does.

    Any program with torch runs it, differentiably, by `torch.export.load(path).module()`; for C++ compile what is loaded
    by `torch._inductor.aoti_compile_and_package`. The names of the parameters and outputs lie in it as `names.json`. No
    guard is in the graph: outside the box it extrapolates without a word.

    `emulate.load` does not read such a file: the emulator itself is the folder that `save` writes. Its format is
    torch's; open only those whose writer you trust.

    >>> import numpy as np
    >>> from emulate import Field, Outputs, Parameter, Runs, Space, Uniform, fit
    >>> from emulate.emulators.polynomial import Polynomial
    >>> x = np.linspace(0, 1, 9)[:, None]
    >>> runs = Runs.of(Space((Parameter("a", Uniform(0, 1)),)), Outputs((Field("y"),)), x, 1000 + x**2)
    >>> path = export(fit(Polynomial(), runs, seed=0), "square.pt2")
    >>> mean, variance = torch.export.load(path).module()(torch.tensor([[0.5], [1.0]], dtype=torch.float64))
    >>> mean
    tensor([[1000.2500],
            [1001.0000]], dtype=torch.float64)
    """
    path = Path(path)
    if path.suffix != ".pt2":
        stem = path.stem if path.suffix[1:].isalpha() else path.name  # of "v1.2" nothing is taken off
        raise InputError(f"the path of an exported emulator must end in .pt2. Got {path}; call it {stem}.pt2.")
    theta = emulator.space.from_unit(torch.full((2, emulator.space.d), 0.5, dtype=torch.float64))
    some = {"theta": {0: torch.export.Dim("n", min=1)}}
    try:
        graph = torch.export.export(Moments(emulator).eval(), (theta,), dynamic_shapes=some, strict=False)
    except RuntimeError as e:  # what torch.export raises where a value or a number of points decides what is done
        said = str(e).split("\n", 1)[0].rstrip(". ")
        raise InputError(f"{emulator.recipe.entry_name()} must predict by one graph for any number of points. Got a prediction "
                         f"that torch.export cannot follow ({said}); export an emulator of another recipe.") from e  # fmt: skip
    names = json.dumps({"parameters": emulator.space.names, "outputs": emulator.outputs.labels})
    beside = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(
            tempfile.mkdtemp(dir=path.parent, prefix=".")
        )  # the archive holds the name that it is written under
        torch.export.save(graph, beside / path.name, extra_files={"names.json": names})
        os.replace(beside / path.name, path)
    except OSError as e:
        raise StoreError(
            f"the emulator could not be exported to {path}: {e}. Free space, or choose another file."
        ) from e
    finally:
        if beside:
            shutil.rmtree(beside, ignore_errors=True)
    return path
