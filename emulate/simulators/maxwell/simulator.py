"""Light on a stack of layers in one dimension: how much passes and how much comes back, with exact derivatives."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from emulate.contracts import Simulator, Truth
from emulate.errors import InputError, RunFailed, nearest
from emulate.runs import Field, Outputs
from emulate.simulators.maxwell.lattice import Lattice
from emulate.simulators.maxwell.material import layered, matched
from emulate.simulators.maxwell.scene import Fields, Scene
from emulate.space import Parameter, Space, Uniform

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SPACE = Space((Parameter("n", Uniform(1.2, 2.4)), Parameter("d", Uniform(0.1, 0.4), unit="wavelengths")))
_ABSORBER = 16  # cells
_COURANT = 0.7  # what an index of 3.5 allows, about whose walls epsilon falls to 0.53
_HIGHEST = 3.5
Shown = Literal["transmission", "reflection"]


@dataclass(frozen=True, kw_only=True)
class Maxwell(Simulator):
    r"""Maxwell's equations in one dimension, stepped in time (FDTD): light that passes a stack of layers, or comes back.

    A pulse meets layers of index n and thickness d, in vacuum wavelengths of the design, on a substrate that never ends; the
    outputs are the shares T and R of the power at each of `wavelengths`, T + R = 1. The lattice of Yee (1966) with
    convolutional absorbers is of second order in the cell, and of third at the design wavelength, where its dispersion is
    taken out; permittivity is averaged so that walls may lie anywhere, and a run is smooth in n and d. Of one layer in vacuum
    T = 1 / (1 + ((n^2 - 1) / 2n)^2 sin^2(2 pi n d)) (Airy 1833); `truths.transmitted` is what any stack passes. A run with
    40 cells to the wavelength takes a twentieth of a second, its derivatives three times as long.

    >>> y = Maxwell().run(torch.tensor([2.0, 0.3], dtype=torch.float64), seed=0)
    >>> y.round(decimals=3)
    tensor([0.8380, 0.1620], dtype=torch.float64)
    """

    space: Space = _SPACE
    layers: tuple[tuple[str | float, str | float], ...] = (("n", "d"),)  # index, thickness: numbers or parameters
    substrate: str | float = 1.0  # its index
    wavelengths: tuple[float, ...] = (1.0,)  # of the outputs, in units of the design wavelength
    show: tuple[Shown, ...] = ("transmission", "reflection")  # the shares that are outputs
    cells: Annotated[int, Ge(10), Le(1000)] = 40  # to a vacuum wavelength; twice as many take four times as long
    periods: Annotated[float, Gt(0), Le(1000)] = 24.0  # how long the pulse is followed; mirrors that ring need more

    differentiable: ClassVar[bool] = True

    def __post_init__(self):
        asked = [x for pair in (*self.layers, (self.substrate,)) for x in pair]
        for name in (x for x in asked if isinstance(x, str)):
            if name not in self.space.names:
                raise InputError(f"maxwell: layers must be numbers or parameters of the study, {', '.join(self.space.names)}. Got "
                                 f"{name!r}.{nearest(name, self.space.names)}")  # fmt: skip
        if unused := [n for n in self.space.names if n not in asked]:
            raise InputError(f"maxwell: every parameter must stand in layers or be the substrate. Got {unused[0]!r}, which stands "
                             "in none; name it in layers, such as [[n, d]].")  # fmt: skip
        if not self.layers or not self.show or len(set(self.show)) < len(self.show):
            raise InputError(
                f"maxwell: layers and show must not be empty, and nothing shown twice. Got {self.layers} and {self.show}."
            )
        if not self.wavelengths or not all(0.6 <= w <= 1.6 for w in self.wavelengths):
            raise InputError("maxwell: wavelengths must lie between 0.6 and 1.6 of the design's, where the pulse has power. Got "
                             f"{self.wavelengths}.")  # fmt: skip

    @property
    def outputs(self) -> Outputs:
        return Outputs(tuple(Field(name, positive=name == "transmission", coordinate="wavelength", at=self.wavelengths)
                             for name in self.show))  # fmt: skip

    @property
    def stochastic(self) -> bool:
        return False

    def run(self, theta: Tensor, *, seed: int = 0) -> Tensor:
        """y `[m]` at theta `[d]`."""
        return self._read(self.scene.fields(self.permittivity(theta)))

    def jacobian(self, theta: Tensor, *, seed: int) -> tuple[Tensor, Tensor]:
        """The outputs `[m]` and their derivatives `[m, d]`, all of them by one march backwards."""
        theta = theta.detach().requires_grad_()
        with torch.enable_grad():
            medium = self.scene.march.medium(self.permittivity(theta))
            seen, pull = self.scene.pulled(medium.detach())
            y = self._read(seen)
            rows = [torch.autograd.grad(one, (seen.e, seen.h), retain_graph=True) for one in y]
            by_medium = pull(*(torch.stack(of) for of in zip(*rows, strict=True)))
            slope = torch.stack([torch.autograd.grad(medium, theta, row, retain_graph=True)[0] for row in by_medium])
        return y.detach(), slope

    @property
    def scene(self) -> Scene:
        """Absorber, source, screen, layers, screen, absorber, with a quarter of a wavelength in between."""
        gap, room = self.cells // 4, math.ceil(self.cells * self._most()) + 2
        first = _ABSORBER + 3 * gap
        columns = first + room + 2 * gap + _ABSORBER
        lattice = Lattice((columns, 1), self.cells, "Ez", (_ABSORBER, 0), _COURANT)
        screens = (_ABSORBER + 2 * gap, first + room + gap)
        background = float(matched(torch.ones((), dtype=torch.float64), self.cells, _COURANT))
        return Scene(
            lattice, _ABSORBER + gap, 0.0, screens, self.periods, tuple(1 / w for w in self.wavelengths), background
        )

    @property
    def nodes(self) -> Tensor:
        """x `[columns]` of the numbers of E, wavelengths behind the front of the first layer."""
        first = _ABSORBER + 3 * (self.cells // 4) - 0.5  # between two nodes
        return (torch.arange(self.scene.lattice.shape[0], dtype=torch.float64) - first) / self.cells

    def permittivity(self, theta: Tensor) -> Tensor:
        """epsilon `[columns]` at the nodes."""
        index, thickness = self.stack(theta)
        if not bool(((index >= 0.95) & (index <= _HIGHEST)).all()) or not bool((thickness >= 0).all()):
            raise RunFailed("error", f"maxwell: an index must be from 0.95 to {_HIGHEST}, and a thickness not below 0. Got "
                            f"{index.tolist()} and {thickness.tolist()}; narrow the priors.")  # fmt: skip
        if float(thickness.detach().sum()) > 1.1 * self._most():
            raise RunFailed("error", f"maxwell: the layers must be no thicker than {1.1 * self._most():.4g} wavelengths together, "
                            f"what the priors reach. Got {float(thickness.detach().sum()):.4g}.")  # fmt: skip
        return layered(self.nodes, thickness, matched(index, self.cells, _COURANT), self.cells)

    def stack(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Indices `[l + 2]`, vacuum first and the substrate last, and thickness `[l]` of the layers."""
        named = self.space.unpack(theta)
        value = lambda x: named[x] if isinstance(x, str) else theta.new_tensor(float(x))  # noqa: E731
        index = torch.stack([theta.new_tensor(1.0), *(value(n) for n, _ in self.layers), value(self.substrate)])
        return index, torch.stack([value(d) for _, d in self.layers])

    def truths(self) -> tuple[Truth, ...]:
        from emulate.simulators.maxwell.truths import known

        return known(self)

    def picture(self, points: Mapping[str, Tensor]) -> "Figure":
        """The share of the power that passes at each wavelength, dots by the simulation and lines by the exact matrices of the
        layers; below, the index in grey and |E|^2 of the design wavelength, in units of the wave sent in.
        """
        from emulate.simulators.maxwell._pictures import stack_picture

        return stack_picture(self, points)

    def _most(self) -> float:
        """How thick the layers may become together, wavelengths."""
        with torch.no_grad():
            return float(self.stack(self.space.from_unit(self.space.ends(4.0)[1]))[1].sum())

    def _read(self, seen: Fields) -> Tensor:
        incident = self.scene.flux(self.scene.vacuum)[:, 0, 0]
        passed = self.scene.flux(seen)[:, 1, 0] / incident
        back = -self.scene.flux(seen - self.scene.vacuum)[:, 0, 0] / incident
        return torch.cat([{"transmission": passed, "reflection": back}[name] for name in self.show])
