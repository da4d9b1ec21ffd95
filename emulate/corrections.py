"""What true runs at the posterior mean say of it: the shift of the answer, with its standard error, to first order."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from emulate.contracts import Confirmation
from emulate.distributions import gaussian_of


@dataclass(frozen=True)
class Correction:
    """A posterior mean held against true runs made there: d parameters, m outputs, k runs.

    theta and sd `[d]` of the posterior; each `[k, d]`: the delta that every run alone gives; residual `[m]`: the mean of the
    runs less the prediction, and scatter `[m]`: the standard deviation of one run as predicted; chi2 of the runs against the
    prediction, over `numbers` outputs of runs.
    """

    theta: Tensor
    sd: Tensor
    each: Tensor
    residual: Tensor
    scatter: Tensor
    chi2: float
    numbers: int

    @property
    def delta(self) -> Tensor:
        """By how much the posterior mean is too high `[d]`, in the units of the parameters."""
        return self.each.mean(0)

    @property
    def error(self) -> Tensor:
        """The standard error of delta `[d]`, by the scatter of the runs."""
        return self.each.std(0) / len(self.each) ** 0.5

    @property
    def corrected(self) -> Tensor:
        """theta - delta `[d]`."""
        return self.theta - self.delta

    @property
    def finite(self) -> bool:
        known = torch.cat(
            [self.theta, self.sd, self.error, self.corrected, torch.tensor([self.chi2], dtype=torch.float64)]
        )
        return bool(known.isfinite().all())


def correct(emulator: Any, known: Confirmation) -> Correction:
    r"""The mean of the posterior that the emulator would give with its bias, as true runs show it at one point, taken off.

    A prediction r(theta) that is too low by b, the mean of the true runs less r at theta, moves the posterior mean up by

        delta = V J^T C^-1 b,    J = dr/dtheta,

    to first order in b: C the likelihood's covariance of the data about the prediction, V that of the posterior's draws. For
    Gaussian priors and linear r, V is (J^T C^-1 J + 1 / prior variance)^-1, and delta is exact for a b that is the same
    everywhere; V of the draws holds for other priors and at the edges of a box too. The runs are independent, so that
    each gives a delta of its own, and their scatter the standard error, whatever the emulator says of it: about k^-1/2
    posterior standard deviations for k runs, where the observation is one run.

    Trust it where it is small: what b changes over the shift, and the curvature of r there, are left out, of second order.

    >>> from emulate.emulator import fit
    >>> from emulate.emulators.polynomial import Polynomial
    >>> from emulate.runs import Field, Outputs, Runs
    >>> from emulate.space import Parameter, Space, Uniform
    >>> a = torch.linspace(0, 1, 11, dtype=torch.float64)[:, None]
    >>> runs = Runs.of(Space((Parameter("a", Uniform(0, 1)),)), Outputs((Field("y"),)), a, a)
    >>> emulator = fit(Polynomial(), runs, seed=0)
    >>> here, one = torch.tensor([0.5], dtype=torch.float64), torch.eye(1, dtype=torch.float64)
    >>> true = torch.tensor([[0.51], [0.53]], dtype=torch.float64)  # y = a + 0.02 of a = 0.5, twice
    >>> c = correct(emulator, Confirmation(here, 0.01 * one, true, 0.01 * one))
    >>> [round(float(x), 3) for x in (c.delta, c.error, c.corrected)]
    [0.02, 0.01, 0.48]
    """
    mean, own = (part[0].detach() for part in gaussian_of(emulator.predict(known.theta[None])))
    off = known.y - mean
    each = moved_by(emulator, known.theta, known.covariance, known.spread, off)
    scatter = own.diagonal().sqrt()
    moved = (known.y != known.y[0]).any(0) | (off.abs() > scatter).any(0)  # the others are constants, rightly predicted
    z = _whitened(own[moved][:, moved], off[:, moved].mT)
    return Correction(known.theta, known.covariance.diagonal().sqrt(), each, off.mean(0), scatter,
                      float(z.square().sum()) if moved.any() else float("nan"), len(off) * int(moved.sum()))  # fmt: skip


def moved_by(emulator: Any, theta: Tensor, covariance: Tensor, spread: Tensor, off: Tensor) -> Tensor:
    """By how much the posterior mean moves where the data do by `off` `[k, m]`: V J^T C^-1 off, `[k, d]`; spread is C."""
    gain = _whitened(spread, emulator.jacobian(theta[None])[0].detach())  # J^T C^-1 y = (L^-1 J)^T L^-1 y
    return (gain.mT @ _whitened(spread, off.mT)).mT @ covariance


def _whitened(covariance: Tensor, x: Tensor) -> Tensor:
    """L^-1 x of x `[m, n]`, L L^T the covariance `[m, m]`; NaN where that is none."""
    sd = covariance.diagonal().sqrt()  # unit diagonal first: outputs may differ by twenty decades
    factor, failed = torch.linalg.cholesky_ex(covariance / (sd[:, None] * sd))
    y = torch.linalg.solve_triangular(factor, x / sd[:, None], upper=False)
    return y.where(failed == 0, torch.nan)
