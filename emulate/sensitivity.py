r"""Sobol indices: which share of an output's variance over the prior comes from which parameter.

    S_i = Var E[y | theta_i] / Var y,    T_i = E Var[y | all but theta_i] / Var y,    S_ij = Var E[y | i, j] / Var y - S_i - S_j

(Sobol 1993; Homma and Saltelli 1996), for independent parameters. Those of a whole field are the sums of the outputs'
numerators over the sum of their variances (Lamboni, Monod and Makowski 2011; Gamboa, Janon, Klein and Lagnoux 2014); where
the field is positive, of y over its mean: fractions, so that a spectrum's high values do not drown its low ones.

What the interval holds. *Sampling*: 16 independently scrambled Sobol sequences (Owen 1997), jackknifed. *The emulator's
error*: the simulator is f = mu + delta, mu the predicted mean and delta Gaussian with the predicted variance s^2(theta) at
every point and with any correlation between points, for a prediction does not tell that. In the space of functions with
the prior's mean square as norm, sqrt(S_i) is the cosine of the angle between f and the functions of theta_i alone, and
likewise for T_i and S_ij. The angle between f and mu is at most alpha, sin(alpha) = |delta| / sd(mu), so an index
cos^2(phi) of mu is one between cos^2(phi + alpha) and cos^2(phi - alpha) of f. And |delta| is below 1.96 sqrt(E s^2) with
a probability of 95 % or more whatever the correlation, because among Gaussian quadratic forms of one mean that with a single
degree of freedom has the heaviest tail there (Szekely and Bakirov 2003). Both half-widths are added in squares.

So the interval trusts the predicted variance and nothing else. It is wide for a poor emulator, wider than realisations of
one process would make it (Marrel, Iooss, Laurent and Roustant 2009; Le Gratiet, Cannamela and Iooss 2014), which must
know the correlation; runs that were held out narrow it and trust nothing (`emulate.anchored`). The noise of a stochastic
simulator is part of its predicted variance and counts as error here.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from emulate.designs.sobol import Sobol
from emulate.distributions import Gaussian
from emulate.errors import InputError
from emulate.indices import SIGMAS, Indices, Measure, grouped, jackknife, need_variation, need_whole
from emulate.runs import Field, Outputs
from emulate.seeds import replicates
from emulate.space import Space

Progress = Callable[[int, int], None]

PARTS = 16  # scrambled sequences: enough for an error bar that is known to a fifth
_CHUNK = 2**20  # predicted outputs that are held at once, 8 MB, beside some six times as much made of them
_POINTS = 4096  # points of one prediction
CONSTANT = 1e-11  # an output that varies by less than this share of its size does not vary


def sobol(emulator: Any, *, seed: int, n: int = 4096, pairs: bool = False, progress: Progress | None = None) -> Indices:
    """First-order and total indices of every output and vector field of an emulator; of every pair on request.

    n base points, a power of 2, cost n (d + 2) predictions, n (2 d + 2) with pairs. Saltelli et al. (2010, eq. b) for
    S_i, Jansen (1999) for T_i, Saltelli (2002) for S_ij. Values and intervals are kept inside 0 and 1, where indices lie.

    `emulator` has a `space`, `outputs` and `predict(theta)` with `mean` and `variance` `[..., m]`; `progress(done,
    total)` counts base points. Same seed, same bits. Raises `InputError` where no output varies.

    >>> from emulate.distributions import Exact
    >>> from emulate.space import Normal, Parameter
    >>> class Line:  # y = 2 a + b: shares of 4/5 and 1/5
    ...     space = Space((Parameter("a", Normal(0, 1)), Parameter("b", Normal(0, 1))))
    ...     outputs = Outputs((Field("y"),))
    ...     predict = staticmethod(lambda theta: Exact(2 * theta[..., :1] + theta[..., 1:]))
    >>> found = sobol(Line, seed=1)
    >>> found["first"].value[:, 0].round(2).tolist(), bool(found["first"].low[0, 0] < 0.8 < found["first"].high[0, 0])
    ([0.8, 0.2], True)
    """
    d = emulator.space.d
    need_whole("n", n, 32 * PARTS, power=True)
    if d < 2:
        raise InputError("sensitivity needs two parameters or more to compare. Got one, which explains all there is.")
    two = list(combinations(range(d), 2)) if pairs else []
    labels, sums, centre = prepared(emulator, seed)
    parts = []
    for r, key in enumerate(replicates(seed, PARTS)):
        tick = (lambda done, r=r: progress(r * (n // PARTS) + done, n)) if progress else lambda done: None
        parts.append(_moments(emulator, points(2 * d, n // PARTS, key), centre, two, tick))
    parts = torch.stack(parts)
    variance, *_ = _partial(parts.mean(0), d, two)
    constant = variance <= (CONSTANT * (centre.abs() + variance.clamp_min(0).sqrt())).square()
    still = ((~constant).double() @ sums) == 0  # [c]: a field varies when one of its outputs does
    need_variation(undefined := tuple(x for x, s in zip(labels, still.tolist(), strict=True) if s), labels)

    def shares(mean: Tensor) -> Tensor:
        """Indices `[..., terms, c]` and last the share of the emulator's variance, from the moments `[..., stats, m]`."""
        variance, *numerators = _partial(mean, d, two)
        whole = torch.where(still, torch.nan, variance @ sums)
        return torch.cat([*numerators, mean[..., 4:5, :]], -2) @ sums / whole[..., None, :]

    value, half = jackknife(parts, shares)
    alpha = (SIGMAS * value[-1].clamp_min(0).sqrt()).clamp_max(1).asin()
    names = emulator.space.names
    ends, measures = [0, d, 2 * d, 2 * d + len(two)], []
    terms = {"first": names, "total": names, "second": tuple(f"{names[i]}:{names[j]}" for i, j in two)}
    for (name, of), start, end in zip(terms.items(), ends, ends[1:]):
        if of:
            measures.append(_measure(name, of, value[start:end], half[start:end], alpha))
    settings = {"n": n, "seed": seed, "evaluations": n * ((2 * d if two else d) + 2), "sequences": PARTS}
    return Indices("sobol", names, labels, tuple(measures), undefined, settings)


