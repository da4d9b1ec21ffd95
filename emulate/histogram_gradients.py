"""The derivative of expected counts with respect to theta, with its error, and the bias of soft bins beside it.

Of n samples, three ways, whose answers are all `emulate.contracts.Estimate`: value `[size]` and gradient `[size, d]` of all
bins in one row, under- and overflow first and last (`Counts.flat`).

    from_scores         hard bins, or soft: sum_i (q_i - mean) (s_i - mean), s = d ln p(sample) / dtheta. The standard: no bias
    from_conditionals   hard bins by their boundary: -p(e) dx/dtheta at every edge e, where the last draw has a known
                        distribution given the others. No bias, the least noise
    from_velocities     soft bins by the path: sum_i dq_i/dx dx/dtheta. It needs nothing but dx/dtheta, and is biased

An estimate from soft bins tells how far it is from that of hard ones: diagnostics `bias` and `bias_error` `[size, d]` of the
gradient, `bias_from` where that comes from, `value_bias` `[size]` of the counts; `bias_bound` is |bias| with its error and,
where it is extrapolated in the bandwidth, the last correction of that.

Letters: q_ij = w_i times the share of sample i in bin j; s scores, v velocities dx/dtheta.
"""

import itertools
import math
from collections.abc import Callable
from functools import reduce
from operator import add
from typing import Any

import numpy as np
import torch
from torch import Tensor

from emulate.axes import axes_of, given
from emulate.binning import Binning, Factor
from emulate.contracts import FOLLOWS, Estimate, Histogram
from emulate.errors import InputError
from emulate.meter import Meter
from emulate.spreading import Orders, higher

Moments = tuple[Tensor, Tensor]  # a sum over samples [size, d], and its covariance [size, d, d]
Bins = Callable[[Orders], Factor]  # what stands for a share and its derivatives: of soft bins, or a difference


def from_scores(histogram: Histogram, x: Any, scores: Any, weights: Any = None) -> Estimate:
    """dE[counts]/dtheta = Cov(q, s) of samples x `[n]` or `[n, 2]` with scores `[n, d]`: the standard others are judged by.

    Unbiased for hard bins, however the samples came about. The covariance forgives scores of a density that is not
    normalised. Weights may depend on the samples, not on theta.

    >>> from emulate.histograms.hard import Hard
    >>> x = 0.3 + torch.randn(40_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    >>> e = from_scores(Hard(edges=(0.0, 1.0)), x, (x - 0.3)[:, None])  # of N(mu, 1): x - mu; truth 40,000 times 0.0691339
    >>> bool((e.gradient[1] / 40_000 - 0.0691339).abs() < 4 * e.standard_error[1] / 40_000)
    True
    """
    with Meter() as meter, torch.no_grad():
        x, w, b = _sorted(histogram, x, weights)
        s = _columns("scores", scores, (len(x),))
        found = _covariances(b, _plain(b), x, w, s)
        told = _against_hard(b, x, w, s) if b.label else {}
    return _estimate(b, x, w, found, meter, told)


def from_velocities(
    histogram: Histogram, x: Any, velocities: Any, weights: Any = None, *, scores: Any = None
) -> Estimate:
    """dE[soft counts]/dtheta along the paths of samples x `[n]` with velocities dx/dtheta `[n, d]` (`[n, 2]`, `[n, 2, d]`).

    Weights do not depend on theta. An automatic bandwidth is settled for these velocities. The bias against hard counts is
    estimated from the same samples: by the differences that bandwidths of sqrt 2 h and 2 h make, or, with scores `[n, d]` at
    hand, as Cov(q_soft - q_hard, s), which is unbiased and has little noise; `pull` is then the largest difference between
    the path's gradient and the score's of the same soft counts, over its error: far above 4, velocities and scores do not
    belong together.
    """
    with Meter() as meter, torch.no_grad():
        settled = getattr(histogram, "settled", None)
        if settled is not None and getattr(histogram, "bandwidth", None) == "auto":  # the best for these derivatives
            histogram = settled(x, weights, velocities)
        x, w, b = _sorted(histogram, x, weights)
        if not b.label:
            raise InputError("velocities must meet a soft histogram. Got hard bins, whose derivative along a path is zero; use "
                             "the histogram soft, or from_scores.")  # fmt: skip
        v = _columns("velocities", velocities, (len(x),) if x.shape[1] == 1 else tuple(x.shape))
        v = v[:, None] if v.ndim == 2 else v
        found = _paths(b, _plain(b), x, w, v)
        wide = b.stretched(2.0)
        bias, covariance = _paths(wide, _extrapolated(b, (1.0, math.sqrt(2), 2.0)), x, w, v)
        coarse = _slope(wide, _extrapolated(b, (1.0, math.sqrt(2))), x, w, v)
        told = {"bias": bias, "bias_error": _errors(covariance), "bias_from": "the bandwidth"}
        told["bias_rest"] = (bias - coarse).abs()
        if scores is not None:
            s = _columns("scores", scores, (len(x),))
            theirs = _covariances(b, _plain(b), x, w, s)
            error = _errors(found[1] + theirs[1])
            pull = torch.where(error > 0, (found[0] - theirs[0]).abs() / error, 0.0).max()
            told = {"pull": float(pull), "bias_by_bandwidth": bias, **_against_hard(b, x, w, s)}
    return _estimate(b, x, w, found, meter, told)


