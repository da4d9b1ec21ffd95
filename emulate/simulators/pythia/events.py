"""Events of Pythia as `Events`: what is put in, what comes out, and the emissions of the strings where they are asked for."""

from array import array
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from emulate.errors import RunFailed
from emulate.lund.events import Events
from emulate.simulators.pythia.recording import Notes

_COLUMNS = ("px", "py", "pz", "e", "m", "id")
_LOST = 0.01  # of the events: Pythia gives up one in a million


def generated(pythia: Any, particle: type, n: int, string: tuple[int, float] | None,
              notes: Notes | None = None) -> Iterator[list[Any]]:  # fmt: skip
    """n events one after the other, each the list of its hadrons (and leptons and photons) in the final state.

    Args:
        pythia: a `Pythia` object that is ready.
        particle: the class of its particles.
        n: how many.
        string: code of the quark at +z and the energy in GeV of a string to hadronise; None for Pythia's own process.
        notes: what the user hook of that object writes, told where events end.

    Raises:
        RunFailed: more than one event in a hundred comes to nothing.
    """
    event, lost, made = pythia.event, 0, 0
    while made < n:
        if string is not None:
            _put(pythia, *string)
        if not pythia.next():
            lost += 1
            if notes:
                notes.drop_event()
            if lost > max(10, _LOST * n):
                raise RunFailed("error", f"pythia: at most one event in a hundred may be given up. Got {lost} such beside {made} "
                                "good ones; take other parameters, or more energy.")  # fmt: skip
            continue
        made += 1
        if notes:
            notes.end_event()
        yield [p for p in map(event.__getitem__, range(event.size())) if particle.isFinal(p)]


def _put(pythia: Any, code: int, energy: float) -> None:
    """A quark along +z and its antiquark along -z, with a string between them; u, d and s without mass."""
    event, m = pythia.event, pythia.particleData.m0(code) if code > 3 else 0.0
    event.reset()
    e = 0.5 * energy
    pz = (e * e - m * m) ** 0.5
    event.append(code, 23, 101, 0, 0.0, 0.0, pz, e, m)
    event.append(-code, 23, 0, 101, 0.0, 0.0, -pz, e, m)


def collected(events: Iterator[list[Any]], particle: type) -> Events:
    """The columns of the events."""
    columns = {name: array("q" if name == "id" else "d") for name in _COLUMNS}
    readers = [(columns[name].extend, getattr(particle, name)) for name in _COLUMNS]
    sizes = [0]
    for found in events:
        sizes.append(len(found))
        for put, read in readers:
            put(map(read, found))
    px, py, pz, e, mass, code = (torch.from_numpy(np.array(c)) for c in columns.values())
    return Events(torch.tensor(sizes).cumsum(0), px, py, pz, e, mass, code)
