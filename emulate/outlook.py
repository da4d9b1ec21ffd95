"""Which points of a design are worth a run, by the runs so far: for a campaign that goes on because some failed."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from emulate.errors import InputError
from emulate.feasibility import Feasibility
from emulate.runs import Runs


class Next(NamedTuple):
    """The next points of a design, and those that were passed over on the way."""

    theta: np.ndarray  # [k, d], to run
    skipped: np.ndarray  # [s, d], left out
    probability: np.ndarray  # [s], that a run at each of those would have finished
    looked: int  # points of the design that are decided now, run or skipped


def worthwhile(sequence: Callable[[int], np.ndarray], looked: int, more: int, runs: Runs, *, least: float = 0.05,
               most: int, seed: int) -> Next:  # fmt: skip
    """The next `more` points of an extensible design at which a run finishes with a probability of at least `least`.

    `sequence(n)` gives the first n points theta `[n, d]` of the design, of which `looked` are decided; `most` is how
    many of it may be looked at. The runs so far say where failure is near certain: the same rows give the same bits in
    whatever order they came, so that a campaign that was interrupted takes the same points again. Where they know of no
    boundary nothing is left out, and near one little is, for there the next failures teach most.

    The points that stay are no longer a sample of the prior: whoever averages over them must say so.

    >>> from emulate.runs import Field, Outputs
    >>> from emulate.space import Parameter, Space, Uniform
    >>> x = np.linspace(0.025, 0.975, 40)[:, None]
    >>> runs = Runs.of(Space((Parameter("a", Uniform(0, 1)),)), Outputs((Field("y"),)), x, np.where(x < 0.5, x, np.nan))
    >>> new = np.array([0.1, 0.9, 0.2, 0.8, 0.3, 0.7])[:, None]
    >>> worthwhile(lambda n: new[:n], 0, 3, runs, most=6, seed=0).theta.ravel().tolist()
    [0.1, 0.2, 0.3]
    """
    if not 0 <= least < 1:
        raise InputError(f"least must be a probability of at least 0 and below 1. Got {least}; 0 leaves nothing out.")
    where = Feasibility.fit(runs.select(np.lexsort(runs.theta.T[::-1])), seed=seed)
    theta = sequence(min(looked, most))[:0]
    skipped, probability = theta, np.empty(0)
    while len(theta) < more and looked < most:
        size = min(looked + more - len(theta), most)
        fresh = sequence(size)[looked:]
        p = np.ones(len(fresh)) if where.classifier is None else where.probability(fresh).detach().numpy()
        theta, skipped = np.concatenate([theta, fresh[p >= least]]), np.concatenate([skipped, fresh[p < least]])
        probability, looked = np.concatenate([probability, p[p < least]]), size
    return Next(theta, skipped, probability, looked)
