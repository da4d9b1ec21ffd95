"""Seeds of replicates: one seed becomes n, and the first n of 2n are the n."""

import numpy as np


def replicates(seed: int, n: int) -> tuple[int, ...]:
    """n different seeds keyed from `seed`; the first is `seed` itself, so one replicate is the run a user knows.

    >>> replicates(7, 3)[:2] == replicates(7, 2)
    True
    """
    return tuple(replicate(seed, i) for i in range(n))


def replicate(seed: int, i: int) -> int:
    """The seed of replicate i: `seed` itself for i = 0."""
    return int(np.random.SeedSequence([seed, i]).generate_state(1)[0]) if i else seed
