"""The file of an observation: one number for each output, by the outputs' names or in their order."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from emulate.columns import column
from emulate.errors import InputError
from pipelines import files

if TYPE_CHECKING:
    from pipelines.study import Study


def read(study: "Study") -> Tensor:
    """A CSV with a header that names every output (`pk[k=0.1]`) and one row; or one number on every line, in the order of the
    outputs; or the column `value` of a table with a line for each of them.

    Lines that begin with # are comments. Raises `InputError` where the file holds anything else.
    """
    labels, path = study.simulator.outputs.labels, study.resolve(study.infer.observation.file)
    if not path.is_file():
        raise InputError(f"infer.observation.file: {path} does not exist; paths start at the study file.")
    try:
        row = files.read_csv(path)
        named = dict(row[0]) if row and set(labels) <= set(row[0]) else None
        values = [float(named[x]) for x in labels] if named else column(path, "value").tolist()
    except (ValueError, UnicodeDecodeError) as e:
        raise InputError(f"infer.observation.file: {path} must hold a number for each output: one on every line, or in a column "
                         f"`value`, or one row below a header with {labels[0]}, ... Got: {e}") from e  # fmt: skip
    lost = [x for x, v in zip(labels, values, strict=False) if not np.isfinite(v)]
    if len(values) != len(labels) or lost:
        what = (
            "one number" if len(labels) == 1 else f"{len(labels)} numbers, one for each of {labels[0]} to {labels[-1]}"
        )
        got = f"one that is not finite, for {lost[0]}" if lost else f"{len(values)}"
        raise InputError(f"infer.observation.file: {path} must hold {what}, all finite. Got {got}.")
    return torch.tensor(values, dtype=torch.float64)
