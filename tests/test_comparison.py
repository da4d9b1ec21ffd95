"""Emulators compared on folds: judged by scikit-learn, by closed forms, and by rivals of known faults."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import PredefinedSplit, cross_val_predict

from emulate.checks.gradient import Gradient
from emulate.comparison import Fold, Scores, choose, compare, deal, deal_runs, failed, leave_out
from emulate.contracts import Evidence, Jacobians
from emulate.emulator import fit
from emulate.emulators.polynomial import Polynomial
from emulate.errors import InputError
from emulate.runs import Field, Outputs, Runs
from emulate.space import Parameter, Space, Uniform

sys.path.append(str(Path(__file__).parent))  # where rivals.py lies
from rivals import Bent, Nested, Troubled

SPACE = Space((Parameter("a", Uniform(0, 1)), Parameter("b", Uniform(-1, 1))))


def table(n=60, *, noise=0.05, seed=0, jacobian=True):
    """y = 2 a - b + a b + noise: a polynomial of degree 2 has all of it but the noise."""
    rng = np.random.default_rng(seed)
    x = rng.random((n, 2)) * [1, 2] - [0, 1]
    y = 2 * x[:, :1] - x[:, 1:] + x[:, :1] * x[:, 1:] + noise * rng.standard_normal((n, 1))
    slopes = np.stack([2 + x[:, 1], -1 + x[:, 0]], -1)[:, None, :]
    return Runs.of(SPACE, Outputs((Field("y"),)), x, y, jacobian=slopes if jacobian else None)


def test_folds_are_a_permutation_and_nothing_else():
    fold = deal(23, 5, seed=3)
    assert sorted(np.bincount(fold)) == [4, 4, 5, 5, 5]
    assert (deal(23, 5, seed=3) == fold).all()
    assert not (deal(23, 5, seed=4) == fold).all()
    for folds in (1, 24):
        with pytest.raises(InputError, match=f"at most 23, the places where runs finished. Got {folds}."):
            deal(23, folds, seed=0)


def test_replicates_are_left_out_together():
    once = table(20)
    rows = np.repeat(np.arange(20), 3)
    thrice = Runs.of(SPACE, once.outputs, once.theta[rows], once.y[rows])
    assert (deal_runs(thrice, 4, seed=2).reshape(20, 3) == deal(20, 4, seed=2)[:, None]).all()
    assert (deal_runs(once, 4, seed=2) == deal(20, 4, seed=2)).all()
    with pytest.raises(InputError, match=r"at most 20, the places"):
        deal_runs(thrice, 21, seed=0)


def test_left_out_means_are_those_of_scikit_learn():
    """A line fitted by least squares on the same folds; the error is relative to the spread over all runs."""
    runs = table()
    fold = deal(len(runs), 5, seed=1)
    theirs = cross_val_predict(LinearRegression(), runs.theta, runs.y[:, 0], cv=PredefinedSplit(fold))
    error = np.abs(theirs - runs.y[:, 0]) / runs.y[:, 0].std(ddof=1)
    ours = compare({"line": Polynomial(degree=1)}, runs, folds=5, seed=1).scores["line"]
    for k in range(5):
        np.testing.assert_allclose(ours.folds[k].error, error[fold == k], rtol=1e-9)
    assert ours.median[0] == pytest.approx(np.median(error), rel=1e-9)
    each = [np.median(error[fold == k]) for k in range(5)]
    assert ours.median[1] == pytest.approx(np.std(each, ddof=1) / math.sqrt(5), rel=1e-9)


def test_the_log_score_is_the_density_of_a_normal():
    runs = table()
    out = deal(len(runs), 5, seed=0) == 2
    emulator = fit(Polynomial(), runs.select(~out), seed=0)
    p = emulator.predict(runs.theta[out])
    judged = norm.logpdf(runs.y[out, 0], p.mean[:, 0], p.variance[:, 0].sqrt())
    found = leave_out(Polynomial(), runs, out, seed=0)
    np.testing.assert_allclose(found.log_density, judged, rtol=1e-10)
    inside = np.abs(runs.y[out, 0] - p.mean[:, 0].numpy()) <= norm.ppf(0.975) * p.variance[:, 0].sqrt().numpy()
    assert (found.inside == inside).all()


def test_the_gradient_score_is_that_of_the_check():
    runs = table()
    out = np.arange(60) < 30
    emulator = fit(Polynomial(degree=1), runs.select(~out), seed=0)
    some = [runs.select(out).theta, runs.select(out).y, runs.select(out).jacobian, runs.select(out).jacobian_error]
    known = Jacobians(*map(torch.from_numpy, some))
    check = Gradient(error=1.0).find(Evidence(emulator, jacobians=known))[0]
    found = leave_out(Polynomial(degree=1), runs, out, seed=0)
    assert found.gradient.shape == (30, 2)
    assert np.median(found.gradient, 0).max() == pytest.approx(check.value, rel=1e-9)
    assert leave_out(Polynomial(), table(jacobian=False), out, seed=0).gradient is None


def test_a_boastful_and_a_shy_emulator_lose_to_the_honest_one():
    rivals = {"boastful": Bent(stated=1 / 4), "honest": Bent(), "shy": Bent(stated=4.0)}
    won = [compare(rivals, table(60, seed=s)).choice.name for s in range(10)]
    assert won == ["honest"] * 10
    scores = compare(rivals, table(60)).scores
    assert len({s.median for s in scores.values()}) == 1  # their means are the same
    gap, error = scores["shy"].behind(scores["honest"])
    assert abs(gap - (math.log(4) - (1 - 1 / 16) / 2)) < 4 * error  # of a normal with 4 times its sd, by closed form


def test_of_two_with_the_same_density_the_gradient_chooses():
    rivals = {"wrong": Bent(ripple=3e-4), "right": Bent()}
    for order in (list(rivals), list(rivals)[::-1]):
        choice = compare({n: rivals[n] for n in order}, table(60)).choice
        assert choice.name == "right"
        assert "are level, and its gradient is off by" in choice.sentence
    blind = compare(rivals, table(60, jacobian=False)).choice
    assert blind.sentence.endswith("The runs carry no Jacobians, so gradients had no say.")


def of(*densities, gradient=None):
    """Scores from the log density of each run of each fold, and the gradient's error."""
    bad = None if gradient is None else np.full((len(densities[0]), 1), gradient)
    return Scores.of([Fold(np.array(d, float), np.ones(len(d)), np.ones(len(d)), bad) for d in densities])


