"""check: true runs at posterior draws and recovery of held-out parameters -> how biased the final answer is."""

from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from emulate.contracts import Confirmation, Evidence, Recovery, Replicas, Softening, Weighted
from emulate.distributions import Exact
from emulate.emulator import Emulator
from emulate.feasibility import Feasibility
from emulate.posterior import Posterior
from emulate.recoveries import recover
from emulate.replicas import replicas
from pipelines import amortised_choice, files, hindsight, observations, registration
from pipelines.corrected import Corrected, correct
from pipelines.delaying import delayed_chains, most_runs
from pipelines.observations import Observation
from pipelines.softened import softening
from pipelines.stages.infer import surrogate
from pipelines.study import CONFIRMING
from pipelines.workbench import SETS, Workbench

SENTENCE = "hold the posterior against the true simulator's"
READS = ("design", "simulate", "train", "validate", "infer")
WRITES = ("check/findings.json", "check/evidence.safetensors")


def forecast(bench: Workbench) -> str:
    """What the stage does, with the true runs that chains in the true posterior may take."""
    runs = most_runs(bench.study.check.delayed_acceptance)
    return f"{SENTENCE}; up to {runs} true runs for its chains by delayed acceptance" if runs else SENTENCE


def run(bench: Workbench) -> str:
    study = bench.study
    if amortised_choice.method(study) == "npe":
        from pipelines import amortised

        return amortised.check(bench)
    emulator = amortised_choice.emulator(bench)
    observed = observations.load(bench)
    weighted = _weighted(bench, emulator, observed.data)
    recovery = _recovery(bench, emulator)
    confirmation = _confirmation(bench, emulator, observed.data, weighted.draws) if study.check.confirm else None
    sets = {which: bench.points(which) for which in SETS}
    draws = np.concatenate([t.numpy() for t in (weighted.theta, weighted.failed) if t is not None])
    known = bench.runs(sets | {"draws": draws})
    evidence = Evidence(emulator, bench.runs_of("held_out").finished(), weighted=weighted, recovery=recovery, truth=observed.truth,
                        feasibility=Feasibility.fit(known, seed=bench.seed("feasibility")), confirmation=confirmation,
                        replicas=_replicas(bench, emulator, observed.data, weighted.draws), likelihood=study.likelihood,
                        softening=_softening(bench, emulator, observed, weighted.draws))  # fmt: skip
    checks = [c for c in study.checks.values() if c.stage == "check"]
    findings = [f.to_dict() for c in checks for f in c.find(evidence)]
    bench.findings("check", {bench.champion: findings})
    stored = {f"weighted.{k}": v for k, v in vars(weighted).items() if v is not None}
    if recovery is not None:
        stored |= {f"recovery.{k}": v for k, v in vars(recovery).items() if v is not None}
    if confirmation is not None:
        stored |= {f"confirmation.{k}": v for k, v in vars(confirmation).items() if isinstance(v, Tensor)}
    if evidence.replicas is not None:
        stored |= {f"replicas.{k}": v for k, v in vars(evidence.replicas).items() if isinstance(v, Tensor)}
    files.write_tensors(bench.folder / "check" / "evidence.safetensors", stored)
    posterior = Posterior(
        study.space, surrogate(bench, emulator), study.likelihood, observed.data, hindsight.restriction(bench)
    )
    delayed = delayed_chains(bench, posterior, weighted, partial(_log_weight, bench, emulator, observed.data))
    corrected = correct(bench, emulator, weighted, confirmation, delayed)
    _figures(bench, weighted, recovery, observed.truth, corrected, evidence.replicas)
    registration.offer(bench, findings)
    said = [f"{len(recovery.rank)} recovered observations"] if recovery is not None else []
    if study.weighs:
        failed = study.check.importance_runs - int(weighted.log_weight.isfinite().sum())
        lost = f" ({failed} failed)" if failed else ""
        said.insert(0, f"{study.check.importance_runs} true runs at draws of the posterior{lost}")
    if study.recorded:
        said.append("no true run can weigh the posterior, for the runs are a table")
    if confirmation is not None:
        lost = f" ({confirmation.failed} failed)" if confirmation.failed else ""
        said.insert(0, f"{study.check.confirm} true runs at the posterior mean{lost}")
    return ", ".join(said)


def _weighted(bench: Workbench, emulator: Emulator, data: Tensor) -> Weighted:
    """ln w = ln L_true - ln L_surrogate at draws spread evenly over the chains; the prior cancels.

    A draw whose true run failed is left out. But where the study multiplies the prior by P(a run finishes), a failure
    speaks against the parameters: there the true prior has 1 where the run finished and 0 where not. Nothing is run where
    the likelihood adds no noise to a run: a run is then a draw of the data, and has no density of its own; nor where runs
    are there already and no other can be made.
    """
    study = bench.study
    draws = files.read_tensors(bench.folder / "infer" / "draws.safetensors")["theta"]
    flat = draws.transpose(0, 1).reshape(-1, study.space.d)  # draw by draw, so that a stride visits every chain
    if not study.weighs:
        return Weighted(flat[:0], flat[:0, 0], flat)
    theta = flat[torch.linspace(0, len(flat) - 1, study.check.importance_runs).round().long()]
    log_weight, expected = (
        _log_weight(bench, emulator, data, theta, "true runs at draws of the posterior"),
        _expected(bench, theta),
    )
    if hindsight.restriction(bench):
        return Weighted(theta, log_weight, flat, expected=expected)
    ok = log_weight > -torch.inf
    return Weighted(theta[ok], log_weight[ok], flat, theta[~ok], expected)


