"""Where truths lie among the draws of their posteriors: even numbers and normal pulls when the chain is calibrated."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import ndtri
from scipy.stats import rankdata

from emulate.contracts import Recovery

_SEED = 20_220_310  # of what breaks the ties of ranks; any will do, and one makes findings repeat


def even(share: np.ndarray, worth: np.ndarray, key: int) -> np.ndarray:
    """Uniform numbers from the share of draws that lie below the truth, of draws that are worth so many independent ones.

    Of L independent draws of the distribution that the truth has, the number below it is uniform on 0, ..., L (Talts et al.
    2018, theorem 1), and (number + v) / (L + 1) with v uniform on [0, 1] is uniform on [0, 1]. The share below of s
    correlated draws that are worth L scatters about its limit as that of L independent ones does, so that share x L takes
    the number's place, and nothing need be thinned away. `key` tells the v of one use from those of another.

    >>> bool((even(np.array([0.0, 0.5, 1.0]), np.array([9.0, 9.0, 9.0]), 1) * 10).round() @ [1, 0, 0] <= 1)
    True
    """
    v = np.random.default_rng([_SEED, key]).random(np.shape(share))
    return (share * worth + v) / (worth + 1)


@dataclass(frozen=True)
class Ranks:
    """The ranks of q truths in the draws of their posteriors, all by `even`."""

    known: Recovery

    @property
    def sane(self) -> bool:
        """Whether all numbers are finite."""
        k = self.known
        return all(bool(t.isfinite().all()) for t in (k.rank, k.truth, k.mean, k.sd, k.draws, k.x, k.ess))

    @cached_property
    def worth(self) -> np.ndarray:
        """Independent draws of each posterior `[q]`, at least 1."""
        return self.known.ess.clamp(1, self.known.draws.shape[1]).numpy()

    @cached_property
    def density(self) -> np.ndarray:
        """Of the truth's density `[q]`: the level of the region of highest density at whose edge it lies (Hermans et al. 2022)."""
        return even(self.known.rank.numpy(), self.worth, 0)

    @cached_property
    def parameters(self) -> np.ndarray:
        """Of each parameter by itself `[q, d]`, near 0 where the truth lies below all draws."""
        share = (self.known.draws < self.known.x[:, None]).double().mean(1).numpy()
        return even(share, self.worth[:, None], 1)

    @cached_property
    def pulls(self) -> np.ndarray:
        """How far the posteriors lie above the truths `[q, d]` in standard deviations, standard normal when calibrated.

        The normal quantiles of the ranks: (mean - truth) / sd where the posterior is normal, and as good where it is not.
        """
        return -ndtri(self.parameters)

    @cached_property
    def correlation(self) -> np.ndarray:
        """Of the pulls of one observation, `[d, d]`: that of the draws' own normal quantiles, mean over the observations."""
        draws = self.known.draws.numpy()
        z = ndtri((rankdata(draws, axis=1) - 0.5) / draws.shape[1])
        z /= np.sqrt((z**2).mean(1, keepdims=True)).clip(1e-300)
        return np.einsum("qsi,qsj->ij", z, z) / (z.shape[0] * z.shape[1])

    def distances(self, seed: int = 0) -> np.ndarray:
        """Of the distance from a random point `[q]` (TARP; Lemos et al. 2023): the share of draws nearer to it than the truth.

        The points are drawn from the normal distribution with the mean and covariance of the draws and the truth together,
        and distances are taken in that metric. So they depend on the data, without which a posterior that never learns
        would pass, and the truth is one more draw to all that is computed, which keeps its rank uniform to all orders.
        """
        draws, x = self.known.draws.numpy(), self.known.x.numpy()[:, None]
        q, s, d = draws.shape
        whole = np.concatenate([x, draws], 1)
        whole = whole - whole.mean(1, keepdims=True)
        covariance = np.einsum("qsi,qsj->qij", whole, whole) / (s + 1)
        scale = np.sqrt(np.einsum("qii->qi", covariance)).clip(1e-300)
        value, axes = np.linalg.eigh(covariance / (scale[:, :, None] * scale[:, None, :]))
        white = np.einsum("qsi,qip->qsp", whole / scale[:, None], axes) / np.sqrt(value.clip(1e-9))[:, None]
        point = np.random.default_rng([_SEED, 2, seed]).standard_normal((q, 1, d))
        away = ((white - point) ** 2).sum(-1)
        return even((away[:, 1:] < away[:, :1]).mean(1), self.worth, 2)
