"""Tests of derivatives and of their error bars, for a user's own simulator or function: each gives a `Finding`.

`taylor_test` and `dot_product_test` judge one derivative, `order_test` a solver, `coverage_test` and `variance_test` an
estimator by its repeats, `cost_test` reports what reverse mode costs and blocks nothing. A program's noise stays fixed
under `seed` where one derivative is judged: it is then a function of theta alone.
"""

import itertools
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from emulate.contracts import Finding, Simulator
from emulate.errors import InputError
from emulate.noise import Noise
from emulate.remainders import AGREE, Ladder, worst
from emulate.repeats import coverage_test, variance_test
from emulate.replication import Program, lift
from emulate.tangents import forward, reverse, rows

__all__ = ["cost_test", "coverage_test", "dot_product_test", "order_test", "taylor_test", "variance_test"]


def taylor_test(f: Any, theta: Any, *, seed: int = 0, jacobian: Any = None, scale: Any = None,
                tried: int = 3) -> Finding:  # fmt: skip
    """Whether f(theta + h v) - f(theta) - h J v falls as h^2, in every output: the value is the least order observed.

    The order is the slope of the logarithms over the four smallest steps at which the remainder stands a hundred times
    above the rounding of f, which a table of differences shows. An output that is linear to rounding counts as order 2.
    A wrong J leaves a remainder of order 1 (Farrell, Ham, Funke & Rognes 2013, sec. 6.1).

    jacobian: J `[m, d]`, or what gives it at theta; without it the simulator's own `jacobian`, else reverse mode.
    scale: typical size `[d]` of each parameter, the longest step being a tenth of it; else |theta|, or 1 where it is 0.
    tried: how many v, drawn under `seed`.

    >>> theta = torch.tensor([0.5, 2.0], dtype=torch.float64)
    >>> taylor_test(lambda t: torch.sin(t), theta).passed
    True
    >>> taylor_test(lambda t: torch.sin(t), theta, jacobian=1.01 * torch.diag(torch.cos(theta))).passed
    False
    """
    at, theta, scale = _fixed(f, seed), _vector(theta), _scale(scale, theta)
    y, ladder = _value(at, theta), Ladder()
    slope = _jacobian(f, at, theta, seed, jacobian, len(y))
    found = []
    for v in directions(theta, scale, tried, seed):
        met = torch.stack([_value(at, theta + h * v) for h in ladder.steps.tolist()])
        found.append(ladder.judge(y, met, slope @ v))
    return worst(found)


def dot_product_test(f: Any, theta: Any, *, seed: int = 0, jvp: Callable[[Tensor], Tensor] | None = None,
                     vjp: Callable[[Tensor], Tensor] | None = None, scale: Any = None, pairs: int = 3,
                     precision: str = "") -> Finding:  # fmt: skip
    """Whether <J v, w> = <v, J^T w> between forward and reverse mode: the value is the largest relative difference.

    The difference is over the sum of |w_j (J v)_j|, of `pairs` random v and w in which every parameter and every output
    weighs alike; 1e-12 in double precision (Claerbout 1992, sec. 5, on the dot-product test of adjoints). Where an
    operation of f has no forward mode, J v comes from two reverse passes, which the sentence says: a wrong backward pass
    is then seen by `taylor_test` alone.

    jvp, vjp: J v of v `[d]` and J^T w of w `[m]` at theta, by hand; else torch's of f.
    precision: "float32" where f computes in single precision, whose bound is 1e-12 times the ratio of the roundings; else
    what the simulator's setting of that name says, else "float64".

    >>> dot_product_test(lambda t: torch.sin(t).cumsum(0), torch.tensor([0.5, 2.0], dtype=torch.float64)).passed
    True
    """
    at, theta, scale = _fixed(f, seed), _vector(theta), _scale(scale, theta)
    high, draws, differences, dual = AGREE * coarser(f, precision), generator(seed, 1), [], True
    for v in directions(theta, scale, pairs, seed):
        along, by_dual = (jvp(v), True) if jvp else forward(at, theta, v)
        dual &= by_dual
        along = torch.atleast_1d(along.detach().double())
        w = torch.randn(len(along), generator=draws, dtype=torch.float64)
        w = w / torch.where(along == 0, 1.0, along.abs())
        back = (vjp(w) if vjp else reverse(at, theta, w)).detach().double()
        differences.append(mismatch(along, back, v, w))
    value = float(np.max(differences))
    how = "" if dual else " (forward mode by two reverse passes, which cannot see a wrong backward pass)"
    good = "are each other's transpose" if value <= high else "must be each other's transpose, and one of them is wrong"
    return Finding("dot_product", value, None, high, f"Forward and reverse mode {good}: <J v, w> and <v, J^T w> differ by "
                   f"{value:.2g} of their terms in the worst of {pairs} pairs{how}.")  # fmt: skip


