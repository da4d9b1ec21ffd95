"""infer: an observation and the champion -> draws from the posterior, MAP and Fisher matrix."""

from collections.abc import Callable

import torch
from scipy.special import chdtrc
from torch import Tensor
from torch.distributions import Distribution

from emulate.diagnostics import diagnose
from emulate.distributions import Exact
from emulate.emulator import Emulator
from emulate.errors import CampaignError
from emulate.posterior import MAP, Posterior
from pipelines import amortised_choice, answers, files, hindsight, histories, observations, pictures, sampling
from pipelines.observations import Observation
from pipelines.softened import softening
from pipelines.workbench import Workbench

_THIN, _LOOKED_AT = 0.01, 2000  # share of the draws that goes without a word; draws that are looked at

SENTENCE = "infer the parameters of the observation by gradients of the emulator"
READS = ("design", "simulate", "train", "validate")
WRITES = (
    "infer/draws.safetensors",
    "infer/summary.json",
    "infer/observation.json",
    answers.PREDICTION,
    answers.POSTERIOR,
)


def forecast(bench: Workbench) -> str:
    """What the stage does, with the runs that its rounds may take."""
    infer = bench.study.infer
    runs = (infer.rounds - 1) * (infer.round_runs or bench.study.design.runs)
    return f"{SENTENCE}; up to {runs} runs aimed at it, in rounds" if runs else SENTENCE


def run(bench: Workbench) -> str:
    study = bench.study
    observed = observations.named(bench)
    observations.write(bench, observed)
    if (method := amortised_choice.choose(bench, observed.data)) == "npe":
        from pipelines import amortised

        return amortised.infer(bench, observed)
    if method == "nle":
        from pipelines import amortised_rounds

        amortised_rounds.likelihood(bench, observed.data)
    emulator = amortised_choice.emulator(bench)
    posterior = Posterior(
        study.space, surrogate(bench, emulator), study.likelihood, observed.data, hindsight.restriction(bench)
    )
    best, fisher = sampling.best_fit(bench, posterior)
    draws = sampling.draw(bench, posterior, best)
    theta = posterior.theta(draws.x).detach()
    thin = _thin(bench, emulator, theta)
    files.write_tensors(
        bench.folder / "infer" / "draws.safetensors",
        {
            "theta": theta,
            "x": draws.x,
            "log_density": draws.log_density,
            "map": best.theta,
            "divergent": draws.divergent.to(torch.uint8),
            **({} if fisher is None else {"fisher": fisher}),
        },
    )
    summary = _summary(bench, observed, theta, draws, best) | ({} if thin is None else {"thin": thin})
    summary |= _settings(bench, posterior, best.theta)
    if fisher is not None:
        _widened(bench, posterior, best.theta, summary["parameters"])
    if told := answers.summary(bench, theta, best.theta, observed.truth):
        summary["derived"] = told
    files.write_json(bench.folder / "infer" / "summary.json", summary)
    answers.write_posterior(bench, posterior, theta, draws, observed.sentence)
    profiled = answers.profiled(bench, posterior, theta, observed.truth)
    _figures(bench, observed, emulator, theta, best.theta, answers.predicted(bench, posterior, theta), profiled)
    _journal(bench, summary, theta)
    rows = [
        (
            n,
            *(f"{p[k]:.4g}" if p[k] is not None else "" for k in ("mean", "sd", "low", "high", "map", "truth")),
            f"{p['rhat']:.3f}",
            f"{p['ess']:.0f}",
        )
        for n, p in (summary["parameters"] | summary.get("derived", {})).items()
    ]
    _warn(bench, summary)
    _warn_of_misfit(bench, observed, emulator, best.theta)
    if fisher is not None:
        _warn_of_smoothing(bench, observed, emulator, best)
    bench.terminal.table("", ("parameter", "mean", "sd", "2.5 %", "97.5 %", "MAP", "truth", "R-hat", "ESS"), rows)
    said = (
        f"{draws.x.shape[0]} chains of {draws.x.shape[1]} draws",
        sampling.evidence(summary["sampler"]),
        observed.sentence,
    )
    return "; ".join(part for part in said if part)


