"""Bins that stayed empty in every training run are told of before an emulator calls them constants."""

from types import SimpleNamespace

import numpy as np
import pytest

from emulate import Field, Outputs, Parameter, Runs, Space, Uniform
from pipelines import unvaried

SPACE = Space((Parameter("a", Uniform(0.0, 1.0)),))
BINS = Outputs((Field("n", "", False, "x", (1.0, 2.0, 3.0)), Field("total")))


def runs(y, *, stochastic=True) -> Runs:
    return Runs.of(SPACE, BINS, np.linspace(0, 1, len(y))[:, None], np.array(y), stochastic=stochastic)


COUNTS = [[3.0, 1.0, 0.0, 4.0], [2.0, 0.0, 0.0, 2.0], [5.0, 1.0, 0.0, 6.0]]


def test_an_empty_bin_is_told_with_what_to_do():
    assert unvaried.sentence(runs(COUNTS)) == (
        "n at x = 3 is the same in all 3 training runs, and the emulators will say that it always is: they say nothing of the "
        "parameters there, and scores and likelihoods that rest on the noise of runs leave that out. Make more runs, or "
        "choose outputs that every run fills (of histograms: wider bins, or fewer of them)."
    )
    assert unvaried.sentence(runs([[*c[:1], 0.0, *c[2:]] for c in COUNTS])).startswith(
        "n at x = 2 and 1 more of 4 outputs are the same in all 3 training runs, and the emulators will say that they "
        "always are:"
    )


@pytest.mark.parametrize(
    ("y", "stochastic"),
    [(COUNTS, False), (COUNTS[:1], True), ([[c[0], c[1], c[3], c[3]] for c in COUNTS], True)],
    ids=["what no chance varies may be constant", "one run", "every bin is filled"],
)
def test_nothing_is_said_where_nothing_is_amiss(y, stochastic):
    assert unvaried.sentence(runs(y, stochastic=stochastic)) == ""


def test_a_bin_that_is_seldom_filled_is_told_with_what_to_do():
    """Poisson numbers: P(0) of a mean of 0.5 is 0.61, of a mean of 10 it is 5e-5, however few the runs."""
    rng = np.random.default_rng(3)
    full, seldom = rng.poisson(10.0, (200, 3)), rng.poisson(0.5, (200, 1))
    y = np.hstack([full[:, :2], seldom, full[:, 2:]]).astype(float)
    zeros = int((seldom == 0).sum())
    assert unvaried.sparse(runs(y)) == (
        f"n at x = 3 is 0 in {zeros} of 200 training runs: the noise of so few counts is no Gaussian, as most emulators take it to "
        "be, and a posterior that rests on it comes out too narrow. Choose outputs that every run fills well, by ten counts "
        "or more (of histograms: wider bins, or fewer of them)."
    )
    twice = np.hstack([seldom, y[:, 1:]]).astype(float)
    assert "(1 more of 4 outputs are alike)" in unvaried.sparse(runs(twice))
    assert unvaried.sparse(runs(np.hstack([full, full[:, :1]]).astype(float))) == ""
    assert unvaried.sparse(runs(np.hstack([full, 0 * seldom]).astype(float))) == "", "that one is told as a constant"
    assert unvaried.sparse(runs(y, stochastic=False)) == ""
    assert unvaried.sparse(runs(rng.poisson(10.0, (8, 4)).astype(float))) == ""
    assert unvaried.sparse(runs(np.round(rng.normal(0.0, 1.0, (200, 4))))) == "", "numbers of either sign are no counts"


def test_a_failed_run_does_not_count():
    lost = [*COUNTS, [np.nan] * 4]
    assert "in all 3 training runs" in unvaried.sentence(runs(lost))


def test_fewer_runs_than_outputs_are_told_where_their_noise_is_that_of_the_observation():
    """m + 1 runs are the least whose covariance of m outputs is not singular (Anderson 2003, theorem 3.1.4)."""
    four = [[1.0, 2.0, 3.0, 4.0], [2.0, 1.0, 4.0, 3.0], [5.0, 1.0, 0.5, 6.0], [7.0, 2.0, 9.0, 6.0]]
    five = [*four, [0.0, 1.0, 1.0, 2.0]]
    assert np.linalg.matrix_rank(np.cov(np.array(four).T)) < 4
    assert np.linalg.matrix_rank(np.cov(np.array(five).T)) == 4
    said: list[str] = []
    for adds_noise, infers, y in ((False, True, four), (False, True, five), (True, True, four), (False, False, four)):
        study = SimpleNamespace(infers=infers, infer=SimpleNamespace(likelihood=SimpleNamespace(adds_noise=adds_noise)))
        unvaried.tell(SimpleNamespace(study=study, terminal=SimpleNamespace(warn=said.append)), runs(y))
    assert said == [
        "4 training runs cannot tell how the noise of 4 outputs goes together, and the likelihood of the observation rests on "
        "that. Make more runs than outputs, better 8, or choose fewer outputs (of histograms: wider bins)."
    ]
