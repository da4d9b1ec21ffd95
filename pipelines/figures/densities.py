"""Smooth densities of draws, weighted or not, for pictures."""

from functools import cached_property

import numpy as np
from scipy.stats import gaussian_kde

_MOST = 3000  # draws that enter a density
_CELL = 0.2  # of the mass, that one cell of a grid may hold
_LEAST = 8.0  # effective draws below which a density would be a story


class Cloud:
    """Draws `[n, d]` with weights that sum to 1; draws of weight 0 are left out."""

    def __init__(self, points: np.ndarray, log_weight: np.ndarray | None = None):
        log_weight = np.zeros(len(points)) if log_weight is None else log_weight
        self.size = len(points)
        kept = np.isfinite(log_weight) & np.isfinite(points).all(1)
        w = np.exp(log_weight[kept] - log_weight[kept].max()) if kept.any() else np.zeros(0)
        stride = max(1, -(-len(w) // _MOST))
        self.points, w = points[kept][::stride], w[::stride]
        self.weights = w / w.sum() if len(w) else w

    @property
    def effective(self) -> float:
        """1 / sum w^2, the number of equal draws that vary as much (Kong 1992)."""
        return float(1 / (self.weights**2).sum()) if len(self.weights) else 0.0

    @cached_property
    def smooth(self) -> bool:
        """Whether a density can be drawn: enough draws, spread over every parameter."""
        spread = np.ptp(self.points, axis=0) if len(self.points) else np.zeros(1)
        d = self.points.shape[1]
        return self.effective >= max(_LEAST, d + 2) and bool((spread > 0).all())

    def density(self, which: tuple[int, ...], axes: tuple[np.ndarray, ...], edges) -> np.ndarray | None:
        """The density of one or two parameters on a grid, None where there are too few draws.

        Kernels with the draws' own covariance, shrunk towards the mean so that the picture has the draws' variance
        (Liu and West 2001); what a kernel carries over an edge (low, high) of a parameter is folded back.
        """
        if not self.smooth:
            return None
        x = self.points[:, which].T
        mean = np.average(x, axis=1, weights=self.weights)[:, None]
        try:
            h = gaussian_kde(x, weights=self.weights).factor
            kernel = gaussian_kde(mean + np.sqrt(max(0.0, 1 - h**2)) * (x - mean), weights=self.weights)
        except np.linalg.LinAlgError:
            return None
        kernel.set_bandwidth(h / np.sqrt(max(1e-6, 1 - h**2)))  # the kernel keeps the width it has on the draws
        mesh = np.meshgrid(*axes, indexing="ij")
        total = np.zeros(mesh[0].shape)
        for fold in np.ndindex(*(3,) * len(which)):
            folded = [_fold(m, f, e) for m, f, e in zip(mesh, fold, edges, strict=True)]
            if all(np.isfinite(m).all() for m in folded):
                total += kernel(np.stack([m.ravel() for m in folded])).reshape(total.shape)
        return total if total.max() < _CELL * total.sum() else None  # else the grid is too coarse for draws so close


def _fold(x: np.ndarray, how: int, edges: tuple[float, float]) -> np.ndarray:
    """x itself (0), or its mirror image at the lower (1) or upper (2) edge; an edge at infinity has none."""
    return x if how == 0 else 2 * edges[how - 1] - x


def levels(density: np.ndarray, masses: tuple[float, ...]) -> list[float]:
    """The density above which each share of the mass lies, on an even grid."""
    flat = np.sort(density.ravel())[::-1]
    cumulated = np.cumsum(flat) / flat.sum()
    return [float(flat[min(np.searchsorted(cumulated, m), len(flat) - 1)]) for m in masses]
