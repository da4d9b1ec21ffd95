"""A posterior as arviz reads it: `InferenceData`, an xarray `DataTree` of groups, kept in one NetCDF file.

Groups and the names of their dimensions follow the InferenceData schema of arviz (Kumar, Carroll, Hartikainen and Martin
2019): `posterior` and `sample_stats` over (chain, draw), `log_likelihood`, `posterior_predictive` at some of the draws,
`observed_data`, `prior`. Read it back by `arviz.from_netcdf(path)` or `xarray.open_datatree(path)`.
"""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from emulate.derived import Derived, values
from emulate.errors import InputError
from emulate.runs import Outputs
from emulate.space import Space

if TYPE_CHECKING:
    from xarray import DataTree


def inference_data(space: Space, theta: Tensor, *, derived: Sequence[Derived] = (), outputs: Outputs | None = None,
                   data: Tensor | None = None, predictive: Tensor | None = None, thin: int = 1, prior: Tensor | None = None,
                   log_likelihood: Tensor | None = None, stats: Mapping[str, Tensor] | None = None,
                   attrs: Mapping[str, Any] | None = None) -> "DataTree":  # fmt: skip
    """Draws theta `[chains, draws, d]` and what is known beside as a DataTree; units and labels in the attributes.

    data `[m]` is the observation, laid out as `outputs`; predictive `[chains, k, m]` what the posterior predicts for it at
    every `thin`-th draw; prior `[n, d]` draws of the prior; log_likelihood and each of stats (lp, diverging)
    `[chains, draws]`; attrs stand at the root. The same numbers give the same file, byte for byte: it holds no time.

    >>> import torch
    >>> from emulate.space import Parameter, Uniform
    >>> space = Space((Parameter("h", Uniform(0.6, 0.8), unit="100 km/s/Mpc"),))
    >>> tree = inference_data(space, torch.full((4, 10, 1), 0.7, dtype=torch.float64))
    >>> tree.posterior["h"].dims, tree.posterior["h"].attrs["units"]
    (('chain', 'draw'), '100 km/s/Mpc')
    """
    from arviz_base import from_dict  # slow to import

    if theta.ndim != 3 or theta.shape[-1] != space.d:
        raise InputError(f"theta must have shape [chains, draws, {space.d}]. Got {tuple(theta.shape)}.")
    parts: dict[str, dict[str, Any]] = {"posterior": _named(space, derived, theta)}
    words = {_free(p.name): _words(p) for p in (*space.parameters, *derived)}
    if stats:
        parts["sample_stats"] = {k: _array(v) for k, v in stats.items()}
    if log_likelihood is not None:
        parts["log_likelihood"] = {"observation": _array(log_likelihood)}
    if prior is not None:
        parts["prior"] = _named(space, derived, prior[None])
    dims, coords, fields = {}, {}, {}
    if outputs is not None:
        dims, coords, fields = _axes(outputs)
        for group, y in (("posterior_predictive", predictive), ("observed_data", data)):
            if y is not None:
                parts[group] = _fields(outputs, y)
    with warnings.catch_warnings():  # of many chains with few draws, which here are what they are
        warnings.filterwarnings("ignore", "Found chain dimension to be longer than draw dimension")
        tree = from_dict(parts, dims=dims, coords=coords)
    if "posterior_predictive" in tree:
        k = tree["posterior_predictive"].sizes["draw"]
        tree["posterior_predictive"] = tree["posterior_predictive"].to_dataset().assign_coords(draw=np.arange(k) * thin)
    for group in tree.children.values():
        group.attrs = {k: v for k, v in group.attrs.items() if k != "created_at"}
        told = words if group.name in ("posterior", "prior") else fields
        for name in (*group.data_vars, *group.coords):
            group[str(name)].attrs.update(told.get(str(name), {}))
    tree.attrs = {k: v if isinstance(v, int | float) else str(v) for k, v in (attrs or {}).items()}
    return tree


def save(tree: "DataTree", path: Path) -> Path:
    """Write the NetCDF file, numbers compressed without loss."""
    packed = {f"/{group.name}": {str(v): {"zlib": True, "complevel": 4} for v in group.data_vars if group[str(v)].ndim}
              for group in tree.children.values()}  # fmt: skip
    tree.to_netcdf(path, engine="h5netcdf", encoding=packed)
    return path


def _named(space: Space, derived: Sequence[Derived], theta: Tensor) -> dict[str, np.ndarray]:
    columns = {n: theta[..., i] for i, n in enumerate(space.names)}
    columns |= {d.name: values(space, derived, theta)[..., i] for i, d in enumerate(derived)}
    return {_free(n): _array(v) for n, v in columns.items()}


def _free(name: str) -> str:
    """`chain` and `draw` are names of dimensions; a parameter that is called so gets a _ behind."""
    return f"{name}_" if name in ("chain", "draw") else name


def _fields(outputs: Outputs, y: Tensor) -> dict[str, np.ndarray]:
    """Every field of y `[..., m]`: a vector along its coordinate, or a number."""
    found = {f.name: _array(y[..., outputs.slices[f.name]]) for f in outputs.fields}
    return {f.name: found[f.name] if f.at else found[f.name][..., 0] for f in outputs.fields}


def _axes(outputs: Outputs) -> tuple[dict[str, list[str]], dict[str, list[float]], dict[str, dict[str, str]]]:
    """Dimensions of the fields, their coordinates, and the words of both."""
    axes = {f.name: f"{f.name}_{f.coordinate}" for f in outputs.fields if f.at}
    coords = {axes[f.name]: list(f.at) for f in outputs.fields if f.at}
    words = {f.name: _words(f) for f in outputs.fields}
    return (
        {n: [a] for n, a in axes.items()},
        coords,
        words | {axes[f.name]: {"units": f.at_unit} for f in outputs.fields if f.at},
    )


def _words(thing: Any) -> dict[str, str]:
    written = {"expression": thing.expression.text} if isinstance(thing, Derived) else {}
    return {"units": thing.unit, **({"long_name": f"${thing.label}$"} if thing.label else {}), **written}


def _array(x: Tensor) -> np.ndarray:
    return x.detach().cpu().numpy()
