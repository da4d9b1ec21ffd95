"""Many replicates of a stochastic program, in one batched call wherever the program allows it.

`lift` makes one kind of thing of a simulator, an emulator and any callable: y `[m]` = f(theta `[d]`, noise). `each`
evaluates a function of the noise for n replicates: it runs one to learn the sites, draws the uniform numbers of all, and
maps the function over them by `torch.func.vmap`; a program that branches on its draws, or is not written in torch, is
run one replicate at a time, with the same noise.
"""

import inspect
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.utils import _pytree as pytree

from emulate.contracts import Simulator
from emulate.emulator import Emulator
from emulate.errors import InputError
from emulate.noise import Noise, Opaque, Place, Record, uniforms

CHUNK, NUMBERS = 2**15, 2**24  # replicates, and uniform numbers, in one batched call: bound the memory
FEW, MANY = 4, 10_000  # replicates below which a batch does not pay; above which running one by one is told


@dataclass(frozen=True)
class Program:
    """y `[m]` = call(theta `[d]`, noise); `source` is what it was made of."""

    call: Callable[[Tensor, Noise], Any]
    source: Any

    def __call__(self, theta: Tensor, noise: Noise) -> Tensor:
        y = self.call(theta, noise)
        if isinstance(y, float | int | complex | np.ndarray | np.generic):
            y = torch.as_tensor(y, dtype=torch.complex128 if np.iscomplexobj(y) else torch.float64)
        if not isinstance(y, Tensor) or y.ndim > 1:
            met = f"shape {list(y.shape)}" if isinstance(y, Tensor) else type(y).__name__
            raise InputError(f"f must return one number or a vector [m]. Got {met}.")
        return torch.atleast_1d(y if y.is_floating_point() or y.is_complex() else y.double())


def lift(f: Any) -> Program:
    """f as a program of (theta, noise). Taken are a `Simulator` (its `program` or `dynamics`, where it offers one, else its
    runs), an `Emulator` (its mean), and callables of theta that may ask for more: an argument named `noise` gets the noise;
    one named `seed`, or a second one of any other name, an integer seed.

    >>> lift(lambda theta: theta**2)(torch.tensor([3.0], dtype=torch.float64), Noise(0))
    tensor([9.], dtype=torch.float64)
    """
    if isinstance(f, Program):
        return f
    if isinstance(f, Simulator):
        return Program(_inside(f), f)
    if isinstance(f, Emulator):
        return Program(lambda theta, noise: f.predict(theta).mean, f)
    if not callable(f):
        raise InputError(f"f must be a simulator, an emulator, or a function of (theta), (theta, seed) or "
                         f"(theta, noise). Got {type(f).__name__}.")  # fmt: skip
    named, needed = _arguments(f.forward if isinstance(f, torch.nn.Module) else f)
    if "noise" in named[1:]:
        return Program(lambda theta, noise: f(theta, noise=noise), f)
    if "seed" in named[1:]:
        return Program(lambda theta, noise: f(theta, seed=noise.seed), f)
    if len(needed) == 1:
        return Program(lambda theta, noise: f(theta), f)
    if len(needed) == 2:
        return Program(lambda theta, noise: f(theta, noise.seed), f)
    raise InputError("f must take one argument (theta), or two: (theta, seed) or (theta, noise). "
                     f"Got {len(needed)}: {', '.join(needed) or 'none'}.")  # fmt: skip


def _inside(f: Simulator) -> Callable[[Tensor, Noise], Any]:
    """What a simulator shows of itself, as a function of (theta, noise)."""
    if callable(program := getattr(f, "program", None)):
        return program
    if (dynamics := getattr(f, "dynamics", None)) is not None:
        return lift(dynamics).call
    return lambda theta, noise: f.run(theta, seed=noise.seed if f.stochastic else 0)


def _arguments(f: Callable[..., Any]) -> tuple[list[str], list[str]]:
    """The names of all arguments, and of those by position that have no default."""
    try:
        found = inspect.signature(f).parameters.values()
    except (TypeError, ValueError):
        return ["theta"], ["theta"]  # a builtin that tells nothing of itself
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    named = [p.name for p in found if p.kind not in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)]
    return named, [p.name for p in found if p.default is p.empty and p.kind in positional] or named[:1]


