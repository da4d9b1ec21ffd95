"""Where to put seismometers: how surely a network detects the earthquakes of a region, differentiable in its stations."""

from emulate.simulators.seismometers.simulator import Seismometers

__all__ = ["Seismometers"]
