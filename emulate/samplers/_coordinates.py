"""Coordinates in which a density is close to a standard normal, learnt from draws.

g groups, c chains of a group, n draws, d parameters; every group has coordinates of its own.
"""

import numpy as np
from scipy.optimize import minimize

_WIDEST = 16  # parameters up to which bends are looked for: there are d^3 / 6 of them
_MOST = 3000  # draws that bends are learnt from
_CLIMB = 40  # steps towards the axis that bends most
_WORTH = 0.9  # a bend stays when it leaves less than this share of the variance of draws that it was not fitted to


class Coordinates:
    """x = centre + F (q + A(q, q)), A_i a quadratic form in the q_j with j < i.

    The Jacobian's determinant is the same everywhere, so ln p(x(q)) is the log density of q up to a constant. Without A
    this is the usual mass matrix F F^T; with it a banana is as easy as the Gaussian that it was bent from (Parno and
    Marzouk 2018 on such triangular maps). Shapes: centre `[g, 1, d]`, F `[g, d, d]`, A `[g, d, d, d]` symmetric in the last two.
    """

    def __init__(self, centre: np.ndarray, factor: np.ndarray, bend: np.ndarray | None = None):
        self.centre, self.factor, self.bend = centre, factor, bend
        self._across = np.ascontiguousarray(factor.swapaxes(1, 2))
        if bend is not None:
            g, d = factor.shape[:2]
            self._whole = np.einsum("gil,gljk->gkij", factor, bend).reshape(g, d, d * d)

    def x(self, q: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """x `[g, c, d]` of q `[g, c, d]`, and what `pull` needs to know of the place."""
        x = self.centre + q @ self._across
        if self.bend is None:
            return x, None
        w = (q @ self._whole).reshape(*q.shape, q.shape[-1])
        return x + np.einsum("gcij,gcj->gci", w, q), w

    def pull(self, slope: np.ndarray, w: np.ndarray | None) -> np.ndarray:
        """The gradient by q of a density with gradient `slope` by x."""
        pulled = slope @ self.factor
        return pulled if w is None else pulled + 2 * np.einsum("gcij,gci->gcj", w, slope)

    def q(self, x: np.ndarray) -> np.ndarray:
        """The inverse of `x`, one parameter after the other."""
        q = np.linalg.solve(self.factor, (x - self.centre).swapaxes(1, 2)).swapaxes(1, 2)
        if self.bend is not None:
            for i in range(1, x.shape[-1]):
                q[..., i] -= np.einsum("gcj,gcj->gc", q[..., :i] @ self.bend[:, i, :i, :i], q[..., :i])
        return q


def learnt(pool: np.ndarray, mass: str) -> Coordinates:
    """From draws `[n, g, c, d]`, `mass` "bent", "dense" or "diagonal"; correlations are shrunk by d + 2 draws of none.

    Bends are looked for where there is one group alone.
    """
    n, g, c, d = pool.shape
    flat = pool.transpose(1, 0, 2, 3).reshape(g, n * c, d)
    centre = flat.mean(1, keepdims=True)
    rest = flat - centre
    covariance = rest.swapaxes(1, 2) @ rest / max(n * c - 1, 1)
    variance = np.einsum("gii->gi", covariance)
    unit = np.broadcast_to(np.eye(d), (g, d, d))
    if n * c < 2 or (variance <= 0).any():  # chains that all start at one point
        return Coordinates(centre, unit)
    none = 1.0 if mass == "diagonal" else (d + 2) / (n * c + d + 2)
    factor = np.linalg.cholesky((1 - none) * covariance + none * variance[:, None] * unit)
    if mass == "bent" and g == 1 and 1 < d <= _WIDEST:
        y = np.linalg.solve(factor[0], rest[0].T).T
        half = np.arange(c) % 2 if c > 3 else (np.arange(n) * 2 // n)[:, None]  # one half judges the other's fit
        keep = np.arange(0, n, 1 + n * c // _MOST)
        found = _bent(y.reshape(n, c, d)[keep].reshape(-1, d), np.broadcast_to(half, (n, c))[keep].ravel())
        if found is not None:
            shift, turn, bend = found
            return Coordinates(centre + shift @ factor.swapaxes(1, 2), factor @ turn, bend[None])
    return Coordinates(centre, factor)


def _bent(y: np.ndarray, half: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Shift, F and A that make white draws `[n, d]` normal; None where no bend is worth its while."""
    n, d = y.shape
    axes = _axes(y)
    y = y @ axes
    q, shift, triangle, bend = np.empty_like(y), np.zeros(d), np.zeros((d, d)), np.zeros((d, d, d))
    for i in range(d):  # least squares of y_i on 1, q_j and q_j q_k
        j, k = np.triu_indices(i)
        features, told = np.concatenate([np.ones((n, 1)), q[:, :i], q[:, j] * q[:, k]], 1), 0.0
        if i and min((half == 0).sum(), (half == 1).sum()) > 3 * features.shape[1]:
            blind = np.empty(n)
            for h in range(2):
                blind[half != h] = features[half != h] @ _fit(features[half == h], y[half == h, i])
            if (y[:, i] - blind).var() < _WORTH * y[:, i].var():
                fit = _fit(features, y[:, i])
                told = features @ fit
                shift[i], triangle[i, :i] = fit[0], fit[1 : 1 + i]
                bend[i, j, k] = fit[1 + i :]
        triangle[i, i] = (y[:, i] - told).std()
        q[:, i] = (y[:, i] - told) / triangle[i, i]
    if not bend.any():
        return None
    bend = np.einsum("il,ljk->ijk", np.linalg.inv(triangle), bend)
    move, factor, bend = _likeliest(np.linalg.solve(triangle, (y - shift).T).T, bend)
    return axes @ (shift + triangle @ move), axes @ triangle @ factor, (bend + bend.swapaxes(1, 2)) / 2


def _axes(y: np.ndarray) -> np.ndarray:
    """The rotation `[d, d]` after which each y_i bends with those before it, from S_ijk = E[y_i y_j y_k].

    The last axis v is the one that squares and products of all across it tell best, |P S(v) P|^2 with P = 1 - v v^T, up to
    a constant; the one before it is that of what lies across v, and so on.
    """
    n, d = y.shape
    third = (y.T @ (y[:, :, None] * y[:, None]).reshape(n, -1) / n).reshape(d, d, d)
    space, axes = np.eye(d), []
    while space.shape[1] > 1:
        inner = np.einsum("abc,ai,bj,ck->ijk", third, space, space, space, optimize=True)
        v = _last(inner)
        axes.append(space @ v)
        space = space @ np.linalg.svd(v[None])[2][1:].T
    return np.stack([space[:, 0], *axes[::-1]], 1)


def _last(third: np.ndarray) -> np.ndarray:
    """The unit vector `[d]` of the highest |P S(v) P|^2, uphill on the sphere from several."""
    d = len(third)
    flat = third.reshape(d, -1)
    size, own = np.linalg.eigh(flat @ flat.T)
    v, rate = np.concatenate([own.T, np.eye(d), (own[:, :1] + own[:, 1:]).T]), 0.1 / size[-1].clip(1e-9)
    for i in range(_CLIMB + 1):
        v = v / np.linalg.norm(v, axis=1, keepdims=True)
        slice_ = (v @ flat).reshape(-1, d, d)
        w = np.einsum("sij,sj->si", slice_, v)
        t = np.einsum("si,si->s", w, v)[:, None]
        if i < _CLIMB:
            whole = np.einsum("sij,kij->sk", slice_, third, optimize=True)
            v = v + rate * (2 * whole - 8 * np.einsum("sij,sj->si", slice_, w) + 6 * t * w)
    told = np.einsum("sij,sij->s", slice_, slice_) - 2 * np.einsum("si,si->s", w, w) + t[:, 0] ** 2
    return v[told.argmax()]


def _fit(features: np.ndarray, target: np.ndarray) -> np.ndarray:
    return np.linalg.solve(features.T @ features + np.eye(features.shape[1]), features.T @ target)


def _likeliest(y: np.ndarray, bend: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shift, F and A (of j <= k) of the highest likelihood of y if q is standard normal, uphill from 0, 1 and A.

    With W = F^-1 it is ln|det W| - |q|^2 / 2, on average; a direction that is off by little costs a bend much.
    """
    n, d = y.shape
    rows = [i for i in range(d) if bend[i].any()]
    i, j, k = np.indices((d, d, d))
    free = (j <= k) & (k < i) & np.asarray(bend.any((1, 2)))[:, None, None]

    def unpacked(v: np.ndarray):
        a = np.zeros((d, d, d))
        a[free] = v[d + d * d :]
        return v[:d], v[d : d + d * d].reshape(d, d), a

    def loss(v: np.ndarray) -> tuple[float, np.ndarray]:
        c, w, a = unpacked(v)
        rest = y - c
        q = rest @ w.T
        for i in rows:
            q[:, i] -= np.einsum("nj,nj->n", q[:, :i] @ a[i, :i, :i], q[:, :i])
        back, slope = q.copy(), np.zeros_like(a)
        for i in rows[::-1]:
            part = q[:, :i]
            slope[i, :i, :i] = -(part * back[:, i : i + 1]).T @ part / n
            back[:, :i] -= back[:, i : i + 1] * (part @ (a[i, :i, :i] + a[i, :i, :i].T))
        value = 0.5 * (q * q).sum() / n - np.linalg.slogdet(w)[1]
        by_w = back.T @ rest / n - np.linalg.inv(w).T
        return value, np.concatenate([-(back @ w).mean(0), by_w.ravel(), slope[free]])

    start = np.concatenate([np.zeros(d), np.eye(d).ravel(), bend[free]])
    with np.errstate(over="ignore", invalid="ignore"):
        found = minimize(loss, start, jac=True, method="BFGS", options={"maxiter": 150})
    c, w, a = unpacked(found.x if np.isfinite(found.fun) else start)
    return c, np.linalg.inv(w), a
