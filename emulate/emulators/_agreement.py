"""Do the Jacobians of runs agree with their values? What `gradient_gp.py` asks before it is fitted.

A process that sees the slopes alone says what the values are, but for a constant: z_i = sum_k c_ik + const, c_ik the part
of the slopes by parameter k. Values are regressed on c, whose coefficients are 1 where both agree, and what c leaves on u,
whose are 0. As c is an expectation, noise of the slopes shrinks c and not the coefficients (Berkson 1950), and noise of the
values widens their error. That error is the larger of what independent residuals give and of what the process expects of
its own, scaled down to the residuals that are met; Student's quantile has the degrees of freedom of either (Satterthwaite
1946).
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from scipy.special import stdtrit
from torch import Tensor

from emulate.emulators._derivatives import LENGTH, ROUGH, Evidence, Seen, covariance, nuggets
from emulate.runs import Runs

_CHANCE = 3e-4  # of a false alarm in any output and parameter, for each of the two regressions
_MARGIN = 0.25  # share of what the slopes say that may be wrong
_SMALL = 0.1  # of the standard deviation of an output: a smaller contradiction is not told
_SIZE = 300  # runs x parameters that are looked at
_FREE = 3  # degrees of freedom that a regression needs
_DEAF = math.log(1e10)  # ln eta of values that are not to be heard
_STEPS = 60
_LEADING = 3  # outputs that choose the lengths
_ALL = -1  # in place of a parameter


class _Doubt(NamedTuple):
    output: int
    parameter: int  # or _ALL
    factor: float  # how many times as much the values change, nan where the slopes say nothing
    error: float
    strength: float  # |t| over its quantile


def doubt(runs: Runs) -> str:
    """One sentence of Jacobians that the values of finished runs contradict; nothing where there is no such sign."""
    y, s = torch.from_numpy(runs.y), torch.from_numpy(runs.jacobian)
    logs = torch.from_numpy(runs.outputs.positive & (runs.y > 0).all(0))
    s = torch.where(logs[:, None], s / torch.where(logs, y, 1.0)[..., None], s)
    w = torch.where(logs, torch.where(logs, y, 1.0).log(), y)
    theta = torch.from_numpy(runs.theta)
    s = s / runs.space.stretch(theta)[:, None, :]
    found = _doubts(runs.space.scaled(theta), w, s, runs.stochastic)
    if not found:
        return ""
    worst, parts = max(found, key=lambda f: f.strength), runs.outputs.labels
    others = len({(f.output, f.parameter) for f in found}) - 1
    name, of = parts[worst.output], "the parameters" if worst.parameter == _ALL else runs.space.names[worst.parameter]
    what = (f"{name} changes with {of} {worst.factor:.2g} +- {worst.error:.1g} times as much as its Jacobian says"
            if math.isfinite(worst.factor) else f"{name} changes with {of} otherwise than its Jacobian says")  # fmt: skip
    more = f", and {others} more of outputs and parameters" if others else ""
    return (f"Jacobians must agree with the values of the runs. Got values that contradict them: {what}{more}; look at its "
            "unit, sign and order, or train on the values alone.")  # fmt: skip


def _doubts(u: Tensor, w: Tensor, slopes: Tensor, stochastic: bool) -> list[_Doubt]:
    """u `[n, d]`, values w `[n, m]` and dw/du `[n, m, d]`."""
    d = u.shape[1]
    if len(u) > (most := max(d + 8, _SIZE // d)):
        rows = np.unique(np.linspace(0, len(u) - 1, most).astype(int))
        u, w, slopes = u[rows], w[rows], slopes[rows]
    size, sd = w.abs().amax(0), (w - w.mean(0)).square().mean(0).sqrt()
    varies = sd > 1e-9 * size
    silent = varies & (slopes == 0).all(0).all(-1)
    if not stochastic and silent.any() and len(u) > 1:  # no statistics are needed
        return [_Doubt(int(j), _ALL, math.nan, 0.0, math.inf) for j in silent.nonzero()[:, 0]]
    index = varies.nonzero()[:, 0]
    if not len(index) or len(u) < _FREE + 2:
        return []
    z, s = (w - w.mean(0))[:, index] / sd[index], slopes[:, index] / sd[index, None]
    c, spread, scale = _said(u, s)
    return [f._replace(output=int(index[j])) for j in range(len(index))
            for f in _compared(u, z[:, j], c[:, j], scale[j] * spread, _CHANCE / (len(index) * d))]  # fmt: skip


def _said(u: Tensor, slopes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """c `[n, m, d]` of a process that sees the slopes `[n, m, d]`; the covariance of its sum, `[n, n]` times `[m]`."""
    n, m, d = slopes.shape
    loud = (slopes.square().sum((0, 2)) > 0).nonzero()[:, 0]
    if not len(loud):
        return torch.zeros_like(slopes), u.new_zeros(n, n), u.new_zeros(m)
    some = slopes[:, loud[np.unique(np.linspace(0, len(loud) - 1, _LEADING).astype(int))]]
    some = some / some.square().mean((0, 2), keepdim=True).sqrt()
    evidence = Evidence(Seen(u, torch.zeros_like(some[..., 0]), some, "rbf", "constant"), noisy=True)
    evidence.bounds[d], evidence.centre[d] = (_DEAF, _DEAF), _DEAF
    scatter = (some - some.mean(0)).square().mean((0, 1)).sqrt().clamp_min(1e-9)  # as if values scattered by 1
    start = np.concatenate([np.clip(-np.log(scatter.numpy()), *LENGTH), [_DEAF], np.full(d, ROUGH[1])])
    length, eta = torch.from_numpy(np.exp(evidence.climb([start], _STEPS))).split([d, 1 + d])
    k = covariance((u.T[:, :, None] - u.T[:, None, :]) / length[:, None, None], "rbf")
    cross, inner = k[:n, n:], k[n:, n:] + torch.diag(nuggets(eta, n, "rbf")[n:])
    h = torch.eye(d, dtype=u.dtype).repeat_interleave(n, 0)  # the slopes of a linear trend
    lower = torch.linalg.cholesky(inner)
    white = torch.linalg.solve_triangular(lower, torch.cat([h, *[(slopes * length).movedim(2, 0).reshape(d * n, m)]], 1),
                                          upper=False)  # fmt: skip
    q, r = torch.linalg.qr(white[:, :d])
    beta = torch.linalg.solve_triangular(r, q.T @ white[:, d:], upper=True)  # [d, m]
    rest = white[:, d:] - white[:, :d] @ beta
    weights = torch.linalg.solve_triangular(lower.T, rest, upper=True).view(d, n, m)
    c = torch.einsum("idj,djm->imd", cross.view(n, d, n), weights) + (u / length)[:, None] * beta.T
    v = torch.linalg.solve_triangular(lower, cross.T, upper=False)
    t = torch.linalg.solve_triangular(r.T, (u / length).T - white[:, :d].T @ v, upper=False)
    return c, k[:n, :n] - v.T @ v + t.T @ t, rest.square().sum(0) / (d * n - d)


def _compared(u: Tensor, z: Tensor, c: Tensor, spread: Tensor, chance: float) -> list[_Doubt]:
    """Where values z `[n]` contradict c `[n, d]`, whose sum has the covariance spread `[n, n]`."""
    n, d = c.shape
    total = c.sum(1)
    one = torch.eye(n, dtype=z.dtype) - 1 / n
    many = n - 1 - d >= _FREE
    tried = [(c if many else total[:, None], c, True), *([(u, c, False)] if many else [])]
    found = []
    for x, said, factor in tried:
        x = one @ x
        size = x.square().mean(0).sqrt()
        live = (size > 1e-9).nonzero()[:, 0]
        free = n - 1 - len(live)
        if not len(live) or free < _FREE:
            continue
        x = x[:, live] / size[live]
        back = torch.linalg.pinv(x)
        off = back @ (z - total)
        left = one - x @ back
        square = float((left @ (z - total)).square().sum())
        own = left @ spread @ left
        expected = float(own.diagonal().sum())
        shrunk = min(1.0, square / expected) if expected > 0 else 0.0
        dof = max(1.0, min(free, expected**2 / float(own.square().sum()))) if 0 < shrunk < 1 else free
        error = torch.maximum(square / free * back.square().sum(1), shrunk * ((back @ spread) * back).sum(1)).sqrt()
        error = error.clamp_min(1e-9)
        quantile = float(stdtrit(dof, 1 - chance / 2))
        for i, k in enumerate(live.tolist()):
            reach = float(said[:, k].std() if many else total.std())
            strength = abs(float(off[i])) / (quantile * float(error[i]))
            if strength > 1 and abs(float(off[i])) > max(_SMALL, _MARGIN * reach):
                times, bar = 1 + float(off[i] / size[k]), float(error[i] / size[k])
                found.append(_Doubt(0, k if many else _ALL, times if factor else math.nan, bar, strength))
    return found
