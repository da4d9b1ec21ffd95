"""`String`: what is fragmented, and by which rules; `theta` checked and spread over events."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from emulate.errors import InputError
from emulate.lund.flavours import QUARKS, Flavours, index
from emulate.lund.fragmentation import A_MOST

NAMES = ("a", "b", "sigma")
KINDS = {"pions": Flavours.pions(), "mesons": Flavours(), "baryons": Flavours(diquark=0.081)}
B_LEAST, B_MOST = 0.01, 50.0  # GeV^-2
SIGMA_LEAST, SIGMA_MOST = 0.01, 2.0  # GeV


@dataclass(frozen=True)
class String:
    """A straight string between a quark (positive end, +z) and its antiquark, at rest.

    It is cut from either end at random until the mass left is below
    (stop + m_1 + m_2 + stop_new m_new) (1 +- smear), with constituent masses of both ends and of the new pair; then the
    pair at hand makes the last two hadrons (Sjostrand 1984; the rules and numbers are those of Pythia 8.3). With
    `flavours = Flavours.pions()` it is the pion string that Pythia's own can be compared with.
    """

    energy: float = 91.2  # GeV, the mass of the string
    ends: str = "u"  # flavour of the quark and of the antiquark
    flavours: Flavours = field(default_factory=Flavours)
    stop: float = 0.8  # GeV
    stop_new: float = 2.0
    smear: float = 0.2  # half width of a flat factor

    def __post_init__(self) -> None:
        index(self.ends)
        if not (math.isfinite(self.stop) and self.stop > 0 and self.stop_new >= 0 and 0 <= self.smear < 1):
            raise InputError("lund: stop must be a positive mass in GeV, stop_new at least 0, and smear from 0 to below 1. "
                             f"Got stop = {self.stop}, stop_new = {self.stop_new}, smear = {self.smear}.")  # fmt: skip
        if not (math.isfinite(self.energy) and self.energy >= self.threshold):
            raise InputError(f"lund: energy must be at least {self.threshold:.4g} GeV, the mass at which a string of these "
                             f"flavours is cut no more. Got {self.energy} GeV; raise it, or lower stop.")  # fmt: skip
        if self.energy > 1e5:
            raise InputError(
                f"lund: energy must be at most 1e5 GeV, or rounding would show in the momenta. Got {self.energy}."
            )

    @property
    def threshold(self) -> float:
        """The highest mass in GeV at which the first step could already be the last."""
        table = self.flavours.table()
        strange = self.flavours.strangeness > 0
        end, new = (float(table.constituent[index(q)]) for q in (self.ends, "s" if strange else "u"))
        if self.flavours.diquark:
            new *= 2
        return (self.stop + 2 * end + self.stop_new * new) * (1 + self.smear)

    def spread(self, theta: Any, n: int | None) -> Tensor:
        """theta of every event `[n, 3]` float64, checked, from `[3]` and n or from `[n, 3]`."""
        theta = torch.as_tensor(theta, dtype=torch.float64).detach()
        if theta.shape == (3,) and n is not None and n >= 1:
            theta = theta.expand(n, 3)
        if theta.ndim != 2 or theta.shape[1] != 3 or len(theta) < 1 or n not in (None, len(theta)):
            raise InputError("lund: theta must be (a, b, sigma), [3] together with a number of events, or [n, 3] with one row "
                             f"for each event. Got shape {list(theta.shape)} and n = {n}.")  # fmt: skip
        allowed = ((0.0, A_MOST, ""), (B_LEAST, B_MOST, " GeV^-2"), (SIGMA_LEAST, SIGMA_MOST, " GeV"))
        for name, column, (low, high, unit) in zip(NAMES, theta.unbind(1), allowed, strict=True):
            bad = ~((column >= low) & (column <= high))
            if bool(bad.any()):
                raise InputError(f"lund: {name} must be from {low:g} to {high:g}{unit}. Got {float(column[bad][0])!r}.")
        return theta.contiguous()


__all__ = ["KINDS", "NAMES", "QUARKS", "String"]
