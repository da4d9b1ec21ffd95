r"""The response E[h | theta] of rows h to parameters, from events that each have a theta and a score of their own.

A polynomial r(u) = b(u) beta is fitted to the events and to what their scores s = d ln p / du say of its slope,

    E[h | u] = r(u),    E[(h - r(u)) s | u] = dr/du,

by generalised least squares. A row scatters by V(u) = Cov[h | u], its product with the score by about V(u) x F(u), with the
Fisher information F = E[s s^T] of one event, so that the normal equations are the same for every column of h:

    A = sum_i b b^T + db^T F^-1 db,    Cov[r(u)] = V(u) b^T A^-1 b.

What one event tells of theta is little (F is small in units of the box), and then a slope by score is worth many values: a
response of degree 4 in three parameters costs some six events where values alone cost 35, of which the score takes nothing
(regression with derivative information: Mitchell, Morris and Ylvisaker 1994; the score function: Glynn 1990). Columns may
be counts of hard bins: their scores' gradients are unbiased.

    response = fit(u, rows, scores, degree=4)
    mean, root = response.of(u, events=20_000)  # of an average over as many events, the response's own error included
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from emulate.errors import InputError
from emulate.polynomials import basis, slopes, terms

_AT_ONCE = 8192  # events whose products are in memory
_LEAST = 20  # events per cell and column, from which a covariance is known to a few per cent
_ROUNDS = 2


@dataclass(frozen=True)
class Response:
    """A polynomial of u `[..., d]`, coefficients `[k, p]`, with the covariance of the rows that it was fitted to.

    inverse `[k, k]` is A^-1; roots `[q, p (p + 1) / 2]` the coefficients of the Cholesky factor of V(u), its diagonal as
    logarithms, over `root_terms`. misfit is what the events leave in the cells of the covariance, per degree of freedom: 1
    where the degree is high enough.
    """

    terms: Tensor
    coefficients: Tensor
    inverse: Tensor
    root_terms: Tensor
    roots: Tensor
    misfit: float = float("nan")

    def mean(self, u: Tensor) -> Tensor:
        """r(u) `[..., p]`."""
        return basis(u, self.terms) @ self.coefficients

    def of(self, u: Tensor, events: float | Tensor, bias: float | Tensor = 0.0) -> tuple[Tensor, Tensor]:
        """Mean `[..., p]` and Cholesky factor `[..., p, p]` of the covariance of the average of so many rows at u, with that
        of the coefficients, and a further one that is `bias` times V."""
        b = basis(u, self.terms)
        own = (b @ self.inverse * b).sum(-1)
        return b @ self.coefficients, self.root(u) * torch.sqrt(1 / events + own + bias)[..., None, None]

    def root(self, u: Tensor) -> Tensor:
        """The Cholesky factor `[..., p, p]` of V(u), the covariance of one row."""
        flat, p = basis(u, self.root_terms) @ self.roots, self.coefficients.shape[1]
        i, j = torch.tril_indices(p, p, device=u.device)
        square = flat.new_zeros(*flat.shape[:-1], p * p)
        return square.index_copy(-1, i * p + j, torch.where(i == j, flat.exp(), flat)).unflatten(-1, (p, p))


def fit(u: Tensor, rows: Tensor, scores: Tensor | None, *, degree: int) -> Response:
    """The response of rows `[n, p]` at u `[n, d]`, with scores d ln p / du `[n, d]`, or by the rows alone.

    A score may lack a part that depends on u alone, such as the normaliser of events that were begun again. Raises
    InputError where there are too few events for the degree.
    """
    n, d, p = *u.shape, rows.shape[1]
    products, few = terms(d, degree), terms(d, min(degree, 2))
    cells = 3 * len(few)
    if n < max(20 * len(products), cells * _LEAST * p):
        raise InputError(f"a response must have at least {max(20 * len(products), cells * _LEAST * p)} events, for degree {degree} "
                         f"in {d} parameters and {p} columns. Got {n}; make more.")  # fmt: skip
    beta, normal = _plain(u, rows, products)
    if scores is not None:
        scores = scores - basis(u, products) @ _plain(u, scores, products)[0]
        squares = (scores[:, :, None] * scores[:, None, :]).flatten(1)
        fisher = _plain(u, squares, few)[0]
        beta, normal = _scored(u, rows, scores, products, beta, fisher, few)
    inverse = torch.linalg.inv(normal)
    roots, misfit = _roots(u, rows, basis(u, products) @ beta, few, cells)
    return Response(products, beta, inverse, few, roots, misfit)


def corrected(fit: Response, u: Tensor, means: Tensor, average: float) -> tuple[Response, Tensor]:
    """The response with what means `[k, p]` of so many true events, at u `[k, d]`, leave of it; and the `bias` that is left.

    What they leave is a plane B g, a priori g ~ N(0, t V), and noise, V (1 / average + b^T A^-1 b): t makes the means the
    likeliest (empirical Bayes), 0 where a response needs no correction. The variance of B g given the means takes the place
    of the coefficients' own where both are known. bias is what brings chi2 of the rest to its mean, 0 if that is less.
    """
    plane, products = terms(u.shape[1], 1), fit.terms
    b, all_b = basis(u, plane), basis(u, products)
    noise = 1 / average + ((all_b @ fit.inverse) * all_b).sum(1)
    left = (means - fit.mean(u))[:, :, None]
    white = torch.linalg.solve_triangular(fit.root(u), left, upper=False)[:, :, 0]
    scale = noise.mean()
    best = max(
        (0.0, *(scale * torch.logspace(-3, 3, 61, dtype=u.dtype)).tolist()), key=lambda t: _evidence(white, b, noise, t)
    )
    if best:
        precision = (b.T / noise) @ b + torch.eye(len(plane), dtype=u.dtype) / best
        g = torch.linalg.solve(precision, (b.T / noise) @ left[:, :, 0])
        rows = _places(products, plane)
        coefficients, inverse = fit.coefficients.clone(), fit.inverse.clone()
        coefficients[rows] += g
        inverse[rows[:, None], rows] += torch.linalg.inv(precision)
        fit = replace(fit, coefficients=coefficients, inverse=inverse)
        left = (means - fit.mean(u))[:, :, None]
        white = torch.linalg.solve_triangular(fit.root(u), left, upper=False)[:, :, 0]
    free = white.numel() - (_free(b, noise, best) * white.shape[1] if best else 0.0)
    chi2 = (white.square() / noise[:, None]).sum() / free
    return fit, (scale * (chi2 - 1)).clamp(min=0.0)


def _evidence(white: Tensor, b: Tensor, noise: Tensor, t: float) -> float:
    """ln p of whitened means under a plane of variance t and their noise, for all columns."""
    root = torch.linalg.cholesky(torch.diag(noise) + t * b @ b.T)
    squares = torch.linalg.solve_triangular(root, white, upper=False).square().sum()
    return float(-0.5 * squares - white.shape[1] * root.diagonal().log().sum())


def _free(b: Tensor, noise: Tensor, t: float) -> float:
    """How many numbers a plane of variance t takes from each column."""
    known = (b.T / noise) @ b
    return float(torch.linalg.solve(known + torch.eye(len(known), dtype=b.dtype) / t, known).trace())


def _places(products: Tensor, plane: Tensor) -> Tensor:
    """Where the terms of the plane stand among all products, `[k]`."""
    one = int(plane.max())
    padded = torch.nn.functional.pad(plane, (0, products.shape[1] - plane.shape[1]), value=one)
    return (padded[:, None] == products).all(2).int().argmax(1)


def _plain(u: Tensor, rows: Tensor, products: Tensor) -> tuple[Tensor, Tensor]:
    """Coefficients and normal matrix of plain least squares."""
    k = len(products)
    normal, right = u.new_zeros(k, k), u.new_zeros(k, rows.shape[1])
    for x, h in zip(u.split(_AT_ONCE), rows.split(_AT_ONCE), strict=True):
        b = basis(x, products)
        normal += b.T @ b
        right += b.T @ h
    return torch.linalg.solve(normal, right), normal


def _scored(u: Tensor, rows: Tensor, scores: Tensor, products: Tensor, beta: Tensor, fisher: Tensor,
            few: Tensor) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Coefficients and normal matrix of rows and scores together; the residuals of (h - r) s take the last r."""
    d, k = u.shape[1], len(products)
    parts = list(zip(u.split(_AT_ONCE), rows.split(_AT_ONCE), scores.split(_AT_ONCE), strict=True))
    for _ in range(_ROUNDS):
        normal, right = u.new_zeros(k, k), torch.zeros_like(beta)
        for x, h, s in parts:
            b, slope = basis(x, products), slopes(x, products)
            weight = _inverses((basis(x, few) @ fisher).view(-1, d, d))
            turned = (weight @ s[:, :, None])[:, :, 0]
            left = h - b @ beta
            normal += b.T @ b
            right += b.T @ h
            for j in range(d):
                right += slope[j].T @ (left * turned[:, j : j + 1])
                normal += slope[j].T @ torch.einsum("ni,ink->nk", weight[:, j], slope)
        beta = torch.linalg.solve(normal, right)
    return beta, 0.5 * (normal + normal.T)


