"""What the estimators of this room share: the mean over replicates with its error, and the length of a step."""

import math
from typing import Any

import torch
from torch import Tensor

from emulate.contracts import FOLLOWS, Estimate
from emulate.errors import InputError
from emulate.meter import Meter


def averaged(values: Tensor, slopes: Tensor, *, random: bool, calls: int, meter: Meter, bias_bound: Tensor | None = None,
             diagnostics: dict[str, Any] | None = None) -> Estimate:  # fmt: skip
    """The mean over n independent replicates: values `[n, m]`, slopes `[n, m, d]`.

    The covariance is S / n with S the sample covariance of the slopes. What is not random has error 0; one replicate of
    what is random has error NaN.
    """
    n = len(slopes)
    if not (slopes.isfinite().all() and values.isfinite().all()):
        bad = int((~(slopes.isfinite().flatten(1).all(1) & values.isfinite().all(1))).sum())
        raise InputError(f"f and its derivative must be finite in every replicate. Got {bad} of {n} that are not; look at "
                         "f there, or use a method that only runs f.")  # fmt: skip
    gradient, m, d = slopes.mean(0), slopes.shape[1], slopes.shape[2]
    if not random:
        covariance = slopes.new_zeros(m, d, d)
    elif n == 1:
        covariance = slopes.new_full((m, d, d), math.nan)
    else:
        off = slopes - gradient
        covariance = torch.einsum("nmi,nmj->mij", off, off) / (n * (n - 1))
    error = covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    return Estimate(values.mean(0), gradient, error, calls, meter.seconds, diagnostics or {}, covariance,
                    FOLLOWS if bias_bound is None else bias_bound,
                    meter.peak_memory, n if random and n > 1 else 0)  # fmt: skip


def lengths(scale: tuple[float, ...], theta: Tensor) -> Tensor:
    """The typical size of each parameter: the one given, else |theta|, or 1 where theta is 0."""
    if not scale:
        return torch.where(theta == 0, 1.0, theta.abs())
    sizes = torch.tensor(scale, dtype=theta.dtype)
    if sizes.shape != theta.shape or not (torch.isfinite(sizes) & (sizes > 0)).all():
        raise InputError(f"scale must be {len(theta)} numbers above 0, one for each parameter. Got {scale}.")
    return sizes
