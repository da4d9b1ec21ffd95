"""One emission of a Lund string, learnt from draws: the table to train on, and the emulator of z that stands in the loop.

What is learnt is p(z | a, c), c = b mT^2, as the density of x = ln(z / (1 - z)). All else stays exact: flavours, the
Gaussian transverse momenta, and energy and momentum, which the loop of `emulate.lund` conserves whatever z is.

    runs = emissions.table(emissions.RUNS, seed=0)
    emulator = emulate.fit(emulate.build("emulators", {"use": "flow", **emissions.FLOW}), runs, seed=0)
    events = emulate.lund.generate(theta, n, seed=1, emission=emissions.FlowEmission(emulator))
    score = events.history.score(emissions.FlowEmission(emulator))  # dE[h]/dtheta = Cov(h, score)

Measured of such a flow: trees tell its events from Pythia's own with an area of 0.499 (pions) and 0.500 (mesons), at worst of
8 theta 0.504 and 0.507, where those of Pythia differ by as much; gradients of 37 hard bins at a = 0.68 have a chi^2 per
degree of freedom of 1.00 against differences of the exact string with 10^6 events at either side, and with respect to a
they are small by 0.15 +- 0.02 %, which `log_weights(made_by=)` of the history takes away.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from emulate import chained
from emulate.errors import InputError
from emulate.lund.emission import Condition, Emission
from emulate.lund.inverse import quantile
from emulate.lund.keyed import Keyed
from emulate.runs import Field, Outputs, Runs
from emulate.space import LogUniform, Parameter, Space, Uniform

if TYPE_CHECKING:
    from emulate.emulator import Emulator

SPACE = Space((Parameter("a", Uniform(0.0, 2.0)), Parameter("c", LogUniform(0.003, 40.0), label="b m_T^2")))
OUTPUTS = Outputs((Field("logit_z", label=r"\ln z/(1-z)"),))
# calibrate: a scale from the few draws that are held out is rougher than the one that training finds
FLOW: Mapping[str, Any] = MappingProxyType({"transforms": 1, "bins": 12, "width": 32, "epochs": 80, "patience": 80,
                                            "batch": 1024, "rate": 5e-3, "held_out": 0.05, "slopes": 4.0,
                                            "calibrate": False})  # fmt: skip
RUNS = 65_536  # draws with which FLOW comes within 2e-4 nats, in a minute of one core
_SMALL = 1e-9  # the quasi-random points keep that far from 0 and 1
_ROWS, _BLOCK = 512, 4096


def table(n: int, *, seed: int, space: Space = SPACE) -> Runs:
    """n draws of the exact density, each at an (a, c) of its own: quasi-random in a, ln c and z together (Sobol, scrambled
    by the seed), so that the mean of a likelihood over them has less noise than one of independent draws; with the
    derivative of ln(z / (1 - z)) with respect to a and c at the same quantile, which tells how the density moves.

    >>> table(256, seed=1).y.shape
    (256, 1)
    """
    u = torch.quasirandom.SobolEngine(3, scramble=True, seed=seed).draw(n, dtype=torch.float64)
    a, c = (x.contiguous().requires_grad_() for x in space.from_unit(u[:, :2]).unbind(1))
    z = quantile(u[:, 2].clamp(_SMALL, 1 - _SMALL), a, c)
    moved = torch.stack(torch.autograd.grad(_logit(z).sum(), (a, c)), 1)
    return tabulated(z.detach(), a.detach(), c.detach(), space, moved)


def tabulated(z: Tensor, a: Tensor, c: Tensor, space: Space = SPACE, moved: Tensor | None = None) -> Runs:
    """The table to train on of emissions made elsewhere, z, a and c = b mT^2 (of the hadron) each `[n]`; moved `[n, 2]` is
    how ln(z / (1 - z)) moves with a and c, where that is known.

    Give every emission that was tried, not those of finished events alone: a string that is begun again when its last two
    hadrons have no room prefers some z to others.
    """
    if not bool(((z > 0) & (z < 1)).all()):
        raise InputError(f"emissions: z must lie between 0 and 1. Got {float(z[~((z > 0) & (z < 1))][0]):g}.")
    theta = torch.stack((a, c), 1)
    _within(space, theta)
    jacobian = None if moved is None else moved[:, None].numpy()
    return Runs.of(space, OUTPUTS, theta.numpy(), _logit(z)[:, None].numpy(), stochastic=True, jacobian=jacobian)


@dataclass(frozen=True)
class FlowEmission(Emission):
    """z by a trained flow: one uniform number a draw, differentiable in a and b; its density, and thus its score.

    Raises InputError where the emulator is not one of `logit_z` given a and c, or tells no quantiles, and where it is
    asked outside the box that it was trained in.
    """

    emulator: "Emulator"

    def __post_init__(self) -> None:
        space, outputs = getattr(self.emulator, "space", None), getattr(self.emulator, "outputs", None)
        names = space.names if space else ()
        if outputs is None or names != SPACE.names or [f.name for f in outputs.fields] != ["logit_z"]:
            told = (
                f"one of {', '.join(outputs.labels)} given {', '.join(names)}"
                if space and outputs
                else repr(self.emulator)[:60]
            )
            raise InputError("an emission must be an emulator of logit_z given a and c, trained on emissions.table. Got "
                             f"{told}; train one.")  # fmt: skip
        try:
            self._draw(self._box.mean(0)[None], torch.full((1,), 0.5, dtype=torch.float64))
        except InputError as e:
            raise InputError("an emission must be a flow of one member, which tells quantiles. Got one by "
                             f"{self.emulator.recipe.entry_name()}; train a flow. ({e})") from None  # fmt: skip

    @cached_property
    def _box(self) -> Tensor:
        return self.emulator.space.from_unit(torch.tensor([[0.0, 0.0], [1.0, 1.0]], dtype=torch.float64))

    @property
    def digest(self) -> str:
        """sha256 of all that decides an answer; where the emulator lies and what it was trained on is not in it."""
        return chained.digest(self.emulator)

    def sample(self, given: Condition, noise: Keyed) -> Tensor:
        theta, (u,) = self._theta(given), noise.uniform(1)
        n = len(u)
        if lacking := -n % _ROWS:  # rows of a product have other bits at an odd end: always whole blocks of rows
            theta = torch.cat((theta, self._box.mean(0).expand(lacking, 2)))
            u = torch.cat((u, torch.full((lacking,), 0.5, dtype=u.dtype)))
        x = torch.cat([self._draw(*part) for part in zip(theta.split(_BLOCK), u.split(_BLOCK), strict=True)])[:n]
        return torch.reciprocal(1 + torch.exp(-x)).clamp(max=1 - 2.0**-53)

    def log_prob(self, z: Tensor, given: Condition) -> Tensor:
        p = self.emulator.predict(self._theta(given), outside="ignore")
        return p.log_prob(_logit(z)[:, None]) - torch.log(z) - torch.log1p(-z)

    def _draw(self, theta: Tensor, u: Tensor) -> Tensor:
        return self.emulator.predict(theta, outside="ignore").icdf(u[:, None])[:, 0]

    def _theta(self, given: Condition) -> Tensor:
        theta = torch.stack((given.a, given.c), 1)
        _within(self.emulator.space, theta.detach(), self._box)
        return theta


def saved(path: str | os.PathLike) -> FlowEmission:
    """The emission of a folder that `Emulator.save` wrote; loaded once, and again when another takes its place.

    Raises InputError where there is none or it is of something else, StoreError where it is damaged.
    """
    return _emission(chained.saved(path), str(Path(path).expanduser().absolute()))


@lru_cache(maxsize=8)
def _emission(emulator: "Emulator", path: str) -> FlowEmission:
    try:
        return FlowEmission(emulator)
    except InputError as e:
        raise InputError(f"{path}: {e}") from None


def _within(space: Space, theta: Tensor, box: Tensor | None = None) -> None:
    """Complain about (a, c) `[n, 2]` outside the box of a space."""
    low, high = space.from_unit(torch.tensor([[0.0, 0.0], [1.0, 1.0]], dtype=torch.float64)) if box is None else box
    bad = ~((theta >= low * (1 - 1e-12)) & (theta <= high * (1 + 1e-12)))
    if not bool(bad.any()):
        return
    k = int(bad.any(0).nonzero()[0])
    what = ("a", "c = b mT^2")[k]
    raise InputError(f"emissions: {what} must be from {float(low[k]):g} to {float(high[k]):g}, where the emission is taught. Got "
                     f"{float(theta[bad[:, k], k][0]):g}; train on a wider space.")  # fmt: skip


def _logit(z: Tensor) -> Tensor:
    return torch.log(z) - torch.log1p(-z)
