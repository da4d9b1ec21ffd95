r"""Minima of functions over the unit cube, many starts in one batched call, with constraints.

A step is a quasi-Newton one on the coordinates that are free and ends where the box does (two-metric projection: Bertsekas
1982): a coordinate is held at its bound while the gradient pushes outwards. Curvature is learned from gradients by the
update of Broyden, Fletcher, Goldfarb and Shanno, damped so that it stays positive (Powell 1978); with the few parameters
of an emulator the whole matrix costs nothing, so that its memory is not limited.

Constraints g <= 0 and h = 0 enter by the augmented Lagrangian (Hestenes 1969; Powell 1969; Rockafellar 1973)

    f + sum_j (max(0, l_j + m g_j)^2 - l_j^2) / 2m + sum_k (l_k h_k + m h_k^2 / 2),

minimised again and again with l <- max(0, l + m g), l <- l + m h, and m raised where the violation does not shrink.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from emulate.errors import InputError

Function = Callable[[Tensor], Tensor]  # u [rows, d] -> [rows]; rows are never mixed
OfRows = Callable[[Tensor, Tensor], Tensor]  # the same, told which rows of the starts these are
Watch = Callable[[Tensor], None]  # is told where the rows stand, u [rows, d], at each step

CONVERGED = 1e-3  # projected gradient that counts as none, of a function that varies by about 1 over the box
FEASIBLE = 1e-4  # violation that counts as none
_SMALL = 1e-7  # what gradient and violation are brought to where rounding allows it
_NOISE = 1e-8  # rounding of a function: the mean of a Gaussian process is a sum of large terms
_ROUNDS, FIRST, _MOST = 20, 10.0, 1e3  # of the augmented Lagrangian: rounds, first and last weight
_POLISH = 4  # rounds after half of the rows are feasible
_STEPS = {"bfgs": (200, 40), "adam": (1000, 200)}  # at first; within a further round, which begins where the last ended
LARGEST = 500  # parameters whose whole matrix of curvature is held
RATE = 0.05  # of Adam: the first step, in box widths


@dataclass(frozen=True)
class Minima:
    """Where each start ended: u `[rows, d]`, value, gradient (projected, of the Lagrangian), violation `[rows]`, and the
    multipliers `[rows, c]`, df*/d(bound) of each constraint, all at u. history `[steps, rows]`: what was minimised, step by
    step; error `[rows]`: of the gradient, where that is random."""

    u: Tensor
    value: Tensor
    gradient: Tensor
    violation: Tensor
    multiplier: Tensor
    history: Tensor
    error: Tensor | None = None

    @property
    def converged(self) -> Tensor:
        """No way down is seen, or none can be told from noise."""
        still = self.gradient < CONVERGED
        still = still if self.error is None else still | (self.gradient < 2 * self.error)
        return still & (self.violation <= FEASIBLE)


def minimise(f: Function, start: Tensor, *, constraints: Function | None = None, equality: Tensor | None = None,
             method: str = "bfgs", steps: int | None = None, progress: Callable[[int, int], None] | None = None,
             watch: Watch | None = None) -> Minima:  # fmt: skip
    """The minimum down from each row of start `[rows, d]`; f and constraints of about the size 1 over the box.

    `constraints` gives `[rows, c]`, each at most 0, or 0 where `equality` `[c]` says so. `method`: "bfgs", or "adam" for
    functions whose gradient is rough, and for more than 500 parameters. `steps`: at most so many from each start; empty: 200
    of bfgs, 1000 of adam, and with constraints as many as it takes. Rows that have arrived are asked for no more.

    >>> found = minimise(lambda u: (u - torch.tensor([0.25, 1.5])).square().sum(-1), torch.full((1, 2), 0.5).double())
    >>> found.u.round(decimals=6)
    tensor([[0.2500, 1.0000]], dtype=torch.float64)
    """
    if method == "bfgs" and start.shape[1] > LARGEST:
        raise InputError(f"method bfgs must have at most {LARGEST} parameters, whose curvature is a matrix. Got "
                         f"{start.shape[1]}; use adam.")  # fmt: skip
    step, history = {"bfgs": _bfgs, "adam": _adam}[method], []
    first, within = _STEPS[method]
    if constraints is None:
        told = _Told(progress, (steps or first) + 1) if progress else history
        u, value, gradient = step(lambda u, _: f(u), start, steps or first, told, watch)
        history = list(told)
        none = value.new_zeros(len(start))
        return Minima(u, value, _pushed(u, gradient), none, none.new_zeros(len(start), 0), torch.stack(history))
    if steps:  # half of them to the first round, the others to ten more
        first, within = -(-steps // 2), -(-steps // 20)
    equality = torch.zeros((), dtype=torch.bool) if equality is None else equality  # all are bounds from above
    u, weight = start, start.new_full((len(start),), FIRST)
    with torch.no_grad():
        found = constraints(u)
    multiplier, before = torch.zeros_like(found), _violation(found, equality)
    fine = 0
    for n in range(_ROUNDS):

        def lagrangian(u: Tensor, rows: Tensor, l: Tensor = multiplier, m: Tensor = weight[:, None]) -> Tensor:
            g, l, m = constraints(u), l[rows], m[rows]
            bounded = ((l + m * g).clamp_min(0).square() - l.square()) / (2 * m)
            return f(u) + torch.where(equality, l * g + 0.5 * m * g.square(), bounded).sum(-1)

        u, *_ = step(lagrangian, u, within if n else first, history, watch)
        with torch.no_grad():
            g = constraints(u)
        raised = multiplier + weight[:, None] * g
        new = torch.where(equality, raised, raised.clamp_min(0))
        violation = _violation(g, equality)
        slack = (new - multiplier).abs().amax(-1) / weight  # complementarity too: an inactive bound has no multiplier
        multiplier = new
        if progress:
            progress(n + 1, _ROUNDS)
        fine += bool(((violation < FEASIBLE) & (slack < FEASIBLE)).double().mean() >= 0.5)
        spent = steps is not None and len(history) >= steps
        if spent or fine > _POLISH or bool(((violation < _SMALL) & (slack < 10 * _SMALL)).all()):
            break
        slow = (violation > 0.25 * before) & (violation > FEASIBLE)
        weight, before = torch.where(slow, (10 * weight).clamp_max(_MOST), weight), violation
    return _balanced(f, constraints, u, equality | (multiplier > 0), equality, violation, torch.stack(history))


class _Told(list):
    """A history that tells its length as it grows."""

    def __init__(self, progress: Callable[[int, int], None], total: int):
        super().__init__()
        self.progress, self.total = progress, total

    def append(self, value: Tensor) -> None:
        super().append(value)
        self.progress(len(self), self.total)


def _balanced(
    f: Function, constraints: Function, u: Tensor, active: Tensor, equality: Tensor, violation: Tensor, history: Tensor
) -> Minima:
    """The multipliers that balance the gradient best, and what is left of it: those of the rounds carry the rounding of
    the constraints, times their weight."""
    u = u.detach().requires_grad_()
    with torch.enable_grad():
        value, g = f(u), constraints(u)
        df, *dg = (torch.autograd.grad(x.sum(), u, retain_graph=True, allow_unused=True, materialize_grads=True)[0]
                   if x.requires_grad else torch.zeros_like(u) for x in (value, *g.unbind(-1)))  # fmt: skip
    u, normals = u.detach(), torch.stack(dg, 1)
    held = normals * active[:, :, None] * ((u > _SMALL) & (u < 1 - _SMALL))[:, None, :]
    square = held @ held.mT
    ridge = 1e-10 * square.diagonal(dim1=1, dim2=2).sum(-1) + 1e-30
    square = square + torch.diag_embed(torch.where(active, ridge[:, None], 1.0))
    multiplier = torch.linalg.solve(square, -(held @ df[..., None])[..., 0])
    multiplier = torch.where(equality, multiplier, multiplier.clamp_min(0)) * active
    gradient = df + (multiplier[..., None] * normals).sum(1)
    return Minima(u, value.detach(), _pushed(u, gradient), violation, multiplier, history)


def _violation(g: Tensor, equality: Tensor) -> Tensor:
    return torch.where(equality, g.abs(), g.clamp_min(0)).amax(-1)


def _pushed(u: Tensor, gradient: Tensor) -> Tensor:
    """How far a unit step down the gradient moves `[rows]`: 0 where the gradient pushes against the box alone."""
    return (u - (u - gradient).clamp(0, 1)).abs().amax(-1)


def _graded(f: OfRows, u: Tensor, asked: Tensor) -> tuple[Tensor, Tensor]:
    """f `[rows]` of the rows that are asked for and its gradient; infinity and 0 of others, and where either is no number."""
    rows = asked.nonzero()[:, 0]
    leaf = u[rows].detach().requires_grad_()
    with torch.enable_grad():
        found = f(leaf, rows)
        slope = torch.autograd.grad(found.sum(), leaf)[0] if found.requires_grad else torch.zeros_like(leaf)
    good = torch.isfinite(found) & torch.isfinite(slope).all(-1)
    value, gradient = u.new_full((len(u),), torch.inf), torch.zeros_like(u)
    value[rows] = torch.where(good, found.detach(), torch.inf).to(value)
    gradient[rows] = torch.where(good[:, None], slope, 0.0)
    return value, gradient


def _bfgs(
    f: OfRows, u: Tensor, steps: int, history: list[Tensor], watch: Watch | None
) -> tuple[Tensor, Tensor, Tensor]:
    u = u.clone()
    value, gradient = _graded(f, u, u.new_ones(len(u), dtype=torch.bool))
    history.append(value)
    if watch:
        watch(u)
    one = torch.eye(u.shape[1], dtype=u.dtype)
    fresh, todo, reach = torch.ones_like(value, dtype=torch.bool), torch.isfinite(value), torch.full_like(value, 0.1)
    curvature = one * (gradient.norm(dim=-1) / reach).clamp_min(1e-8)[:, None, None]  # a first step of 0.1
    for _ in range(steps):
        todo = todo & (_pushed(u, gradient) > _SMALL)
        if not todo.any():
            break
        near = _pushed(u, gradient).clamp_max(1e-3)[:, None]
        held = ((u <= near) & (gradient > 0)) | ((u >= 1 - near) & (gradient < 0))
        free = (~held).to(u)
        matrix = curvature * free[:, :, None] * free[:, None, :] + torch.diag_embed(
            (1 - free) * curvature.diagonal(dim1=1, dim2=2)
        )
        step = -torch.linalg.solve(matrix, gradient)
        old, before = u, gradient
        u, value, gradient, moved = _walk(f, u, value, gradient, step, todo)
        history.append(value)
        if watch:
            watch(u)
        s, y = u - old, gradient - before
        updated = _updated(curvature, s, y, fresh)
        curvature = torch.where(moved[:, None, None], updated, curvature)
        stuck = todo & ~moved
        reach = torch.where(stuck & fresh, 1e-3 * reach, torch.where(stuck, 1e-3, reach))  # straight down, and shorter
        todo = todo & ~(stuck & (reach < 1e-5))  # as far as rounding lets it go
        straight = one * (gradient.norm(dim=-1) / reach).clamp_min(1e-8)[:, None, None]
        curvature = torch.where(stuck[:, None, None], straight, curvature)
        fresh = torch.where(moved, False, fresh | stuck)
    return u, value, gradient


def _updated(b: Tensor, s: Tensor, y: Tensor, fresh: Tensor) -> Tensor:
    """The damped update of curvature b `[rows, d, d]` by a step s and the change y of the gradient."""
    sy, yy, ss = (s * y).sum(-1), y.square().sum(-1), s.square().sum(-1)
    scale = torch.where(fresh & (sy > 1e-12 * (ss * yy).sqrt()), yy / sy.clamp_min(1e-300), 0.0)[:, None, None]
    b = torch.where(scale > 0, scale * torch.eye(s.shape[1], dtype=s.dtype), b)
    bs = (b @ s[..., None])[..., 0]
    sbs = (s * bs).sum(-1)
    share = torch.where(sy < 0.2 * sbs, 0.8 * sbs / (sbs - sy).clamp_min(1e-300), 1.0)[:, None]
    y = share * y + (1 - share) * bs
    sy = (s * y).sum(-1)
    good = (sy > 1e-300) & (sbs > 1e-300)
    outer = y[:, :, None] * y[:, None, :] / torch.where(good, sy, 1.0)[:, None, None]
    inner = bs[:, :, None] * bs[:, None, :] / torch.where(good, sbs, 1.0)[:, None, None]
    return torch.where(good[:, None, None], b + outer - inner, b)


def _walk(f: OfRows, u: Tensor, value: Tensor, gradient: Tensor, step: Tensor, rows: Tensor):
    """Along the step, projected on the box, halved until f falls as it should (Armijo 1966), or, where rounding hides that,
    until the gradient shrinks (Hager and Zhang 2005)."""
    before = _pushed(u, gradient)
    length, todo, new_u, new_value, new_gradient = torch.ones_like(value), rows, u, value, gradient
    for _ in range(12):
        trial = torch.where(todo[:, None], (u + length[:, None] * step).clamp(0, 1), new_u)
        v, g = _graded(f, trial, todo)
        calm = (v <= value + _NOISE * (1 + value.abs())) & (_pushed(trial, g) < 0.7 * before)
        falls = (v <= value - 1e-4 * (gradient * (u - trial)).sum(-1)) & (v < value)
        good = todo & (falls | calm)
        new_u, new_gradient = torch.where(good[:, None], trial, new_u), torch.where(good[:, None], g, new_gradient)
        new_value, todo = torch.where(good, v, new_value), todo & ~good
        if not todo.any():
            break
        length = torch.where(todo, 0.5 * length, length)
    return new_u, new_value, new_gradient, rows & ~todo


def _adam(
    f: OfRows, u: Tensor, steps: int, history: list[Tensor], watch: Watch | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Adam (Kingma and Ba 2015) with steps that shrink as a cosine does, projected; the best point on the way."""
    u = u.clone()
    first, second = torch.zeros_like(u), torch.zeros_like(u)
    best, todo = (u, u.new_full((len(u),), torch.inf), torch.zeros_like(u)), u.new_ones(len(u), dtype=torch.bool)
    for n in range(1, steps + 1):
        value, gradient = _graded(f, u, todo)
        lower = value < best[1]
        at, least, slope = (torch.where(lower if x.ndim == 1 else lower[:, None], x, b)
                            for x, b in zip((u, value, gradient), best, strict=True))  # fmt: skip
        best = at, least, slope
        history.append(torch.where(todo, value, best[1]))
        if watch:
            watch(torch.where(todo[:, None], u, best[0]))
        todo = todo & (_pushed(u, gradient) > _SMALL)
        if not todo.any():
            break
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient.square()
        rate = RATE * 0.5 * (1 + math.cos(math.pi * n / steps))
        u = (u - rate * first / (1 - 0.9**n) / ((second / (1 - 0.999**n)).sqrt() + 1e-12)).clamp(0, 1)
    return best