def mismatch(along: Tensor, back: Tensor, v: Tensor, w: Tensor) -> float:
    """|<J v, w> - <v, J^T w>| over the sum of the sizes of the terms; along = J v `[m]`, back = J^T w `[d]`."""
    size = float((along * w).abs().sum())
    difference = float((along @ w - v @ back).abs())
    return difference / size if size else difference


def order_test(solve: Callable[[int], Any], exact: Any | None, steps: Sequence[int], *, order: float,
               tolerance: float = 0.1) -> Finding:  # fmt: skip
    """Whether the error of solve(n) falls as n^-order: the value is the order observed over the numbers of `steps`.

    With an exact value the slope of ln |solve(n) - exact|; without one, of ln |solve(r n) - solve(n)| with one ratio r
    between neighbouring steps (Richardson 1911; Roache 1998, sec. 5). Errors below a hundred roundings are left out, and
    the four finest others are fitted.

    >>> euler = lambda n: (1 - 1 / n) ** n  # y' = -y, y(0) = 1, at 1
    >>> order_test(euler, math.exp(-1), [40, 80, 160], order=1).passed, order_test(euler, None, [40, 80, 160], order=2).passed
    (True, False)
    """
    n = [int(k) for k in steps]
    if len(n) < 3 or n != sorted(set(n)) or n[0] < 1:
        raise InputError(
            f"steps must be three or more rising numbers of steps, such as [20, 40, 80]. Got {list(steps)}."
        )
    ratios = {round(b / a, 9) for a, b in itertools.pairwise(n)}
    if exact is None and len(ratios) > 1:
        raise InputError(
            f"steps without an exact value must have one ratio between neighbours, such as [20, 40, 80]. Got {n}."
        )
    y = np.stack([np.atleast_1d(_numbers(solve(k))) for k in n])
    error = np.abs(np.diff(y, axis=0) if exact is None else y - _numbers(exact)).max(1)
    clean = np.flatnonzero(error > 100 * np.finfo(float).eps * np.abs(y).max())[-4:]
    against = "an exact value" if exact is not None else "the next finer solution"
    if len(clean) < 2:
        return Finding("order", math.nan, order - tolerance, order + tolerance,
                       f"The order must show above rounding at two steps at least. Against {against} it does at {len(clean)}; "
                       "take coarser steps.")  # fmt: skip
    value = -float(np.polyfit(np.log(np.array(n)[clean]), np.log(error[clean]), 1)[0])
    return Finding("order", value, order - tolerance, order + tolerance,
                   f"The error against {against} falls as n^-{value:.3f} from {n[clean[0]]} to {n[clean[-1]]} steps; the method "
                   f"claims {order:g}.")  # fmt: skip


def cost_test(f: Any, theta: Any, *, seed: int = 0, family: Callable[[int], tuple[Any, Any]] | None = None,
              sizes: tuple[int, int] = (10, 100_000), repeats: int = 5) -> tuple[Finding, ...]:  # fmt: skip
    """What a gradient by reverse mode costs, as ratios of the best of `repeats` times; reported, never a verdict.

    `cost.reverse`: a run and its backward pass over a run that records a graph (at most 5 in theory: Griewank & Walther
    2008, sec. 4.4). `cost.calls`: the same over a plain run; central differences would take 2 d. `cost.growth`, with
    `family(d) -> (f, theta [d])` of equal forward work: the time of a gradient at the second of `sizes` over the first.
    """
    at, theta = _fixed(f, seed), _vector(theta)

    def plain() -> None:
        with torch.no_grad():
            at(theta)

    y = _value(at, theta)
    w = torch.ones_like(y)
    run = _seconds(plain, repeats)
    recorded = _seconds(lambda: at(theta.clone().requires_grad_()), repeats)
    gradient = _seconds(lambda: reverse(at, theta, w), repeats)
    found = [
        _cost("reverse", gradient / recorded, "A gradient by reverse mode takes {:.3g} runs that record a graph."),
        _cost(
            "calls",
            gradient / run,
            f"A gradient by reverse mode takes {{:.3g}} plain runs, central differences {2 * len(theta)}.",
        ),
    ]
    if family:
        times = []
        for d in sizes:
            member, point = family(d)
            of, point = _fixed(member, seed), _vector(point)
            ones = torch.ones_like(_value(of, point))
            times.append(_seconds(lambda of=of, point=point, ones=ones: reverse(of, point, ones), repeats))
        found.append(_cost("growth", times[1] / times[0],
                           f"A gradient in {sizes[1]} parameters takes {{:.3g}} times what it takes in {sizes[0]}."))  # fmt: skip
    return tuple(found)


