"""Particle-mesh N-body simulation of matter in any LambdaCDM or w0-wa universe, differentiable end to end."""

from emulate.simulators.nbody.simulator import NBody

__all__ = ["NBody"]
