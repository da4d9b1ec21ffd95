"""Tests of an estimator's error bars by its repeats: do intervals hold the truth, are standard errors the scatter?"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from scipy import stats

from emulate import registry
from emulate.contracts import Estimate, Finding, Gradient
from emulate.errors import InputError
from emulate.estimation import choose
from emulate.replication import lift
from emulate.seeds import replicate

CHANCE = 1e-3  # that a test fails where all is well
Estimator = Gradient | Mapping[str, Any] | str


def coverage_test(method: Estimator, f: Any, theta: Any, truth: Any, repeats: int = 200, n: int = 1000, *, seed: int = 0,
                  level: float = 0.95) -> Finding:  # fmt: skip
    """Whether confidence intervals of a gradient hold the truth as often as they say: the value is the share that does.

    Over `repeats` estimates of n replicates, each under a seed of its own, of the element of the gradient that is farthest
    from `level`. The bound is the binomial interval that an honest estimator leaves with a chance of 0.1 % in any element.
    Above it no interval of an exact or possibly biased method is blamed: those are wide on purpose.

    method: a `Gradient`, or the name or settings of one: "score", {"use": "score", "baseline": "mean"}; "auto" chooses once.
    truth: dE[y]/dtheta `[m, d]`, or what broadcasts to it.
    """
    found = _repeated(method, f, theta, repeats, n, seed)
    low, high = (torch.stack(of) for of in zip(*(e.interval(level) for e in found)))
    truth = torch.as_tensor(truth, dtype=torch.float64).broadcast_to(low.shape[1:])
    slack = 1e-12 * truth.abs()
    held = ((low - slack <= truth) & (truth <= high + slack)).sum(0).double().flatten()
    wide = any(bool((e.bias_bound != 0).any() or (e.standard_error == 0).any()) for e in found)
    return covered("coverage", held.numpy(), repeats, level, wide=wide)


def covered(name: str, held: np.ndarray, repeats: int, level: float, *, wide: bool = False) -> Finding:
    """The finding on how many of `repeats` intervals held the truth, `held` for each element."""
    tail = CHANCE / (2 * len(held))
    low, high = (float(stats.binom.ppf(q, repeats, level)) / repeats for q in (tail, 1 - tail))
    k = int(held[np.argmax(np.abs(held - level * repeats))])
    a, b = stats.binomtest(k, repeats).proportion_ci(0.95, method="exact")
    return Finding(name, k / repeats, low, None if wide else high,
                   f"{k} of {repeats} intervals of {100 * level:g} % hold the truth, {k / repeats:.3f} (with 95 % between "
                   f"{a:.3f} and {b:.3f}), in the worst of {len(held)} elements.")  # fmt: skip


def variance_test(
    method: Estimator, f: Any, theta: Any, repeats: int = 200, n: int = 1000, *, seed: int = 0
) -> Finding:
    """Whether the standard error that a method reports is the scatter of its repeats: the value is the ratio of both.

    The bound is that of chi-square with the degrees of freedom of the scatter of `repeats` estimates, fewer by what the
    reported variances scatter themselves, at a chance of 0.1 % in any element; the value is that of the worst element.
    """
    found = _repeated(method, f, theta, repeats, n, seed)
    slope, error = (
        torch.stack([getattr(e, of) for e in found]).flatten(1).numpy() for of in ("gradient", "standard_error")
    )
    return scattered("variance", slope, error)


def scattered(name: str, slope: np.ndarray, error: np.ndarray, *, wide: bool = False) -> Finding:
    """The finding on independent estimates `[r, k]` of the same k numbers and their reported standard errors; `wide` are
    those that hold more than the scatter on purpose, and are only blamed where they hold less."""
    r, k = slope.shape
    reported, scatter = (error**2).mean(0), slope.var(0, ddof=1)
    rounding = (1e-12 * np.abs(slope).max(0)) ** 2
    exact = (reported <= rounding) & (scatter <= rounding)
    ratio = np.where(exact, 1.0, np.sqrt(reported / np.maximum(scatter, np.finfo(float).tiny)))
    own = np.where(exact, 0.0, (error**2).var(0, ddof=1) / np.maximum(reported**2, np.finfo(float).tiny))
    dof = 2 / (2 / (r - 1) + own / r)
    tail = CHANCE / (2 * k)
    low, high = (np.sqrt(dof / stats.chi2.ppf(q, dof)) for q in (1 - tail, tail))
    away = np.log(np.maximum(ratio, 1e-300)) / np.log(high)
    off = np.where(np.isfinite(ratio), -away if wide else np.abs(away), np.inf)
    i = int(np.argmax(off))
    finding = Finding(name, float(ratio[i]), float(low[i]), None if wide else float(high[i]), "")
    word = "hold" if wide and finding.passed else "must hold" if wide else "are" if finding.passed else "must be"
    return replace(finding, sentence=f"Reported standard errors {word} the scatter of {r} repeats: {ratio[i]:.3f} of it in "
                   f"the worst of {k} elements.")  # fmt: skip


def _repeated(method: Estimator, f: Any, theta: Any, repeats: int, n: int, seed: int) -> list[Estimate]:
    if repeats < 20:
        raise InputError(f"repeats must be 20 or more, or nothing can be said of a share of them. Got {repeats}.")
    program, theta = lift(f), torch.as_tensor(theta, dtype=torch.float64)
    if method == "auto":
        entry = choose(program, theta, seed=seed, n=n).method
    else:
        entry = method if isinstance(method, Gradient) else registry.build("gradients", method)
    return [entry.estimate(program, theta, seed=replicate(seed, i), n=n) for i in range(repeats)]
