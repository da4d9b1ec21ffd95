"""`Events`: n events as ragged columns, the hadrons of all events end to end."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from emulate.errors import InputError
from emulate.lund.flavours import charge
from emulate.lund.history import History, ragged


@dataclass(frozen=True)
class Events:
    """The hadrons of n events: those of event i are rows offsets[i] to offsets[i + 1] of every column.

    offsets `[n + 1]` int64; px, py, pz, e, mass `[N]` float64 in GeV, in the rest frame of the string, which lies along z;
    code `[N]` int64 of the Particle Data Group. Hadrons are in order along the string, the positive end first. history:
    how the events came about, where that is known.

    >>> zero = torch.zeros(3, dtype=torch.float64)
    >>> events = Events(torch.tensor([0, 2, 3]), zero, zero, zero, zero + 1, zero + 1, torch.tensor([211, -211, 111]))
    >>> len(events), events.multiplicity.tolist(), events.charged.tolist()
    (2, [2, 1], [True, True, False])
    """

    offsets: Tensor
    px: Tensor
    py: Tensor
    pz: Tensor
    e: Tensor
    mass: Tensor
    code: Tensor
    history: History | None = None

    def __post_init__(self) -> None:
        size = int(self.offsets[-1])
        for name in ("px", "py", "pz", "e", "mass", "code"):
            if getattr(self, name).shape != (size,):
                raise InputError(f"events: {name} must have one entry for each hadron, {size} by the offsets. Got shape "
                                 f"{list(getattr(self, name).shape)}.")  # fmt: skip

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def multiplicity(self) -> Tensor:
        """Hadrons per event `[n]`, int64."""
        return self.offsets.diff()

    @cached_property
    def event(self) -> Tensor:
        """The number of the event of each hadron `[N]`, int64."""
        return torch.repeat_interleave(self.multiplicity)

    @cached_property
    def charge(self) -> Tensor:
        """Electric charge of each hadron `[N]`, int64."""
        return charge(self.code)

    @property
    def charged(self) -> Tensor:
        """Whether each hadron is charged, bool `[N]`."""
        return self.charge != 0

    @property
    def momentum(self) -> Tensor:
        """(E, px, py, pz) of each hadron `[N, 4]`, GeV."""
        return torch.stack((self.e, self.px, self.py, self.pz), 1)

    def sum(self, x: Tensor) -> Tensor:
        """A column `[N, ...]` of hadrons summed over each event, `[n, ...]`."""
        total = torch.zeros(len(self), *x.shape[1:], dtype=x.dtype)
        return total.index_add_(0, self.event, x)

    def select(self, index: Tensor) -> "Events":
        """Some events by their numbers, in that order, or by a mask `[n]`."""
        index = index.nonzero().view(-1) if index.dtype == torch.bool else index
        offsets, rows = ragged(self.offsets, index)
        columns = {f.name: getattr(self, f.name).index_select(0, rows) for f in fields(self)[1:-1]}
        return Events(offsets, **columns, history=self.history and self.history.select(index))

    @staticmethod
    def concatenate(parts: Sequence["Events"]) -> "Events":
        """Events end to end; the history is kept where every part has one."""
        sizes = torch.cat([p.multiplicity for p in parts])
        offsets = torch.cat((torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)))
        columns = {f.name: torch.cat([getattr(p, f.name) for p in parts]) for f in fields(Events)[1:-1]}
        histories = [p.history for p in parts if p.history is not None]
        whole = History.concatenate(histories) if len(histories) == len(parts) else None
        return Events(offsets, **columns, history=whole)

    def to_awkward(self) -> Any:
        """An awkward array of events with the fields px, py, pz, e, mass, code; the package awkward must be installed.

        Raises:
            InputError: it is not.
        """
        try:
            import awkward  # pyright: ignore[reportMissingImports]  (of no extra: who has it, uses it)
        except ImportError:
            raise InputError("events.to_awkward must have the package awkward. It is not installed: `pip install awkward`, "
                             "or use the columns and offsets.") from None  # fmt: skip
        sizes = self.multiplicity.numpy()
        columns = {f.name: awkward.unflatten(getattr(self, f.name).numpy(), sizes) for f in fields(self)[1:-1]}
        return awkward.zip(columns)