def _log_weight(bench: Workbench, emulator: Emulator, data: Tensor, theta: Tensor, what: str) -> Tensor:
    """ln L_true - ln L_surrogate `[n]` by true runs at theta `[n, d]`, less the restriction of the surrogate's prior where it
    has one; -inf where a run failed."""
    bench.campaign(theta.numpy(), what)
    runs = bench.runs(theta.numpy())
    ok, likelihood = torch.from_numpy(runs.ok), bench.study.likelihood
    log_weight = torch.full((len(theta),), -torch.inf, dtype=torch.float64)
    with torch.no_grad():
        true = likelihood.log_prob(Exact(torch.from_numpy(runs.y[runs.ok])), data)
        log_weight[ok] = true - likelihood.log_prob(surrogate(bench, emulator)(theta[ok]), data)
    if restriction := hindsight.restriction(bench):
        log_weight[ok] -= restriction(theta[ok]).detach()
    return log_weight


def _expected(bench: Workbench, theta: Tensor) -> Tensor | None:
    """P(a run finishes) `[n]` by the classifier of the campaign; None where none of its runs failed."""
    folder = bench.folder / hindsight.FEASIBILITY
    return Feasibility.load(folder).probability(theta).detach() if folder.exists() else None


def _recovery(bench: Workbench, emulator: Emulator) -> Recovery | None:
    """Posteriors of noisy held-out runs, sampled in one batch; None where no check reads them."""
    study = bench.study
    if not any("recovery" in c.needs for c in study.checks.values()):
        return None
    made = bench.runs_of("held_out")
    last = int((np.cumsum(made.ok) < study.check.recovery).sum()) + 1  # as many as it takes, the failed ones counted
    tried = made.select(slice(last))
    held_out, failed = tried.finished(), torch.from_numpy(tried.theta[~tried.ok])
    truth, y, q = torch.from_numpy(held_out.theta), torch.from_numpy(held_out.y), len(held_out)
    likelihood = study.likelihood
    data = torch.stack([likelihood.sample(v, seed=bench.seed(f"recovery/{i}")) for i, v in enumerate(y)])
    posterior = Posterior(study.space, surrogate(bench, emulator), likelihood, data, hindsight.restriction(bench))
    with bench.terminal.bar(
        f"best fits of {q} held-out observations"
    ):  # a posterior may be a hundredth of its prior wide
        best = posterior.find_map(
            restarts=4, seed=bench.seed("recovery/map"), near=torch.from_numpy(bench.points("training"))
        )
    with bench.terminal.bar(f"recover {q} held-out observations", total=1) as tick:
        found = recover(posterior, truth, study.check.sampler, seed=bench.seed("recovery"), best=best, progress=tick)
    return replace(found, failed=failed, expected=_expected(bench, torch.cat([truth, failed])))


def _replicas(bench: Workbench, emulator: Emulator, data: Tensor, draws: Tensor) -> Replicas | None:
    """The observation and data made again under draws of its posterior; None where no check reads them."""
    study = bench.study
    if not any("replicas" in c.needs for c in study.checks.values()):
        return None
    noisy = study.infer.observation.noise is not False
    return replicas(surrogate(bench, emulator), study.likelihood, data, draws, study.simulator.outputs,
                    seed=bench.seed("replicas"), noisy=noisy)  # fmt: skip


def _softening(bench: Workbench, emulator: Emulator, observed: Observation, draws: Tensor) -> Softening | None:
    """About the mean of the draws; None where the simulator smooths nothing."""
    covariance = draws.mT.cov().reshape(draws.shape[1], -1)
    return softening(bench, emulator, observed.data, draws.mean(0), covariance, observed.truth is not None)


def _confirmation(bench: Workbench, emulator: Emulator, data: Tensor, draws: Tensor) -> Confirmation:
    """True runs at the mean of the draws, each with a seed of its own."""
    theta = draws.mean(0)
    points = {CONFIRMING: theta[None].numpy()}
    bench.campaign(points, "true runs at the posterior mean")
    runs = bench.runs(points)
    prediction = surrogate(bench, emulator)(theta)
    spread = bench.study.likelihood.covariance(data, prediction).detach()
    covariance = draws.mT.cov().reshape(len(theta), len(theta))
    return Confirmation(theta, covariance, torch.from_numpy(runs.y[runs.ok]), spread, int((~runs.ok).sum()))


def _figures(
    bench: Workbench,
    weighted: Weighted,
    recovery: Recovery | None,
    truth: Tensor | None,
    corrected: Corrected,
    again: Replicas | None,
) -> None:
    from pipelines import figures

    space = bench.study.space
    pair = (weighted.theta, weighted.log_weight) if len(weighted.theta) else None
    mended = corrected.draws is not None
    whose = "as the true runs correct it" if mended else "the true simulator's by importance weights, not to be trusted"
    dashed = f" and, dashed, {whose}" if pair else ""
    confirmed = {}
    if corrected.confirmed is not None:
        confirmed["confirmation"] = (
            figures.confirmation(space, corrected.confirmed, truth=truth),
            "What true runs at the posterior mean say of it, each and all, and how far they lie from the prediction.",
        )
    if again is not None:
        confirmed["replicas"] = (
            figures.replicas(again, bench.study.simulator.outputs),
            "The observation against data made again under the posterior: chi2 of all outputs and each field, and pulls.",
        )
    recovered = {}
    if recovery is not None:
        recovered = {
            "recovery": (
                figures.recovery(recovery, space),
                "Held-out observations: posterior mean against truth, and ranks.",
            ),
            "ranks": (
                figures.ranks(recovery, space),
                "Truths of held-out observations among the draws of their posteriors, and what regions of all levels hold.",
            ),
        }
    corner = figures.corner(space, weighted.draws, corrected.draws or pair, truth, corrected.runs)
    bench.figures("check", {"corner": (corner, f"The surrogate's posterior{dashed}."), **recovered, **confirmed})
