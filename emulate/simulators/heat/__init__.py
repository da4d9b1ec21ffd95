"""The heat equation on a graded rod: its steps, its closed form, and both orders of differentiating and discretising."""

from emulate.simulators.heat.simulator import Heat

__all__ = ["Heat"]