def test_one_run_that_is_impossible_does_not_make_an_emulator_level_with_the_best():
    """Its loss has an error bar as long as itself: D/5 +- D/5 where one fold of five lost D."""
    good = of([1, 1], [1, 1], [1, 1], [1, 1], [1, 1], gradient=0.5)
    odd = of([1, 1], [1, 1], [1, 1], [1, 1], [1, -1e6], gradient=0.1)
    gap, error = odd.behind(good)
    assert gap == pytest.approx(error)
    choice = choose({"odd": odd, "good": good})
    assert choice.name == "good"
    assert choice.sentence.endswith("The gradient of odd is better: off by 10 %, against 50 %.")


def test_what_failed_has_its_note_and_is_never_chosen():
    rivals = {"raises": Troubled(), "refuses": Troubled(kind="refuse"), "holes": Bent(missing=0.3), "fine": Polynomial(),
              "greedy": Polynomial(degree=6)}  # fmt: skip
    found = compare(rivals, table(30), folds=3)
    assert found.choice == choose({"fine": found.scores["fine"]})
    notes = {n: s.note for n, s in found.scores.items()}
    assert notes["fine"] == ""
    assert notes["raises"] == "failed on 3 of 3 folds: ZeroDivisionError: seven divided by nothing"
    assert notes["refuses"] == "failed on 3 of 3 folds: troubled: runs must be more. Got few."
    assert notes["holes"].startswith("its log density is not a finite number at ")
    assert notes["greedy"] == "needs 29 runs, and a fold leaves 20"
    frame = found.to_pandas()
    assert list(frame.index) == list(rivals)
    none = choose({n: s for n, s in found.scores.items() if n != "fine"})
    assert none.name == ""
    partly = compare({"partly": Troubled(below=21), "fine": Polynomial()}, table(31), folds=3)
    assert partly.choice.name == "fine"


