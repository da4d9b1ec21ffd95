"""Particle-mesh N-body simulation of dark matter in flat LambdaCDM: the matter power spectrum P(k)."""

from emulate.simulators.nbody.simulator import NBody

__all__ = ["NBody"]
