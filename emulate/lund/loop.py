"""The loop: strings cut from both ends, many events side by side, each with its own theta.

A light-cone fraction z is taken of what its own end has left, not of what the string has left: with x+ of the positive end
left, and x- taken by it so far, a hadron takes z x+ and m_T^2 / (z x+ s). Where that is more than there is, or where the
last two hadrons have no room, the string is begun again.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from emulate.errors import RunFailed
from emulate.lund.assembly import Block, assemble, pack
from emulate.lund.emission import AcceptReject, Condition, Emission
from emulate.lund.events import Events
from emulate.lund.flavours import index
from emulate.lund.joining import Ends, join
from emulate.lund.keyed import Keyed, streams
from emulate.lund.string import String

_BLOCK, _WIDTH = 65536, 16384  # events in memory at once, and side by side in a cache
_MOST_TRIALS = 100_000  # of one event


def generate(theta: Any, n: int | None = None, *, seed: int, string: String | None = None,
             emission: Emission | None = None, first: int = 0) -> Events:  # fmt: skip
    """n events of a string, with their history.

    Args:
        theta: (a, b, sigma), b in GeV^-2 and sigma in GeV: `[3]` for all n events, or `[n, 3]`, one row for each.
        n: how many events; taken from theta where that has rows.
        seed: event i draws from (seed, i) alone, so that the first n of 2n events are the n.
        string: what is fragmented; by default 91.2 GeV between u and anti-u, with mesons of all three flavours.
        emission: how z is drawn; by default the exact density by accept-reject.
        first: the number of the first event, to go on where an earlier call ended.

    Raises:
        InputError: theta is not allowed.
        RunFailed: an event does not come to an end.

    >>> events = generate([0.68, 0.98, 0.335], 100, seed=1)
    >>> bool((events.sum(events.e) - 91.2).abs().max() < 1e-11)
    True
    """
    string, emission = string or String(), emission or AcceptReject()
    theta = string.spread(theta, n)
    with torch.no_grad():
        parts = [_block(part, first + i * _BLOCK, seed, string, emission) for i, part in enumerate(theta.split(_BLOCK))]
    return parts[0] if len(parts) == 1 else Events.concatenate(parts)


@dataclass
class _Slots:
    """The events at work, S side by side; `[2, S]` belongs to both ends, the positive one first."""

    event: Tensor  # [S] number in the block
    key: Tensor  # [S]
    theta: Tensor  # [3, S]
    trial: Tensor  # [S] counted through all tries of the event
    begun: Tensor  # [S] the trial with which this try began
    tries: Tensor  # [S]
    own: Tensor  # [2, S] light-cone fraction that the end has left
    other: Tensor  # [2, S] fraction of the other light cone that the end has taken
    px: Tensor  # [2, S] transverse momentum of the end, GeV
    py: Tensor  # [2, S]
    flavour: Tensor  # [2, S]
    count: Tensor  # [2, S] hadrons that the end has made

    @staticmethod
    def of(event: Tensor, key: Tensor, theta: Tensor, flavour: int) -> "_Slots":
        one = torch.zeros_like(event)
        two, real = one.expand(2, -1).clone(), torch.zeros(2, len(event), dtype=torch.float64)
        return _Slots(event, key, theta, one, one.clone(), one + 1, real + 1, real, real.clone(), real.clone(),
                      two + flavour, two)  # fmt: skip

    def begin(self, which: Tensor, flavour: int) -> None:
        """A fresh string in the slots `which` `[k]`."""
        for column, value in ((self.own, 1), (self.other, 0), (self.px, 0), (self.py, 0), (self.flavour, flavour),
                              (self.count, 0)):  # fmt: skip
            column.index_fill_(1, which, value)
        self.begun.index_copy_(0, which, self.trial.index_select(0, which))

    def put(self, which: Tensor, new: "_Slots") -> None:
        """Other events in the slots `which` `[k]`."""
        for name, column in vars(self).items():
            column.index_copy_(-1, which, getattr(new, name))

    def keep(self, which: Tensor) -> None:
        for name, column in vars(self).items():
            setattr(self, name, column.index_select(-1, which))


def _block(theta: Tensor, first: int, seed: int, string: String, emission: Emission) -> Events:
    n, table, flavour = len(theta), string.flavours.table(), index(string.ends)
    keys, theta_t, block = streams(seed, torch.arange(first, first + n)), theta.T.contiguous(), Block(n)

    def fresh(start: int, stop: int) -> _Slots:
        return _Slots.of(torch.arange(start, stop), keys[start:stop].clone(), theta_t[:, start:stop].clone(), flavour)

    waiting = min(_WIDTH, n)
    slots = fresh(0, waiting)
    while len(slots.event):
        over, good = _trial(slots, string, table, emission, block)
        slots.trial += 1
        bad = (over & ~good).nonzero().view(-1)
        if len(bad):
            slots.begin(bad, flavour)
            slots.tries.index_add_(0, bad, torch.ones_like(bad))
            if int(slots.trial.max()) > _MOST_TRIALS:
                stuck = slots.theta[:, slots.trial.argmax()].tolist()
                raise RunFailed("error", f"lund: a string of {string.energy} GeV must end after some tries. None of {_MOST_TRIALS} "
                                f"trials ended it at a, b, sigma = {stuck}; take other values, or more energy.")  # fmt: skip
        done = good.nonzero().view(-1)
        more = min(len(done), n - waiting)
        if more:
            slots.put(done[:more], fresh(waiting, waiting + more))
            waiting += more
        if more < len(done):
            alive = torch.ones(len(slots.event), dtype=torch.bool)
            alive[done[more:]] = False
            slots.keep(alive.nonzero().view(-1))
    return assemble(block, theta, string.energy, table)


def _trial(slots: _Slots, string: String, table: Any, emission: Emission, block: Block) -> tuple[Tensor, Tensor]:
    """One hadron of each event, or its last two; whether the try is over `[S]`, and whether it made an event `[S]`."""
    noise, s = Keyed(slots.key, slots.trial), string.energy**2
    of_flavour, of_size, of_angle, of_side = noise.uniform(4)
    a, b, sigma = slots.theta
    width = len(of_side)
    side = (of_side < 0.5).to(torch.int64)  # 0 is the positive end
    of_smear = of_side - 0.5 * (1 - side)  # below a half lie as good numbers as above it
    now = side * width + torch.arange(width)
    own, other, px, py, old = (c.view(-1).index_select(0, now)
                               for c in (slots.own, slots.other, slots.px, slots.py, slots.flavour))  # fmt: skip
    new, hadron = table.pick(old, of_flavour)
    mass = table.masses.index_select(0, hadron)
    size, angle = sigma * torch.sqrt(-torch.log(of_size)), (2 * math.pi) * of_angle  # two Gaussians of sigma^2 / 2
    kx, ky = size * torch.cos(angle), size * torch.sin(angle)
    mt2 = mass.square() + (px + kx).square() + (py + ky).square()

    plus, minus = slots.own[0] - slots.other[1], slots.own[1] - slots.other[0]  # light-cone fractions of what is left
    mass2 = s * plus * minus - (slots.px[0] + slots.px[1]).square() - (slots.py[0] + slots.py[1]).square()
    heavy = table.constituent.index_select(0, slots.flavour.view(-1)).view(2, -1).sum(0)
    heavy += string.stop + string.stop_new * table.constituent.index_select(0, new)
    smear = 1 + string.smear * (4 * of_smear - 1)
    lost = plus + minus < 0
    last = lost | (mass2 < (heavy * smear).square())

    z = emission.sample(Condition(a, b, sigma, mt2, mass2, old, new), noise)
    taken = z * own
    lost |= ~last & (mt2 >= taken * (1 - other) * s)
    number = slots.count.view(-1).index_select(0, now)
    kept = (~last).to(torch.int64)
    block.emission((((slots.event << 32) + slots.trial + 1) * kept).sub_(1),
                   pack(hadron, new, old, side, number, slots.count.sum(0)), (z, own, mt2, mass2, kx, ky, px, py))  # fmt: skip

    good = torch.zeros_like(last)
    at = (last & ~lost & (plus > 0) & (minus > 0)).nonzero().view(-1)
    if len(at):
        mine = (c.index_select(-1, at) for c in (b, side, slots.flavour, slots.px, slots.py, new, hadron, kx, ky, mt2))
        ends = Ends(*mine, plus=string.energy * plus[at], minus=string.energy * minus[at])
        pair = join(ends, table, noise.select(at).later())
        final = torch.stack((slots.event, slots.begun, slots.tries, *slots.count))[:, at].T
        block.last(pair, final, torch.stack((ends.kx, ends.ky), 1))
        good[at] = pair.good
    for column, value in ((slots.own, own - taken), (slots.other, other + mt2 / (taken * s)), (slots.px, -kx),
                          (slots.py, -ky), (slots.flavour, new), (slots.count, number + 1)):  # fmt: skip
        column.view(-1).index_copy_(0, now, value)
    return last | lost, good
