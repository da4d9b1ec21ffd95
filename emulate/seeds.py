"""Seeds of replicates: one seed becomes n, and the first n of 2n are the n."""

import numpy as np


def replicates(seed: int, n: int) -> tuple[int, ...]:
    """n different seeds keyed from `seed`; the first is `seed` itself, so one replicate is the run a user knows.

    >>> replicates(7, 3)[:2] == replicates(7, 2)
    True
    """
    keyed = (int(np.random.SeedSequence([seed, i]).generate_state(1)[0]) for i in range(1, n))
    return (seed, *keyed)
