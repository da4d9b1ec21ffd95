"""What true runs at draws of a surrogate posterior say of it: the true posterior, and how far the two are apart."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.special import ndtri

from emulate.contracts import Weighted
from emulate.space import Space

TRUSTED = 0.7  # Pareto shape of the weights up to which they can mend a posterior (Vehtari et al. 2024)
EVEN = 1.5  # times the mean weight: where none is larger, none carries the estimate, however the few largest fall off
BLUR = 0.05  # standard error of its means and widths, in its standard deviations, up to which it counts as mended
_EXACT = 1e-9  # log weights closer than this are one weight: the surrogate is exact
_FOLDS = 32
_EDGE = 1e-12  # nearest that u comes to 0 and 1


class Measured(NamedTuple):
    """A number with its standard error."""

    value: float
    error: float


@dataclass(frozen=True)
class Reweighted:
    """The true posterior by weights on all draws of the surrogate's, and the differences between the two.

    theta `[t, d]` with log_weight `[t]`, normalised: equal to ln 1/t where the surrogate is exact. pareto_k: shape of the
    tail of the true runs' weights, NaN where too few to tell; largest: the largest of them over their mean. mean, sd,
    quantiles `[d, 3]` at 2.5, 50 and 97.5 %, covariance `[d, d]` of the true posterior; shift `[d]` of the surrogate's mean
    in sd of the true one, width `[d]` sd over sd; each with its standard error. move: all shifts together, Delta^T C^-1 Delta
    under the root; factor: the width over all directions, (|C_surrogate| / |C_true|)^(1 / 2d); kl = KL(true || surrogate),
    distance = sqrt(2 kl), which for a pure shift is that shift; c2st: the accuracy of the best classifier between the two.
    explained: share of the variance of ln w that the regression predicts of runs it has not seen.
    """

    theta: Tensor
    log_weight: Tensor
    pareto_k: float
    largest: float
    explained: float
    mean: Tensor
    mean_error: Tensor
    sd: Tensor
    sd_error: Tensor
    quantiles: Tensor
    quantiles_error: Tensor
    covariance: Tensor
    covariance_error: Tensor
    shift: Tensor
    shift_error: Tensor
    width: Tensor
    width_error: Tensor
    move: Measured
    factor: Measured
    kl: Measured
    distance: Measured
    c2st: Measured

    @property
    def blur(self) -> float:
        """The largest standard error of a mean or an sd, in that sd; NaN where one is none."""
        return float((torch.cat([self.mean_error, self.sd_error]) / self.sd.repeat(2)).max())

    @property
    def trusted(self) -> bool:
        """Whether the weights mend the posterior: their tail is tame or they are nearly even, and what they say is sharp."""
        return self.tame and self.blur <= BLUR

    @property
    def tame(self) -> bool:
        """Whether no few weights carry what is said."""
        return self.pareto_k < TRUSTED or self.largest <= EVEN


def reweigh(weighted: Weighted, space: Space) -> Reweighted:
    r"""The true posterior from s true runs at draws theta_i of the surrogate's, w_i = p_true / p_surrogate.

    ln w is fitted on (1, x, x x^T), x the parameters in the coordinates in which the prior is standard normal, whitened: for
    two Gaussian posteriors the fit is exact, and every one of the t draws then has its weight. As much of the polynomial is
    taken as predicts runs that it has not seen, down to a constant. With v the fit to the runs of other folds,

        E[w f] = (1/t) sum_j v(x_j) f(x_j) + (1/s) sum_i (w_i - v(x_i)) f(x_i)

    has no bias for any v, and the noise of what the fit leaves only; a constant v gives the paired difference of the draws
    with and without their weights. What the fit leaves, ln w - ln v, is Pareto-smoothed (Vehtari et al. 2024). Means and
    covariances follow from f = (1, theta, theta theta^T); the draws' weights are v, raked to these moments (Deville and
    Sarndal 1992). Standard errors by the influence of every run and draw, draws taken as independent; the bias of ratios,
    squares and logarithms, of order 1/s, is taken off by the jackknife (Quenouille 1956).

    Draws of a surrogate much narrower than the truth, or in another mode, miss part of it, and no weight can tell; the Pareto
    shape is then large.

    >>> from emulate.space import Normal, Parameter
    >>> x = torch.randn(4000, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    >>> made = reweigh(Weighted(x[:100], -0.5 * (x[:100, 0] - 0.5).square() + 0.5 * x[:100, 0].square(), x),
    ...                Space((Parameter("a", Normal(0, 1)),)))
    >>> [round(float(v), 1) for v in (made.mean, made.sd, made.shift, made.distance.value)]
    [0.5, 1.0, -0.5, 0.5]
    """
    theta, log_weight = weighted.theta, weighted.log_weight - weighted.log_weight.max()
    some = weighted.failed is not None and len(weighted.failed) > 0
    draws = theta if some else weighted.draws  # all draws are no match for those that ran
    theta, draws = theta.clone(), draws.clone()  # memory of numpy's lies anywhere, and BLAS gives other bits there
    x, all_x = _whitened(_normal(space, theta), _normal(space, draws))
    fit = _Fit.of(x, log_weight, all_x)
    y, all_y = _whitened(theta, draws)
    center = draws.mean(0)
    moments = _Moments(fit, y, all_y, center, (draws - center).mT @ all_y / len(draws))  # y has covariance 1
    value, error = moments.measured()
    weight = _raked(fit.base, all_y, moments.raw)
    quantiles, blur = _quantiles(fit, theta, draws, weight)
    d = space.d
    kl, move, factor = (Measured(float(value[i]), float(error[i])) for i in range(3))
    (shift, width, mean, sd, cov), bars = (x[3:].split([d, d, d, d, d * d]) for x in (value, error))
    return Reweighted(
        draws, weight, pareto_k(log_weight), float(1 / log_weight.exp().mean()), fit.explained, mean, bars[2], sd, bars[3],
        quantiles, blur, cov.reshape(d, d), bars[4].reshape(d, d), shift, bars[0], width, bars[1], rooted(move), factor, kl,
        rooted(Measured(2 * kl.value, 2 * kl.error)), fit.c2st(),
    )  # fmt: skip


def pareto_k(log_weight: Tensor) -> float:
    """Shape of the generalised Pareto tail of the weights: 0 where they are all one, NaN where too few to tell."""
    return _smoothed(log_weight)[1]


@dataclass(frozen=True)
class _Fit:
    """w of s runs beside v, the fit to the runs of other folds: left `[s]` at the runs, on `[k, t]` at the draws by fold."""

    log_w: Tensor  # [s], Pareto-smoothed, -inf where a run failed
    log_left: Tensor  # [s]
    log_on: Tensor  # [k, t]
    fold: Tensor  # [s]
    explained: float

    @staticmethod
    def of(x: Tensor, log_weight: Tensor, all_x: Tensor) -> "_Fit":
        s, r = x.shape
        ran = log_weight.isfinite()
        k = min(int(ran.sum()), _FOLDS)
        fold = torch.arange(s) % k
        fold[ran] = torch.arange(int(ran.sum())) % k
        phi, all_phi = _features(x), _features(all_x)
        sizes = [1, 1 + r, 1 + 2 * r, phi.shape[1]]  # a constant; and lines; and squares; and products
        tried = {}
        for p in sizes:
            if p == 1 or int(ran.sum()) >= 2 * p:
                beta = _regressed(phi[:, :p], log_weight.where(ran, 0.0), ran & (fold != torch.arange(k)[:, None]))
                left = (phi[:, :p] * beta[fold]).sum(1)
                tried[p] = (float((log_weight - left)[ran].square().mean()), beta, left)
        p = min(tried, key=lambda p: tried[p][0])
        worst, (press, beta, left) = tried[1][0], tried[p]
        cap = -float(log_weight[ran].median())  # as far above the largest weight as that is above the middle one
        left, on = left.clamp_max(cap), (beta @ all_phi[:, :p].mT).clamp_max(cap)
        smooth = _smoothed(log_weight - left)[0] + left
        return _Fit(smooth, left, on, fold, 1 - press / worst if worst > _EXACT**2 else 1.0)

    @property
    def base(self) -> Tensor:
        """ln v `[t]`, the mean over the folds."""
        return self.log_on.logsumexp(0)

    def expected(self, f: Tensor, all_f: Tensor) -> tuple[Tensor, Tensor]:
        """E[w f] by each run `[s, n]`, f `[s, n]` at the runs and all_f `[t, n]`; v f `[t, n]` at the draws."""
        on, left, w = self.log_on.exp(), self.log_left.exp(), self.log_w.exp()
        return (on @ all_f / len(all_f))[self.fold] + (w - left)[:, None] * f, on.mean(0)[:, None] * all_f

    def log_expected(self) -> tuple[Tensor, Tensor]:
        """The same `[s]`, `[t]` of f = ln w itself."""
        w, left, on = self.log_w.exp(), self.log_left.exp(), self.log_on.exp() * self.log_on
        own = torch.where(w > 0, w * self.log_w, 0.0) - left * self.log_left
        return on.mean(1)[self.fold] + own, on.mean(0)

    def c2st(self) -> Measured:
        """1/2 + E|w / E[w] - 1| / 4, E over the surrogate posterior."""
        one = torch.ones(len(self.log_w), 1).to(self.log_w), torch.ones(self.log_on.shape[1], 1).to(self.log_w)
        z, all_z = (x[:, 0] for x in self.expected(*one))
        mean = z.mean()
        w, left, on = (x.exp() / mean for x in (self.log_w, self.log_left, self.log_on))
        off = [(x - 1).abs() for x in (w, left, on)]
        slope = (on.mean(0) - 1).sign() @ on.mean(0) / len(all_z)  # - mean d E|w / mean - 1| / d mean
        by_run = off[2].mean(1)[self.fold] + off[0] - off[1]
        value = float(by_run.mean())
        error = _error((by_run - value - slope * (z / mean - 1))[:, None],
                       (off[2].mean(0) - off[2].mean() - slope * (all_z - all_z.mean()) / mean)[:, None])  # fmt: skip
        return Measured(min(max(0.5 + value / 4, 0.5), 1.0), float(error) / 4)


@dataclass(frozen=True)
class _Moments:
    """The moments of both posteriors in coordinates y, in which the surrogate's are 0 and 1: theta = center + scale y."""

    fit: _Fit
    y: Tensor
    all_y: Tensor
    center: Tensor
    scale: Tensor

    @property
    def raw(self) -> Tensor:
        """The true posterior's E[y], E[y y^T] `[r + r^2]`."""
        f = self.fit.expected(_products(self.y), _products(self.all_y))[0].mean(0)
        return f[1:] / f[0]

    def measured(self) -> tuple[Tensor, Tensor]:
        """What `known` tells, with standard errors; the bias of order 1 / s taken off."""
        psi, on = self.fit.expected(_products(self.y), _products(self.all_y))
        told, on_told = self.fit.log_expected()
        psi, on, own = torch.cat([psi, told[:, None]], 1), torch.cat([on, on_told[:, None]], 1), _products(self.all_y)
        s, whole, there = len(psi), psi.mean(0), own.mean(0)
        value = self.known(whole, there)
        left = self.known((s * whole - psi) / (s - 1), there.expand(s, -1))
        with torch.enable_grad():
            on_psi, on_own = torch.func.jacrev(self.known, (0, 1))(whole, there)
        by_run = (s - 1) * (value - left)
        by_run = torch.where(by_run.isfinite().all(0), by_run, (psi - whole) @ on_psi.mT)
        by_draw = (on - on.mean(0)) @ on_psi.mT + (own - there) @ on_own.mT
        return value + by_run.mean(0), _error(by_run, by_draw)

    def known(self, true: Tensor, own: Tensor) -> Tensor:
        """kl, move^2, factor, then by parameter shift, width, mean, sd, and the covariance of theta, all in one row.

        true `[..., 2 + r + r^2]`: E[w], E[w y], E[w y y^T], E[w ln w]; own: 1, E[y], E[y y^T] of the surrogate."""
        r = self.all_y.shape[1]
        z, kl = true[..., :1], true[..., -1] / true[..., 0] - true[..., 0].log()
        mean, cov = _central(true[..., 1:-1] / z, r)
        middle, spread = _central(own[..., 1:], r)
        off = middle - mean
        move = (off * torch.linalg.solve_ex(cov, off[..., None])[0][..., 0]).sum(-1)
        logdet = (torch.linalg.slogdet(x) for x in (spread, cov))
        (_, wide), (sign, narrow) = logdet
        factor = torch.where(sign > 0, (wide - narrow) / (2 * r), torch.nan).exp()
        in_theta, of_draws = self.scale @ cov @ self.scale.mT, self.scale @ spread @ self.scale.mT
        sd, width = (x.diagonal(dim1=-2, dim2=-1).sqrt() for x in (in_theta, of_draws))
        shift = (off @ self.scale.mT) / sd
        return torch.cat([torch.stack([kl, move, factor], -1), shift, width / sd, self.center + mean @ self.scale.mT, sd,
                          in_theta.flatten(-2)], -1)  # fmt: skip


def _regressed(phi: Tensor, y: Tensor, use: Tensor) -> Tensor:
    """Least squares of y `[s]` on phi `[s, p]` for each row of `use` `[k, s]`: `[k, p]`; by normal equations, which give
    the same bits wherever the memory lies, and phi is of whitened coordinates."""
    some = phi * use[..., None].to(phi)
    gram = some.mT @ phi
    ridge = 1e-13 * gram.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None] * torch.eye(phi.shape[1]).to(phi)
    return torch.linalg.solve(gram + ridge, (some.mT @ y)[..., None])[..., 0]