def surrogate(bench: Workbench, emulator: Emulator) -> Callable[[Tensor], Distribution]:
    """What stands in for the simulator in the likelihood, as `infer.outside` says."""
    if bench.study.infer.outside == "inflate":
        return lambda t: emulator.predict(t, outside="inflate")
    return lambda t: emulator.predict(t, strict=True)  # the prior keeps inside the box, so this never speaks


def _thin(bench: Workbench, emulator: Emulator, theta: Tensor) -> float | None:
    """The share of the draws where the design is thin; said, or refused, as `infer.outside` has it."""
    outside, flat = bench.study.infer.outside, theta.reshape(-1, theta.shape[-1])
    if outside == "ignore":
        return None
    some = flat[torch.linspace(0, len(flat) - 1, min(len(flat), _LOOKED_AT)).round().long()]
    share, place = float(emulator.guard.thin(some).double().mean()), emulator.guard.place(some)
    if share <= _THIN:
        return share
    said = (f"{share:.0%} of the draws lie where the design is thin: they are up to {place.remoteness:.2g} times as far from "
            f"their nearest runs as runs are from each other, {place.words}")  # fmt: skip
    if outside == "refuse":
        raise CampaignError(f"{said}, and infer.outside is refuse. Run the simulator there, narrow the prior, or set "
                            "infer.outside to inflate or warn.")  # fmt: skip
    end = (
        "the variance was widened there"
        if outside == "inflate"
        else "what the emulator says there was learned elsewhere"
    )
    bench.terminal.warn(f"{said}; {end}. Run the simulator there.")
    return share


def _summary(bench: Workbench, o: Observation, theta: Tensor, draws, best) -> dict:
    rhat, ess = diagnose(theta)
    flat = theta.reshape(-1, theta.shape[-1])
    low, high = flat.quantile(0.025, dim=0), flat.quantile(0.975, dim=0)
    parameters = {
        n: {
            "mean": float(flat[:, i].mean()),
            "sd": float(flat[:, i].std()),
            "low": float(low[i]),
            "high": float(high[i]),
            "map": float(best.theta[i]),
            "truth": None if o.truth is None else float(o.truth[i]),
            "rhat": float(rhat[i]),
            "ess": float(ess[i]),
        }
        for i, n in enumerate(bench.study.space.names)
    }
    sampler = {
        "chains": draws.x.shape[0],
        "draws": draws.x.shape[1],
        "divergent": int(draws.divergent.sum()),
        **draws.diagnostics,
    }
    return {"observation": o.sentence, "parameters": parameters, "sampler": sampler, "map_converged": best.converged}


def _settings(bench: Workbench, posterior: Posterior, best: Tensor) -> dict:
    """What the data say of settings of the likelihood that have priors of their own, at the best fit."""
    likelihood = posterior.likelihood
    if not hasattr(likelihood, "settled"):
        return {}
    told = likelihood.settled(posterior.predict(best), posterior.data)
    bench.note("by the best fit " + ", ".join(f"{n} is {mean:.3g} +- {sd:.2g}" for n, (mean, sd) in told.items()))
    return {"settings": {n: {"mean": mean, "sd": sd} for n, (mean, sd) in told.items()}}


def _widened(bench: Workbench, posterior: Posterior, best: Tensor, parameters: dict) -> None:
    """By what factor the emulator's own covariance widens each parameter; written and said."""
    factor = posterior.widened(best)
    if factor is None or not factor.isfinite().all():
        return  # a direction that nothing tells has no width
    for n, x in zip(bench.study.space.names, factor.tolist(), strict=True):
        parameters[n]["widened"] = x
    worst, most = bench.study.space.names[int(factor.argmax())], float(factor.max()) - 1
    how = f"most in {worst}, by {most:.1%}" if most >= 0.001 else "by less than 0.1 % in every parameter"
    bench.note(f"the emulator's own error widens the answer {how}")


def _warn(bench: Workbench, summary: dict) -> None:
    """Say it when the chains have not mixed: what they give is then not the posterior."""
    worst = max(summary["parameters"], key=lambda n: summary["parameters"][n]["rhat"])
    rhat, sampler = summary["parameters"][worst]["rhat"], summary["sampler"]
    if not rhat <= 1.01:
        bench.terminal.warn(
            f"the chains have not mixed: R-hat of {worst} is {rhat:.3f} and should be at most 1.01. "
            "Raise infer.draws or the sampler's warmup."
        )
    if sampler["divergent"] > 0.01 * sampler["chains"] * sampler["draws"]:
        bench.terminal.warn(
            f"{sampler['divergent']} of {sampler['chains'] * sampler['draws']} draws diverged, more than 1 %: the "
            "posterior has corners that the sampler misses. Raise target_accept."
        )