def test_failed_runs_are_no_part_of_it_and_the_same_call_gives_the_same_bits():
    runs = table(40)
    y = runs.y.copy()
    y[::7] = np.nan
    holey = Runs.of(SPACE, runs.outputs, runs.theta, y)
    a, b = (compare({"p": Polynomial()}, holey).scores["p"] for _ in range(2))
    assert sum(len(f.error) for f in a.folds) == int(np.isfinite(y).sum())
    assert all((f.log_density == g.log_density).all() for f, g in zip(a.folds, b.folds, strict=True))


def test_a_fold_survives_json():
    import json

    fold = Fold(np.array([1.5, math.nan, -math.inf]), np.ones(3), np.zeros(3), np.array([[0.1, math.inf]] * 3), 2.0)
    again = Fold.from_dict(json.loads(json.dumps(fold.to_dict(), allow_nan=False)))
    for name in ("log_density", "error", "inside", "gradient"):
        np.testing.assert_array_equal(getattr(again, name), getattr(fold, name))
    assert Fold.from_dict(failed("why").to_dict()).failure == "why"


def test_error_bars_cover_the_truth():
    """The expected log score of a line on this noise is known to Monte Carlo; over 40 tables it lies within 3 error bars.

    Fits share runs, so that the bars are somewhat short; the test is that they are bars at all.
    """
    z = []
    fresh = table(20000, seed=99, jacobian=False)
    for s in range(40):
        runs = table(50, seed=s, jacobian=False)
        found = compare({"p": Polynomial()}, runs).scores["p"]
        emulator = fit(Polynomial(), runs.select(slice(0, 40)), seed=0)
        p = emulator.predict(fresh.theta)
        truth = norm.logpdf(fresh.y[:, 0], p.mean[:, 0], p.variance[:, 0].sqrt()).mean()
        z.append((found.log_score[0] - truth) / found.log_score[1])
    assert np.median(np.abs(z)) < 1.5
    assert abs(np.mean(z)) < 1.0


def test_a_left_out_run_has_no_cheaper_run_at_its_parameters_either():
    """Or fidelities that share their points would be judged by what no new point has."""
    runs = table(30)
    found = compare({"nested": Nested()}, runs, folds=3, fidelities={"cheap": table(30)})
    assert found.scores["nested"].note == ""
    other = compare({"nested": Nested()}, runs, folds=3, fidelities={"cheap": table(30, seed=1)})
    assert other.scores["nested"].note.startswith("failed on 3 of 3 folds: nested: cheaper runs must lie")


def test_wide_outputs_and_many_runs_are_judged_in_parts(monkeypatch):
    from emulate import comparison

    runs, out = table(60), np.arange(60) < 25
    whole = leave_out(Polynomial(), runs, out, seed=0)
    monkeypatch.setattr(comparison, "_NUMBERS", 16)
    parts = leave_out(Polynomial(), runs, out, seed=0)
    for name in ("log_density", "error", "inside", "gradient"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), rtol=1e-10)


def test_candidates_need_no_more_than_the_runs_there_are():
    from emulate.candidates import candidates

    for n, d in ((3, 1), (10, 3), (60, 4), (9000, 8)):
        made = candidates(n, d, jacobians=True, stochastic=True, fidelities={"coarse": 9})
        assert made
        assert all(r.minimum_runs(d) <= n for r in made.values())
    assert "gp" not in candidates(9000, 8)
    assert not candidates(1, 5)


def test_candidates_are_those_that_the_runs_can_teach():
    from emulate.candidates import candidates

    def more(**known) -> set[str]:
        return set(candidates(60, 4, **known)) - set(candidates(60, 4))

    assert more(jacobians=True) == {"gradient-gp"}
    assert more(stochastic=True) == {"noisy-gp", "flow"}
    assert more(fidelities={"coarse": 200, "same": 60}) == {"multifidelity-coarse"}
    assert candidates(60, 4, fidelities={"coarse": 5000})["multifidelity-coarse"].low.entry_name() == "svgp"
