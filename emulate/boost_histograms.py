"""Counts to and from boost-histogram and hist, the histograms of other programs (extra `hist`)."""

import importlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from emulate.axes import Axis
from emulate.binning import Binning
from emulate.contracts import Counts
from emulate.errors import InputError
from emulate.kernels import Kernel


def to_boost(counts: Counts) -> Any:
    """A `boost_histogram.Histogram` with the same edges, under- and overflow: variances where the counts have a covariance.

    What neighbouring soft bins share, beside the diagonal, has no place there. How the counts were smoothed goes along as
    metadata, so that `from_boost` knows it.

    >>> from emulate.histograms.hard import Hard
    >>> h = to_boost(Hard(edges=(0.0, 1.0, 2.0)).measured([0.5, 1.5, 1.7, 9.0]))
    >>> h.values(flow=True).tolist(), h.variances().tolist()
    ([0.0, 1.0, 2.0, 1.0], [1.0, 2.0])
    """
    return _filled(counts, _module("boost_histogram").Histogram)


def to_hist(counts: Counts) -> Any:
    """A `hist.Hist`, as `to_boost`."""
    return _filled(counts, _module("hist").Hist)


def from_boost(histogram: Any) -> Counts:
    """The counts of a `boost_histogram.Histogram` or `hist.Hist` on one or two axes of numbers, with its variances.

    A flow bin that the histogram does not keep is empty here. `samples` is the sum of counts, rounded, where no weights
    are told apart.
    """
    bh = _module("boost_histogram")
    if not isinstance(histogram, bh.Histogram):
        raise InputError(
            f"from_boost must be given a boost_histogram.Histogram or a hist.Hist. Got {type(histogram).__name__}."
        )
    bad = [f"{type(a).__name__} with {a.traits}" for a in histogram.axes
           if not (a.traits.continuous or isinstance(a, bh.axis.Integer)) or a.traits.circular or a.traits.growth]  # fmt: skip
    if bad or len(histogram.axes) not in (1, 2) or histogram.kind != bh.Kind.COUNT:
        raise InputError(f"the histogram must hold counts on one or two axes of numbers that neither grow nor turn around. Got "
                         f"{', '.join(bad) or f'{len(histogram.axes)} axes of kind {histogram.kind}'}; project or rebin it "
                         "first.")  # fmt: skip
    edges = tuple(tuple(float(e) for e in a.edges) for a in histogram.axes)
    pad = [(int(not a.traits.underflow), int(not a.traits.overflow)) for a in histogram.axes]
    values = np.pad(np.asarray(histogram.values(flow=True), np.float64), pad)
    variances = histogram.variances(flow=True)
    covariance = (
        None if variances is None else torch.diag(torch.from_numpy(np.pad(variances.astype(np.float64), pad)).flatten())
    )
    told = vars(histogram).get("metadata")
    smoothing = told.get("emulate") if isinstance(told, Mapping) else None
    samples = smoothing["samples"] if smoothing else round(float(values.sum()))
    return Counts(torch.from_numpy(values), _binning(edges, smoothing), samples, covariance)


def _filled(counts: Counts, cls: type) -> Any:
    bh = _module("boost_histogram")
    if counts.values.ndim != len(counts.binning.axes):
        raise InputError(f"to_boost must be given one histogram. Got a batch of shape {list(counts.values.shape)}; convert one "
                         "by one.")  # fmt: skip
    axes = [bh.axis.Variable(e) for e in counts.binning.edges]
    values = counts.values.detach().cpu().numpy()
    if counts.covariance is None:
        made = cls(*axes, storage=bh.storage.Double())
        made[...] = values
    else:
        made = cls(*axes, storage=bh.storage.Weight())
        made[...] = np.stack([values, counts.covariance.diagonal().cpu().numpy().reshape(values.shape)], -1)
    smoothing = [asdict(a) for a in counts.binning.axes] if counts.binning.label else []
    made.metadata = {"emulate": {"samples": counts.samples, "axes": smoothing}}
    return made


def _binning(edges: tuple[tuple[float, ...], ...], told: Any) -> Binning:
    """The binning that `to_boost` wrote down, or hard bins; bins that were merged since are no longer the same."""
    axes = told["axes"] if told else []
    kept = [
        Axis(e, Kernel(tuple(map(tuple, a["kernel"]["terms"]))), a["h"], tuple(a["support"]))
        for e, a in zip(edges, axes)
    ]
    return Binning(tuple(kept or (Axis(e, Kernel.of("step")) for e in edges)))


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as e:
        raise InputError(f"histograms of other programs must have the package {name.replace('_', '-')}. It cannot be imported "
                         f"({e}); install the extra: pip install 'emulate[hist]'.") from None  # fmt: skip
