"""Prediction against data in the same bins: soft with soft, so that the smoothing's bias is on both sides and falls out."""

import warnings
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from emulate.axes import axes_of
from emulate.binning import Binning
from emulate.contracts import Counts, Histogram
from emulate.errors import DoubtWarning, InputError

SMALLEST = 1e-10  # eigenvalues of a correlation matrix that count, over the largest


@dataclass(frozen=True)
class Comparison:
    """prediction and data as counts; scale: what the prediction is multiplied by; residual `[k]` = data - scale prediction of
    the bins compared, covariance `[k, k]` of it; chi2 of it on `dof` degrees of freedom. A gradient flows from residual
    and chi2 to the prediction's samples and weights; the covariance carries none."""

    prediction: Counts
    data: Counts
    scale: Tensor
    residual: Tensor
    covariance: Tensor
    chi2: Tensor
    dof: int

    @property
    def pull(self) -> Tensor:
        """The residual of each bin over its error `[k]`; 0 where both are 0."""
        error = self.covariance.diagonal().sqrt()
        return torch.where(error > 0, self.residual / error, 0.0)


def compare(histogram: Histogram, prediction: Any, data: Any, *, weights: Any = None, data_weights: Any = None,
            scale: float | None = None, flow: bool = False, kind: Literal["auto", "poisson", "multinomial"] = "auto",
            mixed: bool = False) -> Comparison:  # fmt: skip
    """Samples of a prediction against data, both counted by `histogram`, with the covariance of both.

    data: samples, or `Counts` of the same binning, whose covariance is taken as it is. An automatic bandwidth is settled by
    the data. scale: None scales the prediction to the data's total, a number by that number. flow: compare under- and
    overflow too. kind: of covariance; auto: multinomial where the total is scaled away, poisson where it counts.

    Data that were counted hard are refused where the prediction is soft: the smoothing then moves parameters by several
    sigma. `mixed` lets it pass and warns of the largest shift of a bin, in its errors.

    >>> from emulate.histograms.soft import Soft
    >>> x = torch.linspace(-2, 2, 401, dtype=torch.float64)
    >>> c = compare(Soft(edges=(-1.0, 0.0, 1.0), bandwidth=0.3), x, x[::4])
    >>> c.dof, bool(c.chi2 < 0.1), c.pull.abs().max() < 0.1
    (2, True, tensor(True))
    """
    kind = ("multinomial" if scale is None else "poisson") if kind == "auto" else kind
    if isinstance(data, Counts):
        seen, bins = data, data.binning
        if seen.values.ndim != len(bins.axes):
            raise InputError(
                f"data must be one histogram. Got counts of shape {list(seen.values.shape)}; compare one by one."
            )
        if seen.covariance is None:
            flat = seen.flat.detach()
            spread = torch.diag(flat.abs()) - (
                torch.outer(flat, flat) / seen.total.detach() if kind == "multinomial" else 0.0
            )
            seen = Counts(seen.values, bins, seen.samples, spread)
    else:
        bins = histogram.binning(data, data_weights)
        seen = Counts.measured(bins, data, data_weights, kind)
    mine = _like(histogram, prediction, weights, bins, mixed)
    made = Counts.measured(mine, prediction, weights, kind)
    if made.values.ndim != len(bins.axes) or seen.values.ndim != len(bins.axes):
        raise InputError("prediction and data must be one histogram each. Got batches; compare one by one.")
    factor = seen.total / made.total if scale is None else torch.as_tensor(scale, dtype=torch.float64)
    if not bool(factor.isfinite()):
        raise InputError(f"the scale must be finite. Got {float(factor)}; a prediction whose weights sum to 0 cannot be "
                         "scaled to the data.")  # fmt: skip
    keep = _compared(made, flow)
    residual = (seen.flat - factor * made.flat)[keep]
    covariance = (seen.known_covariance + factor.detach() ** 2 * made.known_covariance)[keep][:, keep]
    chi2, dof = _chi2(residual, covariance)
    if mine != bins:
        shift = (factor * (made.flat - Counts.of(bins, prediction, weights).flat))[keep].detach().abs()
        worst = float((shift / covariance.diagonal().sqrt().clamp(min=1e-300)).max())
        warnings.warn(f"data that were counted hard are compared with a soft prediction: the smoothing alone moves a bin by up "
                      f"to {worst:.2g} of its errors. Count the data by the same soft histogram, or take a smaller bandwidth "
                      "or richardson.", DoubtWarning, stacklevel=2)  # fmt: skip
    return Comparison(made, seen, factor, residual, covariance, chi2, dof)


def _like(histogram: Histogram, prediction: Any, weights: Any, bins: Binning, mixed: bool) -> Binning:
    """The binning of the prediction: that of the data, unless the user insists on a soft prediction of hard data."""
    auto = getattr(histogram, "bandwidth", None) == "auto" and bool(bins.label)
    mine = bins if auto else histogram.binning(prediction, weights)
    if mine.edges != bins.edges or (auto and axes_of(histogram.edges) != bins.edges):
        raise InputError("prediction and data must have the same edges. Got others; count the data again, or build the "
                         "histogram with the edges of the data's counts, `counts.binning.edges`.")  # fmt: skip
    if mine == bins or (mixed and mine.label and not bins.label):
        return mine
    theirs = bins.label or "hard bins"
    raise InputError(f"prediction and data must be smoothed alike. Got {mine.label or 'hard bins'} and {theirs}; count both "
                     "by one histogram, data as samples, or give mixed=True for hard data and be warned.")  # fmt: skip


def _compared(counts: Counts, flow: bool) -> Tensor:
    """The places of the bins that are compared among all."""
    places = torch.arange(counts.binning.size, device=counts.values.device).reshape(counts.binning.shape)
    return places.flatten() if flow else Counts(places, counts.binning, 0).inside.flatten()


def _chi2(residual: Tensor, covariance: Tensor) -> tuple[Tensor, int]:
    """r^T C^+ r and the rank of C, of the correlations of bins that have an error."""
    error = covariance.diagonal().sqrt()
    lost = (error == 0) & (residual.detach() != 0)
    if lost.any():
        raise InputError(f"a bin that differs must have an error. Got none in bin {int(lost.nonzero()[0])} of those compared; "
                         "merge bins that are empty in one of both.")  # fmt: skip
    live = error > 0
    unit = residual[live] / error[live]
    values, vectors = torch.linalg.eigh(covariance[live][:, live] / error[live] / error[live, None])
    good = values > SMALLEST * (values.max() if len(values) else 0.0)
    along = unit @ vectors[:, good]
    return (along.square() / values[good]).sum(), int(good.sum())
