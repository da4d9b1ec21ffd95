r"""Minima of the mean of a random function over the unit cube, which end where noise hides the way on.

Adam (Kingma and Ba 2015) with r fresh replicates of the gradient at every step. Steps come in windows. At the end of one
the mean gradient over all its replicates is held against its standard error, over the coordinates that the box leaves free:

    sum_j (g_j / s_j)^2  against the 95 % point of chi^2 with as many degrees of freedom.

Above it the gradient still tells a way down, and the steps go on as they are. Below it they only walk about the minimum, as
steps of one length do (Pflug 1990): they become a quarter as long, in a window twice as long, which tells half the gradient.
Where that is said of the shortest steps too no more progress can be told, and the mean of the last window's points (Polyak
and Juditsky 1992) is the minimum as far as it is known.

Constraints E[g] <= 0, E[h] = 0 have multipliers as in `emulate.minimisation`, moved at the end of every window.
"""

import math
from collections.abc import Callable

import torch
from scipy.special import chdtri
from torch import Tensor

from emulate.minimisation import CONVERGED, FIRST, RATE, Minima, Watch

Random = Callable[[Tensor, int], tuple[Tensor, Tensor]]  # u [r, rows, d], step -> f [r, rows], constraints [r, rows, c]

_WINDOW, _SHRINK, _TIMES = 16, 4.0, 3  # steps of the first window; by how much steps shrink, and how often
_STEPS, _DOUBT = 1000, 0.05  # at most, where nobody says; probability to go on though there is no way
_MET = 1e-3  # violation with which the steps may end


def descend(f: Random, start: Tensor, *, replicates: int, equality: Tensor, steps: int | None = None,
            progress: Callable[[int, int], None] | None = None, watch: Watch | None = None) -> Minima:  # fmt: skip
    """The minimum down from each row of start `[rows, d]`; f and its constraints of about the size 1 over the box.

    f draws its noise anew at every step, by the number of the step: the same noise for all rows, other noise for every of
    the r `replicates`. `value` and `violation` of what is found are means over the last window; a constraint counts as
    broken where it is so by more than two standard errors.

    >>> def f(u, step):
    ...     noise = torch.randn(len(u), 1, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
    ...     return (u[..., 0] - 0.3 + 0.2 * noise).square(), u[..., :0]
    >>> found = descend(f, torch.full((1, 1), 0.9).double(), replicates=8, equality=torch.zeros(0, dtype=torch.bool))
    >>> bool(found.converged[0]), bool((found.u - 0.3).abs() < 0.02)
    (True, True)
    """
    rows, c, most = len(start), len(equality), steps or _STEPS
    u, first, second = start.clone(), torch.zeros_like(start), torch.zeros_like(start)
    multiplier, rate = start.new_zeros(rows, c), start.new_full((rows,), RATE)
    length, shrunk = torch.full((rows,), _WINDOW), torch.zeros(rows, dtype=torch.int)
    window, history, todo = _Window(start, c), [], torch.ones(rows, dtype=torch.bool)
    unknown = start.new_full((rows,), torch.inf)
    found = Minima(u, unknown, unknown.clone(), unknown.clone(), multiplier, start, u.new_zeros(rows))
    for n in range(1, most + 1):
        at = todo.nonzero()[:, 0]
        value, g, gradient = _drawn(f, u[at], replicates, n, multiplier[at], equality)
        window.add(at, u[at], value, g, gradient)
        step = torch.zeros_like(u)
        step[at] = gradient.mean(0)
        first, second = 0.9 * first + 0.1 * step, 0.999 * second + 0.001 * step.square()
        step = rate[:, None] * first / (1 - 0.9**n) / ((second / (1 - 0.999**n)).sqrt() + 1e-12)
        u = torch.where(todo[:, None], (u - step).clamp(0, 1), u)
        history.append(torch.where(todo, window.mean(window.value), found.value))
        if watch:
            watch(u)
        ended = todo & ((window.n >= length) | (n == most))
        if progress:
            progress(n, most)
        if not ended.any():
            continue
        told = window.told(multiplier, equality, torch.stack(history))
        found = _where(ended, told, found)
        hidden = ended & window.hidden(told) & (told.violation <= _MET)
        raised = multiplier + FIRST * window.mean(window.g)
        raised = torch.where(equality, raised, raised.clamp_min(0))
        multiplier = torch.where(ended[:, None], raised, multiplier)
        rate, length = torch.where(hidden, rate / _SHRINK, rate), torch.where(hidden, 2 * length, length)
        shrunk = shrunk + hidden
        todo = todo & (shrunk <= _TIMES)
        window.clear(ended)
        if not todo.any():
            break
    return Minima(**{**vars(found), "history": torch.stack(history)})