def from_conditionals(histogram: Histogram, below: Callable[[Tensor], Tensor], theta: Any) -> Estimate:
    """dE[hard counts]/dtheta by the boundary term: below(theta) `[n, edges]` is the probability that sample i ends below
    each edge, given all of its draws but the last, differentiable with respect to theta `[d]`.

    Its derivative -p(e) dx/dtheta is the flux of samples over the edge, averaged over the other draws: exact, and with less
    noise than any other way (conditional Monte Carlo; Fu & Hu 1997). `below` keys those draws itself.

    >>> from emulate.histograms.hard import Hard
    >>> z = torch.randn(1000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    >>> edges = torch.tensor([0.0, 1.0], dtype=torch.float64)  # x = mu + 0.6 z + 0.8 z': N(mu, 1)
    >>> below = lambda theta: torch.special.ndtr((edges - theta[0] - 0.6 * z) / 0.8)
    >>> e = from_conditionals(Hard(edges=(0.0, 1.0)), below, [0.3])
    >>> bool((e.gradient[1] / 1000 - 0.0691339).abs() < 4 * e.standard_error[1] / 1000)
    True
    """
    theta = torch.as_tensor(theta, dtype=torch.float64)
    with Meter() as meter:
        f, slopes = along(below, theta)
        edges = axes_of(histogram.edges)
        if len(edges) != 1 or f.ndim != 2 or f.shape[1] != len(edges[0]):
            raise InputError(f"below must give [n, edges] for the edges of one axis. Got {list(f.shape)} for "
                             f"{[len(e) for e in edges] or 'two axes'}.")  # fmt: skip
        finite, rising = f.isfinite().all() and slopes.isfinite().all(), (f.diff(dim=1) >= -1e-12).all()
        if not (finite and rising and ((f >= 0) & (f <= 1)).all()):
            raise InputError("below must give probabilities that rise from edge to edge, with finite derivatives. Got others; "
                             "it is the distribution function of the last draw at the edges.")  # fmt: skip
        n = len(f)
        q = torch.nn.functional.pad(torch.nn.functional.pad(f, (1, 0)), (0, 1), value=1.0).diff(dim=1)
        t = torch.nn.functional.pad(slopes, (0, 0, 1, 1)).diff(dim=1)
        second = torch.einsum("nja,njb->jab", t, t)
        found = _of_terms(t.sum(0), second, n)
    return Estimate(
        q.sum(0), found[0], _errors(found[1]), n, meter.seconds, {}, found[1], FOLLOWS, meter.peak_memory, n
    )


def along(f: Callable[[Tensor], Tensor], theta: Any) -> tuple[Tensor, Tensor]:
    """y = f(theta) of any shape, and its velocity dy/dtheta `[*shape, d]`, by d backward passes whatever the size of y.

    J^T u is linear in u, so its derivative with respect to u gives the columns of J.
    """
    theta = torch.as_tensor(theta, dtype=torch.float64).detach().requires_grad_()
    with torch.enable_grad():
        y = f(theta)
        if not y.requires_grad:
            raise InputError("f must carry derivatives from theta. Got an answer that does not depend on theta by torch "
                             "operations; draw by inverse or location and scale, or use from_scores.")  # fmt: skip
        u = torch.zeros_like(y, requires_grad=True)
        (pulled,) = torch.autograd.grad(y, theta, u, create_graph=True)
        columns = [torch.autograd.grad(p, u, retain_graph=True, allow_unused=True, materialize_grads=True)[0]
                   for p in pulled.unbind()]  # fmt: skip
    return y.detach(), torch.stack(columns, -1)


def _sorted(histogram: Histogram, x: Any, weights: Any) -> tuple[Tensor, Tensor, Binning]:
    """Samples `[n, a]`, weights `[n]` and their binning, all without a graph."""
    b = histogram.binning(x, weights)
    x, w = (t.detach() for t in given(x, weights, len(b.axes)))
    if x.ndim != 2 or len(x) < 2:
        raise InputError(f"samples must be one row of at least 2, to tell an error. Got shape {list(x.shape)}.")
    return x, w, b


