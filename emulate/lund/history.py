"""`History`: every trial that led to an event, the exact score of each event, and weights for other parameters."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from emulate.errors import InputError
from emulate.lund.emission import AcceptReject, Condition, Emission
from emulate.lund.fragmentation import scores


@dataclass(frozen=True)
class History:
    """The accepted trials of n events in the order in which they were made: those of event i are rows offsets[i] to
    offsets[i + 1] of z, mt2, kick, left, mass2, end, old and new. What was tried before a restart is not in it.

    offsets `[n + 1]` int64; theta `[n, 3]` (a, b in GeV^-2, sigma in GeV) that made the events; z `[E]`; mt2 `[E]` GeV^2;
    kick `[E, 2]` the transverse momentum of the new quark that goes into the hadron, and left `[E, 2]` of the end, GeV;
    mass2 `[E]` of the string before the hadron, GeV^2; end `[E]` +1 or -1; old, new `[E]` flavours. Of the last break
    `[n]`, which makes two hadrons and draws no z: last_kick `[n, 2]`; split = sqrt((W_T^2 - m_T1^2 - m_T2^2)^2 - 4 m_T1^2
    m_T2^2), GeV^2; reversed, bool. tries: how often the string was begun.
    """

    offsets: Tensor
    theta: Tensor
    z: Tensor
    mt2: Tensor
    kick: Tensor
    left: Tensor
    mass2: Tensor
    end: Tensor
    old: Tensor
    new: Tensor
    last_kick: Tensor
    split: Tensor
    reversed: Tensor
    tries: Tensor

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def event(self) -> Tensor:
        """The number of the event of each emission `[E]`, int64."""
        return torch.repeat_interleave(self.offsets.diff())

    def condition(self, theta: Tensor | None = None) -> Condition:
        """What was known of every emission before z was drawn, by its own theta or by another `[3]` or `[n, 3]`."""
        a, b, sigma = self._each(theta).index_select(0, self.event).unbind(1)
        return Condition(a, b, sigma, self.mt2, self.mass2, self.old, self.new)

    def score(self, emission: Emission | None = None) -> Tensor:
        """sum of d ln p(trial) / d(a, b, sigma) over the accepted trials of each event, `[n, 3]`, in closed form; that of
        z by another emission where one made the events.

        The gradient of any expected observable h is dE[h]/dtheta = Cov(h, score): the covariance takes away what the
        restarts do to the normaliser, d ln P(accepted) / dtheta, which is the mean of the score.
        """
        given, event = self.condition(), self.event
        if emission is None:
            of_a, of_c = scores(self.z, given.a, given.c)
            of_b = of_c * self.mt2
        else:
            of_a, of_b = emission.scores(self.z, given)
        _, b, sigma = self.theta.unbind(1)
        total = torch.zeros(len(self), 3, dtype=torch.float64)
        square = self.kick.square().sum(1)
        total.index_add_(0, event, torch.stack((of_a, of_b, square), 1))
        square = total[:, 2] + self.last_kick.square().sum(1)
        backwards = torch.sigmoid(-b * self.split)
        of_split = self.split * torch.where(self.reversed, backwards - 1, backwards)
        of_sigma = 2 * square / sigma**3 - 2 * (self.offsets.diff() + 1) / sigma
        return torch.stack((total[:, 0], total[:, 1] + of_split, of_sigma), 1)

    def log_prob(self, theta: Tensor | None = None, emission: Emission | None = None) -> Tensor:
        """sum of ln p(trial | theta) over the accepted trials of each event `[n]`, differentiable in theta `[3]` or
        `[n, 3]`; z by another emission where one is given. The constant of what does not depend on theta is left out."""
        each = self._each(theta)
        _, b, sigma = each.unbind(1)
        square = self.last_kick.square().sum(1).index_add(0, self.event, self.kick.square().sum(1))
        of_kicks = -square / sigma**2 - 2 * (self.offsets.diff() + 1) * torch.log(sigma)
        of_split = torch.nn.functional.logsigmoid(torch.where(self.reversed, -b * self.split, b * self.split))
        of_z = (emission or AcceptReject()).log_prob(self.z, self.condition(theta))
        return (of_kicks + of_split).index_add(0, self.event, of_z)

    def log_weights(self, theta: Tensor, emission: Emission | None = None) -> Tensor:
        """ln w `[n]` of the events for other parameters, differentiable in theta: E'[h] = sum w h / sum w.

        Dividing by the sum is exact and not a choice: strings that are begun again change the normaliser too. At the
        events' own theta, w = 1 and the derivative of that ratio is the sample's Cov(h, score).
        """
        with torch.no_grad():
            own = self.log_prob()
        return self.log_prob(theta, emission) - own

    def select(self, index: Tensor) -> "History":
        """The history of some events by their numbers, in that order."""
        offsets, rows = ragged(self.offsets, index)
        return History(offsets, **{f.name: getattr(self, f.name).index_select(0, index if f.name in _PER_EVENT else rows)
                                   for f in fields(self)[1:]})  # fmt: skip

    @staticmethod
    def concatenate(parts: Sequence["History"]) -> "History":
        """Histories end to end."""
        sizes = torch.cat([p.offsets.diff() for p in parts])
        offsets = torch.cat((torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)))
        return History(offsets, **{f.name: torch.cat([getattr(p, f.name) for p in parts]) for f in fields(History)[1:]})

    def _each(self, theta: Tensor | None) -> Tensor:
        """theta of every event `[n, 3]`."""
        if theta is None:
            return self.theta
        if theta.shape not in ((3,), (len(self), 3)):
            raise InputError(f"lund: theta must be (a, b, sigma), [3] for all events or [{len(self)}, 3]. Got shape "
                             f"{list(theta.shape)}.")  # fmt: skip
        return theta.expand(len(self), 3)


_PER_EVENT = ("theta", "last_kick", "split", "reversed", "tries")


def ragged(offsets: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """The offsets of a selection of events, and the rows that belong to it."""
    sizes = offsets.diff().index_select(0, index)
    new = torch.cat((torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)))
    shift = offsets.index_select(0, index) - new[:-1]
    return new, torch.arange(int(new[-1])) + torch.repeat_interleave(shift, sizes)