@dataclass(frozen=True)
class Replicates:
    """What `each` gives: the answers, stacked; what was seen of the program; the calls that it took; and, where the
    replicates ran one by one although their sites are seen, why."""

    answer: Any
    record: Record
    calls: int
    alone: str = ""

    def random(self, y: Tensor) -> bool:
        """Whether the program is random, from its values y `[n, m]`: it draws, or its plain seeds make a difference."""
        return bool(self.record.sites) or (self.record.opaque and not bool((y == y[0]).all()))


def each(g: Callable[[Noise], Any], seed: int, n: int, *, first: int = 0) -> Replicates:
    """g(noise) of the replicates first, first + 1, ...: a tensor, or tuples and dicts of them, each `[n, ...]`.

    >>> from torch.distributions import Normal
    >>> x = each(lambda noise: noise.draw("x", Normal(0.0, 1.0)), seed=1, n=1000).answer
    >>> x.shape, bool((x.mean().abs() < 0.1) & ((x.std() - 1).abs() < 0.1))
    (torch.Size([1000]), True)
    """
    one, alone = Noise(seed, first), ""
    answer = g(one)
    if n >= FEW and not one.record.opaque and one.record.shapes:
        try:
            return Replicates(_batched(g, seed, range(first, first + n), one.record.shapes), one.record, n + 1)
        except (Opaque, RuntimeError, NotImplementedError) as e:
            if "allocate" in str(e):
                raise
            alone = str(e).split("\n", 1)[0] or "it draws at places that depend on what it drew"
        if n > MANY:
            warnings.warn(f"{n} replicates run one by one, for the program cannot be batched: {alone}", stacklevel=3)
    answers, record = [answer], one.record
    for i in range(1, n):
        noise = Noise(seed, first + i)
        answers.append(g(noise))
        record.opaque |= noise.record.opaque
        record.shapes |= noise.record.shapes
        record.decisions |= noise.record.decisions
    return Replicates(_stack(answers, torch.stack), record, n, alone)


def _batched(g: Callable[[Noise], Any], seed: int, of: range, shapes: dict[Place, tuple[int, ...]]) -> Any:
    size = sum(int(np.prod(shape, dtype=np.int64)) for shape in shapes.values())
    chunk = max(1, min(CHUNK, NUMBERS // max(size, 1)))
    parts = []
    for start in range(of.start, of.stop, chunk):
        part = range(start, min(start + chunk, of.stop))
        given = {place: uniforms(seed, place, shape, part) for place, shape in shapes.items()}
        with UNVALIDATED:
            answer = torch.func.vmap(lambda held: g(Noise(seed, given=held)))(given)
        for leaf in pytree.tree_leaves(answer):
            if leaf.is_floating_point() and bool((lost := leaf.isnan().reshape(len(part), -1).any(1)).any()):
                g(
                    Noise(seed, part[int(lost.nonzero()[0])])
                )  # where a distribution's argument is wrong, it says so itself
        parts.append(answer)
    return _stack(parts, torch.cat)


def _stack(answers: list[Any], join: Callable[[list[Tensor]], Tensor]) -> Any:
    leaves, specs = zip(*(pytree.tree_flatten(a) for a in answers))
    return pytree.tree_unflatten([join(list(of)) for of in zip(*leaves)], specs[0])


class _Unvalidated:
    """Distributions check their arguments by a branch, which a batch cannot take: `noise.draw` asks in another way."""

    def __init__(self) -> None:
        self._lock, self._depth, self._before = threading.Lock(), 0, True

    def __enter__(self) -> None:
        with self._lock:
            if not self._depth:
                self._before = Distribution._validate_args
                Distribution.set_default_validate_args(False)
            self._depth += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._depth -= 1
            if not self._depth:
                Distribution.set_default_validate_args(self._before)


UNVALIDATED = _Unvalidated()
