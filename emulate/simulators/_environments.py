"""What acts on what: an environment by its name, or an emulator of its transitions in its place.

A system has names of its `states` and `actions`, `bounds` of the actions `[a]`, `choices` (how many, where actions are of a
list, else 0), and says whether its steps are `random`, whether episodes begin at different states (`scattered`), whether its
steps are `smooth`, torch operations that carry a derivative, and whether any state is `settable`. `initial(noise, n)` are
states `[n, s]`, `next(x [..., s], a [..., a], noise, step)` the states after them, and `cost(x, a)` what a step costs where
the environment knows that.
"""

import json
from collections.abc import Mapping
from dataclasses import fields
from functools import lru_cache
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from emulate import chained
from emulate.distributions import Gaussian, drawn
from emulate.emulator import Emulator
from emulate.errors import InputError, nearest
from emulate.noise import Noise
from emulate.simulators._gymnasium import Gym
from emulate.simulators._lqr import LQR

LINEAR = "lqr"  # the environment that is built in
NEXT = "next_"  # before a state's name: that state after the step


class System(Protocol):
    """See above."""

    states: tuple[str, ...]
    actions: tuple[str, ...]
    bounds: tuple[Tensor, Tensor]
    choices: int
    random: bool
    scattered: bool
    smooth: bool
    settable: bool

    def initial(self, noise: Noise, n: int) -> Tensor:
        """States `[n, s]` at which n episodes begin."""
        ...

    def next(self, x: Tensor, a: Tensor, noise: Noise, step: int) -> Tensor:
        """x' `[..., s]` of x `[..., s]` and a `[..., a]`."""
        ...


def environment(name: str, options: Mapping[str, Any]) -> LQR | Gym:
    """The environment of a name; the same object for the same options."""
    try:
        return _made(name, json.dumps(dict(options), sort_keys=True))
    except (TypeError, ValueError) as e:
        raise e if isinstance(e, InputError) else InputError(
            f"options must be plain values. Got {dict(options)!r:.80}: {e}.") from None  # fmt: skip


@lru_cache(maxsize=16)
def _made(name: str, options: str) -> LQR | Gym:
    given = json.loads(options)
    if name != LINEAR:
        return Gym(name, given)
    known = [f.name for f in fields(LQR)]
    for key in given:
        if key not in known:
            raise InputError(f"options of lqr must be among {', '.join(known)}. Got {key!r}.{nearest(key, known)}")
    rows: dict[str, Any] = {
        k: tuple(tuple(r) if isinstance(r, list) else r for r in v) if isinstance(v, list) else v
        for k, v in given.items()
    }
    return LQR(**rows)


class Emulated:
    """The transitions of an environment by an emulator of `next_STATE` given states and actions: smooth, whatever they are.

    Next states are drawn where the emulator learnt from a stochastic simulator, else they are its mean. Where it is asked
    outside the box that it was trained in, it extrapolates; `outside` counts that.
    """

    smooth = settable = True

    def __init__(self, real: LQR | Gym, emulator: Emulator, path: str):
        self.real, self.emulator = real, emulator
        self.states, self.actions, self.bounds, self.choices = real.states, real.actions, real.bounds, real.choices
        self.scattered, self.initial = real.scattered, real.initial
        self.random = bool(emulator.provenance.get("stochastic"))
        wanted, answers = (*self.states, *self.actions), tuple(NEXT + s for s in self.states)
        given, got = emulator.space.names, emulator.outputs.labels
        if sorted(wanted) != sorted(given) or sorted(answers) != sorted(got):
            raise InputError(f"emulator must be one of {', '.join(answers)} given {', '.join(wanted)}, trained on runs of the "
                             f"simulator transition. Got {path}, one of {', '.join(got)} given {', '.join(given)}.")  # fmt: skip
        if self.random != real.random:
            kind = "random" if real.random else "not random"
            raise InputError(f"emulator must be of transitions that are {kind}, as those of the environment are. Got {path}; train "
                             "it on runs with these options.")  # fmt: skip
        self._in, self._out = [wanted.index(n) for n in given], [got.index(n) for n in answers]

    def next(self, x: Tensor, a: Tensor, noise: Noise, step: int) -> Tensor:
        """x' `[..., s]`, drawn at the site `transition` where it is random."""
        theta = torch.cat((x, a), -1)[..., self._in]
        p = self.emulator.predict(theta, outside="ignore")
        if not self.random:
            return p.mean[..., self._out]
        if isinstance(p, Gaussian) and p.log is None:
            root = torch.linalg.cholesky(p.covariance_matrix)
            p = MultivariateNormal(p.mean, scale_tril=root, validate_args=False)
            return noise.draw("transition", p, step=step)[..., self._out]
        u = noise.uniform("transition", (), step=step)
        return drawn(p, (), seed=int(u * 2**31))[..., self._out]

    def outside(self, x: Tensor, a: Tensor) -> Tensor:
        """Whether states and actions lie outside the box that the emulator was trained in, `[...]`."""
        return self.emulator.domain(torch.cat((x, a), -1)[..., self._in]) > 0


@lru_cache(maxsize=16)
def emulated(name: str, options: str, emulator: Emulator, path: str) -> Emulated:
    """An emulator in the place of an environment; options as JSON."""
    return Emulated(_made(name, options), emulator, path)


def loaded(name: str, options: Mapping[str, Any], path: str) -> Emulated:
    """The emulator of a folder in the place of an environment."""
    return emulated(name, json.dumps(dict(options), sort_keys=True), chained.saved(path), path)
