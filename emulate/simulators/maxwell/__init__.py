"""Maxwell's equations stepped in time: a stack of layers in one dimension, and what a planar device is made of in two.

`lattice` holds the discrete equations, `march` the steps and their adjoint, `scene` sources and screens, `material` how
matter meets the lattice; `simulator` is the entry, and `emulate.simulators.maxwell_device` the one in two dimensions.
"""

from emulate.simulators.maxwell.simulator import Maxwell

__all__ = ["Maxwell"]