def _drawn(f: Random, u: Tensor, r: int, n: int, multiplier: Tensor, equality: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """f `[r, rows]`, constraints `[r, rows, c]` and the gradient of the Lagrangian `[r, rows, d]`; 0 where it is no number."""
    leaf = u.detach().expand(r, *u.shape).clone().requires_grad_()
    with torch.enable_grad():
        value, g = f(leaf, n)
        pressed = multiplier + FIRST * g.detach().mean(0)
        pressed = torch.where(equality, pressed, pressed.clamp_min(0))
        (gradient,) = torch.autograd.grad((value + (pressed * g).sum(-1)).sum(), leaf)
    good = torch.isfinite(value) & torch.isfinite(gradient).all(-1) & torch.isfinite(g).all(-1)
    value, g = (torch.where(m, x.detach(), 0.0) for m, x in ((good, value), (good[..., None], g)))
    return value, g, torch.where(good[..., None], gradient, 0.0)


class _Window:
    """Sums over the steps of a window, row by row."""

    def __init__(self, start: Tensor, c: int):
        self.n, self.value = (start.new_zeros(len(start)) for _ in range(2))
        self.u, self.gradient, self.squared = (torch.zeros_like(start) for _ in range(3))
        self.g, self.noise = (start.new_zeros(len(start), c) for _ in range(2))

    def add(self, at: Tensor, u: Tensor, value: Tensor, g: Tensor, gradient: Tensor) -> None:
        r = len(value)
        spread = (g - g.mean(0)).square().sum(0) / (r - 1)
        sums = (1.0, value.mean(0), u, gradient.mean(0), gradient.var(0) / r, g.mean(0), spread / r)
        for mine, x in zip(vars(self).values(), sums, strict=True):
            mine[at] += x

    def clear(self, rows: Tensor) -> None:
        for mine in vars(self).values():
            mine[rows] = 0.0

    def mean(self, x: Tensor) -> Tensor:
        return x / self.n.clamp_min(1).reshape(-1, *[1] * (x.ndim - 1))

    def told(self, multiplier: Tensor, equality: Tensor, history: Tensor) -> Minima:
        """What the window says of each row."""
        u, gradient, free = self.mean(self.u), self.mean(self.gradient), self.free
        error = torch.where(free, self.error(self.squared), 0.0)
        g, noise = self.mean(self.g), self.error(self.noise)
        broken = torch.where(equality, g.abs(), g) - 2 * noise
        violation = broken.clamp_min(0).amax(-1) if broken.shape[1] else u.new_zeros(len(u))
        return Minima(u, self.mean(self.value), torch.where(free, gradient, 0.0).norm(dim=-1), violation, multiplier,
                      history, error.norm(dim=-1))  # fmt: skip

    def error(self, squared: Tensor) -> Tensor:
        """The standard error of a mean over the window."""
        return self.mean(squared).sqrt() / self.n.clamp_min(1).sqrt()[:, None]

    @property
    def free(self) -> Tensor:
        """Coordinates that the box does not hold against the gradient `[rows, d]`."""
        u, gradient = self.mean(self.u), self.mean(self.gradient)
        return ~(((u <= 0.01) & (gradient > 0)) | ((u >= 0.99) & (gradient < 0)))

    def hidden(self, told: Minima) -> Tensor:
        """Rows whose gradient is not told from none."""
        error = self.error(self.squared).clamp_min(1e-12)
        z = torch.where(self.free, self.mean(self.gradient) / error, 0.0).square().sum(-1)
        bound = [float(chdtri(max(int(k), 1), _DOUBT)) for k in self.free.sum(-1)]
        return (z <= torch.tensor(bound, dtype=z.dtype)) | (told.gradient < CONVERGED / math.sqrt(self.u.shape[1]))


def _where(rows: Tensor, new: Minima, old: Minima) -> Minima:
    def chosen(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(rows.reshape(-1, *[1] * (a.ndim - 1)), a, b)

    taken = {k: chosen(v, getattr(old, k)) for k, v in vars(new).items() if k != "history"}
    return Minima(**taken, history=new.history)
