"""Coverage against the error function, the chi-square law and a brute bootstrap."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from emulate.checks.coverage import Coverage
from emulate.contracts import Evidence
from emulate.runs import Field, Outputs, Runs
from emulate.space import Parameter, Space, Uniform
from tests.checks.stand_ins import STAND_INS, Prediction, StandIn, held_out

SPACE = Space((Parameter("a", Uniform(0.0, 1.0)),))
N, M = 1500, 6


class Linear:
    """Mean 0, covariance c^2 root root^T; the truth is drawn from root root^T."""

    space, outputs = SPACE, Outputs(tuple(Field(f"y{j}") for j in range(M)))

    def __init__(self, root: np.ndarray, c: float = 1.0):
        self.covariance = torch.as_tensor(c**2 * root @ root.T)

    def predict(self, theta):
        return Prediction(torch.zeros(len(theta), M, dtype=torch.float64), self.covariance.expand(len(theta), M, M))


def _material(rank: int, c: float, *, n: int = N, seed: int = 0) -> Evidence:
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((M, rank)) * 10.0 ** np.arange(M)[:, None]  # outputs of very different size
    y = rng.standard_normal((n, rank)) @ root.T
    emulator = Linear(root, c)
    return Evidence(emulator, Runs.of(SPACE, emulator.outputs, rng.random((n, 1)), y))


@pytest.mark.parametrize("c", [0.3, 0.8, 1.0, 1.5])
def test_shares_follow_the_error_function_and_the_chi_square_law(c):
    from scipy.stats import chi2

    interval, _, joint = Coverage().find(_material(M, c))
    expected = math.erf(1.959963984540054 * c / math.sqrt(2))  # tolerance below: runs, not outputs, are independent
    assert abs(interval.value - expected) < 4 * math.sqrt(expected * (1 - expected) / N)
    expected = chi2.cdf(chi2.ppf(0.95, M) * c**2, M)
    assert abs(joint.value - expected) < 4 * math.sqrt(expected * (1 - expected) / N)


def test_a_covariance_of_low_rank_is_judged_where_it_has_variance():
    *_, joint = Coverage().find(_material(2, 1.0))
    assert abs(joint.value - 0.95) < 4 * math.sqrt(0.05 * 0.95 / N)
    size = float(re.search(r"per degree of freedom is ([\d.]+)", joint.sentence)[1])
    assert abs(size - 1) < 4 * math.sqrt(2 / (2 * N)) + 0.005  # mean of N draws of chi2_2 / 2, as printed


def test_the_standard_error_is_the_bootstrap_over_runs():
    material = _material(2, 1.0, n=60, seed=3)
    interval, *_ = Coverage().find(material)
    stated = float(re.search(r"\+- ([\d.]+) %", interval.sentence)[1]) / 100
    sd = material.emulator.covariance.diagonal().sqrt().numpy()
    share = (np.abs(material.held_out.y) <= 1.959963984540054 * sd).mean(1)
    rng = np.random.default_rng(0)
    brute = share[rng.integers(0, 60, (20000, 60))].mean(1).std()
    assert stated == pytest.approx(brute, rel=0.03)  # 20000 replicates: 0.5 %, and three printed digits


def test_tells_shy_from_boastful():
    shy, *_ = Coverage().find(Evidence(STAND_INS["shy"], held_out()))
    boastful, *_ = Coverage().find(Evidence(STAND_INS["boastful"], held_out()))
    assert shy.value > 0.99
    assert shy.sentence.endswith("The error bars are too wide.")
    assert boastful.value < 0.90
    assert boastful.sentence.endswith("The error bars are too narrow, or the mean is off.")


def test_a_stated_variance_of_zero_never_covers_a_wrong_mean():
    interval, *_ = Coverage().find(_material(M, 0.0, n=20))
    assert interval.value == 0
    assert "the errors are infinite times the stated standard deviations" in interval.sentence


def test_an_emulator_that_is_exact_to_rounding_has_nothing_to_calibrate():
    """Error bars of 1e-9 around errors of 1e-12 are as good as none; of 1e-3 they are not."""
    runs = held_out()
    for stated, passes in ((1e3, True), (1e9, False)):
        found = Coverage().find(Evidence(StandIn(error=1e-12, stated=stated), runs))
        assert all(f.passed for f in found) == passes
    good = Coverage().find(Evidence(StandIn(error=1e-12, stated=1e3), runs))[0]
    assert good.sentence == ("Nothing to calibrate: errors and error bars at 80 held-out runs are all below 1e-06 "
                             "standard deviations of their field.")  # fmt: skip


def test_outputs_that_are_exact_do_not_water_down_the_others():
    """Half of the outputs without error and error bar: the share is that of the other half."""
    material = _material(M, 1.0, n=100)
    root = torch.diag(torch.tensor([1.0, 0, 1, 0, 1, 0], dtype=torch.float64)).numpy()
    y = np.random.default_rng(0).standard_normal((100, M)) @ root
    runs = Runs.of(SPACE, material.held_out.outputs, material.held_out.theta, y)
    interval, *_ = Coverage().find(Evidence(Linear(root, 1.0), runs))
    assert interval.value == pytest.approx((np.abs(y[:, ::2]) <= 1.96).mean())


def test_held_out_runs_that_failed_are_counted_and_change_no_share():
    whole = _material(M, 1.0, n=60)
    runs = whole.held_out
    y = np.vstack([runs.y, np.full((2, M), np.nan)])
    more = Runs.of(SPACE, runs.outputs, np.vstack([runs.theta, [[0.1], [0.2]]]), y)
    for before, found in zip(Coverage().find(whole), Coverage().find(replace(whole, held_out=more)), strict=True):
        assert found.value == before.value
        more = "" if found.name == "coverage.size" else " 2 held-out runs failed and had nothing to judge."
        assert found.sentence == before.sentence + more


def test_a_share_above_the_bound_is_told_by_the_errors_where_runs_are_few():
    narrow, *_ = Coverage().find(_material(M, 0.1, n=20))
    assert not narrow.passed
    assert narrow.sentence.endswith(" The error bars are too narrow, or the mean is off.")
    interval, size, _ = Coverage().find(_material(M, 2.5, n=20))
    assert interval.passed
    assert interval.sentence.endswith(" The error bars are too wide.")
    assert not size.passed
    assert size.blocking
    assert re.fullmatch(r"Errors at 20 held-out runs are 0\.\d+ times the stated standard deviations \(root mean square\); an "
                        r"honest emulator gives less than 0\.61 in at most 0\.5 % of such sets\. The error bars are too wide\.",
                        size.sentence)  # fmt: skip
    interval, size, _ = Coverage().find(_material(1, 1.0, n=20, seed=6))
    assert interval.value == 1
    assert interval.passed
    assert size.passed
    assert interval.sentence.endswith(" That is more than 99 %, but no more than chance may give of 20 runs.")
    assert Coverage().find(_material(M, 2.5, n=400))[0].sentence.endswith(" The error bars are too wide.")


@pytest.mark.parametrize("n", [20, 40, 100, 400])
def test_the_upper_bounds_are_those_of_the_binomial_and_the_chi_square_law(n):
    """The smallest share and size that pass, by brute draws of runs whose outputs err as one."""
    check, rng = Coverage(), np.random.default_rng(n)
    z = rng.standard_normal((20000, n))
    share, size = (np.abs(z) <= 1.959963984540054).mean(1), np.sqrt((z**2).mean(1))
    for alarms in ((share > check.widest(n)).mean(), (size < check.least(n)).mean()):
        assert alarms < check.chance + 3 * math.sqrt(check.chance / 20000)
    wide = (share > check.widest(n) - 1e-9) | (size < check.least(n) + 1e-9)
    assert (n < 104) == (check.widest(n) == 1)  # 0.95^n > chance
    assert wide.mean() > 0.002 or n > 100, "no looser than it says"


@pytest.mark.parametrize("n", [5, 20, 40, 100, 400])
def test_the_lower_bound_is_that_of_the_binomial_law(n):
    """The smallest share that passes, by brute draws of runs whose outputs err as one; with many runs the bound itself."""
    check, rng = Coverage(), np.random.default_rng(n)
    share = (rng.random((40000, n)) < 0.95).mean(1)
    alarms = (share < check.narrowest(n)).mean()
    assert alarms < check.chance + 3 * math.sqrt(check.chance / 40000)
    one_more = (share < check.narrowest(n) + 1 / n).mean()
    assert one_more > check.chance or check.narrowest(n) == check.low, "no looser than it says"
    assert (check.narrowest(n) == check.low) == (n >= 200)


def test_a_share_below_the_bound_that_chance_may_give_passes_and_says_so():
    found = [Coverage().find(_material(1, 1.0, n=20, seed=i))[0] for i in range(100)]
    low = [f for f in found if f.value < 0.9]
    assert 3 <= len(low) <= 15  # 7.5 % of sets of 20 runs
    assert all(f.passed for f in low)
    assert low[0].sentence.endswith(" That is less than 90 %, but no less than chance may give of 20 runs.")


@pytest.mark.parametrize(
    ("n", "m", "c"), [(20, 1, 1.0), (40, 1, 1.0), (40, 6, 1.0), (40, 1, 1.6), (40, 6, 1.6), (20, 1, 2.0)]
)
def test_an_honest_emulator_is_seldom_called_too_wide_and_a_shy_one_nearly_always(n, m, c):
    """Of 200 sets of held-out runs of one output, or of six that err half together; c: stated over true errors."""
    rng, root = np.random.default_rng(n + m), np.eye(M)[:, :m] + 0.5 * np.ones((M, m))
    root = root[:m] if m == M else root[:1]
    outputs, alarms = Outputs(tuple(Field(f"y{j}") for j in range(len(root)))), 0
    emulator = Linear.__new__(Linear)
    emulator.outputs, emulator.covariance = outputs, torch.as_tensor(c**2 * root @ root.T)
    emulator.predict = lambda t: Prediction(torch.zeros(len(t), len(root), dtype=torch.float64),
                                            emulator.covariance.expand(len(t), len(root), len(root)))  # fmt: skip
    for _ in range(200):
        y = rng.standard_normal((n, m)) @ root.T
        interval, size, _ = Coverage().find(Evidence(emulator, Runs.of(SPACE, outputs, rng.random((n, 1)), y)))
        alarms += not interval.passed or not size.passed
    if c == 1:
        assert alarms <= 10, "more than 1 in 20"
    else:
        assert alarms >= 160
