"""The one number on top: how much of a posterior is due to the emulator, in standard deviations, with its error bar."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import torch

from emulate.contracts import Confirmation
from emulate.corrections import Correction
from emulate.importance import Measured, Reweighted, rooted


@dataclass(frozen=True)
class Bias:
    """What the emulator does to a posterior, in standard deviations of the true one.

    move: all shifts of means together, (Delta^T C^-1 Delta)^1/2; most: the parameter that is shifted most, and by how much;
    factor: of the widths, the geometric mean over all directions, None where no true run says it; whole: both together, the
    root of 2 KL(true || surrogate), which for a pure shift is that shift; where only the shift is known, that.
    """

    move: Measured
    most: tuple[str, float]
    factor: Measured | None
    whole: Measured

    @property
    def sentence(self) -> str:
        """For a human, to the digits that the errors leave.

        >>> Bias(Measured(0.081, 0.03), ("h", 0.06), Measured(1.012, 0.02), Measured(0.093, 0.03)).sentence
        'The emulator moves the posterior by 0.08 +- 0.03 sigma (most in h, 0.06) and changes its width by a factor of 1.01 +- 0.02; in all 0.09 +- 0.03 sigma.'
        """  # noqa: E501
        if not isfinite(self.whole.value + self.whole.error + self.move.value + self.move.error):
            return "True runs do not say how much of the posterior is due to the emulator."
        name, value = self.most
        moves = (f"The emulator moves the posterior by {_written(self.move)} sigma (most in {name}, "
                 f"{value:.{_digits(self.move.error)}f})")  # fmt: skip
        if self.factor is None:
            return f"{moves}; no true run says what it does to its width."
        return f"{moves} and changes its width by a factor of {_written(self.factor)}; in all {_written(self.whole)} sigma."

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON: the sentence, and every number with its error."""
        told = {"move": self.move, "factor": self.factor, "whole": self.whole}
        numbers = {k: {"value": v.value, "error": v.error} for k, v in told.items() if v is not None}
        return {"sentence": self.sentence, **numbers, "most": {"parameter": self.most[0], "value": self.most[1]}}

    def metrics(self) -> dict[str, float]:
        """`bias`, `bias_error` and their parts by name, for a tracker."""
        told = {"bias": self.whole, "bias/move": self.move, "bias/factor": self.factor}
        return {n: x for k, v in told.items() if v is not None for n, x in ((k, v.value), (f"{k}_error", v.error))
                if isfinite(x)}  # fmt: skip


def by_weights(made: Reweighted, names: Sequence[str]) -> Bias:
    """From true runs at draws of the surrogate posterior."""
    i = int(made.shift.abs().nan_to_num(-1).argmax())
    return Bias(made.move, (names[i], abs(float(made.shift[i]))), made.factor, made.distance)


def by_confirmation(made: Correction, known: Confirmation, names: Sequence[str]) -> Bias:
    """From true runs of a stochastic simulator at the posterior mean; the noise of the runs is taken off the square."""
    root = torch.linalg.cholesky(known.covariance)
    each = torch.linalg.solve_triangular(root, made.each.mT, upper=False).mT  # [k, d], in posterior standard deviations
    k, delta, noise = len(each), each.mean(0), each.mT.cov().reshape(each.shape[1], -1) / len(each)
    square = float(delta @ delta - noise.trace())
    error = float((4 * delta @ noise @ delta + 2 * noise.square().sum()).sqrt()) if k > 1 else float("nan")
    move, shift = rooted(Measured(square, error)), (made.delta / made.sd).abs()
    i = int(shift.argmax())
    return Bias(move, (names[i], float(shift[i])), None, move)


def _digits(error: float) -> int:
    """Decimals to which a number with this error is written: 2, and more where the error is below 0.01."""
    return next((n for n in (2, 3, 4) if round(error, n) > 0), 2)


def _written(x: Measured) -> str:
    n = _digits(x.error)
    return f"{x.value:.{n}f} +- {x.error:.{n}f}"
