"""Cheap looks at many parameters: elementary effects (Morris), and bounds of total indices from gradients (DGSM)."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from emulate.errors import InputError
from emulate.indices import SIGMAS, Indices, Measure, jackknife, need_variation, need_whole
from emulate.seeds import replicates
from emulate.sensitivity import CONSTANT, PARTS, Progress, evaluate, points, prepared
from emulate.space import LOGARITHMIC, LogNormal, LogUniform, Normal, Parameter, TruncatedNormal

_NUMBERS = 2**21  # outputs that are held at once
_ROWS = 64  # points of one Jacobian, whose graph is held


def morris(emulator: Any, *, seed: int, trajectories: int = 128, levels: int = 16,
           progress: Progress | None = None) -> Indices:  # fmt: skip
    """Elementary effects EE_i = (y(u + step e_i) - y(u)) / step along trajectories through the unit cube.

    mu is their mean, mu_star the mean of their size and sigma their standard deviation (Morris 1991; Campolongo,
    Cariboni and Saltelli 2007), in units of the output per whole range of the prior. Of a vector field: the size is the
    root mean square of its effects, mu that of their means, sigma that of their standard deviations; where the field is
    positive, of y over its mean.

    A trajectory starts at random on the grid and moves every parameter once, in random order. The `levels` are the
    middles of equal shares of the prior, (k + 1/2) / levels: none lies at infinity where a prior is normal. A step goes
    round the cube by a quarter to three quarters of the range at random, so that every level stays as likely, and no
    output with a period is missed, as sin^2(2 pi u) is by Morris's own fixed step of half the range (`levels=2`).

    Intervals hold the scatter of the trajectories (16 parts, jackknifed) and the emulator's error, added in squares. Each measure
    changes by no more than the root mean square of the error's own effects, which stays below 1.96 times what s(u) + s(u')
    allow, whatever the error's correlation (see `emulate.sensitivity`).

    >>> from emulate.distributions import Exact
    >>> from emulate.runs import Field, Outputs
    >>> from emulate.space import Space, Uniform
    >>> class Line:  # y = 2 a - 3 b, both between 0 and 10
    ...     space = Space((Parameter("a", Uniform(0, 10)), Parameter("b", Uniform(0, 10))))
    ...     outputs = Outputs((Field("y"),))
    ...     predict = staticmethod(lambda theta: Exact(2 * theta[..., :1] - 3 * theta[..., 1:]))
    >>> morris(Line, seed=0)["mu"].value[:, 0].round(9).tolist()
    [20.0, -30.0]
    """
    need_whole("trajectories", trajectories, PARTS)
    need_whole("levels", levels, 2)
    if trajectories % PARTS:
        raise InputError(f"trajectories must be a multiple of {PARTS}, the parts that tell their scatter. Got "
                         f"{trajectories}; {-(-trajectories // PARTS) * PARTS} is the next.")  # fmt: skip
    labels, sums, _ = prepared(emulator, seed)
    d, m = emulator.space.d, emulator.outputs.size
    walks = _walks(trajectories, d, levels, np.random.default_rng(seed))
    rows = max(1, _NUMBERS // (m * (d + 1)))
    parts, error, largest, middle, done = [], torch.zeros(()), torch.zeros(m, dtype=torch.float64), torch.empty(0), 0
    for part in zip(*(x.chunk(PARTS) for x in walks), strict=True):
        total = 0.0
        for u, moved, by in zip(*(x.split(rows) for x in part), strict=True):
            y, v = (x.unflatten(0, u.shape[:2]) for x in evaluate(emulator, emulator.space.from_unit(u.flatten(0, 1))))
            s, order = v.clamp_min(0).sqrt(), moved[..., None].expand(-1, -1, m)  # [t, d, m]: what each step moves
            step = (y[:, 1:] - y[:, :-1]) / by[..., None]
            e = torch.empty_like(step).scatter_(1, order, step)
            slack = (s[:, 1:] + s[:, :-1]) / by[..., None]
            error = error + torch.empty_like(step).scatter_(1, order, slack.square()).sum(0)
            largest = torch.maximum(largest, y.abs().amax((0, 1)))
            middle = middle if len(middle) else e.mean(0)  # squares about 0 would leave rounding errors of a line
            total = total + torch.cat([e, (e - middle).square(), (e.square() @ sums).sqrt()], -1).sum(0)
            done += len(u)
            if progress:
                progress(done, trajectories)
        parts.append(total * (PARTS / trajectories))
    parts = torch.stack(parts)  # [parts, d, m + m + c]
    star = parts[..., 2 * m : 3 * m].mean(0).amax(0)  # of the outputs by themselves
    still = ((star > CONSTANT * largest).double() @ sums) == 0
    need_variation(undefined := tuple(x for x, s in zip(labels, still.tolist(), strict=True) if s), labels)

    def measures(mean: Tensor) -> Tensor:
        """mu, mu_star and sigma `[..., 3, d, c]` from the means of EE, its square about the middle, and the size."""
        mu, square, size = mean.split([m, m, len(labels)], -1)
        spread = (square - (mu - middle).square()).clamp_min(0) * (trajectories / (trajectories - 1))
        norm = (mu.square() @ sums[:, m:]).sqrt()
        found = torch.stack([torch.cat([mu, norm], -1), size, (spread @ sums).sqrt()], -3)
        return torch.where(still, torch.nan, found)

    value, half = jackknife(parts, measures)
    bound = torch.where(still, torch.nan, SIGMAS * (error / trajectories @ sums).sqrt()).expand_as(value)
    reach = torch.hypot(half, bound)
    low, high = value - reach, value + reach
    low[1:] = low[1:].clamp_min(0)
    table = tuple(Measure(name, emulator.space.names, *(t[k].numpy() for t in (value, low, high, half, bound)))
                  for k, name in enumerate(("mu", "mu_star", "sigma")))  # fmt: skip
    settings = {"trajectories": trajectories, "levels": levels, "seed": seed, "evaluations": trajectories * (d + 1)}
    return Indices("morris", emulator.space.names, labels, table, undefined, settings)


def _walks(count: int, d: int, levels: int, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """u `[count, d + 1, d]`, and which parameter each step moves and by how much of the range, both `[count, d]`."""
    start = rng.integers(0, levels, (count, d))
    end = (start + rng.integers(-(-levels // 4), 3 * levels // 4 + 1, (count, d))) % levels
    order = rng.permuted(np.tile(np.arange(d), (count, 1)), axis=1)
    when = np.argsort(order, axis=1)  # [count, d]: the step in which a parameter moves
    gone = np.arange(d + 1)[None, :, None] > when[:, None, :]
    u = (np.where(gone, end[:, None, :], start[:, None, :]) + 0.5) / levels
    by = np.take_along_axis((end - start) / levels, order, 1)
    return torch.from_numpy(u), torch.from_numpy(order), torch.from_numpy(by)


def dgsm(emulator: Any, *, seed: int, n: int = 1024, progress: Progress | None = None) -> Indices:
    r"""nu_i = E[(dy / dtheta_i)^2] over the prior from the emulator's exact gradients, and a bound of the total index.

    T_i <= C_i E[(dy / dx_i)^2] / Var y with the Poincare constant C_i of x_i (Sobol and Kucherenko 2009; Lamboni,
    Iooss, Popelin and Gamboa 2013): (b - a)^2 / pi^2 for a uniform x on [a, b], sd^2 for a normal one, and no more than
    either for a truncated normal (Payne and Weinberger 1960; Bakry and Emery 1985). x is theta, and ln theta where the
    prior is log-uniform; nu is over theta always, in squared units of the output over those of the parameter. Both of a
    whole field are means over its outputs, of y over its mean where the field is positive. A bound that is small shows
    that a parameter can be dropped; one above 1 tells nothing.

    n points, a power of 2, cost n Jacobians. The interval holds the finite number of points only: what the emulator's
    own gradient is off by, the predicted variance does not tell. Hold it against the simulator's by `emulate validate`.

    >>> from emulate.runs import Field, Outputs
    >>> from emulate.space import Space
    >>> class Line:  # y = 2 a - 3 b, both standard normal: nothing but the bound itself
    ...     space = Space((Parameter("a", Normal(0, 1)), Parameter("b", Normal(0, 1))))
    ...     outputs = Outputs((Field("y"),))
    ...     slopes = torch.tensor([[2.0, -3.0]]).double()
    ...     predict = staticmethod(lambda theta: torch.distributions.Normal(theta @ Line.slopes.T, 1e-9))
    ...     jacobian = staticmethod(lambda theta: Line.slopes.expand(len(theta), 1, 2))
    >>> found = dgsm(Line, seed=0)
    >>> found["nu"].value[:, 0].tolist(), found["bound"].value[:, 0].round(2).tolist()  # 4 / 13 and 9 / 13
    ([4.0, 9.0], [0.31, 0.69])
    """
    need_whole("n", n, 4 * PARTS, power=True)
    space = emulator.space
    labels, sums, centre = prepared(emulator, seed)
    constants = torch.tensor([_poincare(p) for p in space.parameters], dtype=torch.float64)[:, None]
    logs = torch.tensor([isinstance(p.prior, LOGARITHMIC) for p in space.parameters])
    parts, done = [], 0
    for key in replicates(seed, PARTS):
        total = 0.0
        for theta in space.from_unit(points(space.d, n // PARTS, key)).split(_ROWS):
            y = evaluate(emulator, theta)[0] - centre
            slope = emulator.jacobian(theta).mT  # [rows, d, m]
            scaled = slope * torch.where(logs, theta, 1.0)[..., None]  # dy/dln theta
            stats = [y[:, None], y[:, None].square(), slope.square(), constants * scaled.square()]
            total = total + torch.cat(stats, 1).sum(0)
            done += len(theta)
            if progress:
                progress(done, n)
        parts.append(total / (n // PARTS))
    parts, d = torch.stack(parts), space.d
    mean, square = parts.mean(0)[:2]
    varies = (square - mean.square()).clamp_min(0).sqrt() > CONSTANT * (centre.abs() + square.sqrt())
    still = (varies.double() @ sums) == 0
    need_variation(undefined := tuple(x for x, s in zip(labels, still.tolist(), strict=True) if s), labels)

    def measures(mean: Tensor) -> Tensor:
        """nu and the bound `[..., 2 d, c]`."""
        variance = (mean[..., 1, :] - mean[..., 0, :].square()) @ sums
        nu, bound = (mean[..., 2:, :] @ sums).split([d, d], -2)
        return torch.where(still, torch.nan, torch.cat([nu, bound / variance[..., None, :]], -2))

    value, half = jackknife(parts, measures)
    low, high = (value - half).clamp_min(0), value + half
    table = tuple(Measure(name, space.names, *(t[k : k + d].numpy() for t in (value, low, high, half)))
                  for name, k in (("nu", 0), ("bound", d)))  # fmt: skip
    return Indices("dgsm", space.names, labels, table, undefined, {"n": n, "seed": seed, "sequences": PARTS})


def _poincare(parameter: Parameter) -> float:
    """The constant C of Var g(x) <= C E[g'(x)^2] for the prior of x, which is ln theta for a log-uniform or log-normal theta."""
    p = parameter.prior
    if isinstance(p, Normal | LogNormal):
        return p.sd**2
    if isinstance(p, LogUniform):
        return (math.log(p.high / p.low) / math.pi) ** 2
    flat = ((p.high - p.low) / math.pi) ** 2
    return min(flat, p.sd**2) if isinstance(p, TruncatedNormal) else flat
