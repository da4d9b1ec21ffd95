"""What Pythia does at each end of a string: a user hook that writes down every emission, and the tables made of it."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from emulate.errors import RunFailed
from emulate.lund.emission import Condition
from emulate.lund.flavours import NAMES
from emulate.lund.history import History

_REAL = ("z", "mt2", "kick_x", "kick_y", "left_x", "left_y", "plus", "minus")
_LAST = 6
_CODES = {"d": 1, "u": 2, "s": 3, "dd": 1103, "ud": 2103, "uu": 2203, "sd": 3103, "su": 3203, "ss": 3303}
_SPINLESS = {"ud": 2101, "sd": 3101, "su": 3201}


@dataclass(frozen=True)
class Emissions:
    """Every emission of Pythia's strings, also those of strings that were begun again, in the order in which they were made.

    An emission flow is trained on all of them: which strings are begun again depends on z, so that z of the accepted ones
    alone does not follow f(z).

    event `[E]` number of the event; accepted `[E]` bool, whether it is part of the event; theta `[E, 3]` (a, b in GeV^-2,
    sigma in GeV); z `[E]`; mt2 `[E]` GeV^2; kick `[E, 2]` the transverse momentum of the new quark that goes into the hadron,
    and left `[E, 2]` of the end, GeV; mass2 `[E]` of the string before the hadron, GeV^2; end `[E]` +1 or -1; old, new `[E]`
    flavours, as `emulate.lund.flavours.NAMES` counts them.
    """

    event: Tensor
    accepted: Tensor
    theta: Tensor
    z: Tensor
    mt2: Tensor
    kick: Tensor
    left: Tensor
    mass2: Tensor
    end: Tensor
    old: Tensor
    new: Tensor

    def __len__(self) -> int:
        return len(self.z)

    def condition(self) -> Condition:
        """What was known of every emission before z was drawn."""
        a, b, sigma = self.theta.unbind(1)
        return Condition(a, b, sigma, self.mt2, self.mass2, self.old, self.new)


class Notes:
    """What the hook writes: a row for each emission, and where strings and events begin."""

    def __init__(self) -> None:
        self.real = array("d")  # rows of `_REAL`
        self.whole = array("q")  # rows of end, code of the end, code of the new flavour
        self.begun = array("q")  # the emission with which each string begins
        self.last = array("d")  # rows of the last two hadrons: kick_x, kick_y, mt2 of both, rapidity of both
        self.ended = array("q")  # the string of each event

    def end_event(self) -> None:
        """The event is good: its string is the last one that was begun."""
        if len(self.last) != _LAST * (len(self.ended) + 1):
            raise RunFailed("error", "pythia: emissions must be those of one straight string per event. An event had none, or "
                            "more than one; give it more energy, and leave the settings of fragmentation alone.")  # fmt: skip
        self.ended.append(len(self.begun) - 1)

    def drop_event(self) -> None:
        """The event came to nothing; its strings stay, as strings that were begun in vain."""
        del self.last[_LAST * len(self.ended) :]


def recorder(package: ModuleType, notes: Notes) -> Any:
    """A hook of Pythia that fills the notes; whoever gives it to Pythia keeps it alive."""

    class Recorder(package.UserHooks):
        def canVetoFragmentation(self) -> bool:
            return True

        def setStringEnds(self, *_: Any) -> None:
            notes.begun.append(len(notes.whole) // 3)

        def doVetoFragmentation(self, *met: Any) -> bool:
            if len(met) == 4:
                one, two, first, second = met
                notes.last.extend((first.pxNew, first.pyNew, first.mT2Had, second.mT2Had, one.y(), two.y()))
                return False
            end = met[1]
            notes.real.extend(
                (end.zHad, end.mT2Had, end.pxNew, end.pyNew, end.pxOld, end.pyOld, end.xPosHad, end.xNegHad)
            )
            notes.whole.extend((end.fromPos, end.flavOld.id, end.flavNew.id))
            return False

    return Recorder()


def emissions(notes: Notes, theta: Sequence[float], energy: float) -> tuple[Emissions, History]:
    """All emissions of straight strings of one energy in GeV, and the history of the events."""
    real = np.array(notes.real).reshape(-1, len(_REAL))
    whole = np.array(notes.whole).reshape(-1, 3)
    begun, ended = np.array(notes.begun), np.array(notes.ended)
    sizes = np.diff(np.append(begun, len(real)))
    string = np.repeat(np.arange(len(begun)), sizes)
    event = np.searchsorted(ended, string)  # strings up to the one that ended well belong to that event
    column: dict[str, np.ndarray] = dict(zip(_REAL, real.T, strict=True))

    plus, minus, mass2 = _left(column, begun, string, energy)
    accepted = np.zeros(len(begun), bool)
    accepted[ended] = True
    flavours = _flavours(whole[:, 1:])
    pairs = {name: np.stack((column[f"{name}_x"], column[f"{name}_y"]), 1) for name in ("kick", "left")}
    table = {"z": column["z"], "mt2": column["mt2"], **pairs, "mass2": mass2, "end": 2 * whole[:, 0] - 1,
             "old": flavours[:, 0], "new": flavours[:, 1]}  # fmt: skip
    tensors = {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in table.items()}
    given = torch.tensor(theta, dtype=torch.float64)
    every = Emissions(
        torch.from_numpy(event), torch.from_numpy(accepted[string]), given.expand(len(real), 3), **tensors
    )

    rows = torch.from_numpy(np.flatnonzero(accepted[string]))
    kick_x, kick_y, mt2, mt2_other, y, y_other = np.array(notes.last).reshape(-1, _LAST).T
    before = begun[ended] + sizes[ended] - 1  # the last emission before the pair, where there is one
    room = energy**2 * np.where(sizes[ended] > 0, (1 - plus[before]) * (1 - minus[before]), 1.0)
    split = np.sqrt(np.maximum((room - mt2 - mt2_other) ** 2 - 4 * mt2 * mt2_other, 0.0))
    tries = np.diff(np.append(-1, ended))
    history = History(
        offsets=torch.from_numpy(np.append(0, np.cumsum(sizes[ended]))), theta=given.expand(len(ended), 3),
        **{k: v.index_select(0, rows) for k, v in tensors.items()},
        last_kick=torch.from_numpy(np.stack((kick_x, kick_y), 1)), split=torch.from_numpy(split),
        reversed=torch.from_numpy(y < y_other), tries=torch.from_numpy(tries))  # fmt: skip
    return every, history


def _left(
    column: dict[str, np.ndarray], begun: np.ndarray, string: np.ndarray, energy: float
) -> tuple[np.ndarray, ...]:
    """Light-cone fractions taken up to and with each emission, and the squared mass of the string before it."""
    taken = np.stack([column["plus"], column["minus"], column["kick_x"] + column["left_x"],
                      column["kick_y"] + column["left_y"]])  # fmt: skip
    total = np.concatenate((np.zeros((4, 1)), np.cumsum(taken, 1)), 1)
    with_it = total[:, 1:] - total[:, begun[string]]
    before = with_it - taken
    mass2 = energy**2 * (1 - before[0]) * (1 - before[1]) - before[2] ** 2 - before[3] ** 2
    return with_it[0], with_it[1], mass2


def _flavours(codes: np.ndarray) -> np.ndarray:
    """PDG codes of quarks and diquarks as numbers of `NAMES`."""
    numbers = {code: NAMES.index(name) for table in (_CODES, _SPINLESS) for name, code in table.items()}
    known = np.array(sorted(numbers))
    found = np.searchsorted(known, np.abs(codes))
    return np.array([numbers[int(c)] for c in known])[found]
