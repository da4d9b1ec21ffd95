"""A planar device of ten thousand pixels that sends a beam of light where it is wanted, for inverse design."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, ClassVar

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from emulate.contracts import Simulator, Truth
from emulate.errors import InputError
from emulate.runs import Field, Outputs
from emulate.simulators.maxwell.lattice import Lattice, Polarisation
from emulate.simulators.maxwell.material import on_edges, projected, smoothed
from emulate.simulators.maxwell.scene import Scene
from emulate.space import Parameter, Space, Uniform

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ABSORBER, _COURANT = 10, 0.7  # cells; of the 0.707 at which two dimensions become unstable


def _controls(pixels: tuple[int, int], coarse: int, mirror: bool) -> tuple[int, int]:
    """Numbers of controls along and across the beam."""
    rows = (pixels[1] + 1) // 2 if mirror else pixels[1]
    return math.ceil(pixels[0] / coarse), math.ceil(rows / coarse)


def _space(pixels: tuple[int, int], coarse: int, mirror: bool) -> Space:
    along, across = _controls(pixels, coarse, mirror)
    return Space(tuple(Parameter(f"rho_{i}_{j}", Uniform(0.0, 1.0)) for i in range(along) for j in range(across)))


_SPACE = _space((100, 100), 4, True)


@dataclass(frozen=True, kw_only=True)
class MaxwellDevice(Simulator):
    r"""Maxwell's equations in two dimensions, stepped in time (FDTD), and a device of pixels that focuses or splits a beam.

    A Gaussian beam meets a block of pixels; the outputs are the shares of the power before it that pass apertures at the
    heights `targets`, a `distance` behind it. The parameters are densities from 0 to 1, one to each square of
    `coarse` x `coarse` pixels; a pixel's density is averaged over a cone of `radius` (Bourdin 2001), pushed towards 0 and 1 by a
    projection of some `steepness` (Wang, Lazarov & Sigmund 2011), and epsilon = 1 + (index^2 - 1) density. What is neither
    material conducts, by 4 density (1 - density) `damping`: light is lost in what cannot be made (Jensen & Sigmund 2005,
    J. Opt. Soc. Am. B 22, 1191). With `built` each pixel is one material or the other: the device that is made, whose score
    alone counts.

    The lattice is that of Yee (1966) with convolutional absorbers, E_z or H_z on the plane. Gradients are those of the
    discrete equations, by one march backwards through checkpoints: the work of three runs, in memory that grows as the root
    of the number of steps. A run of 100 x 100 pixels takes a third of a second, its gradient one.

    >>> device = MaxwellDevice(pixels=(4, 8), coarse=4, cells=10, waist=0.4, distance=0.5, periods=10.0)
    >>> device.space.names, device.run(torch.zeros(1, dtype=torch.float64), seed=0).round(decimals=2)
    (('rho_0_0',), tensor([0.4200], dtype=torch.float64))
    """

    space: Space = _SPACE  # densities of the controls, along the beam first; from the edge to the axis where it mirrors
    pixels: tuple[int, int] = (100, 100)  # along and across the beam; each is one cell of the lattice
    cells: Annotated[int, Ge(8), Le(200)] = 20  # to a vacuum wavelength
    coarse: Annotated[int, Ge(1)] = 4  # pixels to a side of the square that a control fills
    mirror: bool = True  # the device is the same above and below the axis
    index: Annotated[float, Ge(1), Le(4)] = 1.5  # of the material, in vacuum
    polarisation: Polarisation = "Ez"  # the component that stands on the plane: Ez, or Hz
    waist: Annotated[float, Ge(0)] = 2.0  # of the beam, where its amplitude is 1/e; 0: an even wave and periodic sides
    targets: tuple[float, ...] = (0.0,)  # heights of the apertures over the axis, wavelengths
    aperture: Annotated[float, Gt(0)] = 0.75  # wavelengths, of the focus or of an exit
    distance: Annotated[float, Gt(0)] = 2.0  # from the device to the apertures, wavelengths
    radius: Annotated[float, Ge(0)] = 0.2  # of the cone that averages densities, wavelengths
    steepness: Annotated[float, Gt(0)] = 8.0  # of the projection
    damping: Annotated[float, Ge(0)] = 0.5  # conductivity of what is neither material, halfway between them, 1/period
    built: bool = False  # each pixel is one material or the other, by its density above or below one half: no gradient
    periods: Annotated[float, Gt(0)] = 20.0  # how long the pulse is followed

    differentiable: ClassVar[bool] = True
    example: ClassVar[dict] = {"pixels": [8, 12], "coarse": 4, "cells": 10, "waist": 0.6, "distance": 0.5, "periods": 12.0,
                               "targets": [0.0, 0.5], "aperture": 0.4}  # fmt: skip

    def __post_init__(self):
        if min(self.pixels) < 1 or not self.targets:
            raise InputError(f"maxwell_device: pixels must be at least one each way, and targets one height or more. Got "
                             f"{self.pixels} and {self.targets}.")  # fmt: skip
        along, across = _controls(self.pixels, self.coarse, self.mirror)
        if self.space is _SPACE or self.space == _SPACE:
            object.__setattr__(self, "space", _space(self.pixels, self.coarse, self.mirror))
        if self.space.d != along * across:
            raise InputError(f"maxwell_device: there must be one parameter for each of the {along} x {across} controls. Got "
                             f"{self.space.d}; leave `parameters` out, for the simulator has its own.")  # fmt: skip
        if self.waist and max(map(abs, self.targets)) > self._height / 2 / self.cells:
            raise InputError(f"maxwell_device: targets must lie within {self._height / 2 / self.cells:g} wavelengths of the axis. "
                             f"Got {self.targets}; use more pixels across, or heights nearer to the axis.")  # fmt: skip

    @property
    def outputs(self) -> Outputs:
        return Outputs((Field("power", coordinate="y", at=self.targets, at_unit="wavelengths"),))

    @property
    def stochastic(self) -> bool:
        return False

    def run(self, theta: Tensor, *, seed: int = 0) -> Tensor:
        """y `[m]` at theta `[d]`."""
        scene = self.scene
        flux = scene.flux(scene.fields(*self.matter(theta)))[0, 1]
        return self._apertures() @ flux / scene.flux(scene.vacuum)[0, 0].sum()

    def density(self, theta: Tensor) -> Tensor:
        """The densities `[along, across]` of the pixels at theta `[d]`, filtered and projected."""
        controls = theta.reshape(_controls(self.pixels, self.coarse, self.mirror))
        whole = controls.repeat_interleave(self.coarse, 0).repeat_interleave(self.coarse, 1)
        whole = (
            whole[: self.pixels[0], -((self.pixels[1] + 1) // 2) :]
            if self.mirror
            else whole[: self.pixels[0], : self.pixels[1]]
        )
        if self.mirror:
            whole = torch.cat((whole, whole.flip(1)[:, self.pixels[1] % 2 :]), 1)
        return projected(smoothed(whole, self.radius * self.cells), math.inf if self.built else self.steepness)

    def plane(self, theta: Tensor) -> Tensor:
        """The densities `[nx, ny]` of all cells, 0 around the device."""
        (nx, ny), (i, j) = self.scene.lattice.shape, self._corner
        return torch.nn.functional.pad(self.density(theta), (j, ny - j - self.pixels[1], i, nx - i - self.pixels[0]))

    def matter(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """epsilon and sigma at the numbers of E."""
        plane = self.plane(theta)
        grey = 4 * plane * (1 - plane)
        return (on_edges(1 + (self.index**2 - 1) * plane, self.polarisation),
                on_edges(self.damping * grey, self.polarisation))  # fmt: skip

    @property
    def scene(self) -> Scene:
        """Absorber, source, screen, device, screen, absorber; absorbers at the sides of a beam, none at those of a wave."""
        gap = self.cells // 4
        front, behind = self._corner[0], math.ceil(self.distance * self.cells)
        columns = front + self.pixels[0] + behind + gap + _ABSORBER
        rows = self._height + 2 * _ABSORBER if self.waist else self.pixels[1]
        lattice = Lattice(
            (columns, rows), self.cells, self.polarisation, (_ABSORBER, _ABSORBER if self.waist else 0), _COURANT
        )
        screens = (front - gap, front + self.pixels[0] + behind)
        return Scene(lattice, _ABSORBER + gap, self.waist, screens, self.periods, (1.0,))

    def truths(self) -> tuple[Truth, ...]:
        from emulate.simulators.maxwell.truths import known_of_planes

        return known_of_planes(self)

    def made(self) -> "MaxwellDevice":
        """The device as it is made: each pixel one material or the other."""
        return replace(self, built=True)

    def picture(self, points: Mapping[str, Tensor]) -> "Figure":
        """Each device as it is made, dark where material is, and the light in it, |E|^2 in units of the largest of the beam
        alone; the titles give the share of the power that passes the apertures (blue), after the densities were cut at one half
        and before.
        """
        from emulate.simulators.maxwell._pictures import device_picture

        return device_picture(self, points)

    @property
    def _height(self) -> int:
        """Cells across, without absorbers."""
        return self.pixels[1] + 2 * (self.cells // 4)

    @property
    def _corner(self) -> tuple[int, int]:
        """The cell at which the device begins."""
        return _ABSORBER + 3 * (self.cells // 4), _ABSORBER + self.cells // 4 if self.waist else 0

    def _apertures(self) -> Tensor:
        """The share `[targets, rows]` of each row that lies within each aperture."""
        y = torch.from_numpy(self.scene.heights)
        away = (y - torch.tensor(self.targets, dtype=torch.float64)[:, None]).abs()
        return ((0.5 * self.aperture - away) * self.cells + 0.5).clamp(0, 1)