def _columns(name: str, given: Any, leading: tuple[int, ...]) -> Tensor:
    """`[*leading, d]`, finite."""
    t = torch.as_tensor(given, dtype=torch.float64).detach()
    if t.ndim != len(leading) + 1 or t.shape[:-1] != leading or not t.isfinite().all():
        raise InputError(f"{name} must be finite numbers of shape {[*leading]} and d parameters. Got shape {list(t.shape)} with "
                         f"{int((~t.isfinite()).sum())} that are not finite.")  # fmt: skip
    return t


def _plain(b: Binning) -> Bins:
    return lambda orders: ((1.0, b, orders),)


def _covariances(window: Binning, bins: Bins, x: Tensor, w: Tensor, s: Tensor) -> Moments:
    """n Cov(q, s) `[size, d]`, and its covariance over samples."""
    n, d = s.shape
    c, share = s - s.mean(0), bins(window.plain)
    pairs = _products_of(c, c)
    once = window.products(x, torch.cat([w[None], w * c.T, w * pairs]), share)
    mean, slope, single = once[0] / n, once[1 : d + 1].T, once[d + 1 :]
    square = window.products(x, w.square() * pairs, share, share)
    second = square - 2 * mean * single + mean.square() * pairs.sum(1, keepdim=True)
    total, covariance = _of_terms(slope, _symmetric(second, d), n)
    return total * (n / (n - 1)), covariance


def _extrapolated(b: Binning, factors: tuple[float, ...]) -> Bins:
    """The bias of soft bins: themselves less their polynomial in h^2 at h = 0, through these multiples of the bandwidth.

    With k of them the powers h^q to h^(q + 2 k - 4) are seen, q the order of the kernels.
    """
    powers = [0, *range(b.order, b.order + 2 * len(factors) - 2, 2)]
    at_zero = np.linalg.solve(np.array([[f**p for f in factors] for p in powers]), np.eye(len(powers))[0])
    wide = [b.stretched(f) for f in factors]
    return lambda p: tuple(
        (float(f == 1.0) - float(c), one, p) for f, c, one in zip(factors, at_zero, wide, strict=True)
    )


def _slope(window: Binning, bins: Bins, x: Tensor, w: Tensor, v: Tensor) -> Tensor:
    """sum_i w_i dshare_i/dx v_i `[size, d]` with v `[n, a, d]`."""
    return reduce(add, (window.products(x, w * v[:, k].T, bins(up)) for k, up in enumerate(higher(window.plain)))).T


def _paths(window: Binning, bins: Bins, x: Tensor, w: Tensor, v: Tensor) -> Moments:
    """The same, and its covariance over samples."""
    n, axes, d = v.shape
    ups, slope, second = [bins(up) for up in higher(window.plain)], _slope(window, bins, x, w, v), torch.zeros(())
    for k, l in itertools.combinations_with_replacement(range(axes), 2):
        pairs = _products_of(v[:, k], v[:, l]) + (_products_of(v[:, l], v[:, k]) if k != l else 0.0)
        second = second + window.products(x, w.square() * pairs, ups[k], ups[l])
    return _of_terms(slope, _symmetric(second, d), n)


def _products_of(a: Tensor, b: Tensor) -> Tensor:
    """a_i b_j of all i <= j, `[d (d + 1) / 2, n]`, of a and b `[n, d]`."""
    i, j = torch.triu_indices(a.shape[1], a.shape[1])
    return (a[:, i] * b[:, j]).T


def _symmetric(rows: Tensor, d: int) -> Tensor:
    """`[size, d, d]` of its upper half in rows `[d (d + 1) / 2, size]`."""
    i, j = torch.triu_indices(d, d)
    made = rows.new_empty(rows.shape[1], d, d)
    made[:, i, j] = made[:, j, i] = rows.T
    return made


def _of_terms(total: Tensor, second: Tensor, n: int) -> Moments:
    """A sum of n independent terms, and its covariance from the terms' second moments."""
    return total, (second - total[:, :, None] * total[:, None, :] / n) * (n / (n - 1))


def _errors(covariance: Tensor) -> Tensor:
    return covariance.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()


def _against_hard(b: Binning, x: Tensor, w: Tensor, s: Tensor) -> dict[str, Any]:
    """The bias of the gradient against hard bins, from scores."""
    bias, covariance = _covariances(b, lambda p: ((1.0, b, p), (-1.0, b.hard, p)), x, w, s)
    return {"bias": bias, "bias_error": _errors(covariance), "bias_from": "the score"}


def _estimate(b: Binning, x: Tensor, w: Tensor, found: Moments, meter: Meter, told: dict[str, Any]) -> Estimate:
    value = b.spread(x, w).flatten()
    bound = FOLLOWS
    if told:
        told = {**told, "smoothing": b.label, "value_bias": value - b.hard.spread(x, w).flatten()}
        bound = told["bias"].abs() + told["bias_error"] + told.get("bias_rest", 0.0)
    return Estimate(
        value, found[0], _errors(found[1]), len(x), meter.seconds, told, found[1], bound, meter.peak_memory, len(x)
    )
