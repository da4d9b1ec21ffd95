"""How the networks of an ensemble learn; each member has a mask of runs that it sees and keeps the weights that were best
on the others.

`Values` learns z by least squares. The last layer is linear, so for any hidden layers its best weights are known in
closed form; the search then has only the hidden layers to find (variable projection, Golub and Pereyra 1973), and the
slope of the projected loss is that at fixed last weights. `Noises` learns ln variance by the Gaussian likelihood of
squared residuals.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import reduce
from operator import add

import torch
from torch import Tensor

from emulate.emulators._networks import Layer, hidden, hidden_slopes, output

_INNER = 10  # L-BFGS iterations in one epoch
_UNITS = 4  # runs of a batch for each hidden unit, at least: the last layer is fitted to a batch
_KEPT = 2**24  # numbers that the members may hold of what the trend leaves; of more they find it anew
_CHUNK = 2048  # runs that are looked at together
_ROUNDING = 1e-13  # of a normal matrix of unit scale


@dataclass(frozen=True)
class Pace:
    """How long and how fast: epochs, patience, L-BFGS on all runs or Adam in batches, and its learning rate."""

    epochs: int
    patience: int
    full: bool
    batch: int
    rate: float
    schedule: str


class Lesson(ABC):
    """What is learnt: the layers that the search moves, and a loss of them."""

    def __init__(self, layers: list[Layer], n: int, seen: Tensor, decay: float):
        self.layers, self.n, self.seen, self.decay = layers, n, seen, decay

    @abstractmethod
    def loss(self, rows: Tensor) -> Tensor:
        """The sum over members of their losses on some runs."""

    @abstractmethod
    def look(self) -> tuple[Tensor, Tensor, list[Layer]]:
        """Loss on the runs seen and on those left out, both `[m]`, and all layers that have them."""

    def size(self) -> Tensor:
        return self.decay * reduce(add, (layer[0].square().sum() for layer in self.layers))


class Values(Lesson):
    """z `[n, p]` less a trend h(u) beta, over scale `[m, 1, p]`; `slopes` `[n, p, d]` are dz/du with weight `sobolev`."""

    def __init__(self, layers: list[Layer], u: Tensor, z: Tensor, trend, scale: Tensor, seen: Tensor, *, decay: float,
                 ridge: float, slopes: Tensor | None = None, sobolev: float = 0.0):  # fmt: skip
        super().__init__(layers, len(u), seen, decay)
        self.u, self.z, self.trend, self.scale, self.ridge = u, z, trend, scale, ridge
        self.slopes, self.sobolev = (slopes, sobolev) if sobolev > 0 else (None, 0.0)
        self.whole = None
        numbers = scale.numel() * self.n * (1 if self.slopes is None else 1 + u.shape[1])
        self.whole = self._rest(torch.arange(self.n)) if numbers <= _KEPT else None

    def loss(self, rows: Tensor) -> Tensor:
        """With the last layer that is best on these runs: of a batch too, which leaves less for Adam to find."""
        f, r, w = self._features(rows), self._rest(rows), self._weight(rows, self.seen)
        with torch.no_grad():
            c = self._solve(*self._normal(f.detach(), r, w))
        ridge = self.ridge * c[:, :-1].square().sum() / r.shape[-1]
        return ((torch.bmm(f, c) - r).square().mean(-1) * w).sum() + ridge + self.size()

    @torch.no_grad()
    def look(self) -> tuple[Tensor, Tensor, list[Layer]]:
        """By the sums a = F^T F, b = F^T r and s = r^T r over all runs: they are all that a squared error needs."""
        sums: list[tuple[Tensor, ...]] = [(), ()]
        for rows in torch.arange(self.n).split(_CHUNK):
            f, r = self._features(rows), self._rest(rows)
            for i, mask in enumerate((self.seen, 1 - self.seen)):
                w = self._weight(rows, mask, of=mask.sum(1))
                new = (*self._normal(f, r, w), (r.square().mean(-1) * w).sum(1))
                sums[i] = tuple(x + y for x, y in zip(sums[i], new, strict=True)) if sums[i] else new
        c = self._solve(sums[0][0], sums[0][1])
        p = c.shape[-1]
        errors = [s + (c * (a @ c - 2 * b)).sum((1, 2)) / p for a, b, s in sums]
        return errors[0].clamp_min(0), errors[1].clamp_min(0), [*self.layers, (c[:, :-1], c[:, -1:])]

    def _features(self, rows: Tensor) -> Tensor:
        """Hidden units and a 1; below them their derivatives, one parameter after the other: `[m, rows (1 + d), w + 1]`."""
        u = self.u[rows]
        if self.slopes is None:
            x = hidden(u, self.layers)
            return torch.cat([x, torch.ones_like(x[..., :1])], -1)
        x, t = hidden_slopes(u, self.layers)
        x, t = torch.cat([x, torch.ones_like(x[..., :1])], -1), torch.nn.functional.pad(t, (0, 1))
        return torch.cat([x, t.flatten(1, 2)], 1)

    def _rest(self, rows: Tensor) -> Tensor:
        """What the trend leaves `[m, rows (1 + d), p]`."""
        if self.whole is not None and len(rows) == self.n:
            return self.whole  # all runs come in their order
        value, slope = self.trend(self.u[rows], self.slopes is not None)
        rest = self.z[rows] - value
        if self.slopes is not None:
            rest = torch.cat([rest, (self.slopes[rows].permute(2, 0, 1) - slope).flatten(1, 2)], 1)
        return rest / self.scale

    def _weight(self, rows: Tensor, mask: Tensor, of: Tensor | None = None) -> Tensor:
        """Of each row in the loss: the mask over its sum."""
        w = mask[:, rows]
        w = w / (w.sum(1) if of is None else of).clamp_min(1)[:, None]
        return w if self.slopes is None else torch.cat([w, self.sobolev / 12 * w.repeat(1, self.u.shape[1])], 1)

    @staticmethod
    def _normal(f: Tensor, r: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        left = (f * w[..., None]).mT
        return left @ f, left @ r

    def _solve(self, a: Tensor, b: Tensor) -> Tensor:
        """The last layer `[m, w + 1, p]`, its bias at the end."""
        ridge = torch.full((a.shape[-1],), self.ridge + _ROUNDING, dtype=a.dtype)
        ridge[-1] = _ROUNDING
        return torch.linalg.solve_ex(a + torch.diag(ridge), b).result


class Noises(Lesson):
    """ln v of squares q `[n, p]` of mean 1: 1/2 (ln v + q / v) (Lakshminarayanan, Pritzel and Blundell 2017, eq. 1)."""

    def __init__(self, layers: list[Layer], u: Tensor, q: Tensor, seen: Tensor, *, decay: float):
        last = (q.new_zeros(len(seen), layers[-1][0].shape[-1], q.shape[1]), q.new_zeros(len(seen), 1, q.shape[1]))
        super().__init__([*layers, last], len(u), seen, decay)
        self.u, self.q = u, q

    def loss(self, rows: Tensor) -> Tensor:
        return self._each(rows, self.seen).sum() + self.size()

    @torch.no_grad()
    def look(self) -> tuple[Tensor, Tensor, list[Layer]]:
        losses = [torch.zeros((), dtype=self.u.dtype)] * 2
        for rows in torch.arange(self.n).split(_CHUNK):
            for i, mask in enumerate((self.seen, 1 - self.seen)):
                share = mask[:, rows].sum(1) / mask.sum(1).clamp_min(1)
                losses[i] = losses[i] + share * self._each(rows, mask)
        return losses[0], losses[1], self.layers

    def _each(self, rows: Tensor, mask: Tensor) -> Tensor:
        ln = output(hidden(self.u[rows], self.layers[:-1]), self.layers[-1])
        nll = 0.5 * (ln + self.q[rows] * (-ln).exp()).mean(-1)
        w = mask[:, rows]
        return (nll * w).sum(1) / w.sum(1).clamp_min(1)


def learn(lesson: Lesson, pace: Pace, generator: torch.Generator) -> tuple[list[Layer], tuple[dict[str, float], ...]]:
    """The layers that were best on each member's own runs, and one row of history per epoch."""
    moved = [t.requires_grad_() for layer in lesson.layers for t in layer]
    least = _UNITS * lesson.layers[0][0].shape[-1]
    steps = 1 if pace.full else max(1, math.floor(lesson.n / max(pace.batch, least)))
    search = _lbfgs(moved) if pace.full else torch.optim.Adam(moved, lr=pace.rate)
    schedule = None if pace.full else _schedule(search, pace, steps)
    keep, history, waited, rows = _Best(lesson), [], 0, torch.arange(lesson.n)
    for _ in range(pace.epochs):
        now = {} if schedule is None else {"learning_rate": float(schedule.get_last_lr()[0])}
        if pace.full:
            search.step(lambda: _backward(search, lesson.loss(rows)))
        else:
            order = torch.randperm(lesson.n, generator=generator)
            for some in order.chunk(steps) if steps > 1 else [rows]:
                _backward(search, lesson.loss(some))
                search.step()
                if schedule is not None:
                    schedule.step()
        train, held_out, better = keep.look()
        history.append({"loss": train, "held_out_loss": held_out, **now})
        waited = 0 if better else waited + 1
        if waited >= pace.patience:
            break
    return keep.kept, tuple(history)


