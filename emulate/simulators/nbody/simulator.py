"""`NBody`: cosmological parameters to summary statistics of the matter, one particle-mesh simulation per run."""

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor
from torch.autograd import forward_ad

from emulate.contracts import Simulator
from emulate.errors import InputError, RunFailed, nearest
from emulate.runs import Outputs
from emulate.simulators.nbody.adjoint import ADJOINTS
from emulate.simulators.nbody.cloud import Mesh
from emulate.simulators.nbody.cosmology import TRANSFERS, Cosmology
from emulate.simulators.nbody.gravity import Gravity, acceleration
from emulate.simulators.nbody.initial_conditions import displacements, from_modes, linear_field, to_modes, white_noise
from emulate.simulators.nbody.integrator import steps
from emulate.simulators.nbody.memory import keep_freed_memory
from emulate.simulators.nbody.settings import check_settings, has_compiler
from emulate.simulators.nbody.snapshot import Snapshot
from emulate.simulators.nbody.statistics import named
from emulate.simulators.nbody.table import LinearTable
from emulate.space import Parameter, Space, Uniform

__all__ = ["NBody"]

_SPACE = Space(
    (
        Parameter("omega_m", Uniform(0.2, 0.4), label=r"\Omega_m"),
        Parameter("sigma_8", Uniform(0.7, 0.9), label=r"\sigma_8"),
        Parameter("n_s", Uniform(0.9, 1.0), label="n_s"),
        Parameter("h", Uniform(0.6, 0.75), label="h"),
    )
)
_FIDUCIAL = {"omega_m": 0.31, "omega_b": 0.049, "h": 0.68, "n_s": 0.965, "sigma_8": 0.81,
             "omega_k": 0.0, "w0": -1.0, "wa": 0.0}  # fmt: skip
_NAMES = (*_FIDUCIAL, "A_s")


