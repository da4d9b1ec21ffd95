"""From the trials of a block of events, made side by side, to events and histories in order."""

import torch
from torch import Tensor

from emulate.lund.events import Events
from emulate.lund.flavours import Table
from emulate.lund.history import History
from emulate.lund.joining import Pair

_REAL = ("z", "own", "mt2", "mass2", "kx", "ky", "px", "py")
_PAIR = ("hadron", "px", "py", "plus", "minus", "split", "reversed")


class Block:
    """What the loop wrote down of n events, in the order in which it came."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.columns: list[tuple[Tensor, ...]] = []  # [S] each: what by `pack`, then `_REAL`
        self.when: list[Tensor] = []  # [S] event and trial, -1 where it was no emission
        self.pairs: list[Pair] = []
        self.finals: list[Tensor] = []  # [k, 5]: event, begun, tries, hadrons of either end
        self.last_kicks: list[Tensor] = []

    def emission(self, when: Tensor, what: Tensor, real: tuple[Tensor, ...]) -> None:
        """A hadron of each event: when as `event << 32 | trial` or -1, what by `pack`, and the numbers of `_REAL`."""
        self.when.append(when)
        self.columns.append((what, *real))

    def last(self, pair: Pair, final: Tensor, kick: Tensor) -> None:
        """Pairs that were tried, the numbers `[k, 5]` of their events, and the kicks `[k, 2]` of their breaks."""
        self.pairs.append(pair)
        self.finals.append(final)
        self.last_kicks.append(kick)


def pack(hadron: Tensor, new: Tensor, old: Tensor, side: Tensor, number: Tensor, order: Tensor) -> Tensor:
    """hadron, flavours, end, number of the hadron at that end and in the event, in bits 0, 8, 16, 24, 32 and 48."""
    return hadron + (new << 8) + (old << 16) + (side << 24) + (number << 32) + (order << 48)


def assemble(block: Block, theta: Tensor, energy: float, table: Table) -> Events:
    """The events of a block in order, each with its hadrons along the string and its trials as they were made."""
    final, good = torch.cat(block.finals), torch.cat([p.good for p in block.pairs]).nonzero().view(-1)
    turn = good.index_select(0, final[:, 0].index_select(0, good).argsort())  # event i is row turn[i] of the pairs
    begun, tries, first, second = final.index_select(0, turn)[:, 1:].unbind(1)
    starts = torch.cat((torch.zeros(1, dtype=torch.int64), (first + second).cumsum(0)))  # of emissions
    offsets = starts + 2 * torch.arange(block.n + 1)  # of hadrons

    when = torch.cat(block.when)
    event = when >> 32  # -1 where it was no emission, and then the trial, 2^32 - 1, must not count
    chosen = ((when >= 0) & ((when & 0xFFFFFFFF) >= begun[event])).nonzero().view(-1)
    event = event.index_select(0, chosen)
    what, *real = (torch.cat(column) for column in zip(*block.columns, strict=True))
    order = what.index_select(0, chosen) >> 48
    in_time = torch.empty_like(chosen).scatter_(0, starts.index_select(0, event) + order, chosen)
    what, z, own, mt2, mass2, kx, ky, px, py = (column.index_select(0, in_time) for column in (what, *real))
    event = torch.repeat_interleave(first + second)
    hadron, new, old, side = (what >> shift & 0xFF for shift in (0, 8, 16, 24))
    number = what >> 32 & 0xFFFF

    # The positive end's hadrons fill an event from its front, the negative end's from its back.
    ends = torch.stack((offsets[:-1], offsets[1:] - 1)).view(-1)
    place = ends.index_select(0, side * block.n + event) + (1 - 2 * side) * number
    along = z * own * energy  # E +- pz
    across = mt2 / along
    pair = {k: torch.cat([getattr(p, k) for p in block.pairs], -1).index_select(-1, turn) for k in _PAIR}
    middle = offsets[:-1] + first
    columns = torch.empty(int(offsets[-1]), 5, dtype=torch.float64)
    kind = (hadron + side * len(table.codes)).double()  # of the negative end the antiparticle
    columns[place] = torch.stack((0.5 * (along + across), px + kx, py + ky, (0.5 - side) * (along - across), kind), 1)
    both = (0.5 * (pair["plus"] + pair["minus"]), pair["px"], pair["py"], 0.5 * (pair["plus"] - pair["minus"]),
            pair["hadron"].double())  # fmt: skip
    columns[torch.stack((middle, middle + 1))] = torch.stack(both, -1)
    e, px_of, py_of, pz, kind = columns.T.contiguous()
    hadron = torch.cat((torch.arange(len(table.codes)), table.conjugate)).index_select(0, kind.long())
    history = History(
        offsets=starts, theta=theta, z=z, mt2=mt2, kick=torch.stack((kx, ky), 1), left=torch.stack((px, py), 1),
        mass2=mass2, end=1 - 2 * side, old=old, new=new, last_kick=torch.cat(block.last_kicks).index_select(0, turn),
        split=pair["split"], reversed=pair["reversed"], tries=tries)  # fmt: skip
    return Events(offsets, px_of, py_of, pz, e, table.masses.index_select(0, hadron),
                  table.codes.index_select(0, hadron), history)  # fmt: skip
