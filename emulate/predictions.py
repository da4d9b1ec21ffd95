"""Predictions as a table of labelled arrays: what `Emulator.to_xarray` gives."""

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from emulate.distributions import drawn
from emulate.errors import ExtrapolationWarning
from emulate.labelled import columns, is_labelled

if TYPE_CHECKING:
    import xarray

ROWS = 1024  # points at a time: memory holds the answers, and the work of so many


def dataset(emulator: Any, theta: Any, *, outside: str, jacobian: bool, samples: int,
            seed: int) -> "xarray.Dataset":  # fmt: skip
    """See `Emulator.to_xarray`."""
    import xarray

    space, outputs = emulator.space, emulator.outputs
    if is_labelled(theta):
        first, *_ = made = columns(theta, {p.name: p.unit for p in space.parameters})
        lead, coordinates = tuple(map(str, first.dims)), {str(k): v for c in made for k, v in c.coords.items()}
    else:
        lead, coordinates = None, {}
    packed = space.pack(theta).detach()
    shape = tuple(packed.shape[:-1])
    lead = tuple("point" if i == 0 else f"point_{i}" for i in range(len(shape))) if lead is None else lead
    emulator.look(packed, outside)
    rows, quiet = packed.reshape(-1, space.d).split(ROWS), "inflate" if outside == "inflate" else "ignore"
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", ExtrapolationWarning)  # all was said of all points at once
        prediction = [emulator.predict(part, outside=quiet) for part in rows]
        draws = [drawn(p, (samples,), seed=seed + i).cpu() for i, p in enumerate(prediction) if samples]
        slopes = torch.cat([emulator.jacobian(part) for part in rows]).cpu() if jacobian else None
        mean, sd = (np.concatenate([np.asarray(x.cpu()) for x in parts]).reshape(*shape, outputs.size)
                    for parts in ([p.mean for p in prediction], [p.variance.sqrt() for p in prediction]))  # fmt: skip
    data, axes = outputs.variables(mean, lead)
    spread, _ = outputs.variables(sd, lead)
    data |= {f"{name}_sd": variable for name, variable in spread.items()}
    if samples:
        wide, _ = outputs.variables(np.asarray(torch.cat(draws, 1)).reshape(samples, *mean.shape), ("draw", *lead))
        data |= {f"{name}_draw": variable for name, variable in wide.items()}
    own = {p.name: (lead, np.asarray(packed[..., i].cpu()), {"units": p.unit}) for i, p in enumerate(space.parameters)}
    coordinates |= axes | {n: c for n, c in own.items() if n not in coordinates}
    for p in space.parameters:
        if p.unit and hasattr(coordinates[p.name], "attrs"):
            coordinates[p.name] = coordinates[p.name].assign_attrs(units=p.unit)
    if slopes is not None:
        data["jacobian"] = ((*lead, "output", "parameter"), np.asarray(slopes).reshape(*mean.shape, space.d))
        coordinates |= {"output": list(outputs.labels), "parameter": list(space.names)}
    about = {"recipe": emulator.recipe.entry_name(), "sd": "one standard deviation of the emulator's prediction"}
    return xarray.Dataset(data, coordinates, about)
