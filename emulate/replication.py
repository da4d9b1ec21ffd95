"""Many replicates of a stochastic program, in one batched call wherever the program allows it.

`lift` makes one kind of thing of a simulator, an emulator and any callable: y `[m]` = f(theta `[d]`, noise). `each`
evaluates a function of the noise for n replicates: it runs one to learn the sites, draws the uniform numbers of all, and
maps the function over them by `torch.func.vmap`; a program that branches on its draws, or is not written in torch, is
run one replicate at a time, with the same noise.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.utils import _pytree as pytree

from emulate.contracts import Simulator
from emulate.emulator import Emulator
from emulate.errors import InputError
from emulate.noise import Noise, Opaque, Treatment, uniforms

T = TypeVar("T")


@dataclass(frozen=True)
class Program:
    """y `[m]` = call(theta `[d]`, noise); `source` is what it was made of."""

    call: Callable[[Tensor, Noise], Any]
    source: Any

    def __call__(self, theta: Tensor, noise: Noise) -> Tensor:
        y = self.call(theta, noise)
        if isinstance(y, float | int | np.ndarray | np.generic):
            y = torch.as_tensor(y, dtype=torch.float64)
        if not isinstance(y, Tensor) or y.ndim > 1:
            met = f"shape {list(y.shape)}" if isinstance(y, Tensor) else type(y).__name__
            raise InputError(f"f must return one number or a vector [m]. Got {met}.")
        return torch.atleast_1d(y if y.is_floating_point() or y.is_complex() else y.double())


CHUNK = 2**15  # replicates in one batched call: bounds the memory, changes no answer beyond rounding
FEW = 4  # replicates below which a batch does not pay


def lift(f: Any) -> Program:
    """f as a program of (theta, noise). Taken are a `Simulator`, an `Emulator` (its mean), and callables: f(theta);
    f(theta, seed) with a plain integer seed; f(theta, noise), known by the name of its second argument.

    >>> lift(lambda theta: theta**2)(torch.tensor([3.0], dtype=torch.float64), Noise(0))
    tensor([9.], dtype=torch.float64)
    """
    if isinstance(f, Program):
        return f
    if isinstance(f, Simulator):
        return Program(lambda theta, noise: f.run(theta, seed=noise.seed if f.stochastic else 0), f)
    if isinstance(f, Emulator):
        return Program(lambda theta, noise: f.predict(theta).mean, f)
    if not callable(f):
        raise InputError(f"f must be a simulator, an emulator, or a function of (theta), (theta, seed) or "
                         f"(theta, noise). Got {type(f).__name__}.")  # fmt: skip
    takes = _positional(f)
    if len(takes) == 1:
        return Program(lambda theta, noise: f(theta), f)
    if len(takes) != 2:
        raise InputError("f must take one argument (theta), or two: (theta, seed) or (theta, noise). "
                         f"Got {len(takes)}: {', '.join(takes) or 'none'}.")  # fmt: skip
    if takes[1] == "noise":
        return Program(f, f)
    return Program(lambda theta, noise: f(theta, noise.seed), f)


def each(g: Callable[[Noise], T], seed: int, n: int, *, first: int = 0,
         treatment: Callable[[], Treatment] = Treatment) -> tuple[T, list[Noise]]:  # fmt: skip
    """g(noise) of the replicates first, first + 1, ..., each leaf stacked in front `[n, ...]`; and the noises that were
    looked into: all of them where g ran one by one, else the one that showed the sites.

    Every replicate has a treatment of its own, made by `treatment`.

    >>> from torch.distributions import Normal
    >>> x, _ = each(lambda noise: noise.draw("x", Normal(0.0, 1.0)), seed=1, n=1000)
    >>> x.shape, bool((x.mean().abs() < 0.1) & ((x.std() - 1).abs() < 0.1))
    (torch.Size([1000]), True)
    """
    one = Noise(seed, first, treatment=treatment())
    answer = g(one)
    if n >= FEW and not one.record.opaque and one.record.shapes:
        try:
            return _batched(g, seed, range(first, first + n), one.record.shapes, treatment), [one]
        except (Opaque, RuntimeError, NotImplementedError):
            pass  # it branches on a draw, or leaves torch: what is truly wrong with it shows again below
    noises = [one] + [Noise(seed, first + i, treatment=treatment()) for i in range(1, n)]
    answers = [answer] + [g(noise) for noise in noises[1:]]
    return _stack(answers, torch.stack), noises


def _batched(g: Callable[[Noise], T], seed: int, of: range, shapes: dict, treatment: Callable[[], Treatment]) -> T:
    def mapped(given: dict) -> T:
        return g(Noise(seed, treatment=treatment(), given=given))

    parts = []
    for start in range(of.start, of.stop, CHUNK):
        part = range(start, min(start + CHUNK, of.stop))
        given = {place: uniforms(seed, place, shape, part) for place, shape in shapes.items()}
        with _unvalidated():
            parts.append(torch.func.vmap(mapped)(given))
    return _stack(parts, torch.cat)


def _stack(answers: list[T], join: Callable[[list[Tensor]], Tensor]) -> T:
    leaves, specs = zip(*(pytree.tree_flatten(a) for a in answers))
    return pytree.tree_unflatten([join(list(of)) for of in zip(*leaves)], specs[0])


@contextmanager
def _unvalidated() -> Iterator[None]:
    """Distributions check their arguments by a branch, which a batch cannot take; the first replicate was checked."""
    before = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(before)


def _positional(f: Callable[..., Any]) -> list[str]:
    try:
        parameters = inspect.signature(f).parameters.values()
    except (TypeError, ValueError):
        return ["theta"]  # a builtin that tells nothing of itself
    return [
        p.name for p in parameters if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
