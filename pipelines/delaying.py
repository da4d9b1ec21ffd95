"""Chains in the true posterior, on request: delayed acceptance with the campaign's true runs, a step of all chains at a time."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from emulate.contracts import Draws, Weighted
from emulate.delayed import delayed_acceptance
from emulate.posterior import Posterior
from pipelines.terminal import count, duration
from pipelines.workbench import Workbench

CHAINS = 16


@dataclass(frozen=True)
class Delayed:
    """Draws of the true posterior: theta `[chains, steps, d]`, what the sampler says, and how many runs were asked for."""

    theta: Tensor
    made: Draws
    runs: int


def most_runs(steps: int) -> int:
    """The true runs of so many steps, beside those at draws of the posterior where the chains start."""
    return CHAINS * steps


def delayed_chains(bench: Workbench, posterior: Posterior, weighted: Weighted,
                   log_weight: Callable[[Tensor, str], Tensor]) -> Delayed | None:  # fmt: skip
    """`check.delayed_acceptance` steps of chains that start at draws of the surrogate posterior whose true runs are there; None
    where none are asked for. Every run is stored, so that a chain that was cut off goes on, and a longer one adds its steps."""
    steps, seen = bench.study.check.delayed_acceptance, set()
    able = weighted.log_weight.isfinite().nonzero().flatten()
    if not steps or not len(able):
        return None
    first = able[torch.linspace(0, len(able) - 1, CHAINS).round().long()]
    start = weighted.theta[first]
    _say(bench, start, steps)
    done = 0

    def weigh(x: Tensor) -> Tensor:
        nonlocal done
        theta = posterior.theta(x).detach()
        seen.update(map(tuple, theta.tolist()))
        done += 1
        return log_weight(theta, f"delayed acceptance, step {done} of {steps}")

    known, pool = (posterior.x(start), weighted.log_weight[first]), posterior.x(weighted.draws)
    made = delayed_acceptance(posterior.log_density, weigh, known, pool, steps, seed=bench.seed("check/delayed"))
    runs = len(seen)
    rhat, ess = float(made.rhat.max()), float(made.ess.min())
    far, near = (made.diagnostics[k] for k in ("accepted_far", "accepted_near"))
    bench.note(f"delayed acceptance: {runs} true runs, R-hat {rhat:.3f}, {ess:.0f} effective draws; accepted {far:.0%} of the "
               f"draws and {near:.0%} of the short walks of the surrogate posterior")  # fmt: skip
    if not rhat <= 1.1:
        bench.terminal.warn(f"the chains of delayed acceptance have not mixed: R-hat is {rhat:.3f} and should be at most 1.1. "
                            "Raise check.delayed_acceptance; the runs that are made stay.")  # fmt: skip
    return Delayed(posterior.theta(made.x).detach(), made, runs)


def _say(bench: Workbench, start: Tensor, steps: int) -> None:
    """What is to come, before it comes: runs that earlier chains made are not made again."""
    seconds, cluster = bench.runs(start.numpy()).seconds, bench.study.cluster
    workers = 1 if cluster.use == "serial" else min(CHAINS, cluster.workers)
    each = float(np.nanmedian(seconds)) if np.isfinite(seconds).any() else float("nan")
    wall = -(-CHAINS // workers) * steps * each
    time = f", about {duration(wall)} on {count(workers, 'worker')}" if np.isfinite(wall) else ""
    bench.note(f"delayed acceptance: {steps} steps of {CHAINS} chains, up to {most_runs(steps)} true runs{time}")