def _warn_of_misfit(bench: Workbench, o: Observation, emulator, best: Tensor) -> None:
    """Say it when even the best fit misses the observation: chi2 = r^T C^-1 r is then far above its m numbers."""
    mean, covariance = emulator.predict(best.detach()).gaussian()
    covariance = (covariance + bench.study.likelihood.covariance(o.data, Exact(mean))).detach()
    r = o.data - mean.detach()
    squared = float(r @ torch.linalg.lstsq(covariance, r[:, None]).solution[:, 0])
    if not chdtrc(len(r), squared) >= 1e-6:
        bench.terminal.warn(
            f"no point of the box explains the observation: chi2 of the best fit is {squared:.4g}, and {len(r)} would "
            "be usual. Check the observation's unit and order, its errors, and the box."
        )


def _warn_of_smoothing(bench: Workbench, o: Observation, emulator: Emulator, best: MAP) -> None:
    """Say by how much the answer would move if an observation were not smoothed as the simulator's histograms are."""
    found = softening(bench, emulator, o.data, best.theta, best.covariance, o.truth is not None)
    if found is None:
        return
    names = bench.study.space.names
    told = ", ".join(f"{n} by {float(s):+.1f}" for n, s in zip(names, found.moved, strict=True))
    said = f"the histograms are smoothed. Hard counts read as smoothed ones would move {told} standard deviations"
    if not found.alike:
        bench.terminal.warn(f"{said}: the observation must be smoothed alike, or simulator.bandwidth be 0.")
    else:
        bench.note(f"{said}; the observation is smoothed alike.")


def _figures(bench: Workbench, o: Observation, emulator, theta: Tensor, best: Tensor, some: Tensor, more: dict) -> None:
    from pipelines import figures

    likelihood = bench.study.likelihood
    own = None if likelihood.adds_noise else emulator.predict(best.detach())  # whose covariance is then all the error
    flat = theta.reshape(-1, theta.shape[-1])
    sigma = likelihood.covariance(o.data, own).detach().diagonal(dim1=-2, dim2=-1).sqrt()
    outputs = bench.study.simulator.outputs
    answers.write_prediction(bench, o.data, sigma, some)
    bench.figures(
        "infer",
        {
            "corner": (
                answers.corner(bench.study, flat, o.truth),
                "The posterior through the emulator; the truth should lie inside.",
            ),
            "prediction": (
                figures.posterior_prediction(outputs, o.data, sigma, some, truth=_noise_free(bench, o)),
                "The observation with its errors, and the posterior's prediction.",
            ),
            **more,
            **pictures.picture(bench, {"truth": o.truth, "best fit": best}),
        },
    )


def _noise_free(bench: Workbench, o: Observation) -> Tensor | None:
    """The simulator's own output `[m]` behind the observation, where a run made it and noise was added to it."""
    same = o.truth is None or not bench.study.infer.likelihood.adds_noise
    return None if same else torch.from_numpy(bench.runs(o.truth[None].numpy()).y[0])


def _journal(bench: Workbench, summary: dict, theta: Tensor) -> None:
    infer = bench.study.infer
    bench.journal.append(
        "params",
        "infer",
        params={
            "likelihood": infer.likelihood.entry_name(),
            "sampler": infer.sampler.entry_name(),
            "chains": infer.chains,
            "draws": infer.draws,
            "observation": summary["observation"],
        },
    )
    told = ("mean", "sd", "map", "widened")
    metrics = {f"{n}/{k}": p[k] for n, p in summary["parameters"].items() for k in told if k in p}
    derived = (*told, "rhat", "ess")
    metrics |= {f"{n}/{k}": p[k] for n, p in summary.get("derived", {}).items() for k in derived if k in p}
    metrics |= sampling.metrics(summary["sampler"]) | ({"thin": summary["thin"]} if "thin" in summary else {})
    bench.journal.append("metrics", "infer", metrics=metrics)
    histories.mixing(bench.journal, "infer", bench.study.space.names, theta)
    bench.journal.append("metrics", "", metrics=answers.headline(summary["parameters"]))