def _measure(name: str, terms: tuple[str, ...], value: Tensor, half: Tensor, alpha: Tensor) -> Measure:
    value = value.clamp(0, 1)
    phi = value.sqrt().acos()
    below = value - (phi + alpha).clamp_max(math.pi / 2).cos().square()
    above = (phi - alpha).clamp_min(0).cos().square() - value
    low, high = (value - torch.hypot(half, below)).clamp_min(0), (value + torch.hypot(half, above)).clamp_max(1)
    return Measure(name, terms, *(t.numpy() for t in (value, low, high, half, torch.maximum(below, above))))


def _moments(
    emulator: Any, u: Tensor, centre: Tensor, two: list[tuple[int, int]], tick: Callable[[int], None]
) -> Tensor:
    """Means over the rows of u `[n, 2 d]`, the base points A and B side by side, of what the estimators need `[stats, m]`."""
    d, m = emulator.space.d, len(centre)
    rows = max(1, _CHUNK // (m * (2 * d + 2 if two else d + 2)))
    total, done = torch.zeros((), dtype=torch.float64), 0
    for part in u.split(rows):
        a, b = part[:, :d], part[:, d:]
        (ya, va), (yb, vb) = (evaluate(emulator, emulator.space.from_unit(x)) for x in (a, b))
        ya, yb = ya - centre, yb - centre
        ab = [evaluate(emulator, emulator.space.from_unit(x))[0] - centre for x in _crossed(a, b)]
        ba = [evaluate(emulator, emulator.space.from_unit(x))[0] - centre for x in _crossed(b, a)] if two else []
        stats = [ya, yb, ya.square(), yb.square(), (va + vb) / 2]
        stats += [yb * (y - ya) for y in ab] + [y - ya for y in ab] + [(y - ya).square() / 2 for y in ab]
        stats += [ba[i] * ab[j] - ya * yb for i, j in two] + [ba[i] + ab[j] - ya - yb for i, j in two]
        total = total + torch.stack([s.sum(0) for s in stats])
        tick(done := done + len(part))
    return total / len(u)


def _partial(mean: Tensor, d: int, two: list[tuple[int, int]]) -> tuple[Tensor, ...]:
    """Var y `[..., m]`, and the numerators of S, T and S_ij `[..., terms, m]`, from the moments `[..., stats, m]`."""
    centre = (mean[..., 0, :] + mean[..., 1, :]) / 2
    variance = (mean[..., 2, :] + mean[..., 3, :]) / 2 - centre.square()
    plain, shift, total, pair, pair_shift = mean[..., 5:, :].split([d, d, d, len(two), len(two)], -2)
    first = plain - centre[..., None, :] * shift  # centred outputs: the mean would be noise of the estimator
    closed = pair - centre[..., None, :] * pair_shift
    single = [first[..., i, :] + first[..., j, :] for i, j in two]
    return variance, first, total, closed - torch.stack(single, -2) if two else closed


def _crossed(a: Tensor, b: Tensor) -> Iterator[Tensor]:
    """A with column i of B, for every i."""
    for i in range(a.shape[-1]):
        x = a.clone()
        x[:, i] = b[:, i]
        yield x


def prepared(emulator: Any, seed: int) -> tuple[tuple[str, ...], Tensor, Tensor]:
    """Labels of the indices, the weights of their squares `[m, c]`, and about the mean of every output `[m]`."""
    centre = evaluate(emulator, emulator.space.from_unit(points(emulator.space.d, 256, seed)))[0].mean(0)
    return *grouped(emulator.outputs, centre), centre


def points(dimensions: int, n: int, seed: int) -> Tensor:
    """Scrambled Sobol points u `[n, dimensions]`."""
    return torch.from_numpy(Sobol().points(n, dimensions, seed=seed))


def evaluate(emulator: Any, theta: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance `[n, m]` at theta `[n, d]`."""
    with torch.no_grad():
        some = [emulator.predict(part) for part in theta.split(_POINTS)]
        mean, variance = torch.cat([p.mean for p in some]), torch.cat([p.variance for p in some])
    if not bool(torch.isfinite(mean).all() & torch.isfinite(variance).all()):
        raise InputError("sensitivity needs finite predictions over the whole prior. Got NaN or infinity; train on runs "
                         "that cover the prior, or narrow it.")  # fmt: skip
    return mean, variance


@dataclass(frozen=True)
class Summary:
    """An emulator of one number made of the outputs: `function` maps y `[..., m]` to `[...]`, as a sum or a ratio does.

    Its mean is the function of the predicted mean, its variance the mean square of the function over draws around that.
    `sobol` and `morris` take it as they take an emulator.

    >>> from emulate.distributions import Exact
    >>> class Pair:
    ...     space, predict = None, staticmethod(lambda theta: Exact(theta))
    >>> Summary(Pair, lambda y: y[..., 0] / y[..., 1], "ratio").predict(torch.tensor([[6.0, 2.0]]).double()).mean
    tensor([[3.]], dtype=torch.float64)
    """

    emulator: Any
    function: Callable[[Tensor], Tensor]
    name: str = "summary"
    unit: str = ""
    draws: int = 8
    seed: int = 0

    @property
    def space(self) -> Space:
        return self.emulator.space

    @property
    def outputs(self) -> Outputs:
        return Outputs((Field(self.name, self.unit),))

    def predict(self, theta: Tensor) -> Gaussian:
        p = self.emulator.predict(theta)
        known = {"generator": torch.Generator().manual_seed(self.seed)} if isinstance(p, Gaussian) else {}
        mean = self.function(p.mean)[..., None]
        off = self.function(p.sample((self.draws,), **known))[..., None] - mean
        one = torch.ones((1, 1), dtype=mean.dtype)
        return Gaussian(mean, off.square().mean(0), one, torch.zeros_like(mean))
