r"""Proper scores of a prediction, output by output and jointly: CRPS, PIT, sharpness and the energy score.

A score compares p(y | theta), what `Emulator.predict` gives, with what the simulator gave. Normal and lognormal outputs
have closed forms; any other distribution is drawn from, with a generator of its own, so that answers repeat.

Letters: F_j the distribution function of output j, S draws x, batch shape `[...]` and m outputs as in the prediction.
"""

import inspect
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, LogNormal, MultivariateNormal, Normal
from torch.special import ndtr, ndtri

from emulate.distributions import Exact, Gaussian, seeded
from emulate.errors import InputError
from emulate.runs import Runs

_AT_ONCE = 2**24  # numbers that draws may hold at one time, 128 MiB
_NARROW = 1e-8  # below this sd of ln y a lognormal is normal, and its closed form is lost to rounding


def crps(prediction: Distribution, y: Tensor, *, draws: int = 1024, seed: int = 0) -> Tensor:
    r"""Continuous ranked probability score of every output `[..., m]`, in units of the output; smaller is better.

    CRPS(F, y) = \int (F(x) - 1{x >= y})^2 dx = E|X - y| - E|X - X'| / 2: the absolute error of a prediction that is
    sure, generalised to one that is not. Smallest on average for the distribution that y is drawn from (proper).
    With z = (y - mu) / sigma,

        normal      sigma (z (2 Phi(z) - 1) + 2 phi(z) - pi^-1/2)
        lognormal   y (2 Phi(z) - 1) - 2 exp(mu + sigma^2 / 2) (Phi(z - sigma) + Phi(sigma / sqrt 2) - 1), z of ln y

    (Gneiting and Raftery 2007; Baran and Lerch 2015), else from `draws` with pairs of different draws alone, which is
    unbiased (the fair estimator, Ferro 2014). `y` `[..., m]` has the shape of one draw.

    >>> x = torch.distributions.Normal(torch.zeros(1, dtype=torch.float64), 1.0)
    >>> crps(x, torch.zeros(1, dtype=torch.float64))  # (2 / sqrt(2 pi) - 1 / sqrt(pi))
    tensor([0.2337], dtype=torch.float64)
    """
    y = _fits(prediction, y)
    known = _marginals(prediction)
    if known is not None:
        mu, sigma, log = known
        return torch.where(log, _crps_lognormal(mu, sigma, y), _crps_normal(*_linear(mu, sigma, log), y))
    total, blocks = torch.zeros_like(y), 0
    for x in _draws(prediction, draws, seed):
        s = len(x)
        weight = (2 * torch.arange(1, s + 1, dtype=x.dtype) - s - 1).reshape(-1, *[1] * y.ndim)
        pairs = (weight * x.sort(0).values).sum(0) * 2 / (s * (s - 1))  # mean |x_i - x_j| over i != j
        total, blocks = total + (x - y).abs().mean(0) - 0.5 * pairs, blocks + 1
    return total / blocks


def pit(prediction: Distribution, y: Tensor, *, draws: int = 1024, seed: int = 0) -> Tensor:
    r"""Probability integral transform F_j(y_j) of every output `[..., m]`: uniform on [0, 1] where F is right.

    Near 0 and 1 too often: error bars too narrow; near 1/2 too often: too wide; one side: the mean is off (Dawid 1984;
    Gneiting, Balabdaoui and Raftery 2007). Where nothing is known of F, the rank of y among `draws`, ties and the gap
    between two draws broken at random, so that it stays uniform. An exact prediction gives 0, 1/2 or 1.

    >>> x = torch.distributions.Normal(torch.zeros(3, dtype=torch.float64), 1.0)
    >>> pit(x, torch.tensor([-1.96, 0.0, 1.96], dtype=torch.float64))
    tensor([0.0250, 0.5000, 0.9750], dtype=torch.float64)
    """
    y = _fits(prediction, y)
    known = _marginals(prediction)
    if known is not None:
        mu, sigma, log = known
        return ndtr(_ratio(torch.where(log, _ln(y), y) - mu, sigma))
    below, ties, total = torch.zeros_like(y), torch.zeros_like(y), 0
    for x in _draws(prediction, draws, seed):
        below, ties, total = below + (x < y).sum(0), ties + (x == y).sum(0), total + len(x)
    gap = torch.rand(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(seed + 1))
    rank = (below + gap * (ties + 1)) / (total + 1)
    return rank.where(y.isfinite() & below.isfinite(), torch.nan)


