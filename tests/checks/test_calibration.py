"""The calibration check against scipy's tests, double loops, and emulators that are off in one known way."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import binom, kstest, norm

from emulate.checks.calibration import Calibration
from emulate.checks.coverage import Coverage
from emulate.contracts import Evidence
from emulate.distributions import Gaussian
from emulate.runs import Field, Outputs, Runs
from emulate.space import Parameter, Space, Uniform
from tests.checks.stand_ins import STAND_INS, StandIn, held_out

M = 6


def _space(d: int) -> Space:
    return Space(tuple(Parameter(n, Uniform(0.0, 1.0)) for n in "abcdef"[:d]))


class Wide:
    """N(0, sd^2) for each of M outputs, of which `rank` directions are independent; the truth is N(0, true(theta)^2)."""

    outputs = Outputs(tuple(Field(f"y{j}") for j in range(M)))

    def __init__(self, d: int, sd: float = 1.0, rank: int = 2, bias: float = 0.0):
        self.space, self.sd, self.bias = _space(d), sd, bias
        root = np.random.default_rng(9).standard_normal((rank, M))
        self.root = torch.as_tensor(root / np.linalg.norm(root, axis=0))

    def predict(self, theta):
        zero = torch.zeros(len(theta), M, dtype=torch.float64)
        spread = torch.full((len(theta), len(self.root)), self.sd**2, dtype=torch.float64)
        return Gaussian(zero, spread, self.root, zero)

    def evidence(self, n: int, *, seed: int = 0, true=lambda u: 1.0) -> Evidence:
        rng = np.random.default_rng(seed)
        u = rng.random((n, self.space.d))
        y = rng.standard_normal((n, len(self.root))) @ self.root.numpy() * np.broadcast_to(true(u), (n,))[:, None]
        return Evidence(self, Runs.of(self.space, self.outputs, u, y + self.bias))


def _found(material: Evidence, **settings) -> dict:
    return {f.name.removeprefix("calibration."): f for f in Calibration(**settings).find(material)}


def _failed(material: Evidence) -> set[str]:
    return {name for name, f in _found(material).items() if not f.passed and name in ("narrow", "wide", "region")}


@pytest.mark.parametrize("n", [20, 80])
def test_tells_honest_shy_and_boastful_apart(n):
    verdicts = {
        kind: _failed(Evidence(STAND_INS[kind], held_out(n))) for kind in ("honest", "shy", "boastful", "biased")
    }
    assert verdicts == {
        "honest": set(),
        "shy": {"wide"},
        "boastful": {"narrow", "region"},
        "biased": {"narrow", "region"},
    }


def test_only_what_is_too_narrow_blocks():
    found = _found(Evidence(STAND_INS["honest"], held_out()))
    assert {name for name, f in found.items() if f.blocking} == {"narrow", "region"}
    assert list(found) == ["narrow", "wide", "region", "crps", "sharpness"]


def _boastful_in_a_corner(n: int, seed: int) -> Evidence:
    """Errors three times as large in one quarter: 1.5 is stated and holds 92 % of all outputs, 67 % of that quarter's."""
    return Wide(3, sd=1.5).evidence(n, seed=seed, true=lambda u: np.where((u[:, 0] > 0.5) & (u[:, 2] < 0.5), 3.0, 1.0))


def test_honest_on_average_and_boastful_in_one_corner_is_found_there():
    material = _boastful_in_a_corner(300, seed=1)
    assert all(f.passed for f in Coverage().find(material) if f.blocking)
    found = _found(material)
    assert found["narrow"].passed
    assert not found["region"].passed
    assert "the quarter of high a and low c keeps its promise least" in found["region"].sentence
    assert found["region"].sentence.endswith(" The error bars are too narrow there, or the mean is off.")


def test_the_corner_is_found_more_often_with_more_runs():
    """2 Phi(1.96 1.4 / 3) - 1 = 0.64 in a quarter of n = 40, 80, 200 runs: 10, 20 and 50 that tell."""
    share = [
        np.mean(["region" in _failed(_boastful_in_a_corner(n, seed)) for seed in range(20)]) for n in (40, 80, 200)
    ]
    assert share[0] <= share[1] <= share[2]
    assert share[2] > 0.8


@pytest.mark.parametrize(("n", "rank", "d"), [(5, 1, 1), (20, 1, 2), (20, 4, 3), (40, 1, 6)])
def test_an_honest_emulator_is_hardly_ever_failed_however_few_the_runs(n, rank, d):
    """150 sets; at 0.5 % for each of two blocking findings, more than binom(150, 0.01) allows has probability 1e-3."""
    emulator = Wide(d, rank=rank)
    bad = sum(bool({"narrow", "region"} & _failed(emulator.evidence(n, seed=s))) for s in range(150))
    assert bad <= binom.ppf(0.999, 150, 0.01)


@pytest.mark.parametrize("sd", [0.5, 0.9, 1.0, 1.6])
def test_the_distances_are_those_of_the_one_sided_kolmogorov_test(sd):
    material = Wide(2, sd, rank=1).evidence(60)
    found = _found(material)
    r = np.abs(2 * norm.cdf(material.held_out.y / sd) - 1).ravel()
    assert found["narrow"].value == pytest.approx(kstest(r, "uniform", alternative="less").statistic, abs=1e-12)
    assert found["wide"].value == pytest.approx(kstest(r, "uniform", alternative="greater").statistic, abs=1e-12)