def _cost(name: str, ratio: float, sentence: str) -> Finding:
    return Finding(f"cost.{name}", ratio, None, None, sentence.format(ratio), blocking=False)


def _seconds(work: Callable[[], Any], repeats: int) -> float:
    times = []
    for _ in range(max(repeats, 1)):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def _jacobian(f: Any, at: Callable, theta: Tensor, seed: int, given: Any, m: int) -> Tensor:
    """J `[m, d]`: the one given, the simulator's own, else by reverse mode."""
    if given is None and isinstance(f, Simulator) and (own := getattr(f, "jacobian", None)) is not None:
        given = own(theta.clone(), seed=_seed(f, seed))[1]
    elif given is None:
        given = rows(at, theta)
    elif callable(given):
        given = given(theta.clone())
    found = torch.as_tensor(given).detach().double()
    if found.shape != (m, len(theta)):
        raise InputError(f"jacobian must have the shape of dy/dtheta, [{m}, {len(theta)}]. Got {list(found.shape)}.")
    return found


def _fixed(f: Any, seed: int) -> Callable[[Tensor], Tensor]:
    """f with its noise held fixed."""
    program: Program = lift(f)
    return lambda theta: program(theta, Noise(seed))


def _value(at: Callable[[Tensor], Tensor], theta: Tensor) -> Tensor:
    with torch.no_grad():
        return at(theta).detach().double()


def _seed(f: Simulator, seed: int) -> int:
    return Noise(seed).seed if f.stochastic else 0


def coarser(f: Any, precision: str = "") -> float:
    """Rounding of the precision that f computes in, over that of doubles."""
    name = precision or str(getattr(f.source if isinstance(f, Program) else f, "precision", "float64"))
    kinds = {"float32": torch.float32, "float64": torch.float64}
    if name not in kinds:
        raise InputError(f"precision must be float32 or float64. Got {name!r}.")
    return torch.finfo(kinds[name]).eps / torch.finfo(torch.float64).eps


def _vector(theta: Any) -> Tensor:
    found = torch.as_tensor(theta, dtype=torch.float64).detach()
    if found.ndim != 1 or not len(found) or not bool(found.isfinite().all()):
        raise InputError(f"theta must be a vector [d] of finite numbers. Got {found.tolist()}.")
    return found


def _scale(scale: Any, theta: Tensor) -> Tensor:
    if scale is None:
        return torch.where(theta == 0, 1.0, theta.abs())
    found = torch.as_tensor(scale, dtype=torch.float64)
    if found.shape != theta.shape or not bool((found.isfinite() & (found > 0)).all()):
        raise InputError(f"scale must be {len(theta)} numbers above 0, one for each parameter. Got {found.tolist()}.")
    return found


def directions(theta: Tensor, scale: Tensor, count: int, seed: int) -> Tensor:
    """v `[count, d]`: each parameter moves by 0.3 to 1 of its scale, up or down."""
    draws = generator(seed, 0)
    size = 0.3 + 0.7 * torch.rand(count, len(theta), generator=draws, dtype=torch.float64)
    sign = 2 * torch.randint(0, 2, (count, len(theta)), generator=draws) - 1
    return sign * size * scale


def generator(seed: int, purpose: int) -> torch.Generator:
    """A generator of its own for every purpose of a seed."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence([seed, purpose]).generate_state(1)[0]))


def _numbers(x: Any) -> np.ndarray:
    return np.asarray(x.detach().cpu() if isinstance(x, Tensor) else x, dtype=np.float64)