def _central(raw: Tensor, r: int) -> tuple[Tensor, Tensor]:
    """E[y], E[y y^T] in one row `[..., r + r^2]` -> mean `[..., r]` and covariance `[..., r, r]`."""
    mean = raw[..., :r]
    return mean, raw[..., r:].unflatten(-1, (r, r)) - mean[..., :, None] * mean[..., None, :]


def _products(y: Tensor) -> Tensor:
    """1, y, y y^T `[n, 1 + r + r^2]`."""
    return torch.cat([torch.ones_like(y[:, :1]), y, (y[:, :, None] * y[:, None, :]).flatten(1)], 1)


def _features(x: Tensor) -> Tensor:
    """1, x, x^2 and the products of different x."""
    i, j = torch.triu_indices(x.shape[1], x.shape[1], 1)
    return torch.cat([torch.ones_like(x[:, :1]), x, x**2, x[:, i] * x[:, j]], 1)


def _normal(space: Space, theta: Tensor) -> Tensor:
    """theta in the coordinates in which the prior is standard normal."""
    return ndtri(space.to_unit(theta).clamp(_EDGE, 1 - _EDGE))


def _whitened(some: Tensor, every: Tensor) -> tuple[Tensor, Tensor]:
    """Both in coordinates `[..., r]` in which `every` has mean 0 and covariance 1; directions that do not move are left out."""
    center = every.mean(0)
    scale = every.std(0, correction=0)
    scale = torch.where(scale > 0, scale, 1.0)
    z, all_z = (some - center) / scale, (every - center) / scale
    value, vector = torch.linalg.eigh(all_z.mT @ all_z / len(all_z))
    kept = value > 1e-12 * value[-1]
    basis = vector[:, kept] / value[kept].sqrt()
    return z @ basis, all_z @ basis


