"""Pythia alone, as fast as it is: what the events per second of others are held against."""

from emulate.simulators.pythia import Pythia, program
from tests.stopwatch import least

MONASH = {"StringZ:aLund": 0.68, "StringZ:bLund": 0.98, "StringPT:sigma": 0.335}


def rate_of_pythia(kind, n):
    """Of Pythia alone, under the same conditions, its hadrons left where they are."""
    pythia = program.started(Pythia(flavours=kind)._lines, MONASH, seed=1)

    def alone():
        event = pythia.event
        for _ in range(n):
            event.reset()
            event.append(2, 23, 101, 0, 0.0, 0.0, 45.6, 45.6, 0.0)
            event.append(-2, 23, 0, 101, 0.0, 0.0, -45.6, 45.6, 0.0)
            assert pythia.next()

    return n / least(alone)
