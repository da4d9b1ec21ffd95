"""Seeds of replicates are different, stable, and continue each other."""

from hypothesis import given
from hypothesis import strategies as st

from emulate.seeds import replicates


@given(st.integers(0, 2**31), st.integers(1, 50), st.integers(0, 50))
def test_the_first_n_of_more_are_the_n(seed, n, more):
    seeds = replicates(seed, n + more)
    assert seeds[:n] == replicates(seed, n)
    assert seeds[0] == seed
    assert all(isinstance(s, int) and 0 <= s < 2**32 for s in seeds)


def test_two_seeds_share_no_replicate():
    seen = [s for seed in range(200) for s in replicates(seed, 50)]
    assert len(set(seen)) == len(seen)


def test_they_do_not_change_between_versions():
    """Stored derivatives depend on them. Source: np.random.SeedSequence([7, i]).generate_state(1), numpy 2.4."""
    assert replicates(7, 3) == (7, 369571992, 1009178997)