@dataclass(frozen=True, kw_only=True)
class NBody(Simulator):
    """Particle-mesh N-body simulation of matter, differentiable end to end: cosmological parameters to P(k) and more.

    Second-order Lagrangian initial conditions, BullFrog steps (Rampf et al. 2025), forces on a mesh finer than the
    particles, a universe with any curvature and dark energy w0 + wa (1 - a). At 32^3 particles in 256 Mpc/h with 10
    steps P(k) at half the Nyquist wavenumber is 2 % below that of 128^3 particles with the same phases, and 0.03 % from
    that of 80 steps. Radiation and neutrinos are left out.

    By default all runs share their phases, so P(k) is a smooth function of theta that holds the sampling noise of one
    universe. `phase_seed = None` takes the phases from the seed of the run.

    Settings:
        space: priors of any of omega_m, omega_b, h, n_s, sigma_8 or A_s, omega_k, w0, wa, in any order.
        fixed: values of those that are not in the space; by default omega_m 0.31, omega_b 0.049, h 0.68, n_s 0.965,
            sigma_8 0.81, flat, with a cosmological constant.
        transfer: linear spectrum by "eisenstein_hu" (1998), "no_wiggle" without acoustic oscillations, "camb" (extra
            `cosmology`), or the path of a table with two columns, k in h/Mpc and the transfer function T(k).
        statistics: what a run gives: "pk", "multipoles", "bispectrum", "pdf", "slices"; one with settings of its own is
            written {use: pdf, radius: 20}.
        k_max: highest wavenumber as a fraction of the particles' Nyquist wavenumber pi particles / box; above 0.5 the
            mesh softens gravity by more than 2 %, and the Nyquist planes themselves start empty.
        particles: particles per side, even.
        companions: particles per side of cheaper simulations of the same universe, made in the same run; their fields
            carry the number in their name, `pk_16`.
        box: side of the periodic box, Mpc/h.
        steps: time steps, equal in the growth factor.
        a_start: scale factor of the initial conditions; earlier starts suffer from the particle lattice, later ones
            from the missing third order.
        a_final: scale factor of the output, 1 is today.
        scheme: time integrator, "bullfrog" (drift, kick, drift) or "fastpm" (kick, drift, kick).
        refinement: mesh cells per particle spacing.
        gradient: of the potential, "difference" of fourth order or "spectral".
        deconvolution: how often the window of the cloud is divided out of the force.
        pgd: (alpha, k_l, k_s), wavenumbers in h/Mpc: after the last step particles move by alpha times the acceleration
            between k_l and k_s, which sharpens what the mesh softened (Dai, Feng & Seljak 2018); None leaves it out.
        amplitudes: of the initial modes, "fixed" to their mean or "gaussian".
        pair: mean of two runs with opposite initial density, twice the cost (Angulo & Pontzen 2016).
        phase_seed: key of the initial phases of all runs, or None for phases from the seed of each run.
        adjoint: how reverse mode finds its way back: "reversed" in time, at constant memory; "checkpointed"; "stored".
        compile: loops over particles by torch's compiler, the same bits in less time: "auto" from 128 particles per
            side on where a compiler is found, "always", "never". The first run of a size compiles for ten seconds or more.
        precision: of particles and meshes; P(k) differs by 1e-6, the cost by almost two.
        device: where particles and meshes live, "cpu", "cuda", or "auto": cuda where there is one. Bits are the same
            on any number of threads of one kind of processor, not between kinds.

    >>> y = NBody(particles=16, steps=3).run(torch.tensor([0.3, 0.8, 0.96, 0.7], dtype=torch.float64), seed=0)
    >>> tuple(y.shape), bool((y > 0).all())
    ((4,), True)
    """

    space: Space = _SPACE
    fixed: dict[str, float] = field(default_factory=dict)
    transfer: str = "eisenstein_hu"
    statistics: tuple[str | dict[str, Any], ...] = ("pk",)
    k_max: Annotated[float, Gt(0), Le(1)] = 0.5  # of the particles' Nyquist wavenumber
    particles: Annotated[int, Ge(8), Le(1024)] = 32
    companions: tuple[int, ...] = ()
    box: Annotated[float, Gt(0)] = 256.0  # Mpc/h, side of the cube
    steps: Annotated[int, Ge(1)] = 10
    a_start: Annotated[float, Gt(0)] = 0.1
    a_final: Annotated[float, Gt(0), Le(1)] = 1.0
    scheme: Literal["bullfrog", "fastpm"] = "bullfrog"
    refinement: Annotated[int, Ge(1), Le(4)] = 2
    gradient: Literal["difference", "spectral"] = "difference"
    deconvolution: Annotated[int, Ge(0), Le(2)] = 0
    pgd: tuple[float, float, float] | None = None
    amplitudes: Literal["fixed", "gaussian"] = "fixed"
    pair: bool = False
    phase_seed: Annotated[int, Ge(0)] | None = 0
    adjoint: Literal["reversed", "checkpointed", "stored"] = "reversed"
    compile: Literal["auto", "always", "never"] = "auto"
    precision: Literal["float32", "float64"] = "float32"
    device: Literal["cpu", "cuda", "auto"] = "cpu"

    differentiable: ClassVar[bool] = True
    pathologies: ClassVar[tuple[str, ...]] = ("kink",)  # where a particle crosses from cell to cell

    def __post_init__(self):
        object.__setattr__(
            self, "statistics", (self.statistics,) if isinstance(self.statistics, str) else tuple(self.statistics)
        )
        object.__setattr__(self, "companions", tuple(self.companions))
        varied = set(self.space.names)
        for name in (*self.space.names, *self.fixed):
            if name not in _NAMES:
                raise InputError(f"nbody: the parameters must be among {', '.join(_NAMES)}. Got {name!r}; change their "
                                 f"priors, keep their names.{nearest(name, _NAMES)}")  # fmt: skip
        if twice := sorted(varied & set(self.fixed)):
            raise InputError(f"nbody: a parameter must be varied or fixed, not both. Got {', '.join(twice)} in the space "
                             "and in fixed; leave out one.")  # fmt: skip
        if {"sigma_8", "A_s"} <= varied | set(self.fixed):
            raise InputError("nbody: the amplitude must be sigma_8 or A_s. Got both; leave out one.")
        check_settings(self)
        _ = self.outputs  # the statistics check what the mesh holds
        if self.transfer not in TRANSFERS:
            _table(self.transfer)

    @property
    def version(self) -> str:
        """The version of the code, and the first digits of the sha256 of the table where the spectrum is one."""
        if self.transfer in TRANSFERS:
            return "4"
        return "4." + hashlib.sha256(Path(self.transfer).read_bytes()).hexdigest()[:16]

    @property
    def outputs(self) -> Outputs:
        found = [f for s in self._statistics for f in s.fields(self._mesh, self.box)]
        for coarse in self._coarse:
            found += [replace(f, name=f"{f.name}_{coarse.particles}") for f in coarse.outputs.fields]
        return Outputs(tuple(found))

    @property
    def stochastic(self) -> bool:
        return self.phase_seed is None

    def run(self, theta: Tensor, *, seed: int) -> Tensor:
        """The statistics [m] at theta [d], with a graph to theta when theta requires a gradient.

        Raises:
            InputError: theta is not a universe that can be simulated.
            RunFailed: a statistic is not finite, or not positive where it must be.
        """
        signs = (1, -1) if self.pair else (1,)
        each = (self.measure(self.snapshot(theta, seed=seed, sign=sign)) for sign in signs)
        y = functools.reduce(torch.add, each) / len(signs)
        y = torch.cat((y, *(coarse.run(theta, seed=seed) for coarse in self._coarse)))
        bad = ~torch.isfinite(y.detach()) | (torch.from_numpy(self.outputs.positive) & (y.detach() <= 0))
        if bool(bad.any()):
            name = self.outputs.labels[int(bad.nonzero()[0, 0])]
            raise RunFailed("nonfinite", f"{name} must be finite, and positive by nature. Got {y.tolist()} at "
                            f"{theta.tolist()}.")  # fmt: skip
        return y

    def jacobian(self, theta: Tensor, *, seed: int, mode: Literal["auto", "forward", "reverse"] = "auto"
                 ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """The statistics [m] and their derivatives [m, d] at theta [d].

        Forward mode costs about three simulations per parameter and some seconds for its first one, reverse mode about
        two per output; "auto" takes the cheaper one. The two agree to rounding.
        """
        theta = theta.detach().clone()
        if mode == "forward" or (mode == "auto" and 3 * len(theta) <= self.outputs.size):
            kept, columns = replace(self, adjoint="stored"), []  # its steps know their tangents
            for direction in torch.eye(len(theta), dtype=theta.dtype):
                with torch.no_grad(), forward_ad.dual_level():
                    y, change = forward_ad.unpack_dual(kept.run(forward_ad.make_dual(theta, direction), seed=seed))
                columns.append(change)
            return y, torch.stack(columns, 1)
        with torch.enable_grad():
            theta.requires_grad_()
            y = self.run(theta, seed=seed)
        rows = [torch.autograd.grad(value, theta, retain_graph=i + 1 < len(y))[0] for i, value in enumerate(y)]
        return y.detach(), torch.stack(rows)

    def noise(self, seed: int) -> Tensor:
        """White noise [n, n, n] of unit variance, float64: the initial conditions of the run with this seed.

        The mean and the Nyquist planes are empty, and with `amplitudes = "fixed"` every mode has its mean size.
        """
        return from_modes(white_noise(self.particles, self._key(seed), self.amplitudes))

    def snapshot(
        self, theta: Tensor, *, seed: int = 0, noise: Tensor | None = None, sign: Literal[1, -1] = 1
    ) -> Snapshot:
        """The particles at `a_final`, with a graph to theta and to the noise where those require a gradient.

        Args:
            theta: parameters [d], in the order of the space.
            seed: key of the initial phases when `phase_seed` is None and no noise is given.
            noise: white noise [n, n, n], independent numbers of unit variance, in place of that of the seed.
            sign: -1 for the partner of a pair, which starts from the opposite density.
        """
        keep_freed_memory()
        cosmology, mesh, r = self._cosmology(theta), self._mesh, self.refinement
        kind = {"device": self._device, "dtype": torch.complex64 if self.precision == "float32" else torch.complex128}
        if noise is not None and noise.shape != (self.particles,) * 3:
            raise InputError(f"nbody: noise must have shape [{self.particles}] * 3, one number per particle. Got "
                             f"{list(noise.shape)}; `noise(seed)` makes some.")  # fmt: skip
        modes = white_noise(self.particles, self._key(seed), self.amplitudes) if noise is None else to_modes(noise)
        psi = displacements(linear_field(sign * modes.to(**kind), cosmology, self.box))
        table = steps(cosmology, self.a_start, self.a_final, self.steps, self.scheme)
        x = r * psi.at(table.start.D, table.start.D2)
        v = r * psi.at(torch.ones_like(table.start.D), table.start.dD2)
        x, v = ADJOINTS[self.adjoint](x, v, table, Gravity(mesh, self.gradient, self.deconvolution))
        if self.pgd:
            alpha, *band = self.pgd
            cell = self.box / mesh.cells  # Mpc/h
            x = x + alpha * acceleration(x, Gravity(mesh, self.gradient, 0, (band[0] * cell, band[1] * cell)))
        return Snapshot(displacement=x, velocity=v, mesh=mesh, box=self.box, cosmology=cosmology, growth=table.end)

    def measure(self, snapshot: Snapshot) -> Tensor:
        """The statistics [m] of a snapshot, float64 on the CPU."""
        return torch.cat([s.measure(snapshot).cpu() for s in self._statistics])

    def _key(self, seed: int) -> int:
        return seed if self.phase_seed is None else self.phase_seed

    def _cosmology(self, theta: Tensor) -> Cosmology:
        """The universe at theta: what the space varies, then what is fixed, then the rest."""
        varied = self.space.unpack(self.space.pack(theta))
        given = {**self.fixed, **varied}
        rest = {k: v for k, v in _FIDUCIAL.items() if k not in given and not (k == "sigma_8" and "A_s" in given)}
        numbers: Mapping[str, Tensor | float] = {**rest, **given}
        numbers = {k: torch.as_tensor(v, dtype=torch.float64) for k, v in numbers.items()}
        return Cosmology(**numbers, transfer=self.transfer if self.transfer in TRANSFERS else _table(self.transfer))

    @property
    def _coarse(self) -> tuple["NBody", ...]:
        return tuple(replace(self, particles=n, companions=(), k_max=min(1.0, self.k_max * self.particles / n))
                     for n in self.companions)  # fmt: skip

    @property
    def _statistics(self):
        return named(self.statistics, k_max=self.k_max)

    @property
    def _device(self) -> torch.device:
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return torch.device(self.device)

    @functools.cached_property
    def _mesh(self) -> Mesh:
        compiled = self.compile == "always" or (self.compile == "auto" and self.particles >= 128 and has_compiler())
        return Mesh(self.particles, self.refinement, compiled=compiled)


_table = functools.lru_cache(maxsize=2)(functools.partial(LinearTable.read, quantity="T"))