class _Best:
    """The weights of each member at its best so far."""

    def __init__(self, lesson: Lesson):
        self.lesson, self.best = lesson, torch.full((len(lesson.seen),), math.inf, dtype=torch.float64)
        self.kept: list[Layer] = []
        self.look()

    @torch.no_grad()
    def look(self) -> tuple[float, float, bool]:
        train, held_out, now = self.lesson.look()
        if not self.kept:
            self.kept = [tuple(t.detach().clone() for t in layer) for layer in now]
        better = held_out < self.best  # False for NaN
        self.best = torch.where(better, held_out, self.best)
        for kept, new in zip(self.kept, now, strict=True):
            for a, b in zip(kept, new, strict=True):
                a[better] = b[better].detach()
        return float(train.mean()), float(held_out.mean()), bool(better.any())


def _lbfgs(moved: list[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.LBFGS(moved, max_iter=_INNER, history_size=50, line_search_fn="strong_wolfe",
                             tolerance_change=0.0)  # fmt: skip


def _schedule(search: torch.optim.Optimizer, pace: Pace, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    total = pace.epochs * steps
    if pace.schedule == "one_cycle":
        return torch.optim.lr_scheduler.OneCycleLR(search, pace.rate, total_steps=total + 1)
    if pace.schedule == "cosine":
        return torch.optim.lr_scheduler.CosineAnnealingLR(search, total)
    return torch.optim.lr_scheduler.ConstantLR(search, 1.0)


def _backward(search: torch.optim.Optimizer, loss: Tensor) -> float:
    search.zero_grad()
    loss.backward()
    return float(loss.detach())
