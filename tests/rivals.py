"""Emulators of known faults, as a user's own module would hold them: each is a polynomial with one thing wrong."""

import os
import signal
import time
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.distributions import Normal

from emulate.contracts import Core, Recipe
from emulate.emulators.polynomial import Polynomial
from emulate.errors import InputError


class _Bent(Core):
    """The polynomial, its stated error times `stated`, its mean plus a wave too fast to be seen in value."""

    def __init__(self, inner: Core, stated: float, ripple: float, missing: float):
        super().__init__()
        self.inner = inner
        for name, value in (("stated", stated), ("ripple", ripple), ("missing", missing)):
            self.register_buffer(name, torch.tensor(value, dtype=torch.float64))

    def forward(self, u):
        p = self.inner(u)
        wave = self.ripple * (3000 * u[..., :1]).sin()
        hole = torch.where(u[..., :1] < self.missing, torch.nan, 0.0)
        return Normal(p.mean + wave + hole, p.stddev * self.stated, validate_args=False)


@dataclass(frozen=True, kw_only=True)
class Bent(Recipe):
    """A polynomial of degree 2 that is shy or boastful, has a wrong gradient, or no answer in a part of the box."""

    stated: float = 1.0  # stated standard deviation over the honest one
    ripple: float = 0.0  # amplitude of the wave, in standard deviations of z
    missing: float = 0.0  # share of the box, along the first parameter, where the mean is NaN

    def minimum_runs(self, d):
        return Polynomial().minimum_runs(d)

    def train(self, u, z, *, noisy, seed):
        return _Bent(Polynomial(calibrate=self.calibrate).train(u, z, noisy=noisy, seed=seed), self.stated, self.ripple,
                     self.missing)  # fmt: skip

    def rebuild(self, state):
        inner = {k.removeprefix("inner."): v for k, v in state.items() if k.startswith("inner.")}
        made = _Bent(Polynomial().rebuild(inner), 1.0, 0.0, 0.0)
        made.load_state_dict(state)
        return made


@dataclass(frozen=True, kw_only=True)
class Troubled(Bent):
    """A fit that raises, is slow, or ends its process, when it is given fewer runs than `below`."""

    kind: str = "raise"  # raise, refuse, slow, kill
    below: int = 10**9
    lasts: float = 0.0  # s, of every fit
    once: str = ""  # a file: what is there has happened already, and does not happen again

    def train(self, u, z, *, noisy, seed):
        time.sleep(self.lasts)
        if len(u) < self.below and not (self.once and os.path.exists(self.once)):
            if self.once:
                open(self.once, "w").close()
            if self.kind == "raise":
                raise ZeroDivisionError("seven divided\nby nothing")
            if self.kind == "refuse":
                raise InputError("troubled: runs must be more. Got few.")
            if self.kind == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
        return super().train(u, z, noisy=noisy, seed=seed)


@dataclass(frozen=True, kw_only=True)
class Nested(Bent):
    """Refuses cheaper runs at parameters at which it is given no other."""

    fidelities: tuple[str, ...] = ("cheap",)

    takes: ClassVar[tuple[str, ...]] = ("coarse",)

    def train(self, u, z, *, noisy, seed, coarse):
        ((cheap, _),) = coarse
        if (torch.cdist(cheap, u).amin(1) > 1e-12).any():
            raise InputError("nested: cheaper runs must lie where the others do. Got more of them.")
        return super().train(u, z, noisy=noisy, seed=seed)