def interval(prediction: Distribution, level: float = 0.95, *, draws: int = 1024,
             seed: int = 0) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Both ends `[..., m]` of the central interval that holds each output with probability `level`.

    >>> low, high = interval(torch.distributions.Normal(torch.zeros(1, dtype=torch.float64), 1.0))
    >>> low, high
    (tensor([-1.9600], dtype=torch.float64), tensor([1.9600], dtype=torch.float64))
    """
    if not 0 < level < 1:
        raise InputError(f"the level of an interval must be between 0 and 1. Got {level}; 0.95 is the usual one.")
    tails = torch.tensor([0.5 - 0.5 * level, 0.5 + 0.5 * level], dtype=torch.float64)
    known = _marginals(prediction)
    if known is not None:
        mu, sigma, log = known
        ends = (mu + sigma * z for z in ndtri(tails))
        low, high = (torch.where(log, torch.where(log, w, 0.0).exp(), w) for w in ends)
        return low, high
    x = torch.cat(list(_draws(prediction, draws, seed))).sort(0).values
    places = [(float(q) * (len(x) - 1)) for q in tails]
    low, high = (torch.lerp(x[int(p)], x[min(int(p) + 1, len(x) - 1)], p - int(p)) for p in places)
    return low, high


def sharpness(prediction: Distribution, level: float = 0.95, *, draws: int = 1024, seed: int = 0) -> Tensor:
    """Width `[..., m]` of the central interval that holds each output with probability `level`, in its unit.

    Of two calibrated predictions the sharper one is better; on its own a width says nothing of the truth (Gneiting,
    Balabdaoui and Raftery 2007).

    >>> sharpness(torch.distributions.Normal(torch.zeros(1, dtype=torch.float64), 2.0), 0.6827)
    tensor([4.0001], dtype=torch.float64)
    """
    low, high = interval(prediction, level, draws=draws, seed=seed)
    return high - low


def energy_score(prediction: Distribution, y: Tensor, scale: Tensor | None = None, *, draws: int = 1024,
                 seed: int = 0) -> Tensor:  # fmt: skip
    r"""Energy score of all outputs together, shape `[...]`: the CRPS of a vector; smaller is better.

    ES(F, y) = E|X - y| - E|X - X'| / 2 with |v|^2 = sum_j (v_j / scale_j)^2, X and X' independent draws of F (Gneiting
    and Raftery 2007), from `draws` and the pairs of neighbouring draws (Gneiting et al. 2008), unbiased. `scale` `[m]`
    makes outputs of unlike size and unit comparable, for instance their spread over the runs; None is 1.

    >>> x = Exact(torch.zeros(2, dtype=torch.float64))
    >>> energy_score(x, torch.tensor([3.0, 4.0], dtype=torch.float64))
    tensor(5., dtype=torch.float64)
    """
    y = _fits(prediction, y)
    scale = torch.ones_like(y) if scale is None else torch.as_tensor(scale, dtype=y.dtype)
    if not bool((scale > 0).all()):
        raise InputError("scale must be greater than 0 for every output. Got 0, less, or NaN; give 1 for an output that "
                         "never varies.")  # fmt: skip
    total, blocks = torch.zeros(y.shape[:-1], dtype=y.dtype), 0
    for x in _draws(prediction, draws, seed):
        far = torch.linalg.vector_norm((x - y) / scale, dim=-1).mean(0)
        apart = torch.linalg.vector_norm((x[1:] - x[:-1]) / scale, dim=-1).mean(0)
        total, blocks = total + far - 0.5 * apart, blocks + 1
    return total / blocks


def climatology(y: Tensor) -> Tensor:
    r"""CRPS `[m]` of predicting every run y `[n, m]` by the other runs, whatever its parameters; NaN for one run.

    The mean over runs of the fair CRPS of the n - 1 others is half of Gini's mean difference,
    sum_{i < k} |y_i - y_k| / (n (n - 1)). What an emulator must beat to know anything.

    >>> climatology(torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64))
    tensor([0.6667], dtype=torch.float64)
    """
    n = len(y)
    if n < 2:
        return torch.full(y.shape[1:], torch.nan, dtype=y.dtype)
    weight = 2 * torch.arange(1, n + 1, dtype=y.dtype) - n - 1
    return weight @ y.sort(0).values / (n * (n - 1))


def misses(mean: Tensor, y: Tensor, over: Runs) -> Tensor:
    """How far a mean is off y, output by output, both `[n, m]`: of the value where a field is positive or no run of `over`
    varies it, else in standard deviations of its field over those runs, pooled over its outputs; 0 where it is exact.

    >>> from emulate import Field, Outputs, Parameter, Space, Uniform
    >>> space = Space((Parameter("a", Uniform(0.0, 1.0)),))
    >>> bins = Outputs((Field("n", "", False, "x", (1.0, 2.0)),))  # the second bin is empty in every run
    >>> runs = Runs.of(space, bins, [[0.0], [0.5], [1.0]], [[0.0, 0.0], [2.0, 0.0], [4.0, 0.0]])
    >>> y = torch.from_numpy(runs.y)
    >>> misses(y + torch.tensor([2.0, 1e-12]), y, runs)[0]  # the sd of the field is 2 / sqrt(2)
    tensor([1.4142e+00, 7.0711e-13], dtype=torch.float64)
    """
    spread = torch.from_numpy(over.y).var(0) if len(over) > 1 else torch.zeros_like(y[0])
    for part in over.outputs.slices.values():
        spread[part] = spread[part].mean()
    scale = torch.where(torch.as_tensor(over.outputs.positive) | (spread == 0), y.abs(), spread.sqrt())
    miss = (mean - y).abs()
    return torch.where(miss == 0, miss, miss / scale)


def _crps_normal(mu: Tensor, sigma: Tensor, y: Tensor) -> Tensor:
    off = y - mu
    z = _ratio(off, sigma)
    phi = torch.exp(-0.5 * z.square()) / math.sqrt(2 * math.pi)
    return off * (2 * ndtr(z) - 1) + sigma * (2 * phi - 1 / math.sqrt(math.pi))


def _crps_lognormal(mu: Tensor, sigma: Tensor, y: Tensor) -> Tensor:
    z = _ratio(_ln(y) - mu, sigma)
    mean = torch.exp(mu + 0.5 * sigma.square())
    exact = y.clamp_min(0) * (2 * ndtr(z) - 1) - 2 * mean * (ndtr(z - sigma) - ndtr(-sigma / math.sqrt(2)))
    exact = exact + (-y).clamp_min(0)  # below 0 nothing was promised: the way up to 0 comes on top
    return torch.where(sigma < _NARROW, _crps_normal(mu.exp(), mu.exp() * sigma, y), exact)


def _ln(y: Tensor) -> Tensor:
    """ln y, and -inf at and below 0."""
    return torch.where(y > 0, torch.where(y > 0, y, 1.0).log(), torch.where(y.isnan(), y, -math.inf))


def _ratio(off: Tensor, sigma: Tensor) -> Tensor:
    """off / sigma, and 0 where an exact prediction is right."""
    return torch.where(off == 0, off, off / sigma)


def _linear(mu: Tensor, sigma: Tensor, log: Tensor) -> tuple[Tensor, Tensor]:
    """Where an output is a logarithm the normal form is not looked at, and must only not overflow."""
    return torch.where(log, 0.0, mu), torch.where(log, 1.0, sigma)


def _marginals(prediction: Distribution) -> tuple[Tensor, Tensor, Tensor] | None:
    """mu, sigma and log `[..., m]`: each output, or its logarithm where log is true, is N(mu, sigma^2). Or None."""
    while isinstance(prediction, Independent):
        prediction = prediction.base_dist
    if isinstance(prediction, Gaussian):
        mean, sd = prediction.mean, prediction.variance.sqrt()
        if prediction.log is None:
            return mean, sd, torch.zeros_like(mean, dtype=torch.bool)
        log = prediction.log.expand(mean.shape)
        sigma = torch.log1p(_ratio(sd, mean).square()).sqrt()
        return prediction.loc, torch.where(log, sigma, sd), log
    if isinstance(prediction, Normal | MultivariateNormal | Exact):
        mean = prediction.mean
        return mean, prediction.variance.sqrt(), torch.zeros_like(mean, dtype=torch.bool)
    if isinstance(prediction, LogNormal):
        return prediction.loc, prediction.scale, torch.ones_like(prediction.loc, dtype=torch.bool)
    return None


def _draws(prediction: Distribution, draws: int, seed: int) -> Iterator[Tensor]:
    """Blocks `[s, ..., m]` of draws, s at least 2, small enough for the memory; the global generator is left alone."""
    if draws < 2:
        raise InputError(f"draws must be at least 2. Got {draws}; 1024 tell a score to a few percent.")
    generator = torch.Generator().manual_seed(seed)
    size = max(1, prediction.batch_shape.numel() * prediction.event_shape.numel())
    blocks = max(1, min(draws // 32, -(-draws * size // _AT_ONCE)))
    keyed = "generator" in inspect.signature(prediction.sample).parameters
    for b in range(blocks):
        shape = (draws * (b + 1) // blocks - draws * b // blocks,)
        if keyed:
            yield seeded(prediction).sample(shape, generator=generator)
            continue
        with torch.random.fork_rng(devices=[]):  # distributions of torch know the global generator alone
            torch.default_generator.set_state(generator.get_state())
            x = prediction.sample(shape)
            generator.set_state(torch.default_generator.get_state())
        yield x


def _fits(prediction: Distribution, y: Any) -> Tensor:
    shape = prediction.batch_shape + prediction.event_shape
    y = y if isinstance(y, Tensor) else torch.as_tensor(y, dtype=torch.float64)
    if y.shape != shape:
        raise InputError(f"y must have the shape of one draw of the prediction, {tuple(shape)}. Got {tuple(y.shape)}; "
                         "give one row of outputs for every row of parameters.")  # fmt: skip
    return y