def _error(by_run: Tensor, by_draw: Tensor) -> Tensor:
    """The standard error `[n]` of a number by the influence of each run `[s, n]` and of each draw `[t, n]` on it."""
    s, t = len(by_run), len(by_draw)
    if s == t:  # they are the same draws
        return (by_run + by_draw).std(0) / s**0.5
    return (by_run.var(0) / s + by_draw.var(0) / t).sqrt()


def rooted(square: Measured) -> Measured:
    """The root of a square that may be measured below 0; its error is half the way between the roots of both its ends."""
    if not np.isfinite(square.value + square.error):
        return Measured(np.nan, np.nan)
    value = max(square.value, 0.0)
    low, high = max(value - square.error, 0.0) ** 0.5, (value + square.error) ** 0.5
    return Measured(value**0.5, (high - low) / 2)


def _smoothed(log_weight: Tensor) -> tuple[Tensor, float]:
    """ln w with its tail smoothed, and the tail's Pareto shape: 0 where the weights are all one, NaN where too few to tell."""
    from arviz_stats.base.array import array_stats  # slow to import

    finite = log_weight[log_weight.isfinite()]
    if len(finite) < 2 or finite.max() - finite.min() < _EXACT:
        return log_weight, 0.0
    filled = torch.where(
        log_weight.isfinite(), log_weight, finite.min() - 100
    )  # weight 0; the tail is at the other end
    try:
        with np.errstate(divide="ignore", invalid="ignore"):  # a tail of equal weights
            made, k = array_stats.psislw(-filled.numpy())  # takes ln p of leave-one-out, the negative of our ln w
    except ValueError:  # too few draws for a tail, or a tail of equal weights
        return log_weight, float("nan")
    made = torch.as_tensor(np.asarray(made))
    made = made + (filled - made)[filled.argmin()]  # the least weight is no part of the tail: undo the normalisation
    return torch.where(log_weight.isfinite(), made, log_weight), float(k)


