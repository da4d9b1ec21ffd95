"""Wire antennas: a Yagi-Uda array by the method of moments, with its gain and its impedance."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
import torch
from annotated_types import Ge, Gt
from torch import Tensor

from emulate.contracts import Simulator, Truth
from emulate.errors import InputError
from emulate.runs import Field, Outputs
from emulate.space import Parameter, Space, Uniform

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ETA, K = 376.730313668, 2 * math.pi  # ohm, the impedance of free space; wave number of wavelength 1
_POINTS = 24  # of a quadrature over a half of a mode
_SPACE = Space((
    Parameter("reflector", Uniform(0.46, 0.54), unit="wavelengths"), Parameter("driven", Uniform(0.43, 0.50), unit="wavelengths"),
    Parameter("director", Uniform(0.40, 0.48), unit="wavelengths"), Parameter("behind", Uniform(0.12, 0.35), unit="wavelengths"),
    Parameter("ahead", Uniform(0.12, 0.40), unit="wavelengths")))  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Antenna(Simulator):
    r"""A Yagi-Uda array of thin wires by the method of moments: its gain, front-to-back ratio and input impedance.

    Currents are sums of n overlapping sinusoids on each wire, I(z) = sin(k (h - |z|)) / sin(k h), whose field on a parallel
    wire at the distance rho is known exactly (Schelkunoff and Friis 1952),

        E_z = -j eta / (4 pi sin k h) [e^{-jkR_1} / R_1 + e^{-jkR_2} / R_2 - 2 cos(k h) e^{-jkR_0} / R_0],

    and tested by the same sinusoids (Galerkin; Richmond 1974): Z I = V, a volt in the middle of the driven wire. With one
    sinusoid a wire this is the induced-EMF method. Integrals run over t in z = z_0 + rho sinh t, which takes the 1 / R away.
    The power at the feed is what goes out, so that gain is directivity: the wires have no loss.

    Lengths and distances are in wavelengths: `reflector` behind the `driven` wire, and as many directors as there are
    parameters `director`, `director_2`, ... ahead of it, each at the distance `ahead`, `ahead_2`, ... of the one before.
    A run takes 5 ms; programs that mesh the metal take minutes to hours, which is what an emulator is for.

    >>> y = Antenna().run(torch.tensor([0.48, 0.46, 0.45, 0.2, 0.2], dtype=torch.float64), seed=0)
    >>> y.round(decimals=1)  # dBi, dB, ohm, ohm
    tensor([ 9.5000,  9.9000, 12.3000, -1.6000], dtype=torch.float64)
    """

    space: Space = _SPACE
    fixed: dict[str, float] = field(default_factory=dict)  # lengths and distances that are not in the space
    radius: Annotated[float, Gt(0)] = 0.003  # of the wires, in wavelengths
    modes: Annotated[int, Ge(1)] = 3  # sinusoids on each wire, odd: one has its middle at the feed
    boom: Annotated[float, Gt(0)] = 0.5  # that the constraint of that name allows from end to end, in wavelengths

    differentiable: ClassVar[bool] = True

    def __post_init__(self):
        names = {*self.space.names, *self.fixed}
        known = {"reflector", "driven", "behind", *(n for i in range(self._directors) for n in _director(i))}
        if names != known or self.modes % 2 == 0:
            raise InputError("antenna: parameters must be reflector, driven, behind, and director with ahead, director_2 with "
                             f"ahead_2 ...; modes must be odd. Got {', '.join(sorted(names))} and {self.modes} modes.")  # fmt: skip

    @property
    def outputs(self) -> Outputs:
        return Outputs((Field("gain", unit="dBi"), Field("front_to_back", unit="dB"),
                        Field("resistance", unit="ohm", positive=True), Field("reactance", unit="ohm")))  # fmt: skip

    @property
    def stochastic(self) -> bool:
        return False

    def run(self, theta: Tensor, *, seed: int = 0) -> Tensor:
        """y `[4]` at theta `[d]`: gain, front-to-back ratio, resistance and reactance."""
        wires = self._built(theta)
        current = wires.current(self.radius)
        z = 1 / current[wires.feed]
        gain, back = 10 * torch.log10(wires.directivity(current, torch.tensor([0.0, math.pi], dtype=torch.float64)))
        return torch.stack([gain, gain - back, z.real, z.imag])

    def constraints(self) -> dict[str, Callable[[Tensor], Tensor]]:
        """`boom`: from the reflector to the last director it is at most as long as the setting says."""

        def boom(theta: Tensor) -> Tensor:
            value = {**self.fixed, **self.space.unpack(theta)}
            total = value["behind"] + sum(value[_director(i)[1]] for i in range(self._directors))
            return torch.as_tensor(total, dtype=torch.float64).expand(theta.shape[:-1]) - self.boom

        return {"boom": boom}

    def truths(self) -> tuple[Truth, ...]:
        """Dipoles whose impedances and gains stand in books, and power that must come out."""
        from scipy.special import sici

        def dipole() -> Wires:
            return Wires(torch.tensor([0.5], dtype=torch.float64), torch.zeros(1, dtype=torch.float64), 0, 1)

        def impedance(at: float = 0.0) -> complex:
            pair = Wires(torch.full((2,), 0.5, dtype=torch.float64), torch.tensor([0.0, at], dtype=torch.float64), 0, 1)
            return complex(pair.impedance(1e-6)[0, int(at > 0)])

        def mutual(d: float) -> complex:
            ends = [K * d, K * (math.hypot(d, 0.5) + 0.5), K * (math.hypot(d, 0.5) - 0.5)]
            (s0, c0), (s1, c1), (s2, c2) = map(sici, ends)
            return ETA / (4 * math.pi) * complex(2 * c0 - c1 - c2, -(2 * s0 - s1 - s2))

        def gain() -> float:
            wires = dipole()
            return float(
                10 * torch.log10(wires.directivity(wires.current(1e-6), torch.zeros(1, dtype=torch.float64))[0])
            )

        def balance() -> float:
            lengths, places = ([0.5, 0.46, 0.44], [-0.2, 0.0, 0.15])
            wires = Wires(torch.tensor(lengths, dtype=torch.float64), torch.tensor(places, dtype=torch.float64), 1, 3)
            return wires.balance(wires.current(1e-5))

        book, emf = "Balanis 2005, sec. 4.6 and 8.5", "induced EMF: Carter 1932; Balanis 2005, eq. 8-71"
        return (
            Truth("the resistance of a half-wave dipole, ohm", lambda: impedance().real, 73.1, 0.05, book),
            Truth("the reactance of a half-wave dipole, ohm", lambda: impedance().imag, 42.5, 0.05, book),
            Truth("the directivity of a half-wave dipole, dBi", gain, 2.15, 0.005, book),
            Truth("the mutual resistance of half-wave dipoles half a wavelength apart, ohm", lambda: impedance(0.5).real,
                  mutual(0.5).real, 1e-6, emf),
            Truth("the mutual reactance of half-wave dipoles half a wavelength apart, ohm", lambda: impedance(0.5).imag,
                  mutual(0.5).imag, 1e-6, emf),
            Truth("the power through a sphere over that at the feed", balance, 1.0, 1e-6, "conservation of energy"))  # fmt: skip

    def picture(self, points: Mapping[str, Tensor]) -> "Figure":
        """The wires as they lie on the boom, the gain in the plane across the wires, and gain and input impedance about the
        frequency of the design."""
        from emulate.simulators._antenna_picture import draw

        return draw(self, points)

    @property
    def _directors(self) -> int:
        return (len({*self.space.names, *self.fixed}) - 3) // 2

    def _built(self, theta: Tensor) -> "Wires":
        value = {**self.fixed, **self.space.unpack(theta)}
        number = lambda n: torch.as_tensor(value[n], dtype=torch.float64)  # noqa: E731
        names = [_director(i) for i in range(self._directors)]
        length = torch.stack([number(n) for n in ("reflector", "driven", *(n for n, _ in names))])
        steps = torch.stack([number(n) for n in ("behind", *(n for _, n in names))])
        return Wires(
            length, torch.cat([-steps[:1], torch.zeros(1, dtype=torch.float64), steps[1:].cumsum(0)]), 1, self.modes
        )


def _director(i: int) -> tuple[str, str]:
    """The names of the length and the distance of director i, from 0."""
    end = "" if i == 0 else f"_{i + 1}"
    return f"director{end}", f"ahead{end}"


@dataclass(frozen=True)
class Wires:
    """Parallel wires of `length` `[e]` along z, their middles at `place` `[e]` on the x axis, the one at `fed` with a feed;
    `each` sinusoids on a wire. All in wavelengths. What follows is by mode, `[m]`, wire after wire."""

    length: Tensor
    place: Tensor
    fed: int
    each: int

    @property
    def feed(self) -> int:
        """The mode whose middle is the feed."""
        return self.fed * self.each + self.each // 2

    @property
    def half(self) -> Tensor:
        """h `[m]`: half the length of a mode."""
        return (self.length / (self.each + 1)).repeat_interleave(self.each)

    @property
    def middle(self) -> Tensor:
        """z `[m]` of the middle of a mode."""
        number = torch.arange(self.each, dtype=torch.float64) - (self.each - 1) / 2
        return self.half * number.repeat(len(self.length))

    def current(self, radius: float) -> Tensor:
        """I `[m]`, ampere, for a volt at the feed."""
        volt = torch.zeros(len(self.half), dtype=torch.complex128)
        volt[self.feed] = 1.0
        return torch.linalg.solve(self.impedance(radius), volt)

    def impedance(self, radius: float) -> Tensor:
        """Z `[m, m]`, ohm: what a mode (row) meets of the field of another (column)."""
        h, z, x = self.half, self.middle, self.place.repeat_interleave(self.each)
        far = (x[:, None] - x).abs()
        rho = torch.where(far < 1e-12, radius, far)
        total = torch.zeros(len(h), len(h), dtype=torch.complex128)
        nodes, weights = _gauss()
        for shift, weight in ((1.0, torch.ones_like(h)), (-1.0, torch.ones_like(h)), (0.0, -2 * torch.cos(K * h))):
            source = z + shift * h
            for low, high in ((-1.0, 0.0), (0.0, 1.0)):
                ends = [torch.asinh(((z + s * h)[:, None] - source) / rho) for s in (low, high)]
                t = ends[0][..., None] + (ends[1] - ends[0])[..., None] * nodes  # observed modes, sources, nodes
                off = rho[..., None] * torch.sinh(t) + source[:, None] - z[:, None, None]
                f = torch.sin(K * (h[:, None, None] - off.abs())) * torch.exp(-1j * K * rho[..., None] * torch.cosh(t))
                total = total + weight * (f * weights).sum(-1) * (ends[1] - ends[0])
        return 1j * ETA / (4 * math.pi) * total / (torch.sin(K * h)[:, None] * torch.sin(K * h))

    def directivity(self, current: Tensor, phi: Tensor, theta: float = math.pi / 2) -> Tensor:
        """4 pi U / P `[p]` at the azimuths phi `[p]` from the direction of the directors, at the angle theta from the wires;
        P is what the volt at the feed gives."""
        return 4 * math.pi * self.intensity(current, phi, theta) / (0.5 * current[self.feed].real)

    def intensity(self, current: Tensor, phi: Tensor, theta: float) -> Tensor:
        """U `[p]`, watt per steradian: eta k^2 sin^2 theta |sum of I_n f_n e^{jk r_n}|^2 / 32 pi^2."""
        h, x, across, along = self.half, self.place.repeat_interleave(self.each), math.sin(theta), math.cos(theta)
        f = 2 * (torch.cos(K * h * along) - torch.cos(K * h)) / (K * torch.sin(K * h) * across**2)
        path = K * (x * across * torch.cos(phi)[:, None] + self.middle * along)
        field = (current * f * torch.exp(1j * path)).sum(-1)
        return ETA * K**2 / (32 * math.pi**2) * across**2 * (field.real.square() + field.imag.square())

    def balance(self, current: Tensor) -> float:
        """The intensity over the sphere over the power at the feed."""
        nodes, weights = np.polynomial.legendre.leggauss(24)
        phi = torch.arange(48, dtype=torch.float64) * (2 * math.pi / 48)
        rings = [
            float(w * self.intensity(current, phi, math.acos(c)).mean()) for c, w in zip(nodes, weights, strict=True)
        ]
        return 2 * math.pi * sum(rings) / float(0.5 * current[self.feed].real)


@cache
def _gauss() -> tuple[Tensor, Tensor]:
    """Nodes and weights on 0 to 1."""
    nodes, weights = np.polynomial.legendre.leggauss(_POINTS)
    return torch.from_numpy((nodes + 1) / 2), torch.from_numpy(weights / 2)