@pytest.mark.parametrize("n", [20, 40, 2000])
def test_the_bound_without_tolerance_is_where_the_test_has_its_level(n):
    bound = Calibration(tolerance=0.0).largest(n)
    x = np.arange(1, n + 1) / n - bound  # a sample that lies exactly `bound` to one side
    x = x.clip(0, 1)
    assert kstest(x, "uniform", alternative="greater").pvalue == pytest.approx(Calibration().chance, rel=1e-3)
    assert Calibration().largest(n) == pytest.approx(np.hypot(0.1, bound))


def test_long_tails_are_right_at_95_percent_and_too_wide_in_the_middle():
    """Errors of ten scales: the advice is given, nothing blocks."""
    material = Wide(1, sd=3.2, rank=1).evidence(400, true=lambda u: 10 ** (2 * u[:, 0] - 1) * 0.5)
    assert all(f.passed for f in Coverage().find(material) if f.blocking)
    wide = _found(material)["wide"]
    assert not wide.passed
    assert wide.sentence.endswith("The error bars are too wide for most outputs.")


def test_the_skill_is_that_of_a_double_loop():
    material = Wide(2, rank=1).evidence(15)
    y = material.held_out.y
    z = y  # mean 0, sd 1
    ours = z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - 1 / np.sqrt(np.pi)
    pairs = np.abs(y[:, None] - y[None]).sum((0, 1)) / (15 * 14) / 2
    ratio = (ours / pairs).mean(1)
    found = _found(material)["crps"]
    assert found.value == pytest.approx(1 - ratio.mean(), rel=1e-10)
    stated = [float(x) for x in re.search(r"The CRPS is ([\d.]+) % \+- ([\d.]+) %", found.sentence).groups()]
    assert stated == pytest.approx([100 * ratio.mean(), 100 * ratio.std(ddof=1) / 15**0.5], rel=0.005)


def test_sharpness_is_the_ratio_of_the_two_spreads():
    material = Wide(2, sd=0.25).evidence(50)
    expected = (0.25 / material.held_out.y.std(0, ddof=1)).mean()
    assert _found(material)["sharpness"].value == pytest.approx(expected, rel=1e-10)


def test_the_baseline_is_named_and_changes_no_value():
    alone = Evidence(STAND_INS["honest"], held_out())
    both = replace(alone, baseline=StandIn(error=0.01))
    for before, after in zip(Calibration().find(alone), Calibration().find(both), strict=True):
        assert after.value == before.value
        assert after.sentence.startswith(before.sentence)
    assert re.search(r"That of the baseline emulator is 1\.\d+ %\.$", _found(both)["crps"].sentence)


def test_few_runs_and_broken_predictions_are_not_judged():
    few = _found(Evidence(STAND_INS["honest"], held_out(4)))
    broken = _found(Evidence(StandIn(broken=True), held_out()))
    for found, said in ((few, "Cannot say: 4 held-out runs finished, and the check needs at least 5."),
                        (broken, "Cannot say: the emulator's prediction is not finite at 1 of 80 held-out runs.")):  # fmt: skip
        assert {f.sentence for f in found.values()} == {said}
        assert not any(f.passed for f in found.values())
    none = Runs.of(
        *(getattr(held_out(), x) for x in ("space", "outputs")), np.full((3, 3), 0.3), np.full((3, 9), np.nan)
    )
    assert not any(f.passed for f in Calibration().find(Evidence(STAND_INS["honest"], none)))


def test_an_emulator_that_is_exact_to_rounding_has_nothing_to_calibrate():
    for stated, passes in ((1e3, True), (1e9, False)):
        found = _found(Evidence(StandIn(error=1e-12, stated=stated), held_out()))
        assert found["narrow"].passed
        assert found["region"].passed
        assert found["wide"].passed == passes


def test_outputs_that_are_exact_or_constant_are_left_out_of_the_others():
    material = Wide(2, rank=1).evidence(40)
    y = material.held_out.y.copy()
    y[:, 1::2] = 7.0

    class Half(Wide):
        def predict(self, theta):
            whole = super().predict(theta)
            odd = torch.arange(M) % 2 == 1
            return Gaussian(
                torch.where(odd, 7.0, whole.loc), whole.spread, torch.where(odd, 0.0, self.root), whole.diagonal
            )

    runs = Runs.of(material.held_out.space, Wide.outputs, material.held_out.theta, y)
    half = _found(Evidence(Half(2, rank=1), runs))
    for name, f in _found(material).items():  # rank 1: every output has the same PIT but for its sign
        assert half[name].value == pytest.approx(f.value, rel=1e-6)


def test_held_out_runs_that_failed_are_counted_and_change_nothing():
    whole = Wide(2).evidence(30)
    runs = whole.held_out
    y = np.vstack([runs.y, np.full((2, M), np.nan)])
    more = Runs.of(runs.space, runs.outputs, np.vstack([runs.theta, [[0.1, 0.1], [0.2, 0.2]]]), y)
    for before, after in zip(Calibration().find(whole), Calibration().find(replace(whole, held_out=more)), strict=True):
        assert after.value == before.value
        failed = " 2 held-out runs failed and had nothing to judge." if before.name.endswith("narrow") else ""
        assert after.sentence == before.sentence + failed


def test_one_output_whose_error_is_always_small_says_so():
    found = _found(Wide(1, sd=50.0).evidence(30))
    assert found["narrow"].sentence.startswith("No central interval holds fewer of the outputs of 30 held-out runs than it "
                                               "promises.")  # fmt: skip
    assert not found["sharpness"].passed
    assert not found["crps"].passed
