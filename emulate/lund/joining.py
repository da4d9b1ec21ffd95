"""The last two hadrons of a string: from the two ends and the pair between them, by two-body kinematics."""

from dataclasses import dataclass

import torch
from torch import Tensor

from emulate.lund.flavours import Table
from emulate.lund.keyed import Keyed


@dataclass(frozen=True)
class Ends:
    """What is left of k strings when a pair is to make two hadrons of it; `[2, k]` are both ends, the positive one first.

    side `[k]` is the end (0 or 1) that has its hadron already; mt2 of that; kick (kx, ky) is the momentum of its quark of
    the pair. plus, minus are what is left of either light-cone momentum, GeV.
    """

    b: Tensor
    side: Tensor
    flavour: Tensor  # [2, k]
    px: Tensor  # [2, k]
    py: Tensor  # [2, k]
    new: Tensor
    hadron: Tensor
    kx: Tensor
    ky: Tensor
    mt2: Tensor
    plus: Tensor
    minus: Tensor


@dataclass(frozen=True)
class Pair:
    """The last two hadrons of k events, `[2, k]` with that of the positive end first; lightcone E + pz and E - pz.

    split, reversed `[k]` as in `History`; good `[k]` says whether there was room, and numbers of others mean nothing.
    """

    hadron: Tensor
    px: Tensor
    py: Tensor
    plus: Tensor
    minus: Tensor
    split: Tensor
    reversed: Tensor
    good: Tensor


def join(ends: Ends, table: Table, noise: Keyed) -> Pair:
    """Both hadrons with exactly the momentum that is left.

    With lambda^2 = (W_T^2 - m_T1^2 - m_T2^2)^2 - 4 m_T1^2 m_T2^2 the hadron of the positive end flies forwards in the frame
    of the two with probability 1 / (1 + exp(-b lambda)), else backwards.
    """
    u, v = noise.uniform(2)
    mine = torch.arange(len(u)), ends.side
    flavour = ends.flavour[1 - ends.side, mine[0]]
    second, possible = table.join(flavour, ends.new, u)
    hadron = torch.stack(
        (torch.where(ends.side == 0, ends.hadron, second), torch.where(ends.side == 0, second, ends.hadron))
    )
    sign = 1 - 2 * ends.side  # +1 where the positive end had its hadron first
    px = torch.stack((ends.px[0] + sign * ends.kx, ends.px[1] - sign * ends.kx))
    py = torch.stack((ends.py[0] + sign * ends.ky, ends.py[1] - sign * ends.ky))
    m1, m2 = table.masses[hadron].square() + px.square() + py.square()  # m_T^2
    whole = ends.plus * ends.minus  # W_T^2
    square = (whole - m1 - m2).square() - 4 * m1 * m2
    good = possible & (torch.sqrt(whole) > torch.sqrt(m1) + torch.sqrt(m2)) & (square > 0)
    split = torch.sqrt(square.clamp(min=0.0))
    backwards = v * (1 + torch.exp(ends.b * split)) < 1
    along = 0.5 * split / whole * torch.where(backwards, -1.0, 1.0)
    energy = 0.5 * (1 + torch.stack((m1 - m2, m2 - m1)) / whole)
    along = torch.stack((along, -along))
    hadron[1] = table.conjugate[hadron[1]]
    return Pair(hadron, px, py, (energy + along) * ends.plus, (energy - along) * ends.minus, split, backwards, good)
