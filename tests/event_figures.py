"""How far stand-ins for a Lund string are from it in what is seen of an event: what tests and benchmarks of them share."""

import numpy as np
import torch
from torch import Tensor

from emulate.event_flows import EventFlow
from emulate.histogram_gradients import along, from_scores, from_velocities
from emulate.histograms.hard import Hard
from emulate.histograms.soft import Soft
from emulate.simulators.lund import Lund

LUND = Lund(output="event")
LOW, HIGH = LUND.space.from_unit(torch.tensor([[0.0] * 3, [1.0] * 3], dtype=torch.float64))
HELD_OUT = LOW + (HIGH - LOW) * torch.rand((8, 3), generator=torch.Generator().manual_seed(5), dtype=torch.float64)
SHOWN = 20_000  # events of a comparison
ROWS = 20_000  # events whose paths are followed at once


def auc(left: np.ndarray, right: np.ndarray) -> float:
    """Area under the curve of gradient-boosted trees, on folds, that tell two samples apart; 0.5: nobody can."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import cross_val_predict

    x, y = np.concatenate((left, right)), np.repeat([0, 1], (len(left), len(right)))
    trees = HistGradientBoostingClassifier(max_iter=60, learning_rate=0.08, random_state=0)
    folds = np.random.default_rng(0).permutation(len(x))
    said = cross_val_predict(trees, x[folds], y[folds], cv=3, method="predict_proba")[:, 1]
    return roc_auc_score(y[folds], said)


def binned(y: Tensor) -> list[np.ndarray]:
    """The edges of each observable: one value of the number, fifteenths of all but the outermost 0.4 % of the others."""
    n = y[:, 0].numpy()
    ends = [np.quantile(y[:, j], (0.002, 0.998)) for j in range(1, y.shape[1])]
    return [np.arange(n.min() - 1, n.max() + 2, 2), *(np.linspace(*e, 16) for e in ends)]


def apart(left: Tensor, right: Tensor, edges: list[np.ndarray]) -> tuple[float, float, float]:
    """Of two samples of one size: AUC of the first 20,000; the largest Wasserstein-1 of an observable over its standard
    deviation, of the whole; chi2 per degree of freedom, the mean over all pairs of 20,000. Of 20,000 alone the last two are
    up to 0.025 and above 1.4 now and then where both are of one distribution."""
    far = (left.sort(0).values - right.sort(0).values).abs().mean(0) / right.std(0)
    pairs = [(a, b) for a, b in zip(left.split(SHOWN), right.split(SHOWN), strict=True) if len(a) == SHOWN]
    area = auc(*(x.numpy() for x in pairs[0]))
    return area, float(far.max()), float(np.mean([chi2(*pair, edges) for pair in pairs]))


def chi2(left: Tensor, right: Tensor, edges: list[np.ndarray]) -> float:
    """Per degree of freedom, in all bins that hold enough."""
    total, freedom = 0.0, 0
    for j, e in enumerate(edges):
        a, b = np.histogram(left[:, j], e)[0], np.histogram(right[:, j], e)[0]
        enough = a + b >= 20
        total += ((a - b)[enough] ** 2 / (a + b)[enough]).sum()
        freedom += enough.sum() - 1
    return total / freedom


def by_score(y: Tensor, score: Tensor, edges: list[np.ndarray]) -> tuple[Tensor, Tensor]:
    """d(share of a hard bin)/dtheta of all bins, theta in units of the box, and its standard error."""
    made = [from_scores(Hard(edges=tuple(e)), y[:, j], score) for j, e in enumerate(edges)]
    return tuple(torch.cat([getattr(g, name)[1:-1] for g in made]) / len(y) * (HIGH - LOW)
                 for name in ("gradient", "standard_error"))  # fmt: skip


def by_path(flow: EventFlow, theta: Tensor, n: int, edges: list[np.ndarray], seed: int) -> Tensor:
    """The same of soft bins, by the path of draws of a flow and the score of their number."""
    parts = [along(lambda t, i=i: flow.sample(t.expand(ROWS, 3), seed=seed + i), theta) for i in range(n // ROWS)]
    y, v = (torch.cat(c) for c in zip(*parts, strict=True))
    of_number = flow.number_score(y[:, 0], theta.expand(len(y), 3))
    slopes = [from_scores(Hard(edges=tuple(edges[0])), y[:, 0], of_number).gradient[1:-1]]
    for j, e in enumerate(edges[1:], 1):
        bins = Soft(edges=tuple(e), bandwidth=0.5 * (e[1] - e[0]))
        slope = from_velocities(bins, y[:, j], v[:, j]).gradient + from_scores(bins, y[:, j], of_number).gradient
        slopes.append(slope[1:-1])
    return torch.cat(slopes) / len(y) * (HIGH - LOW)


def error_of(found: Tensor, truth: Tensor) -> float:
    """Relative L2."""
    return float((found - truth).norm() / truth.norm())