def _inverses(f: Tensor) -> Tensor:
    """Inverses `[n, d, d]` of matrices that are positive but for the noise of a fit."""
    values, vectors = torch.linalg.eigh(0.5 * (f + f.mT))
    low = 1e-2 * values.amax(-1, keepdim=True).clamp(min=1e-300)
    return (vectors / values.clamp(min=low)[:, None, :]) @ vectors.mT


def _roots(u: Tensor, rows: Tensor, fitted: Tensor, few: Tensor, cells: int) -> tuple[Tensor, float]:
    """Coefficients of the Cholesky factor of the rows' covariance, from cells of neighbours, and their misfit."""
    d, p = u.shape[1], rows.shape[1]
    centres = torch.quasirandom.SobolEngine(d, scramble=True, seed=0).draw(cells, dtype=torch.float64)
    low, high = u.amin(0), u.amax(0)
    which = torch.cdist((u - low) / (high - low), centres).argmin(1)
    i, j = torch.tril_indices(p, p, device=u.device)
    found, places, misfit = [], [], 0.0
    pooled = torch.cov((rows - fitted).T).view(p, p)
    pooled = pooled + 1e-12 * pooled.diagonal().mean() * torch.eye(p, dtype=u.dtype)
    for cell in range(cells):
        mine = (which == cell).nonzero().view(-1)
        if len(mine) < _LEAST * p // 2:
            continue
        left = rows.index_select(0, mine) - fitted.index_select(0, mine)
        own = torch.cov(left.T).view(p, p)
        share = p / (p + len(mine))  # of all cells, worth p events: a bin may be empty in this one
        root = torch.linalg.cholesky((1 - share) * own + share * pooled)
        misfit += float(torch.linalg.solve_triangular(root, left.mean(0)[:, None], upper=False).square().sum()) * len(
            mine
        )
        found.append(torch.where(i == j, root[i, j].abs().log(), root[i, j]))
        places.append(u.index_select(0, mine).mean(0))
    b = basis(torch.stack(places), few)
    roots = torch.linalg.lstsq(b, torch.stack(found), driver="gelsd").solution  # the default's bits vary
    return roots, misfit / (len(found) * p)
