"""The parts of a step as `NBody` has them now: the one place to adapt when they change. Imported when called."""

from collections.abc import Callable

from torch import Tensor


def mesh(particles: int, refinement: int, compiled: bool = False, offset: float = 0.5):
    from emulate.simulators.nbody.cloud import Mesh
    from emulate.simulators.nbody.memory import keep_freed_memory

    keep_freed_memory()  # as every run does
    return Mesh(particles, refinement, offset=offset, compiled=compiled)


def force(mesh, gradient: str = "difference") -> Callable[[Tensor], Tensor]:
    """Displacements [3, N] in cells to accelerations [3, N] in cells: paint, potential, slope, gather."""
    from emulate.simulators.nbody.gravity import Gravity, acceleration

    gravity = Gravity(mesh, gradient)
    return lambda x: acceleration(x, gravity)


def paint(mesh, x: Tensor) -> Tensor:
    """Number of particles in each cell, with all that a cloud finds once for painting and gathering."""
    return mesh.cloud(x).paint(None)[0]


def potential(mesh) -> Callable[[Tensor], Tensor]:
    """Numbers in cells to -laplacian^-1 delta: two Fourier transforms."""
    from emulate.simulators.nbody.gravity import Gravity

    return Gravity(mesh).potential


def slope(mesh) -> Callable[[Tensor], Tensor]:
    """A field [M, M, M] to its gradient [3, M, M, M] per cell."""
    from emulate.simulators.nbody.gravity import Gravity

    return Gravity(mesh).slope


def gather(mesh, x: Tensor) -> Callable[[Tensor], Tensor]:
    """Three fields to particles, by a cloud that has painted before."""
    return mesh.cloud(x).gather
