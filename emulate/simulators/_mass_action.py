"""Two populations that multiply by meeting, solved in logarithms: what predators and epidemics share.

With p = ln x and q = ln y the equations of Lotka and Volterra are those of a Hamiltonian that splits,

    dp/dt = alpha - beta e^q,    dq/dt = delta e^p - gamma,    H = delta e^p - gamma p + beta e^q - alpha q,

and each half is solved exactly while the other stands still. Seventeen such leaps make a step of order 8 (Kahan and Li
1997; Hairer, Lubich and Wanner 2006, V.3.2). It keeps H, and both populations stay positive. An epidemic is the case of
prey that does not breed: x = S, y = I, alpha = 0, delta = beta (Kermack and McKendrick 1927).
"""

import cmath
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._C._functorch import peek_interpreter_stack

from emulate.errors import InputError, RunFailed, nearest

_HALF = (0.13020248308889008087881763, 0.56116298177510838456196441, -0.38947496264484728640807860,
         0.15884190655515560089621075, -0.39590389413323757733623154, 0.18453964097831570709183254,
         0.25837438768632204729397911, 0.29501172360931029887096624)  # fmt: skip
_LEAPS = (*_HALF, -0.60550853383003451169892108, *_HALF[::-1])
_KICKS = tuple(0.5 * (a + b) for a, b in pairwise((*_LEAPS, _LEAPS[0])))  # the last joins the next step's first
_STEP = 1e-30  # of a complex number: its square is nothing


class Rates(NamedTuple):
    """alpha, beta, gamma, delta: numbers, or tensors of one shape."""

    alpha: Any
    beta: Any
    gamma: Any
    delta: Any


def flow(p: Any, q: Any, rates: Rates, times: Sequence[float], step: float, exp: Callable[[Any], Any]) -> list[tuple]:
    """(p, q) at the times, which rise from 0, by steps of at most `step`; `exp` says what numbers are: real, complex, tensors."""
    alpha, beta, gamma, delta = rates
    found, now = [], 0.0
    for time in times:
        n = math.ceil((time - now) / step - 1e-9)
        h = (time - now) / n if n else 0.0
        leaps, half = [(c * h, k * h) for c, k in zip(_LEAPS, _KICKS, strict=True)], 0.5 * _LEAPS[0] * h
        p = p + half * (alpha - beta * exp(q)) if n else p
        for _ in range(n):
            for c, k in leaps:
                q = q + c * (delta * exp(p) - gamma)
                p = p + k * (alpha - beta * exp(q))
        p = p - half * (alpha - beta * exp(q)) if n else p
        found.append((p, q))
        now = time
    return found


def solve(start: tuple[float, float], rates: Callable[[Sequence[Any]], Rates], theta: Tensor, times: Sequence[float],
          step: float) -> tuple[Tensor, Tensor]:  # fmt: skip
    """p and q `[..., t]` at theta `[..., d]`, by torch where a derivative or a batch is asked for, else by plain numbers.

    The two agree to rounding; plain numbers take a fiftieth of the time.
    """
    if plain(theta):
        pairs = _numbers(start, rates(theta.tolist()), times, step, math.exp)
        p, q = torch.tensor(pairs, dtype=torch.float64).unbind(-1)
        return p, q
    of = Rates(*(x if isinstance(x, Tensor) else torch.full_like(theta[..., 0], x) for x in rates(theta.unbind(-1))))
    p, q = (torch.full_like(of.beta, x) for x in start)
    pairs = flow(p, q, of, times, step, torch.exp)
    return torch.stack([p for p, _ in pairs], -1), torch.stack([q for _, q in pairs], -1)


def slopes(start: tuple[float, float], rates: Callable[[Sequence[Any]], Rates], theta: Tensor, times: Sequence[float],
           step: float) -> tuple[Tensor, Tensor]:  # fmt: skip
    """dp/dtheta and dq/dtheta `[t, d]` at theta `[d]`, by complex steps (Squire and Trapp 1998): right to rounding."""
    columns, values = [], theta.tolist()
    for i in range(len(values)):
        moved = [complex(v, _STEP * (i == j)) for j, v in enumerate(values)]
        pairs = _numbers(start, rates(moved), times, step, cmath.exp)
        columns.append([[p.imag / _STEP, q.imag / _STEP] for p, q in pairs])
    by_p, by_q = torch.tensor(columns, dtype=torch.float64).movedim(0, -1).unbind(1)
    return by_p, by_q


def plain(theta: Tensor) -> bool:
    """Whether theta is one point that nobody differentiates, so that its numbers say all."""
    watched = theta.requires_grad or peek_interpreter_stack() is not None
    return type(theta) is Tensor and theta.ndim == 1 and theta.dtype == torch.float64 and not watched and (
        torch.autograd.forward_ad.unpack_dual(theta).tangent is None)  # fmt: skip


def need_times(who: str, times: Sequence[float]) -> None:
    """Complain about times that do not rise from 0."""
    if not times or list(times) != sorted(set(times)) or not (times[0] >= 0 and math.isfinite(times[-1])):
        raise InputError(f"{who}: times must be numbers of at least 0 that rise. Got {list(times)}.")


def need_names(who: str, known: Sequence[str], varied: Sequence[str], fixed: Mapping[str, float]) -> None:
    """Complain unless each of the `known` parameters is varied or fixed, and no other."""
    for name in (*varied, *fixed):
        if name not in known:
            raise InputError(f"{who}: the parameters must be among {', '.join(known)}. Got {name!r}; change their priors, keep "
                             f"their names.{nearest(name, known)}")  # fmt: skip
    if wrong := [n for n in known if (n in varied) == (n in fixed)]:
        raise InputError(f"{who}: each of {', '.join(known)} must be in the space or in fixed, and not in both. Got "
                         f"{', '.join(wrong)} in {'both' if wrong[0] in fixed else 'neither'}.")  # fmt: skip


def _numbers(start: tuple[Any, Any], rates: Rates, times: Sequence[float], step: float, exp: Callable) -> list[tuple]:
    try:
        pairs = flow(start[0], start[1], rates, times, step, exp)
    except OverflowError:
        pairs = [(math.inf, math.inf)]
    if not all(cmath.isfinite(x) for pair in pairs for x in pair):
        raise RunFailed("nonfinite", f"steps of {step:g} must be short against the rates. Got populations that run away; give "
                                     "the simulator a smaller step, or narrow the prior.")  # fmt: skip
    return pairs