def _raked(base: Tensor, y: Tensor, raw: Tensor) -> Tensor:
    """ln weights `[t]` of draws y, as near to `base` as gives them the moments `raw`; of those what can be had."""
    r = y.shape[1]
    i, j = torch.triu_indices(r, r)
    mean, square = raw[:r], raw[r:].reshape(r, r)
    for f, target in (
        (torch.cat([y, y[:, i] * y[:, j]], 1), torch.cat([mean, square[i, j]])),
        (torch.cat([y, y**2], 1), torch.cat([mean, square.diagonal()])),
        (y, mean),
    ):
        made = _tilted(base, f - target)
        if made is not None:
            return made
    return base.log_softmax(0)


def _tilted(base: Tensor, f: Tensor) -> Tensor | None:
    """ln weights proportional to exp(base + f g), with g such that E[f] = 0: a convex problem, by Newton's steps."""
    g = torch.zeros(f.shape[1]).to(f)
    value = base.logsumexp(0)
    for _ in range(60):
        log = base + f @ g
        w = log.softmax(0)
        mean = w @ f
        if mean.abs().max() < 1e-9:
            return log.log_softmax(0)
        curve = (f * w[:, None]).mT @ f - mean[:, None] * mean
        step, failed = torch.linalg.solve_ex(curve, mean)
        if failed or not step.isfinite().all():
            return None
        size = 1.0
        while not (new := (base + f @ (g - size * step)).logsumexp(0)) <= value - 1e-4 * size * (mean @ step):
            size /= 2
            if size < 1e-6:
                return log.log_softmax(0) if mean.abs().max() < 1e-6 else None
        g, value = g - size * step, new
    return None


def _quantiles(fit: _Fit, theta: Tensor, draws: Tensor, log_weight: Tensor) -> tuple[Tensor, Tensor]:
    """2.5, 50 and 97.5 % of each parameter `[d, 3]` by the draws' weights, with standard errors of their levels carried over."""
    w, made, errors = log_weight.exp(), [], []
    for i in range(draws.shape[1]):
        order = draws[:, i].argsort()
        x, rank = draws[order, i], w[order].cumsum(0)

        def at(level: Tensor, x: Tensor = x, rank: Tensor = rank) -> Tensor:
            return x[torch.searchsorted(rank, level.clamp(0, 1)).clamp_max(len(x) - 1)]

        level = torch.tensor([0.025, 0.5, 0.975]).to(draws)
        q = at(level)
        below, all_below = ((v[:, i, None] <= q).to(draws) - level for v in (theta, draws))
        z = fit.expected(torch.ones_like(theta[:, :1]), torch.ones_like(draws[:, :1]))[0].mean()
        by_run, by_draw = fit.expected(below, all_below)
        blur = _error(by_run / z, by_draw / z)
        made.append(q)
        errors.append((at(level + blur) - at(level - blur)) / 2)
    return torch.stack(made), torch.stack(errors)
